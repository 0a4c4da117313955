"""A chain in the coordinates that a flow is trained in: unconstrained by the support, then whitened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.linalg import solve_triangular

from .._checks import FloatArray, shorten
from ..chains.chain import Chain
from ..flows.support import Support


@dataclass(frozen=True)
class Prepared:
    """A chain as training sees it.

    Attributes:
        x: (n, d) whitened, unconstrained coordinates (weighted mean zero, covariance one).
        probabilities: (n,) weights that sum to one.
        log_det: (n,) log |det dx / dtheta|, so that log q(theta) = log q(x) + log_det.
        fixed: the parameters of the flow that are computed, not trained (flows.build.FIXED).
    """

    x: FloatArray
    probabilities: FloatArray
    log_det: FloatArray
    fixed: dict[str, Any]


def prepare(chain: Chain, whitening: str = "full") -> Prepared:
    """Returns the chain, whose draws are off the edges, in training coordinates.

    Args:
        chain: what will be learnt.
        whitening: "full", by the Cholesky factor of the covariance, or "diagonal", by the standard deviations.

    Raises:
        ValueError: linearly dependent columns (named).
    """
    scale = half_line_scales(chain)
    z, log_det = to_line(chain.samples, chain.space, scale)
    probabilities = chain.probabilities
    loc = probabilities @ z
    centred = z - loc
    tril = _cholesky((centred * probabilities[:, None]).T @ centred, chain.names)
    if whitening == "diagonal":
        tril = np.diag(np.sqrt(np.sum(tril**2, axis=1)))
    x = _whiten(centred, tril)
    log_det = log_det - np.log(np.diagonal(tril)).sum()
    fixed = {"support": {"scale": scale}, "whitening": {"loc": loc, "tril": tril}}
    return Prepared(x, probabilities, log_det, fixed)


def apply_prepared(chain: Chain, fixed: dict[str, Any]) -> Prepared:
    """Returns another chain of the same parameters in the coordinates that `fixed` describes."""
    z, log_det = to_line(chain.samples, chain.space, fixed["support"]["scale"])
    tril = fixed["whitening"]["tril"]
    x = _whiten(z - fixed["whitening"]["loc"], tril)
    return Prepared(x, chain.probabilities, log_det - np.log(np.diagonal(tril)).sum(), fixed)


def to_line(samples: FloatArray, space: Any, scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns unconstrained coordinates (n, d) and log |det dz / dtheta| (n,), in float64 whatever JAX's flag."""
    with jax.enable_x64(True):
        z, log_det = jax.jit(Support(space, scale).inverse_and_log_det)(samples)
        return np.asarray(z), np.asarray(log_det)


def _whiten(centred: FloatArray, tril: FloatArray) -> FloatArray:
    return solve_triangular(tril, centred.T, lower=True).T


def require_learnable(chain: Chain) -> None:
    """Raises ValueError for constant columns (named) or too few distinct rows, counted in the chain as it was given."""
    constant = chain.constant_columns
    if constant:
        kept = [name for name in chain.names if name not in constant]
        raise ValueError(
            f"chain: {shorten(constant, 40)} takes a single value in every row; no density can be learnt from it. "
            f"Leave it out with chain.select({kept})."
        )
    distinct = len(np.unique(chain.samples[chain.probabilities > 0], axis=0))
    if distinct < 10 * chain.dim:
        raise ValueError(
            f"chain: expected at least {10 * chain.dim} distinct rows of positive weight for {chain.dim} parameters; "
            f"got {distinct}. Use a longer chain or fewer parameters (chain.select)."
        )


def half_line_scales(chain: Chain) -> FloatArray:
    """Returns the weighted median distance from the edge for half-bounded parameters, one for others, (d,)."""
    median = chain.quantile([0.5])[0]
    lower, upper = np.array(chain.space.lower), np.array(chain.space.upper)
    half = np.isfinite(lower) != np.isfinite(upper)
    edge = np.where(np.isfinite(lower), lower, np.where(np.isfinite(upper), upper, 0.0))
    return np.where(half, np.abs(median - edge), 1.0)


def _cholesky(covariance: FloatArray, names: tuple[str, ...]) -> FloatArray:
    spread = np.sqrt(np.diagonal(covariance))
    correlation = covariance / np.outer(spread, spread)
    values, vectors = np.linalg.eigh(correlation)
    if values[0] < 1e-12:
        heavy = np.flatnonzero(np.abs(vectors[:, 0]) > 0.1)
        raise ValueError(
            f"chain: {shorten([names[j] for j in heavy], 40)} are linearly dependent (smallest eigenvalue of the "
            f"correlation matrix {values[0]:.1e}); they have no joint density. Leave one out with chain.select."
        )
    return spread[:, None] * np.linalg.cholesky(correlation)
