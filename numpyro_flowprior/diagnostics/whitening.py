"""Coordinates in which rows have unit covariance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._util.checks import FloatArray

_FLATTEST = 1e-12  # smaller variances along an axis, for columns of unit variance, are rounding errors


def whitening(reference: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Returns the map from points (m, d) to coordinates in which the reference rows (n, d) have unit covariance.

    The map is finite also along directions without variance.
    """
    centre = reference.mean(axis=0)
    scale = np.where(np.ptp(reference, axis=0) > 0.0, reference.std(axis=0), 1.0)
    covariance = np.cov(((reference - centre) / scale).T, ddof=0).reshape(len(centre), -1)
    variances, axes = np.linalg.eigh(covariance)
    turned = axes / np.sqrt(np.maximum(variances, _FLATTEST))
    return lambda points: (points - centre) / scale @ turned
