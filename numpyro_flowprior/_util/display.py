"""How results are displayed: `repr` is one line, `str` the whole table, and a notebook shows the table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from .checks import printable

_ROUNDING = 1e-13  # relative: a smaller error is no error
_SMALLEST, _LARGEST = -4, 6  # exponents of numbers that are written out


class Displayed:
    """Base class of results: `str` is the table, `repr` shows the one-line `_headline`, notebooks show the table."""

    def _headline(self) -> str:
        """Returns a summary of the result in a few words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._headline()})"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def to_digits_of(error: float, values: Sequence[float], digits: int = 2) -> list[str]:
    """Returns numbers as text, to the second (or other) significant digit of their common error.

    Very large and very small numbers have a common exponent. Without a finite error > 0 they have four digits.
    """
    error, values = float(error), [float(value) for value in values]
    largest = max((abs(value) for value in (error, *values) if np.isfinite(value)), default=0.0)
    if not np.isfinite(error) or error <= _ROUNDING * largest:
        return [f"{value:.4g}" for value in values]
    size = int(np.floor(np.log10(float(f"{largest:.{digits - 1}e}"))))  # after rounding, as below
    exponent = size if size < _SMALLEST or size > _LARGEST else 0
    error_size = int(np.floor(np.log10(float(f"{error:.{digits - 1}e}"))))  # after rounding: 0.0996 is 0.10
    decimals = exponent + digits - 1 - error_size
    ending = f"e{exponent:+03d}" if exponent else ""
    rounded = [round(value, decimals - exponent) / 10.0**exponent + 0.0 for value in values]  # no minus before a zero
    return [f"{value:.{max(decimals, 0)}f}{ending}" for value in rounded]


def with_error(value: float, error: float) -> str:
    """Returns a number and its error as text, `value +- error`, both to the second significant digit of the error."""
    number, spread = to_digits_of(error, [value, error])
    return f"{number} +- {spread}"


def columns_of_text(rows: list[list[str]]) -> str:
    """Returns rows of cells as lines of text in aligned columns. The first column is left-aligned."""
    rows = [[printable(cell) for cell in row] for row in rows]  # names in a file may contain any character
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if j == 0 else cell.rjust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
