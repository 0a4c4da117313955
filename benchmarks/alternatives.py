"""Stage one's posterior as the prior of stage two, by the packages that can do it: what does the joint fit lose?

The closed-form twin in both orders. Every package learns the same first chain; its density q stands in for the exact
first posterior p in the joint posterior. At draws of the joint fit, with p known as a function, what is lost is known
without a second stage's sampler: KL(J || J_q), the log evidence, and the weight that J_q gives to the mode at large
Lambda_QCD. Packages are used as their documentation has it, with the box's bounds where they take bounds:

    mean and covariance   what pymc-extras' prior_from_idata makes of the chain with interval transforms; weighted
    margarine             its RealNVP; it takes bounds and weights. (Its one flow for each cluster: the search for the
                          number of clusters had not ended after twenty minutes, on 9,652 rows)
    flowjax               on equally weighted draws, in our unconstrained, whitened coordinates: it has no bounds
    the paper             its RealNVP by maximum likelihood, without bounds, on equally weighted draws

margarine and flowjax are not among this package's dependencies (`pip install margarine flowjax`).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from fidelity import FLOWJAX, Densities, flowjax_flow
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.diagnostics.posterior_divergence import posterior_divergence
from numpyro_flowprior.examples import twin
from numpyro_flowprior.stages.exact import log_prob_of
from numpyro_flowprior.training.prepare import apply_prepared, prepare
from paper import MODES, PAPER_TRAIN, equally_weighted, first_fit, joint_fit, mode_weight, model, with_error

ORDERS = (("gamma_p", "gamma_Pb"), ("gamma_Pb", "gamma_p"))
LEAST = 60.0  # seconds that flowjax's training is given, again and again at lower rates
EPOCHS, RATE = 60, 1e-3  # of margarine's training: ten times its own rate of 1e-4, which wants its 1000 epochs
HEAD = "prior|lost to the prior [nats]|log evidence|weight of the mode|largest log q - log p|seconds"


def mean_and_covariance(chain: fp.Chain) -> Densities:
    """Returns the Gaussian of the logits of the parameters."""
    prepared = prepare(chain)

    def log_density(theta: np.ndarray) -> np.ndarray:
        at = apply_prepared(fp.Chain(theta, chain.space), prepared.fixed)
        return at.log_det - 0.5 * np.sum(at.x.astype(np.float64) ** 2 + np.log(2 * np.pi), axis=1)

    return log_density


def flowjax(kind: str, chain: fp.Chain) -> Densities:
    """Returns one of flowjax's flows."""
    prepared = prepare(chain)
    x = apply_prepared(equally_weighted(chain), prepared.fixed).x
    flow = flowjax_flow(kind, LEAST)(jax.random.key(1), x)

    def log_density(theta: np.ndarray) -> np.ndarray:
        at = apply_prepared(fp.Chain(theta, chain.space), prepared.fixed)
        return flow(at.x) + at.log_det

    return log_density


def margarine(chain: fp.Chain) -> Densities:
    """Returns margarine's RealNVP."""
    from margarine.estimators.realnvp import RealNVP

    chain = chain.take(chain.probabilities * chain.n > 1e-3)  # rows without weight cost it time
    theta, weights = jnp.asarray(chain.samples, jnp.float32), jnp.asarray(chain.probabilities * chain.n, jnp.float32)
    bounds = jnp.asarray(chain.space.bounds.T)
    estimator = RealNVP(theta, weights=weights, theta_ranges=bounds, in_size=chain.dim)
    estimator.train(key=jax.random.key(0), epochs=EPOCHS, learning_rate=RATE)

    def log_density(theta: np.ndarray) -> np.ndarray:
        return np.asarray(estimator.log_prob(jnp.asarray(theta, jnp.float32)), np.float64)

    return log_density


def ours(chain: fp.Chain, *, known: bool = True) -> Densities:
    """Returns what `fit_flow` makes of the chain, with or without its log density."""
    chain = chain if known else chain.replace(log_prob=None)
    return partial(log_prob_of, fp.fit_flow(jax.random.key(1), chain, progress=False).prior)


def the_papers(chain: fp.Chain) -> Densities:
    """Returns the paper's flow."""
    flow, rows = fp.FlowConfig.paper(8), equally_weighted(chain)
    return partial(log_prob_of, fp.fit_flow(jax.random.key(1), rows, flow, PAPER_TRAIN, progress=False).prior)


PRIORS: dict[str, Callable[[fp.Chain], Densities]] = {
    "mean and covariance": mean_and_covariance,
    "the paper's RealNVP, likelihood": the_papers,
    "margarine": margarine,
    **{name: partial(flowjax, FLOWJAX[name]) for name in ("flowjax coupling", "flowjax masked autoregressive")},
    "ours, from the draws alone": partial(ours, known=False),
    "ours": ours,
}


def judged(first: fp.ModelDensity, joint: fp.Chain, log_q: np.ndarray, evidence: float) -> tuple[str, ...]:
    """Returns the table's cells of a density, from its values (n,) at draws of the joint fit."""
    usable = np.isfinite(log_q)
    log_ratio = np.where(usable, log_q - first.log_posterior(joint.samples) + evidence, -np.inf)
    loss = with_error(*posterior_divergence(log_ratio, joint.probabilities)) if usable.all() else "infinite"
    weights = joint.probabilities * np.exp(log_ratio)
    total = weights.sum()
    above = joint.samples[:, joint.space.index("Lambda_QCD")] > MODES
    share = weights @ above / total
    error = np.sqrt(np.sum((weights * (above - share)) ** 2)) / total
    evidence_error = np.sqrt(np.sum((weights - joint.probabilities * total) ** 2)) / total
    return loss, with_error(np.log(total), evidence_error), with_error(share, error), f"{log_ratio.max():+.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("paper_output"), help="keeps chains, with paper.py's")
    parser.add_argument("--priors", nargs="+", default=list(PRIORS), choices=list(PRIORS))
    parser.add_argument("--orders", nargs="+", type=int, default=[0, 1], help="numbers, in ORDERS")
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    peers = [peer for peer in ("margarine", "flowjax") if any(name.startswith(peer) for name in options.priors)]
    parts = [
        "# A learned prior by this package and by others\n",
        origin("python benchmarks/alternatives.py", *peers),
        __doc__.split("\n\n", 1)[1],
    ]
    for order in (ORDERS[number] for number in options.orders):
        joint = joint_fit(options.folder, sorted(order), progress=options.progress)
        joint = joint.take(joint.probabilities * joint.n > 1e-6)  # beyond is no part of the posterior
        chain = first_fit(options.folder, order[0], progress=options.progress)
        first = fp.ModelDensity(model, fp.UniformPrior(twin.SPACE), order[:1])
        rows = [("(exact)", "0", "0", with_error(*mode_weight(joint)), "0", "")]
        for name in options.priors:
            start = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    log_q = PRIORS[name](chain)(joint.samples)
                cells = judged(first, joint, log_q, chain.log_evidence or np.nan)
            except Exception as error:  # a failure is a row
                cells = (f"failed: {type(error).__name__}: {str(error)[:80]}", "", "", "")
            rows.append((name, *cells, f"{time.perf_counter() - start:.0f}"))
            print(*order, *rows[-1], flush=True)
        size = f"{chain.n} particles, effective size {chain.effective_size:.0f}"
        parts += [f"## {order[0]}, then {order[1]}: {size}\n", table(HEAD, rows)]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
