"""Roch and Shen (2025), figure by figure, on the twin: what their way gives, what ours gives, what the guards say.

    stages   Figs. 3, 4, 6 and 7: gamma+p then gamma+Pb and the reverse; gamma+Pb's integrated data, then its
             t-differential ones, and the reverse. The second posterior against the joint fit's, by their average KL
             divergence of 75-bin marginals with its noise floor, and by what the learned prior costs (exact).
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
from tables import kept, origin, publish, table

import numpyro_flowprior as fp
from numpyro_flowprior import twin
from numpyro_flowprior.moments import draws_of
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
PAPER_TRAIN = replace(fp.TrainConfig.paper("jeffreys", 1e-3), max_steps=STEPS, eval_every=500, patience=10)
WAYS: dict[str, dict[str, Any]] = {
    "theirs: one RealNVP, Jeffreys'": {"config": fp.FlowConfig.paper(8), "train": PAPER_TRAIN},
    "ours, from the draws alone": {"tail_aware": False},
    "ours": {},
    "ours, reweighted": {"psis": True},
}
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


def sampler(folder: Path) -> Callable[..., fp.Chain]:
    """Returns sample_pocomc that runs a posterior under the flat prior once, whoever asks for it."""

    def sample_pocomc(key: jax.Array, density: fp.ModelDensity, *, checkpoint: Any = None, **options: Any) -> fp.Chain:
        if not isinstance(density.arguments[0][0], fp.UniformPrior):
            return fp.sample_pocomc(key, density, checkpoint=checkpoint, **options)
        path = folder / f"first_{'+'.join(density.observed)}.npz"
        return kept(path, lambda: fp.sample_pocomc(key, density, **options))

    return sample_pocomc


def joint_fit(folder: Path, systems: Sequence[str], *, progress: bool) -> fp.Chain:
    """Returns the one-shot fit of several systems."""
    density = fp.ModelDensity(model, fp.UniformPrior(twin.SPACE), systems)
    return sampler(folder)(jax.random.key(77), density, **{**SIZES, "n_total": 2 * SIZES["n_total"]}, progress=progress)


def staged(folder: Path, figure: str, way: str, *, progress: bool) -> fp.StagedAnalysis:
    """Returns the two stages of a figure, one way."""
    stages = [
        fp.Stage(system, model, ([system],), sampler_options=SECOND if number else {})
        for number, system in enumerate(ORDERS[figure][:2])
    ]
    place = folder / f"{figure} {list(WAYS).index(way.removesuffix(', reweighted'))}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the table says what did not converge
        return fp.run_stages(
            jax.random.key(5),
            stages,
            fp.UniformPrior(twin.SPACE),
            sampler=sampler(folder),
            sampler_options=SIZES,
            override=True,
            folder=place,
            progress=progress,
            **WAYS[way],
        )


def first_of(analysis: fp.StagedAnalysis) -> tuple[Any, fp.ModelDensity]:
    """Returns the prior learnt from the first stage, and that stage's model."""
    first = analysis.stages[0]
    return first.learned, fp.ModelDensity(model, fp.UniformPrior(twin.SPACE), [first.name])


def mode_weight(chain: fp.Chain) -> tuple[float, float]:
    """Returns the share of the posterior in the mode at large Lambda_QCD, and its standard error."""
    share = float(chain.probabilities @ (chain.samples[:, chain.space.index("Lambda_QCD")] > MODES))
    return share, float(np.sqrt(share * (1 - share) / chain.effective_size))


