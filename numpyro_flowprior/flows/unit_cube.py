"""Exact maps between the unit cube and the whitened points of a flow: uniform points become draws of the flow.

The map of a base of Gaussians is its Knothe-Rosenblatt rearrangement: the conditional distribution of a coordinate,
given those after it, is a mixture of normal distributions, and its quantile is found numerically. A mixture of flows
has no bijection of the same dimension. The first coordinate therefore also chooses the member (stripes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp, ndtr, ndtri

from .base import gaussians_of
from .bounds import LOG_ROOT_TWO_PI
from .build import build_whitened_flow, first_member
from .config import FlowConfig
from .layout import FIXED, Params, is_ensemble
from .stripes import chosen, joined

_MOST_STEPS = 100  # bisection alone needs about 60 in float64
_STEPS_OF_ROUNDING = 8.0  # a root is found when a step, or what is left, is less than this many units of rounding

# value, log weights, means, scales of the conditional -> coordinate, coordinate on the other side
_Step = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def within(u: jax.Array) -> jax.Array:
    """Returns points of the closed unit cube moved into the open one, where quantiles are finite."""
    limits = jnp.finfo(u.dtype)
    return jnp.clip(u, limits.tiny, 1.0 - limits.epsneg)


def from_unit_cube(config: FlowConfig, dim: int, params: Params, u: jax.Array) -> jax.Array:
    """Returns whitened points (..., d) for points of the unit cube (..., d): uniform ones become draws of the flow."""
    u = within(u)
    if not is_ensemble(config):
        return _from_cube_of_one(config, dim, params, u)
    label, v = chosen(u, jnp.asarray(params["mixture"]["weights"], u.dtype))
    v = within(v)

    def replaced(x: jax.Array, member: tuple[jax.Array, Params]) -> tuple[jax.Array, None]:
        number, own = member
        return jnp.where((label == number)[..., None], _from_cube_of_one(config, dim, own, v), x), None

    return jax.lax.scan(replaced, ndtri(v), _members(config, params))[0]


def to_unit_cube(config: FlowConfig, dim: int, params: Params, x: jax.Array) -> jax.Array:
    """Returns points of the unit cube (..., d) that `from_unit_cube` maps to whitened points (..., d).

    Every member has one. It is that of the member with the largest share of the density there.
    """
    if not is_ensemble(config):
        return _to_cube_of_one(config, dim, params, x)[0]
    weights = jnp.asarray(params["mixture"]["weights"], x.dtype)
    log_weights = jnp.log(weights)
    background = -0.5 * jnp.sum(x * x, axis=-1) - dim * LOG_ROOT_TWO_PI + log_weights[-1]

    def better(best: tuple[Any, ...], member: tuple[jax.Array, Params]) -> tuple[tuple[Any, ...], None]:
        number, own = member
        v, log_prob = _to_cube_of_one(config, dim, own, x)
        share = log_prob + log_weights[number]
        wins = share > best[0]
        return (
            jnp.where(wins, share, best[0]),
            jnp.where(wins, number, best[1]),
            jnp.where(wins[..., None], v, best[2]),
        ), None

    start = background, jnp.full(x.shape[:-1], config.members), ndtr(x)
    (_, label, v), _ = jax.lax.scan(better, start, _members(config, params))
    return joined(label, v, weights)


def from_cube_of_first(config: FlowConfig, dim: int, params: Params, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns whitened points (..., d) for points of the unit cube, by the first member alone, and its log density.

    The first member has the largest weight. Its map has no jumps, unlike that of the mixture, and its density is close
    to that of the mixture.
    """
    flow = first_member(config, dim, params, u.dtype)
    own = _first_of(config, params)
    x = flow.bijector.forward(_base_from_cube(config, own["base"], within(u)))
    return x, flow.log_prob(x)


def _first_of(config: FlowConfig, params: Params) -> Params:
    if not is_ensemble(config):
        return params
    return {name: jax.tree.map(lambda leaf: leaf[0], part) for name, part in params.items() if name not in FIXED}


def _members(config: FlowConfig, params: Params) -> tuple[jax.Array, Params]:
    trained = {name: jax.tree.map(jnp.asarray, part) for name, part in params.items() if name not in FIXED}
    return jnp.arange(config.members), trained


def _from_cube_of_one(config: FlowConfig, dim: int, params: Params, u: jax.Array) -> jax.Array:
    flow = build_whitened_flow(config, dim, params, u.dtype)
    return flow.bijector.forward(_base_from_cube(config, params["base"], u))


