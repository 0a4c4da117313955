"""What the quality report finds, and how often it cries wolf: priors that are right, or wrong in known ways.

Priors are Gaussian mixtures exactly, their weights set by hand, and rows are drawn from mixtures too: nothing is
trained. A defect is found where the verdict is not "pass". False alarms are counted on right priors.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tables import origin, publish, table

import numpyro_flowprior as fp

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from toys import mixture_prior, mixture_rows

NORMAL = [(1.0, 0.0, 1.0)]
ROWS = (1000, 8500)


def modes(dim: int, first: float = 0.5, bridge: float = 0.0) -> list[Any]:
    """Returns modes at -1.2 and 1.2 of the first parameter, of width 0.4, and what lies between them."""
    centre, width = np.eye(dim)[0], np.where(np.arange(dim) == 0, 0.4, 1.0)
    parts = [((1.0 - bridge) * first, -1.2 * centre, width), ((1.0 - bridge) * (1.0 - first), 1.2 * centre, width)]
    return [*parts, (bridge, 0.0, np.where(np.arange(dim) == 0, 0.5, 1.0))] if bridge else parts


def correlated(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Returns normal rows, the first two parameters correlated by 0.3."""
    z = rng.normal(size=(n, dim))
    z[:, 1] = 0.3 * z[:, 0] + np.sqrt(1.0 - 0.3**2) * z[:, 1]
    return z


def cases(dim: int) -> dict[str, tuple[Any, Any]]:
    """Returns (prior, truth) by name of the defect."""
    apart = np.eye(dim)[0]
    return {
        "modes 60:40 for 50:50": (modes(dim, 0.6), modes(dim)),
        "modes 55:45 for 50:50": (modes(dim, 0.55), modes(dim)),
        "a bridge of 5 % between modes": (modes(dim, bridge=0.05), modes(dim)),
        "a correlation of 0.3 missing": (NORMAL, correlated),
        "a tenth too wide": ([(1.0, 0.0, 1.1)], NORMAL),
        "a tenth too narrow": ([(1.0, 0.0, 0.9)], NORMAL),
        "5 % of the draws twice too wide": ([(0.95, 0.0, 1.0), (0.05, 0.0, 2.0)], NORMAL),
        "a mode of 3 % missing": (NORMAL, [(0.97, 0.0, 1.0), (0.03, 4.5 * apart, 0.3)]),
        "a spurious mode of 3 %": ([(0.97, 0.0, 1.0), (0.03, 5.0 * apart, 0.3)], NORMAL),
    }


def verdicts(prior: Any, truth: Any, dim: int, rows: int, repeats: int) -> list[str]:
    """Returns the verdicts on a prior, each on rows of their own."""
    assumed, found = mixture_prior(dim, prior), []
    for seed in range(repeats):
        rng = np.random.default_rng([seed, rows])
        drawn = truth(rng, rows, dim) if callable(truth) else mixture_rows(rng, rows, dim, truth)
        report = fp.quality_report(jax.random.key(seed), assumed, fp.Chain(drawn, assumed.space))
        found.append(report.verdict)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--right", type=int, default=1000, help="reports on right priors, per row of the table")
    parser.add_argument("--wrong", type=int, default=20, help="reports per defect")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    right, wrong = [], []
    for dim in (2, 7):
        for rows in ROWS:
            start = time.perf_counter()
            found = verdicts(modes(dim), modes(dim), dim, rows, options.right)
            seconds = (time.perf_counter() - start) / len(found)
            alarms = [sum(verdict == kind for verdict in found) for kind in ("warn", "fail")]
            right.append((dim, rows, len(found), *alarms, f"{seconds:.2f}"))
            print(right[-1], flush=True)
            for name, (prior, truth) in cases(dim).items():
                found = verdicts(prior, truth, dim, rows, options.wrong)
                wrong.append(
                    (name, dim, rows, f"{sum(v != 'pass' for v in found)} of {len(found)}", found.count("fail"))
                )
                print(wrong[-1], flush=True)
    parts = [
        "# The quality report: false alarms, and what it finds\n",
        origin(f"python benchmarks/report.py --right {options.right} --wrong {options.wrong}"),
        table("parameters|rows|reports on right priors|warn|fail|seconds each", right),
        table("defect|parameters|rows|found|of which failed", sorted(wrong, key=lambda row: row[0])),
    ]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
