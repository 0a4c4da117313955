"""run_stages: a sequence of analyses, each with the posterior of the one before as its prior."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
from numpyro.distributions import Distribution

from .._util.checks import shorten
from .._util.keys import seed_from_key
from .._util.messages import FlowPriorError
from .._util.progress import say
from ..chains.chain import Chain
from ..priors.composed import robustify
from ..priors.flow_prior import FlowPrior
from ..sampling.checkpoint import described
from ..sampling.density import ModelDensity
from ..sampling.pocomc import sample_pocomc
from ..sampling.protocol import Sampler
from ..sampling.record import INTERRUPTION
from ..sampling.reweight import psis_reweight
from .analysis import StagedAnalysis, StageResult
from .exact import ExactDensity, exact_posterior, exact_prior
from .folder import StageFolder, begin_folder, handed_on, report_of
from .guards import check_stage
from .origin import chain_fingerprint
from .stage import Stage, StageOptions, checked_stages, kept_names
from .steps import guarded, learnt, sampled


class StageStopped(FlowPriorError, RuntimeError):
    """A staged analysis stopped before its end; `analysis` holds the stages that are done (None if there are none)."""

    def __init__(self, message: str, analysis: StagedAnalysis | None):
        super().__init__(message)
        self.analysis = analysis


def run_stages(
    key: jax.Array,
    stages: Iterable[Stage],
    first_prior: Distribution,
    *,
    sampler: Sampler = sample_pocomc,
    sampler_options: Mapping[str, Any] | None = None,
    options: StageOptions | None = None,
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
            (key, density, **options) that returns a Chain; one whose signature names `progress` or `checkpoint` is
            given them.
        sampler_options: keyword arguments of the sampler in all stages.
        options: how stages are learnt, corrected and begun; None for StageOptions().
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
    options = StageOptions() if options is None else options
    if not isinstance(options, StageOptions):
        raise TypeError(f"run_stages: options: expected StageOptions(...); got {type(options).__name__}.")
    folders = [None] * len(stages) if folder is None else begin_folder(folder, [stage.name for stage in stages])
    run = _Run(key, sampler, sampler_options or {}, options, len(stages), progress)
    before = _Before(first_prior)
    for stage, files in zip(stages, folders, strict=True):
        before = _stage_after(before, stage, files, run)
    return StagedAnalysis(before.done)


@dataclass(frozen=True)
class _Run:
    """What is the same for all stages of a run."""

    key: jax.Array
    sampler: Sampler
    sampler_options: Mapping[str, Any]
    options: StageOptions
    number: int
    progress: bool


@dataclass(frozen=True)
class _Before:
    """What the stages before hand on.

    Attributes:
        prior: of the next stage.
        chain: the last posterior, of the parameters that are handed on; None before the first stage.
        exact: its density as a function, None if it is not known.
        origin: fingerprints of what is handed on.
        done: the stages' results.
    """

    prior: Distribution
    chain: Chain | None = None
    exact: ExactDensity | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    done: tuple[StageResult, ...] = ()


def _stage_after(before: _Before, stage: Stage, files: StageFolder | None, run: _Run) -> _Before:
    """Returns what a stage hands on, with its result: sampled, reweighted, guarded, learnt.

    Raises:
        StageStopped: see `run_stages`.
    """
    options, progress, number = run.options, run.progress, len(before.done)
    key_sample, key_fit, key_guard, key_look = jax.random.split(jax.random.fold_in(run.key, number), 4)
    density = ModelDensity(stage.model, before.prior, *stage.args, **stage.kwargs)
    if number:
        _require_prior(stage, density, before.prior)
    names = kept_names(stage, density.names)
    settings = _settings(run, stage, names, first=number == 0)
    if files is not None:
        files.begin(settings, override=options.override)
    say(f"stage {stage.name!r}: {getattr(run.sampler, '__name__', 'the sampler')}", progress=progress)
    sample = partial(_sample, run, key_sample, {**run.sampler_options, **stage.sampler_options}, files)
    try:
        chain = sampled(key_look, density, sample, files, before.origin, options)
    except TimeoutError as error:  # before there was any draw
        analysis = StagedAnalysis(before.done) if before.done else None
        raise StageStopped(f"stage {stage.name!r}: {error}{_where(files)}", analysis) from error
    if chain.info.get("stopped_by") == INTERRUPTION or (chain.info.get("converged") is False and not options.override):
        result = StageResult(stage.name, chain, settings=settings)
        raise _stopped(before.done, result, files, "its sampler did not converge")
    exact = _exact_prior(stage, density, before, psis=options.psis)
    target = exact if options.psis else None
    chain = _corrected(chain, target, files)
    made_from, reweighted = {"chain": chain_fingerprint(chain)}, target is not None
    guards = None
    if before.chain is not None:
        say(f"stage {stage.name!r}: its guards", progress=progress)
        given = key_guard, density, before.prior, chain, before.chain
        make = partial(check_stage, *given, exact=exact, corrected=reweighted)
        guards = guarded(make, files, {**before.origin, **made_from}, reweighted=reweighted)
    say(f"stage {stage.name!r}: the prior learnt from it", progress=progress)
    kept = chain if names == chain.names else chain.select(names)
    learned = learnt(key_fit, kept, options, files, made_from, reweighted=reweighted, progress=progress)
    result = StageResult(stage.name, chain, learned, report_of(learned), guards, settings)
    last = number + 1 == run.number
    if result.report is not None and result.report.verdict == "fail" and not (options.override or last):
        raise _stopped(before.done, result, files, "the prior learnt from it fails its report")
    return _Before(
        robustify(learned, options.robust) if options.robust else learned,
        kept,
        _exact_posterior(density, chain, number, exact, names),
        handed_on(chain, learned),
        (*before.done, result),
    )


def _require_prior(stage: Stage, density: ModelDensity, prior: Distribution) -> None:
    missing = [name for name in prior.space.names if name not in density.names]
    if missing:
        raise ValueError(
            f"Stage {stage.name!r}: expected a model that samples its first argument, the prior over "
            f"{shorten(prior.space.names, 40)}; its parameters are {shorten(density.names, 40)}. "
            'Write numpyro.sample("theta", prior) in it, once.'
        )


def _settings(run: _Run, stage: Stage, names: tuple[str, ...], *, first: bool) -> dict[str, Any]:
    """Returns what decides a stage's results, besides model and data, which are known by their log densities."""
    options, given = run.options, {**run.sampler_options, **stage.sampler_options}
    return {
        "name": stage.name,
        "key": seed_from_key(run.key),
        "sampler": getattr(run.sampler, "__name__", type(run.sampler).__name__),
        "sampler_options": {name: _text(value) for name, value in sorted(given.items())},
        "hands_on": list(names),
        "config": None if options.config is None else options.config.to_json(),
        "train": None if options.train is None else options.train.to_json(),
        "tail_aware": options.tail_aware,
        "robust": 0.0 if first else options.robust,
        "start": options.start,
    }


