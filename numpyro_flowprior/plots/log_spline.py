"""A smooth density of one parameter from a histogram, by penalised likelihood.

The logarithm of the density is a quadratic spline. Its likelihood is penalised by the total variation of its second
derivative, the sum of that derivative's jumps: few pieces, each an exponential of a quadratic, and no more structure
than the draws support. Without any jump the density is a normal, an exponential, a uniform one, cut at the ends.
Held-out blocks choose the penalty. There is no kernel: a narrow peak and a plateau are drawn with their own scales, and
an end is an end.

Sources: Koenker and Mizera (2006), "Density estimation by total variation regularization"; Mammen and van de Geer
(1997), Ann. Statist. 25, 387 (locally adaptive splines).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from scipy.interpolate import BSpline
from scipy.sparse import csr_array

from .._util.checks import FloatArray
from .held_out import LOWEST, held_out_scores, smoothest

_KNOTS, _BY_DRAWS = 100, 0.5  # pieces; this share of them has equal numbers of draws, the others equal lengths
_DEGREE = 2
_RATIO, _MOST = 2.0, 24  # of penalties: from one to the next, and their number
_FLAT = 3.0  # jumps of the second derivative below it, in units of 1 / range^2, cost less than in proportion
_STEPS, _STILL, _LONGEST = 60, 0.03, 2.0  # Newton steps; changes of ln density that end them, and that one may make
_RIDGE = 1e-13  # of a scaled matrix
_TINY = 1e-300


class LogSpline:
    """Quadratic splines on the cells of a histogram.

    Args:
        counts: (m,) draws per cell, which place the knots.
    """

    def __init__(self, counts: FloatArray):
        cells = len(counts)
        edges = np.linspace(0.0, 1.0, cells + 1)
        below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
        knots = np.interp(np.linspace(0.0, 1.0, _KNOTS + 1), _BY_DRAWS * below + (1.0 - _BY_DRAWS) * edges, edges)
        knots = edges[np.unique(np.round(knots * cells / 2).astype(int) * 2)]  # at least two cells apart
        knots[-1] = 1.0
        full = np.concatenate([np.zeros(_DEGREE), knots, np.ones(_DEGREE)])
        self._cells, self._size = cells, len(full) - _DEGREE - 1
        self._centres = 0.5 * (edges[1:] + edges[:-1])
        self._design = BSpline.design_matrix(self._centres, full, _DEGREE).tocsr()
        curvature = BSpline(full, np.eye(self._size), _DEGREE).derivative(_DEGREE)(0.5 * (knots[1:] + knots[:-1]))
        self._jumps = csr_array(np.diff(curvature, axis=0))
        self._of_design, self._of_jumps = _squares(self._design), _squares(self._jumps)
        self._powers = np.stack([(self._centres - 0.5) ** power for power in range(_DEGREE + 1)], axis=1)
        self._of_powers = np.linalg.lstsq(self._design.toarray(), self._powers, rcond=None)[0]

    def polynomial(self, shares: FloatArray, degree: int) -> FloatArray:
        """Returns the coefficients (k,) of the polynomial whose exponential has the largest likelihood.

        Args:
            shares: (m,) of the draws in each cell.
            degree: of the polynomial, at most 2.
        """
        powers = self._powers[:, : degree + 1]
        found = np.zeros(degree + 1)
        found[0] = -np.log(self._cells)
        for _ in range(5 * _STEPS):
            density = np.exp(powers @ found)
            curvature = (powers.T * density) @ powers
            step = np.linalg.solve(
                curvature + _RIDGE * np.trace(curvature) * np.eye(degree + 1), powers.T @ (shares - density)
            )
            longest = float(np.abs(powers @ step).max())
            found = found + step * min(1.0, _LONGEST / max(longest, _TINY))
            if longest < _STILL**2:
                break
        return self._of_powers[:, : degree + 1] @ found

    def normal(self, shares: FloatArray) -> FloatArray:
        """Returns the coefficients (k,) of the normal density with the mean and the variance of the draws."""
        mean = float(shares @ self._centres)
        variance = float(shares @ (self._centres - mean) ** 2) + self._cells**-2.0
        at = mean - 0.5
        found = self._of_powers @ (np.array([-0.5 * at**2, at, -0.5]) / variance)
        return found - np.log(np.sum(np.exp(self.at(found))))  # the basis sums to 1 everywhere

    def largest_penalty(self, shares: FloatArray) -> float:
        """Returns the penalty from which on the best spline is the best quadratic."""
        if not self._jumps.shape[0]:
            return 1.0
        gradient = self._design.T @ (shares - np.exp(self.at(self.polynomial(shares, _DEGREE))))
        return float(np.abs(np.linalg.lstsq(self._jumps.T.toarray(), gradient, rcond=None)[0]).max())

    def fit(self, shares: FloatArray, penalty: float, start: FloatArray) -> FloatArray:
        """Returns the coefficients (k,) of the largest penalised likelihood, by iteratively reweighted Newton steps."""
        found = start
        for _ in range(_STEPS):
            jumps = self._jumps @ found
            weight = penalty / (np.abs(jumps) + _FLAT)
            density = np.exp(self.at(found))
            gradient = self._design.T @ (shares - density) - self._jumps.T @ (weight * jumps)
            curvature = self._of_design @ density + self._of_jumps @ weight
            step = _solve(curvature.reshape(self._size, self._size), gradient)
            change, populated = self.at(step), density > LOWEST * density.max()
            longest = max(float(change.max()), float(np.abs(change[populated]).max()))  # elsewhere it may fall freely
            found = found + step * min(1.0, _LONGEST / max(longest, _TINY))
            if longest < _STILL:
                break
        return found

    def at(self, coefficients: FloatArray) -> FloatArray:
        """Returns ln density per cell (m,)."""
        return self._design @ coefficients


def _squares(matrix: csr_array) -> csr_array:
    """Returns the matrix (k k, n) whose product with weights w is the sum of w_i m_i m_i^T over rows m_i, flattened."""
    n, k = matrix.shape
    entries = matrix.tocoo()
    rows = csr_array((np.ones(entries.nnz), (entries.row, np.arange(entries.nnz))), (n, entries.nnz))
    pairs = (rows.T @ rows).tocoo()  # of entries in the same row
    first, second = pairs.row, pairs.col
    place = entries.col[first].astype(np.int64) * k + entries.col[second]
    return csr_array((entries.data[first] * entries.data[second], (place, entries.row[first])), (k * k, n))


def _solve(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Returns the solution of a symmetric system, scaled to a unit diagonal."""
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), _TINY))
    scaled = scale[:, None] * matrix * scale + _RIDGE * np.eye(len(scale))
    return scale * np.linalg.solve(scaled, scale * right)


