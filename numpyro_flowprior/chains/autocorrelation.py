"""The integrated autocorrelation time of a chain: how many rows correspond to one independent draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from .._util.checks import FloatArray

_WINDOW = 5.0  # Sokal's automatic window: sum lags up to M >= 5 tau(M)
LONG_ENOUGH = 50.0  # autocorrelation times that a run needs, according to the documentation of emcee
_BURN_IN = 5.0  # autocorrelation times dropped from the start of an ensemble run
_MANY_KEPT = 200_000  # an ensemble run with more rows is thinned
_ROUNDING = 1e-12  # smaller eigenvalues of a correlation matrix are rounding errors
_MOST_ROWS = 200_000  # only the first rows of longer sequences are used; tau is far shorter than that
_MOST_IN_ALL = 1_000_000  # rows of all sequences, from which the principal directions are taken


def autocorrelation_time(samples: FloatArray, chain_id: np.ndarray | None = None) -> FloatArray:
    """Returns the integrated autocorrelation time of each column, (d,), in rows; at least 1.

    See `integrated_time`.

    Args:
        samples: (n, d) rows in the order in which they were drawn.
        chain_id: (n,) the chain of each row; None for a single chain.
    """
    return integrated_time(samples, sequences_of(len(samples), chain_id))


def sequences_of(n: int, chain_id: np.ndarray | None, period: int = 1) -> list[np.ndarray]:
    """Returns the row numbers of each sequence, in the order of its steps.

    Args:
        n: number of rows.
        chain_id: (n,) the chain of each row; None for a single chain, or for walkers that take turns.
        period: number of walkers that take turns; used only without `chain_id`.
    """
    if chain_id is None:
        return [np.arange(k, n, period) for k in range(min(period, n))]
    order = np.argsort(chain_id, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(chain_id[order])) + 1)


def steps_of(sequences: Sequence[np.ndarray], counts: FloatArray | None, every: float = 1.0) -> list[np.ndarray]:
    """Returns, for each sequence, the row numbers at evenly spaced steps.

    A row that stands for many steps occurs several times.

    Args:
        sequences: row numbers of each sequence.
        counts: (n,) number of steps that each row stands for, or its weight; None for one step each.
        every: distance in steps.
    """
    found = []
    for rows in sequences:
        ends = np.arange(1.0, len(rows) + 1.0) if counts is None else np.cumsum(counts[rows])
        start = 0.0 if counts is None else 0.5 * min(every, float(ends[-1]))
        places = np.arange(start, ends[-1] - 1e-9 * every, every)
        found.append(rows[np.searchsorted(ends, places, side="right").clip(max=len(rows) - 1)])
    return found


def integrated_time(values: FloatArray, sequences: Sequence[np.ndarray]) -> FloatArray:
    """Returns the integrated autocorrelation time of each column, (d,), in rows; at least 1.

    tau = 1 + 2 sum_t rho(t), summed up to Sokal's automatic window. The autocorrelation rho is averaged over the
    sequences. It is taken about the mean of all sequences, so chains stuck in different places give a large tau.

    Args:
        values: (n, d).
        sequences: row numbers of each sequence, in the order of its steps.

    Source: Sokal, "Monte Carlo methods in statistical mechanics" (1996), section 3; Goodman and Weare (2010).
    """
    mean = values.mean(axis=0)
    chains = [values[rows[:_MOST_ROWS]] - mean for rows in sequences]
    varies = np.ptp(values, axis=0) > 0  # with a rounded mean, a constant column would look like a long correlation
    longest = max(len(chain) for chain in chains)
    covariance = np.zeros((longest, values.shape[1]))
    for chain in chains:
        size = next_fast_len(2 * len(chain))
        transform = rfft(chain, n=size, axis=0)
        covariance[: len(chain)] += irfft(np.abs(transform) ** 2, n=size, axis=0)[: len(chain)]
    variance = np.where(varies & (covariance[0] > 0), covariance[0], 1.0)
    tau = 2.0 * np.cumsum(covariance / variance, axis=0) - 1.0
    past_window = np.arange(longest)[:, None] >= _WINDOW * tau
    window = np.where(past_window.any(axis=0), past_window.argmax(axis=0), longest - 1)
    return np.where(varies, np.maximum(tau[window, np.arange(values.shape[1])], 1.0), 1.0)


def times_of_directions(samples: FloatArray, probabilities: FloatArray, sequences: Sequence[np.ndarray]) -> FloatArray:
    """Returns the integrated autocorrelation time along each principal direction of the rows, (k,), in rows.

    The directions are those of the correlation matrix. Columns that are constant, or linear in others, add none. The
    mean of the times is the same in any basis in which the rows have unit covariance: it is the trace of
    Sigma^-1 Sigma_long over k, with the covariance Sigma of the rows, and Sigma_long / n that of their mean. Of many
    rows in many sequences, every second, third, ... sequence is looked at, to save memory.

    Args:
        samples: (n, d).
        probabilities: (n,) weights that sum to one.
        sequences: row numbers of each sequence, in the order of its steps.
    """
    firsts = [rows[:_MOST_ROWS] for rows in sequences]
    firsts = firsts[:: 1 + sum(map(len, firsts)) // _MOST_IN_ALL]
    rows = np.concatenate(firsts)
    weights = probabilities[rows]
    if not weights.any():
        return np.empty(0)
    weights = weights / weights.sum()
    centred = samples[rows] - weights @ samples[rows]
    spread = np.sqrt(weights @ centred**2)
    varies = (np.ptp(samples[rows], axis=0) > 0) & (spread > 0)
    standard = centred[:, varies] / spread[varies]
    values, vectors = np.linalg.eigh((standard * weights[:, None]).T @ standard)
    again = np.split(np.arange(len(rows)), np.cumsum([len(first) for first in firsts])[:-1])
    terms = (weights * len(rows) * (standard @ vector) for vector in vectors.T[values > _ROUNDING])
    return np.array([integrated_time(term[:, None], again)[0] for term in terms])


def ensemble_time(steps: FloatArray) -> float:
    """Returns the longest autocorrelation time, in steps, of any parameter in an ensemble run (steps, walkers, d).

    The first tenth of the run is left out, because it may still depend on where the walkers started.
    """
    kept = steps[len(steps) // 10 :]
    flat = np.swapaxes(kept, 0, 1).reshape(-1, steps.shape[-1])
    walker = np.repeat(np.arange(steps.shape[1]), len(kept))
    return float(autocorrelation_time(flat, walker).max())


def burn_in_of(tau: float, steps: int) -> int:
    """Returns how many steps of an ensemble run to drop: five autocorrelation times, at most half of the run."""
    return min(int(np.ceil(_BURN_IN * tau)), steps // 2)


def thinning_of(tau: float, steps: int, walkers: int) -> int:
    """Returns n such that every n-th step of an ensemble run is kept.

    Up to 200,000 rows of all walkers, every step is kept, because the tails need every row. Longer runs are thinned, by
    half an autocorrelation time at most.
    """
    return max(1, min(int(tau / 2), -(-steps * walkers // _MANY_KEPT)))
