"""Reads pandas frames, and reads and writes parquet files with pyarrow, which only this module imports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from .._util.checks import optional_import, require_unique, shorten
from .columns import table_of_columns
from .table import KINDS, Table

_METADATA = b"numpyro_flowprior"  # key of the record of what the weights and rows are


def read_pandas(frame: Any, *, parameters: Sequence[str] = ()) -> Table:
    """Returns the table of a pandas.DataFrame with one row per draw; reserved names as in csv.

    Index levels named `weights` (as in anesthetic) and `chain` are recognised; other levels only label the rows.
    """
    if not hasattr(frame, "columns"):
        raise TypeError(f"expected a pandas.DataFrame; got {type(frame).__name__}. Use its to_frame().")
    names = list(frame.columns)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"expected strings as column names; got {shorten(name for name in names if not isinstance(name, str))}. "
            "Set frame.columns to strings."
        )
    require_unique(names, "expected unique column names")
    columns: dict[str, Any] = {name: frame[name].to_numpy() for name in names}
    levels = {str(name): frame.index.get_level_values(name) for name in frame.index.names if name is not None}
    return table_of_columns(columns, index=levels, parameters=parameters, info={"source": "pandas"})


def read_parquet(path: Path, *, parameters: Sequence[str] = ()) -> Table:
    """Returns the table of a parquet file with one row per draw; reserved names as in csv.

    An index that pandas wrote is read as that of a frame.

    Raises:
        ImportError: pyarrow is not installed.
    """
    parquet = optional_import("pyarrow.parquet", "readers", "read_chain of parquet")
    try:
        table = parquet.read_table(path)
    except OSError as error:  # pyarrow's ArrowInvalid is a ValueError, which needs no translation
        raise ValueError(f"not a readable parquet file ({error}). It may be truncated: copy it again.") from error
    gaps = {name: table[name].null_count for name in table.column_names if table[name].null_count}
    if gaps:
        raise ValueError(f"expected a number in every row; missing values per column: {gaps}. Remove those rows.")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    described = (table.schema.pandas_metadata or {}).get("index_columns", ())
    levels = {name: columns.pop(name) for name in described if isinstance(name, str) and name in columns}
    kinds = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
    kinds = {name: kinds[name] for name in KINDS if name in kinds}
    return table_of_columns(columns, index=levels, parameters=parameters, info={"source": "parquet"}, **kinds)


def write_parquet(file: IO[bytes], columns: Mapping[str, np.ndarray], kinds: Mapping[str, str]) -> None:
    """Writes columns of numbers, and a record of what the weights and rows are, to an open file.

    Raises:
        ImportError: pyarrow is not installed.
    """
    arrow = optional_import("pyarrow", "readers", "writing parquet")
    parquet = optional_import("pyarrow.parquet", "readers", "writing parquet")
    table = arrow.table(dict(columns))
    parquet.write_table(table.replace_schema_metadata({_METADATA: json.dumps(dict(kinds))}), file)
