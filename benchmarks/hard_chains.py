"""Small and awkward chains with the defaults: is the flow ever worse than a Gaussian, or out of bounds?

Each case is drawn anew for training and for judging. The Gaussian has the training chain's moments in the same
unconstrained space. "anywhere" is the lowest log q - log Gaussian at draws of that Gaussian three times as wide:
points that no chain visits, and where a flow may say anything. It is bounded by the background's weight, if all is
well; a number that is not finite would be an error.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from scipy import special
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.chains.edges import off_the_edges
from numpyro_flowprior.diagnostics.quality import held_out_log_densities
from numpyro_flowprior.flows.build import build_outer

Draw = Callable[[np.random.Generator, int], np.ndarray]
INF = np.inf


def normal(dim: int) -> Draw:
    return lambda rng, n: rng.normal(size=(n, dim))


def student(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_t(3.0, size=(n, 4))


def log_normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.exp(1.5 * rng.normal(size=(n, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]]))


def rounded(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.round(special.expit(rng.normal(size=(n, 4)) @ np.array([[1, 0.6, 0, 0]] * 2 + [[0, 0, 1, 0.6]] * 2)), 2)


def duplicates(rng: np.random.Generator, n: int) -> np.ndarray:
    z = rng.normal(size=(max(n // 5, 1), 3))
    z[:, 1] += z[:, 0] ** 2
    return np.repeat(z, 5, axis=0)[:n]


def at_an_edge(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.column_stack([rng.beta(0.3, 2.0, n), rng.beta(2.0, 0.2, n), rng.beta(0.5, 0.5, n)]).clip(
        1e-300, 1 - 1e-16
    )


def nearly_dependent(rng: np.random.Generator, n: int) -> np.ndarray:
    z = rng.normal(size=(n, 4))
    return np.column_stack([z[:, 0], z[:, 0] + 1e-3 * z[:, 1], z[:, 2] ** 2 + z[:, 0], z[:, 3]])


def scales(rng: np.random.Generator, n: int) -> np.ndarray:
    z = rng.normal(size=(n, 4))
    z[:, 2] += z[:, 1] ** 2
    return z * np.array([1e-4, 1.0, 1e2, 1e4]) + np.array([0.0, 1e3, 0.0, 1e6])


def two_modes(dim: int) -> Draw:
    return lambda rng, n: rng.normal(size=(n, dim)) + 4.0 * rng.choice([0.0, 1.0], (n, 1), p=[0.7, 0.3])


CASES: list[tuple[str, int, list[tuple[float, float]], Draw]] = [
    ("normal, 1 parameter", 200, [(-INF, INF)], normal(1)),
    ("normal, 7 parameters", 200, [(-INF, INF)] * 7, normal(7)),
    ("normal, 20 parameters", 2000, [(-INF, INF)] * 20, normal(20)),
    ("normal, 30 parameters", 400, [(-INF, INF)] * 30, normal(30)),
    ("Student t, 3 degrees of freedom", 1000, [(-INF, INF)] * 4, student),
    ("log-normal, kurtosis of thousands, no bounds", 1000, [(-INF, INF)] * 3, log_normal),
    ("the same with its bound at zero", 1000, [(0.0, INF)] * 3, log_normal),
    ("rounded to two decimals", 500, [(0.0, 1.0)] * 4, rounded),
    ("every row five times", 1000, [(-INF, INF)] * 3, duplicates),
    ("mass at the edges", 1000, [(0.0, 1.0)] * 3, at_an_edge),
    ("covariance of condition number 1e6", 500, [(-INF, INF)] * 4, nearly_dependent),
    ("scales from 1e-4 to 1e4", 500, [(-INF, INF)] * 4, scales),
    ("two modes, 10 parameters", 1000, [(-INF, INF)] * 10, two_modes(10)),
    ("two modes, 20 parameters", 10_000, [(-INF, INF)] * 20, two_modes(20)),
]


def judge(name: str, rows: int, bounds: list[tuple[float, float]], draw: Draw) -> tuple[str, ...]:
    """Returns the table's row for one case."""
    rng = np.random.default_rng(0)
    space = fp.ParameterSpace([f"p{j}" for j in range(len(bounds))], *np.array(bounds).T)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        fit = fp.fit_flow(jax.random.key(0), fp.Chain(draw(rng, rows), space), progress=False)
        seconds = time.perf_counter() - start
        test = fp.Chain(draw(rng, 10_000), space)
    log_q, log_gauss = held_out_log_densities(fit.prior, off_the_edges(test))
    gain = log_q - log_gauss
    independent = 2000 if draw is duplicates else len(gain)
    with jax.enable_x64(True):
        outer = build_outer(fit.prior.space, fit.prior.params, np.float64)
        far = np.asarray(outer.forward(3.0 * rng.normal(size=(10_000, len(bounds)))))
    far = far[space.contains(far) & np.isfinite(far).all(axis=1)]
    anywhere = np.subtract(*held_out_log_densities(fit.prior, fp.Chain(far, fit.prior.space)))
    finite = np.isfinite(gain).all() and np.isfinite(anywhere).all()
    return (
        name,
        str(rows),
        f"{gain.mean():.3f} +- {gain.std() / np.sqrt(independent):.3f}",
        f"{gain.min():.1f}",
        f"{anywhere.min():.1f}" if finite else "NOT FINITE",
        fit.report.verdict,
        f"{seconds:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows = []
    for case in CASES:
        rows.append(judge(*case))
        print(rows[-1], flush=True)
    head = "chain|rows|gain over the Gaussian, nats|worst row|anywhere|verdict|seconds"
    publish(
        ["# Small and awkward chains\n", origin("python benchmarks/hard_chains.py"), table(head, rows)], options.output
    )


if __name__ == "__main__":
    main()
