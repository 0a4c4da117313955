"""The multivariate normal with a covariance that is the sum of a fixed matrix and a varying matrix of low rank.

    Sigma = S0 + V diag(v) V^T,    S0 (m, m) and V (m, p) fixed, v (p,) >= 0 different at every point

Let S0 = L L^T, and let L^-1 V = Q_1 R be a QR factorisation with the full Q = [Q_1 Q_2]. In the rotated frame, the
residual z = Q^T L^-1 (y - mean) has covariance I + R diag(v) R^T in its first p entries and the identity in the others.
S0 is factored once; each point needs one elimination of a p x p matrix. Unlike in Woodbury's formula, there is no
difference of large terms, and v may be zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, constraints

from .._util.checks import FloatArray
from .._util.validation import validated
from .precision import native, precise
from .small_matrices import log_det_and_squared

LOG_2PI = float(np.log(2 * np.pi))


class FixedFactors(NamedTuple):
    """`whiten` = Q^T L^-1 and its inverse `colour` (m, m), `factor` = R (p, p), `log_det` = log det S0, a scalar."""

    whiten: Any
    colour: Any
    factor: Any
    log_det: Any


def factor_fixed(fixed: FloatArray, loadings: FloatArray) -> FixedFactors:
    """Returns the factors for `LowRankNormal`: S0 (m, m) positive definite, V (m, p) with p <= m; NumPy, float64."""
    p = loadings.shape[1]
    cholesky = np.linalg.cholesky(fixed)
    rotation, factor = np.linalg.qr(np.linalg.solve(cholesky, loadings), mode="complete")
    whiten = np.linalg.solve(cholesky.T, rotation).T
    return FixedFactors(whiten, cholesky @ rotation, factor[:p], np.asarray(2 * np.log(np.diag(cholesky)).sum()))


class NormalAroundLoc(Distribution):
    """Base class of normal distributions with a `loc` (..., m) and a `covariance_matrix`."""

    support = constraints.real_vector

    def _require_event(self, value: Any) -> None:
        if jnp.shape(value)[-1:] != self.event_shape:
            raise ValueError(
                f"{type(self).__name__}: value: expected a last axis of {self.event_shape[0]}; got shape "
                f"{jnp.shape(value)}."
            )

    @property
    def mean(self) -> jax.Array:
        """Mean, (..., m)."""
        return jnp.broadcast_to(jnp.asarray(self.loc), self.batch_shape + self.event_shape)

    @property
    def variance(self) -> jax.Array:
        """Diagonal of the covariance, (..., m)."""
        return jnp.diagonal(self.covariance_matrix, axis1=-2, axis2=-1)


class LowRankNormal(NormalAroundLoc):
    """Normal distribution Normal(loc, S0 + V diag(variances) V^T) over (m,), normalised; a pytree.

    Args:
        loc: (..., m) mean.
        variances: (..., p) variances v of the low-rank part, >= 0.
        fixed: `factor_fixed(S0, V)`.
    """

    arg_constraints = {  # noqa: RUF012 (NumPyro's way)
        "loc": constraints.real_vector,
        "variances": constraints.independent(constraints.nonnegative, 1),
    }
    reparametrized_params = ["loc", "variances"]  # noqa: RUF012
    pytree_data_fields = ("loc", "variances", "fixed")

    def __init__(self, loc: Any, variances: Any, fixed: FixedFactors, *, validate_args: bool | None = None):
        batch_shape = jnp.broadcast_shapes(jnp.shape(loc)[:-1], jnp.shape(variances)[:-1])
        self.loc, self.variances, self.fixed = native((loc, variances, fixed))
        super().__init__(batch_shape, jnp.shape(loc)[-1:], validate_args=validate_args)

    def _head_covariance(self) -> jax.Array:
        """Returns I + R diag(v) R^T, (..., p, p)."""
        factor = jnp.asarray(self.fixed.factor)
        scaled = factor * jnp.asarray(self.variances)[..., None, :]
        return jnp.eye(factor.shape[0], dtype=factor.dtype) + scaled @ factor.T

    @precise
    @validated
    def log_prob(self, value: Any) -> jax.Array:
        """Returns the normalised log density at value (..., m)."""
        self._require_event(value)
        rotated = (native(value) - jnp.asarray(self.loc)) @ jnp.asarray(self.fixed.whiten).T
        p = self.fixed.factor.shape[0]
        log_det, squared = log_det_and_squared(self._head_covariance(), rotated[..., :p])
        log_det += self.fixed.log_det
        squared += jnp.sum(rotated[..., p:] ** 2, axis=-1)
        return -0.5 * (self.event_shape[0] * LOG_2PI + log_det + squared)

    @precise
    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Returns draws (*sample_shape, ..., m)."""
        assert key is not None
        p = self.fixed.factor.shape[0]
        white = jax.random.normal(key, self.shape(sample_shape))
        head = jnp.squeeze(jnp.linalg.cholesky(self._head_covariance()) @ white[..., :p, None], axis=-1)
        return self.loc + jnp.concatenate([head, white[..., p:]], axis=-1) @ jnp.asarray(self.fixed.colour).T

    @property
    @precise
    def covariance_matrix(self) -> jax.Array:
        """Covariance matrix, (..., m, m)."""
        colour, factor = jnp.asarray(self.fixed.colour), jnp.asarray(self.fixed.factor)
        loadings = colour[:, : factor.shape[0]] @ factor
        covariance = colour @ colour.T + (loadings * jnp.asarray(self.variances)[..., None, :]) @ loadings.T
        return jnp.broadcast_to(covariance, (*self.batch_shape, *self.event_shape, *self.event_shape))
