"""Predictions of Gaussian-process emulators in JAX. Fitting is in `fit`; scikit-learn is not needed.

Component k has the design z (N, d), the covariance matrix with noise K_k = L_k L_k^T, and the scores s_k. At a point x:

    mean_k(x)     = k_k(x, z) . K_k^-1 s_k
    variance_k(x) = k_k(x, x) - |L_k^-1 k_k(x, z)|^2

(Rasmussen and Williams 2006, Eqs. 2.25-2.26). In the space of the m outputs:

    mean       = output mean + loadings @ mean_k
    covariance = loadings diag(variance_k) loadings^T + truncation

where truncation is the sample covariance of the truncated components. As in scikit-learn, variance_k includes the noise
of a WhiteKernel: it describes the next run of the model, not its noiseless mean. L_k^-1 is computed once, in float64. A
batch of points then needs only matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._util.batches import in_batches
from .._util.checks import FloatArray, float_array, require_finite
from .kernels import Kernel, gram
from .precision import native, precise, require_x64
from .scaling import InputScaling, OutputBasis

# Round-off in k(x, x) - |L^-1 k|^2 can make a variance negative. This fraction of k(x, x) is far below the accuracy
# of any emulator and keeps the variance positive.
VARIANCE_FLOOR = 1e-12

_AT_ONCE = 1024  # points; the arrays of one batch then stay in the cache
_BLOCK = 128  # rows of a triangular matrix that share their zeros in a product


class Components(NamedTuple):
    """p Gaussian processes on one design (N, q), with g different covariance matrices K.

    Here g = p, or g = 1 if all components share one matrix. `weights` = K^-1 s (p, N); `kernel` has stacked leaves
    (g, ...); `inverse_cholesky` = L^-1 (g, N, N).
    """

    kernel: Kernel
    design: FloatArray
    weights: FloatArray
    inverse_cholesky: FloatArray

    @property
    def sharing(self) -> int:
        """Number of components that share each covariance matrix: one, or all."""
        return len(self.weights) // len(self.inverse_cholesky)


class EmulatorState(NamedTuple):
    """All numbers of an emulator, as a pytree of float64 arrays."""

    inputs: InputScaling
    outputs: OutputBasis
    components: Components


class Moments(NamedTuple):
    """Predicted component scores: `mean` (..., p) and `variance` (..., p), in standardised units."""

    mean: Any
    variance: Any


class Prediction(NamedTuple):
    """Predicted outputs: `mean` (..., m) and `covariance` (..., m, m), in the units of the outputs."""

    mean: Any
    covariance: Any


def _component_at_point(design: jax.Array, x: jax.Array, component: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns k(x, z) . weights of one process, for each component that shares it; its variance; and k(x, x)."""
    kernel, weights, inverse = component
    covariance, prior = kernel.cross(x, design), kernel.variance(x)
    return weights @ covariance, prior - _squared_norm(inverse, covariance), prior


def _squared_norm(lower: jax.Array, vector: jax.Array) -> jax.Array:
    """Returns |lower @ vector|^2, without the blocks of zeros above the diagonal of lower (N, N)."""
    starts = range(0, len(lower), _BLOCK)
    blocks = [lower[start : start + _BLOCK, : start + _BLOCK] @ vector[: start + _BLOCK] for start in starts]
    return jnp.sum(jnp.stack([jnp.sum(block**2) for block in blocks]))


def _moments_at_point(state: EmulatorState, theta: jax.Array) -> Moments:
    kernel, design, weights, inverse = jax.tree.map(jnp.asarray, state.components)
    x = state.inputs.apply(theta)
    grouped = weights.reshape(len(inverse), -1, len(design))
    mean, variance, prior = jax.lax.map(partial(_component_at_point, design, x), (kernel, grouped, inverse))
    floored = jnp.maximum(variance, VARIANCE_FLOOR * prior)
    return Moments(mean.reshape(-1), jnp.repeat(floored, state.components.sharing))


def _prediction_at_point(state: EmulatorState, theta: jax.Array) -> Prediction:
    moments = _moments_at_point(state, theta)
    loadings = jnp.asarray(state.outputs.loadings)
    covariance = (loadings * moments.variance) @ loadings.T + state.outputs.truncation
    return Prediction(state.outputs.mean + loadings @ moments.mean, covariance)


@jax.jit
def moments(state: EmulatorState, theta: jax.Array) -> Moments:
    """Returns mean and variance of the component scores at theta (..., d)."""
    return _over_points(_moments_at_point, state, theta)


@jax.jit
def prediction(state: EmulatorState, theta: jax.Array) -> Prediction:
    """Returns mean and covariance of the outputs at theta (..., d)."""
    return _over_points(_prediction_at_point, state, theta)


@jax.jit
def covariance_between(state: EmulatorState, theta: jax.Array) -> jax.Array:
    """Returns the covariance between points theta (n, d) for the score of each component, as (p, n, n)."""
    kernel, design, _, inverse = jax.tree.map(jnp.asarray, state.components)
    x = state.inputs.apply(theta)

    def of_component(kernel: Kernel, inverse: jax.Array) -> jax.Array:
        explained = inverse @ jax.vmap(kernel.cross, (0, None), out_axes=1)(x, design)
        return gram(kernel, x) - explained.T @ explained

    between = jax.vmap(of_component)(kernel, inverse)
    return jnp.repeat(between, state.components.sharing, axis=0)


def _over_points(function: Callable[..., Any], state: EmulatorState, theta: jax.Array) -> Any:
    batch, dim = theta.shape[:-1], theta.shape[-1]
    if not batch:  # one point: inside a caller's vmap, an axis of length one would cost time
        return function(state, theta)
    at_point, points = partial(function, state), theta.reshape(-1, dim)
    many = len(points) > _AT_ONCE
    flat = jax.lax.map(at_point, points, batch_size=_AT_ONCE) if many else jax.vmap(at_point)(points)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), flat)


@precise
def evaluate(
    function: Callable[[EmulatorState, Any], Any], state: EmulatorState, theta: Any, *, allow_float32: bool
) -> Any:
    """Returns function(state, theta) in float64: NumPy arrays for numbers, traced arrays for traced theta.

    Numbers are evaluated under `jax.enable_x64(True)`, whatever the caller's setting. Batches are padded to a few
    sizes, so that a new size needs no compilation. Traced theta keeps the setting of its trace.

    Raises:
        ValueError: theta is traced without 64-bit numbers and `allow_float32` is false, or theta is not finite.
    """
    if isinstance(theta, jax.core.Tracer):
        require_x64("emulator", allow_float32)
        return function(native(state), theta.astype(jnp.result_type(float)))
    points = float_array(theta, "theta")
    require_finite(points, "theta")
    flat = points.reshape(-1, points.shape[-1])
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        whole = in_batches(partial(function, state), flat, np.zeros(flat.shape[1]))
    return jax.tree.map(lambda leaf: leaf.reshape(*points.shape[:-1], *leaf.shape[1:]), whole)
