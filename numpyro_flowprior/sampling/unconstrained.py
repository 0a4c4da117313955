"""Unconstrained coordinates of a model's latents, for samplers that walk in R^d and temper the likelihood alone."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import reparam

from .._checks import FloatArray
from ..flows.bounds import interior_bounds
from ..flows.support import Support
from ..latent import LatentReparam
from .density import ModelDensity

# Stands for a likelihood of zero (or NaN): finite, so that the power 0 of it is one, and yet far below any other.
NOTHING = -1e290


class Coordinates:
    """A model's latents as points z of R^d: learned priors in their latent space, what is bounded through a probit.

    The change of variables belongs to the prior: log p(z) = log p(theta(z)) + log |det dtheta / dz|, and the likelihood
    of z is that of theta. Everything is float64, and has to be called under `jax.enable_x64`.

    Args:
        key: of the prior draws that set the scales of half lines.
        density: the posterior.
        latent: whether learned priors are sampled in their latent space (`LatentReparam`), or in their parameters.
    """

    def __init__(self, key: jax.Array, density: ModelDensity, *, latent: bool):
        args, kwargs = density.arguments
        model = reparam(density.model, config={site: LatentReparam() for site in density.learned_sites if latent})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on a model without data, made when `density` was
            self._inner = ModelDensity(model, *args, **kwargs)
        self._outer, self.dim = density, self._inner.dim
        space = self._inner.space
        draws = self._inner.sample_prior(key, 256)
        edge = np.where(np.isfinite(space.lower), space.lower, np.where(np.isfinite(space.upper), space.upper, 0.0))
        self._support = Support(space, np.median(np.abs(draws - edge), axis=0))
        self._low, self._high = interior_bounds(space, np.dtype(np.float64))

    def start(self, key: jax.Array, n: int) -> jax.Array:
        """Returns n draws from the prior, (n, d)."""
        return self._support.inverse(jnp.asarray(self._inner.sample_prior(key, n)))

    def log_densities(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the normalised log prior in z and the log likelihood of one point (d,), traced.

        Far out theta rounds to the bound itself, where densities may be infinite: it is held next to it.
        """
        theta, log_det = self._support.forward_and_log_det(z)
        log_prior, log_likelihood = self._inner.traced_log_densities(jnp.clip(theta, self._low, self._high))
        log_prior = log_prior + log_det
        return log_prior, jnp.where(jnp.isfinite(log_likelihood + log_prior), log_likelihood, NOTHING)

    def parameters(self, z: Any) -> FloatArray:
        """Returns the vectors (n, d), in the density's order, of points (n, d)."""
        theta = np.clip(np.asarray(self._support.forward(jnp.asarray(z))), self._low, self._high)
        return self._outer.vector({**self._inner.constrain(theta), **self._inner.deterministics(theta)})
