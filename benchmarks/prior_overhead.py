"""What a learned prior costs: log densities and draws per second, against a multivariate normal and flowjax.

All compiled, float32, in the same process; each number is the median of repeated calls, after one that compiles.
Densities are checked against the same flow in float64, so that speed is not bought with accuracy. flowjax
(`pip install flowjax`): a coupling flow with as many affine couplings and units as ours, without our support.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from tables import origin, publish, seconds, table

import numpyro_flowprior as fp

BATCHES = (1, 256, 65_536)
DIM, LAYERS, WIDTH = 7, 3, 32
CONFIGS = {
    "ours, one flow of 3 layers, 32 units": fp.FlowConfig(layers=LAYERS, hidden=(WIDTH,)),
    "ours, the default for a long chain: 6 flows of 3 layers, 16 units": fp.FlowConfig(
        layers=3, hidden=(16,), members=6, background=True
    ),
}


def trained(config: fp.FlowConfig) -> fp.FlowPrior:
    """Returns a prior trained for a moment on correlated draws in a box: weights that are not trivial."""
    rng = np.random.default_rng(0)
    z = rng.multivariate_normal(np.zeros(DIM), 0.5 * np.eye(DIM) + 0.5, 5000)
    chain = fp.Chain(1.0 / (1.0 + np.exp(-z)), fp.ParameterSpace([f"p{j}" for j in range(DIM)], 0.0, 1.0))
    train = fp.TrainConfig(max_steps=200)
    return fp.fit_flow(jax.random.key(0), chain, config, train, progress=False).prior


def candidates() -> dict[str, Any]:
    """Returns objects with `log_prob` and `sample(key, shape)`."""
    from flowjax import distributions, flows

    covariance = 0.5 * jnp.eye(DIM) + 0.5
    base = distributions.Normal(jnp.zeros(DIM))
    coupling = flows.coupling_flow(
        jax.random.key(0), base_dist=base, flow_layers=2 * LAYERS, nn_width=WIDTH, nn_depth=1, invert=True
    )
    normal = dist.MultivariateNormal(jnp.zeros(DIM), covariance)
    return {
        "numpyro MultivariateNormal": normal,
        **{name: trained(config) for name, config in CONFIGS.items()},
        "flowjax coupling flow of the same size": coupling,
    }


def error(prior: Any) -> str:
    """Returns the largest difference of float32 from float64 log densities at a thousand draws."""
    if not isinstance(prior, fp.FlowPrior):
        return "-"
    theta = np.asarray(prior.sample(jax.random.key(1), (1000,)))
    single = np.asarray(prior.log_prob(theta))
    with jax.enable_x64(True):
        return f"{np.abs(single - np.asarray(prior.log_prob(theta.astype(float)))).max():.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    found = candidates()
    measured: dict[tuple[str, str, int], float] = {}
    for name, prior in found.items():
        draw = jax.jit(lambda key, n, p=prior: p.sample(key, (n,)), static_argnums=1)
        density = jax.jit(lambda theta, p=prior: p.log_prob(theta))
        for n in BATCHES:
            theta = draw(jax.random.key(2), n)
            measured[name, "log_prob", n] = seconds(lambda density=density, theta=theta: density(theta))
            measured[name, "sample", n] = seconds(lambda draw=draw, n=n: draw(jax.random.key(3), n))
        print(name, flush=True)
    normal = next(iter(found))
    parts = ["# The cost of a learned prior\n", origin("python benchmarks/prior_overhead.py", "flowjax")]
    for what in ("log_prob", "sample"):
        rows = []
        for name, prior in found.items():
            cells = [name]
            for n in BATCHES:
                used = measured[name, what, n]
                cells.append(f"{n / used:,.0f} ({used / measured[normal, what, n]:.1f})")
            rows.append((*cells, error(prior)) if what == "log_prob" else tuple(cells))
        head = f"{what}: points per second (time over the normal's)|" + "|".join(f"batch {n:,}" for n in BATCHES)
        parts.append(table(f"{head}|largest error of float32" if what == "log_prob" else head, rows))
    publish(parts, options.output)


if __name__ == "__main__":
    main()