def _text(option: Any) -> str:
    """Returns what an option is, as text that is the same in every process: no addresses."""
    if isinstance(option, FlowPrior):  # as it was written when folders began
        return f"FlowPrior({option.space!r}, {option.config!r})"
    text = repr(option)
    return repr(described(option)) if " at 0x" in text else text


def _sample(
    run: _Run, key: jax.Array, options: Mapping[str, Any], files: StageFolder | None, density: ModelDensity
) -> Chain:
    taken = inspect.signature(run.sampler).parameters
    given = {"progress": run.progress, "checkpoint": None if files is None else files.checkpoint}
    return run.sampler(key, density, **{**{name: given[name] for name in given if name in taken}, **options})


def _exact_prior(stage: Stage, density: ModelDensity, before: _Before, *, psis: bool) -> ExactDensity | None:
    """Returns the exact prior of a later stage, None if it is not known as a function."""
    if before.chain is None:
        return None
    if before.exact is not None:
        return exact_prior(density, before.prior, before.exact)
    if psis:
        raise ValueError(
            f"Stage {stage.name!r}: StageOptions(psis=True): expected stages before that hand on all their "
            "parameters; one dropped some (keep=...), and a marginal density is not known as a function. Keep them, or "
            "leave psis out."
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


def _stopped(done: tuple[StageResult, ...], result: StageResult, files: StageFolder | None, why: str) -> StageStopped:
    """Returns the exception that ends a run in a stage, with what was found and what can be done."""
    if result.chain.info.get("stopped_by") == INTERRUPTION:
        why, advice = "interrupted", ""
        if files is not None and not files.checkpoint.exists():
            advice = (
                " This sampler keeps no checkpoint, so the stage begins again; its draws are in this error's analysis."
            )
    elif result.report is None:
        advice = (
            " Run it longer (sampler_options, or those of the stage), or pass StageOptions(override=True) to go on "
            "regardless."
        )
    else:
        reasons = " ".join(result.report.reasons)
        advice = (
            f" {reasons} Look at it with plot_quality; try FlowConfig, TrainConfig or a longer chain; or "
            "StageOptions(override=True)."
        )
    return StageStopped(f"stage {result.name!r}: {why}.{advice}{_where(files)}", StagedAnalysis((*done, result)))


def _where(files: StageFolder | None) -> str:
    return "" if files is None else f" What is done is in {files.path.parent}; the same call goes on from there."
