"""Seeds for other random generators, made from JAX keys."""

from __future__ import annotations

import jax
import numpy as np


def seed_from_key(key: jax.Array) -> list[int]:
    """Returns integers that seed NumPy-style generators, from a legacy or typed JAX key."""
    data = jax.random.key_data(key) if jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return np.asarray(data, dtype=np.uint32).ravel().tolist()


def seed_or_zero(key: jax.Array | None) -> int:
    """Returns the integer that an optional key stands for: j for jax.random.key(j), 0 for None."""
    if key is None:
        return 0
    if not hasattr(key, "dtype"):
        raise TypeError(f"key: expected a JAX key, such as jax.random.key(0); got {type(key).__name__}.")
    return seed_from_key(key)[-1]
