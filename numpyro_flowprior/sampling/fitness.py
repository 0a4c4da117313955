"""Checks of a model before a ModelDensity uses it: data are numbers, supports are fixed, and the code is JAX."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from .._util.messages import FlowPriorWarning
from ..models.sites import Latent


def _is_undefined(function: Any, value: np.ndarray) -> bool:
    """Returns whether data that contain NaN have no finite log density. A mask may hide the NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # NumPyro's own warning of values outside the support
        return not np.isfinite(function.log_prob(value)).all()


def require_numbers_observed(model_trace: dict[str, Any], observed: dict[str, np.ndarray]) -> None:
    """Raises ValueError for NaN among observed values that no mask hides. Warns if the model observes nothing."""
    if not observed:
        warnings.warn(
            "ModelDensity: the model observes nothing, so its posterior is its prior.", FlowPriorWarning, stacklevel=3
        )
    for name, value in observed.items():
        if np.isnan(value).any() and _is_undefined(model_trace[name]["fn"], value):
            raise ValueError(
                f"model: observed site {name!r}: expected numbers; got NaN in {int(np.isnan(value).sum())} of "
                f"{value.size} values. Leave them out, or replace them by finite values and mask them "
                "(numpyro.handlers.mask)."
            )


def require_fixed_supports(first: Sequence[Latent], again: Sequence[Latent]) -> None:
    """Raises ValueError unless the latent sites have the same supports in two traces with different draws."""
    for latent, other in zip(first, again, strict=True):
        in_box = latent.transform is None and other.transform is None
        if latent.space != other.space or not (in_box or latent.support == other.support):
            seen, then = (repr(each.space if in_box else each.support) for each in (latent, other))
            raise ValueError(
                f"model: the support of site {latent.site!r} depends on other latent values ({seen} in one draw, "
                f"{then} in another); expected a fixed support. Reparametrise the site."
            )


_NOT_JAX = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
_SINGLY = (None, "sequential", "sequential_unrolled")  # how a callback of JAX takes points one by one


@contextmanager
def only_jax() -> Iterator[None]:
    """Names ExternalLikelihood where a model calls code that JAX cannot trace, map or differentiate."""
    try:
        yield
    except _NOT_JAX as error:
        raise TypeError(
            "model: expected code that JAX can trace; got a function of NumPy, or a Python condition or conversion, of "
            f"latent values ({str(error).splitlines()[0]}). Write it with jax.numpy, or make the likelihood an "
            "ExternalLikelihood."
        ) from error
    except (NotImplementedError, ValueError) as error:
        if "pure_callback" not in str(error) and "Pure callbacks" not in str(error):
            raise
        raise TypeError(
            "model: its jax.pure_callback cannot be mapped over points or differentiated here. Make the function an "
            "ExternalLikelihood, which takes many points at once and may have a gradient."
        ) from error


def require_jax(log_probs: Callable[[Any], Any], dim: int) -> None:
    """Raises TypeError unless a function of one point (d,) can be traced. Warns if it calls back point by point."""
    with only_jax():
        traced = jax.make_jaxpr(jax.vmap(log_probs))(jax.ShapeDtypeStruct((2, dim), np.float64))
    if _calls_singly(traced.jaxpr):
        warnings.warn(
            "model: a jax.pure_callback in it is called at one point after the other. An ExternalLikelihood sends all "
            "points of a batch to an executor at once.",
            FlowPriorWarning,
            stacklevel=3,
        )


def _calls_singly(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pure_callback" and equation.params.get("vmap_method") in _SINGLY:
            return True
        for value in equation.params.values():
            inner = [getattr(part, "jaxpr", part) for part in (value if isinstance(value, tuple | list) else [value])]
            if any(_calls_singly(part) for part in inner if hasattr(part, "eqns")):
                return True
    return False
