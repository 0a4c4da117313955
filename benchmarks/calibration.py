"""Is the two-stage path calibrated? Simulation-based calibration, and what it would have noticed.

Each data set begins with a truth drawn from the first prior. Its first half is analysed (stage one), a flow is trained
on the draws, and its second half, which says little beside the first, is analysed with that flow as the prior (stage
two). If everything is right, the rank of the truth among the draws of stage two is uniform, for any quantity. Here:
each parameter, the log prior density and the log likelihood (Modrak et al. 2023). Uniform: Kolmogorov-Smirnov; and
since too wide or narrow a prior is what a flow may do wrong, the ranks of the log prior are turned into chi^2 scores,
whose sum is the most powerful statistic against a wrong scale of a Gaussian. One alarm is a p-value below 1 %
over the number of tests: false ones come in at most 1 % of such tables' rows.

"Weights": both stages by importance weights of 300,000 and 4,000 draws, which are exact and cheap; three parameters.
"Fifteen": fifteen parameters, whose chi^2 says more of a scale than that of three; stage one's draws are exact, stage
two by 4,000 weights. "emcee": both stages by sample_emcee, three parameters. "10 % too wide": the same flows, stretched
about their mean by 1.1, must be caught.

Sources: Talts et al. (2018), arXiv:1804.06788; Modrak et al. (2023), arXiv:2211.02383.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.stats import chi2, kstest, norm
from tables import origin, publish, table

import numpyro_flowprior as fp

SPACE = fp.ParameterSpace(["a", "b", "c"])
QUANTITIES = (*SPACE.names, "log prior", "log likelihood")
FIRST_ERROR, SECOND_ERROR = 0.4, 1.6  # the second half of the data has about a tenth of the information
PRIOR_DRAWS, ROWS, DRAWS = 300_000, 2000, 4000
CONFIG = fp.FlowConfig(layers=2, hidden=(16,), base="normal")
TRAIN = fp.TrainConfig(learning_rate=5e-3, batch_size=512, max_steps=600, patience=5)
STRETCH = 1.1
FALSE_ALARM = 0.01  # of all tests of a row together
ALARM = FALSE_ALARM / (len(QUANTITIES) + 1)
POWER = 0.9
MANY = fp.ParameterSpace([f"p{j}" for j in range(15)])


def first(theta: Any) -> Any:
    """What the first half of the data measures: a curved version of the parameters."""
    a, b, c = theta[..., 0], theta[..., 1], theta[..., 2]
    return jnp.stack([a, b + 0.5 * (a**2 - 1.0), c + 0.5 * a * b], axis=-1)


def second(theta: Any) -> Any:
    """What the second half measures."""
    a, b, c = theta[..., 0], theta[..., 1], theta[..., 2]
    return jnp.stack([a + b, b - c, a * c], axis=-1)


@jax.jit
def simulate(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a truth from the first prior, and both halves of its data, (3,) each."""
    keys = jax.random.split(key, 3)
    truth, *noise = (jax.random.normal(k, (3,)) for k in keys)
    return truth, first(truth) + FIRST_ERROR * noise[0], second(truth) + SECOND_ERROR * noise[1]


@jax.jit
def stage_one(key: jax.Array, y: jax.Array) -> jax.Array:
    """Returns draws (ROWS, 3) of the first posterior, by importance."""
    key_draws, key_rows = jax.random.split(key)
    draws = jax.random.normal(key_draws, (PRIOR_DRAWS, 3))
    log_weights = -0.5 * jnp.sum(((first(draws) - y) / FIRST_ERROR) ** 2, axis=-1)
    cumulative = jnp.cumsum(jnp.exp(log_weights - log_weights.max()))
    return draws[jnp.searchsorted(cumulative, cumulative[-1] * jax.random.uniform(key_rows, (ROWS,)))]


@partial(jax.jit, static_argnames="measured")
def stage_two(
    key: jax.Array, prior: fp.FlowPrior, y: jax.Array, truth: jax.Array, stretch: Any, measured: Any = second
) -> jax.Array:
    """Returns the truth's rank in (0, 1) of each quantity, by importance, under a prior stretched about its mean."""
    flow_draws = prior.sample(key, (DRAWS,))
    mean = flow_draws.mean(axis=0)
    points = jnp.concatenate([truth[None], mean + stretch * (flow_draws - mean)])
    log_prior = prior.log_prob(mean + (points - mean) / stretch)
    log_likelihood = -0.5 * jnp.sum(((measured(points) - y) / SECOND_ERROR) ** 2, axis=-1)
    quantities = jnp.concatenate([points, log_prior[:, None], log_likelihood[:, None]], axis=1)
    return ranks(quantities[1:], jax.nn.softmax(log_likelihood[1:]), quantities[0])


