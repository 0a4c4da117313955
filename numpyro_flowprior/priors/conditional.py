"""Conditional densities of a learned density in one or two parameters, normalised on a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from .._util.checks import ArrayLike, FloatArray, real_in, shorten
from .._util.leaves import as_jax
from .._util.validation import validated
from ..chains.parameters import ParameterSpace
from ..flows.support import Support, inside
from .box import OverParameters, keep_inside, points_of
from .moments import MonteCarloMoments
from .protocol import ParameterPrior
from .resolution import Held, in_full_resolution

_NODES = {1: 2001, 2: 301}  # per axis, by number of free parameters; odd, so that every second node makes a grid too
_REACH = 12.0  # half width of the first grid, in marginal standard deviations
_DEPTH = 40.0  # nats; the density counts as zero this far below the highest node
_ZOOMS = 6  # largest number of grids, each zoomed to the extent of the density
_WORST = 1e-3  # largest accepted error of log Z, from a comparison with every second node


class ConditionalPrior(MonteCarloMoments, OverParameters):
    """The conditional p(free | fixed) of a learned density for one or two free parameters, made by `condition`.

    It is the joint density divided by its integral over the free parameters. The integral is computed by the
    trapezoidal rule on a grid of unconstrained coordinates. `log_normalizer_error` is its difference from the same
    integral with every second node.

    Args:
        density: the joint density, with `space` and `log_prob`.
        space: the free parameters.
        values: (d,) values of all parameters; those of the free parameters are ignored.
        scale: (free,) scale of each half line in the unconstrained coordinates.
        axes: (free, k) nodes of the grid.
        cumulative: (k^free,) cumulative probabilities of the nodes.
        log_normalizer: log of the integral of the joint density over the free parameters.
        log_normalizer_error: numerical error of log_normalizer.
    """

    pytree_data_fields = (
        "axes",
        "cumulative",
        "density",
        "log_normalizer",
        "log_normalizer_error",
        "scale",
        "values",
    )
    pytree_aux_fields = ("space",)

    def __init__(
        self,
        density: ParameterPrior,
        space: ParameterSpace,
        *,
        values: Any,
        scale: Any,
        axes: Any,
        cumulative: Any,
        log_normalizer: float,
        log_normalizer_error: float,
        validate_args: bool | None = None,
    ):
        self.density, self.space, self.values = density, space, values
        self.scale, self.axes, self.cumulative = scale, axes, cumulative
        self.log_normalizer, self.log_normalizer_error = log_normalizer, log_normalizer_error
        super().__init__(batch_shape=(), event_shape=(space.dim,), validate_args=validate_args)

    @property
    def held(self) -> Held:  # type: ignore[override]
        """The parameters that float32 cannot resolve, as for the joint density."""
        return getattr(self.density, "held", Held())

    @in_full_resolution(points=False)
    @validated
    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> jax.Array:
        """Returns the normalised log density (...,) at points (..., free); -inf outside the support."""
        theta = points_of(value, self.space, "ConditionalPrior: value")
        joint = self.density.log_prob(_completed(self.density.space, self.space, self.values, theta))
        return jnp.where(inside(theta, self.space), joint - self.log_normalizer, -jnp.inf)

    @in_full_resolution(points=True)
    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Returns draws (*sample_shape, free) of the density, interpolated linearly between the nodes of the grid."""
        key_node, key_jitter = jax.random.split(key)
        axes, cumulative, scale = as_jax((self.axes, self.cumulative, self.scale))
        nodes = axes.shape[1]
        chosen = jnp.searchsorted(cumulative, jax.random.uniform(key_node, sample_shape))
        index = jnp.minimum(chosen, nodes**self.space.dim - 1)
        places = jnp.stack(jnp.unravel_index(index, (nodes,) * self.space.dim), axis=-1)
        z = jnp.stack([axes[j][places[..., j]] for j in range(self.space.dim)], axis=-1)
        first, second = jax.random.uniform(key_jitter, (2, *sample_shape, self.space.dim))
        z = z + (first - second) * (axes[:, 1] - axes[:, 0])
        return keep_inside(Support(self.space, scale).forward(z), self.space)

    def __repr__(self) -> str:
        whole = self.density.space
        fixed = [f"{name}={self.values[j]}" for j, name in enumerate(whole.names) if name not in self.space.names]
        return f"ConditionalPrior({self.space!r} | {', '.join(fixed)})"


