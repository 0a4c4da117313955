"""Reads the bounds of parameters from the priors in a bilby result, and notes what bounds cannot express.

bilby writes a prior as its class and the arguments of its constructor. Some bounds follow from the class alone: the
argument of a HalfGaussian is a width, and its lower bound of zero is implied by the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

_FROM_ZERO = {
    "HalfGaussian",
    "HalfNormal",
    "LogNormal",
    "LogGaussian",
    "Exponential",
    "Gamma",
    "ChiSquared",
    "FermiDirac",
}
_UNIT = {"Beta", "DirichletElement"}
_ENDS = {"Sine": (0.0, np.pi), "Cosine": (-np.pi / 2, np.pi / 2)}
_DISCRETE = {"WeightedDiscreteValues", "DiscreteValues"}
_COUNTED = {"WeightedCategorical", "Categorical"}
_CONDITIONAL = "Conditional"

_SAYS_TEXT = "written as text, from which no bounds are read: pass a ParameterSpace"
_SAYS_PERIODIC = "periodic: its two ends are the same point, which a flow does not take into account"
_SAYS_DISCRETE = "takes discrete values, which have no density: leave it out"
_SAYS_CONSTRAINED = "a constraint on the other parameters: it truncates their prior, and bounds cannot express this"
_SAYS_CONDITIONAL = (
    "its bounds depend on other parameters, and rows are outside the bounds in the file: taken as unbounded"
)


def bounds_of(prior: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the lower and upper bound of a parameter under a prior; infinite if there is none.

    Bounds in the arguments take precedence over those of the class. For a conditional prior they are its initial ones.

    Args:
        prior: its class as `__name__`, its arguments as `kwargs`.
    """
    name, arguments = kind_of(prior), _arguments(prior)
    low, high = _of_class(name, arguments)
    ends = [number_of(arguments.get(end)) for end in ("minimum", "maximum")]
    if name == "SymmetricLogUniform" and ends[1] is not None:  # both signs; the minimum is that of the absolute value
        ends[0] = -ends[1]
    return (low if ends[0] is None else ends[0], high if ends[1] is None else ends[1])


def _of_class(name: str, arguments: Mapping[str, Any]) -> tuple[float, float]:
    if name in _FROM_ZERO:
        return 0.0, np.inf
    if name in _UNIT:
        return 0.0, 1.0
    if name in _ENDS:
        return _ENDS[name]
    if name in _DISCRETE:
        return _range(arguments.get("values"))
    if name in _COUNTED:
        count = number_of(arguments.get("n_categories", arguments.get("ncategories")))
        return (0.0, np.inf) if count is None else (0.0, count - 1.0)
    if name == "Interped":
        return _range(arguments.get("xx"))
    if name == "SlabSpikePrior":
        return bounds_of(_prior(arguments.get("slab")))
    if name == "AlignedSpin":  # a magnitude times the cosine of its tilt
        (smallest, largest), (down, up) = (bounds_of(_prior(arguments.get(part))) for part in ("a_prior", "z_prior"))
        ends = [size * cosine for size in (smallest, largest) for cosine in (down, up)]
        return (min(ends), max(ends)) if np.isfinite(ends).all() else (-1.0, 1.0)
    joint = _arguments(_prior(arguments.get("dist")))
    if arguments.get("name") in (joint.get("names") or ()) and joint.get("bounds"):
        return _of_joint(joint, arguments["name"])
    return -np.inf, np.inf


def _of_joint(joint: Mapping[str, Any], name: str) -> tuple[float, float]:
    bounds = joint["bounds"]
    pair = bounds.get(name) if isinstance(bounds, Mapping) else bounds[list(joint["names"]).index(name)]
    ends = [number_of(end) for end in pair or (None, None)]
    return (-np.inf if ends[0] is None else ends[0], np.inf if ends[1] is None else ends[1])


def kind_of(prior: Mapping[str, Any]) -> str:
    """Returns the class of a prior; for a conditional prior, the class without the prefix "Conditional"."""
    return str(prior.get("__name__", "")).removeprefix(_CONDITIONAL)


def notes_on(priors: Mapping[str, Any], beyond: Mapping[str, bool]) -> dict[str, str]:
    """Returns {parameter: what a density with bounds cannot express about its prior}.

    Args:
        priors: {name: prior} of all parameters, and constraints.
        beyond: {name: whether rows are outside the bounds} of the sampled parameters.
    """
    notes = {}
    for name, prior in priors.items():
        if isinstance(prior, str) and "(" in prior:
            notes[name] = _SAYS_TEXT
        if not isinstance(prior, Mapping):
            continue
        if kind_of(prior) in ("Constraint", "EOSCheck"):
            notes[name] = _SAYS_CONSTRAINED
        elif name not in beyond:  # not sampled
            continue
        elif beyond[name] and is_conditional(prior):
            notes[name] = _SAYS_CONDITIONAL
        elif _arguments(prior).get("boundary") == "periodic":
            notes[name] = _SAYS_PERIODIC
        elif kind_of(prior) in _DISCRETE | _COUNTED:
            notes[name] = _SAYS_DISCRETE
    return notes


def is_conditional(prior: Mapping[str, Any]) -> bool:
    """Returns whether a prior's arguments are functions of other parameters."""
    return str(prior.get("__name__", "")).startswith((_CONDITIONAL, "DirichletElement"))


def keyword(prior: Mapping[str, Any], name: str) -> Any:
    """Returns the argument of a prior with this name; None if there is none."""
    return _arguments(prior).get(name)


def _arguments(prior: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = prior.get("kwargs")
    return arguments if isinstance(arguments, Mapping) else {}


def _prior(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _range(values: Any) -> tuple[float, float]:
    if isinstance(values, Mapping):  # as bilby writes arrays
        values = values.get("content")
    found = [end for end in map(number_of, values or ()) if end is not None]
    return (min(found), max(found)) if found else (-np.inf, np.inf)


def number_of(value: Any) -> float | None:
    """Returns a number in bilby's format as a float; None if it is not a number."""
    if isinstance(value, Mapping) and np.ndim(value.get("content", ())) == 0:  # as bilby writes NumPy numbers
        value = value.get("content")
    with suppress(TypeError, ValueError):
        return None if value is None or np.isnan(float(value)) else float(value)
    return None
