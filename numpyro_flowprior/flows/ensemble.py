"""A mixture of the densities of several flows and a Gaussian background of small weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

_BLOCK = 1024  # draws per block: small enough for the cache of a processor, large enough to hide the loop


class Ensemble(distrax.Distribution):
    """The mixture q(x) = sum_k w_k q_k(x) + w_0 q_0(x) of flows and background over whitened points (d,).

    The members have different errors where they saw few draws, and their mean has a smaller error. The background q_0
    is the Gaussian with the moments of the chain. It limits the error: log q >= log w_0 + log q_0(x) everywhere.

    Args:
        build: function from the parameters of one member to its distribution, a flow with event shape (d,).
        members: parameters with a leading axis of K members.
        weights: (K + 1,) weights of the members and, last, of the background; they sum to one.
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
        """Returns n independent draws (n, d).

        The member of each draw is chosen first. The draws of a member are then made together, in blocks of one size.
        This takes about as much work as one flow, and the memory of one block.
        """
        key_choice, key_background, key_members = jax.random.split(key, 3)
        k = len(self._weights) - 1
        choice = jax.random.categorical(key_choice, jnp.log(self._weights), shape=(n,))
        blocks = blocks_of(choice, k, n)
        keys = jax.random.split(key_members, len(blocks.member))

        def draw(member_and_key: tuple[jax.Array, jax.Array]) -> jax.Array:
            member, key = member_and_key
            params = jax.tree.map(lambda leaf: leaf[member], self._members)
            return self._build(params).sample(seed=key, sample_shape=(blocks.size,))

        drawn = jax.lax.map(draw, (blocks.member, keys)).reshape(-1, *self.event_shape)
        background = self._background.sample(seed=key_background, sample_shape=(n,))
        return jnp.where((choice == k)[:, None], background, drawn[blocks.place])


class Blocks(NamedTuple):
    """Draws of several members in blocks of one size. All draws in a block are from one member.

    Attributes:
        size: draws per block.
        member: (m,) member of each block.
        place: (n,) position of each draw among the m * size draws of all blocks.
    """

    size: int
    member: jax.Array
    place: jax.Array


def blocks_of(choice: jax.Array, members: int, n: int) -> Blocks:
    """Returns the blocks for n draws with members `choice` (n,) from 0 to members; the last value is the background.

    The number of blocks is always n // size + members, so that shapes are known before the choice is.
    """
    size = max(1, min(n // members, _BLOCK))
    counts = jnp.zeros(members, int).at[choice].add(1, mode="drop")
    last = jnp.cumsum(-(-counts // size))  # number of blocks up to and including each member
    member = jnp.minimum(jnp.searchsorted(last, jnp.arange(n // size + members), side="right"), members - 1)
    of_member = jax.nn.one_hot(choice, members, dtype=int)
    rank = jnp.take_along_axis(jnp.cumsum(of_member, axis=0), choice[:, None], axis=1, mode="clip")[:, 0] - 1
    first = jnp.concatenate([jnp.zeros(1, int), last[:-1]])
    return Blocks(size, member, first[choice] * size + rank)
