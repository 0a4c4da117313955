"""NumPy arrays as constants in traced code.

A NumPy array can be a constant in a JAX trace. JAX then remembers the array, by object identity and with the float type
of the trace, for as long as the trace lives. JAX 0.10 to 0.12 refuses the same array in the other float type
("RuntimeProgramInputMismatch"). A new copy for each trace avoids this.
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
    """Returns a pytree with copies of its NumPy leaves as JAX arrays, in the current float type."""
    return jax.tree.map(jnp.asarray, copied(tree))


def copied(tree: Any) -> Any:
    """Returns a pytree with copies of its NumPy leaves, which no trace has used yet."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)


def forgetting(call: Callable[[], T]) -> T:
    """Returns call(), and calls again if a NumPy array in its closure was first traced in the other precision.

    JAX's caches are cleared before the second call. The only cost is recompilation.
    """
    try:
        return call()
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if not any(mark in str(error) for mark in _MARKS):
            raise
    jax.clear_caches()
    return call()
