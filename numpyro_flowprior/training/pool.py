"""Worker processes for one machine."""

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
    """Yields an executor of that many processes that share the machine's cores; None, to work in this one, for one.

    What is not started when the block ends is cancelled. Ctrl-C in a terminal ends the workers at once.
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
    """Gives XLA, which is not started yet, this worker's share of the cores; makes Ctrl-C end it without a word."""
    os.environ["NPROC"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
