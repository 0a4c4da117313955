"""What the bridge asks of a model before it holds it: numbers for data, and supports that stay where they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._util.messages import FlowPriorWarning
from ..models.sites import Latent


def _is_undefined(function: Any, value: np.ndarray) -> bool:
    """Returns whether the data, NaN among them, have no finite log density (a mask may hide them)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # NumPyro's own remark on values out of support
        return not np.isfinite(function.log_prob(value)).all()


def require_numbers_observed(model_trace: dict[str, Any], observed: dict[str, np.ndarray]) -> None:
    """Raises ValueError for NaN among observed values that no mask hides; warns if there are no such values at all."""
    if not observed:
        warnings.warn(
            "ModelDensity: the model observes nothing: its posterior is its prior.", FlowPriorWarning, stacklevel=3
        )
    for name, value in observed.items():
        if np.isnan(value).any() and _is_undefined(model_trace[name]["fn"], value):
            raise ValueError(
                f"model: observed site {name!r}: expected numbers; got NaN in {int(np.isnan(value).sum())} of "
                f"{value.size} values. Leave them out, or mask them (numpyro.handlers.mask with finite stand-ins)."
            )


def require_fixed_supports(first: Sequence[Latent], again: Sequence[Latent]) -> None:
    """Raises ValueError unless the latent sites of two traces, of different draws, have the same supports."""
    for latent, other in zip(first, again, strict=True):
        in_box = latent.transform is None and other.transform is None
        if latent.space != other.space or not (in_box or latent.support == other.support):
            seen, then = (repr(each.space if in_box else each.support) for each in (latent, other))
            raise ValueError(
                f"model: the support of site {latent.site!r} depends on other latent values ({seen} in one draw, "
                f"{then} in another); a fixed one is needed. Reparametrise it."
            )
