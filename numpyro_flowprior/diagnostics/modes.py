"""The weights of separated modes: how two posteriors divide their mass between the same islands.

A mode is a stretch of one parameter between valleys of its marginal density: plain to see, and to say. Modes that
overlap in every single parameter are not found.
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

_DEPTH = 0.95  # of the lower of its two peaks: the density of a valley is below
_SIGNIFICANCE = 4.0  # standard errors by which that peak is above the valley
_LEAST = 0.02  # share of either posterior that a mode holds at least
_FEWEST = 20  # independent draws, of both chains, to look for modes in
_REACH = 4.75  # of the coordinate on the line: a millionth of the range is beyond, and no mode by itself
_OUTER = 5e-4  # share of the draws at either end that the range of the density estimate leaves out
_CELLS = 1000  # of the estimate
_SILVERMAN = 0.9  # its bandwidth in standard deviations, times n^(1/5)
_QUARTER = 0.6373  # standard deviations that hold the central quarter of a normal distribution
_FLAT = 0.02  # of the lower peak: by so much the floor of a valley, in whose middle the cut is, rises
_SHARES = ("a", "a_error", "b", "b_error")


@dataclass(frozen=True)
class ModeWeights:
    """Two posteriors' shares of the same modes.

    Attributes:
        parameter: whose values tell the modes apart.
        cuts: (k - 1,) values between the modes, increasing, in the parameter's unit.
        a, b: (k,) the two posteriors' shares of each mode, from the lowest values up.
        a_error, b_error: (k,) their standard errors.
    """

    parameter: str
    cuts: tuple[float, ...]
    a: tuple[float, ...]
    a_error: tuple[float, ...]
    b: tuple[float, ...]
    b_error: tuple[float, ...]

    @property
    def pulls(self) -> FloatArray:
        """Differences of the shares, b - a, in their standard errors, (k,)."""
        return (np.array(self.b) - self.a) / np.hypot(self.a_error, self.b_error)

    def ranges(self, name: str | None = None) -> list[str]:
        """Returns where each mode is, such as "x < 0.5", for a name of the parameter; None for its own."""
        name = self.parameter if name is None else name
        cuts = [f"{cut:.5g}" for cut in self.cuts]
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
        """Returns the weights that `to_json` described; KeyError if a part is missing."""
        return cls(record["parameter"], *(tuple(record[part]) for part in ("cuts", *_SHARES)))


def mode_weights(a: Chain, b: Chain, cuts: Mapping[str, Any] | None = None) -> tuple[ModeWeights, ...]:
    """Returns how two chains of the same parameters divide their draws between modes, by parameter.

    Without cuts, modes are looked for in the marginals of both chains together, each independent draw counting once,
    on the unbounded line, where a density that rises towards a declared bound has no peak at it. A valley counts if its
    density is below 0.95 of the lower of its two peaks, by 4 standard errors, and at least 2 % of either chain are on
    each of its sides. Draws within a millionth of the range from a bound make no mode. Of pairs of chains of 20
    parameters without modes, fewer than one in a hundred shows any.

    Args:
        a, b: the chains, weighted or not.
        cuts: {parameter: value or values between its modes}; None to look for them.

    Raises:
        ValueError: an unknown parameter, or cuts that are not finite.
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
    """Returns the share of each mode and its standard error, (k,) each, from whether rows are in it, (n, k) of 0 and 1.

    The error is that of as many independent draws as know the share as well: weights count, and the mode's own
    autocorrelation, for a sampler may be fast within modes and rarely change between them. It is the standard deviation
    under Jeffreys' prior, Beta(1/2, 1/2), which is not zero for an empty mode.
    """
    share, error = chain.mean_and_error(inside)
    share = np.minimum(share, 1.0)  # rounding may exceed it
    variance = np.maximum(error, np.finfo(float).tiny ** 0.5) ** 2
    size = np.minimum(share * (1.0 - share) / variance, float(chain.n))
    size = np.where((share > 0.0) & (share < 1.0), size, chain.effective_size)  # all rows that count are in, or out
    centre = (size * share + 0.5) / (size + 1.0)
    return share, np.sqrt(centre * (1.0 - centre) / (size + 2.0))


def _valleys(a: Chain, b: Chain, j: int) -> FloatArray:
    """Returns the values of the j-th parameter between its modes, increasing."""
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
    """Returns how many independent draws each row is worth, and the variance that it brings to their count, (2, n)."""
    worth = chain.probabilities * chain.effective_size
    return np.stack([worth, worth if chain.weights is None else worth**2])


def _hull(first: ParameterSpace, second: ParameterSpace, j: int) -> ParameterSpace:
    """Returns the j-th parameter with the wider of its bounds on either side."""
    return ParameterSpace([first.names[j]], min(first.lower[j], second.lower[j]), max(first.upper[j], second.upper[j]))


def _scale(values: FloatArray, space: ParameterSpace) -> FloatArray:
    """Returns the median distance (1,) of values (n,) of one parameter, not all the same, from its half line's end."""
    lower, upper = space.bounds[0]
    distance = values - lower if np.isfinite(lower) else upper - values
    return np.median(distance[distance > 0.0], keepdims=True)


def _spread(values: FloatArray, space: ParameterSpace) -> FloatArray:
    """Returns values (n,) with equal ones spread over half the way to the nearest other value, or bound.

    Rounded values would be so many modes where they are farther apart than the density estimate is wide.
    """
    unique, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    gaps = np.diff(np.concatenate([space.lower, unique, space.upper]))
    rank = np.empty(len(values))
    rank[np.argsort(which, kind="stable")] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return values + np.minimum(gaps[:-1], gaps[1:])[which] * ((rank + 0.5) / counts[which] - 0.5)


def _density(z: FloatArray, worth: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns edges (cells + 1,) of a range, the density in each cell (cells,) and its standard error (cells,).

    The estimate is a Gaussian kernel's, reflected at the ends of the range; its width follows the shortest interval
    that holds a quarter of the draws, which distant modes do not widen.

    Args:
        z: (n,) values.
        worth: (n,) how many independent draws each is worth.
        variance: (n,) what each brings to the variance of their count.

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
    """Returns the cells of the valleys between two cells: the deepest, then those on either side of it.

    Args:
        density: (cells,) of the estimate.
        error: (cells,) its standard error.
        shares: (2, cells) of either chain up to the upper edge of each cell.
        start, stop: first cell, and the one after the last.
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
    """Returns where the density is highest up to each cell."""
    reached = density == np.maximum.accumulate(density)
    return np.maximum.accumulate(np.where(reached, np.arange(len(density)), 0))
