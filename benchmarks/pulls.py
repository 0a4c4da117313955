"""Two stages that pull apart, by run_stages with its defaults, against the joint fit: loss, evidence, means, verdict.

Five parameters, nonlinear outputs, Gaussian errors. The second stage's data come from parameters that are displaced
from the first stage's, along one of its axes. "apart" is how far the posterior of stage one is from that of stage two
alone, in standard deviations of their difference, along the direction in which it is largest. Where the stages pull
apart, stage two asks for the prior where stage one has no draws.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from tables import origin, publish, table

import numpyro_flowprior as fp

HEAD = (
    "displaced by|apart [sigma]|largest shift of a mean [sigma of stage one]|loss, by pass [nats]"
    "|log Z1 + log Z2 - log Z|largest error of a mean [sigma]|guards|seconds"
)
SPACE = fp.ParameterSpace(list("abcde"), -6.0, 6.0)
RNG = np.random.default_rng(3)
FIRST, SECOND = RNG.normal(size=(8, 5)), RNG.normal(size=(6, 5))
CENTRE = np.array([0.5, -0.3, 0.2, 0.8, -0.6])
ERRORS, BEND, AXIS = (0.8, 0.3), 0.3, 2  # stage two is sharper, so that it decides where the posterior is


def outputs(matrix: Any, theta: Any) -> Any:
    """Returns the outputs (m,): linear combinations z of the parameters, plus 0.3 sin(1.5 z)."""
    z = matrix @ theta
    return z + BEND * jnp.sin(1.5 * z)


def model(prior: Any, matrix: Any, y: Any, error: float) -> None:
    """One stage."""
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(outputs(matrix, theta), error).to_event(1), obs=y)


def both(prior: Any, y_first: Any, y_second: Any) -> None:
    """Both stages at once."""
    theta = numpyro.sample("theta", prior)
    for name, matrix, y, error in zip(("first", "second"), (FIRST, SECOND), (y_first, y_second), ERRORS, strict=True):
        numpyro.sample(name, dist.Normal(outputs(matrix, theta), error).to_event(1), obs=y)


def apart(one: fp.Chain, other: fp.Chain) -> float:
    """Returns the distance of two posteriors' means in standard deviations of their difference, at its largest."""
    difference = one.mean() - other.mean()
    return float(np.sqrt(difference @ np.linalg.solve(one.covariance() + other.covariance(), difference)))


def judge(displaced: float, seed: int) -> tuple[str, ...]:
    """Returns the table's row for one displacement."""
    covariance = np.linalg.inv(FIRST.T @ FIRST / ERRORS[0] ** 2)
    variances, axes = np.linalg.eigh(covariance)
    noise = np.random.default_rng(seed)
    y_first = np.asarray(outputs(FIRST, CENTRE)) + ERRORS[0] * noise.normal(size=8)
    there = CENTRE + displaced * np.sqrt(variances[AXIS]) * axes[:, AXIS]
    y_second = np.asarray(outputs(SECOND, there)) + ERRORS[1] * noise.normal(size=6)
    prior = fp.UniformPrior(SPACE)
    one, two = (FIRST, y_first, ERRORS[0]), (SECOND, y_second, ERRORS[1])
    stages = [fp.Stage("one", model, one), fp.Stage("two", model, two)]
    start = time.perf_counter()
    analysis = fp.run_stages(
        jax.random.key(seed), stages, prior, options=fp.StageOptions(override=True), progress=False
    )
    seconds = time.perf_counter() - start
    fine = {"n_total": 8192, "progress": False}
    joint = fp.sample_pocomc(jax.random.key(100), fp.ModelDensity(both, prior, y_first, y_second), **fine)
    alone = fp.sample_pocomc(jax.random.key(101), fp.ModelDensity(model, prior, *two), **fine)
    first, final = analysis.chains["one"], analysis.posterior
    guards = analysis.guards["two"]
    passes = [each["loss"] for each in [*guards.numbers["rehearsals"], guards.numbers["prior_error"]]]
    widths, before = (np.sqrt(np.diag(chain.covariance())) for chain in (joint, first))
    off = analysis.log_evidence - joint.log_evidence
    error = np.hypot(analysis.log_evidence_error, joint.log_evidence_error)
    return (
        f"{displaced:g}",
        f"{apart(first, alone):.1f}",
        f"{np.abs((joint.mean() - first.mean()) / before).max():.1f}",
        " -> ".join("not known" if loss is None else f"{loss:.4f}" for loss in passes),
        f"{off:+.3f} +- {error:.3f}",
        f"{np.abs((final.mean() - joint.mean()) / widths).max():.3f}",
        guards.verdict,
        f"{seconds:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--displaced", type=float, nargs="+", default=[4.0, 5.0, 6.0, 7.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows = []
    for displaced in options.displaced:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows.append(judge(displaced, options.seed))
        print(rows[-1], flush=True)
    parts = ["# Stages that pull apart\n", origin("python benchmarks/pulls.py", "pocomc"), table(HEAD, rows)]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
