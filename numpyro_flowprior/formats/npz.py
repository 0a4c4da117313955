"""Reads and writes npz files with named arrays, our exchange format; reads npy files of samples. Without pickle."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._util.checks import shorten
from .._util.storage import atomic_file
from ..chains.chain import Chain
from .declared import ENTRIES, complaint_of_unused, declarations, texts
from .table import DEFAULT_NAME, EVIDENCE, FIELDS, KINDS, Table

_DERIVED = ("derived", "derived_names")


def write_npz(path: str | os.PathLike[str], chain: Chain) -> Path:
    """Writes a chain atomically as an npz file, which `read_chain` can read back, and returns its path."""
    fields: dict[str, Any] = {
        "samples": chain.samples,
        "names": np.array(chain.names),
        "bounds": chain.space.bounds,
        "units": np.array(chain.space.units),
        "labels": np.array(chain.space.labels),
        "info": np.array(json.dumps(chain.info, default=str)),
    }
    for name in (*FIELDS, *EVIDENCE, *KINDS):
        if getattr(chain, name) is not None:
            fields[name] = np.asarray(getattr(chain, name))
    if chain.derived:
        fields["derived"] = np.column_stack(list(chain.derived.values()))
        fields["derived_names"] = np.array(list(chain.derived))
    path = Path(path)
    with atomic_file(path) as file:
        np.savez(file, **fields)
    return path


def read_npz(path: Path) -> Table:
    """Returns the table of an npz file.

    The file must have `samples` (n, d). It may have `names` (d,); `bounds` (d, 2), or `lower` and `upper` (d,);
    `log_prob`, `log_prior`, `log_likelihood`, `weights`, `chain_id` and `family_id` (n,); `log_evidence` and
    `log_evidence_error`; `units` and `labels` (d,); `weights_kind` and `rows` (strings, see Chain); `info` (JSON);
    `derived` (n, k) and `derived_names` (k,).
    """
    return read_archive(_arrays(path))


def read_archive(archive: Mapping[str, np.ndarray]) -> Table:
    """Returns the table from the arrays of an npz file, as `numpy.load` returns them (see `read_npz`)."""
    arrays = {name: archive[name] for name in archive}
    if "samples" not in arrays:
        raise ValueError(
            f"expected an array 'samples' of shape (n, d); the file has {shorten(arrays, 40) or 'nothing'}."
        )
    shape = np.shape(arrays["samples"])
    declared = declarations(arrays, shape[1]) if len(shape) == 2 else {}
    known = {"samples", *ENTRIES, "info", *FIELDS, *EVIDENCE, *KINDS, *_DERIVED}
    kinds: dict[str, Any] = {name: str(arrays[name]) for name in KINDS if name in arrays}
    info: dict[str, Any] = {"source": "npz", "log_prob": "array 'log_prob', recognised by name"}
    if "log_prob" not in arrays:
        info["log_prob"] = "none: no such array"
    if "info" in arrays:
        info = _record(arrays["info"])
    unknown = {name: "not an array of a chain" for name in arrays if name not in known}
    table = Table(
        arrays["samples"],
        fields={name: arrays.get(name) for name in FIELDS},
        **declared,
        evidence={name: arrays.get(name) for name in EVIDENCE},
        info={**info, "left_out": {**info.get("left_out", {}), **unknown}} if unknown else info,
        complaints=complaint_of_unused(list(unknown), "Arrays"),
        **kinds,
    )
    return _with_derived(table, *(arrays[name] for name in _DERIVED)) if arrays.keys() >= {*_DERIVED} else table


def _with_derived(table: Table, derived: np.ndarray, names: np.ndarray) -> Table:
    """Returns the table with derived quantities (n, k) as further columns."""
    n = len(table.samples)
    if np.shape(derived) != (n, np.size(names)):
        raise ValueError(
            f"derived: expected shape ({n}, {np.size(names)}) for derived_names [{shorten(texts(names), 40)}]; got "
            f"{np.shape(derived)}."
        )
    own = table.names or tuple(map(DEFAULT_NAME.format, range(table.samples.shape[1])))
    columns = np.hstack([table.samples, derived])
    return replace(table, samples=columns, names=(*own, *texts(names)), derived=tuple(texts(names)))


def read_npy(path: Path) -> Table:
    """Returns the table of an npy file of samples (n, d), memory-mapped and not loaded."""
    try:
        samples = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"not a readable npy file of numbers ({error}). Write it with numpy.save.") from error
    return Table(samples, info={"source": "npy", "log_prob": "none: the file has only samples"})


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("not a zip archive")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"not a readable npz file ({error}). It may be truncated: copy it again.") from error
    except ValueError as error:
        raise ValueError(f"expected plain arrays; got Python objects ({error}). Save plain arrays.") from error


def _record(text: np.ndarray) -> dict[str, Any]:
    try:
        record = json.loads(str(text))
    except ValueError as error:
        raise ValueError(f"info: expected a JSON object; got {shorten([str(text)[:40]])}.") from error
    if not isinstance(record, dict):
        raise ValueError(f"info: expected a JSON object; got {type(record).__name__}.")
    return record
