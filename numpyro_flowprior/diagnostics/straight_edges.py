"""Straight edges of the rows of a chain that a prior crosses: it has mass where a constraint forbids it.

A constraint between two parameters, such as m2 < m1 or x + y < 1, is not a bound of either parameter. The rows end
abruptly at it, but a smooth density extends across it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from .._util.checks import FloatArray

_FEWEST, ENOUGH = 2000, 10_000  # rows: fewer are too few to find edges, more are not needed
_NEAREST = (100, 0.01)  # rows used next to an edge: at least this number, and at least this share of all rows
_SHARP = 0.56  # largest mean distance / maximum distance of these rows: 1/2 for a uniform density, 2/3 at a corner
_LEAK = (0.003, 15.0)  # prior share beyond an edge: at least this share, and that of this number of rows
_OBLIQUE = 0.1  # smallest coefficient of each parameter of an edge between two, in units of standard deviations
_DIGITS = 1e-3  # precision of a reported edge, in standard deviations


@dataclass(frozen=True)
class StraightEdge:
    """A line, or a value of one parameter, with many rows next to it and none beyond it, but with prior mass beyond it.

    Attributes:
        names: names of the one or two parameters.
        coefficients: coefficients of the parameters; no row has sum(coefficients * values) > bound.
        bound: the bound, in the units of the parameters.
        beyond: share of the prior draws beyond the edge.
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
    """Returns the straight edges of rows with prior draws beyond them: the worst of each parameter and pair, sorted.

    Candidates are the extreme values of each parameter and the edges of the convex hull of each pair. An edge counts
    under two conditions. The rows next to it are as dense as those farther inside. The share of the draws beyond it is
    larger than expected for the hull of the same number of rows from the prior. The edge with the largest share is
    first.

    Args:
        names: names of the parameters.
        rows: (n, d) nearly independent rows of equal weight; with fewer than 2,000 distinct rows, no edge is returned.
        draws: (m, d) draws of the prior; the first 20,000 are used.
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
    """Yields the columns, the outward normal (1 or 2,) and the bound of each edge of the hulls of rows (n, d)."""
    for j in range(x.shape[1]):
        for sign in (1.0, -1.0):
            yield [j], np.array([sign]), float((sign * x[:, j]).max())
    for columns in combinations(range(x.shape[1]), 2):
        try:
            equations = ConvexHull(x[:, columns]).equations
        except QhullError:  # all rows of the pair lie on a line
            continue
        for *normal, offset in equations[np.abs(equations[:, :2]).min(axis=1) > _OBLIQUE]:
            yield list(columns), np.array(normal), -float(offset)


def _is_sharp(distances: FloatArray) -> bool:
    """Returns whether rows are as dense next to an edge as farther inside, from their distances (n,) to it."""
    count = max(_NEAREST[0], round(_NEAREST[1] * len(distances)))
    nearest = np.partition(distances, count)[: count + 1]
    farthest = nearest.max()
    return bool(farthest > 0 and (nearest.sum() - farthest) / count < _SHARP * farthest)


def _edge(names: list[str], slopes: FloatArray, point: FloatArray, beyond: float) -> StraightEdge:
    """Returns the edge through a point, rounded, in the units of the parameters; the first coefficient is +1 or -1."""
    size = abs(slopes[0])
    coefficients = tuple(float(f"{slope / size:.4g}") for slope in slopes)
    digits = int(-np.floor(np.log10(_DIGITS / size)))  # a thousandth of a standard deviation along the normal
    bound = float(np.dot(coefficients, point))  # from the rounded coefficients, because epochs need all digits
    return StraightEdge(tuple(names), coefficients, round(bound, min(max(digits, 0), 300)), beyond)


def _term(coefficient: float, name: str) -> str:
    size = "" if abs(coefficient) == 1 else f"{abs(coefficient):g} "
    return f"{'-' if coefficient < 0 else '+'} {size}{name}"
