"""Transforms a chain to the coordinates of training: unconstrained by the support, then whitened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy.linalg import solve_triangular

from .._util.batches import in_batches, power_of_two
from .._util.checks import FloatArray, shorten
from ..chains.chain import Chain
from ..chains.effective import kish
from ..chains.parameters import ParameterSpace
from ..flows.config import FlowConfig
from ..flows.support import Support

_CHUNK = 200_000  # rows transformed at a time
_FEWEST = 25  # minimum number of distinct rows, however few parameters there are


@dataclass(frozen=True)
class Prepared:
    """A chain in training coordinates.

    Attributes:
        chain: the chain itself.
        x: (n, d) whitened, unconstrained coordinates (weighted mean zero, covariance one), float32.
        log_det: (n,) log |det dx / dtheta|, so that log q(theta) = log q(x) + log_det.
        fixed: the parameters of the flow that are computed, not trained (flows.layout.FIXED).
    """

    chain: Chain
    x: np.ndarray
    log_det: FloatArray
    fixed: dict[str, Any]

    @property
    def log_p(self) -> FloatArray:
        """The log density of the chain in these coordinates, (n,), up to the constant of `chain.log_prob`."""
        return np.asarray(self.chain.log_prob) - self.log_det


def prepare(chain: Chain, whitening: str = "full") -> Prepared:
    """Returns the chain in training coordinates.

    Args:
        chain: the chain to learn, with no draw exactly on a bound (chains.edges).
        whitening: "full", by the Cholesky factor of the covariance, or "diagonal", by the standard deviations.

    Raises:
        ValueError: linearly dependent columns (named).
    """
    scale = half_line_scales(chain)
    probabilities = chain.probabilities
    loc, covariance = _moments(chain, scale, probabilities)
    tril = _cholesky(covariance, chain.names)
    if whitening == "diagonal":
        tril = np.diag(np.sqrt(np.diagonal(covariance)))
    return apply_prepared(chain, {"support": {"scale": scale}, "whitening": {"loc": loc, "tril": tril}})


def apply_prepared(chain: Chain, fixed: dict[str, Any]) -> Prepared:
    """Returns another chain of the same parameters in the coordinates that `fixed` defines."""
    tril = fixed["whitening"]["tril"]
    x = np.empty((chain.n, chain.dim), np.float32)
    log_det = np.empty(chain.n)
    for part, z, part_log_det in _in_chunks(chain, fixed["support"]["scale"]):
        x[part] = solve_triangular(tril, (z - fixed["whitening"]["loc"]).T, lower=True).T
        log_det[part] = part_log_det - np.log(np.diagonal(tril)).sum()
    return Prepared(chain, x, log_det, fixed)


def _moments(chain: Chain, scale: FloatArray, probabilities: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns the weighted mean (d,) and covariance (d, d) in unconstrained coordinates, merged chunk by chunk.

    Source: Chan, Golub and LeVeque (1983), the formula that merges two parts.
    """
    total, loc, covariance = 0.0, np.zeros(chain.dim), np.zeros((chain.dim, chain.dim))
    for part, z, _ in _in_chunks(chain, scale):
        weights = probabilities[part]
        share = weights.sum()
        if share == 0.0:
            continue
        mean = weights @ z / share
        centred = z - mean
        apart = mean - loc
        covariance += (centred * weights[:, None]).T @ centred
        covariance += np.outer(apart, apart) * total * share / (total + share)
        loc = loc + apart * share / (total + share)
        total += share
    return loc, covariance / total


def _in_chunks(chain: Chain, scale: FloatArray) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
    """Yields row slices, unconstrained coordinates (m, d) and log |det dz / dtheta| (m,), always in float64."""
    size = min(_CHUNK, power_of_two(chain.n))  # few sizes are compiled
    for start in range(0, chain.n, size):
        part = slice(start, min(start + size, chain.n))
        rows = chain.samples[part]
        with jax.enable_x64(True):
            z, log_det = in_batches(
                lambda theta: _unconstrained(theta, scale, space=chain.space.nameless()), rows, size=size
            )
        yield part, z, log_det


@partial(jax.jit, static_argnames="space")
def _unconstrained(theta: Any, scale: Any, *, space: ParameterSpace) -> tuple[jax.Array, jax.Array]:
    return Support(space, scale).inverse_and_log_det(theta)


def as_configured(chain: Chain, config: FlowConfig) -> Chain:
    """Returns the chain, without its bounds if the configuration ignores them."""
    return chain if config.support else chain.replace(space=chain.space.unbounded())


def require_learnable(chain: Chain) -> None:
    """Raises ValueError for constant columns (named), too few distinct rows or too small an effective size."""
    constant = chain.constant_columns
    if constant:
        kept = [name for name in chain.names if name not in constant]
        raise ValueError(
            f"chain: {shorten(constant, 40)} takes a single value in every row; no density can be learnt from it. "
            f"Leave it out with chain.select({kept})."
        )
    enough = max(10 * chain.dim, _FEWEST)
    distinct = _distinct_rows(chain, enough)
    if distinct < enough:
        raise ValueError(
            f"chain: expected at least {enough} distinct rows of positive weight for {chain.dim} parameters; "
            f"got {distinct}. Use a longer chain or fewer parameters (chain.select)."
        )
    if chain.weights is not None and kish(chain.probabilities) < enough:
        raise ValueError(
            f"chain.weights: expected an effective size of {enough} or more for {chain.dim} parameters; "
            f"got {kish(chain.probabilities):.1f} from {chain.n} rows: a few rows carry nearly all the weight. Use a "
            "longer chain or fewer parameters (chain.select)."
        )


def _distinct_rows(chain: Chain, enough: int) -> int:
    """Returns the number of distinct rows of positive weight; stops counting when there are `enough`."""
    counted = np.arange(chain.n) if chain.weights is None else np.flatnonzero(chain.weights > 0)
    found, start, size = np.empty((0, chain.dim)), 0, 10 * enough
    while start < len(counted) and len(found) < enough:
        found = np.unique(np.concatenate([found, chain.samples[counted[start : start + size]]]), axis=0)
        start, size = start + size, 2 * size
    return len(found)


def half_line_scales(chain: Chain) -> FloatArray:
    """Returns the weighted median distance from the bound for half-bounded parameters, 1 for others, (d,)."""
    lower, upper = np.array(chain.space.lower), np.array(chain.space.upper)
    half = np.isfinite(lower) != np.isfinite(upper)
    if not half.any():
        return np.ones(chain.dim)
    median = chain.quantile([0.5])[0]
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
