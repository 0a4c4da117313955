"""How many programs JAX compiles, by its own log: for a fit, another, pilots, stages, samplers.

Each line is what was compiled since the line before, small programs (conversions, sums) included; large ones, which
took more than a fifth of a second, are named. A program that is compiled twice under one name in one line is one too
many, unless its architecture or its loss differ.
"""

from __future__ import annotations

import argparse
import logging
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from tables import origin, publish, table

import numpyro_flowprior as fp

_LINE = re.compile(r"Finished XLA compilation of (?:jit\()?(\w+)\)? in ([0-9.]+)")
_LARGE = 0.2  # seconds


class Log(logging.Handler):
    """Keeps the names and seconds of what JAX compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.programs: list[tuple[str, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        found = _LINE.search(record.getMessage())
        if found:
            self.programs.append((found[1], float(found[2])))


def banana(n: int, seed: int, names: str = "abc") -> fp.Chain:
    """Returns draws of three parameters, one bent along another, with their log density."""
    z = np.random.default_rng(seed).standard_normal((n, 3))
    log_p = -0.5 * np.sum(z**2, axis=1)
    z[:, 1] += 0.5 * z[:, 0] ** 2
    return fp.Chain(z, fp.ParameterSpace(list(names)), log_prob=log_p)


def measured(x: str, y: float) -> Callable[[Any], None]:
    """Returns a model with a learned prior, or a flat one to begin with, that measures one of its parameters."""

    def model(prior: Any) -> None:
        theta = numpyro.sample("theta", prior)
        numpyro.sample("y", dist.Normal(theta["abc".index(x)], 0.5), obs=y)

    return model


def stages(folder: Path, seed: int, n: int) -> None:
    """Runs stages of three parameters, sampled with BlackJAX."""
    broad = fp.UniformPrior(fp.ParameterSpace(list("abc"), -3.0, 3.0))
    listed = [fp.Stage(f"stage {k}", measured("abc"[k], 0.3 * k)) for k in range(n)]
    fp.run_stages(
        jax.random.key(seed),
        listed,
        broad,
        sampler=fp.sample_blackjax,
        options=fp.StageOptions(override=True),
        folder=folder,
        progress=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    log, rows = Log(), []
    jax.config.update("jax_log_compiles", True)
    for name in ("jax._src.dispatch", "jax._src.interpreters.pxla", "jax._src.compiler"):
        logging.getLogger(name).propagate = False
    logging.getLogger("jax._src.dispatch").addHandler(log)

    def line(what: str, call: Callable[[], Any]) -> Any:
        log.programs.clear()
        start = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - start
        compiling = sum(s for _, s in log.programs)
        large = Counter(name for name, s in log.programs if s > _LARGE)
        named = ", ".join(f"{name} x {k}" if k > 1 else name for name, k in sorted(large.items())) or "-"
        rows.append((what, len(log.programs), f"{compiling:.1f}", f"{seconds:.1f}", named))
        print(*rows[-1], sep=" | ", flush=True)
        return result

    train, config = fp.TrainConfig(max_steps=1000), fp.FlowConfig(members=3)

    def fit(seed: int, chain: fp.Chain, *settings: Any) -> fp.FlowFit:
        return fp.fit_flow(jax.random.key(seed), chain, *settings, progress=False)

    line("fit_flow by default, 5,000 rows", lambda: fit(0, banana(5000, 0)))
    line("again, of another chain of 5,000", lambda: fit(1, banana(5000, 1)))
    line("of 5,500 rows, other names", lambda: fit(2, banana(5500, 2, "xyz")))
    line("three given flows", lambda: fit(3, banana(5000, 3), config, train))
    line(
        "with another patience, length and rate",
        lambda: fit(3, banana(5000, 3), config, replace(train, patience=5, max_steps=530, learning_rate=1e-3)),
    )
    line("with five members", lambda: fit(3, banana(5000, 3), replace(config, members=5), train))
    with tempfile.TemporaryDirectory() as folder:
        line("run_stages, two stages of 2,000 particles", lambda: stages(Path(folder) / "one", 0, 2))
        line("run_stages, three other ones", lambda: stages(Path(folder) / "three", 1, 3))
    density = fp.ModelDensity(measured("a", 0.1), fp.UniformPrior(fp.ParameterSpace(list("abc"), -3.0, 3.0)))
    for name, sampler in (
        ("nuts", fp.sample_nuts),
        ("blackjax", fp.sample_blackjax),
        ("emcee", fp.sample_emcee),
        ("pocomc", fp.sample_pocomc),
    ):
        line(f"sample_{name}", lambda sampler=sampler: sampler(jax.random.key(0), density, progress=False))
        line(f"sample_{name} again", lambda sampler=sampler: sampler(jax.random.key(1), density, progress=False))
    head = "what|programs compiled|seconds of it|seconds in all|programs that took more than 0.2 s"
    parts = [
        "# What is compiled\n",
        origin("python benchmarks/compilation.py", "blackjax", "emcee", "pocomc"),
        (__doc__ or "").split("\n\n", 1)[1],
        table(head, rows),
    ]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
