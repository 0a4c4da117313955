"""Nested samplers with a learned prior: calls, seconds, evidence and widths, by sampler and by the map from the cube.

Seven parameters, a prior that `fit_flow` learned with its defaults from 10,600 rows, and three measurements of
nonlinear combinations with errors of 0.3 standard deviations of the prior. Reference: 400,000 prior draws.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from tables import origin, publish, table

import numpyro_flowprior as fp

HEAD = "sampler|prior|calls|seconds|effective size|log evidence - exact|largest shift of a mean [sigma]|widths|verdict"
RNG = np.random.default_rng(5)
DIRECTIONS, DATA, ERROR = RNG.normal(size=(3, 7)), RNG.normal(size=3), 0.3
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)


def model(prior: Any, centre: Any, whitening: Any, y: Any) -> None:
    """Three measurements of nonlinear combinations of whitened parameters."""
    theta = numpyro.sample("theta", prior)
    z = DIRECTIONS @ (whitening @ (theta - centre))
    numpyro.sample("y", dist.Normal(z + 0.2 * jnp.sin(2 * z), ERROR).to_event(1), obs=y)


def density_of(prior: fp.FlowPrior) -> tuple[fp.ModelDensity, dict[str, Any]]:
    """Returns the posterior for a prior, and its exact log evidence, means and widths with Monte Carlo errors."""
    with jax.enable_x64(True):
        draws = np.asarray(prior.sample(jax.random.key(9), (400_000,)))
    centre = draws.mean(axis=0)
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(draws[:20_000].T)))
    density = fp.ModelDensity(model, prior, centre, whitening, DATA)
    log_likelihood = density.log_likelihood(draws)
    weights = np.exp(log_likelihood - log_likelihood.max())
    mean = weights @ draws / weights.sum()
    return density, {
        "log_evidence": float(np.log(weights.mean()) + log_likelihood.max()),
        "mean": mean,
        "width": np.sqrt(weights @ (draws - mean) ** 2 / weights.sum()),
    }


def exact_cube(key: jax.Array, density: fp.ModelDensity, prior: fp.FlowPrior, **options: Any) -> dict[str, Any]:
    """Runs dynesty as a user of another framework would: with `from_unit_cube`, stripes and all."""
    import dynesty

    calls = [0]
    transform = jax.jit(prior.from_unit_cube)

    def log_likelihood(theta: np.ndarray) -> float:
        calls[0] += 1
        return float(density.log_likelihood(theta[None])[0])

    def prior_transform(u: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(transform(u))

    generator = np.random.default_rng(int(jax.random.bits(key)))
    sampler = dynesty.NestedSampler(
        log_likelihood, prior_transform, density.dim, nlive=500, rstate=generator, **options
    )
    sampler.run_nested(print_progress=False)
    chain = fp.read_chain(sampler.results, names=prior.names)
    return {"chain": chain, "calls": calls[0], "verdict": ""}


def packaged(sampler: Callable[..., fp.Chain]) -> Callable[..., dict[str, Any]]:
    """Returns a runner of a sampler of this package."""

    def run(key: jax.Array, density: fp.ModelDensity, prior: fp.FlowPrior, **options: Any) -> dict[str, Any]:
        del prior
        chain = sampler(key, density, progress=False, **options)
        verdict = "converged" if chain.info["converged"] else "not converged"
        return {"chain": chain, "calls": chain.info["calls"], "verdict": verdict}

    return run


RUNS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "sample_dynesty": (packaged(fp.sample_dynesty), {}),
    "sample_nautilus": (packaged(fp.sample_nautilus), {"n_live": 1000, "n_effective": 3000}),
    "sample_pocomc": (packaged(fp.sample_pocomc), {}),
    "dynesty by hand, rwalk": (exact_cube, {"sample": "rwalk"}),
}


def judge(
    name: str, label: str, density: fp.ModelDensity, exact: dict[str, Any], prior: fp.FlowPrior, seed: int
) -> Any:
    """Returns the table's row for one sampler and prior."""
    run, options = RUNS[name]
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run(jax.random.key(seed), density, prior, **options)
    seconds = time.perf_counter() - start
    chain = found["chain"]
    widths = np.sqrt(np.diag(chain.covariance())) / exact["width"]
    shift = np.abs(chain.mean() - exact["mean"]) / exact["width"]
    off = chain.log_evidence - exact["log_evidence"]
    return (
        name,
        label,
        f"{found['calls']:,}",
        f"{seconds:.0f}",
        f"{min(chain.effective_size, chain.info.get('effective_size', np.inf)):.0f}",
        f"{off:+.3f} +- {chain.log_evidence_error:.3f}",
        f"{shift.max():.2f}",
        f"{widths.min():.2f} to {widths.max():.2f}",
        found["verdict"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the chains")
    parser.add_argument("--samplers", nargs="+", default=list(RUNS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    chain = fp.read_chain(options.data / "chain_boundary_p.npz")
    chain = chain.take(slice(0, None, 8)).replace(log_prob=None)
    settings = {
        "mixture of flows (default)": {},
        "one flow": {"config": fp.FlowConfig(layers=4, hidden=(64,), base="normal")},
    }
    rows = []
    for label, given in settings.items():
        prior = fp.fit_flow(jax.random.key(0), chain, progress=False, **given).prior
        density, exact = density_of(prior)
        for name in options.samplers:
            for seed in range(options.seeds):
                rows.append(judge(name, label, density, exact, prior, seed))
                print(rows[-1], flush=True)
    parts = ["# Nested samplers with a learned prior\n", origin(f"python benchmarks/nested.py --data {options.data}")]
    publish([*parts, table(HEAD, rows)], options.output)


if __name__ == "__main__":
    main()
