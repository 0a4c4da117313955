"""A ModelDensity in the coordinates of the unit cube, for nested samplers."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to
from numpyro.handlers import seed, substitute, trace

from .._util.batches import in_batches
from .._util.checks import FloatArray
from .._util.leaves import forgetting
from ..likelihoods.site import ExternalSites
from ..models.sites import Latent, is_masked, without_masks
from ..models.unusual import unwrapped
from ..models.vector import vector_of
from ..priors.unit_cube import standard_value_at, value_at
from .density import ModelDensity

_LOOKED_AT = 256  # prior draws for the extent of a site without a map of its own; the check before a sampler starts
# takes the same number, so they share a program
_WIDER = 0.75  # scale of the logistic, in half the distance of the quantiles 0.16 and 0.84 of these draws


class Evaluated(NamedTuple):
    """A batch of points of the unit cube, evaluated.

    Attributes:
        target: (n,) log likelihood in the unit cube, for a uniform prior there; -inf where the posterior is zero.
        log_prior: (n,) in the parameters of the model.
        log_likelihood: (n,).
    """

    target: FloatArray
    log_prior: FloatArray
    log_likelihood: FloatArray


class UnitCube:
    """The posterior of a model as a likelihood over the unit cube.

    Uniform points u become values of the latent sites, in the order of the model, so that a prior may depend on the
    sites before it. What the maps lack of the prior is part of the likelihood (priors/unit_cube.py).

    Args:
        density: the posterior.
        key: for the prior draws that sites without a map of their own need.
    """

    def __init__(self, density: ModelDensity, key: jax.Array):
        self.density, self.dim = density, density.dim
        self._by_site = {latent.site: latent for latent in density._latents}
        self._extent = _extent(density, key)

    def points(self, u: FloatArray) -> FloatArray:
        """Returns the vectors (n, d) of the model at points u (n, d) of the unit cube."""
        return self._mapped(u)[0]

    def evaluate(self, u: FloatArray) -> Evaluated:
        """Returns the log densities at points u (n, d) of the unit cube."""
        x, log_ratio = self._mapped(u)
        log_prior, log_likelihood = self.density.log_prior_and_likelihood(x)
        target = log_likelihood + log_ratio
        return Evaluated(np.where(np.isnan(target), -np.inf, target), log_prior, log_likelihood)

    def _mapped(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        with jax.enable_x64(True):
            function = self.density.keep("unit_cube", lambda: jax.jit(jax.vmap(self._at, in_axes=(None, 0))))
            x, log_ratio = in_batches(lambda batch: forgetting(partial(function, self._extent, batch)), u)
        return self.density._moved_inside(x), log_ratio

    def _at(self, extent: Any, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the vector (d,) and the log ratio of the prior to the density of the map, at one point (traced)."""
        slices, start = {}, 0
        for latent in self.density._latents:
            slices[latent.site] = u[start : start + latent.space.dim]
            start += latent.space.dim
        ratios: dict[str, jax.Array] = {}

        def value_of(site: dict[str, Any]) -> jax.Array | None:
            latent = self._by_site.get(site["name"])
            if latent is None:
                return None
            value, ratios[latent.site] = _site_at(latent, site["fn"], extent[latent.site], slices[latent.site])
            return value

        model = ExternalSites(self.density.model) if self.density.external else self.density.model
        args, kwargs = self.density.arguments
        sites = trace(substitute(seed(model, 0), substitute_fn=value_of)).get_trace(*args, **kwargs)
        for name, latent in self._by_site.items():
            ratios[name] += _unusual(latent, sites[name])
        values = {name: sites[name]["value"] for name in self._by_site}
        return vector_of(self.density._latents, values), sum(ratios.values(), jnp.zeros(()))


def itself(u: FloatArray) -> FloatArray:
    """Returns points as they are: the prior transform of a sampler whose likelihood is that of a UnitCube."""
    return u


def _site_at(latent: Latent, function: Any, extent: Any, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the value of a site (*shape) and its log ratio, at a slice (k,) of a point of the unit cube."""
    whole = jnp.full(int(np.prod(latent.inner_shape)), 0.5).at[np.flatnonzero(latent.moved)].set(u)
    if latent.transform is None:
        mapped = value_at(unwrapped(function), whole.reshape(latent.shape))
        if mapped is not None:
            return mapped[0], jnp.sum(mapped[1])
    loc, scale = (part.reshape(latent.inner_shape) for part in extent)
    value, log_density, log_det = standard_value_at(latent.support, loc, scale, whole.reshape(latent.inner_shape))
    if latent.imputed is not None:
        log_det = jnp.where(latent.imputed, log_det, 0.0)
    log_map = jnp.sum(log_density.ravel()[np.flatnonzero(latent.moved)]) - jnp.sum(log_det)
    return value, jnp.sum(_plain(latent, function).log_prob(value)) - log_map


def _unusual(latent: Latent, site: dict[str, Any]) -> jax.Array:
    """Returns what a scale or a mask of a site changes in its log prior: the maps know of neither."""
    function, value, scale = site["fn"], site["value"], site["scale"]
    if scale is None and (latent.imputed is not None or not is_masked(function)):
        return jnp.zeros(())
    counted = function.log_prob(value)
    counted = counted if scale is None else scale * counted
    return jnp.sum(counted) - jnp.sum(_plain(latent, function).log_prob(value))


def _plain(latent: Latent, function: Any) -> Any:
    """Returns the distribution of a site without masks, except that of a partly observed site."""
    return function if latent.imputed is not None else without_masks(function)


def _extent(density: ModelDensity, key: jax.Array) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Returns location and scale (k,) of the unconstrained coordinates of each site, from draws of the prior."""
    found = {}
    with jax.enable_x64(True):
        values = density.constrain(density.sample_prior(key, _LOOKED_AT))
        for latent in density._latents:
            transform = latent.transform or biject_to(latent.support)
            z = np.asarray(transform.inv(jnp.asarray(values[latent.site]))).reshape(_LOOKED_AT, -1)
            z = np.clip(np.nan_to_num(z, nan=0.0), -700.0, 700.0)
            low, middle, high = np.quantile(z, [0.16, 0.5, 0.84], axis=0)
            width = np.where(high > low, 0.5 * (high - low), 1.0)
            found[latent.site] = middle, _WIDER * width
    return found
