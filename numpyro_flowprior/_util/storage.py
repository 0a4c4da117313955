"""The package's file format: named arrays in safetensors, everything else in one JSON header. No pickle.

From schema 2 on, the header has a checksum of the whole content of the file (`checksum`), so that damage is detected.

A file has a kind ("flow_prior", "gp_emulator"), a schema version, a JSON record and a dictionary of arrays. This module
does not interpret them. The type that loads the file knows their meaning and checks that they fit together.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .checks import plain_json, shorten
from .messages import FlowPriorError

FORMAT = "numpyro_flowprior"
CHECKSUM = "sha256"  # key of the checksum in the header
_HDF5 = b"\x89HDF\r\n\x1a\n"  # first bytes of an HDF5 file
_CHECKSUM_SINCE = 2  # first schema, for every kind, with a checksum


@dataclass(frozen=True)
class StoredFile:
    """Content of a file: kind, schema version, JSON record, arrays by name, and checksum (None before schema 2)."""

    kind: str
    schema: int
    record: dict[str, Any]
    arrays: dict[str, np.ndarray]
    checksum: str | None


class FileFormatError(FlowPriorError, ValueError):
    """A file does not have the expected format. The message says which file, what is wrong and what to do."""


def save_file(
    path: str | os.PathLike[str], kind: str, schema: int, record: Mapping[str, Any], arrays: Mapping[str, Any]
) -> Path:
    """Writes a file atomically and returns its path. A crash leaves the old file, or none.

    Args:
        path: where to write; the folder must exist.
        kind: what is stored, e.g. "flow_prior".
        schema: version of the record's and arrays' layout, >= 1.
        record: JSON-ready description.
        arrays: arrays by name; each is stored in its own dtype.

    Raises:
        FileNotFoundError: the folder does not exist.
        TypeError, ValueError: a part of the record is not JSON-ready; the message names it.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist. Make it first.")
    header = {"kind": kind, "schema": schema, **plain_json(record, kind)}
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    if schema >= _CHECKSUM_SINCE:
        header[CHECKSUM] = checksum(header, contiguous)
    write_atomically(path, save(contiguous, metadata={FORMAT: json.dumps(header, allow_nan=False)}))
    return path


def checksum(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 (hex) of a file's content.

    The digest is of the header without the checksum, as JSON (sorted keys, no spaces, UTF-8), and a newline. The arrays
    follow, sorted by name. Each adds [name, dtype, shape] as JSON of the same form, a newline, and its bytes,
    little-endian, in C order.
    """
    digest = hashlib.sha256(_canonical({key: value for key, value in header.items() if key != CHECKSUM}))
    for name, array in sorted(arrays.items()):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(_canonical([name, array.dtype.name, list(array.shape)]))
        digest.update(little.tobytes())
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Removes the temporary files that killed writes of `path` left. No other process may be writing `path`."""
    path = Path(path)
    if path.parent.is_dir():
        for temporary in path.parent.iterdir():
            if temporary.name.startswith(_prefix(path)):
                temporary.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    return f".{path.name}.part."


def write_atomically(path: Path, content: bytes) -> None:
    """Writes bytes to a file, either completely or not at all."""
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a temporary file next to `path`. It is flushed to disk and renamed to `path` if there is no error."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file begins with the signature of HDF5."""
    with Path(path).open("rb") as file:
        return file.read(len(_HDF5)) == _HDF5


def load_file(path: str | os.PathLike[str], kind: str, *, newest_schema: int) -> StoredFile:
    """Returns the content of a file of the given kind.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is not safetensors, is truncated or damaged, has no header of this package, is of
            another kind, or was written by a newer version of the package.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileFormatError(f"{path}: expected a file; got a folder or a device. Pass the path of the {kind} file.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. Expected a {kind} file written by this package.")
    header, arrays = _read(path)
    found, schema = header.pop("kind", None), header.pop("schema", None)
    if found != kind:
        raise FileFormatError(f"{path}: expected a file of kind {kind!r}; it is of kind {found!r}.")
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise FileFormatError(f"{path}: expected a schema version >= 1 in the header; got {schema!r}.")
    if schema > newest_schema:
        raise FileFormatError(
            f"{path}: written in schema {schema}; this version of the package reads up to {newest_schema}. "
            "Upgrade numpyro_flowprior to read it."
        )
    _require_checksum(path, {"kind": kind, "schema": schema, **header}, arrays)
    return StoredFile(kind, schema, header, arrays, header.pop(CHECKSUM, None))


def _require_checksum(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises FileFormatError if the content of a file has changed since it was written; schema 1 had no checksum."""
    stored = header.get(CHECKSUM)
    if stored is None and header["schema"] < _CHECKSUM_SINCE:
        return
    found = checksum(header, arrays)
    if stored != found:
        raise FileFormatError(
            f"{path}: its content has the checksum {found}; expected {stored!r}, computed when it was written. "
            "The file is damaged or was changed: copy it again."
        )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(FORMAT)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise FileFormatError(
            f"{path}: not a readable safetensors file ({error}). It may be truncated or damaged: copy it again."
        ) from error
    if not isinstance(text, str):
        raise FileFormatError(f"{path}: a safetensors file, but without a {FORMAT} header. Another program wrote it.")
    try:
        header = plain_json(json.loads(text), "header")
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: its {FORMAT} header is not valid JSON ({error}). It is damaged.") from error
    if not isinstance(header, dict):
        raise FileFormatError(f"{path}: its {FORMAT} header is not a JSON object. It is damaged.")
    return header, arrays


def require_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises FileFormatError unless the arrays have exactly the expected names and shapes, and are finite floats."""
    missing = sorted(expected.keys() - arrays.keys())
    unknown = sorted(arrays.keys() - expected.keys())
    if missing or unknown:
        raise FileFormatError(
            f"{path}: the arrays do not fit the configuration in the header; "
            f"missing: {shorten(missing) or 'none'}; unknown: {shorten(unknown) or 'none'}."
        )
    for name, shape in expected.items():
        array = arrays[name]
        if array.shape != tuple(shape):
            raise FileFormatError(f"{path}: array {name!r}: expected shape {tuple(shape)}; got {array.shape}.")
        if array.dtype not in (np.float32, np.float64):
            raise FileFormatError(f"{path}: array {name!r}: expected float32 or float64; got {array.dtype}.")
        if not np.isfinite(array).all():
            raise FileFormatError(f"{path}: array {name!r} holds NaN or infinity. The file is damaged.")
