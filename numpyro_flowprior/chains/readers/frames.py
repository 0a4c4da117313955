"""Tables with named columns: pandas frames, and parquet files through pyarrow, which is imported here alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..._checks import optional_import, require_unique, shorten
from ..convergence import are_counts
from ..table import Table, table_of_columns


def read_pandas(frame: Any) -> Table:
    """Returns the table of a pandas.DataFrame with a row per draw; reserved names as in csv.

    An index level called `weights` (as anesthetic has it) gives the weights; any other index only numbers the rows.
    """
    if not hasattr(frame, "columns"):
        raise TypeError(f"expected a pandas.DataFrame; got {type(frame).__name__}. Use its to_frame().")
    names = list(frame.columns)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"expected names as columns; got {shorten(name for name in names if not isinstance(name, str))}. "
            "Set frame.columns to strings."
        )
    require_unique(names, "expected unique column names")
    columns: dict[str, Any] = {name: frame[name].to_numpy() for name in names}
    kinds: dict[str, Any] = {}
    if "weights" in frame.index.names:
        columns["weights"] = np.asarray(frame.index.get_level_values("weights"))
        if not are_counts(columns["weights"]):  # a nested sampler's; MCMC has counts there
            kinds = {"weights_kind": "importance"}
    return table_of_columns(columns, info={"source": "pandas"}, **kinds)


def read_parquet(path: Path) -> Table:
    """Returns the table of a parquet file with a row per draw; reserved names as in csv.

    A column of row labels that pandas wrote is left out, and said to be.

    Raises:
        ImportError: pyarrow is not installed.
    """
    parquet = optional_import("pyarrow.parquet", "readers", "read_chain of parquet")
    try:
        table = parquet.read_table(path)
    except OSError as error:  # pyarrow's ArrowInvalid is a ValueError, which needs no translation
        raise ValueError(f"not a readable parquet file ({error}). It may be truncated: copy it again.") from error
    index = [name for name in table.column_names if name.startswith("__index_level_")]
    gaps = {name: table[name].null_count for name in table.column_names if table[name].null_count}
    if gaps:
        raise ValueError(f"expected a number in every row; missing values per column: {gaps}. Remove those rows.")
    columns = {name: table[name].to_numpy() for name in table.column_names if name not in index}
    info: dict[str, Any] = {"source": "parquet"}
    if index:
        info["left_out"] = {name: "row labels of pandas" for name in index}
    return table_of_columns(columns, info=info)


def write_parquet(file: IO[bytes], columns: Mapping[str, np.ndarray]) -> None:
    """Writes columns of numbers into an open file.

    Raises:
        ImportError: pyarrow is not installed.
    """
    arrow = optional_import("pyarrow", "readers", "writing parquet")
    parquet = optional_import("pyarrow.parquet", "readers", "writing parquet")
    parquet.write_table(arrow.table(dict(columns)), file)
