"""Findings: the statistics of the guards as a verdict, a text with numbers, and advice.

A statistic that is not available, or that is judged in another line, has the verdict "info" and a reason. The log
evidence is printed in one line only, from the sampler and from prior draws. Other lines print differences from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..chains.chain import Chain
from ..diagnostics.coverage import Extrapolation
from ..sampling.broad_start import WeightedPrior
from .exact import PriorError
from .ignored import IgnoredCorrelation
from .overlooked import Overlooked
from .predictive import DRAWS, REPLICAS, PredictiveCheck
from .resting import Resting
from .tension import Tension

FEW_ROWS = (25.0, 100.0)  # rows of the previous chain that the posterior rests on; fewer: fail, warn
_BEYOND = (0.20, 0.05)  # share of the posterior beyond the previous chain, in excess of chance; more: fail, warn
LOSS = (0.10, 0.03)  # KL in nats from the exact posterior to the one under the learned prior; more: fail, warn
_FEW_DRAWS = 50.0  # effective size of the weighted prior draws, below which they are not conclusive
_MISSED = 0.1  # nats of log evidence that the sampler may miss
CHANCE = 1e-3  # false-alarm rate of a test with a p-value
_START = 'Start from a broad prior (StageOptions(start="broad")), or use more particles.'
_REMEDIES = (
    "In StageOptions, train on the tails (tail_aware=True), allow more passes (max_passes), reweight (psis=True) or "
    "mix in a broad prior (robust=0.1); in fit_flow, pass density or support_points. Otherwise reverse the order of "
    "the stages, or fit jointly."
)
_BY_EXACT = "judged in the first line, with the exact density"


@dataclass(frozen=True)
class Finding:
    """The finding of one guard.

    Attributes:
        subject: what was checked.
        verdict: "pass", "warn" or "fail"; "info" if the result is reported but not judged.
        text: the result in words, with its numbers.
        advice: what to do; empty if there is nothing to do.
    """

    subject: str
    verdict: str
    text: str
    advice: str = ""


def of_error(error: PriorError | None, broad: float, *, corrected: bool) -> Finding:
    """Returns the finding on the KL from the posterior under the exact prior to the one under the learned prior.

    Args:
        error: the statistic; None if the exact prior is not known as a function.
        broad: posterior probability of the broad part of a robust prior; 0 for other priors. If it is at most one half,
            up to -log(1 - broad) nats are due to the broad part and not to the learned density.
        corrected: whether the posterior was reweighted to the exact prior.
    """
    subject = "learned prior compared with the exact prior"
    if error is None:
        return Finding(subject, "info", "not known: a previous stage dropped parameters, or its density is unknown")
    if not error.reliable:
        text = f"the priors are too far apart, or the draws too few, to estimate the KL ({_pareto(error.pareto_k)})"
        return Finding(subject, "fail", text, _REMEDIES)
    text = (
        "the KL from the exact posterior to the one under the learned prior is "
        f"{_number(error.loss, error.loss_error, 4)} nats ({_pareto(error.pareto_k)})"
    )
    if error.log_evidence_change is not None and not corrected:  # reweighting has made the change
        change = _number(error.log_evidence_change, error.log_evidence_change_error, 4)
        text = f"{text}; the exact prior changes the log evidence by {change}"
    price = price_of(broad)
    if price > 0.0:
        text = f"{text}; up to {price:.4f} nats are due to the broad part of the prior"
    elif broad > 0.0:
        text = f"{text}; {100 * broad:.0f} % of the posterior comes from the broad part of the prior"
    if corrected:
        return Finding(subject, "pass", f"{text}; removed by reweighting")
    verdict = graded(error.loss - price - 3.0 * error.loss_error, LOSS)
    if verdict == "pass" and 3.0 * error.loss_error > LOSS[0]:
        return Finding(subject, "warn", f"{text}: the standard error is too large", "Run this stage longer.")
    return Finding(
        subject,
        verdict,
        text,
        "" if verdict == "pass" else f"StageOptions(psis=True) removes this error from the posterior. {_REMEDIES}",
    )


def price_of(broad: float) -> float:
    """Returns the nats that a posterior may lose to the broad part of a robust prior, which has this share of it."""
    return float(-np.log1p(-broad)) if broad <= 0.5 else 0.0


def of_rehearsals(errors: Sequence[PriorError]) -> tuple[Finding, ...]:
    """Returns the finding on a prior that was taught by rehearsals of the stage; none without rehearsals.

    Args:
        errors: the error of the prior in each rehearsal.
    """
    if not errors:
        return ()
    losses = ", ".join(f"{error.loss:.3f}" if error.reliable else "not known" for error in errors)
    text = (
        f"the stage was sampled {len(errors) + 1} times. The posterior of earlier times lost more to the learned prior "
        f"({losses} nats), so the prior was trained again with exact log densities where the stage needs it"
    )
    return (Finding("taught prior", "info", text),)


def of_rows(found: Resting | None, own: list[str], beyond: Extrapolation | None, *, known: bool) -> Finding:
    """Returns the finding on the number of training rows in the region of the posterior.

    Args:
        found: the statistic; None if the sampler returned no evidence.
        own: parameters that the stage adds.
        beyond: share of the posterior beyond the rows; if there is no excess, few rows mean a narrow likelihood.
        known: whether the exact density is known, so that the first line judges the effect of few rows.
    """
    subject = "rows of the previous stage that the posterior rests on"
    if found is None:
        return Finding(subject, "info", "not known: the sampler returned no evidence")
    text = "fewer than one" if found.rows < 1.0 else _number(found.rows, found.error, 0 if found.rows >= 10.0 else 1)
    if own:
        text = f"{text}, reduced by the parameters that this stage adds ({', '.join(own)})"
    if found.rows >= FEW_ROWS[1]:
        return Finding(subject, "pass", text)
    if found.rows < 1.0 and not own and beyond is not None and _excess(beyond) <= 0.0:
        text = f"{text}, although the draws lie among the rows: the likelihood is much narrower than their spacing"
    if known:
        return Finding(subject, "info", f"{text}. The effect of few rows is {_BY_EXACT}")
    if own:
        return Finding(subject, "info", f"{text}; this is a lower bound and is not judged")
    verdict = "fail" if found.rows < FEW_ROWS[0] else "warn"
    return Finding(subject, verdict, f"{text}; too few to train on", _REMEDIES)


def of_sampler(drawn: WeightedPrior | None, draws: int, chain: Chain) -> Finding:
    """Returns the finding on the evidence of the sampler, compared with that of weighted prior draws.

    Too few prior draws underestimate the evidence and rarely overestimate it. If they find more evidence than the
    sampler, it missed a region. If their effective size is small the comparison is not conclusive. A sampler that
    starts from the prior then has the same problem.

    Args:
        drawn: result of the weighted prior draws; None if external likelihoods are too slow for them.
        draws: number of prior draws.
        chain: the posterior, with the evidence under the learned prior.
    """
    subject = "sampler compared with weighted prior draws"
    if chain.log_evidence is None or not np.isfinite(chain.log_evidence):
        return Finding(subject, "info", "not known: the sampler returned no evidence")
    if drawn is None:
        return Finding(subject, "info", f"not compared: {draws:,} calls of the external likelihoods take too long")
    text = f"log evidence from the sampler {_number(chain.log_evidence, chain.log_evidence_error, 2)}"
    few = drawn.effective_size < _FEW_DRAWS
    broad = chain.info.get("start") == "broad"
    if drawn.effective_size == 0.0:
        text = f"{text}; the likelihood is zero at all {draws:,} prior draws"
    else:
        by_draws = _number(drawn.log_evidence, drawn.log_evidence_error, 2)
        text = f"{text}; from {draws:,} prior draws (effective size {drawn.effective_size:.0f}) {by_draws}"
        error = np.hypot(drawn.log_evidence_error, np.nan_to_num(chain.log_evidence_error or 0.0))
        if drawn.log_evidence - chain.log_evidence > max(4.0 * error, _MISSED):
            return Finding(subject, "fail", f"{text}: the sampler missed a region", _START)
    if few and broad:
        return Finding(subject, "info", f"{text}; too few draws to compare, but the sampler started from a broad prior")
    if few:
        return Finding(
            subject, "warn", f"{text}; too few draws to compare, or to start a sampler from the prior", _START
        )
    return Finding(subject, "pass", text)


def of_overlooked(found: Overlooked | None, *, known: bool = True, dear: bool = False) -> Finding:
    """Returns the finding on modes that the posterior draws miss.

    Args:
        found: result of the search; None if there was none.
        known: whether the exact density is known.
        dear: whether external likelihoods are too slow for a search.
    """
    subject = "modes that the posterior draws miss, uphill from rows of the previous stage"
    if found is None:
        why = (
            "too few draws, or zero density at all rows of the previous stage"
            if known
            else "the exact density is unknown"
        )
        why = "the search would call the external likelihoods too often" if dear else why
        return Finding(subject, "info", f"not known: {why}")
    if found.example is None:
        places = f"from {found.climbs} starting point{'s' * (found.climbs > 1)}"
        places = places if found.climbs else "all rows lead to regions with draws"
        return Finding(subject, "pass", f"none, {places}")
    example = ", ".join(f"{name} = {value:.4g}" for name, value in found.example.items())
    digits = 1 if found.share >= 0.01 else 3
    text = f"{_number(100 * found.share, 100 * found.share_error, digits)} % of the posterior, around {example}"
    verdict = graded(found.loss, LOSS)
    return Finding(
        subject, verdict, text, "" if verdict == "pass" else f"The posterior draws miss a mode. {_START} {_REMEDIES}"
    )


def of_beyond(found: Extrapolation | None, resting: Resting | None, *, known: bool) -> Finding:
    """Returns the finding on the share of the posterior beyond the training rows of the learned prior.

    Args:
        found: the statistic; None if either chain has too few independent rows.
        resting: how many rows the posterior rests on; a posterior among the rows can still rest on very few.
        known: whether the exact density is known, so that the first line judges the effect.
    """
    subject = "share of the posterior where the previous stage has no rows"
    if found is None:
        return Finding(subject, "info", "not known: too few independent rows in this stage or the previous one")
    text = f"{_number(100 * found.share, 100 * found.error, 1)} % ({100 * found.expected:.1f} % by chance)"
    excess = _excess(found)
    if excess > _BEYOND[1] and found.p_value <= CHANCE:
        if known:
            return Finding(subject, "info", f"{text}; the effect is {_BY_EXACT}")
        return Finding(subject, graded(excess, _BEYOND), text, _REMEDIES)
    if resting is not None and resting.rows < FEW_ROWS[0]:
        judged = _BY_EXACT if known else "judged above, by their number"
        return Finding(subject, "info", f"{text}; whether there are enough rows is {judged}")
    return Finding(subject, "pass", text)


def of_prediction(found: PredictiveCheck | None, drawn: WeightedPrior | None) -> Finding:
    """Returns the finding on the log evidence of the data, compared with data sets predicted by the prior.

    Args:
        found: the statistic; None if the model cannot predict data.
        drawn: result of the weighted prior draws. If their effective size is small, the estimated log evidences scatter
            so much that the test has little power.
    """
    subject = "log evidence compared with data predicted by the prior"
    if found is None:
        return Finding(subject, "info", "not known: the model has factors, or no data that it can predict")
    if not np.isfinite([found.mean, found.std]).all():
        return Finding(
            subject,
            "info",
            f"not known: the likelihood of all predicted data sets is zero at all {DRAWS:,} prior draws",
        )
    gap = found.observed - found.mean
    text = f"{abs(gap):.1f} nats {'below' if gap < 0.0 else 'above'} the mean of {REPLICAS} predicted data sets"
    text = f"{text} (standard deviation {found.std:.1f} nats)"
    if not np.isfinite(gap):
        text = f"the likelihood of the data is zero at all {DRAWS:,} prior draws"
    text = f"{text}, p = {found.p_value:.2g}"
    if found.p_value > CHANCE and (drawn is None or drawn.effective_size < _FEW_DRAWS):
        return Finding(subject, "info", f"{text}; the effective size of the prior draws is too small for a test")
    if found.p_value > CHANCE:
        return Finding(subject, "pass", text)
    advice = (
        "The prior does not predict the new data: check the models and the uncertainties of both stages before you "
        "combine them."
    )
    return Finding(subject, "warn", text, advice)


def of_tension(found: Tension) -> Finding:
    """Returns the finding on the shifts of the means, compared with those expected if the data agree."""
    subject = "shifts of the parameters"
    if found.reason:
        return Finding(subject, "info", f"no test: {found.reason}")
    text = f"Q = {found.q:.1f} in {found.freedom} directions, {found.sigma:.1f} sigma; "
    if np.isfinite(found.pull).any():
        largest = int(np.nanargmax(np.abs(found.pull)))
        text += f"largest shift {found.names[largest]}, {found.pull[largest]:+.1f} times the scatter of agreeing data"
    else:
        text += "no parameter narrows enough to give its shift a scale"
    if found.p_value > CHANCE:
        return Finding(subject, "pass", text)
    return Finding(
        subject, "warn", text, "The stages disagree. Run a joint fit to see which data pull which parameter."
    )


def of_sensitivity(found: Mapping[str, Any] | None) -> Finding:
    """Returns the finding on the parameter that is most sensitive to the prior; it is not judged."""
    subject = "sensitivity to powers of the prior"
    finite = {name: value for name, value in (found or {}).items() if np.isfinite([*value.values()]).all()}
    if not finite:
        why = (
            "ArviZ returns no finite value"
            if found
            else "ArviZ is not installed or has no psens, or the chain has no log prior or no log likelihood"
        )
        return Finding(subject, "info", f"not known: {why}")
    name, value = max(finite.items(), key=lambda item: item[1]["prior"])
    text = (
        f"largest for {name}, {value['prior']:.2f} (likelihood: {value['likelihood']:.2f}); "
        "above 0.05 the prior is informative"
    )
    return Finding(subject, "info", text)


def of_ignored(found: IgnoredCorrelation | None) -> tuple[Finding, ...]:
    """Returns the finding on what changes if the correlation with earlier data is ignored; it is not judged.

    Args:
        found: the statistic; None for a stage without such a correlation, which has no such finding.
    """
    if found is None:
        return ()
    subject = "the same posterior if the correlation with earlier data were ignored"
    if not found.reliable:
        text = f"too different to be estimated from these draws ({_pareto(found.pareto_k)}). The correlation matters"
        return (Finding(subject, "info", text),)
    if found.same:
        return (Finding(subject, "info", "no change: the correlation has no effect"),)
    name = max(found.shift, key=lambda each: abs(found.shift[each]))
    narrow, wide = (choose(found.width, key=lambda each: found.width[each]) for choose in (min, max))
    text = (
        f"largest shift {name}, {found.shift[name]:+.2f} +- {found.shift_error[name]:.2f} standard deviations; widths "
        f"times {found.width[narrow]:.2f} ({narrow}) to {found.width[wide]:.2f} ({wide}); log evidence "
        f"{found.log_evidence_change:+.2f} +- {found.log_evidence_change_error:.2f} ({_pareto(found.pareto_k)})"
    )
    return (Finding(subject, "info", text),)


def graded(value: float, limits: tuple[float, float]) -> str:
    """Returns "pass" up to the second limit, "warn" up to the first, "fail" above, and for what is not a number."""
    return "pass" if value <= limits[1] else "warn" if value <= limits[0] else "fail"


def _excess(beyond: Extrapolation) -> float:
    """Returns the share beyond the rows minus the share expected by chance and three standard errors."""
    return beyond.share - beyond.expected - 3.0 * beyond.error


def _number(value: float, error: float | None, digits: int) -> str:
    """Returns a finite number and its standard error as text."""
    if error is None or not np.isfinite(error):
        return f"{value:.{digits}f} (error unknown)"
    return f"{value:.{digits}f} +- {error:.{digits}f}"


def _pareto(k: float) -> str:
    if np.isfinite(k):
        return f"Pareto k of the weights {k:.2f}"
    return "equal weights" if k < 0.0 else "too few weights for Pareto's k"
