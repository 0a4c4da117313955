"""Training on more rows than one wants in memory: what a memory-mapped chain of ten million rows costs.

Writes a chain of seven parameters to a temporary file, maps it, and trains for a fixed number of steps; then the same
on its first 100,000 rows. What counts is memory of the process's own (the file's pages are the kernel's to drop), at
its highest, and the steps per second of training.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
from tables import origin, publish, table

import numpyro_flowprior as fp

DIM, STEPS = 7, 4000
SPACE = fp.ParameterSpace([f"p{j}" for j in range(DIM)], 0.0, 1.0)


def own_memory() -> float:
    """Returns the process's memory that no file backs, GiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**20


class Peak:
    """Watches the process's own memory, twenty times a second."""

    def __enter__(self) -> Peak:
        self.highest, self._done = own_memory(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.highest = max(self.highest, own_memory())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def write(path: Path, rows: int) -> None:
    """Writes draws of a bent density on the unit box, a hundredth at a time."""
    mapped = np.lib.format.open_memmap(path, "w+", np.float64, (rows, DIM))
    rng = np.random.default_rng(0)
    for part in np.array_split(np.arange(rows), 100):
        z = rng.normal(size=(len(part), DIM))
        z[:, 1] += 0.5 * z[:, 0] ** 2
        mapped[part[0] : part[-1] + 1] = 1.0 / (1.0 + np.exp(-z))
    mapped.flush()


def measure(samples: np.ndarray) -> tuple[str, ...]:
    """Returns the table's row for training on these rows."""
    config = fp.FlowConfig(layers=3, hidden=(32,), members=2, background=True)
    train = fp.TrainConfig(max_steps=STEPS // 2, batch_size=512, patience=1000)
    before, start = own_memory(), time.perf_counter()
    with Peak() as peak:
        fit = fp.fit_flow(jax.random.key(0), fp.Chain(samples, SPACE), config, train, progress=False)
    total = time.perf_counter() - start
    training = sum(history.seconds for history in fit.histories)
    gain = f"{fit.report.gain:.4f} +- {fit.report.gain_error:.4f}"
    return (
        f"{len(samples):,}",
        f"{samples.nbytes / 2**30:.2f}",
        f"{peak.highest - before:.2f}",
        f"{STEPS / training:.0f}",
        f"{total:.0f}",
        gain,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.npy"
        write(path, options.rows)
        mapped = np.load(path, mmap_mode="r")
        rows = [measure(mapped[:100_000]), measure(mapped)]
    head = "rows|file, GiB|memory beyond the file, GiB|training steps per second|seconds in all|gain"
    publish(["# Memory: a chain in a file\n", origin("python benchmarks/memory.py"), table(head, rows)], options.output)


if __name__ == "__main__":
    main()
