"""NumPy's files: npz with named arrays (our own exchange format), npy with the samples alone. No pickle in either."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..._checks import shorten
from ...storage import atomic_file
from ..chain import Chain
from ..table import EVIDENCE, FIELDS, KINDS, Table


def write_chain_npz(path: str | os.PathLike[str], chain: Chain) -> Path:
    """Writes a chain, whole or not at all, as an npz file that `read_chain` reads back, and returns its path."""
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
    path = Path(path)
    with atomic_file(path) as file:
        np.savez(file, **fields)
    return path


def read_npz(path: Path) -> Table:
    """Returns the table of an npz file.

    It has `samples` (n, d), and if present `names` (d,), `bounds` (d, 2) or `lower` and `upper` (d,), `log_prob`,
    `log_prior`, `log_likelihood`, `weights`, `chain_id` and `family_id` (n,), `log_evidence`, `log_evidence_error`,
    `units` and `labels` (d,), `weights_kind` and `rows` (words, see Chain), `info` (JSON).
    """
    arrays = _arrays(path)
    if "samples" not in arrays:
        raise ValueError(
            f"expected an array 'samples' of shape (n, d); the file has {shorten(arrays, 40) or 'nothing'}."
        )
    names = tuple(_texts(arrays["names"])) if "names" in arrays else None
    if "bounds" not in arrays and {"lower", "upper"} <= arrays.keys():
        arrays["bounds"] = np.stack([np.atleast_1d(arrays.pop("lower")), np.atleast_1d(arrays.pop("upper"))], axis=-1)
    known = {"samples", "names", "bounds", "units", "labels", "info", *FIELDS, *EVIDENCE, *KINDS}
    kinds: dict[str, Any] = {name: str(arrays[name]) for name in KINDS if name in arrays}
    info: dict[str, Any] = {"source": "npz", "log_prob": "array 'log_prob', taken at its name"}
    if "log_prob" not in arrays:
        info["log_prob"] = "none: no such array"
    if "info" in arrays:
        info = _record(arrays["info"])
    unknown = {name: "not an array that a chain has" for name in arrays if name not in known}
    return Table(
        arrays["samples"],
        names,
        {name: arrays.get(name) for name in FIELDS},
        bounds=_bounds(arrays, names),
        units=_by_name(arrays, "units", names),
        labels=_by_name(arrays, "labels", names),
        evidence={name: arrays.get(name) for name in EVIDENCE},
        info={**info, "left_out": {**info.get("left_out", {}), **unknown}} if unknown else info,
        complaints=_complaint_of_unused(list(unknown), list(known)),
        **kinds,
    )


def read_npy(path: Path) -> Table:
    """Returns the table of an npy file of samples (n, d), mapped and not loaded."""
    try:
        samples = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"not a readable npy file of numbers ({error}). Write it with numpy.save.") from error
    return Table(samples, info={"source": "npy", "log_prob": "none: the file has samples alone"})


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("no zip archive")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"not a readable npz file ({error}). It may be truncated: copy it again.") from error
    except ValueError as error:
        raise ValueError(f"holds Python objects, which are not read ({error}). Save plain arrays instead.") from error


def _complaint_of_unused(unknown: list[str], known: list[str]) -> tuple[str, ...]:
    if not unknown:
        return ()
    return (f"Arrays that were not used: {shorten(unknown, 40)}; a chain has {shorten(sorted(known), 40)}.",)


def _record(text: np.ndarray) -> dict[str, Any]:
    try:
        record = json.loads(str(text))
    except ValueError as error:
        raise ValueError(f"info: expected a JSON object; got {shorten([str(text)[:40]])}.") from error
    if not isinstance(record, dict):
        raise ValueError(f"info: expected a JSON object; got {type(record).__name__}.")
    return record


def _bounds(arrays: dict[str, np.ndarray], names: tuple[str, ...] | None) -> dict[str, Any]:
    if names is None or "bounds" not in arrays:
        return {}
    if arrays["bounds"].shape != (len(names), 2):
        raise ValueError(f"bounds: expected shape ({len(names)}, 2) for the names; got {arrays['bounds'].shape}.")
    return dict(zip(names, arrays["bounds"].tolist(), strict=True))


def _by_name(arrays: dict[str, np.ndarray], field: str, names: tuple[str, ...] | None) -> dict[str, str]:
    if names is None or field not in arrays:
        return {}
    texts = _texts(arrays[field])
    if len(texts) != len(names):
        raise ValueError(f"{field}: expected {len(names)} strings, one for each parameter; got {texts!r}.")
    return dict(zip(names, texts, strict=True))


def _texts(array: np.ndarray) -> list[str]:
    return [text.decode() if isinstance(text, bytes) else str(text) for text in np.atleast_1d(array).tolist()]
