"""Progress of long work: a bar where somebody looks at it, and a line now and then where it goes to a file or a pipe.

A bar rewrites its line many times a second. In a file each of these is kept: a fit of twenty seconds wrote tens of
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
_BETWEEN = 10.0  # seconds between two lines of one process, at least


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    desc: str | None,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    disable: bool = False,
) -> Any:
    """Returns tqdm's bar in a terminal or notebook, else what writes lines in its place, at most one in ten seconds.

    Args:
        iterable: what to go through, if anything.
        desc: what is done.
        unit: what it is counted in.
        total: how many of them there are; None if nobody knows.
        initial: how many are done.
        disable: write nothing.
    """
    disable = disable or sys.stderr is None  # under pythonw, and some services
    kind = tqdm if disable or is_looked_at() else Lines
    return kind(iterable, desc=desc, unit=unit, total=total, initial=initial, disable=disable)


def say(text: str, *, progress: bool) -> None:
    """Writes a line on what begins, where progress is shown, and logs it in any case."""
    _LOG.info(text)
    if progress and sys.stderr is not None:
        print(f"-- {text}", file=sys.stderr, flush=True)


def is_looked_at() -> bool:
    """Returns whether what is written to standard error is shown at once: in a terminal, or in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") or bool(getattr(sys.stderr, "isatty", bool)())


class Lines:
    """Has what is used of tqdm, and writes whole lines: at the start, now and then, and at the end.

    Where short works follow each other, as the pilots and members of a fit, lines of all of them are ten seconds apart,
    but for the end of one whose start was told.
    """

    _written = -_BETWEEN  # when the last line was, of any of them

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        desc: str | None = None,
        unit: str = "step",
        total: int | None = None,
        initial: int = 0,
        disable: bool = False,
    ):
        self.iterable, self.desc, self.unit, self.total, self.disable = iterable, desc, unit, total, disable
        self.n = self._initial = initial
        self._postfix: dict[str, Any] = {}
        self._start = time.monotonic()
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
        """Counts further ones."""
        self.n += n
        self.refresh()

    def set_postfix(self, values: Any = None, refresh: bool = True, **more: Any) -> None:
        """Takes numbers to tell beside the count."""
        self._postfix = {**(values or {}), **more}
        if refresh:
            self.refresh()

    def set_description(self, desc: str) -> None:
        """Takes another name of what is done."""
        self.desc = desc

    def refresh(self) -> bool:
        """Writes a line if the last one is long ago; returns whether it did."""
        if self.disable or time.monotonic() - Lines._written < _BETWEEN:
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
