"""The results of a run of particles: the fields of a Chain, a record, and a warning if it did not converge."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.special import softmax

from .._util.messages import ConvergenceWarning, FlowPriorWarning
from ..chains.effective import copies_of, kish
from .particle_run import COLD, LACKING, UNRELIABLE_K, enough_of

_UNCERTAIN = 0.5  # largest error of the log evidence, in nats
_APART = 1.5  # largest difference of the two log evidences; that from the particles is noisier and has no error
_STUCK = 0.02  # acceptance of the last iterations
_SHORT = 0.5  # share of the requested effective draws below which a warning says so
_LAST = 5  # number of iterations that count as the last ones


def results_of(run: Any, settings: dict[str, Any], cause: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of a chain, and a record; warns if not converged.

    The rows are draws of the flow, if it covers the posterior, and the particles of the temperatures before that of the
    posterior with weight zero, from which a later training learns the tails. Otherwise they are all particles, with
    their weights.
    """
    samples, weights, log_likelihood, log_prior = run.posterior(trim_importance_weights=False)
    past = run.past_arrays()
    size = kish(weights / weights.sum(), copies_of(samples))  # replaced prior draws are copies
    if run.covered:
        draws, size = run.draws, run.draws.effective_size
        tempered = np.repeat(1.0 - past["beta"] >= COLD, past["logl"].shape[1])
        samples = np.concatenate([draws.points, samples[tempered]])
        log_prior = np.concatenate([draws.log_prior, log_prior[tempered]])
        log_likelihood = np.concatenate([draws.log_likelihood, log_likelihood[tempered]])
        weights = np.concatenate([softmax(draws.log_weights), np.zeros(tempered.sum())])
    alive = np.isfinite(log_likelihood + log_prior)  # the others are impossible and have no log density to train on
    fields = {
        "samples": samples[alive],
        "log_prior": log_prior[alive],
        "log_likelihood": log_likelihood[alive],
        "weights": weights[alive],
        "log_evidence": run.logz,
        "log_evidence_error": run.logz_err,
    }
    report = {
        "calls": int(run.calls),
        "iterations": len(past["beta"]),
        "temperatures": past["beta"].tolist(),
        "acceptance": float(past["accept"][-_LAST:].mean()),
        "steps": float(past["steps"].mean()),
        "effective_size": size,
        "posterior": "draws of the flow" if run.covered else "particles",
        "lacking": run.lacking,
        "draws": 0 if run.draws is None else len(run.draws.points),
        "tempered_log_evidence": run.tempered_evidence(),
        "pareto_k": None if run.found is None else run.found.pareto_k,
        "largest_weight": None if run.found is None else run.found.largest,
    }
    reasons = _reasons(report, settings, run)
    if cause:
        warnings.warn(
            f"sample_pocomc: stopped by {cause} after {report['iterations']} iterations, at the inverse temperature "
            f"{past['beta'][-1]:.3g}.",
            ConvergenceWarning,
            stacklevel=3,
        )
    elif run.draws is not None and not run.covered and not reasons:
        warnings.warn(
            f"sample_pocomc: {run.draws.effective_size:.3g} of {len(run.draws.points)} draws of the flow are "
            f"effective, fewer than {enough_of(settings['n_total']):.0f}. The posterior is therefore the particles, "
            "whose errors are too small, and shares of separate modes may be wrong. Raise n_effective and n_active.",
            FlowPriorWarning,
            stacklevel=3,
        )
    elif run.covered and size < _SHORT * settings["n_total"] and not reasons:
        warnings.warn(
            f"sample_pocomc: expected {settings['n_total']} effective draws (n_total); got {size:.0f} from "
            f"{report['draws']} draws of the flow. Their weights are right, but there are fewer of them. Raise "
            "n_evidence for more draws; in a new run, raise n_effective and n_active for a better flow.",
            FlowPriorWarning,
            stacklevel=3,
        )
    if reasons:
        warnings.warn("sample_pocomc: not converged. " + " ".join(reasons), ConvergenceWarning, stacklevel=3)
    return fields, {**report, "stopped_by": cause, "converged": not reasons and cause is None}


def _reasons(report: dict[str, Any], settings: dict[str, Any], run: Any) -> list[str]:
    """Returns sentences on why a run has not converged."""
    reasons, beta, log_evidence, error = [], report["temperatures"][-1], run.logz, run.logz_err
    cold = 1.0 - beta < COLD
    if not cold:
        reasons.append(
            f"The particles are at the inverse temperature {beta:.3g} and not at one, that of the posterior."
        )
    if not np.isfinite(log_evidence):
        reasons.append(f"Evidence: its logarithm is {log_evidence}; expected a finite number.")
    wanted = enough_of(settings["n_total"])
    if report["effective_size"] < wanted:
        reasons.append(f"Effective size: expected {wanted:.0f} or more; got {report['effective_size']:.0f}.")
    if report["acceptance"] < _STUCK:
        reasons.append(f"Acceptance: {report['acceptance']:.3f} in the last iterations, so the particles hardly move.")
    if run.found is not None and run.found.heavy:
        reasons.append(
            f"Evidence: Pareto k of its weights is {report['pareto_k']:.2f}, above {UNRELIABLE_K}. The flow does not "
            "cover the posterior, and the reported error is too small. Raise n_effective and n_active."
        )
    if run.found is not None and report["lacking"] > LACKING:
        reasons.append(
            f"Particles with {100 * report['lacking']:.0f} % of the weight lie where the flow has far too little "
            "density, as in a mode that it lacks, and the evidence lacks it too. Raise n_effective and n_active."
        )
    if error is not None and error > _UNCERTAIN:
        reasons.append(f"Evidence: its error is {error:.2f} nats. Raise n_evidence, or raise n_effective and n_active.")
    if error is not None and cold:
        apart = log_evidence - report["tempered_log_evidence"]
        if abs(apart) > _APART:
            reasons.append(
                f"Evidence: the value from the flow differs by {apart:+.2f} nats from that of the particles of all "
                "temperatures. Raise n_effective, n_active, or n_steps."
            )
    return reasons
