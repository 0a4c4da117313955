"""Progress of long computations: a bar in a terminal or notebook, and occasional lines in a file or a pipe.

A bar rewrites its line many times a second, and a file keeps every version. A fit of twenty seconds wrote tens of
kilobytes.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm.auto import tqdm

_LOG = logging.getLogger("numpyro_flowprior")
_BETWEEN = 10.0  # minimum seconds between two lines of one process


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    desc: str | None,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    disable: bool = False,
    delay: float = 0.0,
) -> Any:
    """Returns a tqdm bar in a terminal or notebook, else a replacement that writes at most one line in ten seconds.

    Args:
        iterable: what to iterate over, if anything.
        desc: name of the task.
        unit: what is counted.
        total: total number of units; None if unknown.
        initial: number of units already done.
        disable: write nothing.
        delay: seconds before anything is written.
    """
    disable = disable or sys.stderr is None  # stderr is None under pythonw and in some services
    kind = tqdm if disable or is_looked_at() else Lines
    return kind(iterable, desc=desc, unit=unit, total=total, initial=initial, disable=disable, delay=delay)


def say(text: str, *, progress: bool) -> None:
    """Logs a line about the task that begins, and writes it to standard error if progress is shown."""
    _LOG.info(text)
    if progress and sys.stderr is not None:
        print(f"-- {text}", file=sys.stderr, flush=True)


def is_looked_at() -> bool:
    """Returns whether standard error is shown directly to the user: in a terminal or a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") or bool(getattr(sys.stderr, "isatty", bool)())


class Lines:
    """Replacement for a tqdm bar that writes whole lines: at the start, at intervals, and at the end.

    It has the methods of tqdm that the package uses. Short tasks may follow each other, such as the pilots and members
    of a fit. Their lines are at least ten seconds apart. The exception is the last line of a task that wrote a line at
    its start.
    """

    _written = -_BETWEEN  # time of the last line of any instance

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        desc: str | None = None,
        unit: str = "step",
        total: int | None = None,
        initial: int = 0,
        disable: bool = False,
        delay: float = 0.0,
    ):
        self.iterable, self.desc, self.unit, self.total, self.disable = iterable, desc, unit, total, disable
        self.n = self._initial = initial
        self._postfix: dict[str, Any] = {}
        self._start, self._delay = time.monotonic(), delay
        self._told = self.refresh()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in () if self.iterable is None else self.iterable:
                yield item
                self.update()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        """Adds n to the count."""
        self.n += n
        self.refresh()

    def set_postfix(self, values: Any = None, refresh: bool = True, **more: Any) -> None:
        """Sets the numbers to show next to the count."""
        self._postfix = {**(values or {}), **more}
        if refresh:
            self.refresh()

    def set_description(self, desc: str) -> None:
        """Sets the name of the task."""
        self.desc = desc

    def refresh(self) -> bool:
        """Writes a line if the last one was long enough ago; returns whether it did."""
        now = time.monotonic()
        if self.disable or now - Lines._written < _BETWEEN or now - self._start < self._delay:
            return False
        self._write()
        return True

    def close(self) -> None:
        """Writes the last line."""
        if not self.disable and self._told and self.n > self._initial:
            self._write()
        self.disable = True

    def _write(self) -> None:
        Lines._written = time.monotonic()
        seconds, done = Lines._written - self._start, self.n - self._initial
        parts = [f"{self.n}{'' if self.total is None else f' of {self.total}'} {self.unit}s"]
        if done:
            parts.append(_spelled(seconds))
        if done and self.total is not None and self.total > self.n:
            parts.append(f"about {_spelled(seconds / done * (self.total - self.n))} left")
        for name, value in self._postfix.items():
            parts.append(f"{name}={f'{value:.5g}' if isinstance(value, float) else value}")
        print(f"{self.desc or 'progress'}: {', '.join(parts)}", file=sys.stderr, flush=True)


def _spelled(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
