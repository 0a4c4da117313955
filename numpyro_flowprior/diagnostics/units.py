"""Units of a chain's rows that are nearly independent of each other, and how many rows a histogram of them is worth."""

from __future__ import annotations

import numpy as np

from ..chains.chain import Chain
from ..chains.deal import HARDLY, LONG, blocks_of

SHORT = 2.0  # autocorrelation times of a block at least
_MANY = 40  # blocks of a chain that are enough
_BINS = 10  # of equal mass, whose noise tells the effective size


def units_of(chain: Chain) -> np.ndarray:
    """Returns the number of the unit (n,) that each row belongs to.

    Units are blocks of a sequence that are long against its autocorrelation time, single rows where order means
    nothing, copies of a row and families together.
    """
    if chain.dependence.sequences is None:
        return np.arange(chain.n) if chain.dependence.groups is None else chain.dependence.groups
    tau = chain.autocorrelation_time
    if tau < HARDLY:
        return np.arange(chain.n)
    length = int(np.ceil(min(LONG * tau, max(SHORT * tau, chain.n / _MANY))))
    units = np.empty(chain.n, dtype=int)
    for k, rows in enumerate(blocks_of(chain.dependence.sequences, length)):
        units[rows] = k
    return units


def histogram_size(chain: Chain, units: np.ndarray) -> float:
    """Returns how many independent rows would give histograms of the parameters as little noise.

    It is more than the effective size of a slow chain, which is that of its means: shape is learnt faster. The noise of
    a bin's mass is that of the sums over units; both are summed over bins and parameters.
    """
    expected = noise = 0.0
    weights, count = chain.probabilities, int(units.max()) + 1
    per_unit = np.bincount(units, weights, count)
    for column in chain.samples.T:
        order = np.argsort(column)
        levels = np.linspace(0.0, 1.0, _BINS + 1)[1:-1]
        edges = column[order][np.searchsorted(np.cumsum(weights[order]), levels).clip(max=chain.n - 1)]
        cells = np.searchsorted(np.unique(edges), column, side="right")
        for cell in range(_BINS):
            inside = np.bincount(units, np.where(cells == cell, weights, 0.0), count)
            mass = float(inside.sum())
            expected += mass * (1.0 - mass)
            noise += float(np.sum((inside - mass * per_unit) ** 2))
    return expected / noise if noise > 0 else 1.0
