"""A second stage that pulls into the far tail of the first: what does the joint posterior lose to the learned prior?

Stage one is a curved density of five parameters on a box, known exactly. Stage two measures two functions of them so
far from where stage one had them that 0.08 % of its draws, counted as an effective sample, remain. The joint posterior
J is then known exactly too, and so is what it loses with q in the place of p (diagnostics.posterior_divergence).

The flow learns stage one from draws alone; from draws with their log density; and with support points as well, a cloud
twice as wide as the chain with its log density, as a tempered run would leave it. All with the defaults.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from scipy import optimize, stats
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.diagnostics.posterior_divergence import posterior_divergence
from numpyro_flowprior.diagnostics.quality import held_out_log_densities

DIM, ROWS, KEPT, WIDTH = 5, 20_000, 8e-4, 0.5  # WIDTH: error of the second stage's measurements, in sigma
MEASURED = (0, 3)
SPACE = fp.ParameterSpace([f"p{j}" for j in range(DIM)], 0.0, 1.0)


def to_box(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns theta (n, d) in the unit box and its exact log density (n,), for z that is standard normal."""
    u = z.copy()
    u[:, 1] += 0.5 * (z[:, 0] ** 2 - 1.0)
    u[:, 2] *= np.exp(0.3 * z[:, 1])
    u[:, 3] += np.sin(1.5 * z[:, 0])
    scaled = 0.7 * u
    log_det = 0.3 * z[:, 1] + np.sum(np.log(0.7) + stats.norm.logpdf(scaled), axis=1)
    return stats.norm.cdf(scaled), stats.norm.logpdf(z).sum(axis=1) - log_det


def kept(shift: float) -> float:
    """Returns E[L]^2 / E[L^2], the share of stage one's draws that remains, for measurements at `shift` sigma."""
    first = stats.norm.logpdf(shift, 0.0, np.sqrt(1.0 + WIDTH**2))
    second = stats.norm.logpdf(shift, 0.0, np.sqrt(1.0 + WIDTH**2 / 2.0)) - np.log(2.0 * WIDTH * np.sqrt(np.pi))
    return float(np.exp(len(MEASURED) * (2.0 * first - second)))


def joint_draws(rng: np.random.Generator, n: int, shift: float) -> np.ndarray:
    """Returns draws (n, d) of z under the joint posterior: normal, as prior and likelihood are."""
    z = rng.normal(size=(n, DIM))
    for j in MEASURED:
        variance = WIDTH**2 / (1.0 + WIDTH**2)
        z[:, j] = shift / (1.0 + WIDTH**2) + np.sqrt(variance) * z[:, j]
    return z


def lost(prior: fp.FlowPrior, z: np.ndarray) -> tuple[float, float]:
    """Returns KL(J, J_q) at draws of J, and its standard error."""
    theta, log_p = to_box(z)
    log_ratio = held_out_log_densities(prior, fp.Chain(theta, SPACE))[0] - log_p
    return posterior_divergence(log_ratio, np.full(len(theta), 1.0 / len(theta)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    shift = float(optimize.brentq(lambda m: kept(m) - KEPT, 0.5, 10.0))
    rows = []
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        theta, log_p = to_box(rng.normal(size=(ROWS, DIM)))
        chain = fp.Chain(theta, SPACE, log_prob=log_p)
        cloud, cloud_log_p = to_box(2.0 * rng.normal(size=(ROWS, DIM)))
        points = fp.Chain(cloud, SPACE, log_prob=cloud_log_p)
        judged = joint_draws(rng, 50_000, shift)
        for name, known, support in (
            ("draws alone", chain.replace(log_prob=None), None),
            ("with log density", chain, None),
            ("with support points", chain, points),
        ):
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fit = fp.fit_flow(jax.random.key(seed), known, support_points=support, progress=False)
            seconds = time.perf_counter() - start
            value, error = lost(fit.prior, judged)
            loss = fit.prior.info["training"]["loss"]
            rows.append((name, seed, loss, f"{value:.4f} +- {error:.4f}", f"{seconds:.0f}"))
            print(rows[-1], flush=True)
    parts = [
        "# A second stage in the tail of the first\n",
        origin("python benchmarks/tail.py"),
        f"{ROWS} draws of {DIM} parameters; measurements of two at {shift:.2f} sigma with errors of {WIDTH} sigma: "
        f"{100 * kept(shift):.2f} % of the draws remain. KL of the joint posterior in nats, at 50,000 exact "
        "draws of it.\n",
        table("learned from|seed|loss|KL(J, J_q)|seconds", rows),
    ]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
