"""Unconstrained coordinates of a density, for samplers that move in R^d and temper only the likelihood."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._util.checks import FloatArray
from ..flows.bounds import interior_bounds
from ..flows.support import Support
from .density import ModelDensity

# Stands for the log of a likelihood of zero (or NaN). It is finite, so that the likelihood to the power 0 is one, and
# far below any other.
NOTHING = -1e290


class Unconstrained:
    """The points x of a density as points z of R^d; bounded parameters are mapped by a probit.

    The Jacobian belongs to the prior: log p(z) = log p(x(z)) + log |det dx / dz|. The likelihood of z is that of x.
    Everything is in float64 and must be called under `jax.enable_x64`.

    Args:
        density: the posterior.
        scale: (d,) scales of half lines, see `half_line_scales`; may be traced.
    """

    def __init__(self, density: ModelDensity, scale: Any):
        self.density, self.dim, self.scale = density, density.dim, scale
        self._support = Support(density.space, scale)
        self._low, self._high = interior_bounds(density.space, np.dtype(np.float64))

    def start(self, key: jax.Array, n: int) -> jax.Array:
        """Returns n draws from the prior, (n, d)."""
        return self._support.inverse(jnp.asarray(self.density.sample_prior(key, n)))

    def log_densities(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the normalised log prior in z and the log likelihood of one point (d,), traced.

        Far out, x rounds to the bound itself, where densities may be infinite. It is clipped to just inside the bound.
        """
        x, log_det = self._support.forward_and_log_det(z)
        log_prior, log_likelihood = self.density.traced_log_densities(jnp.clip(x, self._low, self._high))
        log_prior = log_prior + log_det
        return log_prior, jnp.where(jnp.isfinite(log_likelihood + log_prior), log_likelihood, NOTHING)

    def points(self, z: Any) -> FloatArray:
        """Returns the density's points x (n, d) at z (n, d)."""
        return np.clip(np.asarray(self._support.forward(jnp.asarray(z))), self._low, self._high)


def half_line_scales(key: jax.Array, density: ModelDensity) -> FloatArray:
    """Returns the median distance (d,) of prior draws from the finite edge of each half line."""
    space, draws = density.space, density.sample_prior(key, 256)
    edge = np.where(np.isfinite(space.lower), space.lower, np.where(np.isfinite(space.upper), space.upper, 0.0))
    return np.median(np.abs(draws - edge), axis=0)
