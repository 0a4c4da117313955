"""A pool of threads for samplers that call a likelihood point by point: their calls are answered in batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .._util.checks import FloatArray


class Together:
    """Maps a function over items in threads. When all threads wait for the likelihood, it is called once for them all.

    The calls come in the order of the threads, so that a run is reproducible. A call from the main thread is a batch of
    one.

    Args:
        evaluate: function of points (n, d) that returns a list of n results.
        size: number of threads.
        filler: what a call returns if another one has failed. It must let the mapped function end soon; its result is
            not used, as `map` raises the failure.
    """

    def __init__(self, evaluate: Callable[[FloatArray], list[Any]], size: int, filler: Any = None):
        self._evaluate, self.size, self._filler = evaluate, size, filler
        self._condition = threading.Condition()
        self._worker = threading.local()
        self._waiting: dict[int, FloatArray] = {}
        self._answers: dict[int, Any] = {}
        self._active = 0
        self._failure: BaseException | None = None

    def call(self, point: FloatArray) -> Any:
        """Returns the result of `evaluate` at one point (d,)."""
        number = getattr(self._worker, "number", None)
        if number is None:
            return self._evaluate(np.array(point)[None])[0]
        with self._condition:
            self._waiting[number] = np.array(point)
            self._answer()
            self._condition.wait_for(lambda: number in self._answers or self._failure is not None)
            if self._failure is not None:
                return self._filler
            return self._answers.pop(number)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Returns the values of a function at items, in their order."""
        items = list(items)
        results: list[Any] = [None] * len(items)
        count = min(self.size, len(items))
        self._waiting, self._answers, self._failure, self._active = {}, {}, None, count

        def work(number: int) -> None:
            self._worker.number = number
            try:
                for j in range(number, len(items), count):
                    if self._failure is None:
                        results[j] = function(items[j])
            except BaseException as error:
                self._fail(error)
            finally:
                with self._condition:
                    self._active -= 1
                    self._answer()

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:  # an interruption by the keyboard reaches the main thread
            self._fail(error)
            for thread in threads:
                thread.join()
            raise
        if self._failure is not None:
            raise self._failure
        return results

    def _answer(self) -> None:
        """Calls the likelihood if all active threads wait for it. The lock is held."""
        if not self._waiting or len(self._waiting) < self._active or self._failure is not None:
            return
        numbers = sorted(self._waiting)
        points = np.stack([self._waiting.pop(number) for number in numbers])
        try:
            self._answers.update(zip(numbers, self._evaluate(points), strict=True))
        except BaseException as error:
            self._failure = error
        self._condition.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._condition:
            self._failure = self._failure or error
            self._condition.notify_all()
