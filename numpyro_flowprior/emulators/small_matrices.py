"""Determinants, inverses and quadratic forms of many small positive definite matrices (..., p, p) at once.

The method is elimination without pivots, one column after another, for all points together. A batched LAPACK Cholesky
is not used, because two of them at the same time can deadlock in XLA's CPU thread pool: each waits for a free thread
that the other holds (seen with jaxlib 0.10.2 on two cores). Derivatives use the textbook formulae instead of
differentiating every step:

    d log det C = tr(C^-1 dC),    d C^-1 = -C^-1 dC C^-1,    d (r^T C^-1 r) = 2 u^T dr - u^T dC u,  u = C^-1 r
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .precision import precise

Pair = tuple[jax.Array, jax.Array]


@jax.custom_jvp
def log_det_and_squared(covariance: jax.Array, residual: jax.Array) -> Pair:
    """Returns log det C and r^T C^-1 r, (...) each, for positive definite C (..., p, p) and r (..., p), by L D L^T."""
    log_det = squared = jnp.zeros(residual.shape[:-1], residual.dtype)
    for _ in range(covariance.shape[-1]):
        pivot, first = covariance[..., 0, 0], residual[..., 0]
        column = covariance[..., 1:, 0] / pivot[..., None]
        log_det += jnp.log(pivot)
        squared += first**2 / pivot
        residual = residual[..., 1:] - column * first[..., None]
        covariance = covariance[..., 1:, 1:] - column[..., :, None] * covariance[..., None, 0, 1:]
    return log_det, squared


@log_det_and_squared.defjvp
@precise
def _log_det_and_squared_jvp(primals: Pair, tangents: Pair) -> tuple[Pair, Pair]:
    (covariance, residual), (change, shift) = primals, tangents
    _, inverse = log_det_and_inverse(covariance)
    solution = jnp.einsum("...pq,...q->...p", inverse, residual)
    of_log_det = jnp.sum(inverse * change, axis=(-1, -2))
    of_squared = 2 * jnp.sum(solution * shift, -1) - jnp.einsum("...p,...pq,...q->...", solution, change, solution)
    values = log_det_and_squared(covariance, residual)
    return values, (jnp.broadcast_to(of_log_det, values[0].shape), of_squared)


@jax.custom_jvp
def log_det_and_inverse(covariance: jax.Array) -> Pair:
    """Returns log det C (...) and C^-1 (..., p, p) for positive definite C (..., p, p), by the sweep operator.

    Source: J. H. Goodnight, "A tutorial on the SWEEP operator", The American Statistician 33 (1979) 149.
    """
    places = jnp.arange(covariance.shape[-1])

    def sweep(k: jax.Array, carry: Pair) -> Pair:
        log_det, matrix = carry
        at_k = places == k
        column = jnp.take(matrix, k, axis=-1)
        pivot = jnp.take(column, k, axis=-1)[..., None]
        scaled = column / pivot
        swept = matrix - scaled[..., :, None] * column[..., None, :]
        swept = jnp.where(at_k[:, None], scaled[..., None, :], jnp.where(at_k, scaled[..., :, None], swept))
        swept = jnp.where(at_k[:, None] & at_k, -1 / pivot[..., None], swept)
        return log_det + jnp.log(pivot[..., 0]), swept

    start = jnp.zeros(covariance.shape[:-2], covariance.dtype), covariance
    log_det, negative = jax.lax.fori_loop(0, len(places), sweep, start)
    return log_det, -negative


@log_det_and_inverse.defjvp
@precise
def _log_det_and_inverse_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Pair, Pair]:
    (change,) = tangents
    log_det, inverse = log_det_and_inverse(*primals)
    return (log_det, inverse), (jnp.sum(inverse * change, axis=(-1, -2)), -inverse @ change @ inverse)
