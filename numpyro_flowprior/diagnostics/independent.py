"""From a chain, weighted or autocorrelated, to rows that a test may take for independent draws of equal weight.

Every test of the quality report assumes such rows. Correcting each statistic for weights and autocorrelation would
need its own theory each time; choosing fewer rows once needs none, and costs power only.
"""

from __future__ import annotations

import jax
import numpy as np

from .._checks import FloatArray
from ..chains.autocorrelation import autocorrelation_time
from ..chains.chain import Chain, systematic_rows

_CORRELATION = 0.05  # what may remain between neighbouring rows: it inflates a standard deviation by 5 %
_REPEATED = 0.02  # share of the rows that may be copies of another, which gather where weights are highest


def independent_rows(key: jax.Array, chain: Chain, values: FloatArray, most: int) -> np.ndarray:
    """Returns numbers of rows, at most `most`, that are nearly independent and of equal weight.

    Weighted rows are resampled, as many as leave few copies of any row: where no weight is far above the mean that is
    rejection sampling, whose draws are independent. Others are thinned, along each chain, until the correlation of
    neighbours is small, were it that of a first-order autoregression with the longest autocorrelation time.

    Args:
        key: JAX random key of the resampling.
        chain: the rows.
        values: (n,) or (n, k) further functions of the rows whose autocorrelation counts too; infinities are capped.
        most: rows to return at most.
    """
    if chain.weights is not None:
        probabilities = chain.probabilities
        return systematic_rows(key, probabilities, min(few_copies(probabilities), most))
    columns = np.column_stack([chain.samples, _finite(values)])
    order = np.arange(chain.n) if chain.chain_id is None else np.argsort(chain.chain_id, kind="stable")
    step = _step(float(autocorrelation_time(columns, chain.chain_id).max())) if chain.n >= 10 else 1.0
    step = max(step, chain.n / most)
    return order[np.floor(np.arange(0.0, chain.n - 0.5, step)).astype(int)]


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
    low, high = 1.0, max(1.0, 1.0 / float(np.sum(probabilities**2)))
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
