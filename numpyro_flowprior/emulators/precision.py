"""The current float type of JAX: 64 bits, which a Gaussian process needs, or 32 bits if the caller accepts it.

The caller sets the mode of JAX; this module does not change it.
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
    """Raises ValueError unless 64-bit numbers are enabled or the caller accepts float32."""
    if not allow_float32 and jnp.result_type(float) != jnp.float64:
        raise ValueError(
            f"{subject}: expected 64-bit numbers, which a Gaussian process needs; got JAX in 32-bit mode. "
            "Run inside `with jax.enable_x64(True):`, or call numpyro.enable_x64() first. Or pass allow_float32=True "
            "to accept the loss of precision."
        )


def precise(function: Function) -> Function:
    """Makes a function multiply float32 matrices in full precision, which CPUs always do, but GPUs only on request.

    Variances are differences of products. With `allow_float32`, ten binary digits are not enough for them.
    """

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments, **options)

    return call  # type: ignore[return-value]


def native(tree: Any) -> Any:
    """Returns the pytree with every NumPy leaf in the current float type of JAX; JAX arrays stay unchanged.

    JAX does not always do this by itself. After a trace in 64-bit mode, `jnp.asarray` of a float64 NumPy array can give
    a float64 tracer in 32-bit mode, too (JAX 0.10.2, under `jit(vmap(...))`).
    """
    dtype = jnp.result_type(float)
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf, dtype=dtype), tree)
