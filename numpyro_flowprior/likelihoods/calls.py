"""Calls of a Python function at many points over an executor: retried, timed, and each failure explained.

A function that raises returns its error as text, so that one point does not lose the others of its task. What an
executor raises is therefore a failure of the machinery: a worker was killed, or a function could not be sent.
"""

from __future__ import annotations

import io
import multiprocessing
import pickle
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .._util.checks import FloatArray
from .._util.messages import FlowPriorError
from . import worker
from .worker import Answer

_TASK = 0.05  # seconds that a task takes at least, if single calls are quicker: sending one costs some 0.3 ms
_SHARES = 4  # tasks per worker at least, so that all end at about the same time
_AHEAD = 2  # tasks sent for each worker, so that none waits for its next one
_ROOM = 512  # tasks sent at a time to an executor that does not tell how many workers it has
_START = 300.0  # seconds in which processes must have started
_BREAKS = 3  # pools that break one after the other, with no call finished between, before the run ends

# Raised by executors that do not make a call at all; errors of the function come back as text.
_NOT_SENT = (pickle.PicklingError, AttributeError, TypeError, ImportError, CancelledError)

Failed = dict[int, str]  # why a point failed, by its row


class ExternalError(FlowPriorError, RuntimeError):
    """Calls of an external likelihood cannot be made at all: the executor is broken, or its workers do not start."""


@dataclass
class Task:
    """Rows that are sent together. `alone` if nothing else may run beside them, so that a crash is theirs."""

    rows: list[int]
    alone: bool = False


@dataclass
class Run:
    """One batch of points: what is waiting, what is running, and what has failed.

    Attributes:
        points: (n, m).
        keep: called with {row: answer} for the results of a task as they come.
        failed_once: called for each failure, also if it is tried again.
        waiting: tasks that are not sent.
        running: tasks that are.
        tries: failures of each row.
        crashes: pools that each row has seen breaking.
        failed: rows given up.
        sent: tasks sent so far.
        careful: whether each worker gets one task at a time, so that what has been sent is running.
    """

    points: FloatArray
    keep: Callable[[dict[int, Answer]], None]
    failed_once: Callable[[], None]
    waiting: deque[Task] = field(default_factory=deque)
    running: dict[Future[Any], Task] = field(default_factory=dict)
    tries: Counter[int] = field(default_factory=Counter)
    crashes: Counter[int] = field(default_factory=Counter)
    failed: Failed = field(default_factory=dict)
    sent: int = 0
    careful: bool = False


