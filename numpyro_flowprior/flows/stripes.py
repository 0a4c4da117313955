"""Stripes of the unit cube, one for each part of a mixture: the first coordinate chooses the part, and is rescaled.

The stripes are in the order of their weights. Parts of small weight are next to zero, where numbers are fine.
"""

from __future__ import annotations

from typing import Any


def chosen(u: Any, weights: Any) -> tuple[Any, Any]:
    """Returns the part (...,) to which points u (..., d) of the unit cube belong, and the points (..., d) within it.

    For uniform points, part k has the probability of its weight, and the points within it are uniform.

    Args:
        u: NumPy or JAX array.
        weights: (K,) of the parts, >= 0, of the same kind.
    """
    xp = weights.__array_namespace__()
    order, edges = _edges(weights)
    first = u[..., 0]
    place = xp.clip(xp.searchsorted(edges[1:], first, side="right"), 0, len(weights) - 1)
    low, high = edges[place], edges[place + 1]
    width = xp.where(high > low, high - low, 1.0)
    within = xp.clip((first - low) / width, 0.0, 1.0)
    return order[place], xp.concatenate([within[..., None], u[..., 1:]], axis=-1)


def joined(label: Any, v: Any, weights: Any) -> Any:
    """Returns points (..., d) of the unit cube for points v (..., d) within parts (...,): the inverse of `chosen`."""
    xp = weights.__array_namespace__()
    order, edges = _edges(weights)
    place = xp.argsort(order)[label]
    low, high = edges[place], edges[place + 1]
    return xp.concatenate([(low + v[..., 0] * (high - low))[..., None], v[..., 1:]], axis=-1)


def _edges(weights: Any) -> tuple[Any, Any]:
    xp = weights.__array_namespace__()
    order = xp.argsort(weights)
    ends = xp.cumsum(weights[order])
    return order, xp.concatenate([xp.zeros(1, weights.dtype), ends / ends[-1]])
