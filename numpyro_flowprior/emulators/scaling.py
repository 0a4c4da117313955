"""Transformations around the Gaussian processes: inputs to the unit box, outputs to principal components and back.

All are in NumPy with float64, computed once from the design. Source of the transformation of outputs: D. Higdon et al.,
"Computer model calibration using high-dimensional output", JASA 103 (2008) 570.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._util.checks import FloatArray, positive_int, real_in, shorten
from ..chains.parameters import ParameterSpace

_CONSTANT = 1e-12  # variation of an output below this fraction of its size is only round-off


class InputScaling(NamedTuple):
    """The map z = (theta - offset) @ matrix, with `offset` (d,) and `matrix` (d, q)."""

    offset: FloatArray
    matrix: FloatArray

    def apply(self, theta: Any) -> Any:
        """Returns z (..., q) at theta (..., d), which is a NumPy array or traced."""
        return (theta - self.offset) @ self.matrix


class OutputBasis(NamedTuple):
    """Outputs from p component scores of zero mean and unit variance: y = mean + loadings @ scores + remainder.

    `mean` (m,) and `loadings` (m, p) are in the units of the outputs. `truncation` (m, m) is the sample covariance of
    the remainder.
    """

    mean: FloatArray
    loadings: FloatArray
    truncation: FloatArray


class Projection(NamedTuple):
    """Outputs of the design in components: `basis`, `scores` (n, p), and `matrix` (p, m) from outputs to scores.

    `explained` (p,) are the fractions of the total variance.
    """

    basis: OutputBasis
    scores: FloatArray
    matrix: FloatArray
    explained: FloatArray


def scale_inputs(X: FloatArray, space: ParameterSpace) -> InputScaling:
    """Returns the scaling of inputs: to the unit box by two finite bounds, else to zero mean and unit deviation.

    Raises:
        ValueError: a parameter without two finite bounds does not vary over the design.
    """
    lower, upper = space.bounds.T
    boxed = np.isfinite(lower) & np.isfinite(upper)
    deviation = X.std(axis=0)
    still = [space.names[j] for j in np.flatnonzero(~boxed & (deviation == 0))]
    if still:
        raise ValueError(f"X: expected parameters without bounds to vary; {shorten(still)} do not. Set their bounds.")
    offset = np.where(boxed, lower, X.mean(axis=0))
    width = np.subtract(upper, lower, out=np.ones_like(lower), where=boxed)
    return InputScaling(offset, np.diag(1 / np.where(boxed, width, deviation)))


def project_outputs(Y: FloatArray, names: tuple[str, ...], n_components: int | float) -> Projection:
    """Returns the leading principal components of the standardised outputs.

    Args:
        Y: (n, m) outputs of the design, finite.
        names: (m,) names of the outputs, for messages.
        n_components: how many to keep, or the fraction in (0, 1) of the total variance that they must reach.

    Raises:
        ValueError: an output does not vary, or there are fewer components than asked for.
    """
    mean, deviation = Y.mean(axis=0), Y.std(axis=0)
    constant = [names[j] for j in np.flatnonzero(deviation <= _CONSTANT * np.abs(Y).max(axis=0))]
    if constant:
        raise ValueError(f"Y: expected outputs that vary over the design; {shorten(constant)} do not. Leave them out.")
    left, singular, right = np.linalg.svd((Y - mean) / deviation, full_matrices=False)
    variance = singular**2 / (len(Y) - 1)
    rank = int(np.sum(singular > singular[0] * max(Y.shape) * np.finfo(np.float64).eps))
    p = _number_kept(n_components, variance[:rank])
    rest = right[p:] * deviation
    basis = OutputBasis(
        mean=mean,
        loadings=(right[:p] * np.sqrt(variance[:p, None]) * deviation).T,
        truncation=rest.T @ (variance[p:, None] * rest),
    )
    matrix = right[:p] / deviation / np.sqrt(variance[:p, None])
    return Projection(basis, left[:, :p] * np.sqrt(len(Y) - 1), matrix, variance[:p] / variance.sum())


def _number_kept(n_components: int | float, variance: FloatArray) -> int:
    if isinstance(n_components, float | np.floating):
        fraction = real_in(n_components, "n_components", 0.0, 1.0, open_low=True, open_high=True)
        return min(int(np.searchsorted(np.cumsum(variance) / variance.sum(), fraction)) + 1, len(variance))
    count = positive_int(n_components, "n_components")
    if count > len(variance):
        raise ValueError(
            f"n_components: expected at most {len(variance)}, the rank of the standardised outputs; got {count}."
        )
    return count
