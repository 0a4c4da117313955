"""Chains to files that `read_chain` reads back: npz with everything, csv and parquet with the columns alone."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from .._checks import shorten
from ..storage import atomic_file
from .chain import Chain
from .readers.frames import write_parquet
from .readers.npz import write_chain_npz
from .table import FIELDS


def write_chain(path: str | os.PathLike[str], chain: Chain) -> Path:
    """Writes a chain, whole or not at all, in the format that the name's ending asks for, and returns its path.

    npz keeps everything. csv and parquet have a column for each parameter and for what belongs to each draw (log
    densities, weights, labels), to the last bit; bounds, units, evidence and info are not in them.

    Raises:
        FileNotFoundError: the folder does not exist.
        ImportError: pyarrow, for parquet, is not installed.
        ValueError: another ending, or a parameter that is called as a column of another kind is.
    """
    path = require_writable(path)
    if path.suffix == ".npz":
        return write_chain_npz(path, chain)
    taken = [name for name in chain.names if name in (*FIELDS, "weight")]
    if taken:
        raise ValueError(f"{path}: {shorten(taken)}: a column of this name is no parameter. Write an npz file.")
    columns = {name: chain.samples[:, j] for j, name in enumerate(chain.names)}
    columns |= {name: values for name in FIELDS if (values := getattr(chain, name)) is not None}
    with atomic_file(path) as file:
        _WRITERS[path.suffix](file, columns)
    return path


def require_writable(path: str | os.PathLike[str]) -> Path:
    """Returns a path that `write_chain` knows how to write to; raises ValueError, naming the endings, for others."""
    path = Path(path)
    if path.suffix not in (".npz", *_WRITERS):
        raise ValueError(f"{path}: expected a name ending in .npz, .csv or .parquet; got {path.suffix or 'none'!r}.")
    return path


def _write_csv(file: IO[bytes], columns: dict[str, np.ndarray]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    text.detach()


_WRITERS: dict[str, Callable[[IO[bytes], dict[str, np.ndarray]], None]] = {
    ".csv": _write_csv,
    ".parquet": write_parquet,
}
