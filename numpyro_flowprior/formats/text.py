"""Rows of numbers in text files: parsed by NumPy's reader in C, and line by line only where that cannot read them.

Files come as other systems write them: with a byte-order mark, Fortran's numbers (1.0D+01, 0.148-104), a last row that
was cut when a disk was full or that is still being written.
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
    re.compile(r"([+-]?(?:\d+\.\d*|\.\d+))([+-]\d{3})"),  # three digits leave no place for the letter
)
_NUMBER = re.compile(r"[+-]?\d*(?:\.(\d*))?(?:[eEdDqQ]?([+-]?\d+))?")
_COMPARED = 20  # rows before the last that tell how its last number should be written ...
_FEWEST = 10  # ... if there are so many; in a file of fewer it is taken as it stands
_TAIL = 1 << 16  # bytes of them at most


@dataclass(frozen=True)
class Rows:
    """Rows of numbers.

    Attributes:
        values: (n, width).
        cut: why the last row is not among them, if it is not.
    """

    values: FloatArray
    cut: str | None = None

    @property
    def left_out(self) -> dict[str, str]:
        """What is missing, as a table's info has it."""
        return {} if self.cut is None else {"last row": self.cut}

    @property
    def complaints(self) -> tuple[str, ...]:
        """What users should hear."""
        return () if self.cut is None else (f"The last row is left out: {self.cut}.",)


def lines_of(path: Path) -> list[str]:
    """Returns the lines of a text file in UTF-8; ValueError, naming it, if it holds other bytes."""
    try:
        return path.read_text(encoding=ENCODING).splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name}: expected text in UTF-8; got other bytes ({error.reason}).") from error


def read_rows(
    path: Path, width: int, *, delimiter: str | None = None, skip: int = 0, comments: str | None = None
) -> Rows:
    """Returns the rows of numbers of a text file.

    A last row without an end of line is left out if it has too few numbers, or if its last number is written as none of
    those above it is: 3.91 where they are like 4.07e-05 is no number that anybody wrote.

    Args:
        path: a text file in UTF-8.
        width: numbers in a row.
        delimiter: what separates them; None for white space.
        skip: lines before the first row.
        comments: what a comment starts with, if there are any.

    Raises:
        ValueError: no rows, a row of another length, or a cell that is no number (line number given).
    """
    layout = _Layout(width, delimiter, skip, comments)
    cut = _cut(path, layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of no data, which is an error below
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
        """Returns the cells of a line, none of an empty one or a comment."""
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
    """Returns why the last row is to be left out, or None if it is whole."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        tail = file.read().decode(ENCODING, errors="replace")
    lines = tail.splitlines(keepends=True)
    if not lines or lines[-1].endswith(("\n", "\r")):
        return None
    last = layout.cells(lines[-1])
    rows = [cells for line in lines[-_COMPARED - 1 : -1] if len(cells := layout.cells(line)) == layout.width]
    if not last or len(rows) < _FEWEST or len(last) > layout.width:  # more is an error, which is told elsewhere
        return None
    if len(last) < layout.width:
        return f"it has {len(last)} of {layout.width} numbers: the file was cut, or is still being written"
    above = lines[-_COMPARED - 1 : -1]
    narrower = len({len(line) for line in above}) == 1 and len(lines[-1]) < len(above[-1].rstrip("\r\n"))
    if _style(last[-1]) in {_style(cells[-1]) for cells in rows} and not narrower:
        return None
    return "it has no end of line, and may have been cut inside a number"


def _style(cell: str) -> tuple[int, int] | None:
    """Returns how a number is written: digits behind its point and of its exponent, -1 for none; None if it is none."""
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
    """Returns the number in a cell of text, C's or Fortran's; ValueError if it is none."""
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
