"""From a chain, weighted or autocorrelated, to rows that a test may take for independent draws of equal weight.

Every test of the quality report assumes such rows. Correcting each statistic for weights and autocorrelation would
need its own theory each time; choosing fewer rows once needs none, and costs power only.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray
from .._util.keys import seed_from_key
from ..chains.autocorrelation import integrated_time, steps_of
from ..chains.chain import Chain, systematic_rows
from ..chains.effective import effective_sizes, kish

_CORRELATION = 0.05  # what may remain between neighbouring rows: it inflates a standard deviation by 5 %
_FEWEST = 10  # rows whose autocorrelation is looked at
_NOTHING = 1e-300  # a weight of zero
_REPEATED = 0.02  # share of the rows that may be copies of another, which gather where weights are highest


def independent_rows(key: jax.Array, chain: Chain, values: FloatArray, most: int) -> np.ndarray:
    """Returns numbers of rows, at most `most`, that are nearly independent and of equal weight.

    Of a sequence, rows are taken at equal distances along their weight (in rows, where they have none), so far apart
    that the correlation of neighbours is small, were it that of a first-order autoregression of as many independent
    draws. Independent rows with weights are resampled, as many as leave few copies of any row: where no weight is far
    above the mean that is rejection sampling, whose draws are independent. Of copies, and of a family, one row
    stands for all, drawn by weight.

    Args:
        key: JAX random key of the resampling.
        chain: the rows.
        values: (n,) or (n, k) further functions of the rows whose autocorrelation counts too; infinities are capped.
        most: rows to return at most.
    """
    sequences, groups = chain.dependence.sequences, chain.dependence.groups
    if sequences is not None:
        weights = None if chain.weights is None else chain.probabilities * chain.n
        every = max(_step(_rows_per_draw(chain, values)), chain.n / most)
        return np.concatenate(steps_of(sequences, weights, every))[:most]
    if groups is None:
        return systematic_rows(key, chain.probabilities, min(few_copies(chain.probabilities), most))
    shares: Any = np.bincount(groups, chain.probabilities)
    drawn = np.random.default_rng(seed_from_key(key)).exponential(size=chain.n)
    first = np.lexsort((drawn / np.maximum(chain.probabilities, _NOTHING), groups))  # the least: drawn by weight
    rows = first[np.searchsorted(groups[first], np.arange(len(shares)))]
    return rows[systematic_rows(key, shares, min(few_copies(shares), most))]


def _rows_per_draw(chain: Chain, values: FloatArray) -> float:
    """Returns how many rows of a sequence, of mean weight, make one independent draw."""
    if chain.n < _FEWEST:
        return 1.0
    columns = np.column_stack([chain.samples, _finite(values)])
    if chain.weights is None:
        assert chain.dependence.sequences is not None
        return float(integrated_time(columns, chain.dependence.sequences).max())
    size = effective_sizes(columns, chain.probabilities, chain.dependence).min()
    return max(1.0, chain.n / min(float(size), kish(chain.probabilities)))


def _step(tau: float) -> float:
    """Returns the distance between rows at which an autoregression of autocorrelation time tau has decayed."""
    neighbours = (tau - 1.0) / (tau + 1.0)  # tau = (1 + a) / (1 - a)
    return 1.0 if neighbours <= _CORRELATION else float(np.log(_CORRELATION) / np.log(neighbours))


def few_copies(probabilities: FloatArray, repeated: float = _REPEATED) -> int:
    """Returns the largest number of rows, up to the effective size, of which few are expected to be copies.

    Args:
        probabilities: (n,) weights of the rows, which sum to one.
        repeated: the share of the rows that may be copies.
    """
    low, high = 1.0, max(1.0, kish(probabilities))
    for _ in range(40):
        middle = 0.5 * (low + high)
        copies = np.maximum(middle * probabilities - 1.0, 0.0).sum()
        low, high = (middle, high) if copies <= repeated * middle else (low, middle)
    return max(round(low), 1)


def _finite(values: FloatArray) -> FloatArray:
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros_like(values)
    low, high = values[finite].min(), values[finite].max()
    return np.nan_to_num(values, nan=low, neginf=low, posinf=high)
