"""The outcomes of a scan, stored as JSON lines so that a killed scan can continue."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._util.storage import FileFormatError
from .rungs import Outcome

NAME = "scan.jsonl"
_SCHEMA = 1


class ScanLog:
    """The outcomes of a scan by (candidate, rung), in memory and, with a folder, in its file `scan.jsonl`.

    The first line of the file identifies the scan. Each further line is one outcome, written to disk as soon as its
    task is done. A kill can leave the last line incomplete; it is dropped when the file is read.

    Args:
        folder: created if missing; None to store nothing on disk.
        identity: JSON-ready values by name; a scan continues from a file only if all of them are equal.

    Raises:
        FileNotFoundError: the folder's parent does not exist.
        ValueError: the folder holds another scan (the message names the parts that differ).
        FileFormatError: the file is damaged, or it is not the log of a scan.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, identity: Mapping[str, Any]):
        self.outcomes: dict[tuple[int, int], Outcome] = {}
        self._path = None if folder is None else Path(folder) / NAME
        if self._path is None:
            return
        if not self._path.parent.parent.is_dir():
            raise FileNotFoundError(f"{folder}: the folder {self._path.parent.parent} does not exist. Make it first.")
        self._path.parent.mkdir(exist_ok=True)
        lines = self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []  # complete lines only
        if lines:
            self._require_same(_parsed(self._path, 1, lines[0]), identity)
            for number, line in enumerate(lines[1:], 2):
                record = _parsed(self._path, number, line)
                self.outcomes[record.pop("candidate"), record.pop("rung")] = record
        else:
            lines = [_line({"kind": "flow_scan", "schema": _SCHEMA, **identity})]
        whole = b"".join(line + b"\n" for line in lines)
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(whole)
        os.replace(temporary, self._path)  # atomically, without an incomplete last line

    def add(self, rung: int, outcomes: Mapping[int, Outcome]) -> None:
        """Stores the outcomes of candidates at a rung."""
        self.outcomes.update({(candidate, rung): outcome for candidate, outcome in outcomes.items()})
        if self._path is None:
            return
        with self._path.open("ab") as file:
            for candidate, outcome in outcomes.items():
                file.write(_line({"candidate": candidate, "rung": rung, **outcome}) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _require_same(self, header: dict[str, Any], identity: Mapping[str, Any]) -> None:
        if header.get("kind") != "flow_scan" or header.get("schema") != _SCHEMA:
            raise FileFormatError(
                f"{self._path}: expected a flow_scan of schema {_SCHEMA}; got {header.get('kind')!r} of schema "
                f"{header.get('schema')!r}. Choose another folder."
            )
        differ = [part for part, value in identity.items() if header.get(part) != json.loads(json.dumps(value))]
        if differ:
            raise ValueError(
                f"{self._path}: holds another scan: expected the same {', '.join(identity)}; got a different "
                f"{', '.join(differ)}. Choose another folder, or delete this one to start again."
            )


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode()


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if number > 1:
            record["candidate"], record["rung"], record["status"]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path}: line {number} is damaged. Delete the folder to start again.") from error
    if not isinstance(record, dict):
        raise FileFormatError(f"{path}: line {number}: expected a JSON object. Delete the folder to start again.")
    return record
