"""Model runs for the fit and validation of an emulator: checks of inputs and outputs, and logarithms of outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._util.checks import FloatArray, float_array, require_finite, require_unique, shorten
from ..chains.parameters import ParameterSpace, require_space


def runs_of(X: Any, Y: Any, space: ParameterSpace, output_names: Any) -> tuple[Any, Any, Any]:
    """Returns design, outputs and their names; of a log of calls (an object with `theta` and `outputs`), what it holds.

    Raises:
        TypeError: outputs are missing, or come twice.
        ValueError: the log lacks a parameter or an output.
    """
    is_log = hasattr(X, "theta") and callable(getattr(X, "outputs", None))
    if is_log and Y is None:
        require_space(space)
        missing = [name for name in space.names if name not in X.names]
        if missing:
            raise ValueError(f"X: expected calls over {shorten(space.names, 40)}; missing: {shorten(missing)}.")
        outputs, names = X.outputs(output_names)
        return X.theta[:, [X.names.index(name) for name in space.names]], outputs, names
    if is_log or Y is None:
        got = "both a log of calls and Y" if is_log else "no Y"
        raise TypeError(f"Y: expected outputs (n, m), or None with the log of an ExternalLikelihood as X; got {got}.")
    return X, Y, output_names


def checked_design(X: Any, space: ParameterSpace) -> FloatArray:
    """Returns a design X (n, d) with at least d + 1 rows, all inside the bounds of the space.

    Raises:
        TypeError: values of the wrong type.
        ValueError: shape, NaN, too few rows, rows outside the bounds (parameters named).
    """
    array = checked_inputs(X, space)
    if len(array) <= space.dim:
        raise ValueError(f"X: expected at least {space.dim + 1} rows for {space.dim} parameters; got {len(array)}.")
    lower, upper = space.bounds.T
    outside = (array < lower) | (array > upper)
    if outside.any():
        counts = ", ".join(f"{space.names[j]!r}: {outside[:, j].sum()}" for j in np.flatnonzero(outside.any(axis=0)))
        raise ValueError(
            f"X: expected rows inside the space's bounds; {outside.any(axis=1).sum()} of {len(array)} are not "
            f"(rows per parameter: {counts}). Check the order of the columns, or widen the bounds."
        )
    return array


def checked_inputs(X: Any, space: ParameterSpace, subject: str = "X") -> FloatArray:
    """Returns finite inputs X (n, d) in the order of the space; the columns of a DataFrame are found by name."""
    require_space(space)
    named = column_names(X)
    if named is not None:
        missing = [name for name in space.names if name not in named]
        if missing:
            raise ValueError(
                f"{subject}: expected columns {shorten(space.names, 40)}; missing: {shorten(missing)}. Rename them, or "
                "pass an array in the order of the space."
            )
        X = X[list(space.names)]
    array = float_array(X, subject)
    if array.ndim != 2 or array.shape[1] != space.dim:
        raise ValueError(
            f"{subject}: expected shape (n, {space.dim}) for the parameters {shorten(space.names, 40)}; got "
            f"{array.shape}."
        )
    require_finite(array, subject, columns=space.names)
    return array


def column_names(frame: Any) -> tuple[str, ...] | None:
    """Returns the column names of a DataFrame, or None if there are none or not all are strings."""
    names = tuple(getattr(frame, "columns", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


def checked_points(theta: Any, names: Sequence[str]) -> Any:
    """Returns points (..., d): JAX arrays unchanged, sequences of JAX values stacked, all else as float64 NumPy."""
    if isinstance(theta, list | tuple) and any(isinstance(value, jax.Array) for value in theta):
        theta = jnp.stack(theta)
    if np.shape(theta)[-1:] != (len(names),):
        raise ValueError(
            f"theta: expected shape (..., {len(names)}) for the parameters {shorten(names, 40)}; got {np.shape(theta)}."
        )
    return theta if isinstance(theta, jax.Array) else float_array(theta, "theta")


def checked_outputs(Y: Any, n: int, names: Sequence[str]) -> FloatArray:
    """Returns finite outputs Y (n, m), one column for each name."""
    array = float_array(Y, "Y", shape=(n, len(names)))
    require_finite(array, "Y", columns=names)
    return array


def checked_output_names(names: Sequence[str] | None, Y: Any) -> tuple[str, ...]:
    """Returns m unique names of the outputs; by default the columns of a DataFrame, or "y0", "y1", ..."""
    shape = np.shape(Y)
    if len(shape) != 2:
        raise ValueError(f"Y: expected shape (n, m); got {shape}. One output is Y[:, None].")
    m = shape[1]
    default = column_names(Y) or tuple(f"y{j}" for j in range(m))
    checked = default if names is None else tuple(str(name) for name in names)
    if len(checked) != m or m == 0:
        raise ValueError(f"output_names: expected {m} names, one for each column of Y; got {len(checked)}.")
    require_unique(checked, "output_names: expected unique names")
    return checked


def checked_errors(errors: Any, Y: FloatArray, names: Sequence[str]) -> FloatArray:
    """Returns standard errors of Y (n, m), zero by default."""
    if errors is None:
        return np.zeros_like(Y)
    array = float_array(errors, "Y_error", shape=Y.shape)
    require_finite(array, "Y_error", columns=names)
    if (array < 0).any():
        bad = [names[int(j)] for j in np.flatnonzero((array < 0).any(axis=0))]
        raise ValueError(f"Y_error: expected standard errors >= 0; got negative ones for {shorten(bad)}.")
    return array


def checked_log_outputs(log_outputs: Any, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the outputs that are emulated as logarithms: all for True, none for False."""
    if isinstance(log_outputs, bool | np.bool_):
        return tuple(names) if log_outputs else ()
    if isinstance(log_outputs, str) or not isinstance(log_outputs, Iterable):
        raise TypeError(f"log_outputs: expected True, False, or names of outputs; got {log_outputs!r}.")
    chosen = {str(name) for name in log_outputs}
    unknown = sorted(chosen - set(names))
    if unknown:
        raise ValueError(f"log_outputs: expected some of {shorten(names, 10)}; got {shorten(unknown)}.")
    return tuple(name for name in names if name in chosen)


def mask_of(log_outputs: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Returns a Boolean mask (m,) of the outputs that are emulated as logarithms."""
    return np.isin(np.asarray(names, dtype=object), list(log_outputs))


def on_log_scale(Y: FloatArray, mask: np.ndarray, names: Sequence[str], subject: str = "Y") -> FloatArray:
    """Returns outputs (..., m) with the natural logarithm of those in the mask.

    Raises:
        ValueError: some of the outputs in the mask are not positive (named).
    """
    bad = [names[int(j)] for j in np.flatnonzero(mask) if (Y[..., j] <= 0).any()]
    if bad:
        raise ValueError(
            f"{subject}: expected positive values of outputs that are emulated as logarithms; got zero or negative "
            f"ones for {shorten(bad)}. Leave them out of log_outputs."
        )
    logs = Y.copy()
    logs[..., mask] = np.log(Y[..., mask])
    return logs
