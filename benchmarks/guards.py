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
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.stages.exact import exact_posterior, exact_prior

SPACE = fp.ParameterSpace(["a", "b", "c"], [0.0, 0.0, -1.0], [1.0, 2.0, 1.0])
ERROR = 0.1
DRAWS, ROWS = 200_000, 20_000  # from the prior, and those of the highest weights, which hold all but nothing of it
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
    return fp.guard(keys[3], second, prior, weighted(keys[2], second), before, exact=exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    rows = []
    for case in options.cases:
        shift, learning = CASES[case]
        verdicts: Counter[str] = Counter()
        warned: dict[str, Counter[str]] = {}
        losses = []
        for seed in range(options.seeds):
            guards = guarded(seed, shift, learning)
            verdicts[guards.verdict] += 1
            for finding in guards.findings:
                warned.setdefault(finding.subject, Counter())[finding.verdict] += 1
            losses.append(guards.numbers["prior_error"]["loss"])
            print(case, seed, guards.verdict, *(f.verdict for f in guards.findings), losses[-1], flush=True)
        rows += [(case, "verdict", *(verdicts[word] for word in ("pass", "warn", "fail")))]
        rows += [(case, name, *(count[word] for word in ("pass", "warn", "fail"))) for name, count in warned.items()]
        rows += [(case, f"median of the loss to the prior: {np.median(losses):.4f} nats", "", "", "")]
    parts = [
        "# Guards: false alarms, and alarms\n",
        origin(f"python benchmarks/guards.py --seeds {options.seeds}"),
        f"{options.seeds} simulated analyses each.\n",
        table("case|guard|pass|warn|fail", rows),
    ]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
