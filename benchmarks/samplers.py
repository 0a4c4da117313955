"""One posterior, every sampler: are their draws those of the exact density, and what do they cost?

Six targets with exact draws and a known evidence. A cell is right if every marginal passes a Kolmogorov-Smirnov test
against exact draws at the effective size that the sampler reports (one in a thousand for all marginals together) and
the log evidence is within three of its errors; with fewer than 200 effective draws no test has power. Wrong cells are
printed like the others, beside what the sampler itself says of its run. Excess KL: of 20-bin marginals of parameters
and pairs, above the floor of as many exact draws, nats. Mode: the share of the lower one, where there are two, less the
exact one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from exactness import ENOUGH, beside, ran, verdict
from scipy.stats import beta
from tables import origin, publish, table

import numpyro_flowprior as fp

EXACT = 200_000
HEAD = "|".join(
    [
        "target|sampler|right|smallest p|marginal|mean [sigma]|width|excess KL|mode|log Z - exact",
        "effective draws|calls|seconds|it says",
    ]
)


class Target(NamedTuple):
    """A model, exact draws of its posterior (n, d), and its log evidence."""

    model: Callable[[], None]
    draws: np.ndarray
    log_evidence: float


def gaussian() -> Target:
    """Five dimensions, prior and likelihood normal, correlations of 0.9."""
    covariance = 0.1 * np.eye(5) + 0.9
    total = np.linalg.inv(np.eye(5) + np.linalg.inv(covariance))
    y = np.linspace(-1.0, 1.0, 5)

    def model() -> None:
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
        numpyro.sample("y", dist.MultivariateNormal(theta, covariance), obs=y)

    mean = total @ np.linalg.solve(covariance, y)
    draws = np.random.default_rng(0).multivariate_normal(mean, total, EXACT)
    evidence = dist.MultivariateNormal(np.zeros(5), covariance + np.eye(5)).log_prob(y)
    return Target(model, draws, float(evidence))


def in_box(lower: Any, upper: Any, log_density: Callable[[jax.Array], jax.Array], draws: np.ndarray) -> Target:
    """A flat prior on a box times a normalised density, all of which is inside."""
    space = fp.ParameterSpace([f"p{j}" for j in range(draws.shape[1])], lower, upper)

    def model() -> None:
        numpyro.factor("target", log_density(numpyro.sample("theta", fp.UniformPrior(space))))

    return Target(model, draws, -float(np.log(np.diff(space.bounds, axis=1)).sum()))


def bounded() -> Target:
    """Three independent beta distributions, two of them infinite at a bound."""
    shapes = np.array([[0.7, 3.0], [2.0, 0.8], [1.0, 5.0]])
    draws = beta.rvs(*shapes.T, size=(EXACT, 3), random_state=0)
    return in_box(0.0, 1.0, lambda theta: dist.Beta(*shapes.T).log_prob(theta).sum(), draws)


def banana() -> Target:
    """y around x^2, twice."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, EXACT, 2))
    draws = np.concatenate([x, x**2 + 0.3 * z], axis=1)

    def log_density(theta: jax.Array) -> jax.Array:
        x, y = theta[:2], theta[2:]
        return dist.Normal(0.0, 1.0).log_prob(x).sum() + dist.Normal(x**2, 0.3).log_prob(y).sum()

    return in_box([-6.0, -6.0, -4.0, -4.0], [6.0, 6.0, 40.0, 40.0], log_density, draws)


def modes() -> Target:
    """Two modes in five dimensions, 13 deviations apart, with weights 0.3 and 0.7."""
    rng = np.random.default_rng(0)
    centre = np.where(rng.random(EXACT) < 0.3, -3.0, 3.0)
    draws = centre[:, None] + rng.normal(size=(EXACT, 5))

    def log_density(theta: jax.Array) -> jax.Array:
        parts = [jnp.log(w) + dist.Normal(m, 1.0).log_prob(theta).sum() for w, m in ((0.3, -3.0), (0.7, 3.0))]
        return jnp.logaddexp(*parts)

    return in_box(-10.0, 10.0, log_density, draws)


