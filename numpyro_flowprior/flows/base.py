"""The density of the latent space: a standard normal, or a learned mixture of Gaussians."""

from __future__ import annotations

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from .bounds import LOG_ROOT_TWO_PI
from .config import FlowConfig
from .layout import MAX_BASE_LOG_SCALE
from .network import matmul


class NormalMixture(distrax.MixtureSameFamily):
    """A mixture of diagonal Gaussians. Each draw samples one component, whereas Distrax samples all components."""

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        key_choice, key_normal = jax.random.split(key)
        parts, logits = self.components_distribution, self.mixture_distribution.logits
        choice = jax.random.categorical(key_choice, logits, shape=(n,))
        normal = jax.random.normal(key_normal, (n, *parts.event_shape), parts.dtype)
        return parts.loc[choice] + parts.scale_diag[choice] * normal


class FullMixture(distrax.Distribution):
    """A mixture of Gaussians with full covariances. That of component k has the inverse A A^T, A = diag(1 / s) (1 + S).

    Args:
        logits: (K,) of the weights.
        mean: (K, d).
        scale: (K, d), s.
        shear: (K, d, d), S; only what is below the diagonal counts.
    """

    def __init__(self, logits: jax.Array, mean: jax.Array, scale: jax.Array, shear: jax.Array):
        super().__init__()
        unit = jnp.eye(mean.shape[1], dtype=mean.dtype)
        self._logits, self._mean, self._scale, self._shear = logits, mean, scale, unit + jnp.tril(shear, -1)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(d,)."""
        return self._mean.shape[1:]

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Returns the normalised log density (...,) at points (..., d)."""

        def part(logit: jax.Array, mean: jax.Array, scale: jax.Array, shear: jax.Array) -> jax.Array:
            standard = matmul((value - mean) / scale, shear)
            log_density = -0.5 * jnp.sum(standard**2, axis=-1) - value.shape[-1] * LOG_ROOT_TWO_PI
            return logit + log_density - jnp.sum(jnp.log(scale))

        parts = jax.vmap(part)(jax.nn.log_softmax(self._logits), self._mean, self._scale, self._shear)
        return jax.scipy.special.logsumexp(parts, axis=0)

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        """Returns draws (n, d). Each component turns all of them, as a draw by itself is a matrix by itself."""
        key_choice, key_normal = jax.random.split(key)
        choice = jax.random.categorical(key_choice, self._logits, shape=(n,))
        normal = jax.random.normal(key_normal, (n, *self.event_shape), self._mean.dtype)

        def turned(draws: jax.Array, component: Any) -> tuple[jax.Array, None]:
            k, mean, scale, shear = component
            x = mean + scale * solve_triangular(shear, normal.T, lower=True, trans=1).T
            return jnp.where((choice == k)[:, None], x, draws), None

        components = jnp.arange(len(self._mean)), self._mean, self._scale, self._shear
        return jax.lax.scan(turned, jnp.zeros_like(normal), components)[0]


def init_base(key: jax.Array, config: FlowConfig, dim: int) -> dict[str, Any]:
    """Returns the parameters of the base: none, or a mixture with the first two moments of a standard normal."""
    if config.base == "normal":
        return {}
    centres = 0.5 * jax.random.normal(key, (config.components, dim), dtype=jnp.float32)
    log_scale = np.full(centres.shape, 0.5 * np.log(0.75), np.float32)
    base = {"logits": np.zeros(config.components, np.float32), "mean": centres, "log_scale": log_scale}
    if config.base == "full_mixture":
        base["shear"] = np.zeros((config.components, dim, dim), np.float32)
    return base


def build_base(
    config: FlowConfig, dim: int, params: dict[str, Any], dtype: Any, spread: float | jax.Array = 1.0
) -> distrax.Distribution:
    """Returns the base with event shape (d,), with the standard deviations of its Gaussians multiplied by `spread`."""
    if config.base == "normal":
        return distrax.MultivariateNormalDiag(jnp.zeros(dim, dtype), jnp.full(dim, spread, dtype))
    logits, mean, scale, shear = gaussians_of(config, params, dtype)
    if shear is not None:
        return FullMixture(logits, mean, spread * scale, shear)
    return NormalMixture(distrax.Categorical(logits=logits), distrax.MultivariateNormalDiag(mean, spread * scale))


def gaussians_of(config: FlowConfig, params: dict[str, Any], dtype: Any) -> tuple[Any, Any, Any, Any]:
    """Returns logits (K,), means (K, d), scales (K, d) and shear (K, d, d), or None, of the Gaussians of a base."""
    logits, mean, raw = (jnp.asarray(params[name], dtype) for name in ("logits", "mean", "log_scale"))
    most = MAX_BASE_LOG_SCALE[config.base]
    shear = jnp.asarray(params["shear"], dtype) if config.base == "full_mixture" else None
    return logits, mean, jnp.exp(most * jnp.tanh(raw / most)), shear
