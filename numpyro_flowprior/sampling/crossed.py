"""Estimates from two halves of a chain, each with the flow that was trained on the other half, and their common error.

To first order, an estimate of log Z with a given flow adds up deviations 1 - f / mean f over the rows of its half. If
the flow is close to the posterior, f is nearly constant, and what remains is partly the noise of the flow's own
training rows. This part makes the errors of the two estimates equal: training is a sum over the rows of one half, the
estimate one over the rows of the other, and an exchange of the halves leaves the double sum as it is. (For maximum
likelihood, the double sum is s(x) I^-1 s(y) over all pairs, with the score s and the Fisher matrix I.) The other part
of f is the same for both flows, and its noise is that of different rows. So the correlation of the two errors is one
minus that of f and f' over the rows. Without it, the error of the mean is too small by up to a factor of sqrt(2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._util.checks import FloatArray
from ..chains.chain import Chain
from ..chains.effective import error_of_sum


@dataclass(frozen=True)
class Estimate:
    """A log evidence from rows and from draws of a flow, and its dependence on them.

    Attributes:
        log_z: the log evidence, nats.
        probabilities: (n,) weights of the rows of the chain that were used, which sum to one; zero for all others.
        rows: (n,) deviations 1 - f / mean f at all rows of the chain. Times the weight, it is what a row adds to log_z.
        draws: (m,) what each draw adds to log_z. Draws are independent.
    """

    log_z: float
    probabilities: FloatArray
    rows: FloatArray
    draws: FloatArray

    @property
    def parts(self) -> FloatArray:
        """What each row adds to `log_z`, (n,)."""
        return self.probabilities * self.rows

    def minus(self, other: Estimate) -> Estimate:
        """Returns the difference to an estimate from the same rows and draws, or from the first of these draws."""
        draws = np.zeros(max(len(self.draws), len(other.draws)))
        draws[: len(self.draws)] += self.draws
        draws[: len(other.draws)] -= other.draws
        return Estimate(self.log_z - other.log_z, self.probabilities, self.rows - other.rows, draws)


@dataclass(frozen=True)
class Crossed:
    """The mean of two estimates, each from the half of a chain that trained the flow of the other.

    Attributes:
        chain: all rows.
        first: the estimate from one half.
        second: the estimate from the other half.
    """

    chain: Chain
    first: Estimate
    second: Estimate

    @property
    def log_z(self) -> float:
        """The log evidence, nats."""
        return 0.5 * (self.first.log_z + self.second.log_z)

    @property
    def error(self) -> float:
        """Its standard error, nats."""
        first, second = self.first.parts, self.second.parts
        apart = self._of_rows(0.5 * (first + second)) ** 2
        together = 0.5 * self._correlation() * self._of_rows(first) * self._of_rows(second)
        return float(np.sqrt(apart + together + 0.25 * self._variance_of_draws()))

    @property
    def difference(self) -> tuple[float, float]:
        """The difference of the halves, and its standard error if they were independent."""
        error = np.sqrt(self._of_rows(self.first.parts - self.second.parts) ** 2 + self._variance_of_draws())
        return self.first.log_z - self.second.log_z, float(error)

    def minus(self, other: Crossed) -> Crossed:
        """Returns the difference to an estimate from the same rows and draws. What they share cancels in its error."""
        return Crossed(self.chain, self.first.minus(other.first), self.second.minus(other.second))

    def _of_rows(self, parts: FloatArray) -> float:
        return error_of_sum(parts, self.chain.probabilities, self.chain.dependence)

    def _variance_of_draws(self) -> float:
        return float(np.sum(self.first.draws**2) + np.sum(self.second.draws**2))

    def _correlation(self) -> float:
        """Returns the correlation of the errors of the halves: the part of f that the training rows make."""
        weights, terms = self.chain.probabilities, (self.first.rows, self.second.rows)
        centred = [each - weights @ each for each in terms]
        (one, both), (_, two) = [[weights @ (a * b) for b in centred] for a in centred]
        return float(np.clip(1.0 - both / np.sqrt(one * two), 0.0, 1.0)) if one * two > 0.0 else 0.0
