"""What the guards' statistics mean: for each a verdict, a sentence with its numbers, and what to do.

A statistic that says nothing here, or that another line judges, is "info" with the reason. The evidence is printed in
one line, by the sampler and by prior draws; other lines have differences from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..chains.chain import Chain
from ..diagnostics.coverage import Extrapolation
from ..sampling.broad_start import WeightedPrior
from .exact import PriorError
from .overlooked import Overlooked
from .predictive import DRAWS, REPLICAS, PredictiveCheck
from .resting import Resting
from .tension import Tension

RELIABLE = 0.7  # Pareto k
_FEW_ROWS = (25.0, 100.0)  # of the chain before, that the posterior rests on: below these a fail, a warning
_BEYOND = (0.20, 0.05)  # share of the posterior beyond the chain before, above what chance explains
_LOSS = (0.10, 0.03)  # nats that the posterior loses to the learned prior
_FEW_DRAWS = 50.0  # of the weighted prior draws, effectively: with fewer they cannot tell
_MISSED = 0.1  # nats of evidence
_CHANCE = 1e-3  # of a right stage to be warned of by a test that has a p-value
_START = 'Begin at a broad prior (StageOptions(start="broad")), or with more particles.'
_REMEDIES = (
    "Teach the prior its tails (tail_aware=True, or support_points of fit_flow), reweight (psis=True), mix in a broad "
    "prior (robust=0.1), all in StageOptions; reverse the order of the stages, or fit jointly."
)
_BY_EXACT = "judged by the exact density, in the first line"


@dataclass(frozen=True)
class Finding:
    """One guard's answer.

    Attributes:
        subject: what was asked.
        verdict: "pass", "warn", "fail", or "info" for what is reported and not judged.
        text: the answer in words, with its numbers.
        advice: what to do; empty if nothing.
    """

    subject: str
    verdict: str
    text: str
    advice: str = ""


def of_error(error: PriorError | None, broad: float, *, corrected: bool) -> Finding:
    """Returns what the learned prior in place of the exact one costs.

    Args:
        error: the statistic; None if the exact prior is not known as a function.
        broad: posterior probability of a robust prior's broad part, 0 for others. Up to -log(1 - broad) nats are its
            price, not the learned density's fault, as long as the learned density holds most of the posterior.
        corrected: whether the posterior was reweighted to the exact prior.
    """
    subject = "learned prior against the exact one"
    if error is None:
        return Finding(subject, "info", "not known: the stages before dropped parameters, or their density is unknown")
    if not (np.isfinite([error.loss, error.loss_error]).all() and error.pareto_k <= RELIABLE):
        text = f"too far apart, or too few draws, to tell what the posterior loses ({_pareto(error.pareto_k)})"
        return Finding(subject, "fail", text, _REMEDIES)
    text = f"the posterior loses {_number(error.loss, error.loss_error, 4)} nats to it ({_pareto(error.pareto_k)})"
    price = float(-np.log1p(-broad)) if broad <= 0.5 else 0.0
    if price > 0.0:
        text = f"{text}; up to {price:.4f} nats are the price of the broad part"
    elif broad > 0.0:
        text = f"{text}; {100 * broad:.0f} % of the posterior is the broad part's"
    if corrected:
        return Finding(subject, "pass", f"{text}; taken out by reweighting")
    verdict = _graded(error.loss - price - 3.0 * error.loss_error, _LOSS)
    if verdict == "pass" and 3.0 * error.loss_error > _LOSS[0]:
        return Finding(subject, "warn", f"{text}: too large an error to tell", "Sample this stage longer.")
    return Finding(
        subject, verdict, text, "" if verdict == "pass" else f"StageOptions(psis=True) takes it out here. {_REMEDIES}"
    )


def of_rows(found: Resting | None, own: list[str], beyond: Extrapolation | None, *, known: bool) -> Finding:
    """Returns whether the learned prior had rows to learn from where the posterior is.

    Args:
        found: the statistic; None if the sampler gives no evidence.
        own: parameters that the stage adds.
        beyond: how much of the posterior lies beyond the rows, which says why it rests on few.
        known: whether the exact density says what few rows cost.
    """
    subject = "rows of the stage before that the posterior rests on"
    if found is None:
        return Finding(subject, "info", "not known: the sampler gives no evidence")
    text = "fewer than one" if found.rows < 1.0 else _number(found.rows, found.error, 0 if found.rows >= 10.0 else 1)
    if own:
        text = f"{text}, fewer than without the stage's own parameters ({', '.join(own)})"
    if found.rows >= _FEW_ROWS[1]:
        return Finding(subject, "pass", text)
    if found.rows < 1.0 and not own and beyond is not None and _excess(beyond) <= 0.0:
        text = f"{text}, though its draws lie among them: the likelihood is much narrower than their spacing"
    if known:
        return Finding(subject, "info", f"{text}. What few rows cost is {_BY_EXACT}")
    if own:
        return Finding(subject, "info", f"{text}; a lower bound, not judged")
    verdict = "fail" if found.rows < _FEW_ROWS[0] else "warn"
    return Finding(subject, verdict, f"{text}; too few to learn from", _REMEDIES)


def of_sampler(drawn: WeightedPrior, draws: int, chain: Chain) -> Finding:
    """Returns whether the sampler found the evidence that weighted prior draws find.

    Few prior draws find less evidence than there is, hardly more: more than the sampler's means that it missed some.
    Where the posterior rests on few of them they cannot tell; a sampler that began with as few would not know either.

    Args:
        drawn: what the prior draws find.
        draws: how many there were.
        chain: the posterior, its evidence under the learned prior.
    """
    subject = "sampler against weighted prior draws"
    if chain.log_evidence is None or not np.isfinite(chain.log_evidence):
        return Finding(subject, "info", "not known: the sampler gives no evidence")
    text = f"log evidence by the sampler {_number(chain.log_evidence, chain.log_evidence_error, 2)}"
    few = drawn.effective_size < _FEW_DRAWS
    broad = chain.info.get("start") == "broad"
    if drawn.effective_size == 0.0:
        text = f"{text}; none of {draws:,} prior draws has a likelihood"
    else:
        by_draws = _number(drawn.log_evidence, drawn.log_evidence_error, 2)
        text = f"{text}; by {draws:,} prior draws (effective size {drawn.effective_size:.0f}) {by_draws}"
        error = np.hypot(drawn.log_evidence_error, np.nan_to_num(chain.log_evidence_error or 0.0))
        if drawn.log_evidence - chain.log_evidence > max(4.0 * error, _MISSED):
            return Finding(subject, "fail", f"{text}: it missed a part", _START)
    if few and broad:
        return Finding(subject, "info", f"{text}, too few to tell; the sampler began at a broad prior")
    if few:
        return Finding(subject, "warn", f"{text}, too few to tell, and for a sampler that begins there", _START)
    return Finding(subject, "pass", text)


def of_overlooked(found: Overlooked | None, *, known: bool = True) -> Finding:
    """Returns how much of the posterior is in modes that its draws lack; `known` whether the exact density is."""
    subject = "modes uphill from rows of the stage before, where the posterior has next to no draws"
    if found is None:
        why = "too few draws, or no density at the rows before" if known else "the exact density is unknown"
        return Finding(subject, "info", f"not known: {why}")
    if found.example is None:
        places = f"from {found.climbs} place{'s' * (found.climbs > 1)}"
        places = places if found.climbs else "all rows lead to where it has draws"
        return Finding(subject, "pass", f"none, {places}")
    example = ", ".join(f"{name} = {value:.4g}" for name, value in found.example.items())
    digits = 1 if found.share >= 0.01 else 3
    text = f"{_number(100 * found.share, 100 * found.share_error, digits)} % of the posterior, around {example}"
    verdict = _graded(found.loss, _LOSS)
    return Finding(subject, verdict, text, "" if verdict == "pass" else f"It missed a part. {_START} {_REMEDIES}")


def of_beyond(found: Extrapolation | None, resting: Resting | None, *, known: bool) -> Finding:
    """Returns whether the posterior lies where the learned prior had rows.

    Args:
        found: the statistic; None if either chain has too few independent rows.
        resting: how many rows the posterior rests on: among very few it may lie and yet have nothing to rest on.
        known: whether the exact density says what it costs to lie beyond.
    """
    subject = "share of the posterior where the stage before has no rows"
    if found is None:
        return Finding(subject, "info", "not known: too few independent rows in this stage or the one before")
    text = f"{_number(100 * found.share, 100 * found.error, 1)} % ({100 * found.expected:.1f} % by chance)"
    excess = _excess(found)
    if excess > _BEYOND[1] and found.p_value <= _CHANCE:
        if known:
            return Finding(subject, "info", f"{text}; what that costs is {_BY_EXACT}")
        return Finding(subject, _graded(excess, _BEYOND), text, _REMEDIES)
    if resting is not None and resting.rows < _FEW_ROWS[0]:
        judged = _BY_EXACT if known else "judged above, by their number"
        return Finding(subject, "info", f"{text}; whether the rows there are enough is {judged}")
    return Finding(subject, "pass", text)


def of_prediction(found: PredictiveCheck | None, drawn: WeightedPrior) -> Finding:
    """Returns whether the data are as probable as data that the prior predicts.

    Args:
        found: the statistic; None where the model cannot predict data.
        drawn: where few prior draws count, estimates of the evidence scatter so much that hardly any data stand out.
    """
    subject = "log evidence against what the prior predicts"
    if found is None:
        return Finding(subject, "info", "not known: the model has factors, or no data that it could predict")
    if not np.isfinite([found.mean, found.std]).all():
        return Finding(subject, "info", f"not known: {DRAWS:,} prior draws have no likelihood for data they predict")
    gap = found.observed - found.mean
    text = f"{abs(gap):.1f} nats {'below' if gap < 0.0 else 'above'} the mean of {REPLICAS} predicted data sets"
    text = f"{text}, which scatter by {found.std:.1f} nats"
    if not np.isfinite(gap):
        text = f"none of {DRAWS:,} prior draws has a likelihood for these data"
    text = f"{text} (p = {found.p_value:.2g})"
    if found.p_value > _CHANCE and drawn.effective_size < _FEW_DRAWS:
        return Finding(subject, "info", f"{text}; too few prior draws count for a test")
    if found.p_value > _CHANCE:
        return Finding(subject, "pass", text)
    advice = (
        "The new data surprise the prior: look for a wrong model, or error bars, in either stage before joining them."
    )
    return Finding(subject, "warn", text, advice)


def of_tension(found: Tension) -> Finding:
    """Returns whether the means moved farther than data in agreement would move them."""
    subject = "shifts of the parameters"
    if found.reason:
        return Finding(subject, "info", f"no test: {found.reason}")
    text = f"Q = {found.q:.1f} in {found.freedom} directions, {found.sigma:.1f} sigma; "
    if np.isfinite(found.pull).any():
        largest = int(np.nanargmax(np.abs(found.pull)))
        text += f"largest {found.names[largest]}, by {found.pull[largest]:+.1f} of what agreeing data would scatter"
    else:
        text += "no width shrinks enough for its shift to have a scale"
    if found.p_value > _CHANCE:
        return Finding(subject, "pass", text)
    return Finding(subject, "warn", text, "The stages disagree: a joint fit would show it, and which data pull where.")


def of_sensitivity(found: Mapping[str, Any] | None) -> Finding:
    """Returns which parameter depends most on the prior, which is no fault."""
    subject = "sensitivity to powers of the prior"
    finite = {name: value for name, value in (found or {}).items() if np.isfinite([*value.values()]).all()}
    if not finite:
        why = "ArviZ finds no finite value" if found else "ArviZ is not installed, or has no psens"
        return Finding(subject, "info", f"not known: {why}")
    name, value = max(finite.items(), key=lambda item: item[1]["prior"])
    text = (
        f"largest for {name}, {value['prior']:.2f} (its likelihood's {value['likelihood']:.2f}); above 0.05 it informs"
    )
    return Finding(subject, "info", text)


def _graded(value: float, limits: tuple[float, float]) -> str:
    """Returns the verdict on a value that fails above the first limit, and warns above the second."""
    return "fail" if value > limits[0] else "warn" if value > limits[1] else "pass"


def _excess(beyond: Extrapolation) -> float:
    """Returns the share beyond the rows that chance does not explain."""
    return beyond.share - beyond.expected - 3.0 * beyond.error


def _number(value: float, error: float | None, digits: int) -> str:
    """Returns a finite number and its standard error in words."""
    if error is None or not np.isfinite(error):
        return f"{value:.{digits}f} (error unknown)"
    return f"{value:.{digits}f} +- {error:.{digits}f}"


def _pareto(k: float) -> str:
    if np.isfinite(k):
        return f"Pareto k of the weights {k:.2f}"
    return "equal weights" if k < 0.0 else "too few weights for Pareto's k"
