"""Selects rows of a weighted or autocorrelated chain that are nearly independent draws of equal weight.

Every test of the quality report assumes such rows. Correcting each statistic for weights and autocorrelation would
need a separate theory for each. Selecting fewer rows needs no theory and only reduces the power of the tests.
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

_CORRELATION = 0.05  # largest correlation between neighbouring rows; it increases a standard error by 5 %
_SHOWN = 20.0  # effective number of families from which their effective size is known well enough
_FEWEST = 10  # with fewer rows, the autocorrelation is not estimated
_NOTHING = 1e-300  # replaces a weight of zero in a division
_REPEATED = 0.02  # largest share of copies among resampled rows; copies occur where weights are highest


def independent_rows(key: jax.Array, chain: Chain, values: FloatArray, most: int) -> np.ndarray:
    """Returns the numbers of at most `most` rows that are nearly independent and have equal weight.

    From a sequence, rows are taken at equal distances of cumulative weight (of row number, without weights). The
    distance is large enough that neighbours have a small correlation. It is computed for a first-order autoregression
    with the same number of independent draws. Independent rows with weights are resampled, with a size that gives few
    copies. If no weight is far above the mean, this corresponds to rejection sampling, with independent draws.
    Copies of a row, or rows of a family, are represented by one row, drawn by weight. Families may have more rows, as
    far as their effective size shows that this adds little noise.

    Args:
        key: JAX random key for the resampling.
        chain: the chain.
        values: (n,) or (n, k) further functions of the rows, with an autocorrelation that must be small too; infinities
            are capped.
        most: largest number of rows to return.
    """
    sequences, groups = chain.dependence.sequences, chain.dependence.groups
    if sequences is not None:
        weights = None if chain.weights is None else chain.probabilities * chain.n
        every = max(_step(_rows_per_draw(chain, values)), chain.n / most)
        return np.concatenate(steps_of(sequences, weights, every))[:most]
    if groups is None:
        return systematic_rows(key, chain.probabilities, min(few_copies(chain.probabilities), most))
    shares: Any = np.bincount(groups, chain.probabilities)
    several = 0
    if chain.dependence.families is not None and kish(shares) >= _SHOWN:
        several = min(few_copies(chain.probabilities), most, _draws_of_families(chain, values))
    if several > few_copies(shares):
        return systematic_rows(key, chain.probabilities, several)
    drawn = np.random.default_rng(seed_from_key(key)).exponential(size=chain.n)
    first = np.lexsort((drawn / np.maximum(chain.probabilities, _NOTHING), groups))  # smallest: drawn by weight
    rows = first[np.searchsorted(groups[first], np.arange(len(shares)))]
    return rows[systematic_rows(key, shares, min(few_copies(shares), most))]


def _rows_per_draw(chain: Chain, values: FloatArray) -> float:
    """Returns how many rows of mean weight in a sequence correspond to one independent draw."""
    if chain.n < _FEWEST:
        return 1.0
    columns = np.column_stack([chain.samples, _finite(values)])
    if chain.weights is None:
        assert chain.dependence.sequences is not None
        return float(integrated_time(columns, chain.dependence.sequences).max())
    size = effective_sizes(columns, chain.probabilities, chain.dependence).min()
    return max(1.0, chain.n / min(float(size), kish(chain.probabilities)))


def _draws_of_families(chain: Chain, values: FloatArray) -> int:
    """Returns how many rows of families can be taken as independent.

    The variance of a mean is v (1 / n + 1 / k) for n rows of equal weight: k is the part of the families, and does not
    depend on n. With n = k / 10 a standard error is 5 % larger than that of independent rows.
    """
    columns, alone = np.column_stack([chain.samples, _finite(values)]), kish(chain.probabilities)
    size = float(effective_sizes(columns, chain.probabilities, chain.dependence).min())
    return chain.n if size >= alone else int(2.0 * _CORRELATION / (1.0 / size - 1.0 / alone))


def _step(tau: float) -> float:
    """Returns the distance in rows at which an autoregression with autocorrelation time tau has decayed."""
    neighbours = (tau - 1.0) / (tau + 1.0)  # tau = (1 + a) / (1 - a)
    return 1.0 if neighbours <= _CORRELATION else float(np.log(_CORRELATION) / np.log(neighbours))


def few_copies(probabilities: FloatArray, repeated: float = _REPEATED) -> int:
    """Returns the largest number of resampled rows, up to the effective size, with few expected copies.

    Args:
        probabilities: (n,) weights of the rows, which sum to one.
        repeated: largest expected share of copies.
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
