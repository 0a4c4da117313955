"""read_chain: the one front door from the files and objects that analyses leave behind to a Chain.

Here is only who reads what; each format has its own small module. Backends are never imported to look at an object:
its type says which package it comes from.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..._checks import shorten
from ..chain import Chain
from ..convergence import judge
from ..parameters import ParameterSpace
from ..table import Table, to_chain
from .delimited import read_csv
from .npz import read_npy, read_npz, write_chain_npz

__all__ = ["read_chain", "write_chain_npz"]

Reader = Callable[..., Table]

_FILES: dict[str, Reader] = {".npz": read_npz, ".npy": read_npy, ".csv": read_csv}


def read_chain(source: Any, space: ParameterSpace | None = None, **options: Any) -> Chain:
    """Returns the Chain held in a file.

    Args:
        source: path of an .npz, .npy or .csv file, or a Chain.
        space: which parameters to read, in which order, with their bounds. Takes precedence over what the source says;
            may name a subset of the columns. None: all of them, with the source's bounds (unbounded if it has none).
        **options: what the source's own reader takes.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: an object that no reader knows, or an option that the reader does not have.
        ValueError: an unknown format, a missing array or column, or values that no Chain may hold.
    """
    if isinstance(source, Chain):
        return source if space is None else source.select(space.names).replace(space=space)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"read_chain: expected a path or a Chain; got {type(source).__name__}.")
    path = Path(source)
    try:
        table = _read_file(path, options)
        chain = to_chain(table, space)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    chain.info["convergence"] = judge(chain, table.complaints, walkers=table.walkers)
    return chain


def _read_file(path: Path, options: dict[str, Any]) -> Table:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    reader = _FILES.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"expected a file ending in {shorten(_FILES, 40)}; got {path.suffix!r}.")
    _require_options(reader, options)
    return reader(path, **options)


def _require_options(reader: Reader, options: dict[str, Any]) -> None:
    known = list(inspect.signature(reader).parameters)[1:]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(
            f"read_chain: {shorten(unknown)}: no such option for this source; it takes {shorten(known) or 'none'}."
        )
