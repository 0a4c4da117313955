"""swap_prior: modes that few rows know, a learned prior with a curved edge, and a posterior with a degeneracy.

    python benchmarks/swap.py --output benchmarks/results/swap.md

"two modes": normal modes in three parameters under a flat prior. A few rows are in the second one, and the new prior
lifts its share to 0.16. "disk": the old prior is flat in a disk and is known by its draws only, as a flow. The
posterior of two measurements leans on the edge. "gamma_Pb": the J/psi twin, 1,500 of its rows, and a new prior that is
narrow in two parameters.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal, norm
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.examples import twin

HEAD = (
    "case|rows|seed|exact share|share of rows, reweighted|share by swap_prior|largest error of a mean [sigma]|"
    "mass beyond the edge|effective rows|Pareto k|method|seconds"
)
CENTRES, WIDTHS, TARGET = (-4.0, 5.0), (1.0, 0.7), 0.16
DIM = 3
RADIUS, MEASURED, ERROR = 1.0, np.array([0.8, 0.5]), 0.3
ALONG = np.array([-0.2, 1.0])  # centre of the new prior of the disk, also at its edge
NARROW = {"disk": 0.2, "gamma_Pb": 0.2}  # width of the new prior; of gamma_Pb relative to the bounds
CUT = 2  # parameters of gamma_Pb with a narrow prior


@dataclass(frozen=True)
class Case:
    """An analysis, another prior, and the exact answer.

    Attributes:
        chain: rows under the old prior.
        old, new: the priors.
        mean, deviation: exact ones under the new prior, (d,).
        share: exact mass of the region under the new prior; None if the case has no modes.
        region: whether points (n, d) are in it.
        outside: whether points (n, d) are where the old prior is zero.
    """

    chain: fp.Chain
    old: Any
    new: Any
    mean: np.ndarray
    deviation: np.ndarray
    share: float | None = None
    region: Any = None
    outside: Any = None


def two_modes(seed: int, *, known: bool) -> Case:
    """Returns the case in which about six of 2,000 rows are in the second mode, with or without log densities."""
    rng, share = np.random.default_rng(seed), 0.003
    second = rng.uniform(size=2000) < share
    centre, width = (np.where(second, *pair[::-1])[:, None] for pair in (CENTRES, WIDTHS))
    space = fp.ParameterSpace([f"x{j}" for j in range(DIM)], -10.0, 10.0)
    rows = rng.normal(centre, width, (2000, DIM))
    log_modes = [norm(c, w).logpdf(rows).sum(1) for c, w in zip(CENTRES, WIDTHS, strict=True)]
    log_prob = logsumexp(np.stack(log_modes) + np.log([[1 - share], [share]]), axis=0) if known else None
    chain = fp.Chain(rows, space, rows="independent", log_prob=log_prob)

    def weights(middle: float) -> np.ndarray:
        """Log weight of each mode under a normal prior of width 4 in the first parameter."""
        new = [norm(middle, np.hypot(4.0, w)).logpdf(c) for c, w in zip(CENTRES, WIDTHS, strict=True)]
        return np.log([1 - share, share]) + new

    places = np.linspace(-10.0, 60.0, 7001)
    shares = np.array([expit(np.subtract(*weights(place)[::-1])) for place in places])
    middle = places[np.argmin(np.abs(shares - TARGET))]
    log_w = weights(middle)
    p = np.exp(log_w - logsumexp(log_w))
    precision = 1 / np.square(WIDTHS) + np.array([[1 / 16.0], [0.0], [0.0]])  # (d, modes)
    means = (np.divide(CENTRES, np.square(WIDTHS)) + np.array([[middle / 16.0], [0.0], [0.0]])) / precision
    mean = means @ p
    deviation = np.sqrt((1 / precision + means**2) @ p - mean**2)
    new = {"x0": dist.Normal(middle, 4.0), **{f"x{j}": dist.Uniform(-10.0, 10.0) for j in range(1, DIM)}}
    return Case(chain, fp.UniformPrior(space), new, mean, deviation, float(p[1]), lambda x: x.mean(1) > 0.0)


def disk(seed: int) -> Case:
    """Returns the case of a prior that is flat in a disk, known by 20,000 draws."""
    rng = np.random.default_rng(seed)
    space = fp.ParameterSpace(["x", "y"])
    likelihood = multivariate_normal(MEASURED, ERROR**2 * np.eye(2))

    def inside(x: np.ndarray) -> np.ndarray:
        return (x**2).sum(-1) < RADIUS**2

    box = rng.uniform(-RADIUS, RADIUS, (200_000, 2))
    draws = box[inside(box)]
    kept = draws[rng.uniform(size=len(draws)) < likelihood.pdf(draws) / likelihood.pdf(MEASURED)]
    old = fp.fit_flow(jax.random.key(seed), fp.Chain(draws[:20_000], space, rows="independent"), progress=False).prior
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 1001)]), -1).reshape(-1, 2)
    w = np.where(inside(grid), likelihood.pdf(grid) * norm(ALONG, NARROW["disk"]).pdf(grid).prod(1), 0.0)
    mean = w @ grid / w.sum()
    new = {name: dist.Normal(middle, NARROW["disk"]) for name, middle in zip(space.names, ALONG, strict=True)}
    deviation = np.sqrt(w @ (grid - mean) ** 2 / w.sum())
    chain = fp.Chain(kept[:4000], space, rows="independent")
    return Case(chain, old, new, mean, deviation, outside=lambda x: ~inside(x))


def gamma_pb(seed: int) -> Case:
    """Returns the case of the twin's gamma_Pb, from 1,500 rows."""
    space, lower, upper = twin.SPACE, np.array(twin.SPACE.lower), np.array(twin.SPACE.upper)
    middle, width = 0.4 * lower + 0.6 * upper, NARROW["gamma_Pb"] * (upper - lower)
    old = {name: dist.Uniform(*space.bounds[j]) for j, name in enumerate(space.names)}
    cut = {
        name: dist.TruncatedNormal(middle[j], width[j], low=lower[j], high=upper[j])
        for j, name in enumerate(space.names[:CUT])
    }
    new = {**old, **cut}

    def model(prior: dict[str, Any]) -> None:
        theta = jnp.stack([numpyro.sample(name, prior[name]) for name in space.names])
        numpyro.factor("data", twin.log_likelihood(theta, "gamma_Pb"))

    before, exact = (
        fp.sample_pocomc(jax.random.key(k), fp.ModelDensity(model, prior), n_total=20_000, progress=False)
        for k, prior in enumerate((old, new))
    )
    rows = before.select(space.names).resample(jax.random.key(seed), 1500)
    exact = exact.select(space.names)

    def lower_mode(x: np.ndarray) -> np.ndarray:
        return x[:, space.names.index("m_JIMWLK")] < 0.44

    share = float(exact.probabilities @ lower_mode(exact.samples))
    deviation = np.sqrt(np.diag(exact.covariance()))
    return Case(rows.replace(space=space), fp.UniformPrior(space), new, exact.mean(), deviation, share, lower_mode)


