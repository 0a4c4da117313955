"""NumPy arrays into traced code."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_jax(tree: Any) -> Any:
    """Returns a pytree with its NumPy leaves as JAX arrays, in the float type that holds here, each through a copy.

    JAX remembers a NumPy array that a trace has met as a constant, by identity and with the float type of that trace:
    handed over later as an argument, in the other type, the very same array is refused by the compiled code (JAX
    0.10.2, "RuntimeProgramInputMismatch"). A copy is met once.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf.copy() if isinstance(leaf, np.ndarray) else leaf), tree)
