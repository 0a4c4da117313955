"""combine against the joint fit: the J/psi twin, baryon acoustic oscillations in two halves, and supernovae.

Each analysis is sampled alone. Flows are trained on the chains, and their product is compared with the joint posterior,
which is sampled with both likelihoods and weighted to its exact density: KL from the joint posterior to the product, at
draws of the joint posterior, if the analyses have the same parameters; shifts of means in standard deviations of the
joint posterior; ratios of widths; and the log Bayes factor, against the evidences.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cosmology
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.diagnostics.posterior_divergence import posterior_divergence
from numpyro_flowprior.examples import twin
from numpyro_flowprior.sampling.weighted_draws import weighted_draws

HEAD = (
    "analyses|KL from the joint posterior [nats]|largest shift of a mean [sigma]|widths|log R - exact|tension [sigma]|"
    "share of the lower mode, minus the joint's|guards|seconds"
)


@dataclass(frozen=True)
class Analysis:
    """Parameters of an analysis, flat in their bounds, and its log likelihood at a point (d,)."""

    space: fp.ParameterSpace
    log_likelihood: Callable[[Any], jax.Array]


def of_twin(system: str) -> Analysis:
    return Analysis(twin.SPACE, lambda theta: twin.log_likelihood(theta, system))


def of_distances(distances: list[tuple[float, ...]]) -> Analysis:
    return Analysis(cosmology.OSCILLATIONS, lambda theta: cosmology.of_oscillations(theta, distances))


CASES: dict[str, dict[str, Analysis]] = {
    "twin": {name: of_twin(name) for name in ("gamma_p", "gamma_Pb")},
    "twin, gamma_Pb in two halves": {name: of_twin(name) for name in ("gamma_Pb_integrated", "gamma_Pb_tdiff")},
    "DESI": {"z below 0.8": of_distances(cosmology.LOW), "z above 0.8": of_distances(cosmology.HIGH)},
    "DESI and JLA": {
        "oscillations": of_distances(cosmology.LOW + cosmology.HIGH),
        "supernovae": Analysis(cosmology.SUPERNOVAE, cosmology.of_supernovae),
    },
}


def density_of(analyses: Mapping[str, Analysis]) -> fp.ModelDensity:
    """Returns the posterior of one analysis, or of several together, over all their parameters."""
    spaces = [one.space for one in analyses.values()]
    bounds = {name: space.bounds[j] for space in spaces for j, name in enumerate(space.names)}

    def model() -> None:
        values = {name: numpyro.sample(name, dist.Uniform(*ends)) for name, ends in bounds.items()}
        for name, one in analyses.items():
            numpyro.factor(name, one.log_likelihood(jnp.stack([values[each] for each in one.space.names])))

    return fp.ModelDensity(model)


def judge(case: str, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Returns the rows of a case, for both orders of the analyses."""
    analyses = CASES[case]
    names = tuple(analyses)
    runs = [(one,) for one in names] + [names]
    chains = {
        run: fp.sample_pocomc(
            jax.random.key(k),
            density_of({one: analyses[one] for one in run}),
            n_total=options.rows,
            n_effective=options.effective,
            n_active=options.effective // 2,
            progress=False,
        )
        for k, run in enumerate(runs)
    }
    first, second = (analyses[one].space for one in names)
    shared = first.select([name for name in first.names if name in second.names])
    whole, rows = chains[names].dim == shared.dim, []
    joint = exact(density_of(analyses), chains[names])
    exact_r = joint.log_evidence - sum(chains[one,].log_evidence for one in names)
    joint = joint.select(shared.names)
    error_r = np.sqrt(sum(chains[one,].log_evidence_error ** 2 for one in names))
    ways = [(names, False), (names[::-1], False), *([(names, True)] if whole else [])]
    for order, called in ways:
        start = time.perf_counter()
        parts = {one: chains[one,] for one in order}
        densities = {one: density_of({one: analyses[one]}) for one in order} if called else None
        found = fp.combine(
            jax.random.key(9),
            parts,
            prior=fp.UniformPrior(shared),
            densities=densities,
            splits=options.splits,
            progress=False,
        )
        taken = time.perf_counter() - start
        print(found, flush=True)
        found_chain = found.chain.select(shared.names)
        loss = ""
        if whole:
            log_ratio = in_order(found, joint) - joint.log_prob
            loss = "{:.4f} +- {:.4f}".format(*posterior_divergence(log_ratio, joint.probabilities, joint.dependence))
        deviation = np.sqrt(np.diag(joint.covariance()))
        shift = np.abs(found_chain.mean() - joint.mean()) / deviation
        widths = np.sqrt(np.diag(found_chain.covariance())) / deviation
        modes = fp.compare(joint, found_chain, classify=False, repeats=1).modes[:1]
        share = "; ".join(
            f"{mode.b[0] - mode.a[0]:+.3f} +- {np.hypot(mode.a_error[0], mode.b_error[0]):.3f} of {mode.a[0]:.3f}"
            for mode in modes
        )
        off, off_error = found.log_bayes_factor - exact_r, np.hypot(error_r, found.log_bayes_factor_error)
        rows.append(
            (
                f"{case}: {' x '.join(order)}{', densities called' if called else ''}",
                loss,
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


def exact(density: fp.ModelDensity, chain: fp.Chain) -> fp.Chain:
    """Returns draws of a flow of the joint posterior, weighted to its density: exact shares of modes, and evidence."""
    learned = fp.fit_flow(jax.random.key(8), chain.select(density.names), progress=False).prior
    made = weighted_draws(
        jax.random.key(7), [learned], density.log_posterior, density.space, draws=20_000, progress=False
    )
    assert made is not None
    print(f"joint posterior: {made.info}; log evidence {made.log_evidence:.4f} +- {made.log_evidence_error:.4f}")
    return made


def in_order(found: fp.Combined, chain: fp.Chain) -> np.ndarray:
    """Returns the log density of a combination at the rows of a chain with the same parameters."""
    return found.log_prob(chain.select(found.chain.names).samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rows", type=int, default=20_000, help="draws of each analysis")
    parser.add_argument(
        "--effective", type=int, default=512, help="effective particles of each analysis and temperature"
    )
    parser.add_argument("--splits", type=int, default=0, help="of the rows into halves, for errors that include them")
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
