"""Checks of a model before a ModelDensity uses it: the data are numbers, and the supports are fixed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

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
