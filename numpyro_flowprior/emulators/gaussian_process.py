"""Prediction of Gaussian-process emulators in JAX. Fitting is no matter of this module; it needs no scikit-learn.

For component k with design z (N, d), noisy covariance matrix K_k = L_k L_k^T and scores s_k, at a point x:

    mean_k(x)     = k_k(x, z) . K_k^-1 s_k
    variance_k(x) = k_k(x, x) - |L_k^-1 k_k(x, z)|^2

(Rasmussen and Williams 2006, Eqs. 2.25-2.26), and in the space of the m outputs

    mean       = output mean + loadings @ mean_k
    covariance = loadings diag(variance_k) loadings^T + truncation

with the truncated components' sample covariance. As in scikit-learn, variance_k includes the noise of a WhiteKernel
(it describes the next run of the model, not its noiseless mean). L_k^-1 is computed once, in float64, so that a batch
of points costs matrix products only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import FloatArray, float_array, require_finite
from .kernels import Kernel
from .precision import native, require_x64
from .scaling import InputScaling, OutputBasis

# Round-off in k(x, x) - |L^-1 k|^2 can leave a variance below zero; this fraction of k(x, x) is far below any
# emulator's accuracy and keeps it positive.
VARIANCE_FLOOR = 1e-12


class Components(NamedTuple):
    """p Gaussian processes on one design: stacked `kernel`, scaled `design` (N, d), `weights` = K^-1 s (p, N),
    `inverse_cholesky` = L^-1 (p, N, N)."""

    kernel: Kernel
    design: FloatArray
    weights: FloatArray
    inverse_cholesky: FloatArray


class EmulatorState(NamedTuple):
    """All the numbers of an emulator, a pytree of float64 arrays."""

    inputs: InputScaling
    outputs: OutputBasis
    components: Components


class Moments(NamedTuple):
    """Predicted component scores: `mean` (..., p) and `variance` (..., p), standardised units."""

    mean: Any
    variance: Any


class Prediction(NamedTuple):
    """Predicted outputs: `mean` (..., m) and `covariance` (..., m, m), in the outputs' units."""

    mean: Any
    covariance: Any


def _moments_at_point(state: EmulatorState, theta: jax.Array) -> Moments:
    x = (theta - state.inputs.offset) / state.inputs.scale

    def of_component(kernel: Kernel, weights: jax.Array, inverse: jax.Array) -> Moments:
        covariance = kernel.cross(x, jnp.asarray(state.components.design))
        prior = kernel.variance(x)
        explained = inverse @ covariance
        return Moments(covariance @ weights, jnp.maximum(prior - explained @ explained, VARIANCE_FLOOR * prior))

    kernel, _, weights, inverse = state.components
    return jax.vmap(of_component)(kernel, jnp.asarray(weights), jnp.asarray(inverse))


def _prediction_at_point(state: EmulatorState, theta: jax.Array) -> Prediction:
    moments = _moments_at_point(state, theta)
    loadings = jnp.asarray(state.outputs.loadings)
    covariance = (loadings * moments.variance) @ loadings.T + state.outputs.truncation
    return Prediction(state.outputs.mean + loadings @ moments.mean, covariance)


@jax.jit
def moments(state: EmulatorState, theta: jax.Array) -> Moments:
    """Returns the component scores' moments at theta (..., d)."""
    return _over_points(_moments_at_point, state, theta)


@jax.jit
def prediction(state: EmulatorState, theta: jax.Array) -> Prediction:
    """Returns the outputs' mean and covariance at theta (..., d)."""
    return _over_points(_prediction_at_point, state, theta)


def _over_points(function: Callable[..., Any], state: EmulatorState, theta: jax.Array) -> Any:
    batch, dim = theta.shape[:-1], theta.shape[-1]
    flat = jax.vmap(function, (None, 0))(state, theta.reshape(-1, dim))
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), flat)


def evaluate(
    function: Callable[[EmulatorState, Any], Any], state: EmulatorState, theta: Any, *, allow_float32: bool
) -> Any:
    """Returns function(state, theta) in float64: NumPy arrays for numbers, traced arrays for traced theta.

    Numbers are computed under `jax.enable_x64(True)`, whatever the caller's setting. A trace has its setting already.

    Raises:
        ValueError: theta is traced without 64-bit numbers and `allow_float32` is false; or it is not finite.
    """
    if isinstance(theta, jax.core.Tracer):
        require_x64("emulator", allow_float32)
        return function(native(state), theta.astype(jnp.result_type(float)))
    points = float_array(theta, "theta")
    require_finite(points, "theta")
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(state, points))
