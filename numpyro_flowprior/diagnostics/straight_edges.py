"""Straight edges of a chain's rows that a prior does not know: it has mass where a constraint admits none.

A constraint between two parameters, m2 < m1 or x + y < 1, is no bound of either. Rows end at it as at a wall, and a
smooth density reaches across.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from .._util.checks import FloatArray

_FEWEST, ENOUGH = 2000, 10_000  # rows: of fewer too little is known of how they end, more are not needed
_NEAREST = (100, 0.01)  # rows next to an edge that are looked at: so many, and this share of all, at least
_SHARP = 0.56  # their mean distance over the farthest one's: 1/2 of an even density, 2/3 of one that ends in a corner
_LEAK = (0.003, 15.0)  # share of a prior beyond an edge that counts: this, and so many rows' share, at least
_OBLIQUE = 0.1  # the least coefficient of either parameter, in standard deviations, of an edge between two
_DIGITS = 1e-3  # standard deviations to which an edge is told


@dataclass(frozen=True)
class StraightEdge:
    """A line, or a value of one parameter, that many rows are next to and none beyond, and a part of the prior is.

    Attributes:
        names: the parameters.
        coefficients: of the parameters; no row has coefficients * values > bound.
        bound: in the parameters' units.
        beyond: share of the prior's draws beyond it.
    """

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    bound: float
    beyond: float

    def __str__(self) -> str:
        sign = 1.0 if self.coefficients[0] > 0 else -1.0
        terms = [_term(sign * slope, name) for slope, name in zip(self.coefficients, self.names, strict=True)]
        return f"{' '.join(terms).removeprefix('+ ')} {'>' if sign > 0 else '<'} {sign * self.bound + 0.0:.10g}"


def straight_edges(names: Sequence[str], rows: FloatArray, draws: FloatArray) -> tuple[StraightEdge, ...]:
    """Returns the straight edges of rows beyond which draws of a prior are, the worst of each pair, the gravest first.

    Lines are the edges of each pair's convex hull. One counts if rows are as dense next to it as farther in, and if a
    share of the draws is beyond that the hull of as many right rows would hardly leave out.

    Args:
        names: of the parameters.
        rows: (n, d) nearly independent rows of equal weight; of fewer than 2,000 nothing is said.
        draws: (m, d) of the prior; the first 20,000 are looked at.
    """
    rows, draws = np.unique(rows[:ENOUGH], axis=0), draws[: 2 * ENOUGH]
    scale = rows.std(axis=0)
    if len(rows) < _FEWEST or not (scale > 0).all():
        return ()
    centre, limit = rows.mean(axis=0), max(_LEAK[0], _LEAK[1] / len(rows))
    x, y = (rows - centre) / scale, (draws - centre) / scale
    found = []
    for columns, normal, bound in _candidates(x):
        beyond = float(np.mean(y[:, columns] @ normal > bound))
        if beyond > limit and _is_sharp(bound - x[:, columns] @ normal):
            point = centre[columns] + scale[columns] * normal * bound
            found.append(_edge([names[j] for j in columns], normal / scale[columns], point, beyond))
    worst: dict[tuple[str, ...], StraightEdge] = {}
    for edge in sorted(found, key=lambda edge: -edge.beyond):
        worst.setdefault(edge.names, edge)
    return tuple(worst.values())


def _candidates(x: FloatArray) -> Iterator[tuple[list[int], FloatArray, float]]:
    """Yields columns, the outward normal (1 or 2,) and the bound of each edge of the rows' hulls, (n, d)."""
    for j in range(x.shape[1]):
        for sign in (1.0, -1.0):
            yield [j], np.array([sign]), float((sign * x[:, j]).max())
    for columns in combinations(range(x.shape[1]), 2):
        try:
            equations = ConvexHull(x[:, columns]).equations
        except QhullError:  # the rows of a pair are on a line
            continue
        for *normal, offset in equations[np.abs(equations[:, :2]).min(axis=1) > _OBLIQUE]:
            yield list(columns), np.array(normal), -float(offset)


def _is_sharp(distances: FloatArray) -> bool:
    """Returns whether rows are as dense next to an edge as farther in, by their distances from it (n,)."""
    count = max(_NEAREST[0], round(_NEAREST[1] * len(distances)))
    nearest = np.partition(distances, count)[: count + 1]
    farthest = nearest.max()
    return bool(farthest > 0 and (nearest.sum() - farthest) / count < _SHARP * farthest)


def _edge(names: list[str], slopes: FloatArray, point: FloatArray, beyond: float) -> StraightEdge:
    """Returns the edge through a point in the parameters' units, the first coefficient +1 or -1, to a few digits."""
    size = abs(slopes[0])
    coefficients = tuple(float(f"{slope / size:.4g}") for slope in slopes)
    digits = int(-np.floor(np.log10(_DIGITS / size)))  # a thousandth of a standard deviation along the normal
    bound = float(np.dot(coefficients, point))  # of these coefficients: those of epochs have no digit to lose
    return StraightEdge(tuple(names), coefficients, round(bound, min(max(digits, 0), 300)), beyond)


def _term(coefficient: float, name: str) -> str:
    size = "" if abs(coefficient) == 1 else f"{abs(coefficient):g} "
    return f"{'-' if coefficient < 0 else '+'} {size}{name}"
