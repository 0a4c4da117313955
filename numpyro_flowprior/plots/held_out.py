"""How smooth a density is: chosen by blocks of rows that were held out from its estimate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .._util.checks import FloatArray

BLOCKS = 20  # of rows, every other of which is held out
LOWEST = 1e-5  # of the highest density: a stray row farther out does not decide
_PATIENCE = 2  # how many levels that are worse than the best one end the search
_SLACK = 1.0  # standard errors by which the smoothest level may be worse than the best one


def block_of_rows(rows: FloatArray) -> np.ndarray:
    """Returns the block (n,) of each of some rows (n, d).

    Neighbouring rows share a block, since they are dependent. So do equal rows, unless a block cannot hold them: then
    they are not a repeated draw, but a value that has probability.
    """
    first, inverse, counts = np.unique(rows, axis=0, return_index=True, return_inverse=True, return_counts=True)[1:]
    inverse = inverse.ravel()
    place = np.where(counts[inverse] * BLOCKS > len(rows), np.arange(len(rows)), first[inverse])
    return place * BLOCKS // max(len(rows), 1)


def held_out_scores(
    blocks: FloatArray, densities: Sequence[FloatArray], beyond: FloatArray | float = 0.0
) -> FloatArray:
    """Returns the log density (b,), summed over each block's rows, that the estimate from the other half has there.

    Args:
        blocks: (b, ...) histograms.
        densities: of the even and of the odd blocks, on the cells of the histograms.
        beyond: (b,) share of the rows that lies outside of the cells, where the density counts as the lowest one.
    """
    scores = np.zeros(len(blocks))
    for first, density in enumerate(densities):
        if not density.any():  # made from a half without rows
            continue
        lowest = LOWEST * density.max()
        log_density = np.log(np.maximum(density, lowest) / density.sum())
        outside = np.broadcast_to(beyond, len(blocks))[1 - first :: 2] * np.log(lowest / density.sum())
        scores[1 - first :: 2] = blocks[1 - first :: 2].reshape(-1, log_density.size) @ log_density.ravel() + outside
    return scores


def smoothest(levels: Iterable[FloatArray], *, at_least: int = 0) -> tuple[int, FloatArray]:
    """Returns the smoothest level whose score is the best one within a standard error, and its scores (b,).

    Source: Breiman, Friedman, Olshen, Stone (1984), Classification and Regression Trees, section 3.4.3.

    Args:
        levels: for each level, the held-out score (b,) of each block, from the smoothest on. They are asked for until
            two are worse than the best.
        at_least: how many levels are asked for anyway.
    """
    scores: list[FloatArray] = []
    for score in levels:
        scores.append(score)
        totals = [float(each.sum()) for each in scores]
        if len(scores) > at_least and int(np.argmax(totals)) < len(totals) - _PATIENCE:
            break
    best = scores[int(np.argmax(totals))]
    lost = best - np.array(scores)
    level = int(np.argmax(lost.sum(axis=1) <= _SLACK * lost.std(axis=1) * np.sqrt(lost.shape[1])))
    return level, scores[level]
