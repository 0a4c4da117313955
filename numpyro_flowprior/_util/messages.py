"""What the package raises and warns with, beside Python's own errors for wrong values and types."""

from __future__ import annotations


class FlowPriorError(Exception):
    """Base of the package's own errors: `FileFormatError`, `StageStopped`."""


class FlowPriorWarning(UserWarning):
    """Base of the package's warnings: something that a user should hear of."""


class ConvergenceWarning(FlowPriorWarning):
    """A run or a chain is not converged, was stopped before its end, or holds too few independent draws."""
