"""Errors and warnings of the package. Wrong values and types raise Python's own ValueError and TypeError."""

from __future__ import annotations


class FlowPriorError(Exception):
    """Base of the package's own errors: `FileFormatError`, `StageStopped`."""


class FlowPriorWarning(UserWarning):
    """Base of the package's warnings: something that the user should know."""


class ConvergenceWarning(FlowPriorWarning):
    """A run or a chain has not converged, was stopped early, or has too few independent draws."""
