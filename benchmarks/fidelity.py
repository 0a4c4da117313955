"""How faithful is a flow to a chain, on rows that no training saw: ours with its defaults, and today's alternatives.

Every chain is cut in two: four fifths to train on (with whatever splits a method makes of them), one fifth to judge.
The alternatives work in our own unconstrained, whitened coordinates, which can only help them. flowjax
(`pip install flowjax`) gets its own early stopping, and at least as long as ours took.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.mixture import GaussianMixture
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.chains.edges import off_the_edges
from numpyro_flowprior.diagnostics.quality import held_out_log_densities
from numpyro_flowprior.training.prepare import apply_prepared, prepare

CHAINS = ("boundary_pb", "boundary_p", "ipglasma_gamma_p", "gw170817_dns", "kidiq", "eight_schools", "gp_pois_regr")
EXACT = ("boundary_pb", "boundary_p")  # their log_prob is normalised: the KL divergence itself can be given
HEAD = "method|held-out log density|KL(p, q)|lowest 5 rows|seconds"
FLOWJAX = {
    "flowjax coupling": "coupling_flow",
    "flowjax masked autoregressive": "masked_autoregressive_flow",
    "flowjax block neural autoregressive": "block_neural_autoregressive_flow",
}
PATIENCE, BATCH, LEARNING_RATE = 10, 512, 1e-3  # flowjax's own defaults (5, 100, 5e-4) are no better and slower
Densities = Callable[[np.ndarray], np.ndarray]  # points (n, d), whitened, to log densities (n,)


def read(folder: Path, name: str) -> fp.Chain:
    """Returns a chain with its draws off the edges, so that every method sees the same ones."""
    return off_the_edges(fp.read_chain(folder / f"chain_{name}.npz"))


def ours(key: jax.Array, train: fp.Chain, test: fp.Chain) -> tuple[np.ndarray, float]:
    """Returns log q of the default flow at the test rows, (n,), and the seconds it took."""
    start = time.perf_counter()
    fit = fp.fit_flow(key, train, progress=False)
    return held_out_log_densities(fit.prior, test)[0], time.perf_counter() - start


def gaussian(key: jax.Array, x: np.ndarray) -> Densities:
    """Returns the standard normal: the Gaussian of the chain's own moments."""
    return lambda points: -0.5 * np.sum(points**2 + np.log(2 * np.pi), axis=1)


def mixture(key: jax.Array, x: np.ndarray) -> Densities:
    """Returns the mixture of 1 to 32 Gaussians that is best on a tenth of the rows."""
    cut = len(x) * 9 // 10
    x = np.random.default_rng(0).permutation(x)
    fits = [GaussianMixture(k, random_state=0, reg_covar=1e-5).fit(x[:cut]) for k in (1, 2, 4, 8, 16, 32)]
    return max(fits, key=lambda fit: fit.score(x[cut:])).score_samples


def flowjax_flow(kind: str, seconds: float) -> Callable[[jax.Array, np.ndarray], Densities]:
    """Returns a method that trains a flow of flowjax until it stops early, again and again while time is left."""
    from flowjax import distributions, flows
    from flowjax.train import fit_to_data

    def train(key: jax.Array, x: np.ndarray) -> Densities:
        key_init, key = jax.random.split(key)
        base = distributions.Normal(jnp.zeros(x.shape[1]))
        flow, start, rate, best = (
            getattr(flows, kind)(key_init, base_dist=base),
            time.perf_counter(),
            LEARNING_RATE,
            np.inf,
        )
        settings = {"max_epochs": 1000, "max_patience": PATIENCE, "batch_size": BATCH, "show_progress": False}
        while rate == LEARNING_RATE or (time.perf_counter() - start < seconds and rate > 1e-5):
            trained, losses = fit_to_data(jax.random.key(0), flow, x.astype(np.float32), learning_rate=rate, **settings)
            if min(losses["val"]) < best:
                flow, best = trained, min(losses["val"])
            rate /= 3.0
        return lambda points: np.asarray(jax.jit(lambda x: flow.log_prob(x))(points.astype(np.float32)), np.float64)

    return train


def judge(key: jax.Array, chain: fp.Chain, *, exact: bool, peers: bool) -> list[tuple[str, ...]]:
    """Returns the table's rows for one chain."""
    key_split, key_train = jax.random.split(key)
    train, test = chain.split(key_split, 0.8)
    prepared = prepare(train)
    held = apply_prepared(test, prepared.fixed)
    rows, seconds = [], 0.0

    def add(name: str, method: Callable[[], tuple[np.ndarray, float]]) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                log_q, took = method()
            rows.append((name, *describe(log_q, test, exact=exact), f"{took:.0f}"))
        except Exception as error:  # a failure is a row
            rows.append((name, f"failed: {type(error).__name__}: {str(error)[:60]}", "", "", ""))

    def whitened(method: Callable[[jax.Array, np.ndarray], Densities]) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        density = method(key_train, prepared.x)
        return density(held.x) + held.log_det, time.perf_counter() - start

    start = time.perf_counter()
    add("ours, samples only", lambda: ours(key_train, train.replace(log_prob=None), test))
    seconds = time.perf_counter() - start
    if chain.log_prob is not None:
        add("ours, with the log density", lambda: ours(key_train, train, test))
    add("Gaussian", lambda: whitened(gaussian))
    add("Gaussian mixture", lambda: whitened(mixture))
    if peers:
        for name, kind in FLOWJAX.items():
            add(name, lambda kind=kind: whitened(flowjax_flow(kind, seconds)))
    return rows


def describe(log_q: np.ndarray, test: fp.Chain, *, exact: bool) -> tuple[str, ...]:
    """Returns mean and error of log q, the KL divergence where it is known, and the mean of the five lowest."""
    lowest = f"{np.sort(log_q)[:5].mean():.1f}"
    mean = f"{log_q.mean():.4f} +- {log_q.std() / np.sqrt(test.effective_size):.4f}"
    if not exact:
        return mean, "", lowest
    value, error = divergence(log_q, test)
    return mean, f"{value:.4f} +- {error:.4f}", lowest


def divergence(log_q: np.ndarray, test: fp.Chain) -> tuple[float, float]:
    """Returns KL(p, q) in nats at draws of p, of known normalised density, and its standard error.

    The mean of log(p / q) with q / p, whose mean is one, as control variate: for a q close to p that takes most of the
    noise away.
    """
    log_ratio = log_q - test.log_prob
    control = np.expm1(log_ratio)  # q / p - 1, of mean zero under p
    terms = np.cov(log_ratio, control)[0, 1] / control.var() * control - log_ratio
    return float(terms.mean()), float(terms.std() / np.sqrt(test.effective_size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the chains")
    parser.add_argument("--chains", nargs="+", default=CHAINS, help="which ones (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-peers", action="store_true", help="leave out flowjax")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    parts = ["# Fidelity: held-out log density by chain\n"]
    parts.append(
        origin(f"python benchmarks/fidelity.py --data {options.data}", *[] if options.no_peers else ["flowjax"])
    )
    for name in options.chains:
        chain = read(options.data, name)
        rows = judge(jax.random.key(options.seed), chain, exact=name in EXACT, peers=not options.no_peers)
        parts.append(f"## {name}: {chain.n} rows, {chain.dim} parameters\n\n{table(HEAD, rows)}")
        print(parts[-1], flush=True)
    publish(parts, options.output)


if __name__ == "__main__":
    main()
