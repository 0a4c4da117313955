"""The noise floor of a divergence between two chains: its value without a difference between them.

The rows of both chains are divided at random into two parts with the same share of each chain. The parts then differ
only by noise. It is the noise of the chains, because rows are divided in nearly independent units and keep their
weights. Units are blocks of a sequence that are long compared with its autocorrelation time, or single rows if their
order has no meaning. Copies of a row, and rows of a family, form one unit.

Each part has half of the units of each chain, and each chain contributes half of the weight of each part. The weights
of a chain sum to one. A unit of weight w then enters the difference of the parts as +w or -w with equal probability.
The variance of this difference is that of the difference of the two chains, in every direction and for all sizes and
kinds of chains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .._util.checks import FloatArray
from ..chains.chain import Chain
from ..chains.effective import kish
from .divergences import Grid, MarginalKL
from .units import SHORT, units_of

_SPREADS = 8  # number of repeats with a first-order variance
_FEWEST = 4  # smallest number of blocks, or of effective families, of each chain


def noise_floors(
    grid: Grid, chains: Sequence[Chain], cells: Sequence[Sequence[np.ndarray]], *, repeats: int, seed: int
) -> Iterator[tuple[MarginalKL, float]]:
    """Yields the divergences between two random parts, and their first-order variance (`spread`).

    The variance is NaN from the ninth repeat on, because it takes most of the time and has little scatter.

    Args:
        grid: the bins.
        chains: the two chains.
        cells: the cell of each row of each chain in each marginal, from `Grid.cells`.
        repeats: how many times the rows are divided.
        seed: seed of the random division.

    Raises:
        ValueError: a chain is too short for its autocorrelation time, or has too few families or distinct rows.
    """
    generator = np.random.default_rng(seed)
    units = [units_of(chain) for chain in chains]
    for chain, unit in zip(chains, units, strict=True):
        _require_units(chain, unit)
    both = [np.concatenate(pair) for pair in zip(*cells, strict=True)]
    labels = np.concatenate([units[0], units[0].max() + 1 + units[1]])
    for k in range(repeats):
        dealt = [_halves(generator, chain, unit) for chain, unit in zip(chains, units, strict=True)]
        weights = [0.5 * np.concatenate(pair) for pair in zip(*dealt, strict=True)]
        variance = spread(grid, [both, both], weights, [labels, labels]) if k < _SPREADS else np.nan
        yield grid.divergence([both, both], weights), variance


def _require_units(chain: Chain, units: np.ndarray) -> None:
    blocks = chain.dependence.sequences is not None
    shares: Any = np.bincount(units, chain.probabilities)
    count = int(np.sum(shares > 0.0))
    if chain.dependence.families is not None:
        if kish(shares) >= _FEWEST:
            return
        raise ValueError(
            f"compare: expected chains of at least {_FEWEST} families (family_id) of equal weight; got {count} "
            f"families with an effective number of {kish(shares):.1f}. Run the analysis with more particles."
        )
    if count >= (_FEWEST if blocks else 2):
        return
    if not blocks or chain.autocorrelation_time <= SHORT:
        raise ValueError(f"compare: expected chains of at least two distinct rows of positive weight; got {count}.")
    tau = chain.autocorrelation_time
    raise ValueError(
        f"compare: expected chains of at least {_FEWEST * SHORT:.0f} autocorrelation times; got {chain.n} rows, "
        f"which are {chain.n / tau:.1f} autocorrelation times of {tau:.0f} rows. Run the analysis longer. If the order "
        "of the rows has no meaning, use chain.replace(rows='independent')."
    )


def _halves(generator: np.random.Generator, chain: Chain, units: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Returns the weights (n,) of the rows of a chain in each of the two parts; they sum to one in each part."""
    counted = np.flatnonzero(np.bincount(units, chain.probabilities) > 0.0)
    inside = np.zeros(int(units.max()) + 1, bool)
    inside[generator.permutation(counted)[: len(counted) // 2]] = True
    parts = [np.where(chosen, chain.probabilities, 0.0) for chosen in (inside[units], ~inside[units])]
    return parts[0] / parts[0].sum(), parts[1] / parts[1].sum()


def spread(
    grid: Grid,
    cells: Sequence[Sequence[np.ndarray]],
    weights: Sequence[FloatArray],
    units: Sequence[np.ndarray],
) -> float:
    """Returns the variance of the average divergence to first order in the noise of p and q, nats^2.

    To first order, a row of p changes KL(p || q) by log p / q in its cell, and a row of q by -p / q. The mean of each
    is subtracted. Marginals are averaged as in `MarginalKL.average`. The changes of all rows of a unit are added.

    Args:
        grid: the bins.
        cells: the cell of each row of p, and of q, in each marginal.
        weights: weights of the rows of p, and of q; each sums to one.
        units: the unit number of each row of p, and of q.
    """
    log_ratios = grid.log_ratios([grid.masses(*each) for each in zip(cells, weights, strict=True)])
    d = len(grid.names)
    pairs = len(log_ratios) - d
    shares = [1.0 / (d * (1 + (pairs > 0)))] * d + [0.5 / max(pairs, 1)] * pairs
    moves = [
        sum(share * ratio[cell] for share, ratio, cell in zip(shares, log_ratios, cells[0], strict=True)),
        sum(-share * np.exp(ratio)[cell] for share, ratio, cell in zip(shares, log_ratios, cells[1], strict=True)),
    ]
    total = 0.0
    for move, weight, unit in zip(moves, weights, units, strict=True):
        sums = np.bincount(unit, weight * (move - weight @ move))
        total += float(np.sum(sums**2))
    return total
