"""From the numbers of a quality report to its verdict, in words.

A finding counts if chance does not explain it and if it is large enough to matter. Chance: all tests together call a
right prior wrong in at most one of a thousand reports (Bonferroni over the tests and, within each, over parameters and
pairs). Size: no trained flow is exact, and many thousands of rows resolve differences that no analysis would notice.
A prior fails if a difference is large even after three standard errors are taken off.
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
_FEW = 200  # effective held-out rows below which a report at least warns
_FEWEST_TO_FAIL = 30  # independent ones below which differences can only warn: their errors are hardly known

# What calls for a warning, and what fails. A shift by 0.1 (0.4) standard deviations of a normal marginal has a
# divergence of 0.005 (0.08) nats, a Kolmogorov-Smirnov distance of 0.04 (0.16) and an area of 0.53 (0.61).
_AVERAGE = (0.05, 0.5)  # nats of average marginal divergence above the noise floor
_PARAMETER, _PAIR = (0.01, 0.1), (0.02, 0.2)  # nats of the worst parameter's and pair's own
_SHIFT = (0.1, 0.4)  # standard deviations between the means, of normal scores
_DRAWS_PER_ROW = 4  # of the prior, at least, that the rows are ranked among
_GAIN = (0.02, 0.1)  # nats worse than a Gaussian
_RANKS = (0.04, 0.16)  # Kolmogorov-Smirnov distance
_AREA = (0.03, 0.11)  # area under the ROC curve above its null
_TAIL = (2.0, 5.0)  # factor by which a tail holds too many rows (or too few, for a warning)
_MISPLACED = 0.02  # ... and the share of all rows that it holds too many, to fail
_LOSS = 0.1  # nats between the log density that the chain has and the prior's
_BEYOND = (0.02, 0.1)  # share of the prior's draws beyond the chain above the share expected
_BOUND = "declare the bound"
_LINE = "learn coordinates in which this edge is a bound (of x < y: x and y - x, or y and x / y), and declare it"


@dataclass(frozen=True)
class _Finding:
    """A difference: how large, how well known, how likely by chance, and what to say of it."""

    size: float
    error: float
    p_value: float
    text: str


def verdict_of(report: QualityReport) -> tuple[str, tuple[str, ...]]:
    """Returns the verdict, "pass", "warn" or "fail", and its reasons, the gravest first."""
    failures: list[str] = []
    warnings: list[str] = []
    if report.undefined:
        failures.append(f"the density is zero or undefined at {report.undefined} held-out rows")
    failures += [f"its draws of {name!r} take {values} values alone" for name, values in report.repeated.items()]
    _average(report, failures, warnings)
    _means(report, failures, warnings)
    for findings, limits in _families(report):
        level, text = _worst(findings, limits)
        if level:
            (failures if level == "fail" else warnings).append(text)
    if report.loss - 3.0 * report.loss_error > _LOSS:
        warnings.append(
            f"its log density is {report.loss:.2f} +- {report.loss_error:.2f} nats (KL) off the chain's own, log_prob: "
            "that of the chain is of other parameters, or the prior misses it"
        )
    if report.edges:
        worst, others = report.edges[0], len(report.edges) - 1
        more = f" (and {others} more)" if others else ""
        advice = _BOUND if len(worst.names) == 1 else _LINE
        warnings.append(f"{worst.beyond:.1%} of its draws have {worst}, where rows end as at a wall{more}: {advice}")
    if report.effective_size < _FEW:
        warnings.append(f"only {report.effective_size:.0f} effective held-out rows: a coarse check")
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
    """Tells of parameters whose rows are off, in normal scores of their ranks, which heavy tails do not move."""
    shifts = {name: abs(_mean_score(ranks)) for name, ranks in report.ranks.items()}
    chance = norm.isf(FALSE_ALARMS / _TESTS / 2.0 / len(shifts)) * np.sqrt(1.0 + 1.0 / _DRAWS_PER_ROW)
    noise = chance / np.sqrt(report.independent_rows)
    for limit, found in ((_SHIFT[1], failures), (_SHIFT[0], warnings)):
        names = [name for name, shift in shifts.items() if shift - noise > limit]
        if names:
            found.append(f"means differ by up to {max(shifts.values()):.2f} sigma ({shorten(names)})")
            return


def _mean_score(ranks: Uniformity) -> float:
    """Returns the mean normal score of the rows' ranks among the draws, from their histogram."""
    edges = norm.pdf(norm.ppf(np.linspace(0.0, 1.0, len(ranks.counts) + 1)))
    scores = len(ranks.counts) * (edges[:-1] - edges[1:])  # mean of a normal variable between neighbouring quantiles
    return float(np.average(scores, weights=ranks.counts))


