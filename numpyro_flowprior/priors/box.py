"""The declared support as a NumPyro constraint, its map to unconstrained space, and flat and broad priors on it.

One constraint covers boxes, half lines, lines and products of these. NumPyro's samplers use the unconstrained
coordinates that `biject_to` gives. Here these are the coordinates of flows/support.py, with unit scales on half lines.
"""

from __future__ import annotations

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from numpyro.distributions import Distribution, StudentT, biject_to, constraints
from numpyro.distributions.transforms import Transform
from numpyro.util import not_jax_tracer

from .._util.checks import ArrayLike, FloatArray, float_array, shorten
from .._util.leaves import as_jax
from .._util.validation import validated
from ..chains.parameters import ParameterSpace
from ..flows.bounds import interior_bounds
from ..flows.support import Support, inside, log_normal_density
from ..flows.unit_cube import within
from .resolution import Held, held_by_float32, in_full_resolution


class Box(constraints.Constraint):
    """NumPyro constraint for the closed support of a ParameterSpace, with event shape (d,)."""

    is_discrete = False
    event_dim = 1

    def __init__(self, space: ParameterSpace):
        self.space = space

    def __call__(self, x: Any) -> jax.Array:
        """Returns whether points (..., d) are in the closed support, as bool (...,)."""
        if isinstance(x, np.ndarray) and x.dtype == np.float64:  # float32 could round them across a bound
            return jnp.asarray(self.space.contains(x))
        return inside(jnp.asarray(x), self.space)

    def feasible_like(self, prototype: Any) -> jax.Array:
        """Returns points inside the support, with the shape (..., d) of the prototype."""
        return BoxTransform(self.space)(jnp.zeros(jnp.shape(prototype)))

    def eq(self, other: object, static: bool = False) -> bool:
        """Returns whether the other constraint is the same box."""
        return isinstance(other, Box) and self.space == other.space

    def tree_flatten(self) -> Any:
        """Returns no arrays: the space is static."""
        return (), ((), {"space": self.space})

    def __repr__(self) -> str:
        return f"Box({self.space!r})"


class BoxTransform(Transform):
    """Elementwise map from R^d to a box. Its inverse is probit on intervals, log-like on half lines (flows.support)."""

    domain = constraints.real_vector

    def __init__(self, space: ParameterSpace):
        self.space = space

    @property
    def codomain(self) -> Box:
        """The box that R^d is mapped to."""
        return Box(self.space)

    def _support(self) -> distrax.Bijector:
        return Support(self.space, np.ones(self.space.dim))

    def __call__(self, x: Any) -> jax.Array:
        """Returns points (..., d) strictly inside the box."""
        x = jnp.asarray(x)
        return keep_inside(self._support().forward(x), self.space)

    def _inverse(self, y: Any) -> jax.Array:
        return self._support().inverse(jnp.asarray(y))

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> jax.Array:
        """Returns log |det dy / dx|, (...,)."""
        return self._support().forward_log_det_jacobian(jnp.asarray(x))

    def eq(self, other: object, static: bool = False) -> bool:
        """Returns whether the other transform maps to the same box."""
        return isinstance(other, BoxTransform) and self.space == other.space

    def tree_flatten(self) -> Any:
        """Returns no arrays: the space is static."""
        return (), ((), {"space": self.space})


def keep_inside(theta: jax.Array, space: ParameterSpace) -> jax.Array:
    """Returns the points, with those that rounding put on or beyond a bound moved to the nearest number inside."""
    low, high = interior_bounds(space, theta.dtype)
    return jnp.clip(theta, low, high)


def points_of(value: Any, space: ParameterSpace, subject: str) -> jax.Array:
    """Returns `value` as a floating-point array of points (..., d) of a space.

    Raises:
        TypeError: `value` is not numeric.
        ValueError: the last axis does not have one value per parameter.
    """
    try:
        array = jnp.asarray(value)
    except TypeError:
        raise TypeError(f"{subject}: expected an array (..., {space.dim}) of numbers; got {value!r:.40}.") from None
    if array.shape[-1:] != (space.dim,):
        raise ValueError(
            f"{subject}: expected a last axis of {space.dim} values for {', '.join(space.names)}; "
            f"got shape {array.shape}."
        )
    return array.astype(jnp.result_type(array, float))