class Calls:
    """Calls of a function over an executor.

    Args:
        function: see `worker.call`.
        names: (m,) of its parameters.
        executor: None for this process; a number of processes of its own; an executor; or a function that makes one.
        batch: points per task; None for as many as take 50 ms, or, vectorized, a share for each worker.
        vectorized: whether the function takes many points at once.
        gradient: whether it returns a gradient.
        retries: further calls at a point that failed.
        timeout: seconds without any finished task after which running calls count as hung; times the points of a task
            if there are more than take 50 ms.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        names: Sequence[str],
        *,
        executor: Executor | int | Callable[[], Executor] | None,
        batch: int | None,
        vectorized: bool,
        gradient: bool,
        retries: int,
        timeout: float | None,
    ):
        self._function, self._names, self._source = function, tuple(names), executor
        self._batch, self._vectorized, self._gradient = batch, vectorized, gradient
        self._retries, self._timeout = retries, timeout
        self._pool: Executor | None = executor if isinstance(executor, Executor) else None
        self._seconds: float | None = None  # per call, as measured
        self._broken = 0  # pools since the last finished call
        self._starting = _Starting()
        self._abandoned: list[Future[Any]] = []  # calls that hang in an executor that is not ours

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy in another process needs: no running pool."""
        pool = self._pool if isinstance(self._source, Executor) else None
        return {**self.__dict__, "_pool": pool, "_starting": _Starting(), "_abandoned": []}

    @property
    def n_workers(self) -> int | None:
        """Number of workers; None if the executor does not tell."""
        if self._source is None:
            return 1
        if isinstance(self._source, int):
            return self._source
        known = getattr(self._pool, "_max_workers", None)
        return known if isinstance(known, int) and known > 0 else None

    def at(
        self, points: FloatArray, keep: Callable[[dict[int, Answer]], None], failed_once: Callable[[], None]
    ) -> Failed:
        """Calls the function at all points (n, m), and returns why it failed at those where it did.

        Raises:
            ExternalError: the executor does not work.
        """
        run = Run(points, keep, failed_once)
        if self._source is None:
            self._here(run)
            return run.failed
        todo = list(range(len(points)))
        try:
            arrived: list[tuple[Task, list[Answer | str]]] = []
            while todo or run.waiting or run.running or arrived:
                self._send(run, todo)  # first, so that the workers go on while results are written
                for task, answers in arrived:
                    self._take(run, task, answers)
                arrived = self._receive(run)
        except BaseException:
            for future in run.running:
                future.cancel()
            self.close(kill=True)
            raise
        return run.failed

    def close(self, *, kill: bool = False) -> None:
        """Ends the processes of its own pool. An executor that was given stays as it is."""
        pool = self._pool
        if pool is None or isinstance(self._source, Executor):
            return
        self._pool = None
        if kill:
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.kill()
        try:
            pool.shutdown(wait=not kill, cancel_futures=True)
        except TypeError:  # loky's has no such argument
            pool.shutdown(wait=not kill)

    def _here(self, run: Run) -> None:
        size = (self._batch or len(run.points)) if self._vectorized else 1
        tasks = deque(Task(list(range(at, min(at + size, len(run.points))))) for at in range(0, len(run.points), size))
        while tasks:
            task = tasks.popleft()
            answers = self._call(self._function, run.points[task.rows])
            self._take(run, task, answers)
            tasks.extendleft(reversed(run.waiting))
            run.waiting.clear()

    def _call(self, function: Any, points: FloatArray) -> list[Answer | str]:
        return worker.call(function, self._names, points, vectorized=self._vectorized, gradient=self._gradient)

    def _send(self, run: Run, todo: list[int]) -> None:
        """Submits tasks, one for each worker. The tasks that failed come first."""
        self._opened()
        workers = self.n_workers
        room = _ROOM if workers is None else workers if run.careful else _AHEAD * workers
        while len(run.running) < room:
            if any(task.alone for task in run.running.values()):
                return
            if run.waiting:
                if run.waiting[0].alone and run.running:
                    return
                task = run.waiting.popleft()
            elif todo:
                size = self._size(len(todo))
                task = Task(todo[:size])
                del todo[:size]
            else:
                return
            self._submit(run, task)

    def _submit(self, run: Run, task: Task) -> None:
        own = isinstance(self._source, int)
        points, run.sent = run.points[task.rows], run.sent + 1
        how: dict[str, Any] = {"vectorized": self._vectorized, "gradient": self._gradient, "number": run.sent}
        try:
            future = self._opened().submit(worker.call, None if own else self._function, self._names, points, **how)
        except BrokenExecutor as error:
            run.waiting.appendleft(task)  # it was not running, so the crash is not its own
            self._crashed(run, error)
        else:
            run.running[future] = task

    def _size(self, left: int) -> int:
        """Returns the number of points of the next task."""
        workers = self.n_workers or 1
        if self._batch is not None:
            return self._batch
        if self._vectorized:
            return max(1, -(-left // workers))
        if self._seconds is None:
            return 1
        return max(1, min(int(_TASK / max(self._seconds, 1e-9)), left // (_SHARES * workers)))

    def _receive(self, run: Run) -> list[tuple[Task, list[Answer | str]]]:
        """Waits for the next results, and returns tasks with their answers. Deals with crashes and hanging calls."""
        if not run.running:
            return []
        limit = self._timeout
        if limit is not None and (self._vectorized or self._batch is not None):
            limit *= max(len(task.rows) for task in run.running.values())
        done, _ = wait(run.running, timeout=limit, return_when=FIRST_COMPLETED)
        if not done:
            if not self._starting.is_going_on(self._pool):
                self._hung(run)
            return []
        crash: BaseException | None = None
        arrived: list[tuple[Task, list[Answer | str]]] = []
        for future in done:
            error = CancelledError("cancelled by its executor") if future.cancelled() else future.exception()
            if isinstance(error, _NOT_SENT):
                raise ExternalError(
                    f"the executor did not make a call ({_in_words(error)}). Can the function be sent to its workers, "
                    "and do they find its modules? Functions of a notebook or a closure need an executor that sends "
                    "them by value, such as executor=2, Dask's or loky's."
                ) from error
            if isinstance(error, BrokenExecutor):
                crash = error  # its task is still among those that run
                continue
            task = run.running.pop(future)
            if error is None:
                self._broken = 0
                arrived.append((task, future.result()))
            else:
                arrived.append((task, [_in_words(error)] * len(task.rows)))
        if crash is None:
            return arrived
        for task, answers in arrived:
            self._take(run, task, answers)
        self._crashed(run, crash)
        return []

    def _take(self, run: Run, task: Task, answers: list[Answer | str]) -> None:
        """Keeps the answers of a task. Points that failed are tried again, one by one."""
        good: dict[int, Answer] = {}
        for row, answer in zip(task.rows, answers, strict=True):
            if isinstance(answer, str):
                run.failed_once()
                only = len(task.rows) == 1 or not self._vectorized
                run.tries[row] += only  # of many points in one call, nobody knows which one failed
                if run.tries[row] > self._retries:
                    run.failed[row] = answer
                else:
                    run.waiting.append(Task([row], alone=task.alone))
            else:
                known = self._seconds
                self._seconds = answer.seconds if known is None else 0.9 * known + 0.1 * answer.seconds
                good[row] = answer
        if good:
            run.keep(good)

    def _crashed(self, run: Run, error: BaseException) -> None:
        """Makes a new pool after a worker died. What was running goes first, at the second time each by itself.

        Raises:
            ExternalError: the executor is not ours to make again, or none of its workers has finished a call.
        """
        for future in [future for future in run.running if _has_result(future)]:
            self._take(run, run.running.pop(future), future.result())
            self._broken = 0
        lost = list(run.running.values())
        started = self._seconds is not None or self._starting.has_begun()
        is_the_points = started and all(task.alone for task in lost)
        self._broken = 0 if is_the_points else self._broken + 1
        if isinstance(self._source, Executor):
            raise ExternalError(
                f"the executor is broken ({_in_words(error)}), and only its owner can make another. Give executor= a "
                "number of processes, or a function that makes an executor. The calls that have finished are kept."
            ) from error
        if self._broken > _BREAKS:
            raise ExternalError(
                f"the worker processes died {self._broken} times without finishing a call ({_in_words(error)}). "
                "Do they find the modules that the function needs? A script that starts processes must do so under "
                'if __name__ == "__main__":.'
            ) from error
        run.running.clear()
        self.close(kill=True)
        for task in lost:
            for row in task.rows:
                run.crashes[row] += 1
            if task.alone:
                self._take(run, task, ["its worker process died (killed, out of memory, or a crash in compiled code)"])
            elif max(run.crashes[row] for row in task.rows) > 1:
                run.waiting.extend(Task([row], alone=True) for row in task.rows)
            else:
                run.waiting.append(task)
        run.waiting = deque(sorted(run.waiting, key=lambda task: task.alone))

    def _hung(self, run: Run) -> None:
        """Gives up calls that have not finished in time. The processes of an own pool are killed.

        In another executor they go on, so that it sends the next try to another worker. The first time, some of the
        tasks may only have waited for a worker, so that none is counted as failed.
        """
        workers = self.n_workers
        if isinstance(self._source, Executor) and workers is not None:
            waiting = [future for future in run.running if future.cancel()]
            run.waiting.extendleft(run.running.pop(future) for future in waiting)
            self._abandoned = [future for future in (*self._abandoned, *run.running) if not future.done()]
            if len(self._abandoned) >= workers:
                raise ExternalError(
                    f"all {workers} workers of the executor have calls without an answer within "
                    f"{self._timeout:g} s, and only its owner can end them. Give executor= a number of processes."
                )
        hung = list(run.running.values())
        run.running.clear()
        self.close(kill=True)
        if not run.careful and workers is not None and not isinstance(self._source, Executor):
            run.careful = True
            run.failed_once()
            run.waiting.extendleft(hung)
            return
        for task in hung:
            if len(task.rows) > 1 and not self._vectorized:
                run.waiting.extend(Task([row]) for row in task.rows)
                run.failed_once()
            else:
                self._take(run, task, [f"no answer within {self._timeout:g} s"] * len(task.rows))

    def _opened(self) -> Executor:
        if self._pool is None:
            if isinstance(self._source, int):
                spawn = multiprocessing.get_context("spawn")  # a fork of a process that runs JAX can deadlock
                self._starting = _Starting(spawn.Semaphore(0))
                given = sendable(self._function), self._starting.ready
                self._pool = ProcessPoolExecutor(self._source, spawn, initializer=worker.begin, initargs=given)
            else:
                assert callable(self._source)
                self._pool = self._source()
        return self._pool


class _Starting:
    """The start of the processes of an own pool, which no call is to be blamed for.

    Args:
        ready: released by each process when it has started; None for other executors.
    """

    def __init__(self, ready: Any = None):
        self.ready, self._count, self._since = ready, 0, time.monotonic()

    def has_begun(self) -> bool:
        """Returns whether a process has started."""
        self._look()
        return self._count > 0

    def _look(self) -> None:
        while self.ready is not None and self.ready.acquire(block=False):
            self._count += 1

    def is_going_on(self, pool: Any) -> bool:
        """Returns whether a process of the pool has not started yet.

        Raises:
            ExternalError: it takes too long.
        """
        if self.ready is None:
            return False
        self._look()
        if self._count >= len(pool._processes or {}):
            return False
        if time.monotonic() - self._since > _START:
            raise ExternalError(
                f"the worker processes have not started within {_START:.0f} s. They import the script or the module of "
                "the function first: what does that do?"
            )
        return True


def sendable(function: Callable[..., Any]) -> bytes:
    """Returns a function as bytes for another process; by value, with cloudpickle, where its name is not enough.

    Raises:
        TypeError: it cannot be sent.
    """
    by_name = getattr(function, "__module__", None) not in (None, "__main__")
    error: Exception | None = None
    if by_name:
        with io.BytesIO() as stream:
            try:
                pickle.dump(function, stream)
                return stream.getvalue()
            except Exception as problem:
                error = problem
    with suppress(ImportError):
        import cloudpickle

        try:
            return bytes(cloudpickle.dumps(function))
        except Exception as problem:
            error = problem
    raise TypeError(
        "ExternalLikelihood: function: expected one that can be sent to other processes; got one that cannot"
        f"{'' if error is None else f' ({_in_words(error)})'}. Define it in a module, or install cloudpickle for "
        "functions of a notebook, a script or a closure."
    ) from error


def _has_result(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _in_words(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    return text.splitlines()[0] if text.strip() else type(error).__name__
