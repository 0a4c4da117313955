"""What an external likelihood costs beside the executor alone, and how it scales.

A function that sleeps stands for a simulator. `Executor.map` is called with the chunk size that is best for it; the log
is kept on disk. Scaling from one process to two is measured. That to 64 is a simulation on paper: tasks of the measured
overhead are handed to workers by one process, one after the other, and calls take random times.
"""

from __future__ import annotations

import argparse
import heapq
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tables import origin, publish, table

from numpyro_flowprior import ExternalLikelihood

NAMES = ["a", "b"]
SPAWN = multiprocessing.get_context("spawn")


def slept(a: float, b: float, *, seconds: float) -> float:
    time.sleep(seconds)
    return -a * a - b


def one(seconds: float, point: tuple[float, float]) -> float:
    """What Executor.map calls."""
    return slept(*point, seconds=seconds)


def by_map(points: np.ndarray, seconds: float, workers: int, chunk: int) -> float:
    """Returns the time that Executor.map takes, without the start of the processes."""
    with ProcessPoolExecutor(workers, SPAWN) as pool:
        list(pool.map(partial(one, 0.05), map(tuple, points[: 4 * workers])))
        start = time.perf_counter()
        list(pool.map(partial(one, seconds), map(tuple, points), chunksize=chunk))
        return time.perf_counter() - start


def by_external(points: np.ndarray, seconds: float, workers: int, folder: Path) -> float:
    cache = folder / f"{seconds}_{workers}_{time.monotonic_ns()}.sqlite"
    function = partial(slept, seconds=seconds)
    with ExternalLikelihood(function, NAMES, executor=workers, cache=cache, progress=False) as external:
        external.log_likelihood(points[: 4 * workers] + 100.0)
        start = time.perf_counter()
        external.log_likelihood(points)
        return time.perf_counter() - start


def on_paper(seconds: float, workers: int, overhead: float, calls: int) -> float:
    """Returns the efficiency of many workers, to each of which one process hands its next task after `overhead`."""
    rng = np.random.default_rng(0)
    free = [0.0] * workers
    master = 0.0
    for duration in rng.gamma(20.0, seconds / 20.0, calls):
        ready = heapq.heappop(free)
        master = max(master, ready) + overhead
        heapq.heappush(free, master + duration)
    return calls * seconds / workers / max(free)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "external.md")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows, overheads = [], {}
    with tempfile.TemporaryDirectory() as name:
        for seconds, calls in ((0.001, 2000), (0.01, 400), (0.1, 60)):
            for workers in (1, 2):
                points = np.random.default_rng(calls + workers).normal(size=(calls, 2))
                ours, theirs = [], []
                for _ in range(arguments.repeats):  # in turn
                    ours.append(by_external(points, seconds, workers, Path(name)))
                    theirs.append(min(by_map(points, seconds, workers, chunk) for chunk in (1, 8)))
                ratio = np.array(ours) / np.array(theirs)
                ideal = calls * seconds / workers
                overheads[seconds, workers] = max(float(np.median(ours)) - ideal, 0.0) / calls
                rows.append(
                    [
                        f"{1000 * seconds:g} ms",
                        calls,
                        workers,
                        f"{np.median(ratio):.3f} ({ratio.min():.3f} to {ratio.max():.3f})",
                        f"{np.median(ours) / ideal:.3f}",
                        f"{np.median(theirs) / ideal:.3f}",
                    ]
                )
    cost = overheads[0.01, 2]
    paper = [
        [
            f"{1000 * seconds:g} ms",
            *(f"{on_paper(seconds, n, overheads[0.01, 2], 200 * n):.2f}" for n in (2, 8, 64, 256)),
        ]
        for seconds in (0.01, 0.1, 1.0, 10.0)
    ]
    text = [
        f"# External likelihoods\n\n{origin('python benchmarks/external.py')}\n",
        "Time of a batch relative to Executor.map, the better of chunks of 1 and 8; and of both to the calls alone.\n",
        table("call|calls|processes|ours / map: median (range)|ours / calls|map / calls", rows),
        "\nOn paper: efficiency of n workers with one master, which needs "
        f"{1e6 * cost:.0f} microseconds for each call, and calls whose times scatter by 22 %.\n",
        table("call|2 workers|8|64|256", paper),
    ]
    publish(text, arguments.output)


if __name__ == "__main__":
    main()
