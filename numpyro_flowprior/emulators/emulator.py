"""GPEmulator: a fast surrogate, with uncertainty, for a model too expensive to run at every point.

This module is the public interface. Fitting, prediction, validation and files have modules of their own.
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
    runs_of,
)
from .scaling import project_outputs, scale_inputs
from .validation import EmulatorValidation, compare_with_runs, left_out


class GPEmulator:
    """Emulator with one Gaussian process for each leading principal component of the standardised outputs.

    Create it with `GPEmulator.fit`, `GPEmulator.from_sklearn` or `GPEmulator.load`. It is immutable, holds NumPy arrays
    in float64, and can be pickled.

    Attributes:
        space: the d input parameters, in the order of theta's last axis.
        output_names: (m,) names of the outputs.
        n_components: number of components kept, p.
        state: all numbers of the emulator, as used in `gaussian_process`.
        report: how the fit of each component went.
        log_outputs: names of the outputs that are emulated as natural logarithms.
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
        X: Any,
        Y: ArrayLike | None,
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

        Inputs are scaled to the unit box by the bounds of `space`. A parameter without two finite bounds is scaled by
        the mean and standard deviation of the design. Outputs are scaled to zero mean and unit standard deviation, then
        projected on principal components of unit variance. The time grows as n^3 per component.

        Args:
            X: (n, d) design, with columns in the order of `space`; the columns of a DataFrame are found by name. At
                least d + 1 rows, all inside the bounds. Repeated rows are allowed. Or the log of an ExternalLikelihood
                (`evaluations()`, or `Evaluations.read(cache)`): its points, with Y=None.
            Y: (n, m) outputs of the model. None for those in the log: `output_names`, or all derived quantities, or the
                log likelihood if there are none.
            space: the input parameters.
            n_components: how many components to keep, or the fraction in (0, 1) of the total variance that they must
                reach.
            kernel: "rbf", "matern52", "matern32" or "matern12" for the anisotropic kernel of that smoothness, with
                fitted variance and noise. Or a scikit-learn kernel with its bounds, built from RBF, Matern,
                RationalQuadratic, ExpSineSquared, DotProduct, ConstantKernel, WhiteKernel, and their sums, products
                and powers.
            Y_error: (n, m) known statistical standard errors of Y, independent of each other. They add to the noise of
                the kernel. The correlations that they cause between components are neglected.
            log_outputs: names of positive outputs to emulate as logarithms, or True for all. Use this for outputs that
                vary by large factors. `predict` still returns the moments of the outputs themselves.
            restarts: number of further starting points of the optimiser, >= 0. All starts of all components run in
                parallel.
            key: JAX random key for these starting points; None for jax.random.key(0).
            output_names: (m,) unique names. None takes the columns of a DataFrame, or "y0", "y1", ...
            progress: whether to show a progress bar.

        Raises:
            TypeError: values of the wrong type.
            ValueError: shapes, NaN, too few rows, rows outside the bounds, outputs that do not vary, logarithms of
                outputs that are not positive, an unsupported kernel; the message names the parameter or output.
        """
        X, Y, output_names = runs_of(X, Y, space, output_names)
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
        """Returns an emulator with the mean and variance of a fitted scikit-learn model, up to rounding.

        Args:
            model: a fitted GaussianProcessRegressor with one or several outputs; a sequence of them, one per component;
                a MultiOutputRegressor; a Pipeline of StandardScaler, MinMaxScaler and PCA that ends in one of these; or
                a TransformedTargetRegressor around one, with such a transformer. Kernels are those of `fit`.
            space: the d input parameters, in the order of the model's columns.
            inputs: the fitted transformer from the parameters to the model's inputs: StandardScaler, MinMaxScaler, PCA,
                or a Pipeline or sequence of them. None if the model contains all of its transformers.
            outputs: the fitted transformer (or Pipeline, or sequence) from the outputs to the targets that the model
                was trained on, e.g. Pipeline([StandardScaler, PCA]). None if there was none.
            truncation: (m, m) covariance of the truncated principal components, which scikit-learn's prediction does
                not include; None for zero.
            log_outputs: as in `fit`, if the model was trained on logarithms of these outputs.
            output_names: (m,) unique names, or None for "y0", "y1", ...

        Raises:
            TypeError: not a scikit-learn model.
            ValueError: a part is not fitted or not supported (named), parts are incompatible, or the predictions differ
                from those of scikit-learn.
        """
        require_space(space)
        state, report = emulator_state(model, space.names, inputs, outputs, truncation)
        names = checked_output_names(output_names, np.empty((1, len(state.outputs.mean))))
        return cls(space, names, state, tuple(report), checked_log_outputs(log_outputs, names))

    def predict(self, theta: ArrayLike, *, log_scale: bool = False, allow_float32: bool = False) -> Prediction:
        """Returns the predicted mean and covariance of the outputs, in float64.

        The full covariance has two parts: the predictive variances of the components, and the sample covariance of the
        truncated components. As in scikit-learn, the variances include the noise of a WhiteKernel. Outputs that are
        emulated as logarithms have a lognormal distribution; the result is its mean and covariance. Outside the bounds
        of `space`, the emulator extrapolates without a warning. Its prediction then tends to the mean output of the
        design, with the variance of the Gaussian-process prior.

        Args:
            theta: (..., d) points in the order of `space`. Numbers give float64 NumPy arrays, whatever the setting of
                JAX. Traced values (inside jit, vmap, grad) need 64-bit numbers enabled.
            log_scale: whether to return the moments of the logarithms instead, for the outputs of `log_outputs`.
            allow_float32: whether to predict in float32 if 64-bit numbers are not enabled. Variances below about 1e-5
                of the prior variance are then round-off.

        Returns:
            Prediction(mean (..., m), covariance (..., m, m)).

        Raises:
            ValueError: the last axis of theta is not d, values are not finite, or theta is traced in 32-bit mode.
        """
        prediction = self._evaluate(gaussian_process.prediction, theta, allow_float32)
        if log_scale or not self.log_outputs:
            return prediction
        return lognormal_moments(prediction, self._mask)

    def component_moments(self, theta: ArrayLike, *, allow_float32: bool = False) -> Moments:
        """Returns mean and variance (..., p) of the component scores at theta (..., d). Arguments as in `predict`."""
        return self._evaluate(gaussian_process.moments, theta, allow_float32)

    def covariance_between(self, theta: ArrayLike) -> np.ndarray:
        """Returns the covariance between points theta (n, d) for each output, (n, n, m).

        This is what scikit-learn's `predict(..., return_cov=True)` returns. For the outputs of `log_outputs` it is the
        covariance of the logarithms. The covariance between outputs is in `predict`.
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
        """Returns the comparison with held-out runs: R^2, residuals, coverage and a verdict.

        Outputs of `log_outputs` are compared as logarithms.

        Args:
            X: (n, d) inputs.
            Y: (n, m) outputs.
            Y_error: (n, m) known statistical standard errors of these runs. Predictions include the noise fitted with
                the kernel, but not the `Y_error` of the fit. If the fit had a `Y_error`, pass it here, too.

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
        """Returns the comparison of each run of the design with its prediction from all other runs.

        It needs no further runs and is computed in closed form (Rasmussen and Williams 2006, Eqs. 5.10-5.12).
        The result is slightly too favourable, because kernels, scaling and principal components are those of all runs.
        The predicted variances include the `Y_error` of the fit.

        Args:
            Y: (n, m) the outputs that the emulator was fitted to, with the rows in the same order.

        Raises:
            ValueError: shapes, values that are not finite, or outputs other than those of the fit.
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
        """Returns the emulator saved at `path`. Its predictions equal those of the original bit for bit.

        Raises:
            FileNotFoundError: there is no such file.
            FileFormatError: the file is damaged or does not contain an emulator.
        """
        return cls(*read_emulator(path))

    def summary(self) -> str:
        """Returns a text that has one line on the fit of each component, followed by the optimiser's notes."""
        lines = [repr(self)]
        for k, entry in enumerate(self.report):
            share = "" if entry.explained is None else f"{entry.explained:.2%} of the variance, "
            lines += [f"{k}: {share}log marginal likelihood {entry.log_likelihood:.1f}: {entry.kernel}"]
            lines += [f"   {note}" for note in entry.notes]
        return "\n".join(lines)

    def __repr__(self) -> str:
        n, d = self.state.components.design.shape
        return f"GPEmulator({d} parameters, {len(self.output_names)} outputs, {self.n_components} components, {n} runs)"
