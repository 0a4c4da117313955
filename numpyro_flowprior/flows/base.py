"""The density of the latent space: a standard normal, or a learned mixture of Gaussians."""

from __future__ import annotations

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from .config import FlowConfig
from .layout import MAX_BASE_LOG_SCALE


class NormalMixture(distrax.MixtureSameFamily):
    """A mixture of diagonal Gaussians. Each draw samples one component, whereas Distrax samples all components."""

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        key_choice, key_normal = jax.random.split(key)
        parts, logits = self.components_distribution, self.mixture_distribution.logits
        choice = jax.random.categorical(key_choice, logits, shape=(n,))
        normal = jax.random.normal(key_normal, (n, *parts.event_shape), parts.dtype)
        return parts.loc[choice] + parts.scale_diag[choice] * normal


def init_base(key: jax.Array, config: FlowConfig, dim: int) -> dict[str, Any]:
    """Returns the parameters of the base: none, or a mixture with the first two moments of a standard normal."""
    if config.base == "normal":
        return {}
    centres = 0.5 * jax.random.normal(key, (config.components, dim), dtype=jnp.float32)
    log_scale = np.full(centres.shape, 0.5 * np.log(0.75), np.float32)
    return {"logits": np.zeros(config.components, np.float32), "mean": centres, "log_scale": log_scale}


def build_base(
    config: FlowConfig, dim: int, params: dict[str, Any], dtype: Any, spread: float | jax.Array = 1.0
) -> distrax.Distribution:
    """Returns the base with event shape (d,), with the standard deviations of its Gaussians multiplied by `spread`."""
    if config.base == "normal":
        return distrax.MultivariateNormalDiag(jnp.zeros(dim, dtype), jnp.full(dim, spread, dtype))
    logits, mean, raw = (jnp.asarray(params[name], dtype) for name in ("logits", "mean", "log_scale"))
    scale = spread * jnp.exp(MAX_BASE_LOG_SCALE * jnp.tanh(raw / MAX_BASE_LOG_SCALE))
    return NormalMixture(distrax.Categorical(logits=logits), distrax.MultivariateNormalDiag(mean, scale))
