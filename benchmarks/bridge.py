"""What the bridge costs: log likelihoods a second through ModelDensity and of the compiled function called directly.

Batches of 256 points, float64, NumPy in and NumPy out both ways; the direct call neither checks its points, nor looks
for NaN, nor keeps them inside the support. Models from one whose likelihood takes next to nothing to one with
emulators; the medians of alternating calls in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.examples import twin

BATCH, CALLS = 256, 400
HEAD = "likelihood|direct, microseconds a batch|through the bridge|ratio|largest difference"


def normal(prior: Any) -> None:
    """Seven normal measurements."""
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(theta, 0.1), obs=np.full(7, 0.3))


def closed_form(prior: Any) -> None:
    """The twin's two systems, without emulators."""
    theta = numpyro.sample("theta", prior)
    for system in twin.SYSTEMS:
        numpyro.factor(system, twin.log_likelihood(theta, system))


def with_emulator(prior: Any, likelihood: fp.EmulatorLikelihood) -> None:
    """One system, its emulator trained on 300 runs."""
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", likelihood(theta), obs=likelihood.observed)


def emulated() -> fp.EmulatorLikelihood:
    """Returns the likelihood of a made-up system of 24 outputs in 7 parameters."""
    rng = np.random.default_rng(0)
    space = twin.SPACE
    X = fp.design_points(jax.random.key(0), space, 300)
    unit = (X - np.array(space.lower)) / np.diff(space.bounds, axis=1)[:, 0]
    Y = np.sin(unit @ rng.normal(size=(7, 24))) + unit**2 @ rng.normal(size=(7, 24))
    emulator = fp.GPEmulator.fit(X, Y, space, n_components=8, progress=False)
    return fp.EmulatorLikelihood(emulator, Y[0], 0.05**2 * np.eye(24))


def medians(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float]:
    """Returns the median seconds of two calls that take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(CALLS):
        for call, kept in zip((first, second), times, strict=True):
            start = time.perf_counter()
            call()
            kept.append(time.perf_counter() - start)
    return float(np.median(times[0])), float(np.median(times[1]))


def row(label: str, model: Callable[..., None], *args: Any) -> tuple[Any, ...]:
    """Returns the costs of one model."""
    density = fp.ModelDensity(model, *args)
    points = density.sample_prior(jax.random.key(1), BATCH)

    def at_point(theta: jax.Array) -> jax.Array:
        sites = numpyro.handlers.seed(model, 0)
        values = numpyro.infer.util.compute_log_probs(sites, args, {}, {"theta": theta})[0]
        return sum(value for name, value in values.items() if name != "theta")

    with jax.enable_x64(True):
        compiled = jax.jit(jax.vmap(at_point))
        expected = np.array(compiled(points))

        def direct() -> np.ndarray:
            return np.array(compiled(points))

        apart = np.max(np.abs(density.log_likelihood(points) - expected) / (1 + np.abs(expected)))
        plain, ours = medians(direct, lambda: density.log_likelihood(points))
    return label, f"{1e6 * plain:.0f}", f"{1e6 * ours:.0f}", f"{plain / ours:.2f}", f"{apart:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    prior = fp.UniformPrior(twin.SPACE)
    rows = [
        row("seven normal densities", normal, prior),
        row("the twin's closed form, two systems", closed_form, prior),
        row("an emulator of 24 outputs, 300 runs", with_emulator, prior, emulated()),
    ]
    publish(
        ["# The bridge\n", origin("python benchmarks/bridge.py"), __doc__.split("\n\n", 1)[1], table(HEAD, rows)],
        options.output,
    )


if __name__ == "__main__":
    main()
