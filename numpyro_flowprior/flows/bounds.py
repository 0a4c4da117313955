"""Limits near to and far from bounds, and representable numbers, for the JAX and NumPy maps of the support."""

from __future__ import annotations

import numpy as np

from ..chains.parameters import ParameterSpace

# Closer to a bound than this fraction of the range (of the scale, for a half line) the density is held constant. The
# tail of a flow may be wider than a normal tail, and a density that diverges at a bound misleads samplers. Float64
# cannot distinguish points closer than this to an upper bound in any case. The mass of the flow there is its mass
# beyond |z| = 7.9.
EDGE = 1e-15

LARGEST_LOG = 80.0  # points are at most exp(80) scales from the bound of a half line: finite in float32

LOG_ROOT_TWO_PI = 0.5 * float(np.log(2.0 * np.pi))


def columns_by_kind(space: ParameterSpace) -> dict[str, np.ndarray]:
    """Returns the columns of each kind of support: "interval", half lines "above" and "below" a bound, "line"."""
    has_lower, has_upper = np.isfinite(space.bounds).T
    kinds = {
        "interval": has_lower & has_upper,
        "above": has_lower & ~has_upper,
        "below": ~has_lower & has_upper,
        "line": ~has_lower & ~has_upper,
    }
    return {kind: np.flatnonzero(chosen) for kind, chosen in kinds.items() if chosen.any()}


def representable_bounds(space: ParameterSpace, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and largest numbers of a dtype that are inside the closed support, (d,) each."""
    exact_low, exact_high = np.array(space.lower), np.array(space.upper)
    low, high = exact_low.astype(dtype), exact_high.astype(dtype)
    low = np.where(low.astype(np.float64) < exact_low, np.nextafter(low, np.array(np.inf, dtype)), low)
    high = np.where(high.astype(np.float64) > exact_high, np.nextafter(high, np.array(-np.inf, dtype)), high)
    return low, high


def interior_bounds(space: ParameterSpace, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and largest numbers of a dtype strictly inside the open support, (d,) each.

    Next to a bound at zero it is the smallest normal number, because XLA flushes smaller numbers to zero.
    """
    low, high = representable_bounds(space, dtype)
    inner_low = np.where(low.astype(np.float64) > space.lower, low, _neighbour(low, np.inf))
    inner_high = np.where(high.astype(np.float64) < space.upper, high, _neighbour(high, -np.inf))
    return np.where(np.isfinite(space.lower), inner_low, low), np.where(np.isfinite(space.upper), inner_high, high)


def _neighbour(values: np.ndarray, towards: float) -> np.ndarray:
    following = np.nextafter(values, np.array(towards, values.dtype))
    tiny = np.finfo(values.dtype).smallest_normal
    subnormal = (np.abs(following) < tiny) & (np.sign(following) == np.sign(towards))
    return np.where(subnormal, np.copysign(tiny, following), following)
