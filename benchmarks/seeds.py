"""How much a default fit depends on its seed: the mean log density of rows that no training saw, over several seeds.

All fits of a chain learn from and are judged on the same rows; only the key of the training differs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import numpy as np
from fidelity import CHAINS, ours, parted, read
from tables import origin, publish, table

HEAD = "chain|parameters, rows|mean log density|deviation|worst behind best|lowest row, worst and best seed|s a fit"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with the chains")
    parser.add_argument("--chains", nargs="+", default=CHAINS, help='files, or exact densities as "banana 15"')
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows = []
    for name in options.chains:
        chain = read(options.data, name).replace(log_prob=None)
        train, test = parted(jax.random.key(0), chain, block=False)
        start, found = time.perf_counter(), []
        for seed in range(options.seeds):
            found.append(ours(jax.random.key(seed), train, test))
            print(f"{name}, seed {seed}: {found[-1].mean():.4f}, lowest {found[-1].min():.2f}", flush=True)
        means, lowest = np.array([one.mean() for one in found]), np.array([one.min() for one in found])
        behind = found[int(means.argmax())] - found[int(means.argmin())]
        rows.append(
            (
                name,
                f"{chain.dim}, {chain.n}",
                f"{means.mean():.3f}",
                f"{means.std(ddof=1):.3f}",
                f"{behind.mean():.3f} +- {behind.std() / np.sqrt(test.effective_size):.3f}",
                f"{lowest.min():.1f}, {lowest.max():.1f}",
                f"{(time.perf_counter() - start) / options.seeds:.0f}",
            )
        )
    parts = [
        f"# Default fits with {options.seeds} seeds\n",
        origin(f"python benchmarks/seeds.py --data {options.data}"),
    ]
    publish([*parts, table(HEAD, rows)], options.output)


if __name__ == "__main__":
    main()
