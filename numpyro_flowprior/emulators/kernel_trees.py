"""Other forms of a kernel tree: from scikit-learn, to and from JSON, and several stacked into one.

The maths is in `kernels`. Nothing here imports scikit-learn: its kernels are known by the name of their class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import jax
import numpy as np

from .kernels import KINDS, RBF, Constant, Kernel, Matern12, Matern32, Matern52, Product, Stationary, Sum, White

_SKLEARN_MODULE = "sklearn.gaussian_process.kernels"

_MATERN: dict[float, type[Any]] = {0.5: Matern12, 1.5: Matern32, 2.5: Matern52, np.inf: RBF}


def _from_matern(kernel: Any) -> Kernel:
    if kernel.nu not in _MATERN:
        raise ValueError(f"kernel: expected a Matern kernel with nu 0.5, 1.5 or 2.5; got nu={kernel.nu:g}.")
    return _MATERN[kernel.nu](_number(np.squeeze(kernel.length_scale)))


_FROM_SKLEARN: dict[str, Callable[[Any], Kernel]] = {
    "RBF": lambda kernel: RBF(_number(np.squeeze(kernel.length_scale))),
    "Matern": _from_matern,
    "ConstantKernel": lambda kernel: Constant(_number(kernel.constant_value)),
    "WhiteKernel": lambda kernel: White(_number(kernel.noise_level)),
    "Sum": lambda kernel: Sum(from_sklearn_kernel(kernel.k1), from_sklearn_kernel(kernel.k2)),
    "Product": lambda kernel: Product(from_sklearn_kernel(kernel.k1), from_sklearn_kernel(kernel.k2)),
}


def from_sklearn_kernel(kernel: Any) -> Kernel:
    """Returns our form of a scikit-learn kernel, with its present parameters.

    Raises:
        TypeError: not a scikit-learn kernel.
        ValueError: a kernel that is not supported, named (a subclass too: its maths may differ).
    """
    name, module = type(kernel).__name__, type(kernel).__module__
    if module == _SKLEARN_MODULE and name in _FROM_SKLEARN:
        return _FROM_SKLEARN[name](kernel)
    if not hasattr(kernel, "theta") or not hasattr(kernel, "diag"):
        raise TypeError(f"kernel: expected a scikit-learn kernel; got {name}.")
    raise ValueError(f"kernel: {name} is not supported; build it from {', '.join(_FROM_SKLEARN)}.")


def _number(value: Any) -> Any:
    return np.asarray(value, dtype=np.float64)


def require_fitting(kernel: Kernel, dim: int) -> None:
    """Raises ValueError unless every parameter is positive, finite, and a scalar or one per input."""
    for node in _nodes(kernel):
        for field in fields(node):  # type: ignore[arg-type]
            value = getattr(node, field.name)
            if isinstance(value, Kernel):
                continue
            subject = f"kernel: {type(node).__name__}.{field.name}"
            shapes: tuple[tuple[int, ...], ...] = ((), (dim,)) if isinstance(node, Stationary) else ((),)
            if np.shape(value) not in shapes:
                raise ValueError(f"{subject}: expected shape {' or '.join(map(str, shapes))}; got {np.shape(value)}.")
            if not (np.isfinite(value).all() and (np.asarray(value) > 0).all()):
                raise ValueError(f"{subject}: expected positive, finite numbers; got {value}.")


def _nodes(kernel: Kernel) -> list[Kernel]:
    below = [_nodes(part) for part in (kernel.left, kernel.right)] if isinstance(kernel, Sum | Product) else []
    return [kernel, *(node for nodes in below for node in nodes)]


def kernel_to_json(kernel: Kernel) -> dict[str, Any]:
    """Returns a JSON-ready tree: the kind of each kernel and its parameters, exact to the last bit."""
    record: dict[str, Any] = {"kind": type(kernel).__name__}
    for field in fields(kernel):  # type: ignore[arg-type]
        value = getattr(kernel, field.name)
        record[field.name] = kernel_to_json(value) if isinstance(value, Kernel) else np.asarray(value).tolist()
    return record


def kernel_from_json(record: Any) -> Kernel:
    """Returns the kernel that `kernel_to_json` described; ValueError if the record is no such description."""
    kind: Any = KINDS.get(str(record.get("kind"))) if isinstance(record, Mapping) else None
    if kind is None or record.keys() != {"kind", *(field.name for field in fields(kind))}:
        raise ValueError(f"kernel: expected a record of one of {', '.join(KINDS)}; got {record!r}.")
    values = {name: value for name, value in record.items() if name != "kind"}
    if kind in (Sum, Product):
        return kind(**{name: kernel_from_json(value) for name, value in values.items()})
    return kind(**{name: _number(value) for name, value in values.items()})


def stack_kernels(kernels: Sequence[Kernel]) -> Kernel:
    """Returns kernels of one structure as one tree with leaves (p, ...).

    Raises:
        ValueError: their structures differ.
    """
    if len({(jax.tree.structure(kernel), *map(np.shape, jax.tree.leaves(kernel))) for kernel in kernels}) != 1:
        raise ValueError("kernels: expected the same structure for every component; got different ones.")
    return jax.tree.map(lambda *leaves: np.stack(leaves), *kernels)


def unstack_kernels(kernel: Kernel) -> list[Kernel]:
    """Returns the kernels that `stack_kernels` put together."""
    count = len(jax.tree.leaves(kernel)[0])
    return [jax.tree.map(lambda leaf, k=k: leaf[k], kernel) for k in range(count)]
