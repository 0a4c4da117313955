"""Batches of a few sizes, so that compiled functions meet no new one."""

from __future__ import annotations

_SMALLEST, _LARGEST = 8, 2048  # batches are padded to powers of two between these, longer ones are cut


def padded_batches(n: int, *, largest: int = _LARGEST) -> list[tuple[int, int, int]]:
    """Returns (start, rows, padded rows) of the batches that n points are cut into."""
    batches = []
    for start in range(0, n, largest):
        rows = min(largest, n - start)
        batches.append((start, rows, max(_SMALLEST, 1 << (rows - 1).bit_length())))
    return batches
