"""The paper's two-stage analysis on the closed-form stand-in: the gamma+p posterior is the prior of gamma+Pb.

`run_stages` runs both stages. They are compared with a joint fit of both systems, which they should reproduce. All
results are written into one folder.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpyro

from .._util.messages import ConvergenceWarning
from .._util.progress import say
from .._util.storage import write_atomically
from ..chains.chain import Chain
from ..diagnostics.comparison import Comparison, compare
from ..emulators.emulator import GPEmulator
from ..emulators.likelihood import EmulatorLikelihood
from ..flows.config import FlowConfig
from ..formats.to_arviz import to_arviz
from ..plots.corner import plot_corner
from ..priors.box import UniformPrior
from ..priors.flow_prior import FlowPrior
from ..sampling.density import ModelDensity
from ..sampling.emcee import sample_emcee
from ..sampling.pocomc import sample_pocomc
from ..sampling.reweight import psis_reweight
from ..stages.analysis import StagedAnalysis, evidence_in_words, total_evidence_in_words
from ..stages.exact import exact_posterior, joint_loss
from ..stages.html import write_report
from ..stages.run import run_stages
from ..stages.stage import Stage, StageOptions
from ..training.config import TrainConfig
from . import twin

FIRST, SECOND = "gamma_p", "gamma_Pb"
PICTURES, REPORT = ("corner_stages.png", "corner_prior.png"), "report.html"
_SECOND_STAGES = {
    "stage2_pocomc": "pocoMC",
    "stage2_reweighted": "pocoMC, reweighted to exact prior",
    "stage2_emcee": "emcee, as in the paper",
    "stage2_emcee_flow": "emcee, proposals from a flow",
}


@dataclass(frozen=True)
class DemoSize:
    """How much work the demo does.

    Attributes:
        pocomc: arguments of `sample_pocomc`.
        options: options of `run_stages`.
        emcee_steps: maximum number of steps of each walker, without and with proposals from a flow; None to leave emcee
            out.
        design: number of training points of each emulator.
        free: names of the free parameters. The others are fixed to the values that made the data.
    """

    pocomc: dict[str, Any]
    options: StageOptions
    emcee_steps: tuple[int, int] | None
    design: int
    free: tuple[str, ...] = twin.SPACE.names


FULL = DemoSize(
    pocomc={"n_total": 5_000, "n_effective": 1024, "n_active": 512},
    options=StageOptions(  # one flow that is trained for half as long as by default; stage 2 is sampled twice anyway
        FlowConfig(layers=4, hidden=(64,), components=16, background=True),
        TrainConfig(loss="log_variance", learning_rate=4e-3, batch_size=256, max_steps=6000, patience=30),
        override=True,
    ),
    emcee_steps=(600, 2000),
    design=500,
)
QUICK = DemoSize(  # what compiles slowly is left out: pocoMC's flow, and emcee
    pocomc={"n_total": 3000, "n_effective": 1024, "n_active": 512, "precondition": False},
    options=StageOptions(
        FlowConfig(layers=4, hidden=(32,), components=8, background=True),
        TrainConfig(loss="log_variance", learning_rate=4e-3, batch_size=256, max_steps=3000, patience=30),
        live=False,
        override=True,
    ),
    emcee_steps=None,
    design=200,
    free=("m", "m_JIMWLK", "Lambda_QCD"),
)
_PROPOSAL_SHARE = 0.5  # of the moves of emcee that a flow proposes
COMPONENTS = 7  # principal components per emulator: all that are above the noise of the training outputs


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo: chains by name, stages, comparisons with the joint fit, times and files.

    `lost` is KL from the joint posterior to the one computed with the flow, (nats, standard error). It is computed at
    the draws of the joint fit, without the sampler of a second stage.
    """

    chains: dict[str, Chain]
    analysis: StagedAnalysis
    comparisons: dict[str, Comparison]
    lost: tuple[float, float]
    seconds: dict[str, float]
    files: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON-ready record that is written to comparison.json."""
        evidence = {
            name: {"log_evidence": chain.log_evidence, "error": chain.log_evidence_error}
            for name, chain in self.chains.items()
            if chain.log_evidence is not None
        }
        return {
            "reference": "joint",
            "divergence_with_the_flow": {"nats": self.lost[0], "error": self.lost[1]},
            "comparisons": {name: comparison.to_json() for name, comparison in self.comparisons.items()},
            "evidence": evidence,
            "stages": self.analysis.to_json(),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        joint = self.chains["joint"]
        lines = [
            "Each second stage compared with the joint fit:",
            f"{'':34s} {'converged':>9s} {'average KL':>11s} {'noise floor':>12s} {'excess [nats]':>16s}",
        ]
        for name, found in self.comparisons.items():
            converged = "NO" if self.chains[name].info.get("converged") is False else "yes"
            lines.append(
                f"{_SECOND_STAGES[name]:34s} {converged:>9s} {found.kl.average:11.3f} {found.floor.mean():12.3f} "
                f"{found.excess:7.3f} +- {found.excess_error:.3f}"
            )
        lines += [
            "",
            f"KL from the joint posterior to the one with the flow: {self.lost[0]:.3f} +- {self.lost[1]:.3f} nats",
            f"log evidence of both stages: {total_evidence_in_words(self.analysis)}; joint fit: "
            f"{evidence_in_words(joint.log_evidence, joint.log_evidence_error)}",
            f"stages: {self.analysis.verdict}; "
            + "; ".join(f"{stage.name}: {stage.verdict}" for stage in self.analysis.stages),
            "seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in self.seconds.items()),
            "",
            f"files in {self.files[0].parent}: " + ", ".join(path.name for path in self.files),
            "",
            f"Open first: {self.files[0].parent / PICTURES[0]} (the second stage should agree with the joint fit)",
            f"      then: {self.files[0].parent / REPORT} (the checks of both stages)",
        ]
        return "\n".join(lines)


def stage_model(prior: Any, likelihoods: dict[str, EmulatorLikelihood]) -> None:
    """The NumPyro model of a stage: parameters drawn from a prior, and one multivariate normal per system."""
    theta = {**twin.TRUTH, **prior.space.as_dict(numpyro.sample("theta", prior))}
    for system, likelihood in likelihoods.items():
        numpyro.sample(system, likelihood(theta), obs=likelihood.observed)


def run_demo(out: Path, size: DemoSize = FULL, *, seed: int = 0, progress: bool = True) -> DemoResult:
    """Returns the results of the two-stage analysis and the joint fit on the stand-in; writes them into a folder.

    Args:
        out: folder for the results, created if missing; files of an earlier run are replaced.
        size: amount of work: FULL or QUICK.
        seed: seed of all random keys.
        progress: show progress bars and the current step.
    """
    out.mkdir(parents=True, exist_ok=True)
    keys = dict(
        zip(
            ("stages", "emcee", "joint", "draws", "emcee_flow", "report"),
            jax.random.split(jax.random.key(seed), 6),
            strict=True,
        )
    )
    seconds: dict[str, float] = {}
    files: list[Path] = []
    settings: dict[str, Any] = {**size.pocomc, "progress": progress}

    with _timed("emulators", seconds, progress=progress):
        likelihoods = {system: _likelihood(system, size, out, files, progress=progress) for system in (FIRST, SECOND)}
    uniform = UniformPrior(twin.SPACE.select(size.free))
    more = {"n_steps": 2 * len(size.free)}  # stage 2 ends where its prior has few draws; particles need more steps
    stages = [
        Stage(system, stage_model, ({system: likelihoods[system]},), sampler_options=steps)
        for system, steps in ((FIRST, {}), (SECOND, more))
    ]
    with _timed("gamma+p, then gamma+Pb with its posterior as the prior", seconds, "stages", progress=progress):
        how: dict[str, Any] = {"sampler_options": size.pocomc, "options": size.options, "progress": progress}
        analysis = run_stages(keys["stages"], stages, uniform, **how)
        prior = analysis[SECOND].taught or analysis.priors[FIRST]
        first = ModelDensity(stage_model, uniform, {FIRST: likelihoods[FIRST]})
        second = ModelDensity(stage_model, prior, {SECOND: likelihoods[SECOND]})
        chains = {"stage1": analysis.chains[FIRST], "stage2_pocomc": analysis.chains[SECOND]}
        files += [
            _write_netcdf(out / f"{name}.nc", chain, density)
            for (name, chain), density in zip(chains.items(), (first, second), strict=True)
        ]
        files.append(prior.save(out / "prior.safetensors", metadata={"title": "gamma+p stand-in, demo"}))
        exact = exact_posterior(first, chains["stage1"], None)
        chains["stage2_reweighted"] = psis_reweight(chains["stage2_pocomc"], exact.log_density)
    if size.emcee_steps is not None:
        where = out, files, seconds
        _with_emcee(keys, second, analysis.priors[SECOND], size.emcee_steps, chains, where, progress=progress)
    with _timed("joint fit with pocoMC", seconds, "joint", progress=progress):
        density = ModelDensity(stage_model, uniform, likelihoods)
        chains["joint"] = sample_pocomc(keys["joint"], density, **settings)
        files.append(_write_netcdf(out / "joint.nc", chains["joint"], density))

    with _timed("comparison and figures", seconds, "comparison", progress=progress):
        comparisons = {name: compare(chains["joint"], chains[name]) for name in _SECOND_STAGES if name in chains}
        lost = joint_loss(prior, first, chains["joint"])
        result = DemoResult(chains, analysis, comparisons, lost, seconds, files)
        files += _draw(out, chains, prior, keys["draws"])
        title = "gamma+p, then gamma+Pb: a closed-form stand-in"
        files.append(write_report(analysis, out / REPORT, title=title, key=keys["report"]))
    text = json.dumps(result.to_json(), indent=2)
    write_atomically(out / "comparison.json", text.encode())
    files.append(out / "comparison.json")
    return result


def _with_emcee(
    keys: dict[str, jax.Array],
    second: ModelDensity,
    proposal: FlowPrior,
    steps: tuple[int, int],
    chains: dict[str, Chain],
    to: tuple[Path, list[Path], dict[str, float]],
    *,
    progress: bool,
) -> None:
    """Samples the second stage with emcee alone, as the paper did, and with proposals from a flow; keeps both."""
    out, files, seconds = to
    with _timed("stage 2: gamma+Pb with emcee, as in the paper", seconds, "stage2_emcee", progress=progress):
        with warnings.catch_warnings():  # the table marks it
            warnings.simplefilter("ignore", ConvergenceWarning)
            chains["stage2_emcee"] = sample_emcee(keys["emcee"], second, max_steps=steps[0], progress=progress)
        files.append(_write_netcdf(out / "stage2_emcee.nc", chains["stage2_emcee"], second))
    with _timed("stage 2: gamma+Pb with emcee, proposals from a flow", seconds, "stage2_emcee_flow", progress=progress):
        how: dict[str, Any] = {"proposal": proposal, "proposal_share": _PROPOSAL_SHARE, "max_steps": steps[1]}
        chains["stage2_emcee_flow"] = sample_emcee(keys["emcee_flow"], second, **how, progress=progress)
        files.append(_write_netcdf(out / "stage2_emcee_flow.nc", chains["stage2_emcee_flow"], second))


@contextmanager
def _timed(what: str, seconds: dict[str, float], name: str | None = None, *, progress: bool) -> Iterator[None]:
    say(what, progress=progress)
    start = time.perf_counter()
    yield
    seconds[name or what] = round(time.perf_counter() - start, 2)


def _likelihood(system: str, size: DemoSize, out: Path, files: list[Path], *, progress: bool) -> EmulatorLikelihood:
    training, data = twin.training_set(system, size.design), twin.pseudo_data(system)
    emulator = GPEmulator.fit(
        training.X, training.Y, twin.SPACE, n_components=COMPONENTS, Y_error=training.Y_error, progress=progress
    )
    files.append(emulator.save(out / f"emulator_{system}.safetensors"))
    return EmulatorLikelihood(emulator, data.y, data.covariance)


def _write_netcdf(path: Path, chain: Chain, density: ModelDensity) -> Path:
    to_arviz(chain, density).to_netcdf(path)
    return path


def _draw(out: Path, chains: dict[str, Chain], prior: FlowPrior, key: jax.Array) -> list[Path]:
    stage1 = chains["stage1"]
    draws = Chain(jax.jit(lambda k: prior.sample(k, (20_000,)))(key), prior.space)
    stages = plot_corner(
        {
            "joint fit": chains["joint"],
            "stage 1: gamma+p": stage1,
            "stage 2: gamma+Pb, prior from stage 1": chains["stage2_reweighted"],
        },
        truth={name: twin.TRUTH[name] for name in prior.names},
    )
    both = {"chain of stage 1": stage1, "flow": draws}
    prior_picture = plot_corner(both, title="gamma+p")
    figures = dict(zip(PICTURES, (stages, prior_picture), strict=True))
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=110)
    return [out / name for name in figures]
