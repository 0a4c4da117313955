"""How emcee fails in the second stage, and what it says of it.

The closed-form twin, gamma+p first: a flow learns its posterior, and gamma+Pb follows. The posterior of the second
stage has two modes, one on the far side of the learned prior. The same density is handed to emcee in the usual ways and
in this package's, with the same walkers and steps, and each run is compared with the joint fit of both systems, by
tempered Monte Carlo. So is the row sample_blackjax: what is wrong there is the flow's, not emcee's. "Usual": the second
half of the steps is kept, as is customary where nobody looks at the autocorrelation time. The mode's weight is that of
Lambda_QCD > 0.06.
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
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior import twin
from numpyro_flowprior.chains.autocorrelation import LONG_ENOUGH, ensemble_time

WALKERS = 64
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


def with_flow(density: fp.ModelDensity, steps: int) -> tuple[fp.Chain, tuple[Any, ...]]:
    """Returns the same with proposals from a flow trained on a first run of a fifth of the steps."""
    first, _ = ours(density, steps // 5, "prior")
    flow = fp.fit_flow(jax.random.key(4), first, *SETTINGS, progress=False).prior
    return ours(density, steps - steps // 5, flow)


SETTINGS = (fp.FlowConfig(layers=3), fp.TrainConfig(learning_rate=4e-3, max_steps=1500))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="steps of each run of emcee")
    parser.add_argument("--particles", type=int, default=3000, help="of the tempered runs")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # verdicts are in the table
    uniform, rng = fp.UniformPrior(twin.SPACE), np.random.default_rng(0)
    tempered = partial(fp.sample_blackjax, n_particles=options.particles, progress=False)
    one = tempered(jax.random.key(0), fp.ModelDensity(model, uniform, ("gamma_p",)))
    joint = tempered(jax.random.key(1), fp.ModelDensity(model, uniform, ("gamma_p", "gamma_Pb")))
    prior = fp.fit_flow(jax.random.key(2), one, *SETTINGS, progress=False).prior
    density = fp.ModelDensity(model, prior, ("gamma_Pb",))

    low, high = density.bounds.T
    best = one.samples[np.argmax(one.log_prob)]
    ball = best + 1e-2 * (high - low) * rng.normal(size=(WALKERS, density.dim))
    box = rng.uniform(low, high, size=(WALKERS, density.dim))
    runs = {
        "usual, a ball around stage one's best": lambda: usual(density, ball, options.steps),
        "usual, uniform in the box": lambda: usual(density, box, options.steps),
        "ours, stretch moves alone": lambda: ours(density, options.steps, None),
        "ours, half of the moves from the prior": lambda: ours(density, options.steps, "prior"),
        "ours, half from a flow on a first run": lambda: with_flow(density, options.steps),
    }
    rows = []
    for name, run in runs.items():
        start = time.perf_counter()
        chain, facts = run()
        rows.append((name, *facts, *against(joint, chain), f"{time.perf_counter() - start:.0f}"))
        print(rows[-1], flush=True)
    start = time.perf_counter()
    two = tempered(jax.random.key(5), density)
    verdict = "converged" if two.info["converged"] else "not converged"
    facts = ("", f"{two.info['acceptance'][-1]:.2f}", verdict, "")
    rows.append(("sample_blackjax", *facts, *against(joint, two), f"{time.perf_counter() - start:.0f}"))
    rows.append(("(joint fit)", "", f"{joint.info['acceptance'][-1]:.2f}", "", "", "", against(joint, joint)[1], ""))
    sizes = f"--steps {options.steps} --particles {options.particles}"
    parts = [
        "# emcee in the second stage\n",
        origin(f"python benchmarks/emcee_second_stage.py {sizes}", "emcee", "blackjax"),
        __doc__.split("\n\n", 1)[1],
        table(HEAD, rows),
        f"Log evidence: {one.log_evidence:.2f} + {two.log_evidence:.2f} = {one.log_evidence + two.log_evidence:.2f} "
        f"in two stages, {joint.log_evidence:.2f} +- {joint.log_evidence_error:.2f} jointly.\n",
    ]
    publish(parts, options.output)


def against(joint: fp.Chain, chain: fp.Chain) -> tuple[str, str]:
    """Returns the excess divergence from the joint fit, and the weight of the mode at high Lambda_QCD."""
    found = fp.compare(joint, chain.resample(jax.random.key(6), joint.n))
    above = chain.samples[:, chain.names.index("Lambda_QCD")] > EDGE_OF_MODES
    return f"{found.excess:.3f} +- {found.excess_error:.3f}", f"{chain.probabilities @ above:.2f}"


if __name__ == "__main__":
    main()
