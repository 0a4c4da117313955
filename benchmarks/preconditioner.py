"""pocoMC preconditioned by a RealNVP in JAX that learns from log densities, and by its own spline flow in torch.

The target is the flow of a bimodal chain whose mass sits on the edges of its box, under a flat prior: exact draws and
evidence. n_effective 512, n_active 256, n_total 2048. Each seed runs both, one after the other, in one process; what
its first run compiles is in the first row alone. Excess KL is the average of the marginals' and pairs' divergences
(20 bins) over their noise floor at the effective size reported. Processor seconds are those of all threads: other
work on the machine moves them less than seconds by the clock.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from samplers import Target, learned
from tables import origin, publish, table

import numpyro_flowprior as fp

FLOWS = ("realnvp", "nsf6")
SIZES = {"n_effective": 512, "n_active": 256, "n_total": 2048, "n_evidence": 4096}
HEAD = (
    "flow|seeds|log Z - exact|scatter|error reported|rms of error / reported|particles' log Z - exact|excess KL|"
    "largest shift|calls|iterations|not converged"
)
TIMES = "flow|processor seconds|by the clock|first run, processor|first run, clock"


def one(target: Target, exact: fp.Chain, flow: str, seed: int) -> dict[str, Any]:
    """Returns what one run gives and costs."""
    density = fp.ModelDensity(target.model)
    clock, processor = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain = fp.sample_pocomc(jax.random.key(seed), density, flow=flow, progress=False, **SIZES)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    apart = fp.compare(exact, chain, bins=20, repeats=4)
    return {
        "flow": flow,
        "seed": seed,
        "off": chain.log_evidence - target.log_evidence,
        "error": chain.log_evidence_error,
        "particles": chain.info["tempered_log_evidence"] - target.log_evidence,
        "excess": apart.excess,
        "shift": float(np.abs(apart.shift).max()),
        "calls": chain.info["calls"],
        "iterations": chain.info["iterations"],
        "complaints": [str(warning.message) for warning in caught],
        "clock": clock,
        "processor": processor,
    }


def quality(flow: str, rows: list[dict[str, Any]]) -> tuple[Any, ...]:
    """Returns the row of one flow, means over the seeds with their standard errors."""
    off, error = column(rows, "off"), column(rows, "error")
    return (
        flow,
        len(rows),
        mean(off),
        f"{off.std(ddof=1):.3f}",
        f"{np.median(error):.3f}",
        f"{np.sqrt(np.mean((off / error) ** 2)):.1f}",
        mean(column(rows, "particles")),
        mean(column(rows, "excess"), 4),
        mean(column(rows, "shift")),
        f"{column(rows, 'calls').mean():,.0f}",
        f"{column(rows, 'iterations').mean():.0f}",
        sum(any("not converged" in text for text in row["complaints"]) for row in rows),
    )


def cost(flow: str, rows: list[dict[str, Any]]) -> tuple[Any, ...]:
    """Returns the times of one flow: the median without the first run, and the first run's."""
    first, later = rows[0], rows[1:] or rows
    medians = (f"{np.median(column(later, name)):.0f}" for name in ("processor", "clock"))
    return (flow, *medians, f"{first['processor']:.0f}", f"{first['clock']:.0f}")


def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def mean(values: np.ndarray, digits: int = 3) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.{digits}f} +- {error:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with chain_boundary_pb.npz")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", type=Path, help="file that keeps what is done; the same call goes on from it")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    kept = options.rows is not None and options.rows.exists()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()] if kept else []
    done = {(row["flow"], row["seed"]) for row in rows}
    target = learned(options.data / "chain_boundary_pb.npz")
    space = fp.ModelDensity(target.model).space
    exact = fp.Chain(np.clip(target.draws, *space.bounds.T), space)
    for seed in range(options.seeds):
        for flow in FLOWS:
            if (flow, seed) not in done:
                rows.append(one(target, exact, flow, seed))
                print(json.dumps(rows[-1]), flush=True)
                if options.rows is not None:
                    with options.rows.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    by_flow = {flow: [row for row in rows if row["flow"] == flow] for flow in FLOWS}
    ratios = [b["processor"] / a["processor"] for a, b in zip(*by_flow.values(), strict=True)]
    clocks = [b["clock"] / a["clock"] for a, b in zip(*by_flow.values(), strict=True)]
    times = (
        f"Ratio of nsf6 to realnvp, seed by seed: {np.median(ratios[1:]):.1f} in processor seconds "
        f"({min(ratios):.1f} to {max(ratios):.1f}), {np.median(clocks[1:]):.1f} by the clock; "
        f"first runs {ratios[0]:.1f} and {clocks[0]:.1f}."
    )
    parts = [
        "# Preconditioners of pocoMC\n",
        origin("python benchmarks/preconditioner.py --data <folder>", "pocomc", "torch"),
        __doc__.split("\n\n", 1)[1],
        table(HEAD, [quality(*item) for item in by_flow.items()]),
        table(TIMES, [cost(*item) for item in by_flow.items()]),
        times,
    ]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
