"""Measurements of an experiment: values, their covariance, and checks of both."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._util.checks import ArrayLike, FloatArray, float_array, real_in, require_finite, require_nonnegative, shorten
from .._util.messages import FlowPriorWarning

_SYMMETRY = 1e-8  # accepted asymmetry of the correlation matrix; rounding in a text file can cause it


class Measurement(NamedTuple):
    """Measured `values` (m,), their `covariance` (m, m), and `kept` (m,), their indices among all outputs."""

    values: FloatArray
    covariance: FloatArray
    kept: np.ndarray


def measurement_covariance(
    statistical: ArrayLike,
    systematic: ArrayLike | None = None,
    *,
    positions: ArrayLike | None = None,
    correlation_length: float | None = None,
    groups: Sequence[Any] | None = None,
    between_groups: float = 0.0,
) -> FloatArray:
    """Returns the covariance (m, m) of measurements with statistical errors and one correlated systematic error.

        C_ij = delta_ij stat_i^2 + r_ij sys_i sys_j,   r_ij = exp(-(x_i - x_j)^2 / (2 l^2))

    This r_ij holds within a group of observables. Between two groups it is multiplied by `between_groups`. Heavy-ion
    analyses use this form, with centrality bins as positions (Bernhard, Moreland, Bass, Nature Physics 15 (2019) 1113).
    Without positions, r_ij is 1 within a group: a normalisation error. For several systematic errors, add the
    covariances.

    Args:
        statistical: (m,) uncorrelated standard errors, >= 0. NaN, here or in `systematic`, marks an observable that was
            not measured. The elements of the covariance that depend on it are NaN.
        systematic: (m,) standard errors, >= 0, e.g. `0.05 * abs(y)` for a fraction of 5 %; None for no such error.
        positions: (m,) where the observables were measured (centrality, rapidity, ...), for `correlation_length`.
        correlation_length: l > 0, in units of the positions.
        groups: (m,) labels, e.g. the name of the observable; None for one group.
        between_groups: correlation in [0, 1] between measurements of different groups at the same position.

    Raises:
        TypeError: values of the wrong type.
        ValueError: shapes, negative errors, or only one of `positions` and `correlation_length`.
    """
    stat = _errors(statistical, "statistical", None)
    m = len(stat)
    covariance = np.diag(stat**2)
    if systematic is None:
        if positions is not None or correlation_length is not None or groups is not None:
            raise ValueError("systematic: expected (m,) errors to correlate by positions or groups; got None.")
        return covariance
    correlation = np.ones((m, m))
    if (positions is None) != (correlation_length is None):
        raise ValueError("positions, correlation_length: expected both or neither.")
    if positions is not None and correlation_length is not None:
        x = float_array(positions, "positions", shape=(m,))
        require_finite(x, "positions")
        length = real_in(correlation_length, "correlation_length", 0.0, np.inf, open_low=True)
        correlation = np.exp(-((x[:, None] - x) ** 2) / (2 * length**2))
    if groups is None and between_groups:
        raise ValueError(f"between_groups: expected groups as well; got {between_groups} without groups.")
    if groups is not None:
        labels = np.asarray([str(label) for label in groups])
        if labels.shape != (m,):
            raise ValueError(f"groups: expected {m} labels, one for each measurement; got {len(labels)}.")
        across = real_in(between_groups, "between_groups", 0.0, 1.0)
        correlation *= np.where(labels[:, None] == labels, 1.0, across)
    sys = _errors(systematic, "systematic", m)
    return covariance + correlation * np.outer(sys, sys)


def _errors(value: Any, subject: str, m: int | None) -> FloatArray:
    errors = float_array(value, subject, shape=(m,))
    require_finite(np.nan_to_num(errors, nan=0.0, posinf=np.inf, neginf=-np.inf), subject)
    require_nonnegative(errors, f"{subject}: expected standard errors")
    return errors


def checked_measurement(y_obs: Any, cov_obs: Any, blocks: Sequence[tuple[str, Sequence[str]]]) -> Measurement:
    """Returns values and covariance without the measurements that are NaN. One warning names these.

    Args:
        y_obs: (m,) values; NaN or masked where an observable was not measured.
        cov_obs: (m, m) covariance. The rows and columns of observables that were not measured are ignored.
        blocks: for each block, its name and the names of its outputs, m in total; for messages.

    Raises:
        ValueError: shapes, infinite values, none measured, or a covariance that is not symmetric and positive definite
            (the block is named).
    """
    names = [name for _, outputs in blocks for name in outputs]
    m = len(names)
    if isinstance(y_obs, np.ma.MaskedArray):
        y_obs = np.ma.filled(np.ma.asarray(y_obs, dtype=np.float64), np.nan)
    values = float_array(y_obs, "y_obs", shape=(m,))
    kept = np.flatnonzero(~np.isnan(values))
    if not len(kept):
        raise ValueError("y_obs: expected measured values; all are NaN.")
    require_finite(values[kept], "y_obs")
    covariance = float_array(cov_obs, "cov_obs")
    if covariance.ndim == 1:
        raise ValueError(
            f"cov_obs: expected a covariance matrix ({m}, {m}); got shape {covariance.shape}. For independent "
            "measurements with standard deviations sigma, pass np.diag(sigma**2), or see measurement_covariance."
        )
    covariance = float_array(covariance, "cov_obs", shape=(m, m))[np.ix_(kept, kept)]
    block_of = np.repeat(np.arange(len(blocks)), [len(outputs) for _, outputs in blocks])[kept]
    _require_positive_definite(covariance, [names[j] for j in kept], block_of, [name for name, _ in blocks])
    if len(kept) < m:
        missing = [names[j] for j in np.setdiff1d(np.arange(m), kept)]
        warnings.warn(
            f"EmulatorLikelihood: {len(missing)} of {m} observables are NaN in y_obs and are left out: "
            f"{shorten(missing, 20)}.",
            FlowPriorWarning,
            stacklevel=3,
        )
    return Measurement(values[kept], (covariance + covariance.T) / 2, kept)


def _require_positive_definite(
    covariance: FloatArray, names: Sequence[str], block_of: np.ndarray, blocks: Sequence[str]
) -> None:
    require_finite(covariance, "cov_obs")
    diagonal = np.diag(covariance)
    bad = [names[j] for j in map(int, np.flatnonzero(diagonal <= 0))]
    if bad:
        raise ValueError(
            f"cov_obs: expected positive variances on the diagonal; got zero or negative ones for {shorten(bad)}."
        )
    correlation = covariance / np.sqrt(np.outer(diagonal, diagonal))
    if np.abs(correlation - correlation.T).max() > _SYMMETRY:
        raise ValueError("cov_obs: expected a symmetric matrix; it is not symmetric. Symmetrise it with (C + C.T) / 2.")
    if _smallest(correlation) > _least(correlation):
        return
    parts = [(block, correlation[np.ix_(block_of == j, block_of == j)]) for j, block in enumerate(blocks)]
    wrong = [(block, part) for block, part in parts if len(part) and _smallest(part) <= _least(part)]
    where, matrix = wrong[0] if wrong and len(blocks) > 1 else ("", correlation)
    place = f" in block {where!r}" if where else " (each block is; the correlations between blocks are the cause)"
    raise ValueError(
        f"cov_obs: expected a positive definite matrix; it is not{place if len(blocks) > 1 else ''}: the smallest "
        f"eigenvalue of its correlation matrix is {_smallest(matrix):.3g}. Check the correlations, or add uncorrelated "
        "errors to the diagonal."
    )


def _smallest(correlation: FloatArray) -> float:
    return float(np.linalg.eigvalsh((correlation + correlation.T) / 2)[0])


def _least(correlation: FloatArray) -> float:
    return len(correlation) * float(np.finfo(np.float64).eps)
