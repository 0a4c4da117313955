"""The interface of a prior in this package. NumPyro's own distributions do not name their parameters."""

from __future__ import annotations

from typing import Any, Protocol

import jax

from .._util.checks import ArrayLike
from ..chains.parameters import ParameterSpace


class ParameterPrior(Protocol):
    """A density over a vector of named parameters: a FlowPrior, a prior derived from one, or a broad prior."""

    @property
    def space(self) -> ParameterSpace:
        """The parameters, in the order of the vector, and their bounds."""

    def log_prob(self, value: ArrayLike) -> jax.Array:
        """Returns the normalised log density (...,) at points (..., d); -inf outside the support."""

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Returns draws (*sample_shape, d): a JAX array, or a NumPy array if float32 cannot resolve a parameter."""
