"""Batches of a few fixed sizes, so that functions are not recompiled for every number of points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .checks import FloatArray

_SMALLEST, _LARGEST = 8, 2048  # batches are padded to a power of two in this range; longer ones are cut


def power_of_two(n: int) -> int:
    """Returns the smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


def padded_batches(n: int, size: int | None = None) -> list[tuple[int, int, int]]:
    """Returns (start, rows, padded rows) of each batch of n points. If `size` is given, all batches have it."""
    batches = []
    longest = size or _LARGEST
    for start in range(0, n, longest):
        rows = min(longest, n - start)
        batches.append((start, rows, size or max(_SMALLEST, power_of_two(rows))))
    return batches


def in_float64(function: Callable[[FloatArray], Any], points: FloatArray) -> FloatArray:
    """Returns the values (n,) of a function at many points (n, d), called in batches and in float64."""
    with jax.enable_x64(True):
        values: FloatArray = np.asarray(in_batches(function, points), np.float64)
    return values


def in_batches(
    function: Callable[[FloatArray], Any], points: FloatArray, filler: Any = None, *, size: int | None = None
) -> Any:
    """Returns the values of a function at many points (n, d): a pytree of new NumPy arrays (n, ...).

    The function is called with batches of a few sizes, or of one size. Short batches are padded with copies of their
    last point. Without points, the function is called at `filler` (d,) alone, to find the shapes of the leaves.

    Args:
        function: a function of points (m, d).
        points: (n, d).
        filler: a point (d,); None if there is at least one point.
        size: size of all batches; None for powers of two up to 2048.
    """
    if size is None and _SMALLEST <= len(points) <= _LARGEST and len(points) & (len(points) - 1) == 0:  # no padding
        return jax.tree.map(np.array, function(points))
    parts = []
    for start, rows, padded in padded_batches(len(points), size) or [(0, 0, 1)]:
        batch = points[start : start + rows]
        if rows < padded:
            padding = np.broadcast_to(batch[-1] if rows else filler, (padded - rows, points.shape[1]))
            batch = np.concatenate([batch, padding])
        parts.append(jax.tree.map(lambda leaf, rows=rows: np.array(leaf)[:rows], function(batch)))
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
