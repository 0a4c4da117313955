"""Conversions of kernel trees: from scikit-learn, to and from JSON, several stacked into one, and search ranges.

The maths is in `kernels`. This module does not import scikit-learn: it recognises kernels by the name of their class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import numpy as np

from .._util.checks import one_of
from .kernels import (
    KINDS,
    RBF,
    Constant,
    DotProduct,
    ExpSineSquared,
    Kernel,
    Matern12,
    Matern32,
    Matern52,
    Power,
    Product,
    RationalQuadratic,
    Sum,
    White,
)

SMOOTHNESS: dict[str, type[Any]] = {"rbf": RBF, "matern52": Matern52, "matern32": Matern32, "matern12": Matern12}

# Search ranges and starting points of the default kernels, for inputs in the unit box and scores of unit variance.
_SIGNAL = (1e-2, 1e3)  # signal variance: a slowly varying process needs far more than the variance of the scores
_LENGTH = (5e-2, 1e2)  # length scale: from a twentieth of the box to an input without effect
_NOISE = (1e-6, 1e0)  # noise variance: the lower end keeps K invertible, the upper end is the total variance
_STARTS = [(1.0, length, noise) for length in (2.0, 0.5, 1.0, 4.0) for noise in (1e-2, 1e-3, 1e-1, 0.5)]

_SKLEARN_MODULE = "sklearn.gaussian_process.kernels"
_MATERN: dict[float, type[Any]] = {0.5: Matern12, 1.5: Matern32, 2.5: Matern52, np.inf: RBF}

Pick = Callable[[Any, str], Any]  # (scikit-learn kernel, name of a hyperparameter) -> its value, or one of its bounds


class KernelRange(NamedTuple):
    """Starting points and bounds of the kernel parameters, as trees of one structure.

    A parameter with lower = upper is fixed. The optimiser starts at the best of `starts`. From a start that is worse
    than pure noise, its first step can lead to very short length scales. There the kernel describes only noise and the
    likelihood is flat, so the optimiser stops.
    """

    starts: tuple[Kernel, ...]
    lower: Kernel
    upper: Kernel


def kernel_range(kernel: Any, dim: int) -> KernelRange:
    """Returns the search ranges of a named kernel, for inputs in the unit box, or of a scikit-learn kernel.

    Raises:
        TypeError: neither a name nor a scikit-learn kernel.
        ValueError: an unknown name, an unsupported kernel, or length scales that do not fit the inputs.
    """
    if isinstance(kernel, str):
        kind = SMOOTHNESS[one_of(kernel, "kernel", tuple(SMOOTHNESS))]

        def tree(signal: float, length: float, noise: float) -> Kernel:
            return Sum(Product(Constant(_number(signal)), kind(np.full(dim, length))), White(_number(noise)))

        lower, upper = zip(_SIGNAL, _LENGTH, _NOISE, strict=True)
        return KernelRange(tuple(tree(*start) for start in _STARTS), tree(*lower), tree(*upper))
    start, low, high = (from_sklearn_kernel(kernel, pick) for pick in (getattr, _end(0), _end(1)))
    for part in (start, low, high):
        require_fitting(part, dim)
    if any((np.asarray(a) > b).any() for a, b in zip(jax.tree.leaves(low), jax.tree.leaves(high), strict=True)):
        raise ValueError(f"kernel: expected bounds (lower, upper) with lower <= upper; got lower {low}, upper {high}.")
    return KernelRange((start,), low, high)


def _end(which: int) -> Pick:
    def pick(kernel: Any, name: str) -> Any:
        hyperparameter: Any = getattr(kernel, f"hyperparameter_{name}", None)
        fixed = hyperparameter is None or hyperparameter.fixed
        return getattr(kernel, name) if fixed else hyperparameter.bounds[:, which]

    return pick


def _from_matern(kernel: Any, pick: Pick) -> Kernel:
    if kernel.nu not in _MATERN:
        raise ValueError(f"kernel: expected a Matern kernel with nu 0.5, 1.5, 2.5 or inf; got nu={kernel.nu:g}.")
    return _MATERN[kernel.nu](_number(pick(kernel, "length_scale")))


def _leaf(kind: type[Any], *names: str) -> Callable[[Any, Pick], Kernel]:
    return lambda kernel, pick: kind(*(_number(pick(kernel, name)) for name in names))


def _pair(kind: type[Any]) -> Callable[[Any, Pick], Kernel]:
    return lambda kernel, pick: kind(from_sklearn_kernel(kernel.k1, pick), from_sklearn_kernel(kernel.k2, pick))


_FROM_SKLEARN: dict[str, Callable[[Any, Pick], Kernel]] = {
    "RBF": _leaf(RBF, "length_scale"),
    "Matern": _from_matern,
    "RationalQuadratic": _leaf(RationalQuadratic, "length_scale", "alpha"),
    "ExpSineSquared": _leaf(ExpSineSquared, "length_scale", "periodicity"),
    "DotProduct": _leaf(DotProduct, "sigma_0"),
    "ConstantKernel": _leaf(Constant, "constant_value"),
    "WhiteKernel": _leaf(White, "noise_level"),
    "Sum": _pair(Sum),
    "Product": _pair(Product),
    "Exponentiation": lambda kernel, pick: Power(from_sklearn_kernel(kernel.kernel, pick), _number(kernel.exponent)),
}


def from_sklearn_kernel(kernel: Any, pick: Pick = getattr) -> Kernel:
    """Returns a scikit-learn kernel as a `Kernel`, with its current parameters, or with those that `pick` returns.

    Raises:
        TypeError: not a scikit-learn kernel.
        ValueError: a kernel that is not supported (named). This includes subclasses, because their maths may differ.
    """
    name, module = type(kernel).__name__, type(kernel).__module__
    if module == _SKLEARN_MODULE and name in _FROM_SKLEARN:
        return _FROM_SKLEARN[name](kernel, pick)
    if not hasattr(kernel, "theta") or not hasattr(kernel, "diag"):
        raise TypeError(f"kernel: expected a scikit-learn kernel; got {name}.")
    raise ValueError(f"kernel: {name} is not supported; build it from {', '.join(_FROM_SKLEARN)}.")


def _number(value: Any) -> Any:
    return np.squeeze(np.asarray(value, dtype=np.float64))


def require_fitting(kernel: Kernel, dim: int) -> None:
    """Raises ValueError unless every parameter is positive and finite, and is a scalar or has one value per input."""
    for node in nodes_of(kernel):
        for name, value in _parameters(node).items():
            subject = f"kernel: {type(node).__name__}.{name}"
            per_input = name == "length_scale" and not isinstance(node, ExpSineSquared)
            shapes: tuple[tuple[int, ...], ...] = ((), (dim,)) if per_input else ((),)
            if np.shape(value) not in shapes:
                raise ValueError(f"{subject}: expected shape {' or '.join(map(str, shapes))}; got {np.shape(value)}.")
            if not (np.isfinite(value).all() and (np.asarray(value) > 0).all()):
                raise ValueError(f"{subject}: expected positive, finite numbers; got {value}.")


def _parts(kernel: Kernel) -> dict[str, Kernel]:
    values = {field.name: getattr(kernel, field.name) for field in fields(kernel)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if isinstance(value, Kernel)}


def _parameters(kernel: Kernel) -> dict[str, Any]:
    names = [field.name for field in fields(kernel)]  # type: ignore[arg-type]
    return {name: getattr(kernel, name) for name in names if name not in _parts(kernel)}


def nodes_of(kernel: Kernel) -> list[Kernel]:
    """Returns the kernel and all of its parts, from the top down."""
    return [kernel, *(node for part in _parts(kernel).values() for node in nodes_of(part))]


def kernel_to_json(kernel: Kernel) -> dict[str, Any]:
    """Returns a tree for JSON with the kind and the parameters of each kernel, exact to the last bit."""
    parts = {name: kernel_to_json(part) for name, part in _parts(kernel).items()}
    numbers = {name: np.asarray(value).tolist() for name, value in _parameters(kernel).items()}
    return {"kind": type(kernel).__name__, **parts, **numbers}


def kernel_from_json(record: Any) -> Kernel:
    """Returns the kernel from a record of `kernel_to_json`; raises ValueError for any other record."""
    kind: Any = KINDS.get(str(record.get("kind"))) if isinstance(record, Mapping) else None
    if kind is None or record.keys() != {"kind", *(field.name for field in fields(kind))}:
        raise ValueError(f"kernel: expected a record of one of {', '.join(KINDS)}; got {record!r}.")
    parts = {field.name for field in fields(kind) if field.type == "Kernel"}
    values = {name: value for name, value in record.items() if name != "kind"}
    return kind(**{n: kernel_from_json(v) if n in parts else np.asarray(v, np.float64) for n, v in values.items()})


def stack_kernels(kernels: Sequence[Kernel]) -> Kernel:
    """Returns p kernels of one structure as one tree with leaves (p, ...).

    Raises:
        ValueError: the structures differ.
    """
    if len({(jax.tree.structure(kernel), *map(np.shape, jax.tree.leaves(kernel))) for kernel in kernels}) != 1:
        raise ValueError("kernels: expected the same structure for every component; got different ones.")
    return jax.tree.map(lambda *leaves: np.stack(leaves), *kernels)


def unstack_kernels(kernel: Kernel) -> list[Kernel]:
    """Returns the list of kernels that `stack_kernels` combined."""
    count = len(jax.tree.leaves(kernel)[0])
    return [jax.tree.map(lambda leaf, k=k: leaf[k], kernel) for k in range(count)]
