"""run_stages: a sequence of analyses, each with the posterior of the one before as its prior."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax

from .._util.checks import real_in, shorten
from .._util.keys import seed_from_key
from .._util.messages import FlowPriorError
from .._util.progress import say
from ..chains.chain import Chain
from ..flows.config import FlowConfig
from ..priors.composed import robustify
from ..sampling.broad_start import Start
from ..sampling.checkpoint import described
from ..sampling.density import ModelDensity
from ..sampling.pocomc import sample_pocomc
from ..sampling.record import INTERRUPTION
from ..sampling.reweight import psis_reweight
from ..training.config import TrainConfig
from .analysis import StagedAnalysis, StageResult
from .exact import ExactDensity, exact_posterior, exact_prior
from .folder import StageFolder, begin_folder, handed_on, report_of
from .guards import check_stage
from .origin import chain_fingerprint
from .stage import Stage, checked_stages, kept_names
from .steps import guarded, learnt, sampled


class StageStopped(FlowPriorError, RuntimeError):
    """A staged analysis stopped before its end; `analysis` holds the stages that are done (None if there are none)."""

    def __init__(self, message: str, analysis: StagedAnalysis | None):
        super().__init__(message)
        self.analysis = analysis


def run_stages(
    key: jax.Array,
    stages: Iterable[Stage],
    first_prior: Any,
    *,
    sampler: Callable[..., Chain] = sample_pocomc,
    sampler_options: Mapping[str, Any] | None = None,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    tail_aware: bool = True,
    robust: float = 0.0,
    psis: bool = False,
    start: Start = "auto",
    override: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> StagedAnalysis:
    """Returns the posteriors of stages, the first under `first_prior`, each later one under what was learnt before it.

    After each stage a flow is fitted to its posterior and judged on rows that its training did not see; after each
    later stage the guards ask whether the prior could be trusted where the new posterior is. Where sampler or report
    fail, the run stops, for what follows would stand on them.

    Args:
        key: JAX random key. A stage's depends on its number alone: adding a stage at the end leaves the others.
        stages: the analyses, in order.
        first_prior: a NumPyro distribution; the first model's first argument.
        sampler: `sample_pocomc`, `sample_blackjax`, `sample_emcee`, `sample_nuts`, or a function of the same signature
            (key, density, **options) that returns a Chain.
        sampler_options: keyword arguments of the sampler in all stages.
        config, train: of `fit_flow`; None for what suits each chain.
        tail_aware: teach the flow the log density at all draws, those of low weight included: pocoMC's particles of all
            temperatures. False to learn from where the draws are alone.
        robust: weight of a broad prior that is mixed into each learned one (`robustify`); 0 for none.
        psis: reweight each posterior to the exact posterior of the stages before as its prior (`psis_reweight`), which
            takes out what the learned prior got wrong wherever there are draws. It evaluates all earlier models.
        start: where samplers of later stages begin. "prior": at the learned prior, as the model says. "broad": at a
            broad one, the learned prior's density a part of the likelihood: the same posterior, at the price of a joint
            fit's temperatures, for one that holds little of the prior's mass, whose modes would be found by chance.
            "auto": "broad" where fewer than a hundred of 4096 prior draws are left when the likelihood weights them.
        override: go on where sampler or report fail.
        folder: where everything is written, made if missing; a run that was stopped, or killed, goes on from there when
            called again. What was made from a chain that has changed since is made again, with a warning where a stage
            is sampled again; its old chain is kept as `chain.stale.npz`. None to write nothing.
        progress: show progress bars and what is being done.

    Raises:
        StageStopped: a sampler did not converge, or had no draw when its time was up, a prior failed its report, or
            somebody interrupted; the stages done are in its `analysis`, and in the folder.
        TypeError, ValueError: stages that are none, that do not sample the prior they are given, or whose folder is
            that of another run; `psis` where a stage before dropped parameters.

    Source: Roch and Shen (2025), with two stages, without reports and guards.
    """
    stages = checked_stages(stages)
    robust = real_in(robust, "run_stages: robust", 0.0, 1.0, open_high=True)
    folders = [None] * len(stages) if folder is None else begin_folder(folder, [stage.name for stage in stages])
    learning = {"config": config, "train": train, "tail_aware": tail_aware}
    done: list[StageResult] = []
    prior: Any = first_prior
    earlier: tuple[Chain, ExactDensity | None] | None = None  # the last posterior, and its density as a function
    origin: dict[str, str] = {}  # fingerprints of what it hands on
    for number, (stage, files) in enumerate(zip(stages, folders, strict=True)):
        key_sample, key_fit, key_guard, key_look = jax.random.split(jax.random.fold_in(key, number), 4)
        options = {**(sampler_options or {}), **stage.sampler_options}
        density = ModelDensity(stage.model, prior, *stage.args, **stage.kwargs)
        if number:
            _require_prior(stage, density, prior)
        names = kept_names(stage, density.names)
        settings = _settings(
            key, stage, names, sampler, options, learning, robust=robust if number else 0.0, start=start
        )
        if files is not None:
            files.begin(settings)
        say(f"stage {stage.name!r}: {getattr(sampler, '__name__', 'the sampler')}", progress=progress)
        sample = partial(_sample, key_sample, sampler, options, files, progress=progress)
        try:
            chain = sampled(key_look, density, sample, files, origin, start=start, override=override)
        except TimeoutError as error:  # before there was any draw
            analysis = StagedAnalysis(tuple(done)) if done else None
            raise StageStopped(f"stage {stage.name!r}: {error}{_where(files)}", analysis) from error
        if chain.info.get("stopped_by") == INTERRUPTION or (chain.info.get("converged") is False and not override):
            result = StageResult(stage.name, chain, settings=settings)
            raise _stopped(done, result, files, "its sampler did not converge")
        exact = _exact_prior(stage, density, prior, earlier, psis=psis)
        target = exact if psis else None
        chain = _corrected(chain, target, files)
        made_from, reweighted = {"chain": chain_fingerprint(chain)}, target is not None
        guards = None
        if earlier is not None:
            say(f"stage {stage.name!r}: its guards", progress=progress)
            make = partial(check_stage, key_guard, density, prior, chain, earlier[0], exact=exact, corrected=reweighted)
            guards = guarded(make, files, {**origin, **made_from}, reweighted=reweighted)
        say(f"stage {stage.name!r}: the prior learnt from it", progress=progress)
        kept = chain if names == chain.names else chain.select(names)
        learned = learnt(key_fit, kept, learning, files, made_from, reweighted=reweighted, progress=progress)
        result = StageResult(stage.name, chain, learned, report_of(learned), guards, settings)
        last = number + 1 == len(stages)
        if result.report is not None and result.report.verdict == "fail" and not (override or last):
            raise _stopped(done, result, files, "the prior learnt from it fails its report")
        done.append(result)
        prior = robustify(learned, robust) if robust else learned
        earlier, origin = (kept, _exact_posterior(density, chain, number, exact, names)), handed_on(chain, learned)
    return StagedAnalysis(tuple(done))


def _require_prior(stage: Stage, density: ModelDensity, prior: Any) -> None:
    missing = [name for name in prior.space.names if name not in density.names]
    if missing:
        raise ValueError(
            f"Stage {stage.name!r}: expected a model that samples its first argument, the prior over "
            f"{shorten(prior.space.names, 40)}; its parameters are {shorten(density.names, 40)}. "
            'Write numpyro.sample("theta", prior) in it, once.'
        )


def _settings(
    key: jax.Array,
    stage: Stage,
    names: tuple[str, ...],
    sampler: Any,
    options: Mapping[str, Any],
    learning: Mapping[str, Any],
    *,
    robust: float,
    start: Start,
) -> dict[str, Any]:
    """Returns what decides a stage's results, besides model and data, which are known by their log densities."""
    config, train = learning["config"], learning["train"]
    return {
        "name": stage.name,
        "key": seed_from_key(key),
        "sampler": getattr(sampler, "__name__", type(sampler).__name__),
        "sampler_options": {name: _text(value) for name, value in sorted(options.items()) if name != "backend"},
        "hands_on": list(names),
        "config": None if config is None else config.to_json(),
        "train": None if train is None else train.to_json(),
        "tail_aware": learning["tail_aware"],
        "robust": robust,
        "start": start,
    }


