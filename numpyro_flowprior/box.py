"""The declared support as a NumPyro constraint, with its map to unconstrained space.

One constraint for boxes, half lines, lines and any mixture of them. NumPyro's samplers walk in the coordinates that
`biject_to` gives, here the probit coordinates of the flow itself.
"""

from __future__ import annotations

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import Transform

from .chains.parameters import ParameterSpace
from .flows.support import Support, inside, interior_bounds


class Box(constraints.Constraint):
    """The closed support of a ParameterSpace, event shape (d,)."""

    is_discrete = False
    event_dim = 1

    def __init__(self, space: ParameterSpace):
        self.space = space

    def __call__(self, x: Any) -> jax.Array:
        """Returns whether points (..., d) are in the closed support, (...,) of bool."""
        return inside(jnp.asarray(x), self.space)

    def feasible_like(self, prototype: Any) -> jax.Array:
        """Returns points inside the support, shaped like the prototype (..., d)."""
        return BoxTransform(self.space)(jnp.zeros(jnp.shape(prototype)))

    def eq(self, other: object, static: bool = False) -> bool:
        """Returns whether another constraint is the same box."""
        return isinstance(other, Box) and self.space == other.space

    def tree_flatten(self) -> Any:
        """Returns no arrays: the space is static."""
        return (), ((), {"space": self.space})

    def __repr__(self) -> str:
        return f"Box({self.space!r})"


class BoxTransform(Transform):
    """R^d to a box, one parameter at a time: probit for intervals, log-like for half lines (flows.support)."""

    domain = constraints.real_vector

    def __init__(self, space: ParameterSpace):
        self.space = space

    @property
    def codomain(self) -> Box:
        """The box that points land in."""
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
        """Returns whether another transform maps to the same box."""
        return isinstance(other, BoxTransform) and self.space == other.space

    def tree_flatten(self) -> Any:
        """Returns no arrays: the space is static."""
        return (), ((), {"space": self.space})


def keep_inside(theta: jax.Array, space: ParameterSpace) -> jax.Array:
    """Returns points with those that rounding put on or past an edge moved to the nearest number inside."""
    low, high = interior_bounds(space, theta.dtype)
    return jnp.clip(theta, low, high)


@biject_to.register(Box)
def _box_to_transform(constraint: Box) -> BoxTransform:
    return BoxTransform(constraint.space)
