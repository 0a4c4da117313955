"""The declared support as a bijector from R^d to a product of intervals, half lines and lines.

- interval (l, u): theta = l + (u - l) Phi(z), so that a flat marginal is exactly standard normal;
- half line (l, inf): theta = l + s x with x / (1 + x) = Phi(z) and a scale s from the data. A density that is finite at
  the bound is mapped to an exactly normal tail, and so is a tail 1/x^2 far from the bound. Between these, the map acts
  like a logarithm. (-inf, u) is the mirror image;
- line: the identity.

Everything is computed from the distance to the nearest bound. The bound is split into two numbers of the working
precision, so that float32 keeps its relative resolution at both ends.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr, ndtri

from ..chains.parameters import ParameterSpace
from .bounds import EDGE, LARGEST_LOG, LOG_ROOT_TWO_PI, columns_by_kind, representable_bounds


def log_normal_density(z: jax.Array) -> jax.Array:
    """Returns log phi(z) of the standard normal, elementwise."""
    return -0.5 * z * z - LOG_ROOT_TWO_PI


@jax.custom_jvp
def probit(u: jax.Array) -> jax.Array:
    """Returns the standard normal quantile of u in (0, 1/2], with its exact derivative 1 / phi."""
    return ndtri(u)


@probit.defjvp
def _probit_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    z = probit(primals[0])
    return z, tangents[0] * jnp.exp(-log_normal_density(z))


def distance_to(theta: jax.Array, bound: np.ndarray) -> jax.Array:
    """Returns theta - bound, exact to the working precision even where the bound itself is not representable."""
    high = bound.astype(theta.dtype)
    low = (bound - high.astype(np.float64)).astype(theta.dtype)
    return jax.lax.optimization_barrier(theta - high) - low  # prevents XLA from merging the two constants


def interval_to_line(theta: jax.Array, lower: np.ndarray, upper: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Returns (z, log |dz / dtheta|), elementwise on (lower, upper); the bounds are exact (float64) constants."""
    width = (upper - lower).astype(theta.dtype)
    from_lower, from_upper = distance_to(theta, lower), -distance_to(theta, upper)
    near = jnp.clip(jnp.minimum(from_lower, from_upper) / width, EDGE, 0.5)
    z = probit(near)
    log_det = -jnp.log(width) - log_normal_density(z)
    return jnp.where(from_lower <= from_upper, z, -z), log_det


def line_to_interval(z: jax.Array, lower: np.ndarray, upper: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Returns (theta, log |dtheta / dz|), the inverse of `interval_to_line`."""
    width = (upper - lower).astype(z.dtype)
    step = width * ndtr(-jnp.abs(z))
    theta = jnp.where(z <= 0, lower.astype(z.dtype) + step, upper.astype(z.dtype) - step)
    return theta, jnp.log(width) + log_normal_density(z)


def half_line_to_line(distance: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (z, log |dz / d distance|) for a distance > 0 from the bound of a half line."""
    x = jnp.maximum(distance / scale, EDGE)
    near = jnp.minimum(x, 1.0) / (1.0 + x)
    far = 1.0 / (1.0 + x)
    z = jnp.where(x <= 1.0, probit(jnp.minimum(near, 0.5)), -probit(jnp.minimum(far, 0.5)))
    return z, -2.0 * jnp.log1p(x) - jnp.log(scale) - log_normal_density(z)


def line_to_half_line(z: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (distance, log |d distance / dz|), the inverse of `half_line_to_line`."""
    x = jnp.exp(jnp.minimum(log_ndtr(z) - log_ndtr(-z), LARGEST_LOG))
    return scale * x, jnp.log(scale) + 2.0 * jnp.log1p(x) + log_normal_density(z)


class Support(distrax.Bijector):
    """Distrax bijector from R^d to the declared support of a ParameterSpace, with event shape (d,).

    Args:
        space: the parameters and their bounds (static).
        scale: (d,) scale of each half line; ignored for intervals and lines.
    """

    def __init__(self, space: ParameterSpace, scale: Any):
        super().__init__(event_ndims_in=1, event_ndims_out=1)
        self._space, self._scale = space, scale

    def forward_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns theta (..., d) and log |det dtheta / dz| (...,)."""
        return self._columnwise(z, to_line=False)

    def inverse_and_log_det(self, theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns z (..., d) and log |det dz / dtheta| (...,). Points outside are treated as points at the bound."""
        return self._columnwise(theta, to_line=True)

    def _columnwise(self, x: jax.Array, *, to_line: bool) -> tuple[jax.Array, jax.Array]:
        parts, order = [], []
        for columns, function in _groups(self._space, jnp.asarray(self._scale, x.dtype), to_line=to_line):
            parts.append(function(x[..., columns]))
            order += columns
        back = np.argsort(order)
        values = jnp.concatenate([part[0] for part in parts], axis=-1)[..., back]
        return values, jnp.sum(jnp.concatenate([part[1] for part in parts], axis=-1), axis=-1)


def _groups(space: ParameterSpace, scale: jax.Array, *, to_line: bool) -> list[tuple[list[int], Any]]:
    lower, upper = np.array(space.lower), np.array(space.upper)
    interval = interval_to_line if to_line else line_to_interval
    half_line = partial(_half_line, to_line=to_line)
    makers = {
        "interval": lambda j: partial(interval, lower=lower[j], upper=upper[j]),
        "above": lambda j: partial(half_line, bound=lower[j], scale=scale[j], sign=1.0),
        "below": lambda j: partial(half_line, bound=upper[j], scale=scale[j], sign=-1.0),
        "line": lambda j: lambda x: (x, jnp.zeros_like(x)),
    }
    return [(columns.tolist(), makers[kind](columns)) for kind, columns in columns_by_kind(space).items()]


def _half_line(
    x: jax.Array, *, bound: np.ndarray, scale: jax.Array, sign: float, to_line: bool
) -> tuple[jax.Array, jax.Array]:
    if to_line:
        z, log_det = half_line_to_line(sign * distance_to(x, bound), scale)
        return sign * z, log_det
    distance, log_det = line_to_half_line(sign * x, scale)
    return jnp.asarray(bound, x.dtype) + sign * distance, log_det


def inside(theta: jax.Array, space: ParameterSpace) -> jax.Array:
    """Returns whether each point (..., d) is in the closed support, in its own precision, as bool (...,)."""
    theta = theta.astype(jnp.result_type(theta, float))
    lower, upper = representable_bounds(space, theta.dtype)
    return jnp.all((theta >= lower) & (theta <= upper), axis=-1)
