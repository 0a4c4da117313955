"""psis_reweight: from the posterior under a learned prior to the one under the exact prior, if that is known.

The importance weights are exact prior / learned prior. The largest are smoothed by a generalised Pareto distribution.
Its shape k shows whether the weights can be trusted. Source: A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry,
"Pareto smoothed importance sampling", JMLR 25 (2024) 72; the fit: J. Zhang, M. A. Stephens, Technometrics 51 (2009)
316.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._util.checks import float_array
from .._util.messages import FlowPriorWarning
from ..chains.chain import Chain
from ..diagnostics.importance import RELIABLE, log_mean_ratio, pareto_smoothed


def psis_reweight(chain: Chain, log_prior_exact: Callable[[Any], Any]) -> Chain:
    """Returns the same draws, weighted to the posterior under the exact prior.

    Args:
        chain: draws from a posterior, weighted or not, with the `log_prior` of the learned prior per draw.
        log_prior_exact: the log density (n,) of the exact prior at points (n, d), in the order of the chain's
            parameters; -inf outside its support. The weights need it up to a constant, the evidence normalised.

    Returns:
        A Chain with smoothed weights, the exact log prior and, if the chain has a log evidence, that under the exact
        prior. Its `info["psis"]` holds Pareto k, the effective sample size, the change in log evidence and its standard
        error. If k is above 0.7, a warning says that the two priors are too far apart. Regions of the exact prior where
        the learned prior has no draws are not covered.

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
    bad = np.isnan(exact) | (exact == np.inf)
    if bad.any():
        raise ValueError(
            f"log_prior_exact: expected numbers or -inf; got NaN or +inf at {bad.sum()} of {chain.n} draws."
        )
    with np.errstate(divide="ignore"):
        before = np.log(chain.probabilities)
    ratios = before + np.where(np.isfinite(before), exact - chain.log_prior, 0.0)
    if not np.isfinite(ratios).any():
        raise ValueError("log_prior_exact: expected a density above zero at some draws; it is zero at all of them.")
    smoothed, k = pareto_smoothed(ratios, relative_efficiency=1 / chain.autocorrelation_time)
    weights = np.exp(smoothed)
    change, error = log_mean_ratio(ratios, chain)
    if k > RELIABLE:
        warnings.warn(
            f"psis_reweight: Pareto k is {k:.2f}, above {RELIABLE}: the learned prior is too far from the exact one "
            "to reweight these draws. Sample under the exact prior, or train the learned prior further.",
            FlowPriorWarning,
            stacklevel=2,
        )
    evidence, spread = chain.log_evidence, chain.log_evidence_error
    rows = np.flatnonzero(np.isfinite(exact))  # the other draws have weight zero and no log density
    log_prior = exact[rows]
    inside = chain.take(rows).replace(weights=weights[rows], weights_kind="importance")
    record = {
        "pareto_k": k,
        "effective_size": inside.effective_size,
        "log_evidence_change": change,
        "log_evidence_change_error": error,
    }
    return inside.replace(
        log_prior=log_prior,
        log_prob=None if inside.log_likelihood is None else log_prior + inside.log_likelihood,
        log_evidence=None if evidence is None else evidence + change,
        log_evidence_error=None if spread is None else float(np.hypot(spread, error)),
        info={**chain.info, "psis": record},
    )
