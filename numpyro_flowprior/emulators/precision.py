"""Which float type holds here: 64 bits, as a Gaussian process needs, or 32, where the caller accepts it.

JAX's mode is the caller's; nothing here changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


def require_x64(subject: str, allow_float32: bool) -> None:
    """Raises ValueError unless 64-bit numbers are enabled here, or the caller accepts float32."""
    if not allow_float32 and jnp.result_type(float) != jnp.float64:
        raise ValueError(
            f"{subject}: expected 64-bit numbers, which a Gaussian process needs; JAX is in 32-bit mode here. "
            "Run inside `with jax.enable_x64(True):`, or call numpyro.enable_x64() first; or accept the loss of "
            "precision with allow_float32=True."
        )


def precise(function: Function) -> Function:
    """Makes a function multiply float32 matrices to their last digit, as CPUs do and GPUs if they are told to.

    With `allow_float32` variances are differences of products: ten binary digits are not enough for them.
    """

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments, **options)

    return call  # type: ignore[return-value]


def native(tree: Any) -> Any:
    """Returns the pytree with every NumPy leaf in the float type that holds here; JAX arrays stay as they are.

    JAX would do this by itself, but not always: after a trace in 64-bit mode, `jnp.asarray` of a float64 NumPy array
    can give a float64 tracer in 32-bit mode as well (JAX 0.10.2, under `jit(vmap(...))`).
    """
    dtype = jnp.result_type(float)
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, dtype=dtype), tree)
