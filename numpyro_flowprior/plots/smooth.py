"""Smooth densities of weighted draws, for pictures: one parameter at a time, and pairs.

One parameter: a spline of the log density, see log_spline. A pair: a kernel estimate with multiplicative bias
correction, or a normal density, in coordinates in which the draws have unit covariance. The coordinates are made from
the parameters themselves, or from their normal scores z = Phi^-1(F(x)); the density is then the product of the
marginals and of the density of their copula. Scores have no bounds and no long tails. Held-out rows choose
between these ways, and all widths.

Sources: Jones, Linton and Nielsen (1995), Biometrika 82, 327 (bias); Geenens, Charpentier, Paindaveine (2017),
Bernoulli 23, 1848 (copulas from normal scores).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import toeplitz
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree
from scipy.special import ndtri
from scipy.stats import norm

from .._util.checks import FloatArray
from .held_out import BLOCKS, block_of_rows, held_out_scores, smoothest
from .log_spline import log_spline_density

_CELLS = 1024  # of one parameter
_OUTER = 5e-4  # posterior mass beyond each end of the grid of a parameter without bounds
_MARGIN = 0.1  # of the range in between, on each side
_NEAR = 0.02  # of the range: a bound this near to the draws is an edge
_ABRUPT, _FEWEST_FOR_EDGES = 0.6, 2000.0  # see _abrupt_end; effective draws
# Widths of kernels of pairs, relative to a normal density's best; infinite for a normal density. Held-out rows choose.
_WIDTHS = (np.inf, 4.0, 2.5, 1.6, 1.0, 0.63, 0.4, 0.25, 0.15, 0.1)
_NARROW = norm.pdf(np.arange(_CELLS) + 0.5, 0.5 * _CELLS, _CELLS / 16)  # a constant is drawn as a narrow peak
_AT_EDGES = 0.02  # of the mass next to an edge, in which a pair depends on one another as it does just outside of it
_FINEST, _KERNEL_ENDS = 0.7, 5.0  # cells, of a kernel; its widths, beyond which it is zero
_STEP, _REACH, _FURTHEST = 0.08, 5.5, 14.0  # of the grid of whitened coordinates: cells; at least, and at most
_NEAR_DRAWS, _NEIGHBOURS = 2000, 100  # that show the local shape of a pair's density
_ROUNDING = 1e3  # units in the last place
_OUTERMOST = 1e-12  # probability of a finite normal score
_TINY = 1e-300  # a density that is no number to divide by


@dataclass(frozen=True)
class Marginal:
    """A smooth density of one parameter.

    Attributes:
        x: (m,) centres of the grid's cells.
        density: (m,) normalised on the grid.
        edges, cdf: (m + 1,) the cells' edges, and the probability below each.
        smallest: probabilities below and above which a score is that of all values further out.
        mean, deviation: of the draws; constant: whether they differ by no more than rounding.
        standard_there, density_there, scores_there, ranks, ranks_of_half, block: (n,) of the draws: in units of the
            deviation, the density, the normal score by the smooth density, also farther out, those by their weighted
            rank among all and among the even or odd blocks, and the block of neighbours that each is in.
    """

    x: FloatArray
    density: FloatArray
    edges: FloatArray
    cdf: FloatArray
    smallest: tuple[float, float]
    mean: float
    deviation: float
    constant: bool
    standard_there: FloatArray
    density_there: FloatArray
    scores_there: FloatArray
    ranks: FloatArray
    ranks_of_half: FloatArray
    block: np.ndarray

    def at(self, x: FloatArray) -> FloatArray:
        """Returns the density at points (k,); zero outside the grid."""
        return _density(x, self.x, self.density, self.edges)

    def standard(self, x: FloatArray) -> FloatArray:
        """Returns points (k,) less the mean, in standard deviations."""
        return (x - self.mean) / self.deviation

    @property
    def has_edge(self) -> bool:
        """Whether the density ends at a bound, declared or not."""
        return _AT_EDGES in self.smallest

    def curve(self) -> tuple[FloatArray, FloatArray]:
        """Returns points (m + 2,) and the density there, with the drop to zero at both ends."""
        ends = np.array([self.edges[0], *self.x, self.edges[-1]])
        return np.concatenate([ends[:1], ends, ends[-1:]]), np.concatenate([[0.0], self.at(ends), [0.0]])

    def scores(self, x: FloatArray) -> FloatArray:
        """Returns the normal scores (k,) of points."""
        return self.cut(_scores(x, self.edges, self.cdf))

    def cut(self, scores: FloatArray) -> FloatArray:
        """Returns scores (k,), those farther out as the outermost one."""
        return np.clip(scores, ndtri(self.smallest[0]), -ndtri(self.smallest[1]))


@dataclass(frozen=True)
class Joint:
    """A smooth density of two parameters.

    Attributes:
        coordinates: in which it was estimated.
        centre, whiten: (2, 1), and (2, 2) lower triangular: whitened coordinates are whiten @ (coordinates - centre).
        table: (m, m) density of whitened coordinates in cells of side _STEP, centred on zero.
        draws: (n,) the density at the draws; weights: (n,) theirs.
    """

    coordinates: _Copula | _Straight
    centre: FloatArray
    whiten: FloatArray
    table: FloatArray
    draws: FloatArray
    weights: FloatArray

    def on_grid(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Returns the density (k, l) at all pairs of points (k,) and (l,)."""
        return self.at(*(grid.ravel() for grid in np.meshgrid(x, y, indexing="ij"))).reshape(len(x), len(y))

    def at(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Returns the density (k,) at points (k,), (k,)."""
        return _joint_at(*self.coordinates.of(x, y), self.centre, self.whiten, self.table)

    @property
    def correlation(self) -> float:
        """Of the coordinates."""
        covariance = np.linalg.inv(self.whiten.T @ self.whiten)
        return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))

    def levels(self, masses: Sequence[float]) -> list[float]:
        """Returns the densities above which a share of the draws lies, falling; equal ones are set slightly apart.

        Source: Hyndman (1996), Am. Stat. 50, 120.
        """
        order = np.argsort(-self.draws)
        below = np.cumsum(self.weights[order]) / self.weights.sum()
        levels = self.draws[order][np.minimum(np.searchsorted(below, masses), len(order) - 1)].tolist()
        for j in range(1, len(levels)):
            levels[j] = min(levels[j], levels[j - 1] * (1 - 1e-6))
        return levels


def smooth_marginal(
    x: FloatArray,
    weights: FloatArray,
    effective_size: float,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    block: np.ndarray | None = None,
) -> Marginal:
    """Returns the smooth density of one parameter.

    Args:
        x: (n,) draws.
        weights: (n,) their probabilities.
        effective_size: effective number of independent draws.
        bounds: between which the density is; infinite for none.
        block: (n,) of each row, see block_of_rows; None to make it from the draws.
    """
    block = block_of_rows(x[:, None]) if block is None else block
    low, high, is_edge = _grid_range(x, weights, bounds, effective_size)
    edges = np.linspace(low, high, _CELLS + 1)
    inside = (x >= low) & (x <= high)
    cell = np.minimum(((x[inside] - low) / (high - low) * _CELLS).astype(np.int64), _CELLS - 1)
    place = block[inside] * _CELLS + cell
    blocks: FloatArray = np.bincount(place, weights[inside], BLOCKS * _CELLS).reshape(BLOCKS, -1).astype(float)
    centres, constant = 0.5 * (edges[1:] + edges[:-1]), _is_constant(float(x.min()), float(x.max()))
    density = _NARROW if constant else log_spline_density(blocks, sum(is_edge))
    cdf = np.concatenate([[0.0], np.cumsum(density)])
    density, cdf = density / (edges[1] - edges[0]), cdf / cdf[-1]
    outermost = 0.5 / max(effective_size, 10.0)
    smallest = (_AT_EDGES if is_edge[0] else outermost, _AT_EDGES if is_edge[1] else outermost)
    if constant:
        mean, deviation = float(x[0]), 1.0
    else:
        mean = float(np.sum(weights * x) / weights.sum())
        deviation = float(np.sqrt(np.sum(weights * (x - mean) ** 2) / weights.sum())) or 1.0
    ranks = _rank_scores(x, weights), _rank_scores_of_halves(x, weights, block % 2)
    at_draws = (x - mean) / deviation, _density(x, centres, density, edges), _scores(x, edges, cdf)
    return Marginal(centres, density, edges, cdf, smallest, mean, deviation, constant, *at_draws, *ranks, block)


def _density(x: FloatArray, centres: FloatArray, density: FloatArray, edges: FloatArray) -> FloatArray:
    return np.interp(x, centres, density) * ((x >= edges[0]) & (x <= edges[-1]))


def _scores(x: FloatArray, edges: FloatArray, cdf: FloatArray) -> FloatArray:
    return ndtri(np.clip(np.interp(x, edges, cdf), _OUTERMOST, 1.0 - _OUTERMOST))


def smooth_joint(first: Marginal, second: Marginal, weights: FloatArray, effective_size: float) -> Joint:
    """Returns the smooth density of two parameters.

    Args:
        first, second: their marginals, of the same draws.
        weights: (n,) the draws' probabilities.
        effective_size: effective number of independent draws.
    """
    found = [_table_of(_Copula(first, second, by_rank=True), weights, effective_size)]
    if not (first.constant or second.constant):
        found.append(_table_of(_Copula(first, second, by_rank=False), weights, effective_size))
    if not (first.constant or second.constant or first.has_edge or second.has_edge):
        straight = _Straight(first, second)
        found += [_table_of(straight, weights, effective_size, locally=locally) for locally in (False, True)]
    best, _ = smoothest((score for *_, score in found), at_least=len(found))  # in doubt an earlier one
    coordinates, centre, whiten, table, _ = found[best]
    draws = _joint_at(*coordinates.of_draws(), centre, whiten, table)
    return Joint(coordinates, centre, whiten, table, draws, weights)


class _Copula:
    """Normal scores of two parameters.

    Args:
        by_rank: whether the density of scores is made from the ranks of the draws, whose marginals are exactly normal,
            or from their scores by the smooth marginals, which a narrow ridge needs.
    """

    def __init__(self, first: Marginal, second: Marginal, *, by_rank: bool):
        self._both = first, second
        self.there = np.stack([part.ranks if by_rank else part.scores_there for part in self._both])
        self.there_in_half = np.stack([part.ranks_of_half for part in self._both]) if by_rank else self.there
        self.block = first.block

    def of(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns the coordinates (2, n) of points, and |det dcoordinates / d(x, y)| (n,)."""
        first, second = self._both
        return self._with_jacobian(np.stack([first.scores(x), second.scores(y)]), first.at(x) * second.at(y))

    def of_draws(self) -> tuple[FloatArray, FloatArray]:
        """Returns the same of the draws."""
        first, second = self._both
        scores = np.stack([part.cut(part.scores_there) for part in self._both])
        return self._with_jacobian(scores, first.density_there * second.density_there)

    @staticmethod
    def _with_jacobian(scores: FloatArray, density: FloatArray) -> tuple[FloatArray, FloatArray]:
        return scores, density * 2 * np.pi * np.exp(0.5 * np.sum(scores**2, axis=0))


class _Straight:
    """Two parameters in units of their standard deviations, less their means."""

    def __init__(self, first: Marginal, second: Marginal):
        self._both = first, second
        self.there = self.there_in_half = np.stack([first.standard_there, second.standard_there])
        self.block = first.block

    def of(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns the coordinates (2, n) of points, and |det dcoordinates / d(x, y)| (n,)."""
        return self._with_jacobian(np.stack([part.standard(at) for part, at in zip(self._both, (x, y), strict=True)]))

    def of_draws(self) -> tuple[FloatArray, FloatArray]:
        """Returns the same of the draws."""
        return self._with_jacobian(self.there)

    def _with_jacobian(self, there: FloatArray) -> tuple[FloatArray, FloatArray]:
        first, second = self._both
        return there, np.full(there.shape[1], 1.0 / (first.deviation * second.deviation))


def _table_of(
    coordinates: _Copula | _Straight, weights: FloatArray, effective_size: float, *, locally: bool = False
) -> tuple[_Copula | _Straight, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Returns coordinates, what centres and whitens them, their density on the grid, and its held-out scores (b,).

    Marginals, which copulas contain, are made from all rows. Kernels have the shape of the covariance of all draws, or
    of differences between near ones.
    """
    centre = np.average(coordinates.there, axis=1, weights=weights)[:, None]
    covariance = np.cov(coordinates.there, aweights=weights, bias=True) + 1e-9 * np.eye(2)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    if locally:
        whiten = _local_shape(whiten @ (coordinates.there - centre), weights) @ whiten
    at = whiten @ (coordinates.there - centre)
    reach = float(np.clip(np.abs(at).max() + 0.5, _REACH, _FURTHEST))
    block, size = coordinates.block, 2 * int(np.ceil(reach / _STEP))
    best = max(effective_size, 2.0) ** (-1 / 6)
    widths = [max(factor * best, _FINEST * _STEP) for factor in _WIDTHS]
    halves = _tables(whiten @ (coordinates.there_in_half - centre), weights, block % 2, 2, size)
    scored, there = coordinates.of_draws()
    scored_tables = _tables(whiten @ (scored - centre), weights, block, BLOCKS, size)
    beyond = np.bincount(block, weights, BLOCKS) - scored_tables.sum(axis=(1, 2))
    level, score = smoothest(
        held_out_scores(scored_tables, [_smoothed(half, width * 2 ** (1 / 6) / _STEP) for half in halves], beyond)
        for width in widths
    )
    table = _smoothed(_tables(at, weights, 0 * block, 1, size)[0], widths[level] / _STEP)
    lowest = there[there > 0.0].min()  # of stray draws beyond the grid of a parameter, where its density is zero
    jacobian = np.log(np.maximum(there, lowest)) + np.log(np.linalg.det(whiten))
    score = score + np.bincount(block, weights * jacobian, BLOCKS)
    return coordinates, centre, whiten, table / (table.sum() * _STEP**2), score


def _local_shape(at: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns the (2, 2) lower triangular map of determinant 1 that makes differences of near draws isotropic.

    Modes apart, and curved ridges, have a covariance that is not that of any part of them.
    """
    share = np.cumsum(weights) / weights.sum()
    few = at[:, np.minimum(np.searchsorted(share, (np.arange(_NEAR_DRAWS) + 0.5) / _NEAR_DRAWS), at.shape[1] - 1)].T
    few = np.unique(few, axis=0)
    if len(few) < _NEIGHBOURS:
        return np.eye(2)
    _, neighbours = cKDTree(few).query(few, _NEIGHBOURS)
    apart = (few[neighbours[:, 1:]] - few[:, None]).reshape(-1, 2)
    covariance = apart.T @ apart / len(apart) + _TINY * np.eye(2)
    factor = np.linalg.cholesky(covariance + 1e-6 * np.trace(covariance) * np.eye(2))
    return np.linalg.inv(factor) * np.sqrt(np.linalg.det(factor))


def _smoothed(counts: FloatArray, width: float) -> FloatArray:
    """Returns a smoothed histogram times the smoothed ratio of the histogram to it.

    Args:
        counts: (m, m) of whitened coordinates.
        width: of the kernel, in cells; infinite for the normal density of the same covariance.
    """
    if np.isinf(width):
        normal = np.exp(-0.5 * ((np.arange(len(counts)) - 0.5 * len(counts) + 0.5) * _STEP) ** 2)
        return np.outer(normal, normal)
    apart = np.arange(len(counts)) / width
    kernel = toeplitz(np.where(apart < _KERNEL_ENDS, np.exp(-0.5 * apart**2), 0.0)) / (np.sqrt(2 * np.pi) * width)
    first = np.maximum(kernel @ counts @ kernel, _TINY)
    return first * (kernel @ np.where(counts > 0, counts / first, 0.0) @ kernel)


def _joint_at(
    there: FloatArray, jacobian: FloatArray, centre: FloatArray, whiten: FloatArray, table: FloatArray
) -> FloatArray:
    """Returns the density (n,) at coordinates (2, n)."""
    at = whiten @ (there - centre) / _STEP + 0.5 * len(table) - 0.5
    return map_coordinates(table, at, order=1, mode="constant") * np.linalg.det(whiten) * jacobian


def _rank_scores(x: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns normal scores (n,) of the weighted ranks of draws; equal draws in the order of their rows."""
    order = np.argsort(x, kind="stable")
    below = np.empty(len(x))
    below[order] = (np.cumsum(weights[order]) - 0.5 * weights[order]) / weights.sum()
    return ndtri(np.clip(below, _OUTERMOST, 1.0 - _OUTERMOST))


def _rank_scores_of_halves(x: FloatArray, weights: FloatArray, half: np.ndarray) -> FloatArray:
    """Returns normal scores (n,) of the ranks of draws among those of their half, 0 or 1."""
    scores = np.empty(len(x))
    for each in (0, 1):
        rows = half == each
        scores[rows] = _rank_scores(x[rows], weights[rows])
    return scores


def _tables(at: FloatArray, weights: FloatArray, group: np.ndarray, groups: int, size: int) -> FloatArray:
    """Returns a histogram (groups, size, size) of whitened coordinates (2, n) for each group of draws."""
    cells = at / _STEP + 0.5 * size
    inside = ((cells >= 0) & (cells < size)).all(axis=0)
    first, second = cells[:, inside].astype(np.int64)
    index = (group[inside] * size + first) * size + second
    counts: FloatArray = np.bincount(index, weights[inside], minlength=groups * size**2).astype(float)
    return counts.reshape(groups, size, size)


def _grid_range(
    x: FloatArray, weights: FloatArray, bounds: tuple[float, float], effective_size: float
) -> tuple[float, float, list[bool]]:
    """Returns where the grid begins and ends, and which of its ends are edges of the density."""
    order = np.argsort(x)
    ordered, below = np.asarray(x[order]), np.asarray(np.cumsum(weights[order]) / weights.sum())
    low, high = (
        float(ordered[min(int(np.searchsorted(below, share)), len(x) - 1)]) for share in (_OUTER, 1.0 - _OUTER)
    )
    if _is_constant(low, high):
        half = max(abs(low) * 1e-6, 1e-12)
        return low - half, high + half, [False, False]
    margin = _MARGIN * (high - low)
    ends, is_edge = [low - margin, high + margin], [False, False]
    abrupt = [
        _abrupt_end(ordered, below, effective_size),
        -_abrupt_end(-ordered[::-1], (1.0 - below + weights[order] / weights.sum())[::-1], effective_size),
    ]
    for j, bound in enumerate(bounds):
        beyond = ends[j] < bound if j == 0 else ends[j] > bound
        if abs(bound - (low, high)[j]) <= _NEAR * (high - low):
            ends[j], is_edge[j] = float(bound), True
        elif np.isfinite(abrupt[j]):
            ends[j], is_edge[j] = abrupt[j], True
        elif beyond:
            ends[j], is_edge[j] = float(bound), True
    return ends[0], ends[1], is_edge


def _is_constant(low: float, high: float) -> bool:
    """Returns whether a range is one of rounding alone."""
    return bool(high - low <= _ROUNDING * np.finfo(float).eps * max(abs(low), abs(high)))


def _abrupt_end(ordered: FloatArray, below: FloatArray, effective_size: float) -> float:
    """Returns the lower end of rising draws if their density jumps there, -inf if it falls to zero smoothly.

    The lowest hundredth of the draws then takes half as much room as the lowest fiftieth; 0.7 of it if the density is
    zero at the end and rises linearly; 0.8 in the tail of a normal density.
    """
    if effective_size < _FEWEST_FOR_EDGES:
        return -np.inf
    first, second = (int(np.searchsorted(below, share)) for share in (0.01, 0.02))
    room = ordered[second] - ordered[0]
    if room <= 0.0 or (ordered[first] - ordered[0]) / room > _ABRUPT:
        return -np.inf
    return float(ordered[0] - (ordered[first] - ordered[0]) / max(first, 1))
