"""Delimited text with a header row of names: commas, or semicolons, tabs or white space where there are none."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ..._checks import require_unique, shorten
from ..columns import table_of_columns
from ..table import Table
from .text import ENCODING, is_number, read_rows

_DELIMITERS = ",;\t"
_COMMENT = "#"


def read_csv(path: Path) -> Table:
    """Returns the table of a csv file: a header row of names, then one row per draw.

    Empty lines and comments (#) before the header are passed over; the last comment is the header, if numbers follow it
    (as `numpy.savetxt` writes it). What columns are is told by their names (see `table_of_columns`).
    """
    header, delimiter, skip = _header(path)
    require_unique(header, "expected unique column names")
    rows = read_rows(path, len(header), delimiter=delimiter, skip=skip)
    columns = {name: rows.values[:, j] for j, name in enumerate(header)}
    info: dict[str, Any] = {"source": "csv", **({"left_out": rows.left_out} if rows.cut else {})}
    return table_of_columns(columns, info=info, complaints=rows.complaints)


def _header(path: Path) -> tuple[list[str], str | None, int]:
    """Returns the names, what separates them (None: white space), and how many lines come before the rows."""
    comment: tuple[int, str] | None = None
    with path.open(newline="", encoding=ENCODING) as file:
        for number, line in enumerate(file, start=1):
            text = line.strip()
            if text.startswith(_COMMENT):
                comment = number, text.lstrip("# ")
            elif text:
                break
        else:
            text, number = "", 0
    if comment is not None and text and all(map(is_number, _cells(text)[0])):
        number, text = comment
    cells, delimiter = _cells(text)
    if cells and all(map(is_number, cells)):
        raise ValueError(f"expected a header row of names; the first row holds numbers ({shorten(cells)}).")
    return cells, delimiter, number


def _cells(line: str) -> tuple[list[str], str | None]:
    delimiter = next((mark for mark in _DELIMITERS if mark in line), None)
    cells = line.split() if delimiter is None else next(csv.reader([line], delimiter=delimiter))
    return [cell.strip() for cell in cells], delimiter
