"""read_chain: from the files and objects that analyses leave behind to a Chain. One small reader each.

Columns are found by name. A file that carries names and bounds needs nothing else; where it does not, `space` says
what the columns are.
"""

from __future__ import annotations

import csv
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import shorten
from .chain import Chain
from .parameters import ParameterSpace

_NPZ_FIELDS = ("log_prob", "log_prior", "log_likelihood", "weights", "chain_id")
_CSV_FIELDS = ("log_prob", "log_prior", "log_likelihood", "weight", "weights", "chain_id")


def read_chain(source: Any, space: ParameterSpace | None = None) -> Chain:
    """Returns the Chain held in a file.

    npz: `samples` (n, d), and if present `names` (d,), `bounds` (d, 2), `log_prob`, `log_prior`, `log_likelihood`,
    `weights`, `chain_id` (n,), `log_evidence`, `log_evidence_error`, `units` and `labels` (d,).
    csv: a header row of names, then one row per draw; columns called log_prob, log_prior, log_likelihood, weight(s)
    and chain_id are what they say, all others are parameters.

    Args:
        source: path of an .npz or .csv file, or a Chain.
        space: which parameters to read, in which order, with their bounds. Takes precedence over what the file says;
            may name a subset of the columns. None: all of them, with the file's bounds (npz) or unbounded (csv).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown format, a missing array or column, or values that no Chain may hold.
    """
    if isinstance(source, Chain):
        return source if space is None else source.select(space.names).replace(space=space)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"read_chain: expected a path or a Chain; got {type(source).__name__}.")
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    readers = {".npz": _read_npz, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: expected a file ending in {shorten(readers)}; got {path.suffix!r}.")
    try:
        return reader(path, space)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_chain_npz(path: str | os.PathLike[str], chain: Chain) -> Path:
    """Writes a chain as an npz file that `read_chain` reads back whole, and returns its path."""
    fields: dict[str, Any] = {
        "samples": chain.samples,
        "names": np.array(chain.names),
        "bounds": chain.space.bounds,
        "units": np.array(chain.space.units),
        "labels": np.array(chain.space.labels),
    }
    for name in (*_NPZ_FIELDS, "log_evidence", "log_evidence_error"):
        if getattr(chain, name) is not None:
            fields[name] = getattr(chain, name)
    path = Path(path)
    with path.open("wb") as file:
        np.savez(file, **fields)
    return path


def _read_npz(path: Path, space: ParameterSpace | None) -> Chain:
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("no zip archive")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"not a readable npz file ({error}). It may be truncated: copy it again.") from error
    except ValueError as error:
        raise ValueError(f"holds Python objects, which are not read ({error}). Save plain arrays instead.") from error
    if "samples" not in arrays:
        raise ValueError(
            f"expected an array 'samples' of shape (n, d); the file has {shorten(arrays, 40) or 'nothing'}."
        )
    samples = arrays["samples"]
    if "names" in arrays:
        names = _texts(arrays["names"])
    elif space is not None:
        names = list(space.names)
    else:
        names = [f"theta[{j}]" for j in range(samples.shape[1] if samples.ndim == 2 else 0)]
    if space is None:
        space = _space_of(arrays, names)
    return _assemble(samples, names, space, {name: arrays.get(name) for name in _NPZ_FIELDS}, arrays)


def _space_of(arrays: dict[str, np.ndarray], names: list[str]) -> ParameterSpace:
    bounds = arrays.get("bounds", np.tile([-np.inf, np.inf], (len(names), 1)))
    if bounds.shape != (len(names), 2):
        raise ValueError(f"bounds: expected shape ({len(names)}, 2) for the names; got {bounds.shape}.")
    texts = {field: _texts(arrays[field]) for field in ("units", "labels") if field in arrays}
    return ParameterSpace(names, bounds[:, 0], bounds[:, 1], **texts)


def _texts(array: np.ndarray) -> list[str]:
    return [text.decode() if isinstance(text, bytes) else str(text) for text in np.atleast_1d(array).tolist()]


def _scalar(array: np.ndarray, name: str) -> float:
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected one number; got dtype {array.dtype}, shape {array.shape}.")
    return float(array.item())


def _read_csv(path: Path, space: ParameterSpace | None) -> Chain:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        table = _parse_rows(rows, header)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"expected unique column names; {shorten(repeated)} occur more than once.")
    fields = {name: table[:, header.index(name)] for name in header if name in _CSV_FIELDS}
    if "weight" in fields and "weights" in fields:
        raise ValueError("expected one column of weights; got both 'weight' and 'weights'. Remove or rename one.")
    if "weight" in fields:
        fields["weights"] = fields.pop("weight")
    if "chain_id" in fields:
        fields["chain_id"] = _whole_numbers(fields["chain_id"], "chain_id")
    names = [name for name in header if name not in _CSV_FIELDS]
    if not names:
        raise ValueError(f"expected at least one parameter column; the header has only {shorten(header) or 'nothing'}.")
    samples = table[:, [header.index(name) for name in names]]
    return _assemble(samples, names, space or ParameterSpace(names), fields, {})


def _parse_rows(rows: Any, header: list[str]) -> np.ndarray:
    if header and all(_is_number(cell) for cell in header):
        raise ValueError(f"expected a header row of names; the first row holds numbers ({shorten(header)}).")
    table = []
    for cells in rows:
        if not cells:
            continue
        line = rows.line_num
        if len(cells) != len(header):
            raise ValueError(f"line {line}: expected {len(header)} values as in the header; got {len(cells)}.")
        bad = [cell for cell in cells if not _is_number(cell)]
        if bad:
            raise ValueError(f"line {line}: expected numbers; got {shorten(bad)}.")
        table.append([float(cell) for cell in cells])
    if not table:
        raise ValueError("expected rows of draws below the header; got none.")
    return np.array(table)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _whole_numbers(values: np.ndarray, name: str) -> np.ndarray:
    whole = np.round(values)
    if not np.array_equal(whole, values):
        raise ValueError(f"{name}: expected whole numbers; got {shorten(values[whole != values])}.")
    return whole.astype(np.int64)


def _assemble(
    samples: np.ndarray,
    names: list[str],
    space: ParameterSpace,
    fields: dict[str, Any],
    scalars: dict[str, np.ndarray],
) -> Chain:
    if samples.ndim != 2 or samples.shape[1] != len(names):
        raise ValueError(
            f"samples: expected shape (n, {len(names)}) for names [{shorten(names, 40)}]; got {samples.shape}. "
            "Pass the matching ParameterSpace."
        )
    missing = [name for name in space.names if name not in names]
    if missing:
        raise ValueError(
            f"expected columns for {shorten(space.names, 40)}; {shorten(missing, 40)} missing from {names}."
        )
    if set(space.names) != set(names):  # a marginal: the per-draw densities belong to all the parameters
        fields = {name: value for name, value in fields.items() if not name.startswith("log_")}
    evidence: dict[str, Any] = {
        name: _scalar(scalars[name], name)
        for name in ("log_evidence", "log_evidence_error")
        if scalars.get(name) is not None
    }
    columns = [names.index(name) for name in space.names]
    return Chain(samples[:, columns], space, **fields, **evidence)
