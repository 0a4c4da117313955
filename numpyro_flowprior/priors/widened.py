"""A flow with its base widened: a proposal with draws where the flow itself has few, with a known density."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._util.batches import in_batches
from .._util.checks import FloatArray
from ..chains.parameters import ParameterSpace
from ..flows.build import build_inner, build_outer
from ..flows.config import FlowConfig
from .box import keep_inside
from .flow_prior import FlowPrior

_BATCH = 8192
_compiled = partial(jax.jit, static_argnames=("config", "space"))


def widened_draws(prior: FlowPrior, key: jax.Array, n: int, spread: float) -> FloatArray:
    """Returns n draws (n, d) in float64, strictly inside the support, with the base `spread` times as wide."""
    with jax.enable_x64(True):
        keys = jax.random.split(key, -(-n // _BATCH))
        parts = [np.asarray(_draws(prior._arrays(), each, spread, **prior._static())) for each in keys]
    return np.concatenate(parts)[:n]


def widened_log_prob(prior: FlowPrior, theta: FloatArray, spread: float) -> FloatArray:
    """Returns the log density (n,) of such draws at points (n, d), in float64."""
    with jax.enable_x64(True):
        arrays = prior._arrays()
        return in_batches(lambda points: _log_prob(arrays, jnp.asarray(points), spread, **prior._static()), theta)


@_compiled
def _draws(params: Any, key: jax.Array, spread: Any, *, config: FlowConfig, space: ParameterSpace) -> jax.Array:
    inner = build_inner(config, space.dim, params, jnp.float64, spread)
    theta = build_outer(space, params, jnp.float64).forward(inner.sample(seed=key, sample_shape=(_BATCH,)))
    return keep_inside(theta, space)


@_compiled
def _log_prob(params: Any, theta: jax.Array, spread: Any, *, config: FlowConfig, space: ParameterSpace) -> jax.Array:
    x, log_det = build_outer(space, params, theta.dtype).inverse_and_log_det(theta)
    return build_inner(config, space.dim, params, theta.dtype, spread).log_prob(x) + log_det
