"""Evidence: the result of `evidence`, with its checks in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .._util.display import Displayed, with_error
from ..chains.chain import Chain
from ..diagnostics.importance import RELIABLE
from .crossed import Crossed

_FEWEST_DRAWS = 100.0  # effective draws below which the errors themselves are too uncertain
_MOST_ERROR = 0.5  # nats; larger errors are not small compared with their own uncertainty
_LEAST_OVERLAP = 0.05  # of flow and posterior
_APART, _SMALL = 4.0, 0.02  # estimates disagree if they differ by so many standard errors, and by so many nats
_SCATTER, _ROUNDING = 1e-3, 1e-6  # scatter of log_prob - density: in nats, and relative to log_prob in float32


@dataclass(frozen=True)
class EvidenceCheck:
    """One check of an evidence.

    Attributes:
        passed: whether the estimate can be trusted in this respect.
        text: the numbers, in words.
    """

    passed: bool
    text: str


@dataclass(frozen=True, repr=False)
class Evidence(Displayed):
    """The log evidence of a chain.

    Attributes:
        log_evidence: log of the integral of the unnormalised posterior, nats.
        error: its standard error, nats. It covers the noise of rows and draws, but not a mode that the chain lacks.
        method: "bridge sampling" or "learned harmonic mean".
        checks: {name: check}; a check has `passed` and `text`.
        estimates: {method: (log evidence, standard error)} of every method that was possible.
        calls: number of points at which the density was called.
    """

    log_evidence: float
    error: float
    method: str
    checks: Mapping[str, EvidenceCheck]
    estimates: Mapping[str, tuple[float, float]]
    calls: int = 0

    @property
    def trusted(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks.values())

    def _headline(self) -> str:
        verdict = "" if self.trusted else "; not to be trusted"
        return f"log evidence {with_error(self.log_evidence, self.error)} by {self.method}{verdict}"

    def __str__(self) -> str:
        lines = [f"log evidence: {with_error(*numbers)} ({name})" for name, numbers in self.estimates.items()]
        lines += [
            f"  {'pass' if check.passed else 'FAIL'}  {name}: {check.text}" for name, check in self.checks.items()
        ]
        return "\n".join(lines)


def of_size(chain: Chain) -> EvidenceCheck:
    """Returns the check that the chain has enough independent draws."""
    size = chain.effective_size
    return EvidenceCheck(
        size >= _FEWEST_DRAWS,
        f"{size:.0f} effective draws among {chain.n} rows; at least {_FEWEST_DRAWS:.0f} are needed",
    )


def of_error(error: float) -> EvidenceCheck:
    """Returns the check that the error is small enough to be known itself."""
    return EvidenceCheck(error <= _MOST_ERROR, f"{error:.2g} nats; errors above {_MOST_ERROR} are not reliable")


def of_halves(estimate: Crossed) -> EvidenceCheck:
    """Returns the check that the halves of the chain agree."""
    return _of_difference("first minus second half", *estimate.difference)


def of_levers(difference: Crossed, subject: str) -> EvidenceCheck:
    """Returns the check that regions of high and of low flow density agree, as they do if the rows follow log p."""
    return _of_difference(subject, difference.log_z, difference.error)


def of_methods(difference: Crossed, tail: EvidenceCheck) -> EvidenceCheck:
    """Returns the check that bridge sampling and the harmonic mean agree, if the latter is reliable."""
    if not tail.passed:
        return EvidenceCheck(True, f"not compared, because the harmonic mean is not reliable ({tail.text})")
    return _of_difference("bridge sampling minus harmonic mean", difference.log_z, difference.error)


def _of_difference(subject: str, difference: float, error: float) -> EvidenceCheck:
    """Returns the check that a difference is at most four standard errors, or at most 0.02 nats."""
    passed = abs(difference) <= max(_APART * error, _SMALL)
    return EvidenceCheck(bool(passed), f"{subject}: {with_error(difference, error)} nats")


def of_tail(shape: float, error: float) -> EvidenceCheck:
    """Returns the check that no few rows make up the harmonic mean.

    The estimate of k is noisy. Up to k = 1 it does not matter if the error is small, even if that is too small.
    """
    passed = shape <= RELIABLE or (shape < 1.0 and error <= _SMALL)
    return EvidenceCheck(passed, f"Pareto k {shape:.2f} of the terms of the harmonic mean; {RELIABLE} is reliable")


def of_overlap(least: float) -> EvidenceCheck:
    """Returns the check that flows and posterior have enough mass in common for a bridge."""
    return EvidenceCheck(least >= _LEAST_OVERLAP, f"{least:.2f}, where 1 is a perfect flow; at least {_LEAST_OVERLAP}")


def of_differences(known: np.ndarray, called: np.ndarray) -> EvidenceCheck:
    """Returns the check that the chain's log density is that of `density`, up to a constant, at some rows (n,)."""
    scatter = float(np.std(known - called))
    return EvidenceCheck(
        scatter <= _SCATTER + _ROUNDING * float(np.abs(known).max()),
        f"chain.log_prob minus density scatters by {scatter:.2g} nats over {len(known)} rows",
    )
