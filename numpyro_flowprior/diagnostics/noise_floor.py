"""What a divergence between two chains would be if there were no difference: its noise floor.

The rows of both chains are dealt anew into two parts that have the same share of either chain, so that no difference
between the chains is left between the parts. What is left is noise, and it is that of the chains: rows are dealt in
units that are nearly independent, blocks of a sequence that are long against its autocorrelation time, single rows
where order means nothing, copies and families together, always with their weights.

Either part has half of the units of either chain, and half of its weight from them. A unit of weight w, of a chain
whose weights sum to one, is then in the difference of the parts with +w or -w, as likely the one as the other: the
variance of the difference is that of the two chains, in every direction and whatever their sizes and kinds.
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

_SPREADS = 8  # repeats whose first-order variance is looked at
_FEWEST = 4  # blocks, or families, of either chain with which anything can be dealt


def noise_floors(
    grid: Grid, chains: Sequence[Chain], cells: Sequence[Sequence[np.ndarray]], *, repeats: int, seed: int
) -> Iterator[tuple[MarginalKL, float]]:
    """Yields the divergences between two parts without a difference, and their first-order variance (`spread`).

    The latter is NaN from the ninth on: it takes longer than all else, and hardly scatters.

    Args:
        grid: the bins.
        chains: the two chains.
        cells: the cell of each of their rows in each marginal, as `Grid.cells` has them.
        repeats: how many times the rows are dealt.
        seed: of the dealing.

    Raises:
        ValueError: a chain is too short, for its autocorrelation, to tell noise from difference.
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
            f"compare: expected chains of {_FEWEST} families (family_id) of like weight at least; {count} families "
            f"are worth {kish(shares):.1f}. Run the analysis with more particles."
        )
    if count >= (_FEWEST if blocks else 2):
        return
    if not blocks or chain.autocorrelation_time <= SHORT:
        raise ValueError(f"compare: expected chains of at least two distinct rows of positive weight; got {count}.")
    tau = chain.autocorrelation_time
    raise ValueError(
        f"compare: expected chains of at least {_FEWEST * SHORT:.0f} autocorrelation times; {chain.n} rows of "
        f"autocorrelation time {tau:.0f} have {chain.n / tau:.1f}. Run the analysis longer, or say "
        "chain.replace(rows='independent') if the order of the rows means nothing."
    )


def _halves(generator: np.random.Generator, chain: Chain, units: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Returns the weights (n,) of a chain's rows in either part, which sum to one in each."""
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

    A row of p moves KL(p || q) by log p / q in its cell, one of q by -p / q, each less its mean; the average over
    marginals is that of `MarginalKL.average`, and rows of one unit move it together.

    Args:
        grid: the bins.
        cells: the cell of each row of p, and of q, in each marginal.
        weights: of the rows of p, and of q; they sum to one.
        units: the unit of each row.
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
