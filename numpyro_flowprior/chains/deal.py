"""Splits rows into parts: single rows if they are independent, blocks if neighbours are near copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._util.checks import FloatArray, shorten

HARDLY = 1.5  # autocorrelation time, in rows, below which neighbours are treated as independent
LONG = 10.0  # length of a block in autocorrelation times, if there are enough rows
_GOLDEN = 0.6180339887498949  # its multiples modulo one are evenly spread over any run of rows


def blocks_of(sequences: Sequence[np.ndarray], length: int) -> list[np.ndarray]:
    """Returns the row numbers of blocks of at least `length` consecutive rows, or of whole shorter sequences."""
    blocks = []
    for rows in sequences:
        blocks += np.array_split(rows, max(1, len(rows) // length))
    return blocks


def deal_blocks(
    generator: np.random.Generator,
    blocks: Sequence[np.ndarray],
    probabilities: FloatArray,
    fractions: Sequence[float],
) -> list[np.ndarray]:
    """Returns sorted row numbers of disjoint parts of whole blocks, with about the given fractions of the weight.

    Raises:
        ValueError: fewer blocks of positive weight than parts.
    """
    parts = len(fractions)
    heavy = [rows for rows in blocks if probabilities[rows].any()]
    if len(heavy) < parts:
        raise ValueError(f"split: the chain is too short for its autocorrelation time to be cut into {parts} blocks.")
    order = generator.permutation(len(heavy))
    ends = np.cumsum([probabilities[heavy[i]].sum() for i in order])
    cuts = [0]
    for j, share in enumerate(np.cumsum(fractions)[:-1]):
        nearest = int(np.argmin(np.abs(ends - share * ends[-1]))) + 1
        cuts.append(int(np.clip(nearest, cuts[-1] + 1, len(heavy) - (parts - 1 - j))))
    dealt = [[heavy[i] for i in part] for part in np.split(order, cuts[1:])]
    for rows in blocks:
        if not probabilities[rows].any():  # they have no weight, but training may use their log density
            dealt[generator.choice(parts, p=np.asarray(fractions) / np.sum(fractions))].append(rows)
    return [np.sort(np.concatenate(part)) for part in dealt]


def deal_rows(
    generator: np.random.Generator, weights: FloatArray, groups: np.ndarray | None, fractions: Sequence[float]
) -> list[np.ndarray]:
    """Returns sorted row numbers of disjoint parts. Each part gets its share of the heavy rows.

    Rows are dealt in the order of their weights.

    Args:
        generator: source of the random order of equal weights.
        weights: (n,) weights of the rows.
        groups: (n,) group number of each row; groups (copies or families) stay together. None for single rows.
        fractions: fractions of the rows; they sum to one.

    Raises:
        ValueError: too few rows of positive weight to give one to each part.
    """
    units = np.arange(len(weights)) if groups is None else groups
    heavy = np.bincount(units, weights)
    shuffled = generator.permutation(len(heavy))
    order = shuffled[np.argsort(-heavy[shuffled], kind="stable")]
    place = (generator.random() + _GOLDEN * np.arange(len(heavy))) % 1.0
    part = np.empty(len(heavy), dtype=int)
    part[order] = np.searchsorted(np.cumsum(fractions)[:-1], place, side="right")
    for j in range(len(fractions)):  # with few rows a part may have none
        counts = [np.sum((part == k) & (heavy > 0)) for k in range(len(fractions))]
        richest = int(np.argmax(counts))
        if counts[j] == 0 and counts[richest] > 1:
            part[np.flatnonzero((part == richest) & (heavy > 0))[0]] = j
    dealt = [np.flatnonzero(part[units] == j) for j in range(len(fractions))]
    if not all(weights[rows].any() for rows in dealt):
        raise ValueError(
            f"split: expected enough rows of positive weight for {len(fractions)} parts with fractions "
            f"{shorten(fractions)} (copies and families count once); got {np.count_nonzero(heavy)}."
        )
    return dealt