def log_spline_density(blocks: FloatArray, edges: int) -> FloatArray:
    """Returns the density per cell (m,), which sums to 1.

    Args:
        blocks: (b, m) draws per cell, in blocks of neighbouring rows.
        edges: number of ends, 0 to 2, at which the density is cut. Without any, the smoothest density is a normal one;
            with one, an exponential; with two, a uniform one.
    """
    counts = blocks.sum(axis=0)
    spline = LogSpline(counts)
    largest = spline.largest_penalty(counts / counts.sum())
    halves = [blocks[first::2].sum(axis=0) for first in (0, 1)]
    lowest, level = _DEGREE - edges, edges  # a polynomial of degree 2, unless held-out rows choose another level
    if all(half.any() for half in halves):
        paths = [_path(spline, half, lowest, np.sqrt(2.0) * largest) for half in halves]
        level, _ = smoothest((held_out_scores(blocks, both) for both in zip(*paths, strict=True)), at_least=edges + 1)
    return next(islice(_path(spline, counts, lowest, largest), level, None))


def _path(spline: LogSpline, counts: FloatArray, lowest: int, largest: float) -> Iterator[FloatArray]:
    """Yields the density per cell (m,): of polynomials, from the lowest degree to 2, then with falling penalties.

    A density that is cut nowhere begins as a normal one: the best quadratic of few draws, or of two modes, is convex.
    """
    shares = counts / counts.sum()
    for degree in range(lowest, _DEGREE + 1):
        coefficients = spline.normal(shares) if lowest == _DEGREE else spline.polynomial(shares, degree)
        yield _normalised(spline.at(coefficients))
    for level in range(1, _MOST):
        coefficients = spline.fit(shares, largest * _RATIO**-level, coefficients)
        yield _normalised(spline.at(coefficients))


def _normalised(log_density: FloatArray) -> FloatArray:
    density = np.exp(log_density - log_density.max())
    return density / density.sum()
