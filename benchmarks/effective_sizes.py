"""Is a chain worth as many independent draws as `Chain.effective_size` says, and what do GetDist and ArviZ say of it?

    python benchmarks/effective_sizes.py --data ../shared/data --output benchmarks/results/effective_sizes.md

Chains of standard normal rows whose worth is known by trying: over the seeds the mean of a parameter scatters, and one
over its variance is the number of independent draws that know it as well. Then the files of a folder, where nobody
knows the truth.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from kinds import USUAL, Maker
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.formats.to_arviz import arviz_module

DIM = 2
COMMAND = "python benchmarks/effective_sizes.py"


def sizes(chain: fp.Chain) -> tuple[float, float, float]:
    """Returns the effective sizes, of the parameter known least: ours, GetDist's, ArviZ's; NaN for none."""
    return chain.effective_size, by_getdist(chain), by_arviz(chain)


def by_getdist(chain: fp.Chain) -> float:
    from getdist import MCSamples, chains

    chains.print_load_details = False
    ids = np.zeros(chain.n, int) if chain.chain_id is None else chain.chain_id
    parts = [ids == label for label in np.unique(ids)]
    samples = MCSamples(
        samples=[chain.samples[rows] for rows in parts],
        weights=None if chain.weights is None else [chain.weights[rows] for rows in parts],
        names=[f"p{j}" for j in range(chain.dim)],
        settings={"ignore_rows": 0},
    )
    return float(min(samples.getEffectiveSamples(j) for j in range(chain.dim)))


def by_arviz(chain: fp.Chain) -> float:
    """Returns ArviZ's effective size of the mean; multiplicities are repeated, importance weights it does not know."""
    if chain.weights_kind == "importance":
        return np.nan
    rows = np.arange(chain.n) if chain.weights is None else np.repeat(np.arange(chain.n), chain.weights.astype(int))
    ids = np.zeros(chain.n, int) if chain.chain_id is None else chain.chain_id
    parts = [chain.samples[rows][ids[rows] == label] for label in np.unique(ids)]
    shortest = min(map(len, parts))
    ess = arviz_module().ess
    columns = np.stack([part[:shortest] for part in parts])
    return float(min(ess(columns[:, :, j], method="mean") for j in range(chain.dim)))


def of_kind(name: str, maker: Maker, seeds: int) -> tuple[str, ...]:
    found, means = [], []
    for seed in range(seeds):
        rows, fields = maker(np.random.default_rng(seed), DIM)
        chain = fp.Chain(rows, fp.ParameterSpace([f"p{j}" for j in range(DIM)]), **fields)
        found.append(sizes(chain))
        means.append(chain.mean())
    truth = 1.0 / np.mean(np.square(means))
    error = truth * np.sqrt(2.0 / (seeds * DIM))
    return (name, f"{truth:.0f} +- {error:.0f}", *map(with_scatter, np.transpose(found)))


def with_scatter(values: np.ndarray) -> str:
    return "" if np.isnan(values).any() else f"{np.median(values):.0f} ({np.std(values):.0f})"


def of_file(path: Path) -> tuple[str, ...]:
    chain = fp.read_chain(path)
    cells = ["" if np.isnan(size) else f"{size:.0f}" for size in sizes(chain)]
    return (path.stem, str(chain.n), f"{chain.rows}: {chain.row_order.why}", *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--data", type=Path, help="folder with chain_*.npz")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name, maker in USUAL.items():
        rows.append(of_kind(name, maker, options.seeds))
        print(*rows[-1], sep=" | ", flush=True)
    parts = [
        "# Effective sizes\n",
        origin(f"{COMMAND} --seeds {options.seeds} --data ../shared/data", "getdist", "arviz"),
        f"Median (scatter) of {options.seeds} chains of {DIM} parameters, of the mean that is known least: below the "
        "second column, which is of all parameters, by some of that scatter.\n",
        table("rows|worth, from the scatter of means|Chain.effective_size|GetDist|ArviZ", rows),
    ]
    if options.data:
        files = [of_file(path) for path in sorted(options.data.glob("chain_*.npz"))]
        parts.append(table("file|rows|their order|Chain.effective_size|GetDist|ArviZ", files))
    publish(parts, options.output)


if __name__ == "__main__":
    main()
