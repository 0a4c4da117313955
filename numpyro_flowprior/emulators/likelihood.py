"""EmulatorLikelihood: the probability of measurements given the parameters, including the emulator uncertainty."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, MultivariateNormal
from scipy.linalg import block_diag

from .._util.checks import (
    ArrayLike,
    FloatArray,
    float_array,
    require_finite,
    require_nonnegative,
    require_unique,
    shorten,
)
from .._util.messages import FlowPriorWarning
from .emulator import GPEmulator
from .gaussian_process import Prediction
from .inflated_normal import InflatedFactors, InflatedNormal, factor_inflated
from .lognormal import lognormal_moments
from .low_rank_normal import LowRankNormal, factor_fixed
from .measurement import checked_measurement
from .precision import native, precise, require_x64
from .runs import checked_points, mask_of

_FAR = (
    10.0  # standard deviations of runs and measurement combined; a measurement farther from their mean gives a warning
)


class EmulatorLikelihood:
    """The multivariate normal likelihood of measurements, centred on the predictions of the emulators.

        y | theta ~ Normal(mean(theta), Sigma_emulator(theta) + Sigma_experiment)

    The density is normalised. Source: Roch and Shen 2025, Eq. 10. In a NumPyro model:

        numpyro.sample("y", likelihood(theta), obs=likelihood.observed)

    For posterior predictive checks, leave out `obs` (numpyro.infer.Predictive).

    Args:
        emulators: one GPEmulator, or several for consecutive blocks of observables: a sequence, or a mapping from the
            names of the blocks. The uncertainties of different emulators are treated as independent. Parameters with
            the same name are the same parameter.
        y_obs: (m,) measured values, in the order and units of the emulators' outputs. NaN marks an observable that was
            not measured. It is left out, with a warning that names it.
        cov_obs: (m, m) covariance of the measurements. `measurement_covariance` builds one from statistical and
            correlated systematic errors.
        discrepancy_scale: (m,) sizes of a model error that the emulators do not include, for `likelihood(theta,
            discrepancy=s)`. None takes the absolute measured values, so that s is a fraction; a logarithm has size one.
        log_scale: for outputs that are emulated as logarithms. If True, their measurements and errors are those of the
            logarithm, and the likelihood is normal in the logarithm. If False, they are in the units of the outputs,
            and the likelihood is normal with the mean and covariance of the lognormal prediction. That needs a
            factorisation of an (m, m) matrix at every point.
        allow_float32: whether to allow JAX in 32-bit mode. `float32_error` measures the error that this causes.

    Attributes:
        emulators: tuple of the emulators.
        names: (d,) parameter names in the order of theta: those of the first emulator, then new names of the next ones.
        output_names: names of the measured outputs; "block: output" if the blocks have names.
        observed: the measured values.
        dropped: names of the outputs that were not measured.

    Raises:
        TypeError: emulators or values of the wrong type.
        ValueError: shapes, infinite values, or a covariance that is not symmetric and positive definite (the block is
            named).
    """

    def __init__(
        self,
        emulators: GPEmulator | Sequence[GPEmulator] | Mapping[str, GPEmulator],
        y_obs: ArrayLike,
        cov_obs: ArrayLike,
        *,
        discrepancy_scale: ArrayLike | None = None,
        log_scale: bool = True,
        allow_float32: bool = False,
    ):
        blocks = _checked_blocks(emulators)
        self.emulators = tuple(blocks.values())
        self.names = tuple(dict.fromkeys(name for emulator in self.emulators for name in emulator.space.names))
        self.allow_float32 = allow_float32
        self._columns = [[self.names.index(name) for name in emulator.space.names] for emulator in self.emulators]
        named = isinstance(emulators, Mapping)
        outputs = [(b, [f"{b}: {o}" if named else o for o in e.output_names]) for b, e in blocks.items()]
        measured = checked_measurement(y_obs, cov_obs, outputs)
        every = np.array([name for _, names in outputs for name in names], dtype=object)
        self.output_names = tuple(every[measured.kept])
        self.dropped = tuple(np.delete(every, measured.kept))
        self.observed = measured.values
        self._experiment = measured.covariance
        logged = np.concatenate([mask_of(e.log_outputs, e.output_names) for e in self.emulators])[measured.kept]
        self._logged, self._dense = logged, bool(logged.any() and not log_scale)
        bases = [emulator.state.outputs for emulator in self.emulators]
        self._mean = np.concatenate([basis.mean for basis in bases])[measured.kept]
        self._loadings = block_diag(*(basis.loadings for basis in bases))[measured.kept]
        self._truncation = block_diag(*(basis.truncation for basis in bases))[np.ix_(measured.kept, measured.kept)]
        if discrepancy_scale is None:
            sizes = np.where(logged & log_scale, 1.0, np.abs(self.observed))
        else:
            sizes = _checked_scale(discrepancy_scale, measured.kept, len(every))
        self._inflation = np.diag(sizes**2)
        self._fixed = factor_fixed(self._experiment + self._truncation, self._loadings)
        self._warn_if_out_of_reach()

    @cached_property
    def _inflated(self) -> InflatedFactors:
        return factor_inflated(self._experiment + self._truncation, self._inflation, self._loadings)

    @precise
    def __call__(self, theta: Any, *, discrepancy: Any = None) -> Distribution:
        """Returns the distribution of the measurements, with event shape (m,) and the batch shape of the points.

        Outside the bounds of an emulator, its prediction is an extrapolation.

        Args:
            theta: (..., d) points in the order of `names`; or a mapping {name: value (...)} with at least these names.
            discrepancy: (...) size s >= 0 of a model error, one for each point. It adds an independent error with
                standard deviation s * discrepancy_scale to each output. Usually s is a parameter with its own prior.
                None for no model error.

        Raises:
            ValueError: theta does not match the names, or JAX is in 32-bit mode.
        """
        require_x64("EmulatorLikelihood", self.allow_float32)
        points = self._points(theta)
        _require_one_size(discrepancy, points.shape[:-1])
        moments = [
            emulator.component_moments(points[..., columns], allow_float32=self.allow_float32)
            for emulator, columns in zip(self.emulators, map(np.asarray, self._columns), strict=True)
        ]
        scores, variances = (jnp.concatenate(parts, axis=-1) for parts in zip(*native(moments), strict=True))
        mean, loadings = native((self._mean, self._loadings))
        location = mean + scores @ loadings.T
        if self._dense:
            return self._with_lognormal_moments(location, variances, discrepancy)
        if discrepancy is None:
            return LowRankNormal(location, variances, native(self._fixed))
        return InflatedNormal(location, variances, discrepancy, native(self._inflated))

    def _with_lognormal_moments(self, location: Any, variances: Any, discrepancy: Any) -> Distribution:
        loadings, truncation, fixed, inflation = native(
            (self._loadings, self._truncation, self._experiment, self._inflation)
        )
        covariance = (loadings * variances[..., None, :]) @ loadings.T + truncation
        mean, covariance = lognormal_moments(Prediction(location, covariance), self._logged)
        size = native(0.0 if discrepancy is None else discrepancy)
        total = covariance + fixed + jnp.asarray(size)[..., None, None] ** 2 * inflation
        return MultivariateNormal(mean, total)

    def in_units(self, draws: Any) -> Any:
        """Returns draws (..., m) of the distribution in the units of the outputs: logarithms are exponentiated."""
        if self._dense or not self._logged.any():
            return draws
        xp: Any = jnp if isinstance(draws, jax.core.Tracer) else np
        return xp.where(self._logged, xp.exp(xp.where(self._logged, draws, 0.0)), draws)

    def float32_error(self, theta: ArrayLike) -> float:
        """Returns the largest difference in log density between 32 and 64 bits at points theta (n, d), n >= 1.

        This is the error caused by `allow_float32=True`. Measure it at points of the posterior. Far away, log densities
        are larger in size, and so are their errors.
        """
        points = float_array(theta, "theta", shape=(None, len(self.names)))
        rough = object.__new__(type(self))
        rough.__dict__.update(vars(self), allow_float32=True)

        def log_prob(points: Any) -> Any:
            return rough(points).log_prob(native(rough.observed))

        with jax.enable_x64(True):
            exact = np.asarray(jax.jit(log_prob)(points))
        with jax.enable_x64(False):
            single = np.asarray(jax.jit(log_prob)(points.astype(np.float32)), np.float64)
        return float(np.max(np.abs(single - exact)))

    def _points(self, theta: Any) -> Any:
        if isinstance(theta, Mapping):
            missing = [name for name in self.names if name not in theta]
            if missing:
                raise ValueError(f"theta: expected values for {shorten(self.names, 40)}; missing: {shorten(missing)}.")
            columns = jnp.broadcast_arrays(*native([theta[name] for name in self.names]))
            return jnp.stack(columns, axis=-1)
        return checked_points(theta, self.names)

    def _warn_if_out_of_reach(self) -> None:
        """Warns about measurements far from the runs: a sign of wrong units, order, or scale (logarithm or not)."""
        covariance = self._loadings @ self._loadings.T + self._truncation
        mean = self._mean
        if self._dense:
            mean, covariance = lognormal_moments(Prediction(mean, covariance), self._logged)
        sigma = np.abs(self.observed - mean) / np.sqrt(np.diag(covariance) + np.diag(self._experiment))
        far = np.flatnonzero(sigma > _FAR)
        if len(far):
            names = shorten(self.output_names[int(j)] for j in far)
            warnings.warn(
                f"EmulatorLikelihood: y_obs of {names} lies more than {_FAR:g} standard deviations from the mean of "
                "the runs. Check its units and order, and log_scale.",
                FlowPriorWarning,
                stacklevel=3,
            )

    def __repr__(self) -> str:
        return f"EmulatorLikelihood({len(self.names)} parameters, {len(self.observed)} observables, {self.emulators})"


def _checked_blocks(emulators: Any) -> dict[str, GPEmulator]:
    """Returns the emulators by the name of their block; a block without a name is numbered."""
    found = (emulators,) if isinstance(emulators, GPEmulator) else emulators
    if isinstance(found, Sequence) and not isinstance(found, str):
        found = {str(j): emulator for j, emulator in enumerate(found)}
    if not isinstance(found, Mapping) or any(not isinstance(emulator, GPEmulator) for emulator in found.values()):
        raise TypeError(
            f"emulators: expected a GPEmulator, or a sequence or mapping of them; got {type(emulators).__name__}."
        )
    if not found:
        raise ValueError("emulators: expected at least one GPEmulator; got none.")
    require_unique([str(name) for name in found], "emulators: expected unique names of blocks")
    return {str(name): emulator for name, emulator in found.items()}


def _require_one_size(discrepancy: Any, batch: tuple[int, ...]) -> None:
    shape = jnp.shape(discrepancy) if discrepancy is not None else ()
    if len(shape) > len(batch) or any(n not in (1, size) for n, size in zip(shape[::-1], batch[::-1], strict=False)):
        raise ValueError(
            f"discrepancy: expected one size for each point, broadcastable to shape {batch}; got shape {shape}. "
            "Pass different sizes for the outputs as discrepancy_scale of the likelihood."
        )


def _checked_scale(scale: Any, kept: np.ndarray, m: int) -> FloatArray:
    sizes = float_array(scale, "discrepancy_scale", shape=(m,))[kept]
    require_finite(sizes, "discrepancy_scale")
    require_nonnegative(sizes, "discrepancy_scale: expected sizes")
    return sizes
