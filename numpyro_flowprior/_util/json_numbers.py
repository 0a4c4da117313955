"""Numbers in JSON records: four significant digits, and null for NaN and infinity, which JSON lacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import FloatArray

_DIGITS = 4


def rounded(values: Any) -> Any:
    """Returns a number, or an array as nested lists, to four significant digits; NaN and infinity become None."""
    if np.ndim(values) > 0:
        return [rounded(value) for value in values]
    return float(f"{float(values):.{_DIGITS}g}") if np.isfinite(values) else None


def numbers(values: Any) -> FloatArray:
    """Returns the array for a list that `rounded` returned; None becomes NaN."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
