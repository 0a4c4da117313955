"""Guards: checks whether the learned prior of a stage is reliable in the region of the posterior.

A learned prior is accurate where its training chain has rows. The guards test it at the posterior of the next stage.
Each guard gives a number, a verdict and advice. If a run lacks the input of a guard, the text gives the reason and the
verdict is "info".

The texts and verdicts are in findings.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from .._util.checks import shorten
from .._util.display import Displayed
from .._util.json_numbers import rounded
from ..chains.chain import Chain
from ..diagnostics.report import worst_verdict
from ..priors.composed import RobustPrior
from ..priors.protocol import ParameterPrior
from ..sampling.broad_start import weighted_prior
from ..sampling.density import ModelDensity
from .exact import ExactDensity, PriorError, compiled, prior_error
from .findings import (
    Finding,
    of_beyond,
    of_error,
    of_ignored,
    of_overlooked,
    of_prediction,
    of_rehearsals,
    of_rows,
    of_sampler,
    of_sensitivity,
    of_tension,
)
from .ignored import ignored_correlation
from .overlooked import overlooked
from .predictive import predictive_check
from .resting import beyond_rows, rows_rested_on
from .staged_arviz import power_sensitivity
from .tension import Tension, tension

_DRAWS = 32_768  # prior draws, weighted by the likelihood
_CLIMBS = 30_000  # evaluations of a search for modes
_LONGEST = 600.0  # seconds for either of them, if likelihoods are external; or as long as the sampler took


@dataclass(frozen=True, repr=False)
class Guards(Displayed):
    """The findings of the guards of one stage.

    Attributes:
        findings: the findings, one for each guard.
        numbers: the statistics on which they are based, JSON-ready, by guard.
        corrected: whether the posterior was reweighted to the exact prior, to remove the error of the learned one.
    """

    findings: tuple[Finding, ...]
    numbers: Mapping[str, Any]
    corrected: bool = False

    @property
    def verdict(self) -> str:
        """The worst verdict: "pass", "warn" or "fail". It is "warn" if all findings are "info"."""
        return worst_verdict((finding.verdict for finding in self.findings), "warn")

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
        """Returns the guards from a record that `to_json` returned.

        Raises:
            ValueError: the record lacks an entry, or has an unknown one, as from another version of the package.
        """
        try:
            findings = tuple(Finding(**finding) for finding in record["findings"])
            return cls(findings, dict(record["numbers"]), bool(record["corrected"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"guards: the record lacks an entry, or has an unknown one ({error}).") from error

    def _headline(self) -> str:
        odd = [finding.subject for finding in self.findings if finding.verdict in ("warn", "fail")]
        return f"{self.verdict}; {len(self.findings)} findings{f': {shorten(odd)}' if odd else ''}"

    def __str__(self) -> str:
        lines = [f"guards: {self.verdict.upper()}"]
        for finding in self.findings:
            lines.append(f"  {finding.verdict:4s}  {finding.subject}: {finding.text}")
            if finding.advice:
                lines.append(f"        -> {finding.advice}")
        return "\n".join(lines)


def check_stage(
    key: jax.Array,
    density: ModelDensity,
    prior: ParameterPrior,
    chain: Chain,
    before: Chain,
    *,
    exact: ExactDensity | None = None,
    error: PriorError | None = None,
    corrected: bool = False,
    rehearsals: Sequence[PriorError] = (),
    uncorrelated: ModelDensity | None = None,
) -> Guards:
    """Returns the guards of a stage: checks of its learned prior in the region of its posterior.

    Args:
        key: JAX random key.
        density: the stage's model.
        prior: the learned prior in the model; `before` has all its parameters.
        chain: the stage's posterior.
        before: the chain that the prior was learnt from.
        exact: the prior of the model with the learned prior replaced by the exact posterior of the previous stage; None
            if that is not known.
        error: what the learned prior causes in the posterior, as `exact` tells; None to compute it.
        corrected: whether the chain was reweighted to `exact`; the changes are then in `info["psis"]`.
        rehearsals: the errors of the priors with which the stage was sampled before, and which were then taught.
        uncorrelated: the model with the likelihood of its data alone, if `density` has the one given earlier data with
            which they share errors (`Stage.correlated_with`); otherwise None.
    """
    key_rows, key_predict, key_prior = jax.random.split(key, 3)
    own = sorted(set(density.names) - set(prior.space.names))
    under_learned = _uncorrected(density, chain) if corrected else chain
    resting = rows_rested_on(chain, before)
    beyond = beyond_rows(key_rows, chain, before)
    if error is None and exact is not None:
        error = prior_error(under_learned, exact)
    longest = max(_LONGEST, float(chain.info.get("seconds") or 0.0))
    dear = exact is not None and _CLIMBS * (exact.seconds_per_call + density.seconds_per_call) > longest
    missed = None
    if exact is not None and not dear:
        missed = overlooked(jax.random.fold_in(key, 3), density, chain, before, exact)
    drawn = None
    if _DRAWS * density.seconds_per_call <= longest:
        drawn = weighted_prior(key_prior, density, _DRAWS)
    predicted = predictive_check(key_predict, density)
    moved = tension(before, chain)
    sensitivity = power_sensitivity(chain)
    ignored = None if uncorrelated is None else ignored_correlation(chain, uncorrelated)
    known = error is not None and error.reliable
    findings = (
        of_error(error, share_of_broad(prior, chain), corrected=corrected),
        *of_rehearsals(rehearsals),
        of_rows(resting, own, beyond, known=known),
        of_sampler(drawn, _DRAWS, under_learned),
        of_overlooked(missed, known=exact is not None, dear=dear),
        of_beyond(beyond, resting, known=known),
        of_prediction(predicted, drawn),
        of_tension(moved),
        of_sensitivity(sensitivity),
        *of_ignored(ignored),
    )
    numbers = {
        "rows_rested_on": None if resting is None else rounded(resting.rows),
        "rows_rested_on_error": None if resting is None else rounded(resting.error),
        "weighted_prior": _numbers(drawn),
        "overlooked": _numbers(missed),
        "extrapolation": None if beyond is None else _rounded({**asdict(beyond), "box": None}),  # box: not computed
        "prior_error": _with_change(error),
        "rehearsals": [_numbers(each) for each in rehearsals],
        "prior_predictive": _numbers(predicted),
        "tension": _of(moved),
        "power_sensitivity": _rounded(sensitivity or {}),
        "ignored_correlation": _numbers(ignored),
    }
    return Guards(findings, numbers, corrected)


def _uncorrected(density: ModelDensity, chain: Chain) -> Chain:
    """Returns a reweighted chain with the weights, log prior and log evidence from before the reweighting."""
    log_prior = density.log_prior(chain.samples)
    assert chain.log_prior is not None
    with np.errstate(divide="ignore"):
        log_weights = np.log(chain.probabilities) + log_prior - chain.log_prior
    chain = chain.replace(log_prior=log_prior, weights=np.exp(log_weights - log_weights.max()))
    record, evidence, error = chain.info.get("psis", {}), chain.log_evidence, chain.log_evidence_error
    if evidence is not None:
        evidence -= record.get("log_evidence_change", 0.0)
    if error is not None:
        error = float(np.sqrt(max(error**2 - record.get("log_evidence_change_error", 0.0) ** 2, 0.0)))
    return chain.replace(log_evidence=evidence, log_evidence_error=error)


def share_of_broad(prior: ParameterPrior, chain: Chain) -> float:
    """Returns the posterior probability of the broad part of a robust prior; 0 for other priors."""
    if not isinstance(prior, RobustPrior):
        return 0.0
    probability = compiled(prior.probability_broad)(chain.select(prior.space.names).samples)
    return float(chain.probabilities @ probability)


def _numbers(part: Any) -> dict[str, Any] | None:
    """Returns the JSON-ready record of a statistic; None if the statistic is None."""
    return None if part is None else _rounded(asdict(part))


def _with_change(error: PriorError | None) -> dict[str, Any] | None:
    """Returns the JSON-ready record of the error of a prior; the change of the log evidence is not rounded."""
    if error is None:
        return None
    change = {name: getattr(error, name) for name in ("log_evidence_change", "log_evidence_change_error")}
    return {**_rounded(asdict(error)), **change}


def _rounded(record: Mapping[str, Any]) -> dict[str, Any]:
    values = record.items()
    return {name: _rounded(value) if isinstance(value, Mapping) else _plain(value) for name, value in values}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int) else rounded(value)


def _of(found: Tension) -> dict[str, Any]:
    return {
        "shift": dict(zip(found.names, rounded(found.shift), strict=True)),
        "pull": dict(zip(found.names, rounded(found.pull), strict=True)),
        **{name: rounded(getattr(found, name)) for name in ("q", "p_value", "sigma")},
        "freedom": found.freedom,
        "reason": found.reason,
    }
