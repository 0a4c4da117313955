"""Roch and Shen (2025), figure by figure, on the twin: what their way gives, what ours gives, what the guards say.

    stages   Figs. 3, 4, 6 and 7: gamma+p then gamma+Pb and the reverse; gamma+Pb's integrated data, then its
             t-differential ones, and the reverse. The second posterior against the joint fit's, by their average KL
             divergence of 75-bin marginals with its noise floor, and by what the learned prior costs (exact).
    emcee    Fig. 5: as Fig. 3, the second stage by emcee. Theirs: stretch moves from a ball around the first stage's
             best point, the second half of the steps. Ours: walkers from the prior, half of the moves proposals from a
             flow that learns 200,000 prior draws weighted by the likelihood, or by a power of it that leaves 500
             effective ones, until it is 50 autocorrelation times long.
    tables   Tables 2 and 3: how well flows learn the four posteriors, by loss, with their architecture and with ours.

The likelihoods are the twin's closed forms: no emulator's error is in the comparison. Everything is kept in a folder,
and goes on from there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from emcee_second_stage import WALKERS, proposal_of, usual
from tables import kept, origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior.examples import twin
from numpyro_flowprior.priors.moments import draws_of
from numpyro_flowprior.stages.exact import joint_loss, log_prob_of

INTEGRATED, DIFFERENTIAL = "gamma_Pb_integrated", "gamma_Pb_tdiff"
ORDERS = {  # figure: (first, second, their average KL divergence)
    "Fig. 3": ("gamma_p", "gamma_Pb", 0.1),
    "Fig. 4": ("gamma_Pb", "gamma_p", 6.482),
    "Fig. 6": (INTEGRATED, DIFFERENTIAL, 0.038),
    "Fig. 7": (DIFFERENTIAL, INTEGRATED, 0.051),
}
PAPER_TABLE = {  # Jeffreys', KL, likelihood
    "gamma_p": (0.047, 0.025, 0.024),
    "gamma_Pb": (0.061, 0.052, 0.052),
    INTEGRATED: (0.054, 0.049, 0.048),
    DIFFERENTIAL: (0.063, 0.061, 0.059),
}
LOSSES = ("jeffreys", "kl", "nll")
STEPS = 20_000  # of the paper's 200,000, at its largest rate: the validation loss is flat long before
PAPER_TRAIN = replace(fp.TrainConfig.paper("nll", 1e-3), max_steps=STEPS, eval_every=500, patience=10)
WAYS: dict[str, dict[str, Any]] = {
    "theirs: one RealNVP, likelihood": {"config": fp.FlowConfig.paper(8), "train": PAPER_TRAIN, "start": "prior"},
    "ours, from the draws alone": {"tail_aware": False},
    "ours": {},
    "ours, reweighted": {"psis": True},
}
KEY = jax.random.key(5)  # of staged runs
STEPS_EMCEE = 5_000, 20_000  # theirs, ours at most
PARTS = ("stages", "emcee", "tables")
MODES = 0.05  # GeV: the valley in Lambda_QCD between the joint posterior's two modes
SIZES = {"n_effective": 1024, "n_active": 512, "n_total": 8192}
SECOND = {"n_steps": 2 * twin.SPACE.dim}  # the posterior is where few draws of the prior are: particles walk further


def model(prior: Any, systems: Sequence[str]) -> None:
    """The closed-form stage: a prior without bounds, as the paper's flow, has no likelihood outside of the box."""
    theta = numpyro.sample("theta", prior)
    low, high = (jnp.asarray(edge) for edge in (twin.LOWER, twin.UPPER))
    if not np.isfinite(prior.space.bounds).all():
        numpyro.factor("box", jnp.where(jnp.all((theta > low) & (theta < high)), 0.0, -jnp.inf))
        theta = jnp.clip(theta, low, high)
    for system in systems:
        data = twin.pseudo_data(system)
        numpyro.sample(system, dist.MultivariateNormal(twin.predict(theta, system), data.covariance), obs=data.y)