@jax.jit
def simulate_many(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a truth of many parameters, and both halves of its data, (15,) each."""
    keys = jax.random.split(key, 3)
    z, *noise = (jax.random.normal(k, (MANY.dim,)) for k in keys)
    truth = curved(z)
    return truth, z + FIRST_ERROR * noise[0], second_many(truth) + SECOND_ERROR * noise[1]


def curved(z: Any) -> Any:
    """Returns parameters (..., 15) of normal coordinates z, each along a parabola of the one before."""
    return z.at[..., 1:].add(0.3 * (z[..., :-1] ** 2 - 1.0))


def second_many(theta: Any) -> Any:
    """What the second half of the data measures of many parameters."""
    return (theta + jnp.roll(theta, 1, axis=-1)) / np.sqrt(2.0)


@jax.jit
def stage_one_many(key: jax.Array, y: jax.Array) -> jax.Array:
    """Returns exact draws (ROWS, 15) of the first posterior: z is normal, before the data and after."""
    shrunk = 1.0 / (1.0 + FIRST_ERROR**2)
    return curved(shrunk * y + np.sqrt(shrunk) * FIRST_ERROR * jax.random.normal(key, (4 * ROWS, MANY.dim)))


def ranks(draws: Any, weights: Any, truth: Any) -> Any:
    """Returns the weight of draws (n, k) below the truth (k,), kept inside (0, 1) by half a draw."""
    return jnp.clip(weights @ (draws < truth), 0.5 / len(draws), 1.0 - 0.5 / len(draws))


def scores(rank: Any, dim: int) -> np.ndarray:
    """Returns standardised chi^2 scores of ranks of a log density: above zero where the truth is too far out."""
    return (chi2(dim).isf(rank) - dim) / np.sqrt(2.0 * dim)


def p_values(found: np.ndarray) -> dict[str, float]:
    """Returns the p-value of each test, from ranks (n, d + 2) of d parameters, log prior and log likelihood."""
    names = [*(f"parameter {j}" for j in range(found.shape[1] - 2)), "log prior", "log likelihood"]
    tests = {name: float(kstest(column, "uniform").pvalue) for name, column in zip(names, found.T, strict=True)}
    return {**tests, "scale": float(2.0 * norm.sf(abs(np.sqrt(len(found)) * prior_scores(found).mean())))}


def prior_scores(found: np.ndarray) -> np.ndarray:
    """Returns the scores (n,) of the ranks of the log prior."""
    return scores(found[:, -2], found.shape[1] - 2)


def alarm(found: np.ndarray) -> float:
    """Returns the p-value of one test that is an alarm."""
    return FALSE_ALARM / (found.shape[1] + 1)


def caught(found: np.ndarray) -> bool:
    """Returns whether any test of ranks (n, quantities) is an alarm."""
    return min(p_values(found).values()) < alarm(found)


def needed(found: np.ndarray) -> int:
    """Returns how many data sets the test of the scale takes to notice what these ranks have, 9 times out of 10."""
    z = prior_scores(found)
    return int(np.ceil(((norm.isf(alarm(found) / 2.0) + norm.ppf(POWER) * z.std()) / z.mean()) ** 2))


def learnt(key: jax.Array, rows: Any, space: fp.ParameterSpace = SPACE) -> fp.FlowPrior:
    """Returns the flow of stage one's draws."""
    return fp.fit_flow(key, fp.Chain(np.asarray(rows, float), space), CONFIG, TRAIN, progress=False).prior


def by_weights(seed: int, stretch: float = STRETCH) -> np.ndarray:
    """Returns the ranks of one data set with the flow as it is, and stretched, (2, quantities)."""
    keys = jax.random.split(jax.random.key(seed), 4)
    truth, y_first, y_second = simulate(keys[0])
    prior = learnt(keys[1], stage_one(keys[2], y_first))
    return np.stack([stage_two(keys[3], prior, y_second, truth, s) for s in (1.0, stretch)])


def of_many(seed: int, stretch: float = STRETCH) -> np.ndarray:
    """Returns the same of fifteen parameters."""
    keys = jax.random.split(jax.random.key(seed), 4)
    truth, y_first, y_second = simulate_many(keys[0])
    prior = learnt(keys[1], stage_one_many(keys[2], y_first), MANY)
    return np.stack([stage_two(keys[3], prior, y_second, truth, s, measured=second_many) for s in (1.0, stretch)])


def first_model(y: Any) -> None:
    theta = numpyro.sample("theta", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(first(theta), FIRST_ERROR), obs=y)


def second_model(prior: Any, y: Any) -> None:
    numpyro.sample("y", dist.Normal(second(numpyro.sample("theta", prior)), SECOND_ERROR), obs=y)


def by_emcee(seed: int) -> np.ndarray:
    """Returns the ranks of one data set, (quantities,), both stages sampled by emcee."""
    keys = jax.random.split(jax.random.key(seed), 5)
    truth, y_first, y_second = (np.asarray(part, float) for part in simulate(keys[0]))
    sampler = partial(fp.sample_emcee, n_walkers=40, max_steps=3000, progress=False)
    one = sampler(keys[2], fp.ModelDensity(first_model, y_first))
    density = fp.ModelDensity(second_model, learnt(keys[1], one.resample(keys[4], ROWS).samples), y_second)
    two = sampler(keys[3], density)
    parts = [np.ravel(part) for part in density.log_prior_and_likelihood(truth[None])]
    draws = np.column_stack([two.samples, two.log_prior, two.log_likelihood])
    return np.asarray(ranks(draws, two.probabilities, np.concatenate([truth, *parts])))


def row(label: str, found: np.ndarray, seconds: float) -> tuple[Any, ...]:
    """Returns the table's row of ranks (n, quantities)."""
    tests = p_values(found)
    *parameters, log_prior, log_likelihood, scale = tests.values()
    verdict = "**caught**" if caught(found) else "passes"
    z = prior_scores(found)
    mean = f"{z.mean():+.3f} +- {z.std() / np.sqrt(len(z)):.3f}"
    least = f"{min(parameters):.1e} of {len(parameters)}"
    numbers = f"{log_prior:.1e}", f"{log_likelihood:.1e}", f"{scale:.1e}"
    enough = f"{needed(found):,}" if caught(found) else ""
    return (label, len(found), verdict, least, *numbers, mean, enough, f"{seconds:.0f}")


HEAD = (
    "path|data sets|verdict|smallest p of a parameter|log prior|log likelihood|scale|mean score|"
    "data sets that the scale's test needs|seconds"
)


def both_ways(label: str, analyse: Any, sets: int) -> list[tuple[Any, ...]]:
    """Returns the rows of a path, with flows as they are and stretched."""
    start = time.perf_counter()
    both = np.stack([analyse(seed) for seed in range(sets)])
    seconds = time.perf_counter() - start
    rows = [row(label, both[:, 0], seconds), row(f"{label}, 10 % too wide", both[:, 1], seconds)]
    print(*rows, sep="\n", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=int, default=100, help="data sets of fifteen parameters; 0 for none, as below")
    parser.add_argument("--weights", type=int, default=800, help="data sets of three, by importance weights")
    parser.add_argument("--emcee", type=int, default=24, help="data sets of three by emcee, half a minute each")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # two hundred remarks on short chains
    rows: list[tuple[Any, ...]] = []
    for label, analyse, sets in (("fifteen", of_many, options.many), ("weights", by_weights, options.weights)):
        rows += both_ways(label, analyse, sets) if sets else []
    if options.emcee:
        start = time.perf_counter()
        sampled = np.stack([by_emcee(10_000 + seed) for seed in range(options.emcee)])
        rows.append(row("emcee", sampled, time.perf_counter() - start))
    sizes = f"--many {options.many} --weights {options.weights} --emcee {options.emcee}"
    parts = [
        "# Simulation-based calibration of the two stages\n",
        origin(f"python benchmarks/calibration.py {sizes}", "emcee"),
        __doc__.split("\n\n", 1)[1],
        "p-values; the score is zero on average if the prior's scale is right; seconds of all data sets, both ways "
        "together. The last column but one: data sets in which the test of the scale notices such an error nine "
        "times out of ten.\n",
        table(HEAD, rows),
    ]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
