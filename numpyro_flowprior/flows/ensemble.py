"""Several flows mixed as densities, over a thin Gaussian background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import distrax
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp


class Ensemble(distrax.Distribution):
    """q(x) = (1 - w) mean_k q_k(x) + w N(x; 0, 1) over whitened points (d,).

    Each member is wrong in its own way where it saw few draws; their mean is less so. The background, the Gaussian of
    the chain's own moments, bounds how wrong the mixture can be: log q >= log w + log N(x; 0, 1) everywhere.

    Args:
        build: from one member's parameters to its distribution, a flow with event shape (d,).
        members: parameters with a leading axis of K members.
        weight: w, () in (0, 1).
        dim: d.
    """

    def __init__(self, build: Callable[[Any], distrax.Transformed], members: Any, weight: jax.Array, dim: int):
        super().__init__()
        self._build, self._members, self._weight, self._dim = build, members, weight, dim

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(d,)."""
        return (self._dim,)

    def _background(self) -> distrax.Distribution:
        return distrax.MultivariateNormalDiag(jnp.zeros(self._dim, self._weight.dtype))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Returns the normalised log density (...,) at points (..., d)."""
        each = jax.vmap(lambda params: self._build(params).log_prob(value))(self._members)
        mixed = logsumexp(each, axis=0) - jnp.log(each.shape[0])
        return jnp.logaddexp(
            jnp.log1p(-self._weight) + mixed, jnp.log(self._weight) + self._background().log_prob(value)
        )

    def _sample_n(self, key: jax.Array, n: int) -> jax.Array:
        key_choice, key_background, key_members = jax.random.split(key, 3)
        k = jax.tree.leaves(self._members)[0].shape[0]
        draws = jax.vmap(lambda params, key: self._build(params).sample(seed=key, sample_shape=(n,)))(
            self._members, jax.random.split(key_members, k)
        )
        background = self._background().sample(seed=key_background, sample_shape=(n,))
        shares = jnp.append(jnp.full(k, (1.0 - self._weight) / k), self._weight)
        choice = jax.random.choice(key_choice, k + 1, (n,), p=shares)
        return jnp.concatenate([draws, background[None]])[choice, jnp.arange(n)]
