"""How emcee fails in the second stage, and what it says of it.

The closed-form twin, gamma+p first: a flow learns its posterior, and gamma+Pb follows. The posterior of the second
stage has two modes, one on the far side of the learned prior. The same density is handed to emcee in the usual ways and
in this package's, with the same walkers and steps; each run is compared with sample_pocomc's on that very density, so
that the flow's error is in none of them. "Usual": the second half of the steps is kept, as is customary where nobody
looks at the autocorrelation time. "A flow": trained on 200,000 draws from the learned prior, weighted by the likelihood
of the new data, or a power of it that leaves 500 effective draws; half of the moves are proposals from it. The mode's
weight is that of Lambda_QCD > 0.06.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import emcee
import jax
import numpy as np
import numpyro
from scipy.optimize import brentq
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.chains.autocorrelation import LONG_ENOUGH, ensemble_time
from numpyro_flowprior.examples import twin

WALKERS = 64
FEWEST = 500  # draws, weighted, that a flow of proposals learns from
EDGE_OF_MODES = 0.06  # GeV
HEAD = "run|at -inf, first and last|acceptance|tau [steps]|longer than 50 tau|excess KL [nats]|mode's weight|seconds"


def model(prior: Any, systems: tuple[str, ...]) -> None:
    """Named parameters from a prior, and the exact likelihood of each system."""
    theta = numpyro.sample("theta", prior)
    for system in systems:
        numpyro.factor(system, twin.log_likelihood(theta, system))


def usual(density: fp.ModelDensity, starts: np.ndarray, steps: int) -> tuple[fp.Chain, tuple[Any, ...]]:
    """Returns what emcee gives from starts (walkers, d), stretch moves alone, and what is known of the run."""
    sampler = emcee.EnsembleSampler(len(starts), density.dim, density.log_posterior, vectorize=True)
    state = emcee.State(starts, random_state=np.random.RandomState(0).get_state())
    sampler.run_mcmc(state, steps, skip_initial_state_check=True)
    tau = ensemble_time(sampler.get_chain())
    stuck = [int(np.isinf(sampler.get_log_prob()[step]).sum()) for step in (0, -1)]
    stuck[0] = int(np.isinf(density.log_posterior(starts)).sum())
    kept, log_prob = sampler.get_chain(discard=steps // 2, thin=5), sampler.get_log_prob(discard=steps // 2, thin=5)
    found = np.swapaxes(kept, 0, 1).reshape(-1, density.dim)
    finite = np.isfinite(np.swapaxes(log_prob, 0, 1).ravel())
    facts = (f"{stuck[0]}, {stuck[1]}", f"{sampler.acceptance_fraction.mean():.2f}", f"{tau:.0f}")
    return fp.Chain(found[finite], density.space), (*facts, "yes" if steps > LONG_ENOUGH * tau else "no")


def ours(density: fp.ModelDensity, steps: int, proposal: Any) -> tuple[fp.Chain, tuple[Any, ...]]:
    """Returns what sample_emcee gives, and what it says of the run."""
    share = {} if proposal is None else {"proposal": proposal, "proposal_share": 0.5}
    options = {"n_walkers": WALKERS, "max_steps": steps, "progress": False, **share}
    chain = fp.sample_emcee(jax.random.key(3), density, **options)
    tau, yes = chain.info["autocorrelation_time"], chain.info["converged"]
    return chain, ("0, 0", f"{chain.info['acceptance']:.2f}", f"{tau:.0f}", "yes" if yes else "no")


def proposal_of(density: fp.ModelDensity) -> tuple[Any, float]:
    """Returns a flow trained on prior draws weighted by the likelihood, and their effective number.

    Where they are worth fewer than FEWEST, by that power of the likelihood at which they are worth so many: a broader
    density than the posterior, which proposals may come from.
    """
    draws = density.sample_prior(jax.random.key(4), 200_000)
    log_prior, log_likelihood = density.log_prior_and_likelihood(draws)
    power, worth = 1.0, effective_number(log_likelihood)
    if worth < FEWEST:
        power = float(brentq(lambda power: effective_number(power * log_likelihood) - FEWEST, 1e-6, 1.0, xtol=1e-4))
    weights = np.exp(power * (log_likelihood - log_likelihood.max()))
    kept = weights > 1e-6 * weights.mean()
    log_prob = None if power == 1.0 else (log_prior + power * log_likelihood)[kept]
    chain = fp.Chain(draws[kept], density.space, weights=weights[kept], log_prob=log_prob)
    print(
        f"proposals: power {power:.3f} of the likelihood, {chain.effective_size:.0f} draws; 1: {worth:.0f}", flush=True
    )
    return fp.fit_flow(jax.random.key(6), chain, progress=False).prior, chain.effective_size


def effective_number(log_weights: np.ndarray) -> float:
    """Returns how many draws of equal weight weighted ones are worth."""
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000, help="steps of each run of emcee")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # verdicts are in the table
    uniform, rng = fp.UniformPrior(twin.SPACE), np.random.default_rng(0)
    sampled = partial(fp.sample_pocomc, n_effective=1024, n_active=512, n_total=6000, progress=False)
    one = sampled(jax.random.key(0), fp.ModelDensity(model, uniform, ("gamma_p",)))
    joint = sampled(jax.random.key(1), fp.ModelDensity(model, uniform, ("gamma_p", "gamma_Pb")))
    prior = fp.fit_flow(jax.random.key(2), one, progress=False).prior
    density = fp.ModelDensity(model, prior, ("gamma_Pb",))
    two = sampled(jax.random.key(5), density, n_steps=2 * density.dim)
    print(one, two, joint, flush=True)

    low, high = density.bounds.T
    best = one.samples[np.argmax(one.log_prob)]
    ball = best + 1e-2 * (high - low) * rng.normal(size=(WALKERS, density.dim))
    box = rng.uniform(low, high, size=(WALKERS, density.dim))
    proposal, effective = proposal_of(density)
    runs = {
        "usual, a ball around stage one's best": lambda: usual(density, ball, options.steps),
        "usual, uniform in the box": lambda: usual(density, box, options.steps),
        "ours, stretch moves alone": lambda: ours(density, options.steps, None),
        "ours, half of the moves from the prior": lambda: ours(density, options.steps, "prior"),
        "ours, half of the moves from a flow": lambda: ours(density, options.steps, proposal),
    }
    rows = []
    for name, run in runs.items():
        start = time.perf_counter()
        chain, facts = run()
        rows.append((name, *facts, *against(two, chain), f"{time.perf_counter() - start:.0f}"))
        print(rows[-1], flush=True)
    for name, chain in {"(sample_pocomc, the same density)": two, "(sample_pocomc, joint fit)": joint}.items():
        rows.append((name, "", f"{chain.info['acceptance']:.2f}", "", "", *against(two, chain), ""))
    parts = [
        "# emcee in the second stage\n",
        origin(f"python benchmarks/emcee_second_stage.py --steps {options.steps}", "emcee", "pocomc"),
        __doc__.split("\n\n", 1)[1],
        table(HEAD, rows),
        f"The weighted prior draws that the flow of the proposals learns from are worth {effective:.0f}. Log evidence: "
        f"{one.log_evidence:.2f} + {two.log_evidence:.2f} = {one.log_evidence + two.log_evidence:.2f} in two stages, "
        f"{joint.log_evidence:.2f} +- {joint.log_evidence_error:.2f} jointly.\n",
    ]
    publish(parts, options.output)


def against(reference: fp.Chain, chain: fp.Chain) -> tuple[str, str]:
    """Returns the excess divergence from a reference, and the weight of the mode at high Lambda_QCD.

    Runs that did not converge have no effective size to speak of: as many rows are compared as the reference has.
    """
    above = chain.probabilities @ (chain.samples[:, chain.names.index("Lambda_QCD")] > EDGE_OF_MODES)
    found = fp.compare(reference, chain, bins=20)
    return f"{found.excess:.3f} +- {found.excess_error:.3f}", f"{above:.2f}"


if __name__ == "__main__":
    main()
