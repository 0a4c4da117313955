"""The verdict on a prior, with its reasons in words, from the numbers of a quality report.

A finding counts if chance does not explain it and if it is large enough to matter. Chance: all tests together give a
warning for a correct prior in at most one of a thousand reports (Bonferroni correction over the tests and, within each
test, over parameters and pairs). Size: no trained flow is exact, and many thousands of rows resolve differences that
are irrelevant in any analysis. A prior fails if a difference is still large after three standard errors are subtracted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from .._util.checks import FloatArray, shorten
from .coverage import Tail, Uniformity
from .report import FALSE_ALARMS, QualityReport

_TESTS = (
    10  # gain, means, parameters, pairs, marginal ranks, density ranks, two kinds of tails, classifier, extrapolation
)
_FEW = 200  # with fewer effective held-out rows a report always warns
_FEWEST_TO_FAIL = 30  # with fewer independent rows differences only warn, because their errors are not well known

# Limits for a warning and for a failure. A shift of a normal marginal by 0.1 (0.4) standard deviations gives a
# divergence of 0.005 (0.08) nats, a Kolmogorov-Smirnov distance of 0.04 (0.16) and an area under the ROC curve of
# 0.53 (0.61).
_AVERAGE = (0.05, 0.5)  # average marginal divergence above the noise floor, nats
_PARAMETER, _PAIR = (0.01, 0.1), (0.02, 0.2)  # divergence of the worst parameter and pair above the noise floor, nats
_SHIFT = (0.1, 0.4)  # difference of the mean normal scores, in standard deviations
_DRAWS_PER_ROW = 4  # smallest number of prior draws per row, among which the rows are ranked
_GAIN = (0.02, 0.1)  # log density below that of a Gaussian, nats
_RANKS = (0.04, 0.16)  # Kolmogorov-Smirnov distance
_AREA = (0.03, 0.11)  # area under the ROC curve above its value under the null hypothesis
_TAIL = (2.0, 5.0)  # factor of too many rows in a tail (or too few, for a warning)
_MISPLACED = 0.02  # ... and for a failure, the excess in the tail as a share of all rows
_LOSS = 0.1  # KL from the log density of the chain to the prior, nats
_BEYOND = (0.02, 0.1)  # share of the prior draws beyond the chain, minus the expected share
_BOUND = "declare the bound"
_LINE = "train on coordinates in which this edge is a bound (for x < y: x and y - x, or y and x / y) and declare it"


@dataclass(frozen=True)
class _Finding:
    """A difference: its size and error, its probability by chance, and a text that describes it."""

    size: float
    error: float
    p_value: float
    text: str


def verdict_of(report: QualityReport) -> tuple[str, tuple[str, ...]]:
    """Returns the verdict, "pass", "warn" or "fail", and its reasons, failures first."""
    failures: list[str] = []
    warnings: list[str] = []
    if report.undefined:
        failures.append(f"the density is zero or undefined at {report.undefined} held-out rows")
    failures += [
        f"the prior draws of {name!r} take only {values} distinct values" for name, values in report.repeated.items()
    ]
    _average(report, failures, warnings)
    _means(report, failures, warnings)
    for findings, limits in _families(report):
        level, text = _worst(findings, limits)
        if level:
            (failures if level == "fail" else warnings).append(text)
    if report.loss - 3.0 * report.loss_error > _LOSS:
        warnings.append(
            f"KL from the chain's log_prob to the prior is {report.loss:.2f} +- {report.loss_error:.2f} nats: log_prob "
            "depends on parameters that are not in the chain, or the prior does not reproduce it"
        )
    if report.edges:
        worst, others = report.edges[0], len(report.edges) - 1
        more = f" (and {others} more)" if others else ""
        advice = _BOUND if len(worst.names) == 1 else _LINE
        warnings.append(
            f"{worst.beyond:.1%} of the prior draws have {worst}, beyond a sharp edge of the rows{more}: {advice}"
        )
    if report.effective_size < _FEW:
        warnings.append(f"only {report.effective_size:.0f} effective held-out rows: this check is coarse")
    few = report.independent_rows < _FEWEST_TO_FAIL
    fails = bool(report.undefined or report.repeated) if few else bool(failures)
    return "fail" if fails else "warn" if failures or warnings else "pass", (*failures, *warnings)


def _average(report: QualityReport, failures: list[str], warnings: list[str]) -> None:
    comparison = report.comparison
    noise = 3.0 * comparison.excess_error
    for limit, found, digits in ((_AVERAGE[1], failures, 2), (_AVERAGE[0], warnings, 3)):
        if comparison.excess > limit + noise:
            found.append(f"marginals differ by {comparison.excess:.{digits}f} nats above the noise floor, on average")
            return


def _means(report: QualityReport, failures: list[str], warnings: list[str]) -> None:
    """Adds the parameters with different means. Means are of normal scores of the ranks, robust to heavy tails."""
    shifts = {name: abs(_mean_score(ranks)) for name, ranks in report.ranks.items()}
    chance = norm.isf(FALSE_ALARMS / _TESTS / 2.0 / len(shifts)) * np.sqrt(1.0 + 1.0 / _DRAWS_PER_ROW)
    noise = chance / np.sqrt(report.independent_rows)
    for limit, found in ((_SHIFT[1], failures), (_SHIFT[0], warnings)):
        names = [name for name, shift in shifts.items() if shift - noise > limit]
        if names:
            found.append(f"means differ by up to {max(shifts.values()):.2f} sigma ({shorten(names)})")
            return


def _mean_score(ranks: Uniformity) -> float:
    """Returns the mean normal score of the ranks of the rows among the draws, from the histogram of ranks."""
    edges = norm.pdf(norm.ppf(np.linspace(0.0, 1.0, len(ranks.counts) + 1)))
    scores = len(ranks.counts) * (edges[:-1] - edges[1:])  # mean of a normal variable between adjacent quantiles
    return float(np.average(scores, weights=ranks.counts))


def _families(report: QualityReport) -> Iterable[tuple[list[_Finding], tuple[float, float]]]:
    """Yields the findings of each test, one for each parameter or pair, with the limits of the test."""
    if not report.undefined:
        yield [_gain(report)], _GAIN
    yield from zip(_divergences(report), (_PARAMETER, _PAIR), strict=True)
    size = report.independent_rows
    yield [_ranks(f"the cumulative distribution of {n!r}", u, size) for n, u in report.ranks.items()], _RANKS
    ranks = report.density_ranks
    yield (
        [_ranks(f"the prior is too {_width(ranks)}: the coverage of its highest-density regions", ranks, size)],
        _RANKS,
    )
    for density in (True, False):
        yield [_tail(tail) for tail in report.tails if (tail.subject == "density") is density], _TAIL
    test = report.classifier
    text = f"a classifier distinguishes prior draws from held-out rows: area under the curve {test.auc:.3f}, by chance "
    text += f"{test.null_mean:.3f} +- {test.null_std:.3f}"
    yield [_Finding(test.auc - test.null_mean, test.null_std, test.p_value, text)], _AREA
    beyond = report.extrapolation
    text = f"{beyond.share:.1%} of the prior draws are beyond the chain; {beyond.expected:.1%} are expected"
    yield [_Finding(beyond.share - beyond.expected, beyond.error, beyond.p_value, text)], _BEYOND


def _worst(findings: list[_Finding], limits: tuple[float, float]) -> tuple[str, str]:
    """Returns the level and text of the largest finding that counts, with the number of others; empty if none do."""
    chance = FALSE_ALARMS / _TESTS / max(len(findings), 1)
    counted = [finding for finding in findings if finding.p_value < chance and finding.size > limits[0]]
    if not counted:
        return "", ""
    worst = max(counted, key=lambda finding: finding.size)
    more = f" (and {len(counted) - 1} more)" if len(counted) > 1 else ""
    level = "fail" if any(f.size - 3.0 * f.error > limits[1] for f in counted) else "warn"
    return level, worst.text + more


def _gain(report: QualityReport) -> _Finding:
    chance = float(norm.cdf(report.gain / report.gain_error)) if report.gain_error > 0 else 1.0
    return _Finding(
        -report.gain, report.gain_error, chance, f"the prior is worse than a Gaussian by {-report.gain:.3f} nats"
    )


def _divergences(report: QualityReport) -> tuple[list[_Finding], list[_Finding]]:
    """Returns the findings on the marginals of parameters and of pairs."""
    found, chances = report.comparison, report.comparison.chances()
    marginals = [f"the marginal of {name!r} differs" for name in found.kl.names]
    pairs = ["{!r} and {!r} together differ".format(*pair) for pair in found.kl.pairs]
    return (
        _excesses(marginals, found.kl.one_d - found.floor_mean.one_d, found.floor_std.one_d, chances.one_d),
        _excesses(pairs, found.kl.two_d - found.floor_mean.two_d, found.floor_std.two_d, chances.two_d),
    )


def _excesses(subjects: list[str], *columns: FloatArray) -> list[_Finding]:
    return [
        _Finding(excess, error, chance, f"{subject} by {excess:.3f} +- {error:.3f} nats above the noise floor")
        for subject, excess, error, chance in zip(subjects, *(column.tolist() for column in columns), strict=True)
    ]


def _ranks(text: str, found: Uniformity, size: int) -> _Finding:
    """Returns the finding on the uniformity of ranks."""
    text = f"{text} is off by up to {found.distance:.1%} (p = {found.p_value:.1g})"
    return _Finding(found.distance, 0.5 / np.sqrt(size), found.p_value, text)


def _width(found: Uniformity) -> str:
    rank = np.average(np.arange(len(found.counts)) + 0.5, weights=found.counts) / len(found.counts)
    if rank > 0.5:
        return "wide (held-out rows are where its density is high)"
    return "narrow (held-out rows are where its density is low)"


def _tail(tail: Tail) -> _Finding:
    """Returns the finding on a tail; its size is the factor by which the tail is too thin or too heavy.

    Only a thin tail with an excess of at least 2 % of all rows can fail a prior. A heavy tail, or one with a smaller
    excess, only gives a warning.
    """
    place = "of lowest density" if tail.subject == "density" else f"at the {tail.side} end of {tail.subject!r}"
    thin = tail.found > tail.expected
    text = (
        f"{100 * tail.found:.2g} % of the held-out rows are in the {100 * tail.expected:.1g} % of prior mass {place}: "
        f"this tail is too {'thin' if thin else 'heavy'}"
    )
    few, many = sorted((tail.found, tail.expected))
    size = many / few if few > 0 else np.inf
    if not thin or tail.found - tail.expected < _MISPLACED:
        size = min(size, _TAIL[1])
    return _Finding(size, tail.error / tail.expected, tail.p_value, text)