def _to_cube_of_one(config: FlowConfig, dim: int, params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns points of the unit cube (..., d) and the log density (...,) of one flow at whitened points."""
    flow = build_whitened_flow(config, dim, params, x.dtype)
    omega, log_det = flow.bijector.inverse_and_log_det(x)
    return _base_to_cube(config, params["base"], omega), flow.distribution.log_prob(omega) + log_det


def _base_from_cube(config: FlowConfig, base: Params, u: jax.Array) -> jax.Array:
    """Returns latent points (..., d), draws of the base for uniform points u (..., d)."""
    if config.base == "normal":
        return ndtri(u)

    def step(value: jax.Array, *conditional: jax.Array) -> tuple[jax.Array, jax.Array]:
        coordinate = mixture_quantile(value, *conditional)
        return coordinate, coordinate

    return _one_after_another(config, base, u, step)


def _base_to_cube(config: FlowConfig, base: Params, omega: jax.Array) -> jax.Array:
    """Returns points of the unit cube (..., d), uniform for draws omega (..., d) of the base."""
    if config.base == "normal":
        return ndtr(omega)
    return _one_after_another(config, base, omega, lambda value, *conditional: (value, _cdf(value, *conditional)))


def _one_after_another(config: FlowConfig, base: Params, values: jax.Array, step: _Step) -> jax.Array:
    """Returns the results (..., d) of a step for each coordinate, from the last one to the first.

    With the inverse covariance A A^T of base.py, a coordinate depends on those after it only, in each Gaussian.
    """
    logits, mean, scale, shear = gaussians_of(config, base, values.dtype)
    components, dim = mean.shape

    def at(carry: tuple[jax.Array, jax.Array], j: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        log_weights, standard = carry  # (..., K) given the coordinates so far, (..., K, d) and zero for the others
        here, width = mean[:, j], scale[:, j]
        if shear is not None:
            here = here - width * jnp.einsum("...ki,ki->...k", standard, shear[:, :, j])
        coordinate, result = step(values[..., j], log_weights, here, width)
        from_mean = (coordinate[..., None] - here) / width
        log_weights = jax.nn.log_softmax(log_weights - 0.5 * from_mean**2 - jnp.log(width))
        standard = standard.at[..., j].set((coordinate[..., None] - mean[:, j]) / width)
        return (log_weights, standard), result

    lead = values.shape[:-1]
    start = (
        jnp.broadcast_to(jax.nn.log_softmax(logits), (*lead, components)),
        jnp.zeros((*lead, components, dim), values.dtype),
    )
    _, results = jax.lax.scan(at, start, jnp.arange(dim)[::-1])
    return jnp.moveaxis(results[::-1], 0, -1)


def _cdf(x: jax.Array, log_weights: jax.Array, mean: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(log_weights) * ndtr((x[..., None] - mean) / scale), axis=-1)


def mixture_quantile(u: jax.Array, log_weights: jax.Array, mean: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns x (...,) at which a mixture of normal distributions has the cumulative probability u (...,) in (0, 1).

    Newton's method for the probit of the probability, with bisection where a step leaves the bracket. The derivatives
    are exact: they are those of the equation that x solves.

    Args:
        u: (...,).
        log_weights: (..., K), normalised.
        mean, scale: (..., K), or broadcastable to it.
    """
    above = u > 0.5
    sign = jnp.where(above, -1.0, 1.0).astype(u.dtype)
    tail, mean = jnp.where(above, 1.0 - u, u), sign[..., None] * mean  # from the nearer end, where numbers are fine
    fixed = jax.lax.stop_gradient((tail, log_weights, mean, scale))
    x = jax.lax.stop_gradient(_root(*fixed))
    slope = _density(x, *fixed[1:])
    off = _cdf(x, log_weights, mean, scale) - tail
    return sign * (x - off / jnp.where(slope > 0, slope, jnp.inf))


def _density(x: jax.Array, log_weights: jax.Array, mean: jax.Array, scale: jax.Array) -> jax.Array:
    parts = log_weights - 0.5 * ((x[..., None] - mean) / scale) ** 2 - jnp.log(scale)
    return jnp.exp(logsumexp(parts, axis=-1) - LOG_ROOT_TWO_PI)


def _root(tail: jax.Array, log_weights: jax.Array, mean: jax.Array, scale: jax.Array) -> jax.Array:
    z = ndtri(tail)
    each = mean + scale * z[..., None]  # the quantile of each Gaussian; that of the mixture is between them
    rounding = _STEPS_OF_ROUNDING * jnp.finfo(tail.dtype).eps
    start = each.min(axis=-1), each.max(axis=-1), jnp.sum(jnp.exp(log_weights) * each, axis=-1)

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        return (state[0] < _MOST_STEPS) & ~state[2].all()

    def closer(state: tuple[Any, ...]) -> tuple[Any, ...]:
        count, (low, high, x), _ = state
        here = ndtri(_cdf(x, log_weights, mean, scale))
        low, high = jnp.where(here < z, x, low), jnp.where(here < z, high, x)
        step = (here - z) * jnp.exp(-0.5 * here**2 - LOG_ROOT_TWO_PI) / _density(x, log_weights, mean, scale)
        new = jnp.where((x - step > low) & (x - step < high), x - step, 0.5 * (low + high))
        new = jnp.where(jnp.abs(here - z) <= rounding * jnp.maximum(jnp.abs(here), 1.0), x, new)
        done = jnp.abs(new - x) <= rounding * jnp.maximum(jnp.abs(x), jnp.min(scale, axis=-1))
        return count + 1, (low, high, new), done

    _, (_, _, x), _ = jax.lax.while_loop(unfinished, closer, (0, start, jnp.zeros(tail.shape, bool)))
    return x
