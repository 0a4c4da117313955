"""Parameters that float32 cannot hold: are densities and draws what the chain says, whatever its scale?

    python benchmarks/resolution.py --output benchmarks/results/resolution.md

A normal chain of one parameter, learnt by a flow that holds it exactly. Distinct values among 5,000 draws; the largest
error of the log density at the chain's rows within three standard deviations; the width of a posterior that has half of
the prior's variance, by this package's NUTS and by NumPyro's: all as somebody finds them who has not asked JAX for
float64, and then as somebody who has.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
from scipy.stats import norm
from tables import origin, publish, table

import numpyro_flowprior as fp

INF = np.inf
CASES = {
    "of order one": (1.0, 0.1, (-INF, INF)),
    "epoch, GPS seconds": (1187008882.43, 1e-3, (-INF, INF)),
    "the same between bounds of 0.1 s": (1187008882.43, 1e-3, (1187008882.33, 1187008882.53)),
    "Julian date, 30 s": (2458849.5, 30.0 / 86400.0, (-INF, INF)),
    "period, days": (3.52474859, 3.8e-7, (-INF, INF)),
    "the same, positive": (3.52474859, 3.8e-7, (0.0, INF)),
    "energy, erg": (1e52, 1e51, (-INF, INF)),
    "strain": (1e-40, 1e-41, (-INF, INF)),
    **{f"1 +- 1e-{decade}": (1.0, 10.0**-decade, (-INF, INF)) for decade in range(2, 12)},
}
DRAWS = 5000
SHAPE = fp.FlowConfig(layers=0, base="normal"), fp.TrainConfig(max_steps=1, eval_every=1)


def model(prior: Any, mean: float, deviation: float) -> None:
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal((theta[0] - mean) / deviation, 1.0), obs=0.0)


def width(run: Any, mean: float, deviation: float) -> str:
    """Returns a posterior's standard deviation over the exact one, or what came in its place."""
    try:
        draws = np.asarray(run(), np.float64)
    except (ValueError, RuntimeError, FloatingPointError) as error:
        return f"refused: {type(error).__name__}"
    return f"{np.std(draws - mean) / deviation * np.sqrt(2.0):.2f}"


def numpyros(prior: Any, mean: float, deviation: float) -> Any:
    run = MCMC(NUTS(model), num_warmup=300, num_samples=1000, progress_bar=False)
    run.run(jax.random.key(0), prior, mean, deviation)
    return run.get_samples()["theta"]


def row(name: str, mean: float, deviation: float, bounds: tuple[float, float]) -> tuple[str, ...]:
    """Returns a table's row, in the precision that holds here."""
    rows = mean + deviation * norm.ppf((np.arange(DRAWS) + 0.5) / DRAWS)[np.random.default_rng(0).permutation(DRAWS)]
    chain = fp.Chain(rows[:, None], fp.ParameterSpace(["t"], *bounds))
    try:
        prior = fp.fit_flow(jax.random.key(0), chain, *SHAPE, progress=False).prior
    except ValueError as error:
        return (name, f"refused: {str(error)[:60]}")
    with jax.enable_x64(True):
        exact = np.asarray(prior.log_prob(chain.samples))
    middle = np.abs(rows - mean) < 3 * deviation
    error = np.abs(np.asarray(prior.log_prob(chain.samples), np.float64) - exact)[middle].max()
    draws = np.asarray(prior.sample(jax.random.key(1), (DRAWS,)))
    density = fp.ModelDensity(model, prior, mean, deviation)
    ours = width(lambda: fp.sample_nuts(jax.random.key(0), density, progress=False).samples, mean, deviation)
    return (
        name,
        str(len(np.unique(draws))),
        f"{error:.1g}",
        ours,
        width(lambda: numpyros(prior, mean, deviation), mean, deviation),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--single", action="store_true", help="float32 alone")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = ["# Resolution\n", origin("python benchmarks/resolution.py")]
    for title, double in (("JAX as it comes: float32", False), ("JAX asked for float64", True))[: 2 - options.single]:
        rows = []
        for name, case in CASES.items():
            with jax.enable_x64(double):
                rows.append(row(name, *case))
            print(*rows[-1], sep=" | ", flush=True)
        head = f"parameter|distinct among {DRAWS} draws|error of log density, nats"
        head += "|width, sample_nuts|width, NumPyro's NUTS"
        parts += [f"## {title}\n", table(head, rows)]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
