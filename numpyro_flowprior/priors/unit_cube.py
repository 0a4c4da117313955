"""The prior transform of nested samplers, for any latent site of a model: from the unit cube to values.

A map need not be exact. Where uniform points do not become draws of the prior, the logarithm of the ratio of the prior
to the density of the map is returned too. A sampler that adds it to the log likelihood samples the same posterior, and
finds the same evidence. This is how a mixture of flows is sampled without jumps: all points go through its first flow,
and the ratio, close to one, accounts for the others.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from numpyro.distributions import Distribution, MultivariateNormal, biject_to

from ..flows.build import build_inner, build_outer
from ..flows.layout import is_ensemble
from ..flows.stripes import chosen
from ..flows.unit_cube import from_cube_of_first, within
from .box import BroadPrior, UniformPrior, keep_inside
from .composed import RobustPrior, TemperedPrior
from .flow_prior import FlowPrior

Mapped = tuple[jax.Array, jax.Array]  # a value, and the log ratio of the prior to the density of the map


def value_at(distribution: Any, u: jax.Array) -> Mapped | None:
    """Returns the value (*batch, *event) at points u of the unit cube of the same shape, and the log ratio (*batch).

    Traced code in float64. None if no map is known: `standard_value_at` has one for every support.

    Args:
        distribution: NumPyro distribution without masks, expansions and the like.
        u: points of the unit cube.
    """
    if isinstance(distribution, UniformPrior | BroadPrior):
        return distribution.from_unit_cube(u), jnp.zeros(u.shape[:-1])
    if isinstance(distribution, FlowPrior):
        theta, log_prior, log_map = _through_first(distribution, u)
        return theta, log_prior - log_map
    if isinstance(distribution, TemperedPrior):
        theta, _, log_map = _through_first(distribution.prior, u)
        return theta, distribution.log_prob(theta) - log_map
    if isinstance(distribution, RobustPrior):
        return _robust(distribution, u)
    if type(distribution) is MultivariateNormal:
        z = ndtri(within(u))[..., None]
        return distribution.loc + jnp.matmul(distribution.scale_tril, z)[..., 0], jnp.zeros(u.shape[:-1])
    if distribution.event_shape == () and type(distribution).icdf is not Distribution.icdf:
        with suppress(NotImplementedError, AttributeError):
            return distribution.icdf(within(u)), jnp.zeros(u.shape)
    return None


def _through_first(prior: FlowPrior, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns theta (..., d), log p(theta) and the log density of the map (...,), by the first flow of a prior."""
    config, space, params = prior.config, prior.space, prior._arrays()
    x, log_map = from_cube_of_first(config, space.dim, params, u)
    log_prior = build_inner(config, space.dim, params, u.dtype).log_prob(x) if is_ensemble(config) else log_map
    theta, log_det = build_outer(space, params, u.dtype).forward_and_log_det(x)
    return keep_inside(theta, space), log_prior - log_det, log_map - log_det


def _robust(prior: RobustPrior, u: jax.Array) -> Mapped | None:
    """Returns the value and the log ratio of a robust prior: its two parts have a stripe of the cube each."""
    label, v = chosen(u, prior._weights())
    learned, broad = value_at(prior.prior, v), value_at(prior.broad, v)
    if learned is None or broad is None:
        return None
    of_learned = label == 0
    value = jnp.where(of_learned[..., None], learned[0], broad[0])
    return value, jnp.where(of_learned, learned[1], broad[1])


def standard_value_at(support: Any, z_loc: jax.Array, z_scale: jax.Array, u: jax.Array) -> tuple[Any, jax.Array, Any]:
    """Returns a value on a support, its log density under the map (*u.shape), and log |det d value / d z|.

    The unconstrained coordinates z are logistic, with locations and scales of the shape of u.
    """
    u = within(u)
    z = z_loc + z_scale * (jnp.log(u) - jnp.log1p(-u))
    transform = biject_to(support)
    value = transform(z)
    log_density = jnp.log(u) + jnp.log1p(-u) - jnp.log(z_scale)
    return value, log_density, transform.log_abs_det_jacobian(z, value)
