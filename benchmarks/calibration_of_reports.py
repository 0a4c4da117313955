"""Do quality reports and guards hold what they state on chains as people have them?

python benchmarks/calibration_of_reports.py --seeds 200 --output benchmarks/results/calibration_of_reports.md

Reports: the prior is a flow whose latent space is normal, so that rows of every kind are exact draws from it. Right
priors are warned of in at most one of a thousand reports (fewer than 200 effective rows always warn, of just that);
rows of a density 15 % wider, or shifted by 0.3, are found. Held out: a small flow is trained on the chain; what its
report says of rows that it did not see is compared with its log density at exact draws.

Guards: a normal prior, a normal measurement, truth and data drawn from the model, posterior rows of the same kind as
the rows before: all is as the model says, and the learned prior is the exact one.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from kinds import USUAL, Maker, independent
from scipy.stats import binomtest, norm
from tables import origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.diagnostics.quality import held_out_log_densities
from numpyro_flowprior.stages.exact import ExactDensity
from numpyro_flowprior.stages.guards import check_stage

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from toys import make_prior, mixture_prior

DIM = 3
COARSE = "effective held-out rows"  # the reason that few rows give, which says nothing of the prior
PRIOR = make_prior([(0.0, 1.0), (-np.inf, np.inf), (0.0, np.inf)], fp.FlowConfig(base="normal", layers=2, hidden=(8,)))
NOISE = 0.7  # of the guards' measurement


def chain_of(maker: Maker, rng: np.random.Generator, width: float = 1.0, shift: float = 0.0) -> fp.Chain:
    """Returns draws of the prior as the kind has them; wider or shifted in the latent space, of another density."""
    z, fields = maker(rng, DIM)
    with jax.enable_x64(True):
        theta = np.asarray(PRIOR.from_latent(shift + width * z), np.float64)
    return fp.Chain(theta, PRIOR.space, **fields)


def alarmed(maker: Maker, seed: int, **other: float) -> bool:
    report = fp.quality_report(jax.random.key(seed), PRIOR, chain_of(maker, np.random.default_rng(seed), **other))
    return any(COARSE not in reason for reason in report.reasons)


def rate(alarms: list[bool]) -> str:
    low, high = binomtest(sum(alarms), len(alarms)).proportion_ci(0.95)
    return f"{sum(alarms)} of {len(alarms)} ({100 * low:.1f} to {100 * high:.1f} %)"


def optimism(maker: Maker, seed: int) -> float:
    """Returns how much too good the report of a flow trained on the chain is, in its standard errors."""
    chain = chain_of(maker, np.random.default_rng([seed, 1]))
    config, train = (
        fp.FlowConfig(layers=2, hidden=(32,)),
        fp.TrainConfig(max_steps=800, batch_size=256, learning_rate=4e-3),
    )
    fit = fp.fit_flow(jax.random.key(seed), chain, config, train, progress=False)
    exact = chain_of(independent(20_000), np.random.default_rng([seed, 2]))
    truth = held_out_log_densities(fit.prior, exact)[0]
    error = np.hypot(fit.report.log_density_error, truth.std() / np.sqrt(len(truth)))
    return float((fit.report.log_density - truth.mean()) / error)


def model(prior: fp.FlowPrior, y: np.ndarray) -> None:
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(theta, NOISE).to_event(1), obs=y)


def guards_of(maker: Maker, seed: int) -> fp.Guards:
    """Returns the guards of a right stage: prior N(0, 1), data of the model, exact draws and evidence."""
    rng = np.random.default_rng([seed, 3])
    prior = mixture_prior(2, [(1.0, 0.0, 1.0)])
    y = rng.normal(size=2) + NOISE * rng.normal(size=2)
    width = (1.0 + NOISE**-2) ** -0.5
    (z, fields), (before, fields_before) = maker(rng, 2), maker(rng, 2)
    theta = width**2 * y / NOISE**2 + width * z
    log_prior, log_likelihood = norm.logpdf(theta).sum(axis=1), norm.logpdf(y, theta, NOISE).sum(axis=1)
    chain = fp.Chain(
        theta,
        prior.space,
        log_prob=log_prior + log_likelihood,
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        log_evidence=float(norm.logpdf(y, 0.0, np.hypot(1.0, NOISE)).sum()),
        log_evidence_error=0.001,
        **fields,
    )
    exact = ExactDensity(prior.space.names, lambda x: norm.logpdf(x).sum(axis=1), True)
    density = fp.ModelDensity(model, prior, y)
    return check_stage(
        jax.random.key(seed), density, prior, chain, fp.Chain(before, prior.space, **fields_before), exact=exact
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200, help="reports of right priors, of each kind")
    parser.add_argument("--wrong", type=int, default=10, help="reports of each planted error, of each kind")
    parser.add_argument("--fits", type=int, default=10, help="flows trained, of each kind")
    parser.add_argument("--guards", type=int, default=20, help="stages, of each kind")
    parser.add_argument("--kinds", nargs="*", default=list(USUAL), choices=list(USUAL))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, reasons = [], []
    for name in options.kinds:
        maker = USUAL[name]
        right = [alarmed(maker, seed) for seed in range(options.seeds)]
        wide = [alarmed(maker, seed, width=1.15) for seed in range(options.wrong)]
        far = [alarmed(maker, seed, shift=0.3) for seed in range(options.wrong)]
        pulls = np.array([optimism(maker, seed) for seed in range(options.fits)])
        guarded = [guards_of(maker, seed) for seed in range(options.guards)]
        for found in guarded:
            reasons += [
                f"{name}: {one.subject}: {one.text}" for one in found.findings if one.verdict in ("warn", "fail")
            ]
        rows.append(
            [
                name,
                rate(right),
                f"{sum(wide)} of {len(wide)}",
                f"{sum(far)} of {len(far)}",
                f"{pulls.mean():+.2f} +- {1.0 / np.sqrt(len(pulls)):.2f}; {pulls.std(ddof=1):.2f}"
                if len(pulls) > 1
                else "",
                rate([found.verdict != "pass" for found in guarded]) if guarded else "",
            ]
        )
        print(" | ".join(rows[-1]), flush=True)
        jax.clear_caches()  # compiled programs of all sizes would fill a process' map of its memory
    head = "rows | warned of right priors (95 %) | 15 % wider found | shift of 0.3 found "
    head += "| held-out less exact log density, in errors: mean; scatter | guards warn of right stages"
    publish(
        [
            "# Calibration of reports and guards\n",
            origin(f"python benchmarks/calibration_of_reports.py --seeds {options.seeds}"),
            f"A prior of {DIM} parameters on a box, a line and a half line; rows in its latent space, of each kind. "
            "Right reports of held-out rows have mean 0 and scatter 1 in the fifth column.\n",
            table(head, rows),
            "Guards that warned:\n\n" + "\n".join(f"- {reason}" for reason in reasons)
            if reasons
            else "No guard warned.",
        ],
        options.output,
    )


if __name__ == "__main__":
    main()
