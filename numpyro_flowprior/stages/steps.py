"""The steps of a stage: sampling the chain, checking it with guards, training the prior.

If the stage's folder has a result that is up to date, the step returns it. Otherwise the step computes and stores it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._util.checks import shorten
from .._util.messages import FlowPriorWarning
from ..chains.chain import Chain
from ..formats.read import read_chain
from ..formats.write import write_chain
from ..priors.flow_prior import FlowPrior
from ..sampling.broad_start import starts_broad, through_broad
from ..sampling.checkpoint import has_density
from ..sampling.density import ModelDensity
from ..sampling.evidence import DRAWS, evidence
from ..sampling.record import INTERRUPTION
from ..training.fit import fit_flow, uninterrupted
from .folder import StageFolder, read_json, write_json
from .guards import Guards
from .origin import learnt_from
from .stage import StageOptions

_LOOKED_AT = 64  # rows whose log densities show whether a stored chain belongs to this model and prior


def sampled(
    key: jax.Array,
    density: ModelDensity,
    sample: Callable[[ModelDensity], Chain],
    files: StageFolder | None,
    origin: Mapping[str, Any],
    options: StageOptions,
) -> Chain:
    """Returns the chain from the sampler, or the chain in the folder if it is finished.

    Args:
        key: JAX random key for the choice of the start.
        density: the stage's model.
        sample: the sampler.
        files: the stage's folder; None to store nothing.
        origin: fingerprints of the chain and prior that the previous stage hands on; empty for the first stage.
        options: where the sampler starts, and whether a chain that has not converged is accepted.

    Raises:
        ValueError: the chain in the folder belongs to another model, other data, or a prior of another analysis.
    """
    chain = None if files is None else _chain_in(files, density, origin)
    kept = chain is not None and (options.override or chain.info.get("converged") is not False)
    if chain is None or not kept:
        broad = _starts_broad(key, density, files, origin, options)
        chain = through_broad(density, sample) if broad else sample(density)
    finished = files is not None and chain.info.get("stopped_by") != INTERRUPTION  # others have a checkpoint
    if files is not None and finished and not kept:
        write_chain(files.chain, chain)
    return chain


def _starts_broad(
    key: jax.Array,
    density: ModelDensity,
    files: StageFolder | None,
    origin: Mapping[str, Any],
    options: StageOptions,
) -> bool:
    """Returns whether the sampler starts from broad priors: as an earlier call did, if its checkpoint is there."""
    if files is None or not density.learned_sites:
        return starts_broad(key, density, options.start)
    records = {broad: {**origin, "start": "broad" if broad else "prior"} for broad in (False, True)}
    for broad, record in records.items():
        if files.made_from(files.checkpoint, record):
            return broad
    broad = starts_broad(key, density, options.start)
    files.record(files.checkpoint, records[broad])
    return broad


def with_evidence(
    key: jax.Array,
    chain: Chain,
    density: ModelDensity,
    files: StageFolder | None,
    options: StageOptions,
    *,
    progress: bool,
) -> Chain:
    """Returns the chain with its log evidence, if the sampler gave none, and stores it in the folder.

    The evidence is left out if it cannot be trusted. `info["evidence"]` says how it was found.
    """
    if not options.evidence or chain.log_evidence is not None or "evidence" in chain.info:
        return chain
    chain = _evidence_of(key, chain, density, options, progress=progress)
    if files is not None:
        write_chain(files.chain, chain)
    return chain


def _evidence_of(
    key: jax.Array, chain: Chain, density: ModelDensity, options: StageOptions, *, progress: bool
) -> Chain:
    """Returns the chain with its log evidence, if that can be trusted.

    External likelihoods that would take longer than the sampler did are not called. The evidence is then that of the
    log densities of the rows alone.
    """
    train = None if options.train is None else replace(options.train, loss="nll")
    draws = int(np.clip(chain.effective_size, *DRAWS))
    dear = density.seconds_per_call * draws > float(chain.info.get("seconds", np.inf))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in the record
            called = None if dear else density
            found = evidence(key, chain, called, config=options.config, train=train, progress=progress)
    except ValueError as error:  # too few rows
        return chain.replace(info={**chain.info, "evidence": {"trusted": False, "why": str(error)}})
    why = [f"{name}: {check.text}" for name, check in found.checks.items() if not check.passed]
    record = {"method": found.method, "trusted": found.trusted, "calls": found.calls, "why": "; ".join(why)}
    known = {"log_evidence": found.log_evidence, "log_evidence_error": found.error} if found.trusted else {}
    return chain.replace(**known, info={**chain.info, "evidence": record})


def _chain_in(files: StageFolder, density: ModelDensity, origin: Mapping[str, Any]) -> Chain | None:
    """Returns the chain in a folder, or None if it has to be sampled.

    A chain that was sampled before the prior was trained again is out of date. It is renamed and not deleted, because
    sampling takes long. A chain of another analysis is refused.
    """
    chain = read_chain(files.chain) if files.chain.exists() else None
    if chain is not None and not _is_of(density, chain):
        if not files.out_of_date(files.chain, origin):
            raise _of_another_analysis(files.chain)
        chain = None
    if chain is None and files.out_of_date(files.chain, origin):
        _warn_of(files.set_aside(), files)
    files.record(files.chain, origin)
    return chain


def completed(chain: Chain, density: ModelDensity) -> Chain:
    """Returns what a sampler returned with the parameters in the order of the density, and log densities per draw.

    Raises:
        TypeError, ValueError: the sampler did not return a Chain of the model's parameters.
    """
    if not isinstance(chain, Chain):
        raise TypeError(f"run_stages: sampler: expected a function that returns a Chain; got {type(chain).__name__}.")
    if set(chain.names) != set(density.names):
        raise ValueError(
            f"run_stages: sampler: expected a Chain of the parameters {shorten(density.names, 40)}; got one of "
            f"{shorten(chain.names, 40)}."
        )
    chain = chain if chain.names == density.names else chain.select(density.names)
    if all(part is not None for part in (chain.log_prior, chain.log_likelihood, chain.log_prob)):
        return chain
    log_prior, log_likelihood = density.log_prior_and_likelihood(chain.samples)
    return chain.replace(log_prob=log_prior + log_likelihood, log_prior=log_prior, log_likelihood=log_likelihood)


def rehearsed(
    density: ModelDensity, files: StageFolder | None, number: int, origin: Mapping[str, Any], *, override: bool
) -> Chain | None:
    """Returns the chain of a rehearsal in the folder, or None if there is none that is up to date.

    Raises:
        ValueError: it was sampled under this prior, but with another model or other data.
    """
    if files is None or not files.made_from(files.rehearsal(number), origin):
        return None
    chain = read_chain(files.rehearsal(number))
    if chain.info.get("converged") is False and not override:
        return None
    if not _is_of(density, chain):
        raise _of_another_analysis(files.rehearsal(number))
    return chain


def _of_another_analysis(file: Path) -> ValueError:
    return ValueError(
        f"run_stages: {file}: expected a chain of this model, prior and data; got one with other log densities. Use "
        "another folder. To run the stage again, remove its folder and those of later stages."
    )


def taught_prior(
    make: Callable[[], FlowPrior], files: StageFolder | None, number: int, origin: Mapping[str, Any]
) -> Any:
    """Returns a prior that was trained again; from the folder if it was made from this rehearsal."""
    if files is None:
        return make()
    file = files.taught(number)
    if files.made_from(file, origin):
        return FlowPrior.load(file)
    files.begin_making(file, origin)
    learned = make()
    learned.save(file)
    return learned


def _is_of(density: ModelDensity, chain: Chain) -> bool:
    if chain.names != density.names or chain.log_prob is None:
        return False
    rows = np.unique(np.linspace(0, chain.n - 1, _LOOKED_AT).astype(int))
    return has_density(density, chain.samples[rows], chain.log_prob[rows])


def _warn_of(renamed: list[str], files: StageFolder) -> None:
    if renamed:
        warnings.warn(
            f"run_stages: {files.path}: sampled under a prior that has been trained again since. The stage is sampled "
            f"again. The old files are kept as {' and '.join(renamed)}.",
            FlowPriorWarning,
            stacklevel=6,
        )


def guarded(
    make: Callable[[], Guards], files: StageFolder | None, origin: Mapping[str, str], *, reweighted: bool
) -> Guards:
    """Returns the guards; from the folder if they were made from this chain, prior and previous chain (`origin`)."""
    if files is None:
        return make()
    file = files.guards(reweighted=reweighted)
    if files.made_from(file, origin):
        kept = Guards.from_json(read_json(file))
        if "log_evidence_change" in (kept.numbers.get("prior_error") or {"log_evidence_change": None}):
            return kept  # others are of an earlier version
    files.begin_making(file, origin)
    guards = make()
    write_json(file, guards.to_json())
    return guards


def learnt(
    key: jax.Array,
    chain: Chain,
    options: StageOptions,
    files: StageFolder | None,
    origin: Mapping[str, str],
    *,
    reweighted: bool,
    used: bool,
    progress: bool,
    refine: Callable[[FlowPrior], FlowPrior] = lambda learned: learned,
) -> FlowPrior:
    """Returns a flow trained on a posterior; from the folder if it was trained on these draws and log densities.

    Args:
        key: JAX random key for the training.
        chain: the posterior of the parameters that are handed on.
        options: options of the training.
        files: the stage's folder; None to store nothing.
        origin: fingerprint of the posterior.
        reweighted: whether the posterior was reweighted.
        used: whether the next stage has been sampled with the flow in the folder, which is then left as it is.
        progress: show a progress bar.
        refine: trains the flow further, or returns it as it is.

    Raises:
        KeyboardInterrupt: the training was interrupted; a flow that is not trained to its end is not stored.
    """
    file = None if files is None else files.prior(reweighted=reweighted)
    learned = None if files is None else _stored(files, files.prior(reweighted=reweighted), chain, origin)
    if learned is not None and used:
        return learned
    if learned is None:
        rows = chain if options.tail_aware else chain.replace(log_prob=None, log_prior=None, log_likelihood=None)
        how: dict[str, Any] = {"trust_log_prob": True, "progress": progress}  # the log density from a sampler is exact
        learned = uninterrupted(fit_flow(key, rows, options.config, options.train, **how))
        if file is not None:
            learned.save(file)
    refined = refine(learned)
    if refined is not learned and file is not None:
        refined.save(file)
    return refined


def _stored(files: StageFolder, file: Path, chain: Chain, origin: Mapping[str, str]) -> FlowPrior | None:
    """Returns the flow in a folder if it was trained on this chain; else removes it and returns None."""
    if file.exists() and not files.out_of_date(file, origin):
        learned = FlowPrior.load(file)
        if learnt_from(learned, chain):
            files.record(file, origin)
            return learned
    files.begin_making(file, origin)
    return None
