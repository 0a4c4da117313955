"""The declared support in NumPy and float64, without JAX. The formulas are those of support.py, which explains them."""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri

from .._util.checks import FloatArray
from ..chains.parameters import ParameterSpace
from .bounds import EDGE, LARGEST_LOG, LOG_ROOT_TWO_PI, columns_by_kind

Pair = tuple[FloatArray, FloatArray]


def to_line(theta: FloatArray, space: ParameterSpace, scale: FloatArray) -> Pair:
    """Returns z (n, d) and log |det dz / dtheta| (n,) of points (n, d) in the closed support.

    Args:
        theta: points.
        space: the parameters and their bounds.
        scale: (d,) scale of each half line; ignored for intervals and lines.
    """
    z, log_det = theta.copy(), np.zeros(theta.shape)
    lower, upper = space.bounds.T
    for kind, j in columns_by_kind(space).items():
        if kind == "interval":
            z[:, j], log_det[:, j] = _interval_to_line(theta[:, j], lower[j], upper[j])
        elif kind == "above":
            z[:, j], log_det[:, j] = _half_line_to_line(theta[:, j] - lower[j], scale[j])
        elif kind == "below":
            mirrored, log_det[:, j] = _half_line_to_line(upper[j] - theta[:, j], scale[j])
            z[:, j] = -mirrored
    return z, log_det.sum(axis=1)


def from_line(z: FloatArray, space: ParameterSpace, scale: FloatArray) -> FloatArray:
    """Returns theta (n, d), the inverse of `to_line`; rounding may put a point on a bound."""
    theta = z.copy()
    lower, upper = space.bounds.T
    for kind, j in columns_by_kind(space).items():
        if kind == "interval":
            step = (upper[j] - lower[j]) * ndtr(-np.abs(z[:, j]))
            theta[:, j] = np.where(z[:, j] <= 0, lower[j] + step, upper[j] - step)
        elif kind == "above":
            theta[:, j] = lower[j] + _line_to_half_line(z[:, j], scale[j])
        elif kind == "below":
            theta[:, j] = upper[j] - _line_to_half_line(-z[:, j], scale[j])
    return theta


def _log_normal_density(z: FloatArray) -> FloatArray:
    return -0.5 * z * z - LOG_ROOT_TWO_PI


def _interval_to_line(theta: FloatArray, lower: FloatArray, upper: FloatArray) -> Pair:
    width, from_lower, from_upper = upper - lower, theta - lower, upper - theta
    z = ndtri(np.clip(np.minimum(from_lower, from_upper) / width, EDGE, 0.5))
    return np.where(from_lower <= from_upper, z, -z), -np.log(width) - _log_normal_density(z)


def _half_line_to_line(distance: FloatArray, scale: FloatArray) -> Pair:
    x = np.maximum(distance / scale, EDGE)
    near = ndtri(np.minimum(x, 1.0) / (1.0 + x))
    z = np.where(x <= 1.0, near, -ndtri(np.minimum(1.0 / (1.0 + x), 0.5)))
    return z, -2.0 * np.log1p(x) - np.log(scale) - _log_normal_density(z)


def _line_to_half_line(z: FloatArray, scale: FloatArray) -> FloatArray:
    return scale * np.exp(np.minimum(log_ndtr(z) - log_ndtr(-z), LARGEST_LOG))
