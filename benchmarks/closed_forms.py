"""Products, new priors and evidences of normal posteriors against closed forms, over many seeds.

"exact densities": the posteriors are normal densities, so that only the draws have an error. "flows of rows": flows are
trained on rows of each analysis, and the stated errors are those of draws and rows.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.stats import multivariate_normal, norm
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior._util.progress import progress_bar

COMMAND = "python benchmarks/closed_forms.py"
AFFINE = fp.FlowConfig(layers=0, base="normal")
SMALL = {"config": fp.FlowConfig(layers=1, hidden=(8,), base="normal"), "train": fp.TrainConfig(max_steps=400)}
PRIOR = 4.0  # standard deviation of each parameter
ROWS = 3000


def analysis(seed: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the covariance of the posterior of d parameters, from measurements with unit errors."""
    rng = np.random.default_rng([seed, d])
    mixing = np.eye(d) + rng.normal(size=(d, d)) / np.sqrt(2 * d)
    covariance = np.linalg.inv(mixing.T @ mixing + np.eye(d) / PRIOR**2)
    truth = np.zeros(d)  # of all analyses
    return covariance @ mixing.T @ (mixing @ truth + rng.normal(size=d)), covariance


def product(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns mean, covariance and log Bayes factor of the product over a normal prior."""
    d = len(parts[0][0])
    box = PRIOR**2 * np.eye(d)
    precision = sum(np.linalg.inv(c) for _, c in parts) - (len(parts) - 1) * np.linalg.inv(box)
    covariance = np.linalg.inv(precision)
    mean = covariance @ sum(np.linalg.solve(c, m) for m, c in parts)
    log_r = sum(multivariate_normal(m, c).logpdf(mean) for m, c in parts)
    log_r -= (len(parts) - 1) * multivariate_normal(np.zeros(d), box).logpdf(mean)
    return mean, covariance, float(log_r - multivariate_normal(mean, covariance).logpdf(mean))


def row_of(what: str, pulls: Sequence[list[float]], misses: Sequence[list[float]], words: list[str]) -> list[str]:
    """Returns a row of the table.

    Args:
        what: its first cell.
        pulls: of each seed: those of the means, and last that of the evidence.
        misses: the same for the deviations.
        words: the verdict or method of each seed.
    """
    pulled, missed = np.array(pulls), np.array(misses)
    within = np.abs(pulled) < norm.isf(0.025)
    return [
        what,
        str(len(words)),
        f"{100 * within[:, :-1].mean():.1f} %",
        f"{pulled[:, :-1].mean():+.2f}, {pulled[:, :-1].std():.2f}",
        f"{100 * within[:, -1].mean():.0f} %",
        f"{pulled[:, -1].mean():+.2f}, {pulled[:, -1].std():.2f}",
        f"{np.sqrt(np.mean(missed[:, :-1] ** 2)):.3f}",
        f"{np.sqrt(np.mean(missed[:, -1] ** 2)):.3f}",
        ", ".join(f"{word} {words.count(word)}" for word in sorted(set(words))),
    ]


def of_combine(d: int, seeds: int, rows: int) -> list[str]:
    """Returns a row of the table: pulls of means and Bayes factors, with exact densities or with flows of rows."""
    space = fp.ParameterSpace([f"p{j}" for j in range(d)])
    prior = dist.Normal(jnp.zeros(d), PRIOR).to_event(1)
    pulls, misses, verdicts = [], [], []
    for seed in progress_bar(range(seeds), desc=f"combine, {d} parameters", unit="seed"):
        parts = [analysis(2 * seed + k, d) for k in range(2)]
        if rows:
            rng = np.random.default_rng(seed)
            given = {f"{k}": fp.Chain(rng.multivariate_normal(*part, rows), space) for k, part in enumerate(parts)}
        else:
            given = {f"{k}": exactly(*part, space) for k, part in enumerate(parts)}
            parts = [moments(flow) for flow in given.values()]
        mean, covariance, log_r = product(parts)
        found = fp.combine(jax.random.key(seed), given, prior=prior, progress=False, **SMALL)
        values, errors = found.mean_and_error()
        deviation = np.sqrt(np.diag(covariance))
        pulls.append([*((values - mean) / errors), (found.log_bayes_factor - log_r) / found.log_bayes_factor_error])
        misses.append([*((values - mean) / deviation), found.log_bayes_factor - log_r])
        verdicts.append(found.verdict)
    return row_of(
        f"combine, {d} parameters, {f'flows of {rows} rows' if rows else 'exact densities'}", pulls, misses, verdicts
    )


def exactly(mean: np.ndarray, covariance: np.ndarray, space: fp.ParameterSpace) -> fp.FlowPrior:
    """Returns a flow without layers: a normal density whose moments are nearly these."""
    z = np.random.default_rng(0).normal(size=(1000, len(mean)))
    rows = fp.Chain(mean + z @ np.linalg.cholesky(covariance).T, space, rows="independent")
    return fp.fit_flow(jax.random.key(0), rows, AFFINE, fp.TrainConfig(max_steps=1), progress=False).prior


def moments(flow: fp.FlowPrior) -> tuple[np.ndarray, np.ndarray]:
    """Returns the exact mean and covariance of a flow without layers."""
    center = np.zeros(flow.space.dim)
    with jax.enable_x64(True):
        jacobian = np.asarray(jax.jacobian(flow.from_latent)(jnp.asarray(center)))
        return np.asarray(flow.from_latent(center)), jacobian @ jacobian.T


def of_swap(d: int, seeds: int) -> list[str]:
    """Returns a row of the table for another prior of half the width, by weights and, if they fail, by flows."""
    space = fp.ParameterSpace([f"p{j}" for j in range(d)])
    old, new = (dist.Normal(jnp.zeros(d), width).to_event(1) for width in (PRIOR, PRIOR / 2))
    pulls, misses, methods = [], [], []
    for seed in progress_bar(range(seeds), desc=f"swap_prior, {d} parameters", unit="seed"):
        mean, covariance = analysis(seed, d)
        rng = np.random.default_rng(seed)
        log_z = multivariate_normal(np.zeros(d), PRIOR**2 * np.eye(d))  # the evidence is a ratio of densities, at 0
        chain = fp.Chain(
            rng.multivariate_normal(mean, covariance, ROWS), space, log_evidence=0.0, log_evidence_error=0.0
        )
        found = fp.swap_prior(jax.random.key(seed), chain, old, new, progress=False, **SMALL)
        precision = np.linalg.inv(covariance) + (4.0 - 1.0) * np.eye(d) / PRIOR**2
        after = np.linalg.inv(precision)
        center = after @ np.linalg.solve(covariance, mean)
        narrow = multivariate_normal(np.zeros(d), (PRIOR / 2) ** 2 * np.eye(d))
        change = narrow.logpdf(np.zeros(d)) - log_z.logpdf(np.zeros(d))
        change += multivariate_normal(mean, covariance).logpdf(np.zeros(d))
        change -= multivariate_normal(center, after).logpdf(np.zeros(d))
        values, errors = found.mean_and_error(found.samples)
        pulls.append([*((values - center) / errors), (found.log_evidence - change) / found.log_evidence_error])
        misses.append([*((values - center) / np.sqrt(np.diag(after))), found.log_evidence - change])
        methods.append(found.info["swap_prior"]["method"])
    return row_of(f"swap_prior, {d} parameters, {ROWS} rows", pulls, misses, methods)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dimensions", nargs="+", type=int, default=[2, 7, 20])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--seeds-of-flows", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fp.FlowPriorWarning)
        for d in options.dimensions if options.seeds else ():
            rows.append(of_combine(d, options.seeds, 0))
            print(rows[-1], flush=True)
            rows.append(of_swap(d, options.seeds))
            print(rows[-1], flush=True)
        for d in options.dimensions if options.seeds_of_flows else ():
            rows.append(of_combine(d, options.seeds_of_flows, ROWS))
            print(rows[-1], flush=True)
    head = (
        "what|seeds|means within 1.96 stated errors|pull of means: mean, width|evidence within|pull: mean, width|"
        "means, root mean square [sigma]|evidence, root mean square [nats]|verdicts or methods"
    )
    page = ["# Normal posteriors against closed forms\n", origin(COMMAND), table(head, rows)]
    publish(page, options.output)


if __name__ == "__main__":
    main()
