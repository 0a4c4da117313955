"""Kullback-Leibler divergences between the marginals of two chains, by histogram, with their noise floor.

A histogram divergence between two finite sets of draws is positive even if both come from one density. Every value
therefore comes with its floor: the same statistic between two random parts of the pooled draws, of the same sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from .._checks import FloatArray, float_array, positive_int, require_finite
from ..chains.chain import Chain

EMPTY = 1e-10  # probability added to every cell, so that an empty one costs a finite amount (as in the paper's scripts)


@dataclass(frozen=True)
class MarginalKL:
    """KL(p || q) of all one- and two-dimensional marginals, in nats.

    Attributes:
        names: (d,) parameters.
        one_d: (d,) divergence of each parameter's marginal.
        two_d: (d (d-1) / 2,) divergence of each pair's marginal, pairs in the order of `itertools.combinations`.
    """

    names: tuple[str, ...]
    one_d: FloatArray
    two_d: FloatArray

    @property
    def average(self) -> float:
        """The mean of the two means (Roch and Shen 2025, section III); of the first alone in one dimension."""
        means = [part.mean() for part in (self.one_d, self.two_d) if len(part)]
        return float(np.mean(means))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The names of each pair, in the order of `two_d`."""
        return tuple(combinations(self.names, 2))


def marginal_kl(p: Chain, q: Chain, bounds: Any = None, bins: int = 75) -> MarginalKL:
    """Returns KL(p || q) of all one- and two-dimensional marginals, by histograms.

    Args:
        p: reference draws, weighted or not.
        q: draws to compare, with the same parameters.
        bounds: (d, 2) range of the histograms; None for the declared bounds, and the range that holds the central 99 %
            of both chains where a parameter has none. Draws outside are counted in the outermost bins.
        bins: bins along each axis.

    Raises:
        ValueError: different parameters, or bounds of the wrong shape or order.
    """
    bins = positive_int(bins, "marginal_kl: bins", minimum=2)
    require_same_names(p, q)
    edges = _edges(p, q, bounds, "marginal_kl")
    cells = [_cells(chain.samples, edges, bins) for chain in (p, q)]
    return _marginal_kl(p.names, cells, [p.probabilities, q.probabilities], bins)


def marginal_floors(
    p: Chain, q: Chain, bounds: Any = None, bins: int = 75, *, repeats: int = 8, seed: int = 0
) -> list[MarginalKL]:
    """Returns `repeats` times the marginal KL between random parts of the pooled draws: the value of no difference.

    The parts have the sizes of p and q. Chains with ids are dealt whole, chain by chain (or walker by walker), so
    that autocorrelation shows in the floor as it does in the value.
    """
    require_same_names(p, q)
    edges = _edges(p, q, bounds, "marginal_floors")
    cells = np.concatenate([_cells(chain.samples, edges, bins) for chain in (p, q)])
    weights = np.concatenate([chain.probabilities * chain.n for chain in (p, q)])
    units = _units(p, q)
    generator = np.random.default_rng(seed)
    floors = []
    for _ in range(positive_int(repeats, "marginal_floors: repeats")):
        order = generator.permutation(units.max() + 1)
        rank = np.argsort(order)[units]
        rows = np.argsort(rank, kind="stable")
        parts = rows[: p.n], rows[p.n :]
        probabilities = [weights[part] / weights[part].sum() for part in parts]
        floors.append(_marginal_kl(p.names, [cells[part] for part in parts], probabilities, bins))
    return floors


def _units(p: Chain, q: Chain) -> np.ndarray:
    """Returns what each pooled row is dealt with: its own number, or that of its chain where chains have ids."""
    labels, start = [], 0
    for chain in (p, q):
        ids = np.arange(chain.n) if chain.chain_id is None else np.unique(chain.chain_id, return_inverse=True)[1]
        labels.append(ids + start)
        start += int(ids.max()) + 1
    return np.concatenate(labels)


def require_same_names(p: Chain, q: Chain) -> None:
    """Raises ValueError unless both chains have the same parameters in the same order."""
    if p.names != q.names:
        raise ValueError(f"expected two chains of the same parameters; got {p.names} and {q.names}. Use chain.select.")


def _edges(p: Chain, q: Chain, bounds: Any, subject: str) -> FloatArray:
    if bounds is None:
        return histogram_bounds(p, q)
    edges = float_array(bounds, f"{subject}: bounds", shape=(p.dim, 2))
    require_finite(edges, f"{subject}: bounds")
    if not (edges[:, 0] < edges[:, 1]).all():
        raise ValueError(f"{subject}: bounds: expected lower < upper in every row; got {edges.tolist()}.")
    return edges


def histogram_bounds(p: Chain, q: Chain) -> FloatArray:
    """Returns the declared bounds (d, 2); where there are none, the range of the central 99 % of both chains.

    Quantiles, not extremes: one wild draw would put all others into a single bin and hide every difference.
    """
    low, high = (np.stack([chain.quantile([0.005, 0.995])[side] for chain in (p, q)]) for side in (0, 1))
    low, high = low.min(axis=0), high.max(axis=0)
    high = np.where(high > low, high, low + np.maximum(1.0, np.abs(low)))  # a constant column
    pooled = np.stack([low, high], axis=1)
    bounds = p.space.bounds
    return np.where(np.isfinite(bounds), bounds, pooled)


def _cells(samples: FloatArray, bounds: FloatArray, bins: int) -> np.ndarray:
    fraction = (samples - bounds[:, 0]) / (bounds[:, 1] - bounds[:, 0])
    return np.clip(np.floor(fraction * bins), 0, bins - 1).astype(np.int64)


def _marginal_kl(names: tuple[str, ...], cells: Any, probabilities: Any, bins: int) -> MarginalKL:
    def divergence(index: Any, size: int) -> float:
        masses = [np.bincount(index(c), w, size) for c, w in zip(cells, probabilities, strict=True)]
        mass_p, mass_q = ((mass + EMPTY) / (1.0 + size * EMPTY) for mass in masses)
        return float(np.sum(mass_p * np.log(mass_p / mass_q)))

    one = [divergence(lambda c, j=j: c[:, j], bins) for j in range(len(names))]
    pairs = combinations(range(len(names)), 2)
    two = [divergence(lambda c, i=i, j=j: c[:, i] * bins + c[:, j], bins * bins) for i, j in pairs]
    return MarginalKL(names, np.array(one), np.array(two))