def funnel() -> Target:
    """Neal's funnel, four scales of one logarithm; no data."""
    rng = np.random.default_rng(0)
    v = 2.0 * rng.normal(size=(EXACT, 1))
    draws = np.concatenate([v, np.exp(v / 2) * rng.normal(size=(EXACT, 4))], axis=1)

    def model() -> None:
        v = numpyro.sample("v", dist.Normal(0.0, 2.0))
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)).expand([4]).to_event(1))
        numpyro.factor("nothing", jnp.zeros(()))

    return Target(model, draws, 0.0)


def learned(path: Path) -> Target:
    """The flow of a bimodal chain whose mass sits on the edges of its box, as a target on the flat prior."""
    prior = fp.fit_flow(jax.random.key(0), fp.read_chain(path), progress=False).prior
    with jax.enable_x64(True):
        draws = np.concatenate([np.asarray(prior.sample(jax.random.key(k), (EXACT // 10,))) for k in range(10)])
    return in_box(prior.space.lower, prior.space.upper, prior.log_prob, draws)


SAMPLERS = {
    "pocoMC": partial(fp.sample_pocomc, n_total=4096),
    "pocoMC, its own flow (maf3)": partial(fp.sample_pocomc, n_total=4096, flow="maf3"),
    "emcee": partial(fp.sample_emcee, max_steps=10_000),
    "emcee, proposals from the prior": partial(fp.sample_emcee, max_steps=10_000, proposal="prior"),
    "NUTS": fp.sample_nuts,
    "BlackJAX, tempered": fp.sample_blackjax,
    "dynesty": fp.sample_dynesty,
    "nautilus": fp.sample_nautilus,
}


def cell(name: str, target: Target, label: str, sampler: Callable[..., fp.Chain]) -> tuple[Any, ...]:
    """Returns the row of one sampler on one target."""
    chain, seconds, says = ran(sampler, fp.ModelDensity(target.model))
    marginals = beside(chain, target.draws, len(target.draws))
    right, evidence = marginals.agree, ""
    if chain.log_evidence is not None and chain.log_evidence_error is not None:
        off = chain.log_evidence - target.log_evidence
        right = right and abs(off) <= 3 * chain.log_evidence_error
        evidence = f"{off:+.3f} +- {chain.log_evidence_error:.3f}"
    cost = f"{chain.effective_size:,.0f}", f"{chain.info['calls']:,}", f"{seconds:.0f}"
    found = *marginals.worst(chain.names), *divergence(chain, target.draws), evidence
    return (name, label, verdict(chain, right), *found, *cost, says)


def divergence(chain: fp.Chain, draws: np.ndarray) -> tuple[str, str]:
    """Returns the excess divergence of a chain from exact draws (n, d), and the difference of a mode's share."""
    if chain.effective_size < ENOUGH:
        return "", ""
    exact = fp.Chain(draws[::10], chain.space)
    modes = fp.compare(exact, fp.Chain(draws[5::10], chain.space), bins=20, repeats=1, classify=False).modes[:1]
    found = fp.compare(exact, chain, bins=20, modes={mode.parameter: mode.cuts for mode in modes}, classify=False)
    shares = [
        f"{mode.b[0] - mode.a[0]:+.3f} +- {np.hypot(mode.a_error[0], mode.b_error[0]):.3f}" for mode in found.modes
    ]
    return f"{found.excess:.3f} +- {found.excess_error:.3f}", "".join(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with chain_boundary_pb.npz")
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    targets = {"Gaussian": gaussian, "bounded": bounded, "banana": banana, "two modes": modes, "funnel": funnel}
    targets["boundary_pb"] = partial(learned, options.data / "chain_boundary_pb.npz")
    rows = []
    for name, make in targets.items():
        target = make()
        for label in options.samplers:
            rows.append(cell(name, target, label, SAMPLERS[label]))
            print(rows[-1], flush=True)
    head = origin(
        "python benchmarks/samplers.py --data <folder>", "pocomc", "emcee", "blackjax", "dynesty", "nautilus-sampler"
    )
    publish(["# Samplers against exact draws\n", head, __doc__.split("\n\n", 1)[1], table(HEAD, rows)], options.output)


if __name__ == "__main__":
    main()