def _text(option: Any) -> str:
    """Returns what an option is, as text that is the same in every process: no addresses."""
    text = repr(option)
    return repr(described(option)) if " at 0x" in text else text


def _sample(
    key: jax.Array,
    sampler: Callable[..., Chain],
    options: Mapping[str, Any],
    files: StageFolder | None,
    density: ModelDensity,
    *,
    progress: bool,
) -> Chain:
    taken = inspect.signature(sampler).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    given: dict[str, Any] = {"progress": progress} if "progress" in taken or open_ended else {}
    if files is not None and "checkpoint" in taken and "backend" not in options:
        given["checkpoint"] = files.checkpoint
    return sampler(key, density, **{**given, **options})


def _exact_prior(
    stage: Stage,
    density: ModelDensity,
    prior: Any,
    earlier: tuple[Chain, ExactDensity | None] | None,
    *,
    psis: bool,
) -> ExactDensity | None:
    """Returns the exact prior of a later stage, None if it is not known as a function."""
    if earlier is None:
        return None
    if earlier[1] is not None:
        return exact_prior(density, prior, earlier[1])
    if psis:
        raise ValueError(
            f"Stage {stage.name!r}: psis=True: expected stages before that hand on all their parameters; one dropped "
            "some (keep=...), and a marginal density is not known as a function. Keep them, or leave psis out."
        )
    return None


def _corrected(chain: Chain, exact: ExactDensity | None, files: StageFolder | None) -> Chain:
    """Returns the posterior reweighted to an exact prior, where there is one, and keeps it in the folder."""
    corrected = chain if exact is None else psis_reweight(chain, exact.log_density)
    if files is not None:
        files.keep_posterior(None if exact is None else corrected, {"chain": chain_fingerprint(chain)})
    return corrected


def _exact_posterior(
    density: ModelDensity, chain: Chain, number: int, prior: ExactDensity | None, names: tuple[str, ...]
) -> ExactDensity | None:
    """Returns a stage's posterior as a function, None if parameters were dropped in it or before."""
    if set(names) != set(density.names) or (number and prior is None):
        return None
    return exact_posterior(density, chain, prior)


def _stopped(done: list[StageResult], result: StageResult, files: StageFolder | None, why: str) -> StageStopped:
    """Returns the exception that ends a run in a stage, with what was found and what can be done."""
    if result.chain.info.get("stopped_by") == INTERRUPTION:
        why, advice = "interrupted", ""
    elif result.report is None:
        advice = " Run it longer (sampler_options, or those of the stage), or pass override=True to go on regardless."
    else:
        reasons = " ".join(result.report.reasons)
        advice = f" {reasons} Look at it with plot_quality; try FlowConfig, TrainConfig or a longer chain; or override."
    return StageStopped(f"stage {result.name!r}: {why}.{advice}{_where(files)}", StagedAnalysis((*done, result)))


def _where(files: StageFolder | None) -> str:
    return "" if files is None else f" What is done is in {files.path.parent}; the same call goes on from there."