def points_of_cube(u: Any, space: ParameterSpace, subject: str) -> jax.Array:
    """Returns points u (..., d) of the unit cube of a space, as `points_of` does.

    Raises:
        ValueError: a value is not in [0, 1]; traced ones are not looked at.
    """
    array = points_of(u, space, subject)
    if not_jax_tracer(array) and not ((array >= 0.0) & (array <= 1.0)).all():
        raise ValueError(f"{subject}: expected values in [0, 1]; got others, or NaN.")
    return array


@biject_to.register(Box)  # type: ignore[untyped-decorator]
def _box_to_transform(constraint: Box) -> BoxTransform:
    return BoxTransform(constraint.space)


class OverParameters(Distribution):
    """A density over a vector of named parameters, on the declared support of its `space`."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (NumPyro's contract)
    space: ParameterSpace
    held: Held = Held()  # the parameters that float32 cannot resolve

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a pickled or copied state. A state from before `held` existed computes it."""
        self.__dict__.update(state)
        if "held" not in state:
            self._hold()

    def _hold(self) -> None:
        """Computes `held`, in the classes that store it."""

    def icdf(self, q: Any) -> Any:
        """Returns `from_unit_cube(q)`. NumPyro's nested sampler asks every distribution for this method.

        Raises:
            NotImplementedError: the density has no exact map from the unit cube.
        """
        from_unit_cube = getattr(self, "from_unit_cube", None)
        if from_unit_cube is None:
            raise NotImplementedError(
                f"{type(self).__name__}: expected a prior with a map from the unit cube; this one has none. Use "
                "sample_dynesty or sample_nautilus, which need none, or sample the prior that it was made from."
            )
        return from_unit_cube(q)

    @constraints.dependent_property(is_discrete=False, event_dim=1)  # type: ignore[untyped-decorator]
    def support(self) -> Box:
        """The declared support, a product of intervals, half lines and lines."""
        return Box(self.space)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.space!r})"


