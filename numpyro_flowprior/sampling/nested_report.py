"""The results of a nested sampler: the fields of a Chain, a record, and a warning if it did not converge."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import kstest

from .._util.checks import FloatArray
from .._util.messages import ConvergenceWarning
from ..chains.chain import Chain
from ..chains.effective import kish
from .coordinates import chain_of_draws
from .unit_cube import UnitCube

_ENOUGH = 400.0  # effective sample size below which a run is too short
_UNCERTAIN = 0.5  # largest error of the log evidence, in nats
_COPIED = 0.01  # share of copies of other points above which walks are too short
_TIED = 0.01  # largest share of points with equal likelihoods
_BIASED = 1e-4  # probability of the insertion ranks below which new points are not uniform above the threshold


def weights_of(log_weights: FloatArray) -> FloatArray:
    """Returns normalised weights (n,)."""
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())


def chain_of_points(
    cube: UnitCube,
    u: FloatArray,
    log_prior: FloatArray,
    log_likelihood: FloatArray,
    *,
    weights: FloatArray,
    **fields: Any,
) -> Chain:
    """Returns the chain of weighted points u (n, d) of the unit cube. Impossible points, of no weight, are left out."""
    possible = np.isfinite(log_prior + log_likelihood)
    return chain_of_draws(
        cube.density,
        cube.points(u)[possible],
        log_prior=log_prior[possible],
        log_likelihood=log_likelihood[possible],
        weights=weights[possible],
        weights_kind="importance",
        rows="independent",
        **fields,
    )


def judged(
    sampler: str, weights: FloatArray, *, error: float, cause: str | None, advice: str, further: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns effective size, what stopped the run, and whether it converged. One warning says why it did not.

    Args:
        sampler: the function that was called.
        weights: (n,) of the draws.
        error: of the log evidence.
        cause: what stopped the run early, if anything did.
        advice: what to do about too few draws.
        further: sentences on what else is wrong.
    """
    reasons, effective = list(further), kish(weights)
    if effective < _ENOUGH:
        reasons.append(f"Effective size: expected {_ENOUGH:.0f} or more; got {effective:.0f}. {advice}")
    if not error <= _UNCERTAIN:
        reasons.append(f"Evidence: its error is {error:.2f} nats. {advice}")
    if cause:
        warnings.warn(
            f"{sampler}: stopped by {cause}. The draws so far may lack the peak of the posterior.",
            ConvergenceWarning,
            stacklevel=4,
        )
    elif reasons:
        warnings.warn(f"{sampler}: not converged. " + " ".join(reasons), ConvergenceWarning, stacklevel=4)
    return {"effective_size": effective, "stopped_by": cause, "converged": not reasons and cause is None}


def faults_of_walks(probability: float | None, copies: float) -> list[str]:
    """Returns sentences on new points that are not uniform above the likelihood threshold.

    Args:
        probability: of their insertion ranks, if it is known.
        copies: share of points that are copies of others.
    """
    faults = []
    if probability is not None and probability < _BIASED:
        faults.append(
            f"New points are not uniform above the likelihood threshold (probability {probability:.1g} of their ranks "
            "among the live points), so evidence and posterior may be biased. Raise `walks`, or n_live."
        )
    if copies > _COPIED:
        faults.append(
            f"Copies: {100 * copies:.1f} % of the points are copies of others, because no step of their walk was "
            "accepted. Evidence and posterior may be biased. Raise `walks`."
        )
    return faults


def insertion_probability(born: np.ndarray, log_likelihood: FloatArray, n_live: int) -> float | None:
    """Returns the probability of the ranks of new points among the live points, uniform for a correct sampler.

    None if more than one in a hundred likelihoods are equal: then ranks have no meaning.

    Args:
        born: (n,) number of deaths before each point was born, 0 for the first live points. The points are in the order
            of their likelihoods, which is that of their deaths; the last live points are at the end.
        log_likelihood: (m,) of the points that are no copies of others.
        n_live: number of live points.

    Source: Fowlie, Handley and Su (2020), MNRAS 497, 5256.
    """
    later = np.flatnonzero(born > 0)
    if not len(later) or len(np.unique(log_likelihood)) < (1.0 - _TIED) * len(log_likelihood):
        return None
    # alive when point j was born, and less likely: those that died after that and were born before
    ranks = [int(np.sum(born[born[j] : j] < born[j])) for j in later]
    spread = np.random.default_rng(0).uniform(size=len(ranks))  # makes whole numbers uniform on the line
    return float(kstest((np.array(ranks) + spread) / n_live, "uniform").pvalue)
