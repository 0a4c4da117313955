"""Several flows mixed as densities, over a thin Gaussian background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distrax
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp


class Ensemble(distrax.Distribution):
    """q(x) = sum_k w_k q_k(x) + w_0 q_0(x) over whitened points (d,).

    Each member is wrong in its own way where it saw few draws; their mean is less so. The background q_0, the Gaussian
    of the chain's own moments, bounds how wrong the mixture can be: log q >= log w_0 + log q_0(x) everywhere.

    Args:
        build: from one member's parameters to its distribution, a flow with event shape (d,).
        members: parameters with a leading axis of K members.
        weights: (K + 1,) of the members and, last, the background; they sum to one.
        background: q_0, with event shape (d,).
    """

    def __init__(
        self,
        build: Callable[[Any], distrax.Transformed],
        members: Any,
        weights: jax.Array,
        background: distrax.Distribution,
    ):
        super().__init__()
        self._build, self._members, self._weights, self._background = build, members, weights, background

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(d,)."""
        return self._background.event_shape

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Returns the normalised log density (...,) at points (..., d)."""
        each = jax.vmap(lambda params: self._build(params).log_prob(value))(self._members)
        parts = jnp.concatenate([each, self._background.log_prob(value)[None]])
        log_weights = jnp.log(self._weights).reshape(-1, *[1] * (parts.ndim - 1))
        return logsumexp(log_weights + parts, axis=0)

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        key_choice, key_background, key_members = jax.random.split(key, 3)
        k = len(self._weights) - 1
        draws = jax.vmap(lambda params, key: self._build(params).sample(seed=key, sample_shape=(n,)))(
            self._members, jax.random.split(key_members, k)
        )
        background = self._background.sample(seed=key_background, sample_shape=(n,))
        choice = jax.random.choice(key_choice, k + 1, (n,), p=self._weights)
        return jnp.concatenate([draws, background[None]])[choice, jnp.arange(n)]
