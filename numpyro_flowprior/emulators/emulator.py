"""GPEmulator: a fast stand-in, with its uncertainty, for a model too expensive to run at every point.

The public face of fitting, prediction, validation and files; each has its own module.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import FloatArray, float_array, positive_int, require_finite, require_unique, shorten
from ..chains.parameters import ParameterSpace
from . import gaussian_process
from .emulator_file import read_emulator, write_emulator
from .fit import ComponentReport, fit_components, sklearn_kernel, warn_if_unfinished
from .gaussian_process import EmulatorState, Moments, Prediction
from .scaling import project_outputs, scale_inputs
from .validation import EmulatorValidation, compare_with_runs


class GPEmulator:
    """Gaussian processes on the leading principal components of standardised outputs.

    Made by `GPEmulator.fit` or `GPEmulator.load`. Immutable; holds NumPy arrays in float64 and pickles.

    Attributes:
        space: the d input parameters; the order of theta's last axis.
        output_names: (m,) names of the outputs.
        n_components: number of components kept, p.
        state: all the numbers, for `gaussian_process`.
        report: how the fit of each component went.
    """

    def __init__(
        self,
        space: ParameterSpace,
        output_names: tuple[str, ...],
        state: EmulatorState,
        report: tuple[ComponentReport, ...],
    ):
        self.space = space
        self.output_names = output_names
        self.state = state
        self.report = report

    @property
    def n_components(self) -> int:
        """Number of principal components kept, p."""
        return self.state.outputs.loadings.shape[1]

    @classmethod
    def fit(
        cls,
        X: Any,
        Y: Any,
        space: ParameterSpace,
        *,
        n_components: int | float = 0.99,
        kernel: Any = "rbf",
        Y_error: Any = None,
        restarts: int = 0,
        seed: int = 0,
        output_names: Sequence[str] | None = None,
        progress: bool = True,
    ) -> GPEmulator:
        """Returns an emulator fitted to runs of the model.

        Inputs are scaled to the unit box by the space's bounds (a parameter without two finite bounds: by the design's
        mean and standard deviation); outputs to zero mean and unit standard deviation, then to principal components
        of unit variance. Time grows as n^3 per component: about 3 s for n = 485, d = 17 on one core.

        Args:
            X: (n, d) design, in the order of `space`, at least d + 1 rows inside its bounds. Repeated rows are fine.
            Y: (n, m) the model's outputs.
            space: the input parameters.
            n_components: how many to keep, or the fraction in (0, 1) of the total variance they must reach.
            kernel: "rbf", "matern52", "matern32" or "matern12" for the anisotropic kernel of that smoothness, scaled
                and with fitted noise; or a scikit-learn kernel of RBF, Matern, ConstantKernel, WhiteKernel, their sums
                and products.
            Y_error: (n, m) known statistical standard errors of Y, independent of each other; enters the components'
                noise in addition to the kernel's. Correlations it induces between components are left out.
            restarts: further starting points of the optimiser, >= 0.
            seed: seeds them, >= 0.
            output_names: (m,) unique names, or None for "y0", "y1", ...
            progress: whether to show a progress bar.

        Raises:
            ImportError: scikit-learn is not installed.
            TypeError: values of the wrong type.
            ValueError: shapes, NaN, too few rows, rows outside the bounds, outputs that do not vary, an unsupported
                kernel; the message names the parameter or output.
        """
        X = _checked_design(X, space)
        Y = float_array(Y, "Y", shape=(len(X), None))
        names = _checked_output_names(output_names, Y.shape[1])
        require_finite(Y, "Y", columns=names)
        projected = project_outputs(Y, names, n_components)
        inputs = scale_inputs(X, space)
        components, report = fit_components(
            (X - inputs.offset) / inputs.scale,
            projected.scores,
            _checked_errors(Y_error, Y, names) ** 2 @ projected.matrix.T**2,
            projected.explained,
            sklearn_kernel(kernel, space.dim),
            restarts=positive_int(restarts, "restarts", minimum=0),
            seed=positive_int(seed, "seed", minimum=0),
            progress=progress,
        )
        warn_if_unfinished(report)
        return cls(space, names, EmulatorState(inputs, projected.basis, components), report)

    def predict(self, theta: Any, *, allow_float32: bool = False) -> Prediction:
        """Returns the outputs' predicted mean and covariance, in float64.

        The covariance is full: the components' predictive variances, which as in scikit-learn include the kernel's
        WhiteKernel noise, plus the sample covariance of the truncated components. Outside the space's bounds the
        emulator extrapolates without a word: towards the design's mean, with the prior's variance.

        Args:
            theta: (..., d) points in the order of `space`. Numbers give float64 NumPy arrays, whatever JAX's setting.
                Traced values (inside jit, vmap, grad) need 64-bit numbers enabled.
            allow_float32: whether to predict in float32 where they are not. Variances below about 1e-5 of the
                prior's are then round-off.

        Returns:
            Prediction(mean (..., m), covariance (..., m, m)).

        Raises:
            ValueError: theta's last axis is not d, values not finite, or traced in 32-bit mode.
        """
        return self._evaluate(gaussian_process.prediction, theta, allow_float32)

    def component_moments(self, theta: Any, *, allow_float32: bool = False) -> Moments:
        """Returns mean and variance (..., p) of the component scores at theta (..., d); otherwise as `predict`."""
        return self._evaluate(gaussian_process.moments, theta, allow_float32)

    def _evaluate(self, function: Any, theta: Any, allow_float32: bool) -> Any:
        if np.shape(theta)[-1:] != (self.space.dim,):
            raise ValueError(
                f"theta: expected shape (..., {self.space.dim}) for the parameters {shorten(self.space.names, 40)}; "
                f"got {np.shape(theta)}."
            )
        return gaussian_process.evaluate(function, self.state, theta, allow_float32=allow_float32)

    def validate(self, X: Any, Y: Any) -> EmulatorValidation:
        """Returns the comparison with runs (X (n, d), Y (n, m)) that the fit has not seen: R^2, residuals, coverage.

        Raises:
            ValueError: shapes, values that are not finite, fewer than two runs, or outputs that do not vary.
        """
        X = float_array(X, "X", shape=(None, self.space.dim))
        require_finite(X, "X", columns=self.space.names)
        Y = float_array(Y, "Y", shape=(len(X), len(self.output_names)))
        require_finite(Y, "Y", columns=self.output_names)
        scores, basis = self.component_moments(X), self.state.outputs
        variance = scores.variance @ basis.loadings.T**2 + np.diag(basis.truncation)
        return compare_with_runs(basis.mean + scores.mean @ basis.loadings.T, np.sqrt(variance), Y, self.output_names)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the emulator to a file (safetensors, no pickle) and returns the path."""
        return write_emulator(path, self.space, self.output_names, self.state, self.report)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GPEmulator:
        """Returns the emulator saved at `path`; its predictions equal the original's bit for bit.

        Raises:
            FileNotFoundError: there is no such file.
            FileFormatError: the file is damaged or holds something else.
        """
        return cls(*read_emulator(path))

    def __repr__(self) -> str:
        n, d = self.state.components.design.shape
        return f"GPEmulator({d} parameters, {len(self.output_names)} outputs, {self.n_components} components, {n} runs)"


