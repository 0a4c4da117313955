"""Comma-separated files with a header row of names."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ..._checks import require_unique, shorten
from ..table import Table, table_of_columns
from .text import ENCODING, is_number, read_rows


def read_csv(path: Path) -> Table:
    """Returns the table of a csv file: a header row of names, then one row per draw.

    Columns called log_prob, log_prior, log_likelihood, weight(s), chain_id and family_id are what they say, all others
    parameters.
    """
    with path.open(newline="", encoding=ENCODING) as file:
        header = [name.strip() for name in next(csv.reader(file), [])]
    if header and header[0].startswith("#"):  # as numpy.savetxt writes it
        header[0] = header[0].lstrip("# ")
    if header and all(is_number(cell) for cell in header):
        raise ValueError(f"expected a header row of names; the first row holds numbers ({shorten(header)}).")
    require_unique(header, "expected unique column names")
    rows = read_rows(path, len(header), delimiter=",", skip=1)
    columns = {name: rows.values[:, j] for j, name in enumerate(header)}
    info: dict[str, Any] = {"source": "csv", **({"left_out": rows.left_out} if rows.cut else {})}
    return table_of_columns(columns, info=info, complaints=rows.complaints)
