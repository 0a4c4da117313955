"""GPEmulator: a fast stand-in, with its uncertainty, for a model too expensive to run at every point.

The public face of fitting, prediction, validation and files; each has its own module.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._util.checks import ArrayLike, positive_int
from .._util.keys import seed_or_zero
from ..chains.parameters import ParameterSpace, require_space
from . import gaussian_process
from .emulator_file import read_emulator, write_emulator
from .fit import ComponentReport, fit_components, warn_if_unfinished
from .from_sklearn import emulator_state
from .gaussian_process import EmulatorState, Moments, Prediction
from .kernel_trees import kernel_range
from .lognormal import lognormal_moments
from .runs import (
    checked_design,
    checked_errors,
    checked_inputs,
    checked_log_outputs,
    checked_output_names,
    checked_outputs,
    checked_points,
    mask_of,
    on_log_scale,
)
from .scaling import project_outputs, scale_inputs
from .validation import EmulatorValidation, compare_with_runs, left_out


class GPEmulator:
    """Gaussian processes on the leading principal components of standardised outputs.

    Made by `GPEmulator.fit`, `GPEmulator.from_sklearn` or `GPEmulator.load`. Immutable; holds NumPy arrays in float64
    and pickles.

    Attributes:
        space: the d input parameters; the order of theta's last axis.
        output_names: (m,) names of the outputs.
        n_components: number of components kept, p.
        state: all the numbers, for `gaussian_process`.
        report: how the fit of each component went.
        log_outputs: names of the outputs that are emulated by their natural logarithm.
    """

    def __init__(
        self,
        space: ParameterSpace,
        output_names: tuple[str, ...],
        state: EmulatorState,
        report: tuple[ComponentReport, ...],
        log_outputs: tuple[str, ...] = (),
    ):
        self.space = space
        self.output_names = output_names
        self.state = state
        self.report = report
        self.log_outputs = log_outputs

    @property
    def n_components(self) -> int:
        """Number of principal components kept, p."""
        return self.state.outputs.loadings.shape[1]

    @classmethod
    def fit(
        cls,
        X: ArrayLike,
        Y: ArrayLike,
        space: ParameterSpace,
        *,
        n_components: int | float = 0.99,
        kernel: Any = "rbf",
        Y_error: ArrayLike | None = None,
        log_outputs: bool | Sequence[str] = False,
        restarts: int = 0,
        key: jax.Array | None = None,
        output_names: Sequence[str] | None = None,
        progress: bool = True,
    ) -> GPEmulator:
        """Returns an emulator fitted to runs of the model.

        Inputs are scaled to the unit box by the space's bounds (a parameter without two finite bounds: by the design's
        mean and standard deviation); outputs to zero mean and unit standard deviation, then to principal components
        of unit variance. Time grows as n^3 per component.

        Args:
            X: (n, d) design, in the order of `space` (a DataFrame: by its columns' names), at least d + 1 rows inside
                the bounds. Repeated rows are fine.
            Y: (n, m) the model's outputs.
            space: the input parameters.
            n_components: how many to keep, or the fraction in (0, 1) of the total variance they must reach.
            kernel: "rbf", "matern52", "matern32" or "matern12" for the anisotropic kernel of that smoothness, scaled
                and with fitted noise; or a scikit-learn kernel of RBF, Matern, RationalQuadratic, ExpSineSquared,
                DotProduct, ConstantKernel, WhiteKernel, their sums, products and powers, with its bounds.
            Y_error: (n, m) known statistical standard errors of Y, independent of each other; enters the components'
                noise in addition to the kernel's. Correlations it induces between components are left out.
            log_outputs: names of positive outputs to emulate by their logarithm, or True for all: for outputs that
                vary by factors. `predict` gives the moments of the outputs themselves.
            restarts: further starting points of the optimiser, >= 0; all starts of all components run in parallel.
            key: seeds them; None for jax.random.key(0).
            output_names: (m,) unique names, or None for those of a DataFrame's columns, or "y0", "y1", ...
            progress: whether to show a progress bar.

        Raises:
            TypeError: values of the wrong type.
            ValueError: shapes, NaN, too few rows, rows outside the bounds, outputs that do not vary, logarithms of
                outputs that are not positive, an unsupported kernel; the message names the parameter or output.
        """
        X = checked_design(X, space)
        names = checked_output_names(output_names, Y)
        Y = checked_outputs(Y, len(X), names)
        error = checked_errors(Y_error, Y, names)
        logged = checked_log_outputs(log_outputs, names)
        mask = mask_of(logged, names)
        projected = project_outputs(on_log_scale(Y, mask, names), names, n_components)
        inputs = scale_inputs(X, space)
        components, report = fit_components(
            inputs.apply(X),
            projected.scores,
            (error / np.where(mask, Y, 1.0)) ** 2 @ projected.matrix.T**2,
            projected.explained,
            kernel_range(kernel, space.dim),
            space.names,
            restarts=positive_int(restarts, "restarts", minimum=0),
            seed=seed_or_zero(key),
            progress=progress,
        )
        warn_if_unfinished(report)
        return cls(space, names, EmulatorState(inputs, projected.basis, components), report, logged)

    @classmethod
    def from_sklearn(
        cls,
        model: Any,
        space: ParameterSpace,
        *,
        inputs: Any = None,
        outputs: Any = None,
        truncation: Any = None,
        log_outputs: bool | Sequence[str] = False,
        output_names: Sequence[str] | None = None,
    ) -> GPEmulator:
        """Returns the emulator that scikit-learn has trained: the same mean and variance, to rounding.

        Args:
            model: a fitted GaussianProcessRegressor, of one output or several; a sequence of them, one per component;
                MultiOutputRegressor; Pipeline of StandardScaler, MinMaxScaler and PCA that ends in one of these; or
                TransformedTargetRegressor around one, with such a transformer. Kernels as in `fit`.
            space: the d input parameters, in the order of the model's columns.
            inputs: the fitted transformer (StandardScaler, MinMaxScaler, PCA, a Pipeline or sequence of them) that led
                from the parameters to the model's inputs; None if there was none beside the model's own.
            outputs: the fitted transformer (or Pipeline, or sequence) that led from the outputs to the targets that
                the model was trained on, e.g. Pipeline([StandardScaler, PCA]); None if there was none.
            truncation: (m, m) covariance of what the principal components leave out, which scikit-learn's prediction
                does not have; None for none.
            log_outputs: as in `fit`, if the model was trained on logarithms of these outputs.
            output_names: (m,) unique names, or None for "y0", "y1", ...

        Raises:
            TypeError: not a scikit-learn model.
            ValueError: a part is not fitted or not supported (named), parts do not fit together, or the predictions
                differ from scikit-learn's own.
        """
        require_space(space)
        state, report = emulator_state(model, space.names, inputs, outputs, truncation)
        names = checked_output_names(output_names, np.empty((1, len(state.outputs.mean))))
        return cls(space, names, state, tuple(report), checked_log_outputs(log_outputs, names))

    def predict(self, theta: ArrayLike, *, log_scale: bool = False, allow_float32: bool = False) -> Prediction:
        """Returns the outputs' predicted mean and covariance, in float64.

        The covariance is full: the components' predictive variances, which as in scikit-learn include the kernel's
        WhiteKernel noise, plus the sample covariance of the truncated components. Outputs that are emulated by their
        logarithm are lognormal, and these are their moments. Outside the space's bounds the emulator extrapolates
        without a word: towards the design's mean, with the prior's variance.

        Args:
            theta: (..., d) points in the order of `space`. Numbers give float64 NumPy arrays, whatever JAX's setting.
                Traced values (inside jit, vmap, grad) need 64-bit numbers enabled.
            log_scale: whether to give the moments of the logarithms instead, for the outputs of `log_outputs`.
            allow_float32: whether to predict in float32 where they are not. Variances below about 1e-5 of the
                prior's are then round-off.

        Returns:
            Prediction(mean (..., m), covariance (..., m, m)).

        Raises:
            ValueError: theta's last axis is not d, values not finite, or traced in 32-bit mode.
        """
        prediction = self._evaluate(gaussian_process.prediction, theta, allow_float32)
        if log_scale or not self.log_outputs:
            return prediction
        return lognormal_moments(prediction, self._mask)

    def component_moments(self, theta: ArrayLike, *, allow_float32: bool = False) -> Moments:
        """Returns mean and variance (..., p) of the component scores at theta (..., d); otherwise as `predict`."""
        return self._evaluate(gaussian_process.moments, theta, allow_float32)

    def covariance_between(self, theta: ArrayLike) -> np.ndarray:
        """Returns each output's covariance between points, (n, n, m) at theta (n, d), of logarithms for `log_outputs`.

        What scikit-learn's `predict(..., return_cov=True)` gives. `predict` has the covariance between outputs.
        """
        points = checked_inputs(theta, self.space, "theta")
        with jax.enable_x64(True):
            covariance = np.asarray(gaussian_process.covariance_between(self.state, points))
        per_output = covariance.transpose(1, 2, 0) @ self.state.outputs.loadings.T**2
        return per_output + np.eye(len(points))[..., None] * np.diag(self.state.outputs.truncation)

    def _evaluate(self, function: Any, theta: Any, allow_float32: bool) -> Any:
        points = checked_points(theta, self.space.names)
        return gaussian_process.evaluate(function, self.state, points, allow_float32=allow_float32)

    def validate(self, X: ArrayLike, Y: ArrayLike, *, Y_error: ArrayLike | None = None) -> EmulatorValidation:
        """Returns the comparison with runs that the fit has not seen: R^2, residuals, coverage, a verdict.

        Outputs of `log_outputs` are compared by their logarithm.

        Args:
            X: (n, d) inputs.
            Y: (n, m) outputs.
            Y_error: (n, m) known statistical standard errors of these runs. Predictions hold the noise that the kernel
                fitted, not the `Y_error` of the fit: where that was given, give this too.

        Raises:
            ValueError: shapes, values that are not finite, fewer than two runs, or outputs that do not vary.
        """
        X = checked_inputs(X, self.space)
        Y = checked_outputs(Y, len(X), self.output_names)
        error = checked_errors(Y_error, Y, self.output_names) / np.where(self._mask, Y, 1.0)
        return compare_with_runs(
            self.component_moments(X), self.state.outputs, self._logs(Y), self.output_names, error=error
        )

    @property
    def _mask(self) -> np.ndarray:
        return mask_of(self.log_outputs, self.output_names)

    def leave_one_out(self, Y: ArrayLike) -> EmulatorValidation:
        """Returns the comparison of each run of the design with its prediction from all the others, in closed form.

        The kernels, scaling and principal components stay those of all runs, so that it is somewhat too favourable;
        it needs no further runs. What is predicted has the `Y_error` of the fit in it (Rasmussen and Williams 2006,
        Eqs. 5.10-5.12).

        Args:
            Y: (n, m) the outputs that the emulator was fitted to, row by row as they were then.

        Raises:
            ValueError: shapes, values that are not finite, or other outputs than those of the fit.
        """
        Y = self._logs(checked_outputs(Y, len(self.state.components.design), self.output_names))
        return compare_with_runs(left_out(self.state, Y), self.state.outputs, Y, self.output_names)

    def _logs(self, Y: np.ndarray) -> np.ndarray:
        return on_log_scale(Y, self._mask, self.output_names)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the emulator to a file (safetensors, no pickle) and returns the path."""
        return write_emulator(path, self.space, self.output_names, self.state, self.report, self.log_outputs)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GPEmulator:
        """Returns the emulator saved at `path`; its predictions equal the original's bit for bit.

        Raises:
            FileNotFoundError: there is no such file.
            FileFormatError: the file is damaged or holds something else.
        """
        return cls(*read_emulator(path))

    def summary(self) -> str:
        """Returns how the fit of each component went, a line each, with the optimiser's notes below it."""
        lines = [repr(self)]
        for k, entry in enumerate(self.report):
            share = "" if entry.explained is None else f"{entry.explained:.2%} of the variance, "
            lines += [f"{k}: {share}log marginal likelihood {entry.log_likelihood:.1f}: {entry.kernel}"]
            lines += [f"   {note}" for note in entry.notes]
        return "\n".join(lines)

    def __repr__(self) -> str:
        n, d = self.state.components.design.shape
        return f"GPEmulator({d} parameters, {len(self.output_names)} outputs, {self.n_components} components, {n} runs)"
