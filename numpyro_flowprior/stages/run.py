"""run_stages: a sequence of analyses in which the posterior of each is the prior of the next."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import jax
from numpyro.distributions import Distribution

from .._util.checks import shorten
from .._util.described import described
from .._util.keys import seed_from_key
from .._util.messages import FlowPriorError
from .._util.progress import say
from ..chains.chain import Chain
from ..priors.composed import RobustPrior
from ..priors.fingerprint import prior_fingerprint
from ..priors.flow_prior import FlowPrior
from ..sampling.density import ModelDensity
from ..sampling.pocomc import sample_pocomc
from ..sampling.protocol import Sampler
from ..sampling.record import INTERRUPTION
from ..sampling.reweight import psis_reweight
from .analysis import StagedAnalysis, StageResult
from .correlated import StageData, given_earlier_data, require_usable_data
from .exact import ExactDensity, PriorError, exact_posterior, exact_prior, prior_error
from .folder import StageFolder, begin_folder, handed_on, report_of
from .guards import Guards, check_stage
from .origin import chain_fingerprint
from .stage import Stage, StageOptions, checked_stages, kept_names
from .steps import completed, guarded, learnt, rehearsed, sampled, taught_prior, with_evidence
from .teaching import Taught, learnable, made_robust, needs_teaching, refined, taught


class StageStopped(FlowPriorError, RuntimeError):
    """A staged analysis stopped before its end; `analysis` holds the stages so far (None if there are none)."""

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
    """Returns the posteriors of a sequence of stages.

    The prior of the first stage is `first_prior`. The prior of each later stage is learnt from the stage before. After
    each stage a flow is trained on its posterior and checked on held-out rows. After each later stage the guards check
    whether its prior is reliable in the region of the new posterior. If the posterior loses more than `max_loss` nats
    to its learned prior, the prior is trained again with exact log densities where the stage needs it, and the stage is
    sampled again (StageOptions). The run stops if a sampler did not converge or a report fails, because later stages
    would depend on it. Data that share errors with those of an earlier stage are declared in `Stage.correlated_with`.

    Args:
        key: JAX random key. The key of a stage depends on its number only: a stage added at the end does not change the
            others.
        stages: the analyses, in order.
        first_prior: a NumPyro distribution; the first argument of the first model.
        sampler: `sample_pocomc` or another sampler of this package, or a function of the same signature
            (key, density, **options) that returns a Chain. It also gets `progress` and `checkpoint` if its signature
            has them.
        sampler_options: keyword arguments of the sampler in all stages.
        options: options for training, correction and start of the stages; None for StageOptions().
        folder: where all results are written; it is created if missing. A run that was stopped or killed continues from
            there if it is called again. Results made from a chain that has changed since are made again. If a stage has
            to be sampled again there is a warning, and the old chain is kept as `chain.stale.npz`. None to write
            nothing.
        progress: show progress bars and the current step.

    Raises:
        StageStopped: a sampler did not converge or reached its time limit without a draw, a prior failed its report, or
            the run was interrupted. The stages so far are in its `analysis`, and their files in the folder.
        TypeError, ValueError: there are no stages, a model does not sample its prior, or the folder belongs to another
            run; or `psis` is set and an earlier stage dropped parameters.

    Source: Roch and Shen (2025), with two stages, without reports and guards.
    """
    stages = checked_stages(stages)
    options = StageOptions() if options is None else options
    if not isinstance(options, StageOptions):
        raise TypeError(f"run_stages: options: expected StageOptions(...); got {type(options).__name__}.")
    folders = [None] * len(stages) if folder is None else begin_folder(folder, [stage.name for stage in stages])
    run = _Run(key, sampler, sampler_options or {}, options, stages, progress)
    before = _Before(first_prior)
    for stage, files, later in zip(stages, folders, [*folders[1:], None], strict=True):
        before = _stage_after(before, stage, files, run, used=later is not None and later.is_begun())
    return StagedAnalysis(before.done)


@dataclass(frozen=True)
class _Run:
    """The settings that all stages of a run share."""

    key: jax.Array
    sampler: Sampler
    sampler_options: Mapping[str, Any]
    options: StageOptions
    stages: tuple[Stage, ...]
    progress: bool


@dataclass(frozen=True)
class _Before:
    """What the previous stages hand on to the next one.

    Attributes:
        prior: the prior of the next stage.
        chain: the last posterior, with the parameters that are handed on; None before the first stage.
        exact: the exact density of this posterior; None if it is not known.
        origin: fingerprints of the chain and the flow that are handed on.
        done: the results of the previous stages.
        given: what the prior was trained on, with its exact density; None if that is not known.
        data: the data of the previous stages.
    """

    prior: Distribution
    chain: Chain | None = None
    exact: ExactDensity | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    done: tuple[StageResult, ...] = ()
    given: Taught | None = None
    data: tuple[StageData, ...] = ()


def _stage_after(before: _Before, stage: Stage, files: StageFolder | None, run: _Run, *, used: bool) -> _Before:
    """Runs one stage: sampling, reweighting, guards, training. Returns what it hands on, with its result.

    `used` says whether the next stage has already been sampled with the prior that is in the folder.

    Raises:
        StageStopped: see `run_stages`.
    """
    options, progress, number = run.options, run.progress, len(before.done)
    key_sample, key_fit, key_guard, key_look = jax.random.split(jax.random.fold_in(run.key, number), 4)
    written = density = ModelDensity(stage.model, before.prior, *stage.args, **stage.kwargs)
    if number:
        _require_prior(stage, density, before.prior)
    names = kept_names(stage, density.names)
    data = StageData(stage, written)
    require_usable_data(data, run.stages)
    if stage.correlated_with:
        stage = given_earlier_data(data, before.data, run.stages)
        density = ModelDensity(stage.model, before.prior, *stage.args, **stage.kwargs)
    last = number + 1 == len(run.stages)
    if options.psis and not last and set(names) != set(density.names):
        raise ValueError(
            f"Stage {stage.name!r}: StageOptions(psis=True): expected stages that hand on all their parameters; got "
            f"one that drops some (keep={list(names)}), and the marginal density is not known as a function. Keep all "
            "parameters, or leave psis out."
        )
    settings = _settings(run, stage, names, first=number == 0)
    if files is not None:
        files.begin(settings, override=options.override)
    found = _sampled(before, stage, density, files, run, (key_sample, key_look), settings)
    density, exact = found.density, found.exact
    target = exact if options.psis else None
    chain = _corrected(found.chain, target, files)
    made_from, reweighted = {"chain": chain_fingerprint(chain)}, target is not None
    guards = None
    if before.chain is not None:
        say(f"stage {stage.name!r}: guards", progress=progress)
        given = key_guard, density, found.prior, chain, before.chain
        known: dict[str, Any] = {"exact": exact, "corrected": reweighted, "rehearsals": found.rehearsals}
        known |= {"uncorrelated": written if stage.correlated_with else None}

        def make() -> Guards:
            return check_stage(*given, **known, error=found.error())

        guards = guarded(make, files, {**before.origin, **made_from}, reweighted=reweighted)
    say(f"stage {stage.name!r}: training of the prior for the next stage", progress=progress)
    kept = chain if names == chain.names else chain.select(names)
    result = StageResult(stage.name, chain, guards=guards, settings=settings)
    posterior = None if last else _exact_posterior(density, result, exact, names)
    given_on = None if posterior is None else Taught(key_fit, kept, posterior)
    refine: dict[str, Any] = {}
    if given_on is not None:
        refine = {"refine": partial(refined, given=given_on, options=options, files=files, progress=progress)}
    how: dict[str, Any] = {"reweighted": reweighted, "used": used, "progress": progress, **refine}
    try:
        learned = learnt(key_fit, kept, options, files, made_from, **how)
    except KeyboardInterrupt:
        raise _stopped(before.done, result, files, INTERRUPTION) from None
    under = found.prior if found.rehearsals else None
    own = under.prior if isinstance(under, RobustPrior) else under
    result = replace(result, learned=learned, report=report_of(learned), taught=own)
    if result.report is not None and result.report.verdict == "fail" and not (options.override or last):
        raise _stopped(before.done, result, files, "the flow trained on its posterior fails the quality report")
    return _Before(
        made_robust(learned, options),
        kept,
        posterior,
        handed_on(chain, learned),
        (*before.done, result),
        given_on,
        (*before.data, data),
    )


@dataclass(frozen=True)
class _Sampled:
    """A stage after sampling: its prior, model, chain, the exact prior of the model, and errors of its priors.

    Attributes:
        error: function that gives what the prior causes in the posterior; it gives None if `exact` is not known.
        rehearsals: the errors of the priors with which the stage was sampled before.
    """

    prior: Any
    density: ModelDensity
    chain: Chain
    exact: ExactDensity | None
    error: Callable[[], PriorError | None]
    rehearsals: tuple[PriorError, ...]


def _sampled(
    before: _Before,
    stage: Stage,
    density: ModelDensity,
    files: StageFolder | None,
    run: _Run,
    keys: tuple[jax.Array, jax.Array],
    settings: Mapping[str, Any],
) -> _Sampled:
    """Samples a stage, and again with a prior that was taught where the stage needs it, if it lost too much to it.

    Raises:
        StageStopped: a sampler did not converge or reached its time limit without a draw.
    """
    options, (key_sample, key_look) = run.options, keys
    prior, errors = before.prior, list[PriorError]()
    origin: dict[str, Any] = {**before.origin, **({"taught": None} if before.done else {})}
    while True:
        number = len(errors) + 1
        again = f", pass {number}" if errors else ""
        say(f"stage {stage.name!r}{again}: {getattr(run.sampler, '__name__', 'the sampler')}", progress=run.progress)
        own = jax.random.fold_in(key_sample, number) if errors else key_sample
        sample = partial(_sample, run, own, {**run.sampler_options, **stage.sampler_options}, files)
        may_teach = before.given is not None and number < options.max_passes and learnable(options)
        chain = None if before.given is None else rehearsed(density, files, number, origin, override=options.override)
        is_kept = chain is not None
        if chain is None:
            try:
                chain = sampled(key_look, density, sample, files, origin, options)
            except TimeoutError as error:  # the time limit, reached without a draw
                analysis = StagedAnalysis(before.done) if before.done else None
                raise StageStopped(f"stage {stage.name!r}: {error}{_where(files)}", analysis) from error
        unfinished = chain.info.get("converged") is False and not options.override
        if chain.info.get("stopped_by") == INTERRUPTION or unfinished:
            result = StageResult(stage.name, chain, settings=settings)
            why = INTERRUPTION if chain.info.get("stopped_by") == INTERRUPTION else "its sampler did not converge"
            raise _stopped(before.done, result, files, why)
        exact = None if before.exact is None else exact_prior(density, prior, before.exact)
        error_of_prior = cache(partial(_error, chain, exact))
        found = error_of_prior() if may_teach else None
        if found is None or before.given is None or not needs_teaching(prior, chain, found, options):
            if is_kept and files is not None:  # max_loss or max_passes were others when it became a rehearsal
                files.adopt_rehearsal(number, origin)
            key_evidence = jax.random.fold_in(key_look, 1)
            try:
                chain = with_evidence(key_evidence, chain, density, files, options, progress=run.progress)
            except KeyboardInterrupt:
                result = StageResult(stage.name, chain, settings=settings)
                raise _stopped(before.done, result, files, INTERRUPTION) from None
            return _Sampled(prior, density, chain, exact, error_of_prior, tuple(errors))
        say(
            f"stage {stage.name!r}: the posterior loses {_nats(found)} to its learned prior, which is "
            "trained again with exact log densities where this stage needs it",
            progress=run.progress,
        )
        if files is not None and not is_kept:
            files.keep_rehearsal(number, origin)
        make = partial(taught, prior, before.given, chain, options, files, progress=run.progress)
        try:
            learned = taught_prior(make, files, number, {**origin, "rehearsal": chain_fingerprint(chain)})
        except KeyboardInterrupt:
            result = StageResult(stage.name, chain, settings=settings)
            raise _stopped(before.done, result, files, INTERRUPTION) from None
        prior = made_robust(learned, options)
        density = ModelDensity(stage.model, prior, *stage.args, **stage.kwargs)
        origin = {**origin, "taught": prior_fingerprint(learned)}
        errors.append(found)


def _error(chain: Chain, exact: ExactDensity | None) -> PriorError | None:
    return None if exact is None else prior_error(chain, exact)


def _nats(error: PriorError) -> str:
    return f"{error.loss:.3g} nats (Pareto k {error.pareto_k:.2f})"


def _require_prior(stage: Stage, density: ModelDensity, prior: Distribution) -> None:
    missing = [name for name in prior.space.names if name not in density.names]
    if missing:
        raise ValueError(
            f"Stage {stage.name!r}: expected a model that samples its first argument, the prior over "
            f"{shorten(prior.space.names, 40)}; got a model with the parameters {shorten(density.names, 40)}. "
            'Write numpyro.sample("theta", prior) in it, once.'
        )


def _settings(run: _Run, stage: Stage, names: tuple[str, ...], *, first: bool) -> dict[str, Any]:
    """Returns the settings that determine the results of a stage. Model and data are compared by log densities."""
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
    """Returns an option as text that is the same in every process, without memory addresses."""
    if isinstance(option, FlowPrior):  # the form used since the first version of folders
        return f"FlowPrior({option.space!r}, {option.config!r})"
    text = repr(option)
    return repr(described(option)) if " at 0x" in text else text


def _sample(
    run: _Run, key: jax.Array, options: Mapping[str, Any], files: StageFolder | None, density: ModelDensity
) -> Chain:
    taken = inspect.signature(run.sampler).parameters
    given = {"progress": run.progress, "checkpoint": None if files is None else files.checkpoint}
    chain = run.sampler(key, density, **{**{name: given[name] for name in given if name in taken}, **options})
    return completed(chain, density)


def _corrected(chain: Chain, exact: ExactDensity | None, files: StageFolder | None) -> Chain:
    """Returns the posterior reweighted to the exact prior, if one is given, and stores it in the folder."""
    corrected = chain if exact is None else psis_reweight(chain, exact.log_density)
    if exact is not None and not exact.normalised:
        corrected = corrected.replace(log_evidence=None, log_evidence_error=None)
    if files is not None:
        files.keep_posterior(None if exact is None else corrected, {"chain": chain_fingerprint(chain)})
    return corrected


def _exact_posterior(
    density: ModelDensity, result: StageResult, prior: ExactDensity | None, names: tuple[str, ...]
) -> ExactDensity | None:
    """Returns the posterior of a stage as a function; None if this stage or an earlier one dropped parameters."""
    if set(names) != set(density.names) or (result.guards is not None and prior is None):
        return None
    return exact_posterior(density, _with_exact_evidence(result), prior)


def _with_exact_evidence(result: StageResult) -> Chain:
    """Returns the chain of a stage with the log evidence under the exact prior, as far as that is known.

    An error of it cancels: it is in the change of the log evidence of the next stage (StagedAnalysis.log_evidence).
    """
    chain, change = result.chain, result.log_evidence_change
    if chain.log_evidence is None or change is None:
        return chain
    return chain.replace(log_evidence=chain.log_evidence + change[0])


def _stopped(done: tuple[StageResult, ...], result: StageResult, files: StageFolder | None, why: str) -> StageStopped:
    """Returns the exception that stops a run in a stage, with the reason and advice."""
    if why == INTERRUPTION:
        why, advice = "interrupted", ""
        if result.chain.info.get("stopped_by") == INTERRUPTION and files is not None and not files.checkpoint.exists():
            advice = (
                " This sampler keeps no checkpoint, so the stage starts again. The draws are in the `analysis` of this "
                "error."
            )
    elif result.report is None:
        advice = (
            " Run it longer (sampler_options of run_stages or of the stage), or pass StageOptions(override=True) to "
            "continue anyway."
        )
    else:
        reasons = " ".join(result.report.reasons)
        advice = (
            f" {reasons} Plot the report with plot_quality. Change FlowConfig or TrainConfig, or use a longer chain. "
            "StageOptions(override=True) continues anyway."
        )
    return StageStopped(f"stage {result.name!r}: {why}.{advice}{_where(files)}", StagedAnalysis((*done, result)))


def _where(files: StageFolder | None) -> str:
    return "" if files is None else f" Results so far are in {files.path.parent}. The same call continues from there."
