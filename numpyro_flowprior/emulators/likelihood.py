"""EmulatorLikelihood: the probability of measurements given parameters, with the emulator's own uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import block_diag

from .._checks import FloatArray, float_array, require_finite, shorten
from .emulator import GPEmulator
from .low_rank_normal import LowRankNormal, factor_fixed
from .precision import native, require_x64

_SYMMETRY = 1e-8  # asymmetry, as a correlation, that rounding in a text file can leave


class EmulatorLikelihood:
    """The multivariate normal of measurements around the emulators' prediction.

        y | theta ~ Normal(mean(theta), Sigma_emulator(theta) + Sigma_experiment)

    normalised (Roch and Shen 2025, Eq. 10). In a NumPyro model:

        numpyro.sample("y", likelihood(theta), obs=likelihood.observed)

    Args:
        emulators: one GPEmulator, or several over consecutive blocks of observables; their uncertainties are taken as
            independent of each other. Parameters of the same name are the same parameter.
        y_obs: (m,) measured values, in the order of the emulators' outputs and in their units.
        cov_obs: (m, m) covariance of the measurements.
        allow_float32: whether to run where JAX is in 32-bit mode. The log density was up to 0.06 off in a test with
            17 parameters, 146 observables and noisy components; with nearly noiseless ones it is worse. Measure it.

    Attributes:
        emulators: the emulators, a tuple.
        names: (d,) parameter names in the order of theta: of the first emulator, then new ones of the next.
        output_names: (m,) names of the outputs.
        observed: (m,) the measured values.

    Raises:
        TypeError: emulators or values of the wrong type.
        ValueError: shapes, NaN, or a covariance that is not symmetric and positive definite.
    """

    def __init__(
        self, emulators: GPEmulator | Sequence[GPEmulator], y_obs: Any, cov_obs: Any, *, allow_float32: bool = False
    ):
        self.emulators = _checked_emulators(emulators)
        self.names = tuple(dict.fromkeys(name for emulator in self.emulators for name in emulator.space.names))
        self.output_names = tuple(name for emulator in self.emulators for name in emulator.output_names)
        m = len(self.output_names)
        self.observed = float_array(y_obs, "y_obs", shape=(m,))
        require_finite(self.observed, "y_obs")
        self.allow_float32 = allow_float32
        bases = [emulator.state.outputs for emulator in self.emulators]
        self._columns = [[self.names.index(name) for name in emulator.space.names] for emulator in self.emulators]
        self._mean = np.concatenate([basis.mean for basis in bases])
        self._loadings = block_diag(*(basis.loadings for basis in bases))
        fixed = _checked_covariance(cov_obs, self.output_names) + block_diag(*(basis.truncation for basis in bases))
        self._fixed = factor_fixed(fixed, self._loadings)

    def __call__(self, theta: Any) -> LowRankNormal:
        """Returns the distribution of the measurements, event shape (m,), batch shape that of the points.

        Outside an emulator's box its prediction is an extrapolation.

        Args:
            theta: (..., d) points in the order of `names`; or a mapping {name: value (...)} with at least those names.

        Raises:
            ValueError: theta does not fit the names, or JAX is in 32-bit mode.
        """
        require_x64("EmulatorLikelihood", self.allow_float32)
        points = self._points(theta)
        moments = [
            emulator.component_moments(points[..., columns], allow_float32=self.allow_float32)
            for emulator, columns in zip(self.emulators, map(np.asarray, self._columns), strict=True)
        ]
        scores, variances = (jnp.concatenate(parts, axis=-1) for parts in zip(*native(moments), strict=True))
        mean, loadings, fixed = native((self._mean, self._loadings, self._fixed))
        return LowRankNormal(mean + scores @ loadings.T, variances, fixed)

    def _points(self, theta: Any) -> Any:
        if isinstance(theta, Mapping):
            missing = [name for name in self.names if name not in theta]
            if missing:
                raise ValueError(f"theta: expected values for {shorten(self.names, 40)}; missing: {shorten(missing)}.")
            columns = jnp.broadcast_arrays(*native([theta[name] for name in self.names]))
            return jnp.stack(columns, axis=-1)
        if np.shape(theta)[-1:] != (len(self.names),):
            raise ValueError(
                f"theta: expected shape (..., {len(self.names)}) for the parameters {shorten(self.names, 40)}; "
                f"got {np.shape(theta)}."
            )
        return theta if isinstance(theta, jax.Array) else float_array(theta, "theta")

    def __repr__(self) -> str:
        return f"EmulatorLikelihood({len(self.names)} parameters, {len(self.observed)} observables, {self.emulators})"


def _checked_emulators(emulators: Any) -> tuple[GPEmulator, ...]:
    found = (emulators,) if isinstance(emulators, GPEmulator) else emulators
    if not isinstance(found, Sequence) or any(not isinstance(emulator, GPEmulator) for emulator in found):
        raise TypeError(f"emulators: expected a GPEmulator or a sequence of them; got {type(emulators).__name__}.")
    if not found:
        raise ValueError("emulators: expected at least one GPEmulator; got none.")
    return tuple(found)


def _checked_covariance(value: Any, names: tuple[str, ...]) -> FloatArray:
    """Returns the covariance, exactly symmetric; positive definiteness is judged in units of its own deviations."""
    m = len(names)
    covariance = float_array(value, "cov_obs")
    if covariance.ndim == 1:
        raise ValueError(
            f"cov_obs: expected a covariance matrix ({m}, {m}); got shape {covariance.shape}. For independent "
            "measurements with standard deviations sigma, pass np.diag(sigma**2)."
        )
    covariance = float_array(covariance, "cov_obs", shape=(m, m))
    require_finite(covariance, "cov_obs")
    diagonal = np.diag(covariance)
    bad = [names[j] for j in np.flatnonzero(diagonal <= 0)]
    if bad:
        raise ValueError(f"cov_obs: expected positive variances on the diagonal; not so for {shorten(bad)}.")
    correlation = covariance / np.sqrt(np.outer(diagonal, diagonal))
    if np.abs(correlation - correlation.T).max() > _SYMMETRY:
        raise ValueError("cov_obs: expected a symmetric matrix; it is not. Symmetrise it with (C + C.T) / 2.")
    smallest = float(np.linalg.eigvalsh((correlation + correlation.T) / 2)[0])
    if smallest <= m * np.finfo(np.float64).eps:
        raise ValueError(
            f"cov_obs: expected a positive definite matrix; the smallest eigenvalue of its correlation matrix is "
            f"{smallest:.3g}. Check the correlations, or add uncorrelated errors to the diagonal."
        )
    return (covariance + covariance.T) / 2