def figures(folder: Path, names: Sequence[str], ways: Sequence[str], pictures: Path | None, *, progress: bool) -> str:
    """Returns the table of the figures."""
    rows = []
    for figure in names:
        first, second, theirs = ORDERS[figure]
        joint = joint_fit(folder, sorted((first, second)), progress=progress)
        rows.append(
            (figure, f"{first}, {second}: joint fit", "", "", "", with_error(*mode_weight(joint)), evidence(joint), "")
        )
        for way in ways:
            start = time.perf_counter()
            analysis = staged(folder, figure, way, progress=progress)
            chain = within_the_box(analysis.posterior)
            found = fp.compare(joint, chain)
            sum_error = np.hypot(analysis.log_evidence_error or np.nan, joint.log_evidence_error or np.nan)
            rows.append(
                (
                    "",
                    way,
                    f"{found.kl.average:.3f} ({theirs})" if way.startswith("theirs") else f"{found.kl.average:.3f}",
                    f"{found.excess:.3f} +- {found.excess_error:.3f}",
                    "reweighted" if "psis" in WAYS[way] else with_error(*joint_loss(*first_of(analysis), joint)),
                    with_error(*mode_weight(chain)),
                    with_error((analysis.log_evidence or np.nan) - (joint.log_evidence or np.nan), sum_error),
                    analysis.stages[1].guards.verdict,
                )
            )
            print(figure, *rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
            print(analysis.stages[1].guards, flush=True)
            if pictures:
                draw(pictures / f"{figure.replace('. ', '')}_{list(WAYS).index(way)}.png", joint, analysis)
    head = "figure|way|average KL (theirs)|excess|lost to the prior|weight of Lambda_QCD > 0.05|log evidence|guards"
    return table(head, rows)


def with_error(value: float, error: float) -> str:
    """Returns a number and its error."""
    return f"{value:.3f} +- {error:.3f}"


def evidence(chain: fp.Chain) -> str:
    """Returns a chain's log evidence and its error."""
    return with_error(chain.log_evidence or np.nan, chain.log_evidence_error or np.nan)


def within_the_box(chain: fp.Chain) -> fp.Chain:
    """Returns a chain with the box's bounds: a flow without them has none."""
    return chain.replace(space=twin.SPACE)


def draw(path: Path, joint: fp.Chain, analysis: fp.StagedAnalysis) -> None:
    """Draws joint fit, first and second stage, as the paper does."""
    first, second = analysis.stages
    chains = {"joint fit": joint, f"first: {first.name}": first.chain, f"second: {second.name}": second.chain}
    chains = {name: within_the_box(chain) for name, chain in chains.items()}
    fp.plot_corner(chains, truth=dict(twin.TRUTH)).savefig(path, dpi=80)


def learnt(folder: Path, *, progress: bool) -> str:
    """Returns the table of how well flows learn the four posteriors: average KL divergence, its excess."""
    rows = []
    for system, theirs in PAPER_TABLE.items():
        chain = joint_fit(folder, [system], progress=progress)
        train, test = chain.split(0.8, jax.random.key(0))
        settings = {
            f"theirs, {loss} (theirs: {number})": (
                fp.FlowConfig.paper(8),
                replace(PAPER_TRAIN, loss=loss),
                train,
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
            found = fp.compare(test.replace(space=twin.SPACE), fp.Chain(draws[inside], twin.SPACE))
            log_p = test.log_prob - test.log_evidence
            kl = log_p - log_prob_of(prior, test.samples)
            error = np.sqrt(test.probabilities @ (kl - test.probabilities @ kl) ** 2 / test.effective_size)
            rows.append(
                (
                    system,
                    name,
                    f"{found.kl.average:.3f}",
                    f"{found.excess:.3f} +- {found.excess_error:.3f}",
                    with_error(float(test.probabilities @ kl), float(error)),
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
    return f"python benchmarks/paper.py --parts {' '.join(options.parts)} --figures {figures} --ways {ways}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["stages", "tables"], choices=["stages", "tables"])
    parser.add_argument("--figures", nargs="+", default=list(ORDERS), choices=list(ORDERS))
    parser.add_argument("--ways", nargs="+", type=int, default=list(range(len(WAYS))), help="numbers, in WAYS")
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
            figures(options.folder, options.figures, ways, options.pictures, progress=options.progress),
        ]
    if "tables" in options.parts:
        parts += ["## Learning the four posteriors (Tables 2, 3)\n", learnt(options.folder, progress=options.progress)]
    publish(parts, options.output)


if __name__ == "__main__":
    main()
