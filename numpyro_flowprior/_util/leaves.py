"""NumPy arrays into traced code.

JAX remembers a NumPy array that a trace has met as a constant, by identity and with the float type of that trace, as
long as the trace lives: met again in the other type, the very same array is refused (0.10 to 0.12,
"RuntimeProgramInputMismatch"). A copy is met once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")

_MARKS = ("RuntimeProgramInputMismatch", "Cannot lower jaxpr with verifier errors")


def as_jax(tree: Any) -> Any:
    """Returns a pytree with its NumPy leaves as JAX arrays, in the float type that holds here, each through a copy."""
    return jax.tree.map(jnp.asarray, copied(tree))


def copied(tree: Any) -> Any:
    """Returns a pytree with copies of its NumPy leaves, which no trace has met yet."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def forgetting(call: Callable[[], T]) -> T:
    """Returns call(); if a NumPy array that it closes over was met in the other precision, a second time.

    In between JAX's caches are cleared, which costs recompilations, and nothing else.
    """
    try:
        return call()
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if not any(mark in str(error) for mark in _MARKS):
            raise
    jax.clear_caches()
    return call()
