"""Worker processes on one machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from .._util.checks import positive_int


@contextmanager
def process_pool(workers: int) -> Iterator[Executor | None]:
    """Yields an executor of `workers` processes that share the machine's cores; for one worker None, to run here.

    Work that has not started when the block ends is cancelled. Ctrl-C in a terminal ends the workers at once.
    """
    if positive_int(workers, "workers") == 1:
        yield None
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start, initargs=(threads,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(threads: int) -> None:
    """Limits XLA, before it starts, to this worker's share of the cores; lets Ctrl-C end the worker silently."""
    os.environ["NPROC"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
