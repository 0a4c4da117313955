"""Coordinates in which rows have covariance one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._util.checks import FloatArray

_FLATTEST = 1e-12  # variance along an axis, of columns of unit variance, that is not divided by: rounding


def whitening(reference: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Returns the map of points (m, d) to coordinates in which the reference rows (n, d) are white.

    Along flat directions it stays finite.
    """
    centre = reference.mean(axis=0)
    scale = np.where(np.ptp(reference, axis=0) > 0.0, reference.std(axis=0), 1.0)
    covariance = np.cov(((reference - centre) / scale).T, ddof=0).reshape(len(centre), -1)
    variances, axes = np.linalg.eigh(covariance)
    turned = axes / np.sqrt(np.maximum(variances, _FLATTEST))
    return lambda points: (points - centre) / scale @ turned
