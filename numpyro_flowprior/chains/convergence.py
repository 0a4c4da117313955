"""R-hat: a test of whether chains agree."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from .._util.checks import FloatArray
from .autocorrelation import sequences_of, steps_of

_MOST_ROWS = 200_000  # evenly spaced rows of longer chains are ranked; R-hat does not depend on their number


def r_hat(samples: FloatArray, chain_id: np.ndarray | None, weights: FloatArray | None = None) -> FloatArray | None:
    """Returns the rank-normalised split R-hat of each column, (d,); None without at least two chains of four rows.

    Each chain is cut into halves, and values are replaced by the normal scores of their ranks. R-hat^2 is the variance
    of all rows over the mean variance within a half. The result is the larger of R-hat for x and for |x - median|; the
    latter detects different scales. It is 1 for converged chains, NaN for a constant column, and infinite for chains
    stuck at different values.

    Args:
        samples: (n, d) rows in the order in which they were drawn.
        chain_id: (n,) the chain of each row.
        weights: (n,) how often each row was repeated; None for once. Weights that are not counts give None, because
            such rows are not a sequence in time.

    Source: Vehtari et al. (2021), Bayesian Analysis 16, 667, eq. (1)-(4), (13), (14).
    """
    if chain_id is None or not are_counts(weights):
        return None
    every = 1.0 if weights is None else max(1.0, float(weights.sum()) / (10.0 * _MOST_ROWS))
    rows = [chain for chain in steps_of(sequences_of(len(samples), chain_id), weights, every) if len(chain) >= 4]
    if len(rows) < 2:
        return None
    length = min(min(map(len, rows)), max(4, _MOST_ROWS // len(rows)))
    even = np.stack([chain[np.linspace(0, len(chain) - 1, length).astype(int)] for chain in rows])
    half = length // 2
    halves = np.concatenate([even[:, :half], even[:, -half:]])
    return np.array([_rank_normalised(column[halves]) for column in samples.T])


def are_counts(weights: FloatArray | None) -> bool:
    """Returns whether weights are whole numbers: how many steps a Markov chain stayed at each row (None: one)."""
    return weights is None or bool((np.round(weights) == weights).all())


def _rank_normalised(x: FloatArray) -> float:
    return max(_ratio(_scores(x)), _ratio(_scores(np.abs(x - np.median(x)))))


def _scores(x: FloatArray) -> FloatArray:
    return ndtri((rankdata(x).reshape(x.shape) - 0.375) / (x.size + 0.25))


def _ratio(z: FloatArray) -> float:
    length = z.shape[1]
    within, between = z.var(axis=1, ddof=1).mean(), z.mean(axis=1).var(ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sqrt((length - 1) / length + between / within))
