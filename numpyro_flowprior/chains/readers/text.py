"""Rows of numbers in text files: parsed by NumPy's reader in C, and line by line only to say which line is wrong."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..._checks import FloatArray, shorten


def read_rows(
    path: Path, width: int, *, delimiter: str | None = None, skip: int = 0, comments: str | None = None
) -> FloatArray:
    """Returns the rows of numbers of a text file, (n, width).

    Args:
        path: a text file in UTF-8.
        width: numbers in a row.
        delimiter: what separates them; None for white space.
        skip: lines before the first row.
        comments: what a comment starts with, if there are any.

    Raises:
        ValueError: no rows, a row of another length, or a cell that is no number (line number given).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of no data, which is an error below
        try:
            table = np.loadtxt(
                path, delimiter=delimiter, skiprows=skip, comments=comments, ndmin=2, quotechar='"', encoding="utf-8"
            )
        except UnicodeDecodeError:
            raise
        except ValueError as error:
            _require_numbers(path, width, delimiter, skip, comments)
            raise ValueError(f"not a table of numbers ({error}).") from error
    if not table.size:
        raise ValueError("expected rows of draws below the header; got none.")
    if table.shape[1] != width:
        _require_numbers(path, width, delimiter, skip, comments)
    return table


def _require_numbers(path: Path, width: int, delimiter: str | None, skip: int, comments: str | None) -> None:
    for number, cells in _cells(path, delimiter, skip, comments):
        if len(cells) != width:
            raise ValueError(f"line {number}: expected {width} values as in the header; got {len(cells)}.")
        bad = [cell for cell in cells if not is_number(cell)]
        if bad:
            raise ValueError(f"line {number}: expected numbers; got {shorten(bad)}.")


def _cells(path: Path, delimiter: str | None, skip: int, comments: str | None) -> Iterator[tuple[int, list[str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            text = line.split(comments)[0].strip() if comments else line.strip()
            if number > skip and text:
                yield number, text.split() if delimiter is None else next(csv.reader([text], delimiter=delimiter))


def is_number(cell: str) -> bool:
    """Returns whether a cell of text is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
