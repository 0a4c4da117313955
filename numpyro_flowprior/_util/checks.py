"""Validation of user input, and the wording of its messages.

Every message names the subject, what was expected, what was given, and what to do. Domain rules (for example what
makes a chain valid) are defined with their types. This module has only the checks that several types share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
ArrayLike = npt.ArrayLike  # includes JAX arrays, which have __array__

_SHOWN = 5  # how many offending rows or names a message lists


def shorten(items: Iterable[Any], most: int = _SHOWN) -> str:
    """Returns the first `most` items as text, and the number of further items."""
    items = list(items)
    text = ", ".join(repr(item) if isinstance(item, str) else str(item) for item in items[:most])
    return text if len(items) <= most else f"{text}, ... ({len(items) - most} more)"


def printable(text: str) -> str:
    """Returns text with control characters escaped, because they could control a terminal or break a page."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def float_array(value: Any, subject: str, *, shape: tuple[int | None, ...] | None = None) -> FloatArray:
    """Returns `value` as a float64 NumPy array of the given shape.

    Args:
        value: anything NumPy can turn into an array of real numbers.
        subject: its name in messages, e.g. "chain.samples".
        shape: expected shape, with None for an axis of any length; None for any shape.

    Raises:
        TypeError: the values are not real numbers.
        ValueError: the shape is not the expected one, or values are masked.
    """
    try:
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(f"{subject}: expected an array of real numbers; got {type(value).__name__}.") from error
    if np.ma.is_masked(value):
        raise ValueError(
            f"{subject}: expected no masked values; got {np.ma.count_masked(value)}. "
            "Remove the rows that have masked values, or fill them in."
        )
    if array.dtype.kind not in "fiu":
        kind = "complex numbers" if array.dtype.kind == "c" else f"dtype {array.dtype}"
        raise TypeError(f"{subject}: expected an array of real numbers; got {kind}. Convert it to float64.")
    if shape is not None and not _shape_fits(array.shape, shape):
        expected = "(" + ", ".join("any" if length is None else str(length) for length in shape) + ")"
        raise ValueError(f"{subject}: expected shape {expected}; got {array.shape}.")
    return np.ascontiguousarray(array, dtype=np.float64) if array.ndim else array.astype(np.float64)


def _shape_fits(actual: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(actual) == len(expected) and all(e is None or a == e for a, e in zip(actual, expected, strict=True))


def require_finite(array: FloatArray, subject: str, *, columns: Sequence[str] | None = None) -> None:
    """Raises ValueError if a value is NaN or infinite. The message gives counts per column, or the first index."""
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    if array.ndim == 2 and columns is not None:
        counts = bad.sum(axis=0)
        where = "; ".join(f"{name!r}: {count}" for name, count in zip(columns, counts, strict=True) if count)
        rows = int(bad.any(axis=1).sum())
        raise ValueError(
            f"{subject}: expected finite numbers; got NaN or infinity in {rows} of {len(array)} rows "
            f"(values per column: {where}). Remove those rows, or find out what produced them."
        )
    raise ValueError(
        f"{subject}: expected finite numbers; got NaN or infinity in {int(bad.sum())} of {array.size} values "
        f"(first at index {_first_index(bad)})."
    )


def _first_index(mask: np.ndarray) -> Any:
    index = tuple(int(i) for i in np.argwhere(mask)[0])
    return index[0] if len(index) == 1 else index


def require_nonnegative(array: FloatArray, expected: str) -> None:
    """Raises ValueError if a value is negative; NaN passes. The message begins with `expected`."""
    if (array < 0).any():
        raise ValueError(f"{expected} >= 0; got {np.nanmin(array):g}. Pass their absolute values.")


def positive_int(value: Any, subject: str, *, minimum: int = 1) -> int:
    """Returns `value` as an int of at least `minimum`; bools and floats are refused."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{subject}: expected an integer >= {minimum}; got {value!r}.")
    if value < minimum:
        raise ValueError(f"{subject}: expected an integer >= {minimum}; got {value}.")
    return int(value)


def real_in(
    value: Any, subject: str, low: float, high: float, *, open_low: bool = False, open_high: bool = False
) -> float:
    """Returns a Python, NumPy or JAX number as a float between `low` and `high`.

    Each end is included unless it is declared open.
    """
    interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    is_scalar = isinstance(value, int | float) or (getattr(value, "shape", None) == () and value.dtype.kind in "fiu")
    if isinstance(value, bool) or not is_scalar:
        raise TypeError(f"{subject}: expected a number in {interval}; got {value!r}.")
    number = float(value)
    too_low = number <= low if open_low else number < low
    too_high = number >= high if open_high else number > high
    if np.isnan(number) or too_low or too_high:
        raise ValueError(f"{subject}: expected a number in {interval}; got {number:g}.")
    return number


def plain_numbers(frozen: Any) -> None:
    """Replaces NumPy scalars in the fields of a frozen dataclass by Python numbers, which JSON can hold."""
    for name, value in vars(frozen).items():
        if isinstance(value, np.generic):
            object.__setattr__(frozen, name, value.item())


def plain_json(value: Any, subject: str, *, depth: int = 50) -> Any:
    """Returns a copy of a JSON-ready value that has only built-in Python types; tuples become lists.

    Raises:
        TypeError: a part has a type that JSON lacks, or a key is not a string. The message names the part, e.g.
            metadata.doi[2].
        ValueError: a part is NaN, infinite, not valid Unicode, or nested deeper than `depth`.
    """
    if depth == 0:
        raise ValueError(f"{subject[:200]}: nested too deeply for a file, or contains itself. Make it flatter.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _plain_text(value, subject)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not np.isfinite(value):
            raise ValueError(f"{subject}: expected a finite number; got {value}. JSON has no such number: use None.")
        return float(value)
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"{subject}: expected strings as keys; got {shorten(wrong)}.")
        return {_plain_text(k, subject): plain_json(v, f"{subject}.{k}", depth=depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, f"{subject}[{j}]", depth=depth - 1) for j, item in enumerate(value)]
    raise TypeError(
        f"{subject}: expected text, a number, True, False, None, or a list or dict of those; got "
        f"{type(value).__name__}. Convert it, e.g. with str() or .tolist()."
    )


def _plain_text(text: str, subject: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{subject}: expected text in valid Unicode; got {text!r}.") from error
    return str(text)


def one_of(value: Any, subject: str, allowed: Sequence[str]) -> str:
    """Returns `value` if it is one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{subject}: expected one of {', '.join(map(repr, allowed))}; got {value!r}.")
    return value


def require_unique(names: Sequence[str], expected: str) -> None:
    """Raises ValueError if a name occurs more than once. The message begins with `expected`."""
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"{expected}; {shorten(repeated)} occur more than once.")


def optional_import(module: str, extra: str, purpose: str) -> ModuleType:
    """Returns an optional dependency, or raises ImportError with the extra of this package that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs {module.split('.')[0]}, which is not installed. "
            f"Install it with: pip install 'numpyro-flowprior[{extra}]'"
        ) from error
