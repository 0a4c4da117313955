"""Masked affine couplings (RealNVP; Dinh, Sohl-Dickstein and Bengio 2017) that cannot blow up."""

from __future__ import annotations

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from .config import FlowConfig
from .network import apply_mlp, init_mlp, mlp_shapes


def coupling_masks(config: FlowConfig, dim: int) -> list[np.ndarray]:
    """Returns one boolean mask (d,) per coupling: True where a coordinate passes through and conditions the others.

    N pairs, in each pair the even coordinates first, then the odd. In one dimension there is nothing to condition
    on, and so no coupling.
    """
    if dim == 1:
        return []
    even = np.arange(dim) % 2 == 0
    return [~even if j % 2 == 0 else even for j in range(2 * config.layers)]


def _sizes(config: FlowConfig, dim: int, mask: np.ndarray) -> list[int]:
    return [int(mask.sum()), *config.hidden, 2 * (dim - int(mask.sum()))]


def init_couplings(key: jax.Array, config: FlowConfig, dim: int) -> list[Any]:
    """Returns the conditioners' weights, one network per coupling; every coupling starts as the identity."""
    masks = coupling_masks(config, dim)
    return [init_mlp(jax.random.fold_in(key, j), _sizes(config, dim, mask)) for j, mask in enumerate(masks)]


def coupling_shapes(config: FlowConfig, dim: int) -> list[Any]:
    """Returns the shapes of `init_couplings`'s arrays."""
    return [mlp_shapes(_sizes(config, dim, mask)) for mask in coupling_masks(config, dim)]


def squash(x: jax.Array, hull: float) -> jax.Array:
    """Returns x, bent to saturate at +-hull: the identity to second order inside, constant far outside."""
    return hull * jnp.tanh(x / hull)


def build_coupling(config: FlowConfig, mask: np.ndarray, weights: Any) -> distrax.Bijector:
    """Returns y_i = x_i exp(s_i) + t_i on the coordinates that the mask leaves free, s and t from the others.

    s is bounded by max_log_scale; s and t are zero on masked coordinates, because Distrax evaluates the inner
    bijector there too, and an overflow in the branch that is not taken makes NaN gradients.
    """
    passed, changed = np.flatnonzero(mask), np.flatnonzero(~mask)
    spread = np.zeros((len(changed), len(mask)))
    spread[np.arange(len(changed)), changed] = 1.0

    def conditioner(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = apply_mlp(weights, squash(x[..., passed], config.hull))
        raw_scale, shift = jnp.split(out, 2, axis=-1)
        log_scale = config.max_log_scale * jnp.tanh(raw_scale / config.max_log_scale)
        place = spread.astype(x.dtype)
        return log_scale @ place, shift @ place

    def transformer(parameters: tuple[jax.Array, jax.Array]) -> distrax.Bijector:
        log_scale, shift = parameters
        return distrax.ScalarAffine(shift=shift, log_scale=log_scale)

    return distrax.MaskedCoupling(mask=mask, conditioner=conditioner, bijector=transformer)
