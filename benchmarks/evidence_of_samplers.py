"""Log evidences of chains of NUTS and emcee, and those of pocoMC and BlackJAX, against exact values.

Eight schools (Rubin 1981; not centred, ten parameters): the effects of the schools are integrated analytically, their
mean and scale by quadrature. First stages of the J/psi twin (seven parameters): importance sampling with a flow, to
0.001 nats.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.integrate import dblquad
from scipy.stats import halfcauchy, norm
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.examples import twin
from numpyro_flowprior.sampling.weighted_draws import weighted_draws

COMMAND = "python benchmarks/evidence_of_samplers.py"
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
SCALE = 5.0  # of the priors of mean and scale


def eight_schools() -> None:
    mu, tau = numpyro.sample("mu", dist.Normal(0.0, SCALE)), numpyro.sample("tau", dist.HalfCauchy(SCALE))
    with numpyro.plate("schools", 8):
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
        numpyro.sample("effects", dist.Normal(mu + tau * raw, jnp.asarray(ERRORS)), obs=EFFECTS)


def exact_of_schools() -> float:
    """Returns the log evidence: mu and s = tau / (1 + tau) by quadrature."""

    def integrand(s: float, mu: float) -> float:
        tau = s / (1.0 - s)
        data = np.exp(norm(mu, np.hypot(tau, ERRORS)).logpdf(EFFECTS).sum() + 30.0)
        return float(data * norm(0.0, SCALE).pdf(mu) * halfcauchy(0.0, SCALE).pdf(tau) / (1.0 - s) ** 2)

    return float(np.log(dblquad(integrand, -40.0, 40.0, 0.0, 1.0 - 1e-9, epsabs=1e-10)[0]) - 30.0)


def stage(system: str) -> None:
    theta = numpyro.sample("theta", fp.UniformPrior(twin.SPACE))
    numpyro.factor("likelihood", twin.log_likelihood(theta, system))


def exact_of_stage(density: fp.ModelDensity) -> float:
    chain = fp.sample_pocomc(jax.random.key(1), density, n_total=20_000, progress=False)
    learned = fp.fit_flow(jax.random.key(2), chain, progress=False).prior
    made = weighted_draws(
        jax.random.key(3), [learned], density.log_posterior, density.space, draws=100_000, progress=False
    )
    assert made is not None
    print(f"{made.log_evidence:.4f} +- {made.log_evidence_error:.4f}", flush=True)
    return float(made.log_evidence)


SAMPLERS: dict[str, Callable[..., fp.Chain]] = {
    "pocoMC": fp.sample_pocomc,
    "BlackJAX": fp.sample_blackjax,
    "NUTS": partial(fp.sample_nuts, n_samples=2000),
    "emcee": partial(fp.sample_emcee, max_steps=20_000),
}


def rows_of(name: str, density: fp.ModelDensity, exact: float, seeds: int) -> list[tuple[str, ...]]:
    rows = []
    for sampler, sample in SAMPLERS.items():
        found: dict[str, list[tuple[float, float]]] = {}
        took, trusted = [], 0
        for seed in range(seeds):
            chain = sample(jax.random.key(seed), density, progress=False)
            if chain.log_evidence is not None:
                found.setdefault("its own", []).append((chain.log_evidence, chain.log_evidence_error))
                trusted += bool(chain.info.get("converged", True))
                continue
            start = time.perf_counter()
            made: Any = fp.evidence(jax.random.key(100 + seed), chain, density, progress=False)
            took.append(time.perf_counter() - start)
            trusted += made.trusted
            for method, estimate in made.estimates.items():
                found.setdefault(method, []).append(estimate)
        for method, each in found.items():
            values, errors = np.transpose(each)
            misses = values - exact
            rows.append(
                (
                    name,
                    sampler,
                    method,
                    f"{misses.mean():+.4f} +- {misses.std() / np.sqrt(seeds):.4f}",
                    f"{np.sqrt(np.mean(misses**2)):.4f}",
                    f"{np.sqrt(np.mean(errors**2)):.4f}",
                    f"{trusted} of {seeds}",
                    f"{np.median(took):.0f}" if took else "",
                )
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--stages", nargs="*", default=["gamma_p", "gamma_Pb"])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = rows_of("eight schools", fp.ModelDensity(eight_schools), exact_of_schools(), options.seeds)
        for system in options.stages:
            density = fp.ModelDensity(stage, system)
            rows += rows_of(f"twin, {system}", density, exact_of_stage(density), options.seeds)
    head = "posterior|chain|method|log evidence - exact|root mean square|stated error|trusted|seconds"
    publish(["# Evidences of chains of several samplers\n", origin(COMMAND), table(head, rows)], options.output)


if __name__ == "__main__":
    main()
