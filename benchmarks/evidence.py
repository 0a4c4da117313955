"""Is the log evidence of a chain right, and is its error? Bridge sampling and the learned harmonic mean, over seeds.

    python benchmarks/evidence.py --output benchmarks/results/evidence.md

Exact densities whose rows are functions of normal variables. These are independent from row to row, or follow an
autoregression. Each density is multiplied by a constant, which is the evidence.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from densities import log_bananas, log_edges, log_funnel, log_normal
from scipy import special
from scipy.signal import lfilter
from tables import origin, publish, table

import numpyro_flowprior as fp

COMMAND = "python benchmarks/evidence.py"
CONSTANT = -17.3  # the exact log evidence
RHO = 0.9  # of the autoregression: an autocorrelation time of 19 rows
SMALL = fp.FlowConfig(layers=2, hidden=(16,), components=4)


@dataclass(frozen=True)
class Target:
    """A density in d parameters: its rows from normal variables (n, d + 1), and its normalised log density."""

    dim: int
    rows: Callable[[np.ndarray], np.ndarray]
    log_prob: Callable[[np.ndarray], np.ndarray]
    bounds: tuple[float, float] = (-np.inf, np.inf)

    def density(self, x: np.ndarray) -> np.ndarray:
        return CONSTANT + self.log_prob(x)

    def chain(self, seed: int, n: int, rho: float) -> fp.Chain:
        """Returns a chain of n rows with their log density; rho = 0 for independent rows."""
        z = np.random.default_rng(seed).normal(size=(n, self.dim + 1))
        z[1:] *= np.sqrt(1.0 - rho**2)  # the first is drawn from the stationary density
        x = self.rows(lfilter([1.0], [1.0, -rho], z, axis=0))
        space = fp.ParameterSpace([f"p{j}" for j in range(self.dim)], *(np.full(self.dim, b) for b in self.bounds))
        return fp.Chain(x, space, log_prob=self.density(x), rows="sequence" if rho else "independent")


def bananas(z: np.ndarray) -> np.ndarray:
    a, b, rest = z[:, :2], z[:, 2:4], z[:, 4:-1]
    return np.concatenate([a, 0.5 * a**2 + 0.3 * b, rest], axis=1)


def funnel(z: np.ndarray) -> np.ndarray:
    return np.concatenate([z[:, :1], np.exp(z[:, :1] / 2) * z[:, 1:-1]], axis=1)


def edges(z: np.ndarray) -> np.ndarray:
    u = special.ndtr(np.sqrt(0.5) * (z[:, -1:] + z[:, :-1]))
    u[:, ::2] = u[:, ::2] ** (1 / 0.6)
    return np.clip(u, 1e-15, 1 - 1e-15)


def two_modes(z: np.ndarray) -> np.ndarray:
    """The last variable chooses the mode: a third of the mass is in one, 8 deviations from the other."""
    first = (z[:, -1:] < special.ndtri(1 / 3)).astype(float)
    return z[:, :-1] + 4.0 * (1.0 - 2.0 * first) * (np.arange(z.shape[1] - 1) == 0)


def log_two_modes(x: np.ndarray) -> np.ndarray:
    parts = [np.log(share) + log_normal(x[:, 0] - at) for share, at in ((1 / 3, -4.0), (2 / 3, 4.0))]
    return np.logaddexp(*parts) + log_normal(x[:, 1:]).sum(axis=1)


def log_gaussian(x: np.ndarray) -> np.ndarray:
    return log_normal(x).sum(axis=1)


def gaussian(z: np.ndarray) -> np.ndarray:
    return z[:, :-1]


TARGETS = {
    "Gaussian, 2": Target(2, gaussian, log_gaussian),
    "Gaussian, 10": Target(10, gaussian, log_gaussian),
    "Gaussian, 20": Target(20, gaussian, log_gaussian),
    "banana, 5": Target(5, bananas, log_bananas),
    "two modes, 3": Target(3, two_modes, log_two_modes),
    "funnel, 4": Target(4, funnel, log_funnel),
    "edges, 4": Target(4, edges, log_edges, (0.0, 1.0)),
}


def by_harmonic(chain: fp.Chain, seed: int, epochs: int) -> tuple[float, float]:
    """Returns log evidence and error of the package harmonic: a spline flow, and halves of 20 parts of the rows.

    Its example notebooks standardise the rows and use a temperature of 0.8.
    """
    import harmonic

    parts = 20
    rows = harmonic.Chains(chain.dim)
    per_part = chain.n // parts
    rows.add_chains_3d(
        chain.samples[: parts * per_part].reshape(parts, per_part, chain.dim),
        chain.log_prob[: parts * per_part].reshape(parts, per_part),
    )
    train, infer = harmonic.utils.split_data(rows, training_proportion=0.5)
    model = harmonic.model.RQSplineModel(chain.dim, standardize=True, temperature=0.8)
    model.fit(train.samples, epochs=epochs, key=jax.random.key(seed))
    found = harmonic.Evidence(infer.nchains, model)
    found.add_chains(infer)
    return float(-found.ln_evidence_inv), float(np.mean(np.abs(found.compute_ln_inv_evidence_errors())))


def of_target(name: str, rho: float, args: argparse.Namespace) -> list[tuple[str, ...]]:
    """Returns one row of the table for each method."""
    target, found = TARGETS[name], []
    estimates: dict[str, list[tuple[float, float]]] = {}
    took: dict[str, list[float]] = {}
    train = fp.TrainConfig(batch_size=256, max_steps=args.steps) if args.steps else None
    given = {"config": SMALL, "train": train} if args.steps else {}
    for seed in range(args.seeds):
        chain = target.chain(seed, args.rows, rho)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fp.FlowPriorWarning)
            found.append(fp.evidence(jax.random.key(seed), chain, target.density, progress=False, **given))
        for method, estimate in found[-1].estimates.items():
            estimates.setdefault(method, []).append(estimate)
            took.setdefault(method, []).append(time.perf_counter() - start)
        if args.harmonic:
            start = time.perf_counter()
            estimates.setdefault("harmonic", []).append(by_harmonic(chain, seed, args.harmonic))
            took.setdefault("harmonic", []).append(time.perf_counter() - start)
    failed = [check for each in found for check, result in each.checks.items() if not result.passed]
    often = ", ".join(f"{check} {failed.count(check)}" for check in sorted(set(failed)))
    rows = []
    for method, each in estimates.items():
        values, errors = np.transpose(each)
        misses, pulls = values - CONSTANT, (values - CONSTANT) / errors
        count = np.sqrt(len(found))
        calls = np.mean([one.calls for one in found]) if method == found[0].method else 0
        rows.append(
            (
                name,
                f"AR({rho})" if rho else "independent",
                method,
                f"{misses.mean():.4f} +- {misses.std() / count:.4f}",
                f"{np.sqrt(np.mean(misses**2)):.4f}",
                f"{np.sqrt(np.mean(errors**2)):.4f}",
                f"{pulls.mean():.2f} +- {1 / count:.2f}",
                f"{pulls.std():.2f} +- {pulls.std() / count / np.sqrt(2):.2f}",
                f"{np.median(took[method]):.1f}",
                f"{calls:.0f}",
                "" if method == "harmonic" else often or "none",
            )
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", default=list(TARGETS), help="names of targets, with their dimension")
    parser.add_argument("--rho", nargs="*", type=float, default=[0.0, RHO])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=500, help="of training of a small flow; 0 for fit_flow's defaults")
    parser.add_argument("--harmonic", type=int, default=0, help="epochs of the package harmonic; 0 to leave it out")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    head = (
        "target|rows|method|log evidence - exact|root mean square|stated error|pull: mean|pull: width|seconds|calls|"
        "failed checks"
    )
    lines = [row for name in args.targets for rho in args.rho for row in of_target(name, rho, args)]
    page = ["# The log evidence of a chain\n", origin(COMMAND), table(head, lines)]
    publish(
        [*page, f"{args.seeds} seeds, {args.rows} rows each. A pull is the deviation over its stated error."],
        args.output,
    )


if __name__ == "__main__":
    main()
