"""Parameters that float32 cannot resolve, and the switch to float64 for them.

An epoch of 1187008882.43 +- 0.001 s is a single number in float32, and 1e52 erg is beyond its range. JAX computes in
float32 by default. Outside of traces, the densities of this package then compute in float64 where it matters, and
return draws as NumPy float64 arrays. Inside a user's trace, the values stay float32. A warning then names the
parameters and the remedy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .._util.checks import FloatArray
from .._util.messages import FlowPriorWarning
from ..chains.parameters import ParameterSpace

_FINEST = 2.0**-8  # of a standard deviation; a larger spacing of numbers shows in densities and draws
_LARGEST = float(np.finfo(np.float32).max) / 2.0
_SMALLEST = float(np.finfo(np.float32).smallest_normal) * 100.0  # XLA flushes numbers closer to zero than this to zero

_CURE = (
    "Enable float64 first (numpyro.enable_x64(), or jax.enable_x64(True) as a context), or use the samplers of this "
    "package, which enable it. Or subtract an offset and use units in which the parameter is of order one."
)

Method = TypeVar("Method", bound=Callable[..., Any])


class Held(NamedTuple):
    """The parameters of a density that float32 cannot resolve.

    Attributes:
        coarse: names of parameters for which the spacing of float32 is too large, or that are beyond its range.
        beyond: those of `coarse` that are beyond the range of float32.
    """

    coarse: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()


def held_by_float32(space: ParameterSpace, location: FloatArray, width: FloatArray) -> Held:
    """Returns which parameters float32 cannot resolve, given location (d,) and approximate standard deviation (d,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.spacing(np.abs(location).astype(np.float32)).astype(np.float64)
        beyond = (np.abs(location) + 10.0 * width > _LARGEST) | (width < _SMALLEST)
        coarse = ~(apart <= _FINEST * width) | beyond
    return Held(*(tuple(np.array(space.names)[chosen].tolist()) for chosen in (coarse, beyond)))


def in_full_resolution(*, points: bool) -> Callable[[Method], Method]:
    """Returns a decorator that runs a density's method in float64 if `held` has names and nothing is traced.

    In a float32 trace, the method warns once per process. It raises ValueError if a parameter is beyond the range of
    float32.

    Args:
        points: True for a method that returns points, as NumPy float64 arrays; False for log densities, in float32.
    """

    def of(method: Method) -> Method:
        @wraps(method)
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            if not self.held.coarse or jnp.result_type(float) == jnp.float64:
                return method(self, *arguments, **options)
            if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((self, arguments, options))):
                _tell(type(self).__name__, self.held)
                return method(self, *arguments, **options)
            named = {name: _double(value) for name, value in options.items()}
            with jax.ensure_compile_time_eval(), jax.enable_x64(True):  # constants in a trace stay constants
                found = np.asarray(method(self, *map(_double, arguments), **named))
            return found if points else jnp.asarray(found.astype(np.float32))

        return call  # type: ignore[return-value]

    return of


def _double(argument: Any) -> Any:
    """Returns floating-point values as float64, and anything else, such as a key, unchanged."""
    if isinstance(argument, jax.Array | np.ndarray) and not jnp.issubdtype(argument.dtype, jnp.floating):
        return argument
    return np.asarray(argument, np.float64) if isinstance(argument, jax.Array | np.ndarray | float | list) else argument


_told: set[tuple[str, ...]] = set()


def _tell(kind: str, held: Held) -> None:
    if held.beyond:
        raise ValueError(f"{kind}: this trace is in float32, which cannot represent {_listed(held.beyond)}. {_CURE}")
    if held.coarse in _told:
        return
    _told.add(held.coarse)
    warnings.warn(
        f"{kind}: float32 cannot resolve {_listed(held.coarse)} to a fraction of a standard deviation. In this trace, "
        f"values are rounded to float32. {_CURE}",
        FlowPriorWarning,
        stacklevel=4,
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))
