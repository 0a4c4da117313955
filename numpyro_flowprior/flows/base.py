"""The density of the latent space: a standard normal, or a learned mixture of Gaussians."""

from __future__ import annotations

from typing import Any

import distrax
import jax
import jax.numpy as jnp

from .config import FlowConfig
from .layout import MAX_BASE_LOG_SCALE


def init_base(key: jax.Array, config: FlowConfig, dim: int) -> dict[str, jax.Array]:
    """Returns the base's parameters: none, or a mixture with the standard normal's first two moments."""
    if config.base == "normal":
        return {}
    centres = 0.5 * jax.random.normal(key, (config.components, dim), dtype=jnp.float32)
    log_scale = jnp.full(centres.shape, 0.5 * jnp.log(0.75), dtype=jnp.float32)
    return {"logits": jnp.zeros(config.components, jnp.float32), "mean": centres, "log_scale": log_scale}


def build_base(
    config: FlowConfig, dim: int, params: dict[str, Any], dtype: Any, spread: float | jax.Array = 1.0
) -> distrax.Distribution:
    """Returns the base distribution with event shape (d,), its standard deviations multiplied by `spread`."""
    if config.base == "normal":
        return distrax.MultivariateNormalDiag(jnp.zeros(dim, dtype), jnp.full(dim, spread, dtype))
    logits, mean, raw = (jnp.asarray(params[name], dtype) for name in ("logits", "mean", "log_scale"))
    scale = spread * jnp.exp(MAX_BASE_LOG_SCALE * jnp.tanh(raw / MAX_BASE_LOG_SCALE))
    return distrax.MixtureSameFamily(distrax.Categorical(logits=logits), distrax.MultivariateNormalDiag(mean, scale))
