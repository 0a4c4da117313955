"""The multivariate normal of `low_rank_normal` with a further covariance B of variable size.

    Sigma = S0 + s^2 B + V diag(v) V^T,    S0, B (m, m) and V (m, p) fixed, s and v different at every point

In the whitened frame, S0 is the identity, B is diagonal with entries lambda, and V becomes R. Let D = 1 + s^2 lambda
and W = D^-1/2 R v^1/2, and let u be the whitened residual divided by D^1/2. The squared distance is the minimum over a
of |u - W a|^2 + |a|^2. This is a sum of squares, without the difference of large terms in Woodbury's formula.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from .._util.checks import FloatArray
from .._util.validation import validated
from .low_rank_normal import LOG_2PI, NormalAroundLoc
from .precision import native, precise
from .small_matrices import log_det_and_inverse


class InflatedFactors(NamedTuple):
    """`whiten` and its inverse `colour` (m, m), `factor` = whiten V (m, p), `spread` = lambda (m,), `log_det` of S0."""

    whiten: Any
    colour: Any
    factor: Any
    spread: Any
    log_det: Any


def factor_inflated(fixed: FloatArray, inflation: FloatArray, loadings: FloatArray) -> InflatedFactors:
    """Returns the factors for `InflatedNormal`: S0 (m, m) positive definite, B (m, m) semi-definite, V (m, p)."""
    cholesky = np.linalg.cholesky(fixed)
    inside = np.linalg.solve(cholesky, np.linalg.solve(cholesky, inflation).T)
    spread, rotation = np.linalg.eigh((inside + inside.T) / 2)
    whiten = np.linalg.solve(cholesky.T, rotation).T
    log_det = np.asarray(2 * np.log(np.diag(cholesky)).sum())
    return InflatedFactors(whiten, cholesky @ rotation, whiten @ loadings, np.maximum(spread, 0.0), log_det)


class InflatedNormal(NormalAroundLoc):
    """Normal distribution Normal(loc, S0 + scale^2 B + V diag(variances) V^T) over (m,), normalised; a pytree.

    Args:
        loc: (..., m) mean.
        variances: (..., p) variances v of the low-rank part, > 0.
        scale: (...) size s >= 0 of the part B.
        fixed: `factor_inflated(S0, B, V)`.
    """

    arg_constraints = {  # noqa: RUF012 (NumPyro's way)
        "loc": constraints.real_vector,
        "variances": constraints.independent(constraints.nonnegative, 1),
        "scale": constraints.nonnegative,
    }
    reparametrized_params = ["loc", "variances", "scale"]  # noqa: RUF012
    pytree_data_fields = ("loc", "variances", "scale", "fixed")

    def __init__(
        self, loc: Any, variances: Any, scale: Any, fixed: InflatedFactors, *, validate_args: bool | None = None
    ):
        batch_shape = jnp.broadcast_shapes(jnp.shape(loc)[:-1], jnp.shape(variances)[:-1], jnp.shape(scale))
        self.loc, self.variances, self.scale, self.fixed = native((loc, variances, scale, fixed))
        super().__init__(batch_shape, jnp.shape(loc)[-1:], validate_args=validate_args)

    def _parts(self) -> tuple[jax.Array, jax.Array]:
        """Returns D (..., m) and W (..., m, p)."""
        diagonal = 1.0 + jnp.asarray(self.scale)[..., None] ** 2 * jnp.asarray(self.fixed.spread)
        root = jnp.sqrt(jnp.asarray(self.variances))
        return diagonal, jnp.asarray(self.fixed.factor) * root[..., None, :] / jnp.sqrt(diagonal)[..., :, None]

    @precise
    @validated
    def log_prob(self, value: Any) -> jax.Array:
        """Returns the normalised log density at value (..., m)."""
        self._require_event(value)
        diagonal, factor = self._parts()
        residual = (native(value) - jnp.asarray(self.loc)) @ jnp.asarray(self.fixed.whiten).T / jnp.sqrt(diagonal)
        capacitance = jnp.eye(factor.shape[-1]) + jnp.einsum("...mp,...mq->...pq", factor, factor)
        log_det, inverse = log_det_and_inverse(capacitance)
        best = jnp.einsum("...pq,...mq,...m->...p", inverse, factor, residual)
        rest = residual - jnp.einsum("...mp,...p->...m", factor, best)
        squared = jnp.sum(rest**2, axis=-1) + jnp.sum(best**2, axis=-1)
        log_det += jnp.sum(jnp.log(diagonal), axis=-1) + self.fixed.log_det
        return -0.5 * (self.event_shape[0] * LOG_2PI + log_det + squared)

    @precise
    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Returns draws (*sample_shape, ..., m)."""
        assert key is not None
        diagonal, factor = self._parts()
        own, shared = jax.random.split(key)
        shape = self.shape(sample_shape)
        white = jax.random.normal(own, shape) + jnp.einsum(
            "...mp,...p->...m", factor, jax.random.normal(shared, (*shape[:-1], factor.shape[-1]))
        )
        return self.loc + (white * jnp.sqrt(diagonal)) @ jnp.asarray(self.fixed.colour).T

    @property
    @precise
    def covariance_matrix(self) -> jax.Array:
        """Covariance matrix, (..., m, m)."""
        diagonal, factor = self._parts()
        root = jnp.asarray(self.fixed.colour) * jnp.sqrt(diagonal)[..., None, :]
        inner = root @ factor
        covariance = root @ jnp.swapaxes(root, -1, -2) + inner @ jnp.swapaxes(inner, -1, -2)
        return jnp.broadcast_to(covariance, (*self.batch_shape, *self.event_shape, *self.event_shape))