def _families(report: QualityReport) -> Iterable[tuple[list[_Finding], tuple[float, float]]]:
    """Yields each test's findings, one for each parameter or pair, with the sizes that matter."""
    if not report.undefined:
        yield [_gain(report)], _GAIN
    yield from zip(_divergences(report), (_PARAMETER, _PAIR), strict=True)
    size = report.independent_rows
    yield [_ranks(f"the cumulative distribution of {n!r}", u, size) for n, u in report.ranks.items()], _RANKS
    ranks = report.density_ranks
    yield [_ranks(f"it is too {_width(ranks)}: the coverage of its highest-density regions", ranks, size)], _RANKS
    for density in (True, False):
        yield [_tail(tail) for tail in report.tails if (tail.subject == "density") is density], _TAIL
    test = report.classifier
    text = f"a classifier tells its draws from held-out rows: area under the curve {test.auc:.3f}, by chance "
    text += f"{test.null_mean:.3f} +- {test.null_std:.3f}"
    yield [_Finding(test.auc - test.null_mean, test.null_std, test.p_value, text)], _AREA
    beyond = report.extrapolation
    text = f"{beyond.share:.1%} of its draws are beyond the chain, where {beyond.expected:.1%} are expected"
    yield [_Finding(beyond.share - beyond.expected, beyond.error, beyond.p_value, text)], _BEYOND


def _worst(findings: list[_Finding], limits: tuple[float, float]) -> tuple[str, str]:
    """Returns the level and text of the largest finding that counts, and how many more do; or nothing."""
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
    return _Finding(-report.gain, report.gain_error, chance, f"worse than a Gaussian by {-report.gain:.3f} nats")


def _divergences(report: QualityReport) -> tuple[list[_Finding], list[_Finding]]:
    """Returns the findings of parameters and of pairs."""
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
    """Returns the finding of ranks that are not uniform."""
    text = f"{text} is off by up to {found.distance:.1%} (p = {found.p_value:.1g})"
    return _Finding(found.distance, 0.5 / np.sqrt(size), found.p_value, text)


def _width(found: Uniformity) -> str:
    rank = np.average(np.arange(len(found.counts)) + 0.5, weights=found.counts) / len(found.counts)
    if rank > 0.5:
        return "wide (held-out rows are where its density is high)"
    return "narrow (held-out rows are where its density is low)"


def _tail(tail: Tail) -> _Finding:
    """Returns the finding of a tail, whose size is the factor by which it is too thin or too heavy.

    Only a tail that holds a good part of the rows beyond its due can fail a prior: a heavy one, or one of few rows, is
    a matter for a warning.
    """
    place = "of lowest density" if tail.subject == "density" else f"at the {tail.side} end of {tail.subject!r}"
    thin = tail.found > tail.expected
    text = (
        f"{100 * tail.found:.2g} % of the held-out rows are in its {100 * tail.expected:.1g} % of mass {place}: "
        f"a tail too {'thin' if thin else 'heavy'}"
    )
    few, many = sorted((tail.found, tail.expected))
    size = many / few if few > 0 else np.inf
    if not thin or tail.found - tail.expected < _MISPLACED:
        size = min(size, _TAIL[1])
    return _Finding(size, tail.error / tail.expected, tail.p_value, text)
