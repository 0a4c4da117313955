"""What runs where the calls are made: in this process, in a thread, or in another process. It needs NumPy alone."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LOG_LIKELIHOOD, GRADIENT, DERIVED = "log_likelihood", "gradient", "derived"  # keys of what a function may return

_own: Callable[..., Any] | None = None  # the function of a worker that belongs to one likelihood


class Answer(NamedTuple):
    """What a function returned at one point, and the seconds that it took."""

    log_likelihood: float
    gradient: np.ndarray | None
    derived: Mapping[str, float] | None
    seconds: float


def begin(function: bytes, ready: Any) -> None:
    """Gives a process its function, and counts it as ready. An interruption reaches the main process only."""
    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _own = pickle.loads(function)  # bytes that the parent process has just made
    ready.release()


def _end_with_parent() -> None:
    """Ends this process when the one that started it has died, even if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def call(
    function: Callable[..., Any] | None,
    names: Sequence[str],
    points: np.ndarray,
    *,
    vectorized: bool,
    gradient: bool,
    number: int = 0,
) -> list[Answer | str]:
    """Returns an Answer, or what went wrong in words, for each of the points (n, m).

    Args:
        function: called with the parameters by name; None for the function of `begin`.
        names: (m,) of the parameters.
        points: (n, m).
        vectorized: whether the function takes all points in one call, as arrays (n,).
        gradient: whether it returns a gradient.
        number: of the task. Dask takes a call with the same arguments for the same call.
    """
    function = _own if function is None else function
    assert function is not None
    if vectorized:
        return _called(function, names, points.T, gradient, len(points))
    return [found for point in points for found in _called(function, names, point, gradient, None)]


def _called(
    function: Callable[..., Any], names: Sequence[str], columns: np.ndarray, gradient: bool, n: int | None
) -> list[Answer | str]:
    """Returns the answers of one call: at one point (n is None), or at n of them."""
    start = time.perf_counter()
    given = {name: float(part) if n is None else part.copy() for name, part in zip(names, columns, strict=True)}
    try:
        returned = function(**given)
        seconds = (time.perf_counter() - start) / (n or 1)
        return _answers(returned, names, gradient, n, seconds)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"] * (n or 1)


def _answers(returned: Any, names: Sequence[str], gradient: bool, n: int | None, seconds: float) -> list[Answer | str]:
    parts = dict(returned) if isinstance(returned, Mapping) else {LOG_LIKELIHOOD: returned}
    unknown = parts.keys() - {LOG_LIKELIHOOD, GRADIENT, DERIVED}
    if unknown or LOG_LIKELIHOOD not in parts:
        raise TypeError(
            f"expected a log likelihood, or a dictionary with {LOG_LIKELIHOOD!r} and possibly {GRADIENT!r} and "
            f"{DERIVED!r}; got a dictionary with {sorted(map(str, parts))}"
        )
    rows = n or 1
    values = _column(parts[LOG_LIKELIHOOD], LOG_LIKELIHOOD, n)
    slopes = None
    if gradient:
        if GRADIENT not in parts:
            raise TypeError(f"expected a dictionary with {GRADIENT!r}, as gradient=True promises; it has none")
        slopes = _gradients(parts[GRADIENT], names, n)
    derived = {str(name): _column(part, f"derived {name!r}", n) for name, part in (parts.get(DERIVED) or {}).items()}
    found: list[Answer | str] = []
    for j in range(rows):
        slope = None if slopes is None else slopes[j]
        if np.isnan(values[j]) or values[j] == np.inf:
            found.append(f"the log likelihood is {values[j]}")
        elif slope is not None and np.isfinite(values[j]) and not np.isfinite(slope).all():
            found.append("the gradient is not finite")
        else:
            extra = {name: float(part[j]) for name, part in derived.items()} if derived else None
            found.append(Answer(float(values[j]), slope, extra, seconds))
    return found


def _column(value: Any, what: str, n: int | None) -> np.ndarray:
    """Returns real numbers, (n,) or (1,)."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{what}: expected real numbers; got {type(value).__name__} of dtype {array.dtype}")
    if array.shape != (() if n is None else (n,)) and not (n is None and array.size == 1):
        expected = "one number" if n is None else f"shape ({n},)"
        raise ValueError(f"{what}: expected {expected}; got shape {array.shape}")
    return array.astype(np.float64).reshape(-1)


def _gradients(value: Any, names: Sequence[str], n: int | None) -> np.ndarray:
    """Returns gradients (n, m) in the order of the names, from a dictionary by name or an array (..., m)."""
    if isinstance(value, Mapping):
        missing = [name for name in names if name not in value]
        if missing:
            raise ValueError(f"{GRADIENT}: expected a derivative for each of {list(names)}; missing: {missing}")
        return np.stack([_column(value[name], f"{GRADIENT} {name!r}", n) for name in names], axis=-1)
    array = np.asarray(value, dtype=np.float64)
    expected = (len(names),) if n is None else (n, len(names))
    if array.shape != expected:
        raise ValueError(f"{GRADIENT}: expected shape {expected} for {list(names)}; got {array.shape}")
    return array.reshape(-1, len(names))
