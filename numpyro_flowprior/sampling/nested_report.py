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
from ..chains.effective import Dependence, effective_size
from .coordinates import chain_of_draws
from .unit_cube import UnitCube

_ENOUGH = 400.0  # effective sample size below which a run is too short
_UNCERTAIN = 0.5  # largest error of the log evidence, in nats
_COPIED = 0.01  # share of copies of other points above which walks are too short
_TIED = 0.01  # largest share of points with equal likelihoods
_FEW = 5.0  # effective number of families below which they do not show how much points depend on each other
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
    sampler: str, effective: float, *, error: float, cause: str | None, advice: str, further: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns effective size, what stopped the run, and whether it converged. One warning says why it did not.

    Args:
        sampler: the function that was called.
        effective: effective sample size.
        error: of the log evidence.
        cause: what stopped the run early, if anything did.
        advice: what to do about too few draws.
        further: sentences on what else is wrong.
    """
    reasons = list(further)
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


def effective_size_of(parent: np.ndarray, born: np.ndarray, u: FloatArray, weights: FloatArray, n_live: int) -> float:
    """Returns the effective sample size of points that walks reached from earlier ones.

    A family descends from one point that was alive when a certain number of points had died; older points are families
    of their own. The later that is, the more families there are, and the less of the dependence they show. The share of
    a mode, which no walk leaves, depends on all of the history; what walks mix depends on the last few ancestors. The
    effective size is therefore the smallest over all times, each with jackknife errors (chains.effective).

    Args:
        parent: (n,) row from which each point was walked to, or its own.
        born: (n,) number of deaths before each point was born.
        u: (n, d) points in the unit cube; the effective size is that of the coordinate which is known worst.
        weights: (n,), which sum to one.
        n_live: number of live points.

    Source: Lee and Whiteley (2018), Biometrika 105, 609; Olsson and Douc (2019), Bernoulli 25, 1504, for the choice of
    the oldest ancestor.
    """
    size = effective_size(u, weights, Dependence())
    for since in (*range(int(born.max()), 0, -max(n_live // 2, 1)), 0):
        family = np.unique(_ancestors(parent, born, since), return_inverse=True)[1]
        if 1.0 / np.sum(np.bincount(family, weights) ** 2) < _FEW:
            break
        size = min(size, effective_size(u, weights, Dependence(families=family)))
    return size


def _ancestors(parent: np.ndarray, born: np.ndarray, since: int) -> np.ndarray:
    """Returns the row (n,) of the first ancestor of each point that was born after `since` deaths at the latest."""
    ancestor = np.where(born > since, parent, np.arange(len(parent)))
    while True:
        older = ancestor[ancestor]
        if np.array_equal(older, ancestor):
            return ancestor
        ancestor = older


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


def plateau_variance(log_likelihood: FloatArray, weights: FloatArray, n_live: int) -> float:
    """Returns the variance that plateaus of the likelihood add to the log evidence.

    Of n live points, m are on a plateau and die with it. The volume above is (n - m) / n times that before, with a
    relative variance of m / (n (n - m)), of which m / n^2 is that of any m deaths. The evidence from above the plateau
    is proportional to it.

    Args:
        log_likelihood: (n,) of the points that are no copies of others.
        weights: (n,) of these points.
        n_live: number of live points.

    Source: Fowlie, Handley and Su (2021), MNRAS 503, 1199.
    """
    _, level, tied = np.unique(log_likelihood, return_inverse=True, return_counts=True)
    mass = np.bincount(level, weights / weights.sum())
    above = 1.0 - np.cumsum(mass)
    tied = np.minimum(tied, n_live - 1)
    further = np.where(tied > 1, tied / (n_live * (n_live - tied)) - tied / n_live**2, 0.0)
    return float(above**2 @ further)


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
