"""Kullback-Leibler divergences between the marginals of two chains, from histograms.

A histogram divergence between two finite sets of draws is positive even if both come from the same density. `compare`
therefore gives each value with its noise floor (`noise_floor`): the same statistic without a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from .._util.checks import ArrayLike, FloatArray, float_array, positive_int, require_finite, shorten
from ..chains.chain import Chain
from .units import histogram_size, units_of

EMPTY = 1e-10  # probability added to every cell, so that empty cells give finite values (as in the paper's scripts)
PAPERS_BINS = 75  # along each axis, Roch and Shen (2025)
_PRIOR_ROWS = 0.1  # rows added to each cell if bins follow the draws: a cell without draws may still have mass
_PER_CELL = 8  # rows per cell of a pair's histogram, on average
_FEWEST_BINS, _MOST_BINS = 6, 75


@dataclass(frozen=True)
class MarginalKL:
    """KL(p || q) of all one- and two-dimensional marginals, in nats.

    Attributes:
        names: (d,) names of the parameters.
        one_d: (d,) divergence of the marginal of each parameter.
        two_d: (d (d-1) / 2,) divergence of the marginal of each pair, in the order of `itertools.combinations`.
    """

    names: tuple[str, ...]
    one_d: FloatArray
    two_d: FloatArray

    @property
    def average(self) -> float:
        """Mean of the means of `one_d` and `two_d` (Roch and Shen 2025, section III); in one dimension, of `one_d`."""
        means = [part.mean() for part in (self.one_d, self.two_d) if len(part)]
        return float(np.mean(means))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The names of each pair, in the order of `two_d`."""
        return tuple(combinations(self.names, 2))


def marginal_kl(p: Chain, q: Chain, bounds: ArrayLike | None = None, bins: int | None = None) -> MarginalKL:
    """Returns KL(p || q) of all one- and two-dimensional marginals, in nats, from histograms.

    Args:
        p: reference draws, weighted or not.
        q: draws to compare, with the same parameters.
        bounds: None for bins that follow the draws, with equal mass of both chains together in each bin; a tenth of a
            row is then added to each cell. "declared" for equal bins between the declared bounds, as in the paper;
            these do not resolve differences within a bin. Or a (d, 2) range for equal bins. Draws outside the range are
            counted in the outermost bins. If a "declared" bound is infinite, the range ends at the central 99 % of both
            chains.
        bins: number of bins along each axis. None for eight independent rows per cell of a pair on average (6 to 75
            bins), or for the 75 of the paper if `bounds` are given.

    Raises:
        ValueError: the chains have different parameters, all draws of a parameter are in one bin, or bounds have the
            wrong shape or order.
    """
    grid = Grid.of(p, q, bounds, bins, "marginal_kl")
    cells = [grid.cells(chain.samples) for chain in (p, q)]
    return grid.divergence(cells, [p.probabilities, q.probabilities])


@dataclass(frozen=True)
class Grid:
    """Histogram bins along each axis, and the probability added to every cell.

    Attributes:
        names: (d,) names of the parameters.
        edges: the inner edges of the bins of each parameter, increasing.
        added: probability added to each cell of p, and to each cell of q.
    """

    names: tuple[str, ...]
    edges: tuple[FloatArray, ...]
    added: tuple[float, float]

    @classmethod
    def of(cls, p: Chain, q: Chain, bounds: Any, bins: int | None, subject: str) -> Grid:
        """Returns the bins for two chains (see `marginal_kl`); error messages start with `subject`."""
        require_same_names(p, q)
        bins = None if bins is None else positive_int(bins, f"{subject}: bins", minimum=2)
        if bounds is None:
            sizes = [max(histogram_size(chain, units_of(chain)), 1.0) for chain in (p, q)]
            edges, added = _following(p, q, bins or _enough(min(sizes))), tuple(_PRIOR_ROWS / size for size in sizes)
        else:
            edges, added = _between(_range(p, q, bounds, subject), bins or PAPERS_BINS), (EMPTY, EMPTY)
        grid = cls(p.names, tuple(edges), (added[0], added[1]))
        _require_several_bins(grid, p, q, subject, fixed=bounds is not None)
        return grid

    @property
    def sizes(self) -> list[int]:
        """Number of bins of each parameter."""
        return [len(edges) + 1 for edges in self.edges]

    def cells(self, samples: FloatArray) -> list[np.ndarray]:
        """Returns the cell (n,) of each row in each marginal: first for all parameters, then for all pairs."""
        columns = zip(self.edges, samples.T, strict=True)
        one: list[Any] = [np.searchsorted(edges, column, side="right") for edges, column in columns]
        sizes = self.sizes
        kind: Any = np.min_scalar_type(max(sizes) ** 2)  # a small type, because there are many cells
        pairs = combinations(range(len(one)), 2)
        return [*one, *((one[i] * sizes[j] + one[j]).astype(kind) for i, j in pairs)]

    def masses(self, cells: Sequence[np.ndarray], probabilities: FloatArray) -> list[FloatArray]:
        """Returns the mass in each cell of each marginal."""
        sizes = self.sizes
        counts = [*sizes, *(a * b for a, b in combinations(sizes, 2))]
        found: list[Any] = [np.bincount(cell, probabilities, size) for cell, size in zip(cells, counts, strict=True)]
        return found

    def log_ratios(self, masses: Sequence[Sequence[FloatArray]]) -> list[FloatArray]:
        """Returns log p / q in each cell of each marginal, from the masses of p and q."""
        found = []
        for pair in zip(*masses, strict=True):
            smooth = [(m + a) / (1.0 + len(m) * a) for m, a in zip(pair, self.added, strict=True)]
            found.append(np.log(smooth[0] / smooth[1]))
        return found

    def divergence(self, cells: Sequence[Sequence[np.ndarray]], probabilities: Sequence[FloatArray]) -> MarginalKL:
        """Returns KL(p || q) of all marginals, from the cells and weights of the rows of p and of q."""
        masses = [self.masses(*each) for each in zip(cells, probabilities, strict=True)]
        added = self.added[0]
        values = [
            float(np.sum((mass + added) / (1.0 + len(mass) * added) * ratio))
            for mass, ratio in zip(masses[0], self.log_ratios(masses), strict=True)
        ]
        return MarginalKL(self.names, np.array(values[: len(self.names)]), np.array(values[len(self.names) :]))


