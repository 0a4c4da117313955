"""Smooth densities of weighted draws, for pictures: one parameter at a time, and pairs.

One parameter: an adaptive kernel density estimate, corrected to first order at bounds, with multiplicative bias
correction. A pair: a kernel estimate with the same bias correction, in coordinates in which the draws have unit
covariance. The coordinates are made from the parameters themselves, or from their normal scores z = Phi^-1(F(x)); the
density is then the product of the marginals and of their copula's density. Normal scores have no bounds and no long
tails. Held-out rows choose between the two, and all widths.

Sources: Abramson (1982), Ann. Statist. 10, 1217 (adaptive kernels); Jones and Foster (1996), Statist. Sinica 6, 1005
(bounds); Jones, Linton and Nielsen (1995), Biometrika 82, 327 (bias); Geenens, Charpentier, Paindaveine (2017),
Bernoulli 23, 1848 (copulas from normal scores).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates
from scipy.spatial import cKDTree
from scipy.special import ndtr, ndtri

from .._util.checks import FloatArray

_CELLS = 1024  # of one parameter
_OUTER = 5e-4  # posterior mass beyond each end of the grid of a parameter without bounds
_MARGIN = 0.1  # of the range in between, on each side
_NEAR = 0.02  # of the range: a bound this near to the draws is an edge
_ABRUPT, _FEWEST_FOR_EDGES = 0.6, 2000.0  # see _abrupt_end; effective draws
# Widths relative to a normal density's best; held-out rows choose.
_WIDTHS = (0.15, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0)
_WIDTHS_OF_PAIRS = (0.1, 0.15, 0.25, 0.4, 0.63, 1.0, 1.6, 2.5, 4.0)
_LOCAL = np.geomspace(1 / 32, 3.0, 10)  # widths of single kernels, relative to the others
_AT_EDGES = 0.02  # of the mass next to an edge, in which a pair depends on one another as it does just outside of it
_BLOCKS = 20  # of rows, every other of which is held out
_SLACK = 0.5  # standard errors
_FINEST = 0.7  # cells, of a kernel
_STEP, _REACH, _FURTHEST = 0.08, 5.5, 14.0  # of the grid of whitened coordinates: cells; at least, and at most
_NEAR_DRAWS, _NEIGHBOURS = 2000, 100  # that show the local shape of a pair's density
_ROUNDING = 1e3  # units in the last place
_LOWEST = 1e-5  # of the highest density: a stray row farther out does not decide
_TINY = 1e-300  # a density that is no number to divide by


@dataclass(frozen=True)
class Marginal:
    """A smooth density of one parameter.

    Attributes:
        x: (m,) centres of the grid's cells.
        density: (m,) normalised on the grid.
        edges, cdf: (m + 1,) the cells' edges, and the probability below each.
        smallest: probabilities below and above which a score is that of all values further out.
        mean, deviation: of the draws.
        standard_there, density_there, scores_there, ranks, block: (n,) of the draws: in units of the deviation, the
            density, the normal score by the smooth density, that by their weighted rank, and the block of neighbours
            that each is in.
    """

    x: FloatArray
    density: FloatArray
    edges: FloatArray
    cdf: FloatArray
    smallest: tuple[float, float]
    mean: float
    deviation: float
    standard_there: FloatArray
    density_there: FloatArray
    scores_there: FloatArray
    ranks: FloatArray
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
        return _scores(x, self.edges, self.cdf, self.smallest)


@dataclass(frozen=True)
class Joint:
    """A smooth density of two parameters.

    Attributes:
        coordinates: in which it was estimated.
        whiten: (2, 2) lower triangular: whitened coordinates are whiten @ coordinates.
        table: (m, m) density of whitened coordinates in cells of side _STEP, centred on zero.
        draws: (n,) the density at the draws; weights: (n,) theirs.
    """

    coordinates: _Copula | _Straight
    whiten: FloatArray
    table: FloatArray
    draws: FloatArray
    weights: FloatArray

    def on_grid(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Returns the density (k, l) at all pairs of points (k,) and (l,)."""
        return self.at(*(grid.ravel() for grid in np.meshgrid(x, y, indexing="ij"))).reshape(len(x), len(y))

    def at(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Returns the density (k,) at points (k,), (k,)."""
        return _joint_at(*self.coordinates.of(x, y), self.whiten, self.table)

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
    x: FloatArray, weights: FloatArray, effective_size: float, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Marginal:
    """Returns the smooth density of one parameter.

    Args:
        x: (n,) draws.
        weights: (n,) their probabilities.
        effective_size: effective number of independent draws.
        bounds: between which the density is; infinite for none.
    """
    low, high, is_edge = _grid_range(x, weights, bounds, effective_size)
    edges = np.linspace(low, high, _CELLS + 1)
    inside, block = (x >= low) & (x <= high), _block(x)
    cell = np.minimum(((x[inside] - low) / (high - low) * _CELLS).astype(np.int64), _CELLS - 1)
    place = block[inside] * _CELLS + cell
    blocks: FloatArray = np.bincount(place, weights[inside], _BLOCKS * _CELLS).reshape(_BLOCKS, -1).astype(float)
    centres, counts = 0.5 * (edges[1:] + edges[:-1]), blocks.sum(axis=0)
    best = 0.9 * _scale(centres, counts) / (edges[1] - edges[0]) * max(effective_size, 2.0) ** -0.2  # in cells
    widths = [max(factor * best, _FINEST) for factor in _WIDTHS]
    width, _ = _best_width(
        widths, lambda one: _held_out(blocks, partial(_estimate, width=one * 2**0.2, is_edge=is_edge))
    )
    density = _estimate(counts, width, is_edge)
    cdf = np.concatenate([[0.0], np.cumsum(density)])
    density, cdf = density / density.sum() / (edges[1] - edges[0]), cdf / cdf[-1]
    outermost = 0.5 / max(effective_size, 10.0)
    smallest = (_AT_EDGES if is_edge[0] else outermost, _AT_EDGES if is_edge[1] else outermost)
    if _is_constant(float(x.min()), float(x.max())):
        mean, deviation = float(x[0]), 1.0
    else:
        mean = float(np.sum(weights * x) / weights.sum())
        deviation = float(np.sqrt(np.sum(weights * (x - mean) ** 2) / weights.sum())) or 1.0
    ranks = _rank_scores(x, weights)
    at_draws = (x - mean) / deviation, _density(x, centres, density, edges), _scores(x, edges, cdf, smallest)
    return Marginal(centres, density, edges, cdf, smallest, mean, deviation, *at_draws, ranks, block)


def _density(x: FloatArray, centres: FloatArray, density: FloatArray, edges: FloatArray) -> FloatArray:
    return np.interp(x, centres, density) * ((x >= edges[0]) & (x <= edges[-1]))


def _scores(x: FloatArray, edges: FloatArray, cdf: FloatArray, smallest: tuple[float, float]) -> FloatArray:
    return ndtri(np.clip(np.interp(x, edges, cdf), smallest[0], 1.0 - smallest[1]))


def smooth_joint(first: Marginal, second: Marginal, weights: FloatArray, effective_size: float) -> Joint:
    """Returns the smooth density of two parameters.

    Args:
        first, second: their marginals, of the same draws.
        weights: (n,) the draws' probabilities.
        effective_size: effective number of independent draws.
    """
    found = [_table_of(_Copula(first, second), weights, effective_size)]
    if not (first.has_edge or second.has_edge):
        straight = _Straight(first, second)
        found += [_table_of(straight, weights, effective_size, locally=locally) for locally in (False, True)]
    coordinates, whiten, table, _ = max(found, key=lambda one: one[-1])
    draws = _joint_at(*coordinates.of_draws(), whiten, table)
    return Joint(coordinates, whiten, table, draws, weights)


class _Copula:
    """Normal scores of two parameters."""

    def __init__(self, first: Marginal, second: Marginal):
        self._both = first, second
        self.there = np.stack([first.ranks, second.ranks])  # that no smoothing of the marginals bends
        self.block = first.block

    def of(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns the coordinates (2, n) of points, and |det dcoordinates / d(x, y)| (n,)."""
        first, second = self._both
        return self._with_jacobian(np.stack([first.scores(x), second.scores(y)]), first.at(x) * second.at(y))

    def of_draws(self) -> tuple[FloatArray, FloatArray]:
        """Returns the same of the draws."""
        first, second = self._both
        scores = np.stack([first.scores_there, second.scores_there])
        return self._with_jacobian(scores, first.density_there * second.density_there)

    @staticmethod
    def _with_jacobian(scores: FloatArray, density: FloatArray) -> tuple[FloatArray, FloatArray]:
        return scores, density * 2 * np.pi * np.exp(0.5 * np.sum(scores**2, axis=0))


class _Straight:
    """Two parameters in units of their standard deviations, less their means."""

    def __init__(self, first: Marginal, second: Marginal):
        self._both = first, second
        self.there = np.stack([first.standard_there, second.standard_there])
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
) -> tuple[_Copula | _Straight, FloatArray, FloatArray, float]:
    """Returns the coordinates, the matrix that whitens them, their density on the grid, and its held-out score.

    Kernels have the shape of the covariance of all draws, or of differences between near ones.
    """
    covariance = np.cov(coordinates.there, aweights=weights, bias=True) + 1e-9 * np.eye(2)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    if locally:
        whiten = _local_shape(whiten @ coordinates.there, weights) @ whiten
    at = whiten @ coordinates.there
    reach = float(np.clip(np.abs(at).max() + 0.5, _REACH, _FURTHEST))
    tables = _tables(at, weights, coordinates.block, 2 * int(np.ceil(reach / _STEP)))
    best = max(effective_size, 2.0) ** (-1 / 6)
    widths = [max(factor * best, _FINEST * _STEP) for factor in _WIDTHS_OF_PAIRS]
    width, score = _best_width(
        widths, lambda one: _held_out(tables, partial(_unbiased, width=one * 2 ** (1 / 6) / _STEP))
    )
    table = _unbiased(tables.sum(axis=0), width / _STEP)
    with np.errstate(divide="ignore"):  # where a marginal is zero
        jacobian = np.maximum(np.log(coordinates.of_draws()[1]) + np.log(np.linalg.det(whiten)), np.log(_TINY))
    beyond = 1.0 - float(tables.sum())  # which the scores leave out
    score += float(np.sum(weights * jacobian) + beyond * np.log(_LOWEST))
    return coordinates, whiten, table / (table.sum() * _STEP**2), score


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