def _checked_design(X: Any, space: ParameterSpace) -> FloatArray:
    if not isinstance(space, ParameterSpace):
        raise TypeError(f"space: expected a ParameterSpace; got {type(space).__name__}.")
    array = float_array(X, "X")
    if array.ndim != 2 or array.shape[1] != space.dim:
        raise ValueError(
            f"X: expected shape (n, {space.dim}) for the parameters {shorten(space.names, 40)}; got {array.shape}."
        )
    require_finite(array, "X", columns=space.names)
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


def _checked_output_names(names: Sequence[str] | None, m: int) -> tuple[str, ...]:
    checked = tuple(f"y{j}" for j in range(m)) if names is None else tuple(str(name) for name in names)
    if len(checked) != m or m == 0:
        raise ValueError(f"output_names: expected {m} names, one for each column of Y; got {len(checked)}.")
    require_unique(checked, "output_names: expected unique names")
    return checked


def _checked_errors(errors: Any, Y: FloatArray, names: tuple[str, ...]) -> FloatArray:
    if errors is None:
        return np.zeros_like(Y)
    array = float_array(errors, "Y_error", shape=Y.shape)
    require_finite(array, "Y_error", columns=names)
    if (array < 0).any():
        bad = [names[j] for j in np.flatnonzero((array < 0).any(axis=0))]
        raise ValueError(f"Y_error: expected standard errors >= 0; got negative ones for {shorten(bad)}.")
    return array