def sampler(folder: Path, *, equal: bool = False) -> Callable[..., fp.Chain]:
    """Returns sample_pocomc that runs a posterior under the flat prior once, whoever asks for it.

    Args:
        folder: where that is kept.
        equal: whether to hand it on as rows of equal weight, as the paper's flow takes them.
    """

    def sample_pocomc(key: jax.Array, density: fp.ModelDensity, *, checkpoint: Any = None, **options: Any) -> fp.Chain:
        if not isinstance(density.arguments[0][0], fp.UniformPrior):
            return fp.sample_pocomc(key, density, checkpoint=checkpoint, **options)
        path = folder / f"first_{'+'.join(density.observed)}.npz"
        chain = kept(path, lambda: fp.sample_pocomc(key, density, **options))
        return equally_weighted(chain) if equal else chain

    return sample_pocomc


def equally_weighted(chain: fp.Chain) -> fp.Chain:
    """Returns rows of equal weight, as many as the chain is worth."""
    return chain.resample(jax.random.key(0), round(chain.effective_size))


def first_fit(folder: Path, system: str, *, progress: bool) -> fp.Chain:
    """Returns the first chain of the staged runs that begin with a system."""
    density = fp.ModelDensity(model, fp.UniformPrior(twin.SPACE), [system])
    key = jax.random.split(jax.random.fold_in(KEY, 0), 4)[0]  # as run_stages has it
    return sampler(folder)(key, density, **SIZES, progress=progress)


def joint_fit(folder: Path, systems: Sequence[str], *, progress: bool, again: bool = False) -> fp.Chain:
    """Returns the one-shot fit of several systems, or the same with another seed."""
    density = fp.ModelDensity(model, fp.UniformPrior(twin.SPACE), systems)
    options = {**SIZES, "n_total": 2 * SIZES["n_total"], "progress": progress}
    if again:
        path = folder / f"again_{'+'.join(density.observed)}.npz"
        return kept(path, lambda: fp.sample_pocomc(jax.random.key(78), density, **options))
    return sampler(folder)(jax.random.key(77), density, **options)


def staged(folder: Path, figure: str, way: str, *, progress: bool, more: int = 1) -> fp.StagedAnalysis:
    """Returns the two stages of a figure, one way, with so many times the particles."""
    if more > 1:
        folder = folder / f"{more} times"
        folder.mkdir(exist_ok=True)
    stages = [
        fp.Stage(system, model, ([system],), sampler_options=SECOND if number else {})
        for number, system in enumerate(ORDERS[figure][:2])
    ]
    place = folder / f"{figure} {list(WAYS).index(way.removesuffix(', reweighted'))}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the table says what did not converge
        return fp.run_stages(
            KEY,
            stages,
            fp.UniformPrior(twin.SPACE),
            sampler=sampler(folder, equal=way.startswith("theirs")),
            sampler_options={name: more * size for name, size in SIZES.items()},
            options=fp.StageOptions(override=True, **WAYS[way]),
            folder=place,
            progress=progress,
        )


def first_of(analysis: fp.StagedAnalysis) -> tuple[Any, fp.ModelDensity]:
    """Returns the prior learnt from the first stage, and that stage's model."""
    first = analysis.stages[0]
    return first.learned, fp.ModelDensity(model, fp.UniformPrior(twin.SPACE), [first.name])


def mode_weight(chain: fp.Chain) -> tuple[float, float]:
    """Returns the share of the posterior in the mode at large Lambda_QCD, and its standard error."""
    there = chain.samples[:, chain.space.index("Lambda_QCD")] > MODES
    share, error = chain.mean_and_error(there.astype(float))
    return float(share), float(error)