def condition_on(
    density: ParameterPrior, values: Mapping[str, float], *, scale: FloatArray, loc: FloatArray, width: FloatArray
) -> ConditionalPrior:
    """Returns the conditional of a density, given values of all but one or two parameters.

    Args:
        density: a normalised density with `space` and `log_prob`; a pytree.
        values: {name: value} of the fixed parameters.
        scale: (d,) scales of half lines in the unconstrained coordinates of the density.
        loc, width: (d,) its mean and standard deviation in these coordinates, which set the first grid.

    Raises:
        ValueError: an unknown name, a value outside the support, a number of free parameters other than one or two, or
            a density that is zero on the grid or not resolved by it.
    """
    space: ParameterSpace = density.space
    fixed = {space.index(name): _checked_value(space, name, value) for name, value in values.items()}
    free = [name for name in space.names if name not in values]
    if len(free) not in _NODES:
        raise ValueError(
            f"condition: expected one or two free parameters, which a grid can normalise; got {len(free)} "
            f"({shorten(free, 40) or 'none'}). More are not supported: sample the joint prior in a model that observes "
            "the fixed parameters, or condition a prior that was trained on a chain with fewer parameters."
        )
    columns = [space.index(name) for name in free]
    kept = space.select(free)
    complete = np.array([fixed.get(j, 0.0) for j in range(space.dim)])
    log_density = _on_grids(density, kept, complete, scale[columns])
    start = np.stack([loc[columns] - _REACH * width[columns], loc[columns] + _REACH * width[columns]], axis=1)
    axes, logs = _zoomed(log_density, start)
    log_normalizer, error = _integral(axes, logs)
    if not error < _WORST:
        raise ValueError(
            f"condition: expected a density that a grid of {logs.shape[0]} nodes per axis resolves; the log of its "
            f"integral has an error of {error:.1g}. Fix other parameters, or fewer parameters."
        )
    probabilities = np.exp(logs - logs.max()).ravel()
    return ConditionalPrior(
        density,
        kept,
        values=complete,
        scale=scale[columns],
        axes=axes,
        cumulative=np.cumsum(probabilities) / probabilities.sum(),
        log_normalizer=log_normalizer,
        log_normalizer_error=error,
    )


def _checked_value(space: ParameterSpace, name: str, value: Any) -> float:
    column = space.index(name)
    return real_in(value, f"condition: {name}", space.lower[column], space.upper[column])


def _completed(space: ParameterSpace, free: ParameterSpace, values: Any, theta: jax.Array) -> jax.Array:
    """Returns points (..., d) of all parameters from points (..., free) of the free parameters."""
    columns = np.array([space.index(name) for name in free.names])
    full = jnp.broadcast_to(as_jax(values).astype(theta.dtype), (*theta.shape[:-1], space.dim))
    return full.at[..., columns].set(theta)


def _on_grids(
    density: ParameterPrior, free: ParameterSpace, values: FloatArray, scale: FloatArray
) -> Callable[[FloatArray], FloatArray]:
    """Returns a function from axes (free, k) to the joint log density on their grid, in unconstrained coordinates."""

    @jax.jit
    def at(density: ParameterPrior, z: jax.Array) -> jax.Array:
        support = Support(free, jnp.asarray(scale))
        theta, log_det = support.forward_and_log_det(z)
        return density.log_prob(_completed(density.space, free, values, keep_inside(theta, free))) + log_det

    def on_grid(axes: FloatArray) -> FloatArray:
        mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        rows = mesh.reshape(-1, len(axes[0]), len(axes))
        with jax.enable_x64(True):
            return np.stack([np.asarray(at(density, row)) for row in rows]).reshape(mesh.shape[:-1])

    return on_grid


def _zoomed(log_density: Callable[[FloatArray], FloatArray], bounds: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns axes (free, k) that just cover the extent of the density, and the log density on their grid."""
    nodes = _NODES[len(bounds)]
    for _ in range(_ZOOMS):
        axes = np.linspace(bounds[:, 0], bounds[:, 1], nodes, axis=1)
        logs = log_density(axes)
        if not np.isfinite(logs.max()):
            raise ValueError(
                "condition: expected fixed values where the density is positive; got zero on the whole grid. "
                "Fix other values."
            )
        there = np.argwhere(logs > logs.max() - _DEPTH)
        low, high = np.maximum(there.min(axis=0) - 1, 0), np.minimum(there.max(axis=0) + 1, nodes - 1)
        if (high - low > 0.5 * nodes).all():
            break
        bounds = np.stack([axes[np.arange(len(axes)), low], axes[np.arange(len(axes)), high]], axis=1)
    return axes, logs


def _integral(axes: FloatArray, logs: FloatArray) -> tuple[float, float]:
    """Returns the log of the trapezoidal sum, and its difference from the sum over every second node."""
    cell = float(np.log(axes[:, 1] - axes[:, 0]).sum())
    whole = float(logsumexp(logs)) + cell
    half = float(logsumexp(logs[(slice(None, None, 2),) * logs.ndim])) + cell + len(axes) * float(np.log(2.0))
    return whole, abs(whole - half)
