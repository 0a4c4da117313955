"""The weights of separated modes: how two posteriors distribute their mass over the same modes.

A mode is an interval of one parameter between valleys of its marginal density. Such modes are easy to see and to
describe. Modes that overlap in every single parameter are not found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d

from .._util.checks import FloatArray, float_array, require_finite
from .._util.json_numbers import rounded
from ..chains.chain import Chain
from ..chains.parameters import ParameterSpace
from ..flows.numpy_support import from_line, to_line

_DEPTH = 0.95  # largest density of a valley, relative to the lower of its two peaks
_SIGNIFICANCE = 4.0  # standard errors by which this peak exceeds the valley
_LEAST = 0.02  # share that a mode must exceed in at least one of the posteriors
_FEWEST = 20  # independent draws of both chains together, below which no modes are searched for
_REACH = 4.75  # largest coordinate on the line; the millionth of the range beyond it cannot be a mode
_OUTER = 5e-4  # share of the draws at each end outside the range of the density estimate
_CELLS = 1000  # number of cells of the density estimate
_SILVERMAN = 0.9  # bandwidth in standard deviations, times n^(1/5)
_QUARTER = 0.6373  # width of the central quarter of a normal distribution, in standard deviations
_FLAT = 0.02  # rise within the floor of a valley, relative to the lower peak; the cut is in the middle of the floor
_SHARES = ("a", "a_error", "b", "b_error")


@dataclass(frozen=True)
class ModeWeights:
    """Shares of the same modes in two posteriors.

    Attributes:
        parameter: name of the parameter that separates the modes.
        cuts: (k - 1,) values between the modes, increasing, in the unit of the parameter.
        a, b: (k,) share of each mode in the first and the second posterior, ordered by increasing parameter value.
        a_error, b_error: (k,) standard errors of the shares.
    """

    parameter: str
    cuts: tuple[float, ...]
    a: tuple[float, ...]
    a_error: tuple[float, ...]
    b: tuple[float, ...]
    b_error: tuple[float, ...]

    @property
    def pulls(self) -> FloatArray:
        """Differences of the shares, b - a, divided by their standard errors, (k,)."""
        return (np.array(self.b) - self.a) / np.hypot(self.a_error, self.b_error)

    def ranges(self, name: str | None = None, *, digits: int = 5) -> list[str]:
        """Returns the interval of each mode as text, such as "x < 0.5"; `name` replaces the parameter name."""
        name = self.parameter if name is None else name
        cuts = [f"{cut:.{digits}g}" for cut in self.cuts]
        between = [f"{low} < {name} < {high}" for low, high in pairwise(cuts)]
        return [f"{name} < {cuts[0]}", *between, f"{name} > {cuts[-1]}"]

    def __str__(self) -> str:
        columns = self.ranges(), self.a, self.a_error, self.b, self.b_error, self.pulls
        return "\n".join(
            f"{where:>30s} {a:9.4f} +- {a_error:.4f} {b:9.4f} +- {b_error:.4f} {pull:10.1f}"
            for where, a, a_error, b, b_error, pull in zip(*columns, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready record; shares have four digits."""
        shares = {part: rounded(getattr(self, part)) for part in _SHARES}
        return {"parameter": self.parameter, "cuts": list(self.cuts), **shares}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ModeWeights:
        """Returns the weights from a record of `to_json`; KeyError if an entry is missing."""
        return cls(record["parameter"], *(tuple(record[part]) for part in ("cuts", *_SHARES)))


def mode_weights(a: Chain, b: Chain, cuts: Mapping[str, Any] | None = None) -> tuple[ModeWeights, ...]:
    """Returns the shares of the modes in two chains of the same parameters, for each parameter with modes.

    Without cuts, modes are searched for in the marginals of both chains together, with each independent draw counted
    once. The search uses the unbounded line, where a density that rises towards a declared bound has no peak at the
    bound. A valley counts if three conditions hold. Its density is below 0.95 of the lower of its two peaks. It is
    below this peak by 4 standard errors. On each side lie more than 2 % of at least one of the chains. Draws within a
    millionth of the range from a bound do not form a mode. For chains of 20 parameters without modes, fewer than one
    pair in a hundred shows any mode.

    Args:
        a, b: the chains, weighted or not.
        cuts: {parameter: value or values between its modes}; None to search for them.

    Raises:
        ValueError: a parameter is unknown, or cuts are not finite.
    """
    if cuts is None:
        found = {name: _valleys(a, b, j) for j, name in enumerate(a.names)}
    else:
        found = {name: _sorted_cuts(name, values) for name, values in cuts.items()}
    return tuple(_weights(a, b, name, values) for name, values in found.items() if len(values))


