"""Reads rows of numbers from text files with NumPy's C parser, and line by line only if that fails.

Files of other systems may have a byte-order mark, Fortran numbers (1.0D+01, 0.148-104), or a last row that was cut off
because a disk was full or that is still being written.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._util.checks import FloatArray, shorten

ENCODING = "utf-8-sig"  # UTF-8, with a byte-order mark or without
_FORTRAN = (
    re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))[dDqQ]([+-]?\d+)"),
    re.compile(r"([+-]?(?:\d+\.\d*|\.\d+))([+-]\d{3})"),  # with three digits there is no room for the letter
)
_NUMBER = re.compile(r"[+-]?\d*(?:\.(\d*))?(?:[eEdDqQ]?([+-]?\d+))?")
_COMPARED = 20  # rows before the last that show how its last number should be written ...
_FEWEST = 10  # ... if there are at least this many; with fewer, the last row is read as it is
_TAIL = 1 << 16  # at most this many bytes are read for this


@dataclass(frozen=True)
class Rows:
    """Rows of numbers.

    Attributes:
        values: (n, width).
        cut: why the last row is left out; None if it is not.
    """

    values: FloatArray
    cut: str | None = None

    @property
    def left_out(self) -> dict[str, str]:
        """What is left out, for the info of a Table."""
        return {} if self.cut is None else {"last row": self.cut}

    @property
    def complaints(self) -> tuple[str, ...]:
        """Sentences for a warning to the user."""
        return () if self.cut is None else (f"The last row is left out: {self.cut}.",)


def lines_of(path: Path) -> list[str]:
    """Returns the lines of a text file in UTF-8; ValueError with the file name if it holds other bytes."""
    try:
        return path.read_text(encoding=ENCODING).splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: expected text in UTF-8; got other bytes ({error.reason}).") from error


def read_rows(
    path: Path, width: int, *, delimiter: str | None = None, skip: int = 0, comments: str | None = None
) -> Rows:
    """Returns the rows of numbers of a text file.

    A last row without an end of line is left out if it has too few numbers, or if its last number has another format
    than all numbers above it: 3.91 below numbers like 4.07e-05 has been cut off. It is also left out if it is shorter
    than rows above that all have the same length.

    Args:
        path: a text file in UTF-8.
        width: number of values in a row.
        delimiter: what separates them; None for white space.
        skip: lines before the first row.
        comments: the string that starts a comment; None if there are no comments.

    Raises:
        ValueError: there are no rows, a row has another length, or a cell is not a number (line number given).
    """
    layout = _Layout(width, delimiter, skip, comments)
    cut = _cut(path, layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about missing data, which is an error below
        try:
            table = _parsed(path, layout, cut, float)
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            _require_numbers(path, layout, cut)
            try:
                table = _parsed(path, layout, cut, number)
            except ValueError:
                raise ValueError(f"not a table of numbers ({error}).") from error
    if not table.size:
        raise ValueError("expected rows of draws below the header; got none.")
    if table.shape[1] != width:
        _require_numbers(path, layout, cut)
    return Rows(table, cut)


@dataclass(frozen=True)
class _Layout:
    width: int
    delimiter: str | None
    skip: int
    comments: str | None

    def cells(self, line: str) -> list[str]:
        """Returns the cells of a line, none for an empty line or a comment."""
        text = line.split(self.comments)[0].strip() if self.comments else line.strip()
        if not text:
            return []
        return text.split() if self.delimiter is None else next(csv.reader([text], delimiter=self.delimiter))


def _parsed(path: Path, layout: _Layout, cut: str | None, convert: Callable[[str], float]) -> FloatArray:
    options: dict[str, Any] = {"delimiter": layout.delimiter, "comments": layout.comments, "ndmin": 2, "quotechar": '"'}
    if convert is not float:
        options["converters"] = convert
    if cut is None:
        return np.loadtxt(path, skiprows=layout.skip, encoding=ENCODING, **options)
    with path.open(encoding=ENCODING) as file:
        whole = (line for line in file if line.endswith("\n"))
        return np.loadtxt(whole, skiprows=layout.skip, encoding=None, **options)


def _cut(path: Path, layout: _Layout) -> str | None:
    """Returns why the last row must be left out, or None if it is complete."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        tail = file.read().decode(ENCODING, errors="replace")
    lines = tail.splitlines(keepends=True)
    if not lines or lines[-1].endswith(("\n", "\r")):
        return None
    last = layout.cells(lines[-1])
    rows = [cells for line in lines[-_COMPARED - 1 : -1] if len(cells := layout.cells(line)) == layout.width]
    if not last or len(rows) < _FEWEST or len(last) > layout.width:  # more is an error, raised elsewhere
        return None
    if len(last) < layout.width:
        return f"it has {len(last)} of {layout.width} numbers: the file was cut off, or is still being written"
    above = lines[-_COMPARED - 1 : -1]
    narrower = len({len(line) for line in above}) == 1 and len(lines[-1]) < len(above[-1].rstrip("\r\n"))
    if _style(last[-1]) in {_style(cells[-1]) for cells in rows} and not narrower:
        return None
    return "it has no end of line, and may have been cut off within a number"


def _style(cell: str) -> tuple[int, int] | None:
    """Returns the digits after a number's point and in its exponent, -1 for none; None if it is not a number."""
    match = _NUMBER.fullmatch(cell.strip())
    return match and (-1 if match[1] is None else len(match[1]), -1 if match[2] is None else len(match[2].lstrip("+-")))


def _require_numbers(path: Path, layout: _Layout, cut: str | None) -> None:
    for line, cells in _cells(path, layout, cut):
        if len(cells) != layout.width:
            raise ValueError(f"line {line}: expected {layout.width} values as in the header; got {len(cells)}.")
        bad = [cell for cell in cells if not is_number(cell)]
        if bad:
            raise ValueError(f"line {line}: expected numbers; got {shorten(bad)}.")


def _cells(path: Path, layout: _Layout, cut: str | None) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding=ENCODING) as file:
        for line, text in enumerate(file, start=1):
            cells = layout.cells(text)
            if line > layout.skip and cells and (cut is None or text.endswith("\n")):
                yield line, cells


def number(cell: str) -> float:
    """Returns the number in a cell of text, in C or Fortran notation; ValueError if it is not a number."""
    for pattern in _FORTRAN:
        match = pattern.fullmatch(cell.strip())
        if match:
            return float(f"{match[1]}e{match[2]}")
    return float(cell)


def is_number(cell: str) -> bool:
    """Returns whether a cell of text is a number."""
    try:
        number(cell)
    except ValueError:
        return False
    return True