def _unbiased(counts: FloatArray, width: float) -> FloatArray:
    """Returns a smoothed histogram times the smoothed ratio of the histogram to it."""
    smooth = partial(gaussian_filter, sigma=width, mode="constant", truncate=3.5)
    first = np.maximum(smooth(counts), _TINY)
    ratio: FloatArray = smooth(np.where(counts > 0, counts / first, 0.0))
    return first * ratio


def _joint_at(there: FloatArray, jacobian: FloatArray, whiten: FloatArray, table: FloatArray) -> FloatArray:
    """Returns the density (n,) at coordinates (2, n)."""
    at = whiten @ there / _STEP + 0.5 * len(table) - 0.5
    return map_coordinates(table, at, order=1, mode="constant") * np.linalg.det(whiten) * jacobian


def _rank_scores(x: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns normal scores (n,) of the weighted ranks of draws; equal draws in the order of their rows."""
    order = np.argsort(x, kind="stable")
    below = np.empty(len(x))
    below[order] = (np.cumsum(weights[order]) - 0.5 * weights[order]) / weights.sum()
    return ndtri(np.clip(below, 1e-12, 1.0 - 1e-12))


def _tables(at: FloatArray, weights: FloatArray, block: np.ndarray, size: int) -> FloatArray:
    """Returns a histogram (blocks, size, size) of whitened coordinates (2, n) for each block."""
    cells = at / _STEP + 0.5 * size
    inside = ((cells >= 0) & (cells < size)).all(axis=0)
    first, second = cells[:, inside].astype(np.int64)
    index = (block[inside] * size + first) * size + second
    counts: FloatArray = np.bincount(index, weights[inside], minlength=_BLOCKS * size**2).astype(float)
    return counts.reshape(_BLOCKS, size, size)


def _block(x: FloatArray) -> np.ndarray:
    """Returns the block (n,) of each draw. Neighbouring rows share one, since they are dependent; so do equal draws."""
    first, inverse = np.unique(x, return_index=True, return_inverse=True)[1:]
    return first[inverse] * _BLOCKS // max(len(x), 1)


def _held_out(blocks: FloatArray, density_of: Callable[..., Any]) -> FloatArray:
    """Returns the log density, summed over each block's rows, that every other block's estimate has there."""
    scores = np.zeros(len(blocks))
    for first in (0, 1):
        half = blocks[first::2].sum(axis=0)
        if not half.any():  # all draws are equal
            continue
        density = density_of(half)
        log_density = np.log(np.maximum(density, _LOWEST * density.max()) / density.sum())
        scores[1 - first :: 2] = np.sum(blocks[1 - first :: 2] * log_density, axis=tuple(range(1, blocks.ndim)))
    return scores


def _best_width(widths: Sequence[float], score_of: Callable[[float], FloatArray]) -> tuple[float, float]:
    """Returns the widest kernel whose score is the best one within half a standard error, and that score.

    Args:
        widths: rising.
        score_of: returns the held-out score of each block. It is asked from the widest on, until two are worse.
    """
    scores: dict[float, FloatArray] = {}
    for width in reversed(widths):
        scores[width] = score_of(width)
        totals = [float(np.sum(score)) for score in scores.values()]
        if int(np.argmax(totals)) < len(totals) - 2:
            break
    best = scores[max(scores, key=lambda width: float(np.sum(scores[width])))]
    for width, score in scores.items():
        lost = best - score
        if np.sum(lost) <= _SLACK * np.std(lost) * np.sqrt(len(lost)):
            return width, float(np.sum(score))
    raise AssertionError("the best one loses nothing")


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


def _scale(x: FloatArray, counts: FloatArray) -> float:
    """Returns the smaller of the standard deviation and the interquartile range's of a normal density."""
    p = counts / counts.sum()
    mean = p @ x
    deviation = float(np.sqrt(p @ (x - mean) ** 2))
    quartiles = np.interp([0.25, 0.75], np.cumsum(p), x)
    spread = float(quartiles[1] - quartiles[0]) / 1.349
    return min(deviation, spread) if spread > 0 else max(deviation, float(x[1] - x[0]))


def _estimate(counts: FloatArray, width: float, is_edge: Sequence[bool]) -> FloatArray:
    """Returns the density per cell: an adaptive estimate times the smoothed ratio of the histogram to it."""
    first = np.maximum(_adaptive(counts, width, is_edge), _TINY)
    return first * _corrected([np.where(counts > 0, counts / first, 0.0)], [width], is_edge)


def _adaptive(counts: FloatArray, width: float, is_edge: Sequence[bool]) -> FloatArray:
    """Returns the density per cell: kernels as wide as the inverse square root of a first estimate, 1 on average."""
    pilot = np.maximum(_corrected([counts], [width], is_edge), _TINY)
    rows = counts > 0
    mean = np.exp(np.sum(counts[rows] * np.log(pilot[rows])) / counts.sum())
    local = np.clip(np.sqrt(mean / pilot), _LOCAL[0], _LOCAL[-1])
    step = np.log(_LOCAL[1] / _LOCAL[0])
    place = np.log(local / _LOCAL[0]) / step
    lower = np.minimum(place.astype(np.int64), len(_LOCAL) - 2)
    share = place - lower  # of the wider of two kernels: no step where the width changes
    groups = [
        counts * (np.where(lower == j, 1.0 - share, 0.0) + np.where(lower == j - 1, share, 0.0))
        for j in range(len(_LOCAL))
    ]
    return _corrected(groups, [max(width * factor, _FINEST) for factor in _LOCAL], is_edge)


def _corrected(groups: Sequence[FloatArray], widths: Sequence[float], is_edge: Sequence[bool]) -> FloatArray:
    """Returns the sum of histograms smoothed by a normal kernel of a width each, corrected to first order at edges."""
    cells = np.arange(len(groups[0])) + 0.5
    renormalised, linear = np.zeros(len(cells)), np.zeros(len(cells))
    for counts, width in zip(groups, widths, strict=True):
        if not counts.any():
            continue
        a = (0.0 - cells) / width if is_edge[0] else np.full(len(cells), -np.inf)
        b = (len(cells) - cells) / width if is_edge[1] else np.full(len(cells), np.inf)
        (phi_a, a_phi_a), (phi_b, b_phi_b) = (_normal(end) for end in (a, b))
        a0, a1 = ndtr(b) - ndtr(a), phi_a - phi_b
        a2 = a0 + a_phi_a - b_phi_b
        s0 = gaussian_filter1d(counts, width, mode="constant", truncate=5.0)
        s1 = width * gaussian_filter1d(counts, width, order=1, mode="constant", truncate=5.0)
        renormalised += s0 / a0
        linear += (a2 * s0 - a1 * s1) / np.maximum(a0 * a2 - a1**2, _TINY)
    ratio = linear / np.maximum(renormalised, _TINY)
    return renormalised * np.exp(np.clip(ratio - 1.0, -1.0, 1.0))


def _normal(u: Any) -> tuple[FloatArray, FloatArray]:
    """Returns phi(u) and u phi(u), zero at infinity."""
    phi = np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi)
    return phi, np.where(np.isfinite(u), u, 0.0) * phi
