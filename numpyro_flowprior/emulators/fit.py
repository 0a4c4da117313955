"""Fitting the components with scikit-learn, which is imported here alone.

Each principal component is one GaussianProcessRegressor; what leaves this module is plain NumPy. Prediction is no
matter of this module.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from tqdm import tqdm

from .._checks import FloatArray, one_of, optional_import
from .gaussian_process import Components
from .kernel_trees import from_sklearn_kernel, require_fitting, stack_kernels
from .kernels import Kernel

SMOOTHNESS = {"rbf": np.inf, "matern52": 2.5, "matern32": 1.5, "matern12": 0.5}

# Search ranges of the default kernel, for inputs in the unit box and scores of unit variance.
_SIGNAL = (1e-2, 1e3)  # signal variance: a slowly varying process needs far more than the scores' own
_LENGTH = (5e-2, 1e2)  # length scale: from a twentieth of the box to an input that does not matter
_NOISE = (1e-6, 1e0)  # noise variance: the lower end keeps K invertible, the upper end is all of the variance
_START = (1.0, 2.0, 1e-2)
_JITTER = 1e-10  # added to K's diagonal, scikit-learn's own default, so that K is invertible without a WhiteKernel


@dataclass(frozen=True)
class ComponentReport:
    """How the fit of one component went.

    `explained` is its fraction of the total variance, `log_likelihood` the log marginal likelihood of its scores,
    `kernel` the fitted kernel as text, `notes` what the optimiser had to say (a parameter at the end of its range is
    normal for inputs that do not matter).
    """

    explained: float
    log_likelihood: float
    kernel: str
    notes: tuple[str, ...]


def sklearn_kernel(kernel: Any, dim: int) -> Any:
    """Returns the scikit-learn kernel to start from: one built for the word, or a copy of the one given.

    Raises:
        TypeError: neither a word nor a scikit-learn kernel.
        ValueError: an unknown word, an unsupported kernel, or length scales that do not fit the inputs.
    """
    kernels = _sklearn("gaussian_process.kernels")
    if isinstance(kernel, str):
        nu = SMOOTHNESS[one_of(kernel, "kernel", tuple(SMOOTHNESS))]
        signal, length, noise = _START
        scales = np.full(dim, length)
        shape = kernels.RBF(scales, _LENGTH) if nu == np.inf else kernels.Matern(scales, _LENGTH, nu=nu)
        return kernels.ConstantKernel(signal, _SIGNAL) * shape + kernels.WhiteKernel(noise, _NOISE)
    require_fitting(from_sklearn_kernel(kernel), dim)
    return _sklearn("base").clone(kernel)


def fit_components(
    design: FloatArray,
    scores: FloatArray,
    noise: FloatArray,
    explained: FloatArray,
    kernel: Any,
    *,
    restarts: int,
    seed: int,
    progress: bool,
) -> tuple[Components, tuple[ComponentReport, ...]]:
    """Returns one Gaussian process per component, and how each fit went.

    Args:
        design: (n, d) scaled inputs.
        scores: (n, p) targets, of unit variance.
        noise: (n, p) known noise variances of the scores.
        explained: (p,) fractions of the total variance, for the report.
        kernel: scikit-learn kernel to start from.
        restarts: further starting points of the optimiser, drawn from the kernel's ranges.
        seed: seeds those draws.
        progress: whether to show a progress bar.

    Raises:
        ValueError: the covariance matrix of a component is not positive definite.
    """
    steps = tqdm(range(scores.shape[1]), desc="fitting components", unit="GP", disable=not progress)
    fits = [_fit_one(design, scores[:, k], noise[:, k], kernel, restarts, seed + k, k) for k in steps]
    kernels: list[Kernel] = [from_sklearn_kernel(model.kernel_) for model, _ in fits]
    identity = np.eye(len(design))
    components = Components(
        kernel=stack_kernels(kernels),
        design=design,
        weights=np.stack([model.alpha_ for model, _ in fits]),
        inverse_cholesky=np.stack([solve_triangular(model.L_, identity, lower=True) for model, _ in fits]),
    )
    reports = tuple(
        ComponentReport(float(share), float(model.log_marginal_likelihood_value_), str(model.kernel_), notes)
        for share, (model, notes) in zip(explained, fits, strict=True)
    )
    return components, reports


def _fit_one(
    design: FloatArray, scores: FloatArray, noise: FloatArray, kernel: Any, restarts: int, seed: int, k: int
) -> tuple[Any, tuple[str, ...]]:
    """Returns the fitted regressor of one component and its convergence warnings as text."""
    convergence = _sklearn("exceptions").ConvergenceWarning
    model = _sklearn("gaussian_process").GaussianProcessRegressor(
        kernel, alpha=_JITTER + noise, normalize_y=False, n_restarts_optimizer=restarts, random_state=seed
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", category=convergence)
        try:
            model.fit(design, scores)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                f"component {k}: its covariance matrix is not positive definite. Add a WhiteKernel to the kernel "
                "(repeated design points need one), or give Y_error."
            ) from error
    return model, tuple(" ".join(str(warning.message).split()) for warning in caught)


def warn_if_unfinished(reports: tuple[ComponentReport, ...]) -> None:
    """Warns once if the optimiser stopped early for some components; parameters at the end of a range are normal."""
    unfinished = [k for k, report in enumerate(reports) if any("failed to converge" in note for note in report.notes)]
    if unfinished:
        warnings.warn(
            f"GPEmulator.fit: the optimiser did not converge for component {', '.join(map(str, unfinished))}; see "
            "emulator.report[k].notes. Try more restarts, a larger design or another kernel.",
            stacklevel=3,
        )


def _sklearn(module: str) -> Any:
    return optional_import(f"sklearn.{module}", "emulators", "Fitting an emulator")
