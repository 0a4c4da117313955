"""The meaning of the row order of a chain: a sequence in time, walkers in turn, or no meaning.

Markov chains are sequences: neighbours are near copies, and statistics, splits and blocks follow the order. Files have
often lost this order. Posteriors of nested samplers are sorted by likelihood, published rows are shuffled, and
ensembles are flattened with their walkers in turn. This module recognises the order from the rows. The user must
declare what the rows do not show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtri
from scipy.stats import kendalltau, rankdata

from .._util.checks import FloatArray, one_of
from .autocorrelation import sequences_of
from .effective import copies_of

RowKind = Literal["sequence", "independent"]

IMPORTANCE = "importance weights"  # why rows are taken as independent if no other pattern is found
_CONSTANT = 1e-9  # smaller standard deviations, of scores of unit variance, are rounding errors
_FEWEST = 100  # with fewer rows nothing is recognised
_MOST_ROWS = 20_000  # number of rows examined
_LONGEST = 4096  # longest period searched, for walkers in turn
_CLEAR = 6.0  # standard errors by which a correlation must differ from zero
_FAR = 30  # distance in rows: beyond neighbours, but short compared with any trend of a sorted file
_LOCAL = 0.8  # squared distance of neighbours in a Markov chain, relative to rows that far apart: less than this
_SORTED = 0.999  # fraction of neighbours in order, in a sorted column
_PARTS = 12  # a file is cut into this many parts, to test whether their densities are in order ...
_TREND = 0.9  # ... by Kendall's tau, which exceeds this by chance in one of 10^6 files
_MOST_COMPARED, _NEIGHBOURS, _CHUNK = 1500, 5, 500  # rows tested, neighbours of each, rows at a time
_FLATTEST = 1e-6  # directions with less variance, relative to the widest, are rounding errors


@dataclass(frozen=True)
class RowOrder:
    """The meaning of the row order, and the reason for it.

    Attributes:
        kind: "sequence" (in time, as a Markov chain made them) or "independent" (their order means nothing).
        why: the reason, as text.
        period: number of walkers that take turns in a sequence (row i belongs to walker i modulo period); 1 for none.
    """

    kind: RowKind
    why: str
    period: int = 1

    def to_json(self) -> dict[str, object]:
        """Returns a JSON-ready record."""
        record: dict[str, object] = {"kind": self.kind, "why": self.why}
        return record if self.period == 1 else {**record, "walkers_in_turn": self.period}


def checked_rows(rows: object) -> RowKind | None:
    """Returns the row order that the user declared, or None if none was declared."""
    if rows is None:
        return None
    one_of(rows, "chain.rows", get_args(RowKind))
    return rows  # type: ignore[return-value]


def recognised(
    samples: FloatArray, chain_id: np.ndarray | None, *, importance: bool, density: FloatArray | None
) -> RowOrder:
    """Returns the row order that the rows themselves show.

    - A column of log densities rises or falls from row to row: the file is sorted, and its order has no meaning.
    - There is a correlation at one lag and its multiples, but not between them: walkers in turn.
    - Neighbours are no nearer to each other than rows thirty apart, and the density falls or rises through the whole
      file: the rows are sorted by a likelihood that the file does not contain.
    - Copies of rows are far from each other: the rows are shuffled, or resampled.
    - Neighbours are nearer than rows thirty apart, in any parameter: a sequence, with or without importance weights.

    Otherwise rows with importance weights are independent, and all others are a sequence. If these are shuffled or
    thinned, their autocorrelation time is one.

    Args:
        samples: (n, d) rows.
        chain_id: (n,) the chain of each row, or None.
        importance: whether there are importance weights.
        density: (n,) log density, or log likelihood, of the rows; None if unknown.
    """
    default = RowOrder("sequence", "no other pattern was found")
    if importance:
        default = RowOrder("independent", IMPORTANCE)
    if len(samples) < _FEWEST:
        return default
    if density is not None and is_sorted(density, chain_id):
        return RowOrder("independent", "the rows are sorted by their log density")
    if chain_id is None:
        in_turn = walkers_in_turn(samples)
        if in_turn is not None:
            return in_turn
    if _neighbours_are_near(samples, chain_id):
        return RowOrder("sequence", "neighbouring rows are near to each other")
    if importance or chain_id is not None:
        return default
    apart = _between_copies(samples[:_MOST_ROWS])
    if len(apart) and np.mean(apart == 1) < 0.5:
        return _of_copies_apart(apart)
    if _falls_or_rises(samples):
        why = "the density of the rows falls or rises through the file: it seems sorted by a likelihood"
        return RowOrder("independent", why)
    return default


def _neighbours_are_near(samples: FloatArray, chain_id: np.ndarray | None) -> bool:
    """Returns whether, in any column, rows are clearly nearer to the next one than to rows farther away."""
    rows, codes = samples[:_MOST_ROWS], None
    if chain_id is not None:
        order = np.argsort(chain_id, kind="stable")[:_MOST_ROWS]
        rows, codes = samples[order], chain_id[order]
    z = _within_chains(_scores(rows), codes)
    if not z.size:
        return False
    near, far = _autocorrelation(z, _FAR)[[1, _FAR]]
    error = _CLEAR / np.sqrt(len(z))
    return bool(np.any((near > error) & (1.0 - near < _LOCAL * (1.0 - far))))


def _between_copies(samples: FloatArray) -> np.ndarray:
    """Returns the distance, in rows, from each row to its next copy; empty if there are no copies."""
    copies = copies_of(samples)
    if copies is None:
        return np.empty(0, dtype=int)
    order = np.argsort(copies, kind="stable")
    return np.diff(order)[np.diff(copies[order]) == 0]


def _of_copies_apart(apart: np.ndarray) -> RowOrder:
    """Returns the row order if copies are not neighbours. Copies of walkers in turn are one turn apart."""
    steps, counts = np.unique(apart, return_counts=True)
    usual = int(steps[np.argmax(counts)])
    if usual > 1 and counts.max() > 0.5 * len(apart):
        return RowOrder("sequence", f"rows repeat {usual} rows apart: {usual} walkers in turn", usual)
    return RowOrder("independent", "rows repeat far from each other: they are shuffled, or resampled")


def walkers_in_turn(samples: FloatArray) -> RowOrder | None:
    """Returns the row order of a sequence without chain ids if walkers take turns in it, else None."""
    z = _scores(samples[:_MOST_ROWS])
    if len(z) < _FEWEST or not z.size:
        return None
    correlation = _autocorrelation(z, min(_LONGEST, len(z) // 3)).mean(axis=1)
    period = _period(correlation, 1.0 / np.sqrt(len(z)))
    if not period:
        return None
    why = f"rows {period} apart are near to each other, and those between are not: {period} walkers in turn"
    return RowOrder("sequence", why, period)


def is_sorted(density: FloatArray, chain_id: np.ndarray | None = None) -> bool:
    """Returns whether densities (n,) rise, or fall, from row to row of each chain, so that the order has no meaning."""
    parts = [density[rows] for rows in sequences_of(len(density), chain_id)]
    steps = np.concatenate([np.diff(part) for part in parts])
    moved = steps[steps != 0.0]
    return len(moved) > _FEWEST // 2 and max(np.mean(moved > 0), np.mean(moved < 0)) > _SORTED


def _scores(samples: FloatArray) -> FloatArray:
    """Returns the normal scores of the ranks, (n, k), in the k columns that vary."""
    varying = samples[:, np.ptp(samples, axis=0) > 0.0]
    scores = ndtri((rankdata(varying, axis=0) - 0.375) / (len(samples) + 0.25))
    return scores / scores.std(axis=0)


def _within_chains(z: FloatArray, chain_id: np.ndarray | None) -> FloatArray:
    """Returns the scores minus the mean of each chain, so that chains in different places do not look like a trend."""
    if chain_id is None:
        return z
    labels, codes = np.unique(chain_id, return_inverse=True)
    sums = np.array([np.bincount(codes, column, len(labels)) for column in z.T]).reshape(-1, len(labels))
    centred = z - (sums / np.bincount(codes, minlength=len(labels))).T[codes]
    return centred[:, centred.std(axis=0) > _CONSTANT]


def _autocorrelation(z: FloatArray, longest: int) -> FloatArray:
    """Returns the autocorrelation at lags 0 to `longest` of each column, (longest + 1, k)."""
    n = len(z)
    transform = rfft(z - z.mean(axis=0), n=next_fast_len(2 * n), axis=0)
    covariance = irfft(np.abs(transform) ** 2, n=next_fast_len(2 * n), axis=0)[: longest + 1]
    counts = n - np.arange(longest + 1)
    return covariance / covariance[0] * (n / counts)[:, None]


def _period(correlation: FloatArray, error: float) -> int:
    """Returns the period of walkers that take turns, 0 if there is none.

    The correlation peaks at this lag and at twice this lag, and is smaller in between. The correlation of an antithetic
    chain changes its sign from lag to lag, but is stronger at lag one than at lag two.
    """
    lags = np.arange(2, (len(correlation) - 2) // 2)
    if not len(lags):
        return 0
    peak = correlation[lags] - np.maximum(correlation[lags - 1], correlation[lags + 1])
    clear = (correlation[lags] > _CLEAR * error) & (peak > _CLEAR * error)
    for lag in lags[clear]:
        between = correlation[1:lag]
        again = correlation[2 * lag] - np.maximum(correlation[2 * lag - 1], correlation[2 * lag + 1])
        height = correlation[lag]
        if again > 0 and between.max() < 0.5 * height and between.min() > -height:
            return int(lag)
    return 0


def _falls_or_rises(samples: FloatArray) -> bool:
    """Returns whether the density of the rows has one trend through the whole file.

    The density at each row is estimated from the distance to its nearest neighbours. It also changes in a chain that
    moves from mode to mode, but abruptly and in several places, and during burn-in, but only in the first part.
    """
    if len(samples) < _PARTS * _FEWEST // 4:
        return False
    even = np.linspace(0, len(samples) - 1, min(len(samples), _MOST_COMPARED)).astype(int)
    z = _scores(samples[even])
    if not z.size:
        return False
    distance = _to_neighbours(z)
    means = [part.mean() for part in np.array_split(rankdata(distance), _PARTS)]
    return bool(abs(kendalltau(means, np.arange(_PARTS)).statistic) >= _TREND)


def _to_neighbours(z: FloatArray) -> FloatArray:
    """Returns the squared distance of each row (n, d) to its fifth nearest neighbour, in whitened coordinates."""
    variances, axes = np.linalg.eigh(np.cov(z.T).reshape(z.shape[1], -1))
    white = z @ axes / np.sqrt(np.maximum(variances, _FLATTEST * variances[-1]))
    squares = np.sum(white**2, axis=1)
    distances = []
    for part in np.array_split(white, len(white) // _CHUNK + 1):
        apart = np.sum(part**2, axis=1)[:, None] - 2.0 * part @ white.T + squares
        distances.append(np.partition(apart, _NEIGHBOURS, axis=1)[:, _NEIGHBOURS])  # index 0 is the row itself
    return np.concatenate(distances)
