"""Reads text with a header row of names and columns separated by commas, semicolons, tabs or white space."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._util.checks import require_unique, shorten
from .columns import table_of_columns
from .table import Table
from .text import ENCODING, is_number, read_rows

_DELIMITERS = ",;\t"
_COMMENT = "#"


def read_csv(path: Path, *, parameters: Sequence[str] = ()) -> Table:
    """Returns the table of a csv file: a header row of names, then one row per draw.

    Empty lines and comments (#) before the header are skipped. If numbers follow the last comment, that comment is the
    header, as `numpy.savetxt` writes it. Columns are recognised by name (see `table_of_columns`).
    """
    header, delimiter, skip = _header(path)
    require_unique(header, "expected unique column names")
    rows = read_rows(path, len(header), delimiter=delimiter, skip=skip)
    columns = {name: rows.values[:, j] for j, name in enumerate(header)}
    info: dict[str, Any] = {"source": "csv", **({"left_out": rows.left_out} if rows.cut else {})}
    return table_of_columns(columns, parameters=parameters, info=info, complaints=rows.complaints)


def _header(path: Path) -> tuple[list[str], str | None, int]:
    """Returns the names, their delimiter (None: white space), and the number of lines before the rows."""
    lines = _first_lines(path)
    (number, text), *rows = [line for line in lines if not line[1].startswith(_COMMENT)] or [(0, "")]
    comments = [line for line in lines if line[1].startswith(_COMMENT) and line[0] < number]
    if comments and any(map(is_number, _cells(text, _delimiter(text, text)))):
        said = comments[-1][0], comments[-1][1].lstrip(f"{_COMMENT} ")
        if len(_cells(said[1], _delimiter(said[1], text))) == len(_cells(text, _delimiter(said[1], text))):
            (number, text), rows = said, [(number, text)]
    delimiter = _delimiter(text, rows[0][1] if rows else text)
    names = [cell.strip() for cell in _cells(text, delimiter)]
    if names and all(map(is_number, names)):
        raise ValueError(f"expected a header row of names; got a first row of numbers ({shorten(names)}).")
    return names, delimiter, number


def _first_lines(path: Path) -> list[tuple[int, str]]:
    """Returns the non-empty lines with their numbers, up to the second line that is not a comment."""
    found: list[tuple[int, str]] = []
    rows = 0
    with path.open(encoding=ENCODING) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            found.append((number, line.rstrip("\r\n")))
            rows += not line.startswith(_COMMENT)
            if rows == 2:
                break
    return found


def _delimiter(header: str, row: str) -> str | None:
    """Returns the first delimiter that splits header and first row into equally many cells, or a likely one."""
    present = [mark for mark in _DELIMITERS if mark in header]
    for mark in [*present, None]:
        cells = len(_cells(header, mark))
        if cells > 1 and cells == len(_cells(row, mark)):
            return mark
    return present[0] if present else None if len(header.split()) == len(row.split()) else _DELIMITERS[0]


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return next(csv.reader([line.strip()], delimiter=" ", skipinitialspace=True), [])
    return next(csv.reader([line], delimiter=delimiter), [])
