"""How faithful is a flow to a chain, on rows that no training saw: ours with its defaults, and today's alternatives.

Every chain is cut in two: four fifths to train on (with whatever splits a method makes of them), one fifth to judge,
dealt at random. The alternatives work in our own unconstrained, whitened coordinates, which can only help them, and get
at least as long as ours took. Their errors are of the mean; methods are compared row by row, so that the error of a
difference ("behind the best") is far smaller.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from densities import DENSITIES
from rivals import RIVALS
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.chains.edges import off_the_edges
from numpyro_flowprior.diagnostics.quality import held_out_log_densities
from numpyro_flowprior.training.prepare import apply_prepared, prepare

CHAINS = (
    "boundary_pb",
    "boundary_p",
    "ipglasma_gamma_p",
    "gw170817_dns",
    "kidiq",
    "eight_schools",
    "gp_pois_regr",
    "ttv_koi2092",
    "ttv_koi0156",
)
EXACT = ("boundary_pb", "boundary_p")  # their log_prob is normalised: the KL divergence itself can be given
HEAD = "method|held-out log density|behind the best|KL(p, q)|lowest 5 rows|seconds"
TAUGHT = "ours, with the log density"  # the rivals cannot use it, so that it is not compared with them
ROWS = 10_000  # of a chain that is drawn from an exact density


def read(folder: Path | None, name: str) -> fp.Chain:
    """Returns a chain with its draws off the edges, so that every method sees the same ones.

    "banana 15" is drawn from an exact density of 15 parameters; another name is that of a file.
    """
    kind, _, dim = name.rpartition(" ")
    if kind in DENSITIES:
        return off_the_edges(DENSITIES[kind].chain(0, ROWS * 5 // 4, int(dim)))
    if folder is None:
        raise SystemExit(f"{name}: expected --data, the folder with the chains, or one of {', '.join(DENSITIES)}.")
    return off_the_edges(fp.read_chain(folder / f"chain_{name}.npz"))


def ours(key: jax.Array, train: fp.Chain, test: fp.Chain) -> np.ndarray:
    """Returns log q of the default flow at the test rows, (n,)."""
    return held_out_log_densities(fp.fit_flow(key, train, progress=False).prior, test)[0]


def parted(key: jax.Array, chain: fp.Chain, *, block: bool) -> tuple[fp.Chain, fp.Chain]:
    """Returns the rows to train on and to judge on: a fifth dealt at random, or the fifth tenth of the rows."""
    if not block:
        return chain.split(key, 0.8)
    judged = np.arange(chain.n) * 10 // chain.n == 4
    return chain.take(np.flatnonzero(~judged)), chain.take(np.flatnonzero(judged))


def judge(key: jax.Array, chain: fp.Chain, *, exact: bool, block: bool, rivals: list[str]) -> list[tuple[str, ...]]:
    """Returns the table's rows for one chain."""
    key_split, key_train = jax.random.split(key)
    train, test = parted(key_split, chain, block=block)
    prepared = prepare(train)
    held = apply_prepared(test, prepared.fixed)
    found: dict[str, tuple[np.ndarray, float] | str] = {}

    def add(name: str, method: Callable[[], np.ndarray]) -> float:
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                log_q = method()
            found[name] = log_q, time.perf_counter() - start
        except Exception as error:  # a failure is a row
            found[name] = f"failed: {type(error).__name__}: {str(error)[:60]}"
        print(name, "done", flush=True)
        return time.perf_counter() - start

    seconds = add("ours, samples only", lambda: ours(key_train, train.replace(log_prob=None), test))
    if chain.log_prob is not None:
        add(TAUGHT, lambda: ours(key_train, train, test))
    for name in rivals:
        add(name, lambda name=name: RIVALS[name](prepared.x, seconds)(held.x) + held.log_det)
    best = max((one[0] for name, one in found.items() if not isinstance(one, str) and name != TAUGHT), key=np.mean)
    return [(name, *describe(one, best, test, exact=exact)) for name, one in found.items()]


def describe(one: tuple[np.ndarray, float] | str, best: np.ndarray, test: fp.Chain, *, exact: bool) -> tuple[str, ...]:
    """Returns the cells of a row: mean and error of log q, its distance from the best, KL, lowest rows, seconds."""
    if isinstance(one, str):
        return one, "", "", "", ""
    log_q, seconds = one
    n = np.sqrt(test.effective_size)
    mean = f"{log_q.mean():.4f} +- {log_q.std() / n:.4f}"
    behind = best - log_q
    kl = "{:.4f} +- {:.4f}".format(*divergence(log_q, test)) if exact else ""
    lowest = f"{np.sort(log_q)[:5].mean():.1f}"
    return mean, f"{behind.mean():.4f} +- {behind.std() / n:.4f}", kl, lowest, f"{seconds:.0f}"


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
    parser.add_argument("--data", type=Path, help="folder with the chains")
    parser.add_argument("--chains", nargs="+", default=CHAINS, help='files, or exact densities as "banana 15"')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), help="which others (default: all)")
    parser.add_argument("--block", action="store_true", help="hold out a tenth of the rows in one piece")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    packages = [name for name in ("flowjax", "zuko") if any(name in rival for rival in options.rivals)]
    parts = ["# Fidelity: held-out log density by chain\n"]
    parts.append(origin(f"python benchmarks/fidelity.py --data {options.data}", *packages))
    for name in options.chains:
        chain = read(options.data, name)
        exact = name in EXACT or name.rpartition(" ")[0] in DENSITIES
        given = {"exact": exact, "block": options.block, "rivals": options.rivals}
        rows = judge(jax.random.key(options.seed), chain, **given)
        parts.append(f"## {name}: {chain.n} rows, {chain.dim} parameters\n\n{table(HEAD, rows)}")
        print(parts[-1], flush=True)
    publish(parts, options.output)


if __name__ == "__main__":
    main()
