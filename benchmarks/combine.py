"""combine against the joint fit: the J/psi twin, and baryon acoustic oscillations of DESI in two halves.

Each analysis is sampled alone. Flows are trained on the chains, and their product is compared with the joint posterior,
which is sampled with both likelihoods: KL from the joint posterior to the product, at draws of the joint posterior;
shifts of means in standard deviations of the joint posterior; ratios of widths; and the log Bayes factor, against the
evidences.

The distances are those of Table 1 of DESI Collaboration (2024), arXiv:2404.03002, in units of the sound horizon r_d.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.diagnostics.posterior_divergence import posterior_divergence
from numpyro_flowprior.examples import twin

HEAD = (
    "analyses|KL from the joint posterior [nats]|largest shift of a mean [sigma]|widths|log R - exact|tension [sigma]|"
    "share of the lower mode, minus the joint's|guards|seconds"
)
LIGHT = 2997.92458  # c / (100 km/s/Mpc), in Mpc

# redshift, D_M / r_d, error, D_H / r_d, error, correlation; or redshift, D_V / r_d, error
LOW = [(0.295, 7.93, 0.15), (0.510, 13.62, 0.25, 20.98, 0.61, -0.445), (0.706, 16.85, 0.32, 20.08, 0.60, -0.420)]
HIGH = [
    (0.930, 21.71, 0.28, 17.88, 0.35, -0.389),
    (1.317, 27.79, 0.69, 13.82, 0.42, -0.444),
    (1.491, 26.07, 0.67),
    (2.330, 39.71, 0.94, 8.52, 0.17, -0.477),
]
WCDM = fp.ParameterSpace(["Omega_m", "w", "h r_d"], [0.05, -3.0, 60.0], [0.8, 0.0, 150.0], units=["", "", "Mpc"])


def log_likelihood_of_distances(theta: jax.Array, distances: list[tuple[float, ...]]) -> jax.Array:
    """Returns the log likelihood (up to a constant) of distances in a flat universe with dark energy of constant w."""
    omega, w, scale = theta
    nodes, weights = np.polynomial.legendre.leggauss(48)

    def expansion(z: Any) -> Any:
        return jnp.sqrt(omega * (1 + z) ** 3 + (1 - omega) * (1 + z) ** (3 * (1 + w)))

    total = jnp.zeros(())
    for z, first, error, *second in distances:
        along = LIGHT / scale / expansion(z)
        across = LIGHT / scale * 0.5 * z * jnp.sum(weights / expansion(0.5 * z * (nodes + 1)))
        if not second:
            total -= 0.5 * (((z * across**2 * along) ** (1 / 3) - first) / error) ** 2
            continue
        other, other_error, correlation = second
        a, b = (across - first) / error, (along - other) / other_error
        total -= 0.5 * (a * a + b * b - 2 * correlation * a * b) / (1 - correlation**2)
    return total


CASES: dict[str, tuple[fp.ParameterSpace, dict[str, Callable[[jax.Array], jax.Array]]]] = {
    "twin": (
        twin.SPACE,
        {name: (lambda theta, name=name: twin.log_likelihood(theta, name)) for name in ("gamma_p", "gamma_Pb")},
    ),
    "DESI": (
        WCDM,
        {
            "z below 0.8": lambda theta: log_likelihood_of_distances(theta, LOW),
            "z above 0.8": lambda theta: log_likelihood_of_distances(theta, HIGH),
        },
    ),
}


def judge(case: str, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Returns the rows of a case, for both orders of the analyses."""
    space, likelihoods = CASES[case]
    prior = fp.UniformPrior(space)

    def density_of(names: tuple[str, ...]) -> fp.ModelDensity:
        def model() -> None:
            theta = numpyro.sample("theta", prior)
            for name in names:
                numpyro.factor(name, likelihoods[name](theta))

        return fp.ModelDensity(model)

    names = tuple(likelihoods)
    runs = [(one,) for one in names] + [names]
    chains = {
        run: fp.sample_pocomc(jax.random.key(k), density_of(run), n_total=options.rows, progress=False)
        for k, run in enumerate(runs)
    }
    joint, rows = chains[names], []
    exact_r = joint.log_evidence - sum(chains[one,].log_evidence for one in names)
    error_r = np.sqrt(sum(chain.log_evidence_error**2 for chain in chains.values()))
    for order in (names, names[::-1]):
        start = time.perf_counter()
        parts = {one: chains[one,] for one in order}
        found = fp.combine(jax.random.key(9), parts, prior=prior, refit=options.refit, progress=False)
        taken = time.perf_counter() - start
        print(found, flush=True)
        log_ratio = found.log_prob(joint.samples) - joint.log_prob
        loss, error = posterior_divergence(log_ratio, joint.probabilities, joint.dependence)
        deviation = np.sqrt(np.diag(joint.covariance()))
        shift = np.abs(found.chain.mean() - joint.mean()) / deviation
        widths = np.sqrt(np.diag(found.chain.covariance())) / deviation
        modes = fp.compare(joint, found.chain, classify=False, repeats=1).modes[:1]
        share = "; ".join(
            f"{mode.b[0] - mode.a[0]:+.3f} +- {np.hypot(mode.a_error[0], mode.b_error[0]):.3f} of {mode.a[0]:.3f}"
            for mode in modes
        )
        off, off_error = found.log_bayes_factor - exact_r, np.hypot(error_r, found.log_bayes_factor_error)
        rows.append(
            (
                f"{case}: {' x '.join(order)}",
                f"{loss:.4f} +- {error:.4f}",
                f"{shift.max():.3f}",
                f"{widths.min():.3f} to {widths.max():.3f}",
                f"{off:+.3f} +- {off_error:.3f}",
                f"{found.suspiciousness.sigma:.1f}",
                share,
                found.verdict,
                f"{taken:.0f}",
            )
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rows", type=int, default=20_000, help="draws of each analysis")
    parser.add_argument("--refit", action="store_true", help="train flows on halves of the rows, too")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [row for case in options.cases for row in judge(case, options)]
    publish(
        ["# combine against the joint fit\n", origin("python benchmarks/combine.py"), table(HEAD, rows)], options.output
    )


if __name__ == "__main__":
    main()
