"""Parameters that float32 cannot hold: an epoch of 1187008882.43 +- 0.001 s is one number there, 1e52 erg is none.

JAX computes in float32 unless it is told otherwise. Outside of traces the densities of this package then compute in
float64 by themselves where that matters, and hand draws back as NumPy arrays of float64. Inside of somebody's trace the
values are float32, whatever we do: a warning says of which parameters, and what helps.
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

_FINEST = 2.0**-8  # of a standard deviation: numbers farther apart than that show in densities and draws
_LARGEST = float(np.finfo(np.float32).max) / 2.0
_SMALLEST = float(np.finfo(np.float32).smallest_normal) * 100.0  # nearer to zero XLA flushes numbers to it

_CURE = (
    "Enable float64 first (numpyro.enable_x64(), or jax.enable_x64(True) as a context), or use the samplers of this "
    "package, which do; or measure from an offset, in units of about one."
)

Method = TypeVar("Method", bound=Callable[..., Any])


class Held(NamedTuple):
    """How float32 holds the parameters of a density.

    Attributes:
        coarse: names of those whose values are too far apart there, or beyond its range.
        beyond: of these, the ones beyond its range.
    """

    coarse: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()


def held_by_float32(space: ParameterSpace, location: FloatArray, width: FloatArray) -> Held:
    """Returns how float32 holds parameters at a location (d,) of standard deviations about `width` (d,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.spacing(np.abs(location).astype(np.float32)).astype(np.float64)
        beyond = (np.abs(location) + 10.0 * width > _LARGEST) | (width < _SMALLEST)
        coarse = ~(apart <= _FINEST * width) | beyond
    return Held(*(tuple(np.array(space.names)[chosen].tolist()) for chosen in (coarse, beyond)))


def in_full_resolution(*, points: bool) -> Callable[[Method], Method]:
    """Makes a method of a density compute in float64 where its parameters need it and nothing is traced.

    The density has `held`. Within a trace in float32 it warns, once a process, or refuses what is beyond its range.

    Args:
        points: whether the method returns points, which come back as NumPy's float64, or log densities, in float32.
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
            with jax.ensure_compile_time_eval(), jax.enable_x64(True):  # a constant of somebody's trace is one still
                found = np.asarray(method(self, *map(_double, arguments), **named))
            return found if points else jnp.asarray(found.astype(np.float32))

        return call  # type: ignore[return-value]

    return of


def _double(argument: Any) -> Any:
    """Returns an array of floats as float64, anything else, such as a key, as it is."""
    if isinstance(argument, jax.Array | np.ndarray) and not jnp.issubdtype(argument.dtype, jnp.floating):
        return argument
    return np.asarray(argument, np.float64) if isinstance(argument, jax.Array | np.ndarray | float | list) else argument


_told: set[tuple[str, ...]] = set()


def _tell(kind: str, held: Held) -> None:
    if held.beyond:
        raise ValueError(f"{kind}: float32, in which this trace is, ends before {_listed(held.beyond)}. {_CURE}")
    if held.coarse in _told:
        return
    _told.add(held.coarse)
    warnings.warn(
        f"{kind}: float32 cannot hold {_listed(held.coarse)} to a fraction of a standard deviation: in this trace "
        f"values are rounded to what it can. {_CURE}",
        FlowPriorWarning,
        stacklevel=4,
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names))
