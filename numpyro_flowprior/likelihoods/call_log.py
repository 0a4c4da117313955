"""The log of all calls of an external likelihood, as an SQLite database in a file or in memory.

Each result is written when it arrives, so that a kill loses nothing that has finished. A point is found again by its
exact float64 values.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._util.checks import FloatArray, shorten
from .._util.storage import FileFormatError
from .worker import Answer

SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS calls (
    number INTEGER PRIMARY KEY, theta BLOB NOT NULL UNIQUE, log_likelihood REAL NOT NULL, gradient BLOB, derived TEXT,
    seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
    number INTEGER PRIMARY KEY, theta BLOB NOT NULL, reason TEXT NOT NULL, rejected INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS failed ON failures (theta);
"""
_INSERT = (
    "INSERT OR IGNORE INTO calls (theta, log_likelihood, gradient, derived, seconds) VALUES (?, ?, ?, ?, ?)"  # no twins
)


@dataclass(frozen=True)
class Evaluations:
    """The calls of an external likelihood that have finished, in the order in which they did.

    Attributes:
        names: (m,) parameters.
        theta: (n, m) points.
        log_likelihood: (n,) values.
        gradient: (n, m); None if the function returns none.
        derived: {name: (n,)}; NaN where a call did not return it.
        seconds: (n,) duration of each call.
        failures: points given up, with the reason of each.
    """

    names: tuple[str, ...]
    theta: FloatArray
    log_likelihood: FloatArray
    gradient: FloatArray | None
    derived: dict[str, FloatArray]
    seconds: FloatArray
    failures: tuple[tuple[dict[str, float], str], ...] = ()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Evaluations:
        """Returns the calls in a cache file, without the function that made them.

        Raises:
            FileNotFoundError: there is no such file.
            FileFormatError: it is not a log of calls.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: expected the cache file of an ExternalLikelihood; there is none.")
        log = CallLog(path)
        try:
            return log.evaluations(log.names())
        finally:
            log.close()

    def outputs(self, names: Sequence[str] | None = None) -> tuple[FloatArray, tuple[str, ...]]:
        """Returns columns (n, k) for an emulator, and their names: derived quantities or "log_likelihood".

        None for all derived quantities, or for the log likelihood if there are none.
        """
        known = {**self.derived, "log_likelihood": self.log_likelihood}
        chosen = tuple(names) if names is not None else tuple(self.derived) or ("log_likelihood",)
        missing = [name for name in chosen if name not in known]
        if missing:
            raise ValueError(f"evaluations: expected outputs among {shorten(known)}; got {shorten(missing)}.")
        return np.stack([known[name] for name in chosen], axis=1), chosen

    def __len__(self) -> int:
        return len(self.theta)

    def __repr__(self) -> str:
        extra = f"; derived: {', '.join(self.derived)}" if self.derived else ""
        return f"Evaluations({len(self)} calls over {', '.join(self.names)}{extra}; {len(self.failures)} failures)"


class CallLog:
    """Calls by their points, kept in a file or in memory.

    Args:
        path: the file, made if it is missing; None for memory.
        about: what identifies the likelihood; None to read a file of any.

    Raises:
        FileFormatError: the file is something else.
        ValueError: the file belongs to another likelihood.
    """

    def __init__(self, path: str | os.PathLike[str] | None, about: Mapping[str, Any] | None = None):
        self._path, self._lock = path, threading.Lock()
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f"cache: the folder of {path} does not exist. Make it first.")
        self._db = sqlite3.connect(":memory:" if path is None else path, check_same_thread=False, timeout=60.0)
        try:
            if about is None or (path is not None and Path(path).stat().st_size):
                self._require_log(may_be_new=about is not None)
            self._db.execute("PRAGMA journal_mode=WAL")  # a kill loses nothing, and others can read
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)
            self._begin(about)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise FileFormatError(f"{path}: expected a cache of calls; it is not readable ({error}).") from error
        except Exception:
            self._db.close()
            raise

    def _require_log(self, *, may_be_new: bool) -> None:
        tables = {row[0] for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if (tables or not may_be_new) and not {"about", "calls", "failures"} <= tables:
            raise FileFormatError(f"{self._path}: expected a cache of calls; got a database with {sorted(tables)}.")

    def _begin(self, about: Mapping[str, Any] | None) -> None:
        known = dict(self._db.execute("SELECT name, value FROM about").fetchall())
        if int(known.get("schema", SCHEMA)) > SCHEMA:
            raise FileFormatError(
                f"{self._path}: this cache has schema {known['schema']}; this version reads up to {SCHEMA}."
            )
        if about is None:
            if "names" not in known:
                raise FileFormatError(f"{self._path}: expected a cache of calls; it has no parameter names.")
            return
        given = {"schema": str(SCHEMA), **{name: json.dumps(value) for name, value in about.items()}}
        if not known:
            with self._db:
                self._db.executemany("INSERT INTO about VALUES (?, ?)", given.items())
            return
        other = sorted(name for name in given if name != "schema" and known.get(name) != given[name])
        if other:
            told = "; ".join(f"{name}: {known.get(name)} in the file, now {given[name]}" for name in other)
            raise ValueError(
                f"cache: {self._path}: expected calls of this likelihood; got those of another ({told}). Use another "
                "file. If only the text of the function has changed and not its values, pass the version= of the file."
            )

    def names(self) -> tuple[str, ...]:
        """Returns the parameters."""
        (text,) = self._db.execute("SELECT value FROM about WHERE name = 'names'").fetchone()
        return tuple(json.loads(text))

    def get(self, theta: FloatArray) -> Answer | None:
        """Returns the call at a point (m,); None if there was none."""
        query = "SELECT log_likelihood, gradient, derived, seconds FROM calls WHERE theta = ?"
        with self._lock:
            row = self._db.execute(query, (_key(theta),)).fetchone()
        return None if row is None else _answer(*row)

    def add(self, theta: FloatArray, answers: Sequence[Answer]) -> None:
        """Keeps the calls at points (n, m)."""
        with self._lock, self._db:
            self._db.executemany(_INSERT, [_row(*pair) for pair in zip(theta, answers, strict=True)])

    def add_failure(self, theta: FloatArray, reason: str, *, rejected: bool) -> None:
        """Keeps a point (m,) that was given up, and whether it counts as impossible from then on."""
        with self._lock, self._db:
            query = "INSERT INTO failures (theta, reason, rejected) VALUES (?, ?, ?)"
            self._db.execute(query, (_key(theta), reason, int(rejected)))

    def is_rejected(self, theta: FloatArray) -> bool:
        """Returns whether a point (m,) was given up, and counts as impossible."""
        with self._lock:
            query = "SELECT 1 FROM failures WHERE theta = ? AND rejected"
            return self._db.execute(query, (_key(theta),)).fetchone() is not None

    def mean_seconds(self) -> float:
        """Returns the mean duration of a call; 0 without any."""
        with self._lock:
            (mean,) = self._db.execute("SELECT AVG(seconds) FROM calls").fetchone()
        return float(mean or 0.0)

    def evaluations(self, names: Sequence[str]) -> Evaluations:
        """Returns all calls."""
        with self._lock:
            rows = self._db.execute(
                "SELECT theta, log_likelihood, gradient, derived, seconds FROM calls ORDER BY number"
            ).fetchall()
            lost = self._db.execute("SELECT theta, reason FROM failures ORDER BY number").fetchall()
        answers = [_answer(*row[1:]) for row in rows]
        keys = dict.fromkeys(name for answer in answers for name in answer.derived or {})
        derived = {k: np.array([(answer.derived or {}).get(k, np.nan) for answer in answers]) for k in keys}
        slopes = [answer.gradient for answer in answers]
        complete = bool(slopes) and all(slope is not None for slope in slopes)
        return Evaluations(
            tuple(names),
            np.array([np.frombuffer(row[0]) for row in rows]).reshape(len(rows), len(names)),
            np.array([answer.log_likelihood for answer in answers]),
            np.array(slopes) if complete else None,
            derived,
            np.array([answer.seconds for answer in answers]),
            tuple((dict(zip(names, np.frombuffer(theta).tolist(), strict=True)), reason) for theta, reason in lost),
        )

    def close(self) -> None:
        """Closes the file."""
        self._db.close()


def _key(theta: FloatArray) -> bytes:
    return (np.asarray(theta, dtype=np.float64) + 0.0).tobytes()  # -0 is 0


def _row(theta: FloatArray, answer: Answer) -> tuple[Any, ...]:
    gradient = None if answer.gradient is None else np.asarray(answer.gradient, dtype=np.float64).tobytes()
    derived = None if answer.derived is None else json.dumps(dict(answer.derived))
    return _key(theta), answer.log_likelihood, gradient, derived, answer.seconds


def _answer(log_likelihood: float, gradient: bytes | None, derived: str | None, seconds: float) -> Answer:
    slope = None if gradient is None else np.frombuffer(gradient).copy()
    return Answer(log_likelihood, slope, None if derived is None else json.loads(derived), seconds)