def require_same_names(p: Chain, q: Chain) -> None:
    """Raises ValueError unless both chains have the same parameters in the same order."""
    if p.names != q.names:
        raise ValueError(f"expected two chains of the same parameters; got {p.names} and {q.names}. Use chain.select.")


def _enough(rows: float) -> int:
    """Returns the number of bins along each axis for a number of independent rows."""
    return int(np.clip(np.sqrt(rows / _PER_CELL), _FEWEST_BINS, _MOST_BINS))


def _following(p: Chain, q: Chain, bins: int) -> list[FloatArray]:
    """Returns inner edges of bins with equal mass of both chains together; each chain has the same total weight."""
    levels = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    weights = np.concatenate([p.probabilities, q.probabilities])
    edges = []
    for columns in zip(p.samples.T, q.samples.T, strict=True):
        values = np.concatenate(columns)
        order = np.argsort(values)
        ends = np.cumsum(weights[order])
        chosen = np.unique(values[order][np.searchsorted(ends, levels * ends[-1])])
        edges.append(chosen[chosen > values.min()])  # a bin below the lowest value would be empty
    return edges


def _range(p: Chain, q: Chain, bounds: Any, subject: str) -> FloatArray:
    if isinstance(bounds, str):
        if bounds != "declared":
            raise ValueError(f"{subject}: bounds: expected None, 'declared' or an array (d, 2); got {bounds!r}.")
        return _declared(p, q)
    edges = float_array(bounds, f"{subject}: bounds", shape=(p.dim, 2))
    require_finite(edges, f"{subject}: bounds")
    if not (edges[:, 0] < edges[:, 1]).all():
        raise ValueError(f"{subject}: bounds: expected lower < upper in every row; got {edges.tolist()}.")
    return edges


def _declared(p: Chain, q: Chain) -> FloatArray:
    """Returns the declared bounds (d, 2); infinite ones are replaced by the ends of the central 99 % of both chains.

    Quantiles are used instead of extremes, because one outlier would put all other draws into a single bin.
    """
    low, high = (np.stack([chain.quantile([0.005, 0.995])[side] for chain in (p, q)]) for side in (0, 1))
    low, high = low.min(axis=0), high.max(axis=0)
    high = np.where(high > low, high, low + np.maximum(1.0, np.abs(low)))  # a constant column
    pooled = np.stack([low, high], axis=1)
    bounds = p.space.bounds
    return np.where(np.isfinite(bounds), bounds, pooled)


def _between(bounds: FloatArray, bins: int) -> list[FloatArray]:
    return [np.linspace(low, high, bins + 1)[1:-1] for low, high in bounds]


def _require_several_bins(grid: Grid, p: Chain, q: Chain, subject: str, *, fixed: bool) -> None:
    """Raises ValueError if all draws of a parameter are in one bin, because such a histogram shows no difference."""
    alone = []
    for j, (name, edges) in enumerate(zip(grid.names, grid.edges, strict=True)):
        values = [chain.samples[chain.probabilities > 0, j] for chain in (p, q)]
        ends = [np.searchsorted(edges, end, side="right") for v in values for end in (v.min(), v.max())]
        if min(ends) == max(ends):
            alone.append(name)
    constant = [name for name in p.names if name in {*p.constant_columns, *q.constant_columns}]
    if constant:
        raise ValueError(
            f"{subject}: expected parameters that vary in both chains; {shorten(constant, 40)} takes a single value. "
            "Leave it out with chain.select."
        )
    if not alone:
        return
    if fixed:
        raise ValueError(
            f"{subject}: bounds: expected draws in more than one bin; those of {shorten(alone, 40)} are all in one. "
            "Leave bounds out to get bins that follow the draws, or pass a narrower range."
        )
    raise ValueError(f"{subject}: expected draws in more than one bin; those of {shorten(alone, 40)} are all in one.")
