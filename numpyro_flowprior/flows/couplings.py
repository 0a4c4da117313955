"""Affine and spline couplings (RealNVP; Dinh, Sohl-Dickstein and Bengio 2017).

Their scales are bounded, so that a coupling cannot diverge, except for the "roch_shen" conditioner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from .config import FlowConfig
from .layout import SPLINE_REACH, coupling_masks, network_sizes
from .network import apply_mlp, init_mlp


def init_couplings(key: jax.Array, config: FlowConfig, dim: int) -> list[Any]:
    """Returns the initial layers of the networks of each coupling. Every coupling starts as the identity."""
    masks = coupling_masks(config, dim)
    keys = (jax.random.fold_in(key, j) for j in range(len(masks)))
    return [
        [layer for sizes in network_sizes(config, mask) for layer in init_mlp(k, sizes)]
        for k, mask in zip(keys, masks, strict=True)
    ]


def squash(x: jax.Array, hull: float) -> jax.Array:
    """Returns hull tanh(x / hull): the identity to second order inside, saturated at +-hull far outside."""
    return hull * jnp.tanh(x / hull)


class Coupling(distrax.Bijector):
    """Transforms one half of the coordinates (d,) by an elementwise bijector that depends on the other half.

    `distrax.MaskedCoupling` also transforms the half that passes through, and discards the result. This class does not,
    which halves the work and avoids overflow in an unused branch.

    Args:
        mask: (d,) True where a coordinate passes through unchanged.
        transformer: function from the coordinates that pass, (..., p), to a bijector of the others, (..., d - p).
    """

    def __init__(self, mask: np.ndarray, transformer: Callable[[jax.Array], distrax.Bijector]):
        super().__init__(event_ndims_in=1, event_ndims_out=1)
        self._passed, self._changed = np.flatnonzero(mask), np.flatnonzero(~mask)
        self._order = np.argsort(np.concatenate([self._passed, self._changed]))
        self._transformer = transformer

    def _apply(self, x: jax.Array, direction: str) -> tuple[jax.Array, jax.Array]:
        passed = x[..., self._passed]
        changed, log_det = getattr(self._transformer(passed), direction)(x[..., self._changed])
        return jnp.concatenate([passed, changed], axis=-1)[..., self._order], jnp.sum(log_det, axis=-1)

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns y (..., d) and the log determinant (...,)."""
        return self._apply(x, "forward_and_log_det")

    def inverse_and_log_det(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns x (..., d) and the log determinant of the inverse (...,)."""
        return self._apply(y, "inverse_and_log_det")


def build_coupling(config: FlowConfig, mask: np.ndarray, weights: Any) -> distrax.Bijector:
    """Returns the coupling y_i = f(x_i) exp(s_i) + t_i of the free coordinates; f, s and t depend on the others.

    f is the identity, or a monotonic rational-quadratic spline on [-hull, hull] that is the identity beyond (Durkan et
    al. 2019). s and the raw parameters of the spline are bounded in terms of max_log_scale.
    """
    free = int((~mask).sum())

    if config.conditioner == "roch_shen":
        return Coupling(mask, lambda passed: _roch_shen(weights, passed))

    def transformer(passed: jax.Array) -> distrax.Bijector:
        out = apply_mlp(weights, squash(passed, config.hull))
        raw_scale, shift = out[..., :free], out[..., free : 2 * free]
        affine = distrax.ScalarAffine(shift=shift, log_scale=_bounded(raw_scale, config.max_log_scale))
        if config.transformer == "affine":
            return affine
        raw = out[..., 2 * free :].reshape(*out.shape[:-1], free, 3 * config.bins + 1)
        spline = distrax.RationalQuadraticSpline(
            _bounded(raw, SPLINE_REACH * config.max_log_scale), -config.hull, config.hull, boundary_slopes="identity"
        )
        return distrax.Chain([affine, spline])

    return Coupling(mask, transformer)


def _roch_shen(weights: Any, passed: jax.Array) -> distrax.Bijector:
    """Returns x exp(s) + t, with s from one hidden layer of tanh units and a linear t. Both are unbounded."""
    log_scale = apply_mlp(weights[:2], passed, jnp.tanh)
    return distrax.ScalarAffine(shift=apply_mlp(weights[2:], passed), log_scale=log_scale)


def _bounded(raw: jax.Array, limit: float) -> jax.Array:
    return limit * jnp.tanh(raw / limit)
