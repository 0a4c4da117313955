"""Nearly independent units of the rows of a chain, and the effective number of rows in a histogram of them."""

from __future__ import annotations

import numpy as np

from ..chains.chain import Chain
from ..chains.deal import HARDLY, LONG, blocks_of

SHORT = 2.0  # shortest block, in autocorrelation times
_MANY = 40  # enough blocks of a chain
_BINS = 10  # number of bins of equal mass; their noise gives the effective size


def units_of(chain: Chain) -> np.ndarray:
    """Returns the unit number (n,) of each row.

    Units are blocks of a sequence that are long compared with its autocorrelation time, or single rows if their order
    has no meaning. Copies of a row, and rows of a family, form one unit.
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
    """Returns the number of independent rows that would give histograms of the parameters with the same noise.

    For a slow chain it is larger than the effective size, which refers to the means: the shape is determined faster.
    The noise of the mass in a bin is computed from the sums over units. The variances expected for a single independent
    row, and those of the noise, are summed over bins and parameters before their ratio is taken.
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
