"""A log density that training calls: its calls are counted and timed, and its values are checked."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray, float_array, shorten
from .._util.messages import FlowPriorWarning
from ..chains.parameters import ParameterSpace

_BATCH = 4096  # points per call of a function, so that the keyboard can interrupt between calls


class CalledDensity:
    """The log density of a chain's parameters as a function of points (n, d), with a count of the calls.

    Args:
        density: a ModelDensity (an object with `names` and `log_posterior`), whose parameters are found by name, or a
            function from points (n, d), in the order of the chain's parameters, to log densities (n,).
        space: the chain's parameters.

    Attributes:
        calls: number of points evaluated so far.
        seconds: time spent in the density.

    Raises:
        TypeError: `density` is neither.
        ValueError: a ModelDensity with other parameters.
    """

    def __init__(self, density: Any, space: ParameterSpace):
        self.calls, self.seconds = 0, 0.0
        self._columns: Any = slice(None)
        self._owner = density
        self._told = False
        names = getattr(density, "names", None)
        function: Callable[[FloatArray], Any] | None = getattr(density, "log_posterior", None)
        if function is None or names is None:
            if not callable(density):
                raise TypeError(
                    "density: expected a ModelDensity, or a function of points (n, d) that returns log densities (n,); "
                    f"got {type(density).__name__}."
                )
            self._function: Callable[[FloatArray], Any] = density
            return
        if set(names) != set(space.names):
            raise ValueError(
                f"density: expected the chain's parameters {shorten(space.names, 40)}; got a model with "
                f"{shorten(names, 40)}. Parameters that were marginalised have no density: pass a function that "
                "returns the marginal log density, or leave density out."
            )
        self._function, self._columns = function, [space.index(name) for name in names]

    def __call__(self, points: FloatArray) -> FloatArray:
        """Returns the log densities (n,) at points (n, d); -inf where the density is zero or undefined.

        Raises:
            ValueError: the function returned another shape, or +inf.
        """
        start = time.perf_counter()
        parts = [self._values(points[at : at + _BATCH]) for at in range(0, len(points), _BATCH)]
        self.calls, self.seconds = self.calls + len(points), self.seconds + time.perf_counter() - start
        values = np.concatenate(parts) if parts else np.empty(0)
        undefined = np.isnan(values)
        if undefined.any() and not self._told:
            self._told = True
            warnings.warn(
                f"density: NaN at {undefined.sum()} of {len(values)} points; it counts as a density of zero there.",
                FlowPriorWarning,
                stacklevel=4,
            )
        return np.where(undefined, -np.inf, values)

    @property
    def price(self) -> float:
        """Seconds per call so far."""
        return max(self.seconds / max(self.calls, 1), getattr(self._owner, "seconds_per_call", 0.0))

    def _values(self, points: FloatArray) -> FloatArray:
        with jax.enable_x64(True):
            values = float_array(np.asarray(self._function(points[:, self._columns])), "density", shape=(len(points),))
        if (values == np.inf).any():
            raise ValueError(
                f"density: expected finite log densities or -inf; got +inf at {int((values == np.inf).sum())} of "
                f"{len(points)} points."
            )
        return values