CASES = {
    "two modes": partial(two_modes, known=False),
    "two modes, log densities known": partial(two_modes, known=True),
    "disk": disk,
    "gamma_Pb": gamma_pb,
}


def row_of(name: str, seed: int) -> Sequence[str]:
    """Returns a row of the table."""
    case = CASES[name](seed)
    start = time.perf_counter()
    found = fp.swap_prior(jax.random.key(seed), case.chain, case.old, case.new, progress=False)
    taken = time.perf_counter() - start
    rows = fp.swap_prior(jax.random.key(seed), case.chain, case.old, case.new, method="reweight", progress=False)
    errors = np.abs(found.mean() - case.mean) / case.deviation

    def mass(chain: fp.Chain, of: Any) -> str:
        return "" if of is None else f"{chain.probabilities @ of(chain.samples):.3f}"

    return (
        name,
        f"{case.chain.n:,}",
        str(seed),
        "" if case.share is None else f"{case.share:.3f}",
        mass(rows, case.region),
        mass(found, case.region),
        f"{errors.max():.3f}",
        mass(found, case.outside),
        f"{found.info['swap_prior']['effective_rows']:.0f}",
        f"{rows.info['psis']['pareto_k']:.2f}",
        found.info["swap_prior"]["method"],
        f"{taken:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in options.cases:
            for seed in range(options.seeds):
                rows.append(row_of(name, seed))
                print(rows[-1], flush=True)
    publish(["# swap_prior\n", origin("python benchmarks/swap.py"), table(HEAD, rows)], options.output)


if __name__ == "__main__":
    main()
