"""Errors of averages over the rows of a chain, which may repeat, follow each other, or have weights.

The same approach serves all chains. The weighted mean of f is sum p f, with probabilities p that sum to one. Its error
is that of the sum of u = p (f - mean). The terms may be independent, copies of each other, in families, or a sequence
in time:

    variance = sum u^2                    independent rows
             = sum (sum of copies' u)^2   rows that repeat
             = (k - 1) / k sum (sum of a family's u / (1 - its p))^2    rows of k families (jackknife)
             = tau sum u^2                a sequence; tau is the integrated autocorrelation time of u

Multiplicities of a Markov chain need no separate case: u of a row that counts three times is the sum of three steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._util.checks import FloatArray
from .autocorrelation import integrated_time

_FEWEST = 10  # with fewer rows, tau is not estimated but taken as 1
_LOOKED_AT = 50_000  # number of rows used to decide whether equal rows are copies
_ON_GRID = 1e-3  # relative precision of the step of a grid
_CHANCE = 3.0  # rounding explains this many equal pairs, plus this many times those expected by chance


@dataclass(frozen=True)
class Dependence:
    """How rows depend on each other.

    Attributes:
        sequences: row numbers of each sequence in time; None if the row order has no meaning.
        copies: (n,) number of the distinct row that each row is a copy of, for rows without an order; None if all are
            distinct.
        families: (n,) family number of each row, from 0, for rows without an order; None without families. Rows of one
            family depend on each other in an unknown way. Different families are independent.
    """

    sequences: Sequence[np.ndarray] | None = None
    copies: np.ndarray | None = None
    families: np.ndarray | None = None

    @property
    def groups(self) -> np.ndarray | None:
        """The family, or else the distinct row, of each row without an order, (n,); None if all are independent."""
        return self.copies if self.families is None else self.families


INDEPENDENT = Dependence()


def mean_and_error(
    values: FloatArray, probabilities: FloatArray, dependence: Dependence
) -> tuple[FloatArray, FloatArray]:
    """Returns the weighted mean of each column (k,), and its standard error (k,).

    Args:
        values: (n, k) functions of the rows, finite wherever the probability is positive.
        probabilities: (n,) weights that sum to one.
        dependence: how the rows depend on each other.
    """
    found = [_of_column(column, probabilities, dependence) for column in values.T]  # one by one: they may be long
    return np.array([mean for mean, _ in found]), np.array([error for _, error in found])


def _of_column(values: FloatArray, probabilities: FloatArray, dependence: Dependence) -> tuple[float, float]:
    values = np.where(probabilities > 0.0, values, 0.0)
    mean = float(probabilities @ values)
    return mean, error_of_sum(probabilities * (values - mean), probabilities, dependence)


def error_of_sum(parts: FloatArray, probabilities: FloatArray, dependence: Dependence) -> float:
    """Returns the standard error of a sum over rows with expectation zero.

    Args:
        parts: (n,) terms of the sum.
        probabilities: (n,) weights of the rows, which sum to one.
        dependence: how the rows depend on each other.
    """
    if dependence.sequences is not None:
        tau = integrated_time(parts[:, None], dependence.sequences)[0] if len(parts) >= _FEWEST else 1.0
        return float(np.sqrt(tau * np.sum(parts**2)))
    if dependence.families is not None:
        sums: list[Any] = [np.bincount(dependence.families, terms) for terms in (parts, probabilities)]
        return _jackknifed(*sums)
    terms = parts if dependence.copies is None else np.bincount(dependence.copies, parts)
    return float(np.sqrt(np.sum(terms**2)))


def _jackknifed(parts: FloatArray, shares: FloatArray) -> float:
    """Returns the jackknife error of a sum over families, from leaving out one at a time; infinite for one family.

    The deviations are from a mean that the families themselves shift, if they are few or unequal. The sum of their
    squares alone would therefore be too small.

    Args:
        parts: (k,) contribution of each family to the sum.
        shares: (k,) weights of the families, which sum to one.
    """
    parts, shares = parts[shares > 0.0], shares[shares > 0.0]
    if len(shares) < 2:
        return np.inf
    count = len(shares)
    return float(np.sqrt((count - 1.0) / count * np.sum((parts / (1.0 - shares)) ** 2)))


def effective_size(samples: FloatArray, probabilities: FloatArray, dependence: Dependence) -> float:
    """Returns how many independent draws of equal weight would determine the means of all columns equally well.

    For independent rows and copies this is Kish's effective size, for any columns. Otherwise it is the smallest size of
    any column, at least 1 and at most Kish's.
    """
    size = kish(probabilities, dependence.copies)
    if dependence.sequences is None and dependence.families is None:
        return size
    return max(1.0, min(size, float(effective_sizes(samples, probabilities, dependence).min())))


def effective_sizes(samples: FloatArray, probabilities: FloatArray, dependence: Dependence) -> FloatArray:
    """Returns how many independent draws would determine the mean of each column equally well, (d,); n if constant."""
    mean, error = mean_and_error(samples, probabilities, dependence)
    variance = np.array([probabilities @ (x - m) ** 2 for x, m in zip(samples.T, mean, strict=True)])
    varies = error > 0
    return np.where(varies, variance / np.where(varies, error**2, 1.0), float(len(samples)))


def kish(probabilities: FloatArray, copies: np.ndarray | None = None) -> float:
    """Returns Kish's effective size, (sum p)^2 / sum p^2, of weights that sum to one; copies count as one row."""
    shares = probabilities if copies is None else np.bincount(copies, probabilities)
    return float(1.0 / np.sum(shares**2))


def copies_of(samples: FloatArray) -> np.ndarray | None:
    """Returns the number of the distinct row that each row (n, d) is a copy of, (n,); None if there are no copies.

    Equal rows are copies unless rounding explains them. Rounded values lie on a grid, and about as many pairs are equal
    as are one step apart. The column with the most distinct values is tested for this.
    """
    if not _are_copies(samples[:_LOOKED_AT]):
        return None
    return np.unique(_marks(samples), return_inverse=True)[1]


def _marks(samples: FloatArray) -> np.ndarray:
    """Returns a hash (n,) of each row: the same number for equal rows, and almost never for different ones."""
    factors: Any = 2 * np.random.default_rng(0).integers(0, 2**62, samples.shape[1]) + 1  # odd, so no bit is lost
    marks = np.zeros(len(samples), np.uint64)
    for j, factor in enumerate(factors.tolist()):
        bits = np.ascontiguousarray(samples[:, j] + 0.0).view(np.uint64)  # turns -0 into 0
        marks = (marks ^ (bits * np.uint64(factor))) * np.uint64(factor)
        marks ^= marks >> np.uint64(29)
    return marks


def _are_copies(samples: FloatArray) -> bool:
    if len(np.unique(_marks(samples))) == len(samples):
        return False
    found = [np.unique(column, return_counts=True) for column in samples.T]
    values, counts = max(found, key=lambda column: len(column[0]))  # the column with the most values
    equal = float(np.sum(counts * (counts - 1.0)) / 2.0)
    gaps = np.diff(values)
    next_to = np.isclose(gaps, gaps.min(initial=np.inf), rtol=_ON_GRID)  # one step of a grid, if there is one
    a_step_apart = float(np.sum((counts[:-1] * counts[1:])[next_to]))
    return equal > _CHANCE + _CHANCE * a_step_apart / 2.0