def _sorted_cuts(name: str, values: Any) -> FloatArray:
    array = float_array(values, f"modes[{name!r}]")
    require_finite(array, f"modes[{name!r}]")
    return np.unique(array)


def _weights(a: Chain, b: Chain, name: str, cuts: FloatArray) -> ModeWeights:
    found: list[FloatArray] = []
    for chain in (a, b):
        mode = np.searchsorted(cuts, chain.samples[:, chain.space.index(name)])
        found += _shares(chain, (mode[:, None] == np.arange(len(cuts) + 1)).astype(float))
    return ModeWeights(name, tuple(cuts.tolist()), *(tuple(part.tolist()) for part in found))


def _shares(chain: Chain, inside: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Returns the share of each mode and its standard error, (k,) each.

    The error is computed from the number of independent draws that would determine the share equally well. It includes
    the weights and the autocorrelation of the mode indicator, because a sampler may be fast within modes and rarely
    change between them. The error is the posterior standard deviation of the share under the Jeffreys prior,
    Beta(1/2, 1/2), which is not zero for an empty mode.

    Args:
        chain: the draws.
        inside: (n, k) of 0 and 1, whether each row is in each mode.
    """
    share, error = chain.mean_and_error(inside)
    share = np.minimum(share, 1.0)  # rounding may give slightly more
    variance = np.maximum(error, np.finfo(float).tiny ** 0.5) ** 2
    size = np.minimum(share * (1.0 - share) / variance, float(chain.n))
    size = np.where((share > 0.0) & (share < 1.0), size, chain.effective_size)  # all inside, or all outside
    centre = (size * share + 0.5) / (size + 1.0)
    return share, np.sqrt(centre * (1.0 - centre) / (size + 2.0))


def _valleys(a: Chain, b: Chain, j: int) -> FloatArray:
    """Returns the cuts between the modes of the j-th parameter, increasing; empty with a single mode."""
    space, values = _hull(a.space, b.space, j), np.concatenate([a.samples[:, j], b.samples[:, j]])
    if np.ptp(values) == 0.0:
        return np.empty(0)
    worth, variance = np.concatenate([_worth(a), _worth(b)], axis=1)
    scale = _scale(values, space)
    z = to_line(_spread(values, space)[:, None], space, scale)[0][:, 0]
    below, above = np.where(np.isfinite(space.bounds[0]), _REACH, np.inf)
    counted = (z > -below) & (z < above) & (worth > 0.0)
    if worth[counted].sum() < _FEWEST:
        return np.empty(0)
    edges, density, error = _density(z[counted], worth[counted], variance[counted])
    first = np.arange(len(z)) < a.n
    masses = [np.histogram(z[part], edges, weights=worth[part])[0] for part in (counted & first, counted & ~first)]
    shares = np.cumsum(masses, axis=1) / [[a.effective_size], [b.effective_size]]
    cuts = edges[sorted(_split(density, error, shares, 0, _CELLS))]
    return from_line(cuts[:, None], space, scale)[:, 0]


def _worth(chain: Chain) -> FloatArray:
    """Returns the number of independent draws that each row counts for, and its variance in a count, (2, n)."""
    worth = chain.probabilities * chain.effective_size
    return np.stack([worth, worth if chain.weights is None else worth**2])


def _hull(first: ParameterSpace, second: ParameterSpace, j: int) -> ParameterSpace:
    """Returns the space of the j-th parameter with the wider bound of the two on each side."""
    return ParameterSpace([first.names[j]], min(first.lower[j], second.lower[j]), max(first.upper[j], second.upper[j]))


def _scale(values: FloatArray, space: ParameterSpace) -> FloatArray:
    """Returns the median distance (1,) of values (n,) of a parameter, not all equal, from the end of its half line."""
    lower, upper = space.bounds[0]
    distance = values - lower if np.isfinite(lower) else upper - values
    return np.median(distance[distance > 0.0], keepdims=True)


def _spread(values: FloatArray, space: ParameterSpace) -> FloatArray:
    """Returns values (n,) with equal values spread over half the distance to the nearest other value or bound.

    Otherwise each rounded value would be a mode, if the values are farther apart than the bandwidth.
    """
    unique, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    gaps = np.diff(np.concatenate([space.lower, unique, space.upper]))
    rank = np.empty(len(values))
    rank[np.argsort(which, kind="stable")] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return values + np.minimum(gaps[:-1], gaps[1:])[which] * ((rank + 0.5) / counts[which] - 0.5)


def _density(z: FloatArray, worth: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns edges (cells + 1,) of a range, the density in each cell (cells,) and its standard error (cells,).

    The estimate uses a Gaussian kernel, reflected at the ends of the range. Its width is proportional to the shortest
    interval that holds a quarter of the draws, because this interval is not widened by distant modes.

    Args:
        z: (n,) values.
        worth: (n,) number of independent draws that each value counts for.
        variance: (n,) contribution of each value to the variance of a count.

    Source: Silverman (1986), "Density estimation for statistics and data analysis", sections 3.3 and 3.4.
    """
    order = np.argsort(z)
    ends = np.cumsum(worth[order])
    size, levels = ends[-1], np.linspace(0.0, 0.75, 151)
    low, starts, stops, high = (
        np.interp(size * share, ends, z[order]) for share in (_OUTER, levels, levels + 0.25, 1.0 - _OUTER)
    )
    cell = (high - low) / _CELLS
    width = max(_SILVERMAN * np.min(stops - starts) / _QUARTER * size**-0.2, 2.0 * cell)
    counts, edges = np.histogram(z, _CELLS, (low, high), weights=worth)
    squares = np.histogram(z, edges, weights=variance)[0]
    density = gaussian_filter1d(counts / (size * cell), width / cell, mode="reflect")
    square = gaussian_filter1d(squares / cell, width / cell / np.sqrt(2.0), mode="reflect")  # the squared kernel
    return edges, density, np.sqrt(square / (2.0 * np.sqrt(np.pi) * width)) / size


def _split(density: FloatArray, error: FloatArray, shares: FloatArray, start: int, stop: int) -> list[int]:
    """Returns the edges at the valleys in a range of cells: the deepest valley, then those on both sides of it.

    Args:
        density: (cells,) the density estimate.
        error: (cells,) its standard error.
        shares: (2, cells) cumulative share of each chain up to the upper edge of each cell.
        start, stop: first cell of the range, and the one after the last.
    """
    if stop - start < 3:
        return []
    part, error_here, held = density[start:stop], error[start:stop], shares[:, start:stop] - shares[:, [start]]
    left, right = _highest(part), stop - start - 1 - _highest(part[::-1])[::-1]
    lower = np.where(part[left] < part[right], left, right)
    clear = part[lower] - part > _SIGNIFICANCE * np.hypot(error_here, error_here[lower])
    both = np.minimum(held.max(axis=0), (held[:, [-1]] - held).max(axis=0)) > _LEAST
    depth = np.divide(part, part[lower], out=np.ones(len(part)), where=clear & both)
    deepest = int(np.argmin(depth))
    if depth[deepest] > _DEPTH:
        return []
    high = np.flatnonzero(part > part[deepest] + _FLAT * part[lower[deepest]])
    cut = start + int(high[high < deepest].max() + high[high > deepest].min() + 1) // 2
    return [cut, *_split(density, error, shares, start, cut), *_split(density, error, shares, cut, stop)]


def _highest(density: FloatArray) -> np.ndarray:
    """Returns, for each cell, the position of the highest density up to this cell."""
    reached = density == np.maximum.accumulate(density)
    return np.maximum.accumulate(np.where(reached, np.arange(len(density)), 0))
