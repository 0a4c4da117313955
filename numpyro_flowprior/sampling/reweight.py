"""Importance weights that turn the draws of one posterior into those of another.

The largest weights are smoothed by a generalised Pareto distribution. Its shape k shows whether they can be trusted.
Source: A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, "Pareto smoothed importance sampling", JMLR 25 (2024) 72;
the fit: J. Zhang, M. A. Stephens, Technometrics 51 (2009) 316.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._util.checks import ArrayLike, FloatArray, float_array
from .._util.messages import FlowPriorWarning
from ..chains.chain import Chain
from ..diagnostics.importance import RELIABLE, log_mean_ratio, smoothed_ratios


def reweight(chain: Chain, log_weights: ArrayLike) -> Chain:
    """Returns the same draws for a density that is the chain's times exp(log_weights), with smoothed weights.

    Args:
        chain: draws of a density, weighted or not.
        log_weights: (n,) log of the ratio of the new density to that of the chain, up to a constant; -inf where the new
            density is zero. A constant counts in the evidence.

    Returns:
        A Chain without the rows of zero density. Its `log_prob` is that of the new density, if the chain has one; its
        log prior and log likelihood are dropped. Its log evidence, if the chain has one, is that of the new density.
        `info["psis"]` holds Pareto k, the effective sample size, the change in log evidence and its standard error. If
        k is above 0.7, a warning says that the two densities are too far apart. Regions without a draw are not covered.

    Raises:
        ValueError: log weights of another shape, NaN or +inf at any draw, or -inf at all draws.
    """
    log_weights = float_array(log_weights, "reweight: log_weights", shape=(chain.n,))
    _require_ratios(log_weights, "reweight: log_weights")
    advice = "The new density is too far from that of the chain to reweight these draws. Sample it."
    made, rows = _reweighted(chain, log_weights, "reweight", advice)
    log_prob = None if made.log_prob is None else made.log_prob + log_weights[rows]
    return made.replace(log_prob=log_prob, log_prior=None, log_likelihood=None)


def psis_reweight(chain: Chain, log_prior_exact: Callable[[Any], Any]) -> Chain:
    """Returns the draws of a posterior under a learned prior, weighted to the one under the exact prior.

    Args:
        chain: draws from a posterior, weighted or not, with the `log_prior` of the learned prior per draw.
        log_prior_exact: the log density (n,) of the exact prior at points (n, d), in the order of the chain's
            parameters; -inf outside its support. The weights need it up to a constant, the evidence normalised.

    Returns:
        A Chain with the exact log prior, otherwise as `reweight` returns it, with its warning.

    Raises:
        ValueError: the chain has no log prior; the exact prior is NaN or +inf at any draw, or zero at all draws.
    """
    if chain.log_prior is None:
        raise ValueError(
            "psis_reweight: expected a chain with log_prior per draw, as the samplers of this package return it; got "
            "one without. Add it with chain.replace(log_prior=density.log_prior(chain.samples))."
        )
    with jax.enable_x64(True):
        exact = float_array(np.asarray(log_prior_exact(chain.samples)), "log_prior_exact", shape=(chain.n,))
    _require_ratios(exact, "log_prior_exact")
    advice = (
        "The learned prior is too far from the exact one to reweight these draws. Sample under the exact prior, or "
        "train the learned prior further."
    )
    made, rows = _reweighted(chain, exact - chain.log_prior, "psis_reweight", advice)
    log_prior = exact[rows]
    log_prob = None if made.log_likelihood is None else log_prior + made.log_likelihood
    return made.replace(log_prior=log_prior, log_prob=log_prob)


def _require_ratios(values: FloatArray, subject: str) -> None:
    bad = np.isnan(values) | (values == np.inf)
    if bad.any():
        raise ValueError(f"{subject}: expected numbers or -inf; got NaN or +inf at {bad.sum()} of {len(values)} draws.")
    if not (values > -np.inf).any():
        raise ValueError(f"{subject}: expected a density above zero at some draws; it is zero at all of them.")


def _reweighted(chain: Chain, log_weights: FloatArray, subject: str, advice: str) -> tuple[Chain, np.ndarray]:
    """Returns the chain with new weights, without rows of zero density, and the numbers of the rows that are left."""
    with np.errstate(divide="ignore"):
        before = np.log(chain.probabilities)
    ratios = before + np.where(np.isfinite(before), log_weights, 0.0)
    if not np.isfinite(ratios).any():
        raise ValueError(f"{subject}: expected a density above zero at some draws; all of them have weight zero.")
    smoothed, k = smoothed_ratios(before, log_weights, relative_efficiency=1 / chain.autocorrelation_time)
    change, error = log_mean_ratio(ratios, chain)
    if k > RELIABLE:
        warnings.warn(f"{subject}: Pareto k is {k:.2f}, above {RELIABLE}. {advice}", FlowPriorWarning, stacklevel=3)
    rows = np.flatnonzero(np.isfinite(log_weights))  # the other draws have weight zero and no log density
    inside = chain.take(rows).replace(weights=np.exp(smoothed)[rows], weights_kind="importance")
    record = {
        "pareto_k": k,
        "effective_size": inside.effective_size,
        "log_evidence_change": change,
        "log_evidence_change_error": error,
    }
    evidence, spread = chain.log_evidence, chain.log_evidence_error
    made = inside.replace(
        log_evidence=None if evidence is None else evidence + change,
        log_evidence_error=None if spread is None else float(np.hypot(spread, error)),
        info={**chain.info, "psis": record},
    )
    return made, rows
