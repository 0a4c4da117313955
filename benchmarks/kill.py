"""Ten times kill -9, then the end: is the posterior the same?

A run of pocoMC and one of emcee, each in a process that is killed at a random moment after its first checkpoint, ten
times in a row, every process going on from the file. What comes out passes the checks of benchmarks/samplers.py against
exact draws, or does not.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import samplers
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.sampling import emcee as module

KILLS = 10
RUNS: dict[str, tuple[Callable[[], samplers.Target], Callable[..., fp.Chain], float]] = {  # and seconds until a kill
    "pocoMC": (samplers.modes, partial(fp.sample_pocomc, n_total=4096), 1.0),
    "emcee": (samplers.funnel, partial(fp.sample_emcee, max_steps=20_000), 0.5),
}


def child(name: str, path: Path) -> None:
    """Runs a sampler with a checkpoint: what is killed."""
    target, sampler, _ = RUNS[name]
    module._SAVE_EVERY = 0.2  # seconds, so that ten kills lose little
    sampler(jax.random.key(1), fp.ModelDensity(target().model), checkpoint=path, progress=False)


def killed(name: str, path: Path, seconds: float) -> bool:
    """Returns whether a process was killed, a time after it had written its first checkpoint, before it was done."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    process = subprocess.Popen([sys.executable, __file__, "--child", name, "--path", str(path)])
    while process.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
        time.sleep(0.01)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def row(name: str, folder: Path, rng: np.random.Generator) -> tuple[Any, ...]:
    """Returns what ten kills left of a sampler's run."""
    target, sampler, longest = RUNS[name]
    path = folder / f"{name}.safetensors"
    kills = sum(killed(name, path, rng.uniform(0, longest)) for _ in range(KILLS))
    size = path.stat().st_size
    found = samplers.cell(target.__name__, target(), name, partial(sampler, checkpoint=path))
    leftovers = sorted(other.name for other in folder.iterdir() if other != path)
    return (*found[:10], kills, f"{size / 2**20:.1f}", len(leftovers), found[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", choices=list(RUNS))
    parser.add_argument("--path", type=Path)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    if options.child:
        child(options.child, options.path)
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/jax"  # else each process compiles anew
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        runs = Path(folder) / "runs"
        runs.mkdir()
        rows = [row(name, runs, rng) for name in RUNS]
    head = "|".join(samplers.HEAD.split("|")[:10]) + "|kills before the end|MiB|files of killed writes|it says"
    origins = origin("python benchmarks/kill.py", "pocomc", "emcee")
    publish(["# Runs that are killed\n", origins, __doc__.split("\n\n", 1)[1], table(head, rows)], options.output)


if __name__ == "__main__":
    main()