class UniformPrior(OverParameters):
    """Flat density on a bounded box of named parameters, the usual prior of a first stage.

    Args:
        space: the parameters, each with two finite bounds.

    Raises:
        ValueError: a parameter does not have two finite bounds; the message names it.

    Example:
        >>> import jax
        >>> from numpyro_flowprior import ParameterSpace, UniformPrior
        >>> prior = UniformPrior(ParameterSpace(["m", "B_G"], [0.0, 1.0], [1.5, 10.0]))
        >>> prior.sample(jax.random.key(0), (3,)).shape
        (3, 2)
        >>> round(float(prior.log_prob(jax.numpy.array([0.5, 2.0]))), 4)  # log(1 / (1.5 x 9))
        -2.6027
    """

    pytree_aux_fields = ("space", "held")

    def __init__(self, space: ParameterSpace, *, validate_args: bool | None = None):
        unbounded = [space.names[j] for j in np.flatnonzero(~np.isfinite(space.bounds).all(axis=1))]
        if unbounded:
            raise ValueError(
                f"UniformPrior: space: expected finite bounds; got infinite ones for {shorten(unbounded, 40)}. "
                "Declare a range."
            )
        self.space = space
        self._hold()
        super().__init__(batch_shape=(), event_shape=(space.dim,), validate_args=validate_args)

    def _hold(self) -> None:
        bounds = self.space.bounds
        width = np.diff(bounds, axis=1)[:, 0] / np.sqrt(12.0)
        self.held = held_by_float32(self.space, bounds.mean(axis=1), width)

    @in_full_resolution(points=False)
    @validated
    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> jax.Array:
        """Returns minus the log volume (...,) at points (..., d) inside the box; -inf outside."""
        theta = points_of(value, self.space, "UniformPrior: value")
        log_volume = float(np.sum(np.log(np.diff(self.space.bounds, axis=1))))
        return jnp.where(inside(theta, self.space), -log_volume, -jnp.inf)

    @in_full_resolution(points=True)
    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Returns draws (*sample_shape, d), strictly inside the box."""
        lower, upper = self.space.bounds.T
        fraction = jax.random.uniform(key, (*sample_shape, self.space.dim))
        return keep_inside(lower + (upper - lower) * fraction, self.space)

    @in_full_resolution(points=True)
    def from_unit_cube(self, u: ArrayLike) -> Any:
        """Returns points (..., d), strictly inside the box, for points u (..., d) of the unit cube."""
        lower, upper = self.space.bounds.T
        return keep_inside(lower + (upper - lower) * points_of_cube(u, self.space, "UniformPrior: u"), self.space)

    @in_full_resolution(points=True)
    def to_unit_cube(self, theta: ArrayLike) -> Any:
        """Returns points (..., d) of the unit cube for points theta (..., d): the inverse of `from_unit_cube`."""
        lower, upper = self.space.bounds.T
        return (points_of(theta, self.space, "UniformPrior: theta") - lower) / (upper - lower)


def _positive(value: Any, name: str, space: ParameterSpace) -> FloatArray:
    array = float_array(value, f"BroadPrior: {name}", shape=(space.dim,))
    if not (array > 0).all():
        raise ValueError(f"BroadPrior: {name}: expected positive numbers; got {shorten(array.tolist())}.")
    return array


class BroadPrior(OverParameters):
    """Density of independent parameters that is broad on the support of each.

    It is flat on an interval. On a half line it is log-logistic, with density s / (s + x)^2 at the distance x from the
    bound. On a line it is a Student t with three degrees of freedom.

    Args:
        space: the parameters.
        scale: (d,) median distance s from the bound on each half line, > 0; not used on intervals and lines.
        loc: (d,) centre of the Student t on each line.
        width: (d,) scale of the Student t on each line, > 0.

    Raises:
        TypeError, ValueError: an argument is not (d,) real numbers, or a scale or width is not positive.
    """

    pytree_data_fields = ("loc", "scale", "width")
    pytree_aux_fields = ("space", "held")

    def __init__(
        self,
        space: ParameterSpace,
        scale: ArrayLike,
        loc: ArrayLike,
        width: ArrayLike,
        *,
        validate_args: bool | None = None,
    ):
        self.space, self.loc = space, float_array(loc, "BroadPrior: loc", shape=(space.dim,))
        self.scale, self.width = (_positive(part, name, space) for part, name in ((scale, "scale"), (width, "width")))
        self._hold()
        super().__init__(batch_shape=(), event_shape=(space.dim,), validate_args=validate_args)

    def _hold(self) -> None:
        lower, upper = self.space.bounds.T
        has_lower, has_upper = np.isfinite(self.space.bounds).T
        kinds = [has_lower & has_upper, has_lower, has_upper]
        lower, upper = (np.where(np.isfinite(ends), ends, 0.0) for ends in (lower, upper))
        location = np.select(kinds, [0.5 * (lower + upper), lower, upper], self.loc)
        width = np.select(kinds, [upper - lower, self.scale, self.scale], self.width)
        self.held = held_by_float32(self.space, location, width)

    def _on_lines(self) -> np.ndarray:
        return np.asarray(~np.isfinite(self.space.bounds).any(axis=1))

    def _student(self) -> StudentT:
        return StudentT(3.0, *as_jax((self.loc, self.width)))

    @in_full_resolution(points=False)
    @validated
    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> jax.Array:
        """Returns the normalised log density (...,) at points (..., d); -inf outside the support."""
        theta = points_of(value, self.space, "BroadPrior: value")
        z, log_det = Support(self.space, as_jax(self.scale)).inverse_and_log_det(theta)
        each = jnp.where(self._on_lines(), self._student().log_prob(z), log_normal_density(z))
        return jnp.where(inside(theta, self.space), each.sum(axis=-1) + log_det, -jnp.inf)

    @in_full_resolution(points=True)
    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Returns draws (*sample_shape, d), strictly inside the support."""
        key_normal, key_student = jax.random.split(key)
        normal = jax.random.normal(key_normal, (*sample_shape, self.space.dim))
        z = jnp.where(self._on_lines(), self._student().sample(key_student, sample_shape), normal)
        return keep_inside(Support(self.space, as_jax(self.scale)).forward(z), self.space)

    @in_full_resolution(points=True)
    def from_unit_cube(self, u: ArrayLike) -> Any:
        """Returns points (..., d), strictly inside the support, for points u (..., d) of the unit cube."""
        u = within(points_of_cube(u, self.space, "BroadPrior: u"))
        z = jnp.where(self._on_lines(), self._student().icdf(u), ndtri(u))
        return keep_inside(Support(self.space, as_jax(self.scale)).forward(z), self.space)

    @in_full_resolution(points=True)
    def to_unit_cube(self, theta: ArrayLike) -> Any:
        """Returns points (..., d) of the unit cube for points theta (..., d): the inverse of `from_unit_cube`."""
        z = Support(self.space, as_jax(self.scale)).inverse(points_of(theta, self.space, "BroadPrior: theta"))
        return jnp.where(self._on_lines(), self._student().cdf(z), ndtr(z))
