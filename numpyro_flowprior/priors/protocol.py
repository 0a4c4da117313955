"""What the package asks of a prior, by its form: NumPyro's own distributions have no names for their parameters."""

from __future__ import annotations

from typing import Any, Protocol

import jax

from .._util.checks import ArrayLike
from ..chains.parameters import ParameterSpace


class ParameterPrior(Protocol):
    """A density over the vector of named parameters: a FlowPrior, what is made of one, or a broad prior."""

    @property
    def space(self) -> ParameterSpace:
        """The parameters, in the order of the vector, and their bounds."""

    def log_prob(self, value: ArrayLike) -> jax.Array:
        """Returns the normalised log density (...,) at points (..., d); -inf outside the support."""

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Returns draws (*sample_shape, d), of JAX, or of NumPy where float32 cannot hold a parameter."""
