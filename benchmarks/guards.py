"""How often do the guards of a second stage raise a false alarm, and do they see what is wrong?

A cheap twin: three parameters, four nonlinear measurements in each of two stages, the truth drawn from the first
stage's prior, so that all is as the models say. Each seed is a whole staged analysis: weighted prior draws as the
sampler, which are exact but for their number, a flow trained for seconds, guards. Then with something wrong:

    conflict     the second stage's data are shifted by four of their errors
    wrong prior  the flow is the first stage's Gaussian, which its posterior is not
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.stats import binomtest
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.stages.exact import exact_posterior, exact_prior

SPACE = fp.ParameterSpace(["a", "b", "c"], [0.0, 0.0, -1.0], [1.0, 2.0, 1.0])
ERROR = 0.1
DRAWS, ROWS = 100_000, 40_000  # from the prior, and those of the highest weights, which lack 1e-4 of it at most
CONFIG = fp.FlowConfig(layers=3, hidden=(16,), components=4, members=2, background=True)
TRAIN = fp.TrainConfig(loss="log_variance", max_steps=1500, batch_size=256, learning_rate=4e-3)
GAUSSIAN = {"config": fp.FlowConfig(layers=0, base="normal"), "train": fp.TrainConfig(max_steps=1, eval_every=1)}
CASES: dict[str, tuple[float, dict[str, Any]]] = {  # shift of the second stage's data in errors, the flow
    "right": (0.0, {"config": CONFIG, "train": TRAIN}),
    "conflict": (4.0, {"config": CONFIG, "train": TRAIN}),
    "wrong prior": (0.0, GAUSSIAN),
}


def predict(theta: jax.Array, stage: int) -> jax.Array:
    """Returns four observables (4,) of three parameters."""
    a, b, c = theta
    one = jnp.stack([a * b, a + 0.3 * c**2, jnp.exp(-b) + 0.2 * c, a * c])
    two = jnp.stack([b * c, jnp.sin(2.0 * a) + 0.2 * b, c + 0.5 * a**2, a / (0.5 + b)])
    return (one, two)[stage]


def model(prior: Any, stage: int, y: np.ndarray) -> None:
    """One stage."""
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(predict(theta, stage), ERROR).to_event(1), obs=y)


def weighted(key: jax.Array, density: fp.ModelDensity) -> fp.Chain:
    """Returns draws from the prior weighted by the likelihood."""
    x = density.sample_prior(key, DRAWS)
    log_prior, log_likelihood = density.log_prior_and_likelihood(x)
    weights = np.exp(log_likelihood - log_likelihood.max())
    kept = np.sort(np.argsort(-weights)[:ROWS])  # always as many: nothing is compiled anew
    return fp.Chain(
        x[kept],
        density.space,
        log_prob=(log_prior + log_likelihood)[kept],
        log_prior=log_prior[kept],
        log_likelihood=log_likelihood[kept],
        weights=weights[kept],
        log_evidence=float(np.log(weights.mean()) + log_likelihood.max()),
        log_evidence_error=float(weights.std() / weights.mean() / np.sqrt(DRAWS)),
        info={"converged": True},
    )


def guarded(seed: int, shift: float, learning: dict[str, Any]) -> fp.Guards:
    """Returns what the guards say of the second stage of a simulated analysis."""
    generator = np.random.default_rng(seed)
    truth = generator.uniform(*SPACE.bounds.T)
    data = [np.asarray(predict(jnp.asarray(truth), stage)) + ERROR * generator.normal(size=4) for stage in (0, 1)]
    data[1] += shift * ERROR * np.array([1.0, -1.0, 1.0, -1.0])
    keys = jax.random.split(jax.random.key(seed), 4)
    first = fp.ModelDensity(model, fp.UniformPrior(SPACE), 0, data[0])
    before = weighted(keys[0], first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        prior = fp.fit_flow(keys[1], before, progress=False, **learning).prior
    second = fp.ModelDensity(model, prior, 1, data[1])
    exact = exact_prior(second, prior, exact_posterior(first, before, None))
    return fp.check_stage(keys[3], second, prior, weighted(keys[2], second), before, exact=exact)


def said(case: str, seed: int) -> tuple[str, dict[str, str], float]:
    """Returns the verdict of a simulated analysis, those of its findings by subject, and the loss to the prior."""
    guards = guarded(seed, *CASES[case])
    found = {finding.subject: finding.verdict for finding in guards.findings}
    print(case, seed, guards.verdict, *found.values(), flush=True)
    return guards.verdict, found, guards.numbers["prior_error"]["loss"]


def counted(case: str, results: Sequence[tuple[str, dict[str, str], float]]) -> list[tuple[Any, ...]]:
    """Returns the table's rows of a case: how often each guard said what, the whole first."""
    verdicts, found, losses = zip(*results, strict=True)
    counts = {"all together": Counter(verdicts)}
    for subject in found[0]:
        counts[subject] = Counter(each[subject] for each in found)
    alarms = counts["all together"]["fail"] + counts["all together"]["warn"]
    low, high = binomtest(alarms, len(results)).proportion_ci(method="exact")
    rate = f"{100 * low:.0f} to {100 * high:.0f} %"
    loss = f"{np.median(losses):.4f}, {max(losses):.4f}"
    return [
        (case, name, *(count[word] for word in ("pass", "warn", "fail")), *((rate, loss) if not row else ("", "")))
        for row, (name, count) in enumerate(counts.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        for case in options.cases:
            rows += counted(case, list(pool.map(partial(said, case), range(options.seeds))))
    parts = [
        "# Guards: false alarms, and alarms\n",
        origin(f"python benchmarks/guards.py --seeds {options.seeds} --cases {' '.join(options.cases)}"),
        __doc__.split("\n\n", 1)[1],
        f"{options.seeds} simulated analyses each. Rate of warnings and failures: 95 % of Clopper and Pearson.\n",
        table("case|guard|pass|warn|fail|rate of alarms|loss to the prior [nats], median and largest", rows),
    ]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
