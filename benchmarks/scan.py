"""How long does a scan of Roch and Shen's grid take, and is its best as faithful as what fit_flow does by itself?

The chain is cut in two: four fifths to scan and train on, one fifth to judge. The scan spreads over processes that
share the cores; its best and the default are then trained in full, one after the other, and judged on the rows that
none saw, by the exact Kullback-Leibler divergence: the chain's log density must be normalised. Of the paper's losses
"nll" and "kl" learn from the draws alone, while the default may also learn from their log density: so the default is
given from samples alone too, and the scan's best with the loss that learns from both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from fidelity import divergence, read
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.diagnostics.quality import held_out_log_densities
from numpyro_flowprior.training.grid import read_grid
from numpyro_flowprior.training.pool import process_pool

SHOWN = ("layers", "batch_size", "learning_rate", "loss", "rung", "rows", "steps", "status", "seconds")


def candidates(result: fp.ScanResult, most: int = 10) -> str:
    """Returns the top of the scan's table."""
    rows = [
        (*(row[name] for name in SHOWN), f"{row['log_density']:.4f} +- {row['error']:.4f}")
        for row in result.table[:most]
        if row["log_density"] is not None
    ]
    return table("|".join(SHOWN) + "|held-out log density", rows)


def ends_of(result: fp.ScanResult) -> str:
    """Returns how many candidates came to which end."""
    ends = sorted({row["status"] for row in result.table})
    counts = [sum(row["status"] == end for row in result.table) for end in ends]
    return f"{len(result.table)} candidates: " + ", ".join(f"{n} {end}" for n, end in zip(counts, ends, strict=True))


def timed(train: Callable[[], fp.FlowFit], test: fp.Chain) -> tuple[np.ndarray, float, str]:
    """Returns log q at the test rows, (n,), the seconds that training took, and the flow's size."""
    start = time.perf_counter()
    prior = train().prior
    seconds, config = time.perf_counter() - start, prior.config
    size = f"{config.members} x {config.layers} layers {config.hidden}"
    return held_out_log_densities(prior, test)[0], seconds, size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the chains")
    parser.add_argument("--chain", default="boundary_pb", help="its log density is normalised (default: %(default)s)")
    parser.add_argument("--grid", default="paper", help="paper, quick or a JSON file (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keeps what is done, to go on after a kill (time is then partial)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    chain = read(options.data, options.chain)
    key_split, key_scan, key_fit = jax.random.split(jax.random.key(options.seed), 3)
    train, test = chain.split(key_split, 0.8)
    grid = read_grid(options.grid)

    start = time.perf_counter()
    with process_pool(options.workers) as executor:
        result = fp.scan_flows(key_scan, train, grid, folder=options.folder, executor=executor)
    minutes = (time.perf_counter() - start) / 60.0
    print(result, f"{minutes:.1f} minutes", flush=True)

    config, settings = result.best
    taught, samples = replace(settings, loss="log_variance"), train.replace(log_prob=None)
    fits = {
        "the scan's best, refitted": timed(lambda: fp.fit_flow(key_fit, train, *result.best, progress=False), test),
        "the same with log_variance": timed(lambda: fp.fit_flow(key_fit, train, config, taught, progress=False), test),
        "default": timed(lambda: fp.fit_flow(key_fit, train, progress=False), test),
        "default, samples only": timed(lambda: fp.fit_flow(key_fit, samples, progress=False), test),
    }
    kl = {name: divergence(log_q, test) for name, (log_q, _, _) in fits.items()}
    rows = [
        (name, size, "{:.5f} +- {:.5f}".format(*kl[name]), f"{seconds:.0f}")
        for name, (_, seconds, size) in fits.items()
    ]
    best, *others = fits
    against = []
    for other in others:
        gap = fits[other][0] - fits[best][0]
        more = f"{gap.mean():.5f} +- {gap.std() / np.sqrt(test.effective_size):.5f} nats more, row by row"
        against.append(f"Against {other!r}: ratio {kl[best][0] / kl[other][0]:.3f}; {more}.\n")
    parts = [
        "# Scan: the paper's grid, and its best against the default\n",
        origin(f"python benchmarks/scan.py --data {options.data} --grid {options.grid}"),
        f"{options.chain}: {train.n} rows x {train.dim} parameters to scan, {test.n} to judge; grid "
        f"{json.dumps({name: list(values) for name, values in grid.items()})}.\n",
        f"**{minutes:.1f} minutes** with {options.workers} processes. {ends_of(result)}.\n",
        candidates(result),
        table("fit|flow|KL(p, q) on unseen rows|seconds", rows),
        *against,
    ]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
