"""Writes chains to files that `read_chain` can read back: everything to npz, only the columns to csv and parquet."""

from __future__ import annotations

import csv
import io
import os
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np

from .._util.checks import shorten
from .._util.messages import FlowPriorWarning
from .._util.storage import atomic_file
from ..chains.chain import Chain
from .columns import STAR, no_parameters
from .frames import write_parquet
from .npz import write_npz
from .table import FIELDS


def write_chain(path: str | os.PathLike[str], chain: Chain) -> Path:
    """Writes a chain atomically, in the format given by the ending of the file name, and returns its path.

    npz keeps everything. csv and parquet have a column for each parameter, each derived quantity (with a star at the
    end of its name, as in GetDist) and each value per draw (log densities, weights, labels), to the last bit. They do
    not keep bounds, units, evidence and info. Parquet also keeps the kind of the weights and of the order of rows. csv
    cannot, and a warning says so if the columns do not show it.

    Raises:
        FileNotFoundError: the folder does not exist.
        ImportError: pyarrow, for parquet, is not installed.
        ValueError: the ending is another one, or a parameter would not be read back as one, e.g. one named `weights`.
    """
    path = require_writable(path)
    if path.suffix == ".npz":
        return write_npz(path, chain)
    columns = {name: chain.samples[:, j] for j, name in enumerate(chain.names)}
    fields = {name: values for name in FIELDS if (values := getattr(chain, name)) is not None}
    _require_parameters(path, columns)
    _require_derived(path, chain)
    columns |= {f"{name}{STAR}": values for name, values in chain.derived.items()}
    kinds: dict[str, str] = {"rows": chain.rows, **({"weights_kind": chain.weights_kind} if chain.weights_kind else {})}
    with atomic_file(path) as file:
        if path.suffix == ".parquet":
            write_parquet(file, columns | fields, kinds)
        else:
            _write_csv(file, columns | fields)
    if path.suffix == ".csv":
        _warn_of_kinds(path, chain, fields, kinds)
    return path


def _require_parameters(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Raises ValueError if columns by these names would not be read back as parameters."""
    taken = no_parameters(columns)
    if taken:
        raise ValueError(f"{path}: {shorten(taken)}: would not be read back as a parameter. Write an npz file.")


def _require_derived(path: Path, chain: Chain) -> None:
    """Raises ValueError if derived quantities by these names would not be read back as derived quantities."""
    taken = [name for name in chain.derived if name in FIELDS or name.endswith(STAR)]
    if taken:
        raise ValueError(f"{path}: {shorten(taken)}: would not be read back as a derived quantity. Write an npz file.")


def _warn_of_kinds(path: Path, chain: Chain, fields: dict[str, Any], kinds: dict[str, str]) -> None:
    """Warns if the columns alone do not show what the chain declares about its weights and rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user has already seen the warnings about the chain
        again = Chain(chain.samples, chain.space, **fields)
    lost = {name: said for name, said in kinds.items() if getattr(again, name) != said}
    if lost:
        said = ", ".join(f"{name}={value!r}" for name, value in lost.items())
        warnings.warn(
            f"{path}: csv cannot store {said}, and the rows do not show it. After reading, call "
            f"chain.replace({said}), or write npz or parquet.",
            FlowPriorWarning,
            stacklevel=3,
        )


def require_writable(path: str | os.PathLike[str]) -> Path:
    """Returns the path if `write_chain` supports its ending; raises ValueError with the supported endings if not."""
    path = Path(path)
    if path.suffix not in (".npz", ".csv", ".parquet"):
        raise ValueError(f"{path}: expected a name ending in .npz, .csv or .parquet; got {path.suffix or 'none'!r}.")
    return path


def _write_csv(file: IO[bytes], columns: dict[str, np.ndarray]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    text.detach()
