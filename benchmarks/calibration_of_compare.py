"""Is `compare` calibrated on chains as people have them? Equal densities, over many seeds; and a real difference.

python benchmarks/calibration_of_compare.py --seeds 200 --output benchmarks/results/calibration_of_compare.md

Every case is two chains of the same two normal parameters, made as the case says. The excess over the noise floor
should be within two of its errors in about 95 % of all seeds. Then the second chain is of N(1, 1.5) in place of
N(0, 1): the excess should be what independent rows show, and what KL is.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from kinds import Maker, correlated, counted, in_turn, independent, related, sorted_rows, weighted
from scipy.stats import beta
from tables import origin, publish, table

import numpyro_flowprior as fp

SPACE = fp.ParameterSpace(["x", "y"])
SHIFT, WIDTH = 1.0, 1.5  # of the other density
EXACT = 1.5 * (np.log(WIDTH) + (1.0 + SHIFT**2) / (2.0 * WIDTH**2) - 0.5)  # mean of a marginal's KL and a pair's, twice


def chain(maker: Maker, rng: np.random.Generator, other: bool) -> fp.Chain:
    """Returns a chain of the first density, or of the other one."""
    z, fields = maker(rng, 2)
    return fp.Chain(SHIFT + WIDTH * z if other else z, SPACE, **fields)


def model(shift: float, width: float) -> None:
    theta = numpyro.sample("theta", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    numpyro.factor("likelihood", -0.5 * jnp.sum(((theta - shift) / width) ** 2 - (theta / 5.0) ** 2))


DENSITIES = {}


def particles(rng: np.random.Generator, other: bool) -> fp.Chain:
    """A run of sample_pocomc, particles of all temperatures."""
    if other not in DENSITIES:
        DENSITIES[other] = fp.ModelDensity(model, *((SHIFT, WIDTH) if other else (0.0, 1.0)))
    key = jax.random.key(int(rng.integers(2**31)))
    sizes = {"n_effective": 512, "n_active": 256, "n_total": 2048, "n_evidence": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = fp.sample_pocomc(key, DENSITIES[other], progress=False, precondition=False, **sizes)
    return fp.Chain(chain.samples, SPACE, weights=chain.weights, weights_kind="importance", rows="independent")


CASES = {
    "independent rows, 4,000": (independent(4000),) * 2,
    "independent rows, 500": (independent(500),) * 2,
    **{
        f"AR(1), rho {rho}, {n:,} rows in {chains}": (correlated(rho, chains, n),) * 2
        for rho, n in ((0.9, 4000), (0.99, 4000), (0.99, 20_000))
        for chains in (1, 2, 4, 50)
    },
    "five walkers in turn, rho 0.9, 8,000 rows": (in_turn(0.9, 5, 8000),) * 2,
    "sorted by density, 4,000 rows": (sorted_rows(4000),) * 2,
    "multiplicities, 20,000 steps": (counted(1.5, 20_000),) * 2,
    "importance weights, 8,000 rows": (weighted(2.0, 8000),) * 2,
    "pocoMC's particles": (None,) * 2,
    "particles of 1,000 families, 5,000 rows": (related(0.9, 1000, 5000),) * 2,
    "AR(1), rho 0.9, 4,000 rows, with 30,000 independent": (correlated(0.9, 1, 4000), independent(30_000)),
    "importance weights with multiplicities": (weighted(2.0, 8000), counted(1.5, 20_000)),
}


def made(maker: Maker | None, rng: np.random.Generator, other: bool) -> fp.Chain:
    return particles(rng, other) if maker is None else chain(maker, rng, other)


def row(name: str, seeds: int, reference: list[float]) -> list[str]:
    """Returns a table's row."""
    first, second = CASES[name]
    equal, different, refused = [], [], 0
    for seed in range(seeds):
        rng = np.random.default_rng([seed, 17])
        try:
            found = fp.compare(
                made(first, rng, False), made(second, rng, False), modes={}, classify=False, key=jax.random.key(seed)
            )
        except ValueError:
            refused += 1
            continue
        equal.append((found.excess, found.excess_error))
    for seed in range(max(seeds // 8, 2)):
        rng = np.random.default_rng([seed, 18])
        try:
            found = fp.compare(
                made(first, rng, False), made(second, rng, True), modes={}, classify=False, key=jax.random.key(seed)
            )
        except ValueError:
            continue
        different.append((found.excess, found.excess_error))
    excess, error = np.array(equal).T
    inside, n = int(np.sum(np.abs(excess) < 2 * error)), len(excess)
    low, high = beta.ppf([0.025, 0.975], [inside, inside + 1], [n - inside + 1, n - inside + 1e-9])
    far, scatter = np.array(different).T
    reference.append(float(far.mean()))
    right = np.mean(np.abs(far - EXACT) < 2 * scatter)
    return [
        name,
        f"{100 * inside / n:.1f} % ({100 * low:.0f} to {100 * high:.0f})",
        f"{excess.mean():+.4f} +- {excess.std(ddof=1) / np.sqrt(n):.4f}",
        f"{np.mean(np.abs(excess) > 3 * error):.1%}",
        f"{far.mean():.3f} +- {far.std(ddof=1) / np.sqrt(len(far)):.3f}",
        f"{far.mean() / reference[0]:.2f}",
        f"{100 * right:.0f} %",
        str(refused),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    reference: list[float] = []
    rows = []
    for name in arguments.cases:
        rows.append(row(name, arguments.seeds, reference))
        print(" | ".join(rows[-1]), flush=True)
    head = "chains | within 2 errors (95 %) | mean excess, nats | beyond 3 errors | excess of a real difference, nats "
    head += "| over that of independent rows | KL within 2 errors | refused"
    publish(
        [
            "# Calibration of compare\n",
            origin(f"python benchmarks/calibration_of_compare.py --seeds {arguments.seeds}", "pocomc"),
            f"{arguments.seeds} pairs of chains of equal densities in each row, an eighth as many of N(0, 1) and "
            f"N({SHIFT:g}, {WIDTH:g}), two independent parameters each. The average of the marginals' KL and the "
            f"pair's is {EXACT:.3f} nats exactly. Refused: chains shorter than eight autocorrelation times.\n",
            table(head, rows),
        ],
        arguments.output,
    )


if __name__ == "__main__":
    main()