def figures(
    folder: Path, names: Sequence[str], ways: Sequence[str], pictures: Path | None, *, progress: bool, more: int
) -> str:
    """Returns the table of the figures."""
    rows = []
    for figure in names:
        first, second, theirs = ORDERS[figure]
        joint, again = (joint_fit(folder, sorted((first, second)), progress=progress, again=b) for b in (False, True))
        title = f"{first}, {second}: joint fit"
        rows.append((figure, title, "", "", "", with_error(*mode_weight(joint)), evidence(joint), ""))
        title = "the same with another seed"
        rows.append(
            ("", title, *divergence(joint, again), "", with_error(*mode_weight(again)), evidence(again, joint), "")
        )
        for way in ways:
            start = time.perf_counter()
            analysis = staged(folder, figure, way, progress=progress, more=more)
            chain = within_the_box(analysis.posterior)
            kl, excess = divergence(joint, chain)
            rows.append(
                (
                    "",
                    way,
                    f"{kl} ({theirs})" if way.startswith("theirs") else kl,
                    excess,
                    "reweighted" if "psis" in WAYS[way] else with_error(*joint_loss(*first_of(analysis), joint)),
                    with_error(*mode_weight(chain)),
                    evidence(analysis, joint),
                    analysis.stages[1].guards.verdict,
                )
            )
            print(figure, *rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
            print(analysis.stages[1].guards, flush=True)
            if pictures:
                draw(pictures / f"{figure.replace('. ', '')}_{list(WAYS).index(way)}.png", joint, analysis)
    head = "figure|way|average KL (theirs)|excess|lost to the prior|weight of Lambda_QCD > 0.05|log evidence|guards"
    return table(head, rows)


def emcee_stages(folder: Path, *, progress: bool) -> str:
    """Returns the table of the second stage by emcee."""
    joint, rows = joint_fit(folder, ["gamma_Pb", "gamma_p"], progress=progress), []
    theirs, _, ours, _ = WAYS
    for way in (theirs, ours):
        analysis = staged(folder, "Fig. 3", way, progress=progress)
        first = analysis.stages[0]
        density = fp.ModelDensity(model, first.learned, ["gamma_Pb"])
        if way == theirs:
            best = first.chain.samples[np.argmax(first.chain.log_prob)]
            width = 1e-2 * np.diff(twin.SPACE.bounds, axis=1)[:, 0]
            starts = best + width * np.random.default_rng(0).normal(size=(WALKERS, density.dim))
            chain, (_, acceptance, tau, converged) = usual(density, starts, STEPS_EMCEE[0])
        else:
            options = {"n_walkers": WALKERS, "max_steps": STEPS_EMCEE[1], "progress": progress}
            proposal, _ = proposal_of(density)
            chain = fp.sample_emcee(jax.random.key(3), density, proposal=proposal, proposal_share=0.5, **options)
            acceptance, tau = f"{chain.info['acceptance']:.2f}", f"{chain.info['autocorrelation_time']:.0f}"
            converged = "yes" if chain.info["converged"] else "no"
        inside = within_the_box(chain)
        rows.append(
            (
                way,
                *divergence(joint, inside),
                with_error(*joint_loss(*first_of(analysis), joint)),
                with_error(*mode_weight(inside)),
                acceptance,
                tau,
                converged,
            )
        )
        print(rows[-1], flush=True)
    head = (
        "way|average KL|excess|lost to the prior|weight of Lambda_QCD > 0.05|acceptance|tau [steps]|longer than 50 tau"
    )
    return table(head, rows)


def with_error(value: float, error: float) -> str:
    """Returns a number and its error."""
    return f"{value:.3f} +- {error:.3f}"


def divergence(joint: fp.Chain, chain: fp.Chain) -> tuple[str, str]:
    """Returns the average divergence as the paper has it, and its excess over the noise in bins that follow the draws.

    The paper's are 75 bins between the declared bounds, where noise is most of the average.
    """
    theirs = fp.marginal_kl(joint, chain, "declared")
    found = fp.compare(joint, chain, modes={}, classify=False)
    return f"{theirs.average:.3f}", with_error(found.excess, found.excess_error)


def evidence(fit: fp.Chain | fp.StagedAnalysis, joint: fp.Chain | None = None) -> str:
    """Returns a log evidence and its error, less that of the joint fit."""
    value, error = fit.log_evidence or np.nan, fit.log_evidence_error or np.nan
    if joint is None:
        return with_error(value, error)
    return with_error(
        value - (joint.log_evidence or np.nan), float(np.hypot(error, joint.log_evidence_error or np.nan))
    )


def within_the_box(chain: fp.Chain) -> fp.Chain:
    """Returns a chain with the box's bounds: a flow without them has none."""
    return chain.replace(space=twin.SPACE)


def draw(path: Path, joint: fp.Chain, analysis: fp.StagedAnalysis) -> None:
    """Draws joint fit, first and second stage, as the paper does."""
    first, second = analysis.stages
    chains = {"joint fit": joint, f"first: {first.name}": first.chain, f"second: {second.name}": second.chain}
    chains = {name: within_the_box(chain) for name, chain in chains.items()}
    fp.plot_corner(chains, truth=dict(twin.TRUTH), full_range=True).savefig(path, dpi=80)


def learnt(folder: Path, *, progress: bool) -> str:
    """Returns the table of how well flows learn the four posteriors: average KL divergence, its excess."""
    rows = []
    for system, theirs in PAPER_TABLE.items():
        chain = first_fit(folder, system, progress=progress)
        train, test = chain.split(jax.random.key(0), 0.8)
        settings = {
            f"theirs, {loss} (theirs: {number})": (
                fp.FlowConfig.paper(8),
                replace(PAPER_TRAIN, loss=loss, normalised=loss == "jeffreys"),
                equally_weighted(train),
            )
            for loss, number in zip(LOSSES, theirs, strict=True)
        }
        settings["ours, from the draws alone"] = (None, None, train.replace(log_prob=None))
        settings["ours"] = (None, None, train)
        for name, (config, training, rows_seen) in settings.items():
            start = time.perf_counter()
            prior = fp.fit_flow(jax.random.key(1), rows_seen, config, training, progress=progress).prior
            seconds = time.perf_counter() - start
            draws = draws_of(prior, jax.random.key(2), 200_000)
            inside = twin.SPACE.contains(draws)
            kl_average, excess = divergence(test.replace(space=twin.SPACE), fp.Chain(draws[inside], twin.SPACE))
            log_p = test.log_prob - test.log_evidence
            kl = log_p - log_prob_of(prior, test.samples)
            rows.append(
                (
                    system,
                    name,
                    kl_average,
                    excess,
                    with_error(*test.mean_and_error(kl)),
                    f"{100 * (1 - inside.mean()):.1f} %",
                    f"{seconds:.0f}",
                )
            )
            print(*rows[-1], flush=True)
    return table("posterior|flow|average KL|excess|KL(p, q), exact|outside of the box|seconds", rows)


def command(options: argparse.Namespace) -> str:
    """Returns the command that prints the same page."""
    figures = " ".join(f'"{figure}"' for figure in options.figures)
    ways = " ".join(map(str, options.ways))
    more = f" --more {options.more}" * (options.more > 1)
    return f"python benchmarks/paper.py --parts {' '.join(options.parts)} --figures {figures} --ways {ways}{more}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--figures", nargs="+", default=list(ORDERS), choices=list(ORDERS))
    parser.add_argument("--ways", nargs="+", type=int, default=list(range(len(WAYS))), help="numbers, in WAYS")
    parser.add_argument("--more", type=int, default=1, help="times the particles of the figures' stages")
    parser.add_argument("--folder", type=Path, default=Path("paper_output"), help="keeps what is done")
    parser.add_argument("--pictures", type=Path, help="folder for corner plots")
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    parts = ["# Roch and Shen (2025) on the twin\n", origin(command(options), "pocomc")]
    if "stages" in options.parts:
        ways = [list(WAYS)[number] for number in options.ways]
        parts += [
            "## Two stages against the joint fit (Figs. 3, 4, 6, 7)\n",
            figures(
                options.folder, options.figures, ways, options.pictures, progress=options.progress, more=options.more
            ),
        ]
    if "emcee" in options.parts:
        parts += ["## emcee in the second stage (Fig. 5)\n", emcee_stages(options.folder, progress=options.progress)]
    if "tables" in options.parts:
        parts += ["## Learning the four posteriors (Tables 2, 3)\n", learnt(options.folder, progress=options.progress)]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
