"""Effective draws per second from a learned prior: NUTS with and without LatentReparam, pocoMC and emcee.

The model is the prior itself: a flow learnt from boundary_pb (bimodal, with mass on its bounds) or boundary_p (curved,
one mode). Whether the draws are right is judged by the flow's own: the mean of each parameter, in units of its standard
deviation.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import arviz as az
import jax
import numpy as np
import numpyro
from fidelity import read
from numpyro.infer import MCMC, NUTS
from tables import origin, publish, table

import numpyro_flowprior as fp

CHAINS, WARMUP, DRAWS = 4, 500, 1000
ONE_FLOW = fp.FlowConfig(layers=6, hidden=(64,), base="normal")
PRIORS = {
    "boundary_pb, default": ("boundary_pb", None, None),
    "boundary_pb, one flow, normal base": ("boundary_pb", ONE_FLOW, fp.TrainConfig(max_steps=6000, learning_rate=4e-3)),
    "boundary_p, default": ("boundary_p", None, None),
}


def model(prior: fp.FlowPrior) -> None:
    """A posterior that is its prior."""
    numpyro.sample("theta", prior)


def nuts(prior: fp.FlowPrior, reparametrised: bool) -> np.ndarray:
    """Returns draws (chains, draws, d) by NUTS, all chains together by vmap."""
    walked = numpyro.handlers.reparam(model, config={"theta": fp.LatentReparam()}) if reparametrised else model
    mcmc = MCMC(
        NUTS(walked), num_warmup=WARMUP, num_samples=DRAWS, num_chains=CHAINS, chain_method="vectorized",
        progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.PRNGKey(0), prior)
    return np.asarray(mcmc.get_samples(group_by_chain=True)["theta"], float)


def external(sampler: Callable[..., fp.Chain], prior: fp.FlowPrior, **settings: Any) -> fp.Chain:
    """Returns the chain of a sampler behind the bridge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the model observes nothing, on purpose
        return sampler(jax.random.key(1), fp.ModelDensity(model, prior), progress=False, **settings)


def row(name: str, run: Callable[[], Any], exact: np.ndarray) -> tuple[str, ...]:
    """Returns a sampler's line of the table."""
    start = time.perf_counter()
    found = run()
    seconds = time.perf_counter() - start
    if isinstance(found, fp.Chain):
        effective, r_hat = found.effective_size, "-"
        samples, weights = found.samples, found.probabilities
    else:
        data = az.convert_to_dataset(found)
        effective, r_hat = float(az.ess(data).x.min()), f"{float(az.rhat(data).x.max()):.3f}"
        samples = found.reshape(-1, found.shape[-1])
        weights = np.full(len(samples), 1.0 / len(samples))
    off = np.abs(weights @ samples - exact.mean(axis=0)) / exact.std(axis=0)
    print(name, effective, seconds, off.max(), flush=True)
    return name, f"{effective:.0f}", r_hat, f"{seconds:.1f}", f"{effective / seconds:.0f}", f"{off.max():.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the chains")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows = []
    for label, (name, config, train) in PRIORS.items():
        chain = read(options.data, name).replace(log_prob=None)
        prior = fp.fit_flow(jax.random.key(0), chain, config, train, progress=False).prior
        exact = np.asarray(prior.sample(jax.random.key(2), (100_000,)), float)
        runs: dict[str, Callable[[], Any]] = {
            "NUTS": partial(nuts, prior, False),
            "NUTS with LatentReparam": partial(nuts, prior, True),
            "pocoMC": partial(external, fp.sample_pocomc, prior),
            "emcee": partial(external, fp.sample_emcee, prior),
        }
        rows += [(label, *row(sampler, run, exact)) for sampler, run in runs.items()]
    head = "prior|sampler|effective draws|R-hat|seconds|effective draws per second|means off by, standard deviations"
    parts = [
        "# Sampling a learned prior\n",
        origin(f"python benchmarks/latent_space.py --data {options.data}", "pocomc", "emcee", "arviz"),
        f"NUTS: {CHAINS} chains of {DRAWS} draws after {WARMUP} of warm-up, the smallest bulk ESS of a parameter; "
        "pocoMC and emcee with their defaults here. Seconds include compilation.\n",
        table(head, rows),
    ]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
