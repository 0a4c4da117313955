"""Guards: could a stage trust the prior that it was given, where its posterior is?

A learned prior is right where its chain has rows. These questions are asked of the posterior that it led to; each has a
number, a verdict, and what to do. Some need what not every run has: they are left out, and the text says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from scipy.linalg import solve_triangular

from ..chains.chain import Chain, seed_from_key
from ..chains.staged_data import power_sensitivity
from ..compose import RobustPrior
from ..diagnostics.coverage import Extrapolation, extrapolation
from ..diagnostics.independent import independent_rows
from ..diagnostics.json_numbers import rounded
from ..sampling.broad_start import WeightedPrior, weighted_prior
from ..sampling.density import ModelDensity
from .exact import ExactDensity, PriorError, compiled, prior_error
from .overlooked import Overlooked, overlooked
from .predictive import PredictiveCheck, predictive_check
from .tension import Tension, normal_scores, tension

_VERDICTS = ("pass", "warn", "fail")
_MOST_ROWS = 8000  # independent rows of either chain that are looked at
_FEW_ROWS = (25.0, 100.0)  # of the chain before, that the posterior rests on: below these a fail, a warning
_BEYOND = (0.20, 0.05)  # share of the posterior beyond the chain before, above what chance explains
_LOSS = (0.10, 0.03)  # nats that the posterior loses to the learned prior
_RELIABLE = 0.7  # Pareto k
_DRAWS, _FEW_DRAWS = 32_768, 50.0  # from the prior, weighted; effective draws below which they cannot tell
_MISSED = 0.1  # nats of evidence
_CHANCE = 1e-3  # of a right stage to be warned of by a test that has a p-value


@dataclass(frozen=True)
class Finding:
    """One guard's answer.

    Attributes:
        subject: what was asked.
        verdict: "pass", "warn", "fail", or "info" for what is told and not judged.
        text: the answer in words, with its numbers.
        advice: what to do; empty if nothing.
    """

    subject: str
    verdict: str
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Guards:
    """What the guards of one stage found.

    Attributes:
        findings: the answers.
        numbers: the statistics behind them, JSON-ready, by guard.
        corrected: the posterior was reweighted to the exact prior: what the learned prior did to it is taken out.
    """

    findings: tuple[Finding, ...]
    numbers: Mapping[str, Any]
    corrected: bool = False

    @property
    def verdict(self) -> str:
        """The worst verdict: "pass", "warn" or "fail"."""
        judged = [finding.verdict for finding in self.findings if finding.verdict in _VERDICTS]
        return max(judged, key=_VERDICTS.index, default="pass")

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready record."""
        return {
            "verdict": self.verdict,
            "corrected": self.corrected,
            "findings": [asdict(finding) for finding in self.findings],
            "numbers": dict(self.numbers),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Guards:
        """Returns the guards that `to_json` described.

        Raises:
            ValueError: the record lacks a part, such as one written by another version of the package.
        """
        try:
            findings = tuple(Finding(**finding) for finding in record["findings"])
            return cls(findings, dict(record["numbers"]), bool(record["corrected"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"guards: the record lacks a part, or has one too many ({error}).") from error

    def __str__(self) -> str:
        lines = [f"guards: {self.verdict.upper()}"]
        for finding in self.findings:
            lines.append(f"  {finding.verdict:4s}  {finding.subject}: {finding.text}")
            if finding.advice:
                lines.append(f"        -> {finding.advice}")
        return "\n".join(lines)


def guard(
    key: jax.Array,
    density: ModelDensity,
    prior: Any,
    chain: Chain,
    before: Chain,
    *,
    exact: ExactDensity | None = None,
    corrected: bool = False,
) -> Guards:
    """Returns whether a posterior could trust the learned prior that it was found with.

    Args:
        key: JAX random key.
        density: the stage's model.
        prior: the learned prior in it, over the parameters that `before` has too.
        chain: the stage's posterior.
        before: the chain that the prior was learnt from.
        exact: the model's prior with the exact posterior of the stage before in place of the learned one, where known.
        corrected: the chain was reweighted to it; its weights' Pareto k is in `info["psis"]`.
    """
    key_rows, key_predict, key_prior = jax.random.split(key, 3)
    own = sorted(set(density.names) - set(prior.space.names))
    resting = _rows_rested_on(chain, before)
    beyond = _beyond(key_rows, chain, before)
    error = None if exact is None else prior_error(_uncorrected(density, chain) if corrected else chain, exact)
    missed = None if exact is None else overlooked(jax.random.fold_in(key, 3), density, chain, before, exact)
    drawn = weighted_prior(key_prior, density, _DRAWS)
    predicted = predictive_check(key_predict, density)
    moved = tension(before, chain)
    sensitivity = power_sensitivity(chain)
    known = error is not None and error.pareto_k <= _RELIABLE
    findings = [
        _of_error(error, _price_of_robustness(prior, chain), corrected=corrected),
        _of_rows(resting, own, known=known),
        _of_sampler(drawn, chain),
        _of_overlooked(missed),
        _of_beyond(beyond, known=known),
        _of_prediction(predicted),
        _of_tension(moved),
        _of_sensitivity(sensitivity),
    ]
    numbers = {
        "rows_rested_on": None if resting is None else rounded(resting),
        "weighted_prior": _numbers(drawn),
        "overlooked": None if missed is None else asdict(missed),
        "extrapolation": _numbers(beyond),
        "prior_error": None if error is None else _numbers(error),
        "prior_predictive": None if predicted is None else _numbers(predicted),
        "tension": _of(moved),
        "power_sensitivity": {} if sensitivity is None else sensitivity,
    }
    return Guards(tuple(findings), numbers, corrected)


def _uncorrected(density: ModelDensity, chain: Chain) -> Chain:
    """Returns a reweighted chain with the weights, and log prior, that the sampler gave it."""
    log_prior = density.log_prior(chain.samples)
    assert chain.log_prior is not None
    with np.errstate(divide="ignore"):
        log_weights = np.log(chain.probabilities) + log_prior - chain.log_prior
    return chain.replace(log_prior=log_prior, weights=np.exp(log_weights - log_weights.max()))


def _rows_rested_on(chain: Chain, before: Chain) -> float | None:
    """Returns how many independent rows of the chain before the posterior rests on; None without an evidence.

    They are its effective size after reweighting to the posterior by the likelihood L: n Z / E_posterior[L].
    """
    if chain.log_evidence is None or chain.log_likelihood is None:
        return None
    counted = chain.probabilities > 0
    log_terms = np.log(chain.probabilities[counted]) + chain.log_likelihood[counted]
    top = log_terms.max()
    log_mean = top + np.log(np.exp(log_terms - top).sum())
    return float(before.effective_size * np.exp(min(chain.log_evidence - log_mean, 0.0)))


def _beyond(key: jax.Array, chain: Chain, before: Chain) -> Extrapolation:
    """Returns how much of the posterior is where the chain before has no rows, in its normal scores, decorrelated."""
    after = chain.select(before.names)
    keys = jax.random.split(key)
    rows, draws = (
        part.samples[independent_rows(each, part, np.zeros(part.n), _MOST_ROWS)]
        for each, part in zip(keys, (before, after), strict=True)
    )
    z, z_draws = (normal_scores(points, before) for points in (rows, draws))
    factor = np.linalg.cholesky(np.cov(z.T).reshape(before.dim, -1))
    white, white_draws = (solve_triangular(factor, points.T, lower=True).T for points in (z, z_draws))
    generator = np.random.default_rng(seed_from_key(key))
    return extrapolation(generator, white, white_draws, white[:1])


_START = 'Begin at a broad prior (start="broad"), or with more particles.'
_REMEDIES = (
    "Teach the prior its tails (tail_aware=True, or support_points of fit_flow), reweight (psis=True), mix in a broad "
    "prior (robust=0.1), reverse the order of the stages, or fit jointly."
)


def _price_of_robustness(prior: Any, chain: Chain) -> float:
    """Returns the nats, at most, that a posterior loses to the broad part of a robust prior; 0 for others.

    With P the posterior probability of the broad part they are -log(1 - P): KL(J || J_q) if the rest is exact.
    """
    if not isinstance(prior, RobustPrior):
        return 0.0
    probability = compiled(prior.probability_broad)(chain.select(prior.space.names).samples)
    return float(-np.log1p(-chain.probabilities @ probability))


def _of_error(error: PriorError | None, price: float, *, corrected: bool) -> Finding:
    subject = "learned prior against the exact one"
    if error is None:
        return Finding(subject, "info", "not known: the stages before dropped parameters, or their density is unknown")
    text = (
        f"the posterior loses {error.loss:.4f} +- {error.loss_error:.4f} nats to it, Pareto k of the weights "
        f"{error.pareto_k:.2f}"
    )
    if price > 0.0:
        text = f"{text}; up to {price:.4f} nats are the price of the broad part"
    if not (np.isfinite([error.loss, error.loss_error]).all() and error.pareto_k <= _RELIABLE):
        return Finding(subject, "fail", f"{text}: too far apart for these draws to tell by how much", _REMEDIES)
    if corrected:
        return Finding(subject, "pass", f"{text}; taken out by reweighting")
    low = error.loss - price - 3.0 * error.loss_error
    verdict = "fail" if low > _LOSS[0] else "warn" if low > _LOSS[1] else "pass"
    advice = "" if verdict == "pass" else "psis=True takes it out here. " + _REMEDIES
    return Finding(subject, verdict, text, advice)


def _of_rows(rows: float | None, own: list[str], *, known: bool) -> Finding:
    subject = "rows of the stage before that the posterior rests on"
    if rows is None:
        return Finding(subject, "info", "not known: the sampler gives no evidence")
    text = f"{rows:.0f}"
    if own:
        return Finding(subject, "info", f"{text}, fewer for the stage's own parameters ({', '.join(own)})")
    if rows >= _FEW_ROWS[1]:
        return Finding(subject, "pass", text)
    if known:
        return Finding(subject, "pass", f"{text}, few; but its exact density, the line above, says what that cost")
    return Finding(subject, "fail" if rows < _FEW_ROWS[0] else "warn", f"{text}, too few to learn from", _REMEDIES)


def _of_sampler(drawn: WeightedPrior, chain: Chain) -> Finding:
    """Few prior draws find less evidence than there is, hardly more: more than the sampler's means that it missed some.

    Where the posterior rests on few of them they cannot tell; a sampler that began with as few would not know either.
    """
    subject = "sampler against weighted prior draws"
    if chain.log_evidence is None:
        return Finding(subject, "info", "not known: the sampler gives no evidence")
    error = float(np.hypot(drawn.log_evidence_error, chain.log_evidence_error or 0.0))
    text = (
        f"log evidence {chain.log_evidence:.2f} for {drawn.log_evidence:.2f} +- {drawn.log_evidence_error:.2f} of "
        f"{_DRAWS} draws worth {drawn.effective_size:.0f}"
    )
    missed = drawn.log_evidence - chain.log_evidence
    if missed > max(4.0 * error, _MISSED):
        return Finding(subject, "fail", f"{text}: it missed a part", _START)
    if drawn.effective_size < _FEW_DRAWS and chain.info.get("start") != "broad":
        return Finding(subject, "warn", f"{text}, too few to tell, and for a sampler that begins there", _START)
    return Finding(subject, "pass", text)


def _of_overlooked(found: Overlooked | None) -> Finding:
    subject = "modes uphill from rows of the stage before, where the posterior has next to no draws"
    if found is None:
        return Finding(subject, "info", "not known: the exact density is unknown, or the posterior has too few draws")
    if found.example is None:
        return Finding(subject, "pass", f"none, from {found.climbs} places")
    example = ", ".join(f"{name} = {value:.4g}" for name, value in found.example.items())
    text = f"{100 * found.share:.2g} % of the posterior, around {example}"
    verdict = "fail" if found.loss > _LOSS[0] else "warn" if found.loss > _LOSS[1] else "pass"
    return Finding(subject, verdict, text, "" if verdict == "pass" else f"It missed a part. {_START} {_REMEDIES}")


def _of_beyond(beyond: Extrapolation, *, known: bool) -> Finding:
    subject = "share of the posterior where the stage before has no rows"
    text = f"{100 * beyond.share:.1f} +- {100 * beyond.error:.1f} % ({100 * beyond.expected:.1f} % by chance)"
    excess = beyond.share - beyond.expected - 3.0 * beyond.error
    if excess <= _BEYOND[1] or beyond.p_value > _CHANCE:
        return Finding(subject, "pass", text)
    if known:
        return Finding(subject, "pass", f"{text}; its exact density was known there")
    return Finding(subject, "fail" if excess > _BEYOND[0] else "warn", text, _REMEDIES)


def _of_prediction(found: PredictiveCheck | None) -> Finding:
    subject = "log evidence against what the prior predicts"
    if found is None:
        return Finding(subject, "info", "not known: the model has factors, or no data that it could predict")
    text = f"{found.observed:.1f}, predicted {found.mean:.1f} +- {found.std:.1f} (p = {found.p_value:.2g})"
    if found.p_value > _CHANCE:
        return Finding(subject, "pass", text)
    advice = (
        "The new data surprise the prior: look for a wrong model, or error bars, in either stage before joining them."
    )
    return Finding(subject, "warn", text, advice)


def _of_tension(found: Tension) -> Finding:
    subject = "shifts of the parameters"
    pulls = np.abs(np.nan_to_num(found.pull))
    largest = int(np.argmax(pulls))
    text = f"Q = {found.q:.1f} in {found.freedom} directions, {found.sigma:.1f} sigma; "
    if np.isfinite(found.pull).any():
        text += f"largest {found.names[largest]}, by {found.pull[largest]:+.1f} of what agreeing data would scatter"
    else:
        text += "no width shrinks enough for its shift to have a scale"
    if found.p_value > _CHANCE:
        return Finding(subject, "pass", text)
    return Finding(subject, "warn", text, "The stages disagree: a joint fit would tell, and which data pull where.")


def _of_sensitivity(found: Mapping[str, Any] | None) -> Finding:
    subject = "sensitivity to powers of the prior"
    if not found:
        return Finding(subject, "info", "not known: ArviZ is not installed, or has no psens")
    name, value = max(found.items(), key=lambda item: item[1]["prior"])
    text = (
        f"largest for {name}, {value['prior']:.2f} (its likelihood's {value['likelihood']:.2f}); above 0.05 it informs"
    )
    return Finding(subject, "info", text)


def _numbers(part: Any) -> dict[str, Any]:
    return {name: rounded(value) for name, value in asdict(part).items()}


def _of(found: Tension) -> dict[str, Any]:
    return {
        "shift": dict(zip(found.names, rounded(found.shift), strict=True)),
        "pull": dict(zip(found.names, rounded(found.pull), strict=True)),
        **{name: rounded(getattr(found, name)) for name in ("q", "p_value", "sigma")},
        "freedom": found.freedom,
    }
