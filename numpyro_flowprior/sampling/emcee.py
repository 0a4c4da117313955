"""sample_emcee: the affine-invariant ensemble sampler. emcee is imported only here."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray, optional_import, positive_int, real_in
from .._util.messages import ConvergenceWarning
from .._util.progress import progress_bar
from .._util.storage import remove_leftovers
from ..chains.autocorrelation import LONG_ENOUGH, burn_in_of, ensemble_time, thinning_of
from ..chains.chain import Chain
from .checkpoint import require_folder, require_same_density
from .coordinates import Coordinates, resolved, sampled_in
from .density import ModelDensity
from .ensemble_file import h5py_module, read_run, write_run
from .ensemble_moves import Proposal, mixed, moves_of, recorded
from .record import INTERRUPTION, begin, require_options, run_record, seed_of

_CHECK_EVERY = 100  # steps between checks of the autocorrelation time
_CHANGE = 0.05  # relative change of this time between two checks, below which it is known well enough
_SAVE_EVERY = 20.0  # seconds between checkpoints
_TRIES = 100  # rounds of prior draws in the search for starts with a finite density


def sample_emcee(
    key: jax.Array,
    density: ModelDensity,
    *,
    n_walkers: int | None = None,
    max_steps: int = 10_000,
    max_seconds: float | None = None,
    coordinates: Coordinates = "auto",
    proposal: Proposal = None,
    proposal_share: float = 0.2,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **options: Any,
) -> Chain:
    """Returns posterior draws from emcee, started from the prior and stopped by the autocorrelation time.

    The run stops when it is longer than 50 autocorrelation times of every parameter, or at `max_steps` with a warning.
    Five autocorrelation times (at most half the run) are dropped as burn-in. All later steps are kept, up to about
    200,000 rows. Longer runs are thinned to about this number, but keep a step per half autocorrelation time at least.
    Interrupting with the keyboard returns the draws so far.

    Args:
        key: JAX random key; it seeds the starts and emcee's generator.
        density: the posterior.
        n_walkers: number of walkers, at least 2 d (an odd number is raised by one); None for max(64, 4 d).
        max_steps: largest number of steps.
        max_seconds: time limit, checked after every step; None for no limit. The draws so far are returned. It is an
            error if the walkers have not found a start by then.
        coordinates: the coordinates in which the walkers move. The returned chain is always in the model's parameters.
            "parameters": the model's own. "latent": those in which its learned priors are close to a standard normal
            (`LatentReparam`); the model's own if it has no learned prior. "auto": "parameters".
        proposal: a density for proposals that do not depend on the position of the walker. They let walkers cross
            between modes that stretch moves cannot bridge. "prior" for the model's own prior, or a FlowPrior over the
            same parameters, for example one trained on a first short chain. A FlowPrior cannot be used with
            coordinates="latent". The Metropolis-Hastings ratio is exact. None for no such proposals.
        proposal_share: fraction of the steps that use such proposals, in (0, 1).
        checkpoint: a file in which the run is kept, written every 20 seconds and at the end. It is emcee's own HDF5,
            which its HDFBackend reads, and `read_chain` too unless coordinates="latent". If it exists the run goes on
            from there, also after a kill, to the same draws bit for bit. The exception is a move that counts its turns,
            such as GaussianMove(mode="sequential"). Repeating a finished call returns the same chain.
        progress: show a progress bar.
        **options: further arguments of `emcee.EnsembleSampler` (moves, ...); `moves` are mixed with the proposals.

    Returns:
        A Chain with `chain_id` = walker, and the log prior and log likelihood of each draw. `info` holds the
        acceptance, the autocorrelation time and whether the run converged.

    Raises:
        ImportError: emcee is not installed, or h5py, which a checkpoint needs.
        TypeError: a `pool` or `backend` for emcee, or an option that emcee does not have.
        ValueError: too few walkers, too few prior draws with a finite density, a proposal over other parameters, or a
            checkpoint of another run.
        TimeoutError: the time limit was reached before the walkers had found a start.

    Source: Foreman-Mackey et al. (2013), PASP 125, 306; Goodman and Weare (2010).
    """
    emcee = optional_import("emcee", "emcee", "sample_emcee")
    n_walkers = max(64, 4 * density.dim) if n_walkers is None else n_walkers
    n_walkers = positive_int(n_walkers, "sample_emcee: n_walkers", minimum=2 * density.dim)
    n_walkers += n_walkers % 2
    max_steps = positive_int(max_steps, "sample_emcee: max_steps")
    limit = np.inf if max_seconds is None else real_in(max_seconds, "sample_emcee: max_seconds", 0.0, np.inf)
    require_folder(checkpoint)
    moved_in = resolved(coordinates, density, "sample_emcee", auto="parameters")
    inner, to_chain = sampled_in(density, moved_in)
    if moved_in == "latent" and not (proposal is None or isinstance(proposal, str)):
        raise ValueError(
            "sample_emcee: proposal: expected 'prior' with coordinates='latent'; got a density over parameters. "
            "Leave out `coordinates`, so that the walkers move in the parameters."
        )
    if options.get("pool") is not None:
        raise TypeError(
            "sample_emcee: pool: expected none. One compiled program evaluates the density at all walkers at once, so "
            "emcee would never use the pool. Leave it out."
        )
    if options.get("backend") is not None:
        raise TypeError(
            "sample_emcee: backend: expected none. Pass checkpoint='run.h5' instead: the file has the format of "
            "emcee's HDFBackend, and also records which run it holds."
        )
    require_options("sample_emcee", options, emcee.EnsembleSampler)
    moves = moves_of(emcee, options.pop("moves", None))
    options["moves"] = mixed(emcee, inner, moves, proposal, proposal_share)
    key_start, key_seed = jax.random.split(key)
    seed, start_time = seed_of(key_seed), begin(key, inner)

    def log_prob_and_parts(x: FloatArray) -> FloatArray:
        log_prior, log_likelihood = inner.log_prior_and_likelihood(x)
        return np.column_stack([log_prior + log_likelihood, log_prior, log_likelihood])

    if checkpoint is not None:
        h5py_module()  # a missing h5py is an error now, not after 20 seconds
    options["backend"] = backend = emcee.backends.Backend()
    about = {"names": list(inner.names), "n_walkers": n_walkers, "seed": seed, "coordinates": moved_in}
    about |= recorded(moves, proposal, proposal_share)
    finished = False
    if checkpoint is not None and Path(checkpoint).exists():
        finished = read_run(checkpoint, backend, about)
    sampler = emcee.EnsembleSampler(n_walkers, inner.dim, log_prob_and_parts, vectorize=True, **options)
    if backend.initialized and backend.iteration:
        starts = backend.get_last_sample()
        require_same_density(checkpoint, inner, starts.coords, starts.log_prob)
    else:
        generator = np.random.RandomState(seed)
        found = _starts(key_start, inner, n_walkers, start_time + limit)
        starts = emcee.State(found, random_state=generator.get_state())
    keeper = _Keeper(checkpoint, backend, about, start_time + limit)
    tau, cause = _run(sampler, starts, max_steps, keeper, finished=finished, progress=progress)
    samples, fields, statistics = _kept(sampler, tau, cause)
    info = run_record("emcee", seed, start_time, inner, {"coordinates": moved_in, **statistics})
    return to_chain(samples, **fields, rows="sequence", info=info)


class _Keeper:
    """Writes the checkpoint at intervals, and checks the time limit."""

    def __init__(self, path: Any, backend: Any, about: dict[str, Any], deadline: float):
        self._path, self._backend, self._about, self._deadline = path, backend, about, deadline
        if path is not None:
            remove_leftovers(path)
        self._last = time.perf_counter()

    def save(self) -> None:
        """Writes the run if there is a checkpoint file and the last write was long enough ago."""
        if self._path is not None and time.perf_counter() - self._last > _SAVE_EVERY:
            write_run(self._path, self._backend, self._about, finished=False)
            self._last = time.perf_counter()

    def close(self, *, finished: bool) -> None:
        """Writes the run in its final state."""
        if self._path is not None:
            write_run(self._path, self._backend, self._about, finished=finished)

    @property
    def late(self) -> bool:
        """Whether the time limit has passed."""
        return time.perf_counter() > self._deadline


def _starts(key: jax.Array, density: ModelDensity, n: int, deadline: float) -> FloatArray:
    """Returns n prior draws with a finite posterior density. emcee accepts walkers at -inf without a warning."""
    found: list[FloatArray] = []
    for attempt in range(_TRIES):
        draws = density.sample_prior(jax.random.fold_in(key, attempt), n)
        found.append(draws[np.isfinite(density.log_posterior(draws))])
        starts = np.concatenate(found)
        if len(starts) >= n:
            return starts[:n]
        if time.perf_counter() > deadline:
            raise TimeoutError(
                f"sample_emcee: max_seconds: time was up after {len(starts)} of {n} walkers had found a start with a "
                f"finite posterior density, in {(attempt + 1) * n} prior draws. Allow more time. Check that the "
                "likelihood is finite where the prior has its mass."
            )
    raise ValueError(
        f"sample_emcee: {len(starts)} of {_TRIES * n} prior draws have a finite posterior density; expected at least "
        f"{n}. Check that the likelihood is finite where the prior has its mass."
    )


def _run(
    sampler: Any, starts: Any, max_steps: int, keeper: _Keeper, *, finished: bool, progress: bool
) -> tuple[float, str | None]:
    """Returns the autocorrelation time, and what stopped the run early (None if nothing did)."""
    cause = None
    with progress_bar(
        total=max_steps, desc="emcee", unit="step", disable=not progress, initial=sampler.iteration
    ) as bar:
        try:
            tau, ended = _last_check(sampler)
            settled = finished or ended
            steps = 0 if settled else max(0, max_steps - sampler.iteration)
            if not steps:  # the checkpoint holds a run that was already at its end
                tau = ensemble_time(sampler.get_chain())
            for _ in sampler.sample(starts, iterations=steps, skip_initial_state_check=True):
                bar.update()
                keeper.save()
                if keeper.late and sampler.iteration >= 2:
                    cause = "the time limit"
                due = sampler.iteration % _CHECK_EVERY == 0
                if not (due or cause or sampler.iteration == max_steps):
                    continue
                before, tau = tau, ensemble_time(sampler.get_chain())
                bar.set_postfix(tau=f"{tau:.0f}", length=f"{sampler.iteration / tau:.0f} tau")
                settled = due and _settled(sampler.iteration, tau, before)
                if cause or settled:
                    break
        except KeyboardInterrupt:
            if sampler.iteration < 2:
                raise
            tau, cause = ensemble_time(sampler.get_chain()), INTERRUPTION
    keeper.close(finished=cause is None and settled)
    if cause:
        warnings.warn(
            f"sample_emcee: stopped by {cause} after {sampler.iteration} steps.", ConvergenceWarning, stacklevel=3
        )
    elif sampler.iteration <= LONG_ENOUGH * tau:
        warnings.warn(
            f"sample_emcee: stopped at max_steps={max_steps} after {sampler.iteration / tau:.1f} autocorrelation times "
            f"of {tau:.0f} steps; 50 are needed. The run has not converged: raise max_steps, or use sample_pocomc.",
            ConvergenceWarning,
            stacklevel=3,
        )
    return tau, cause


def _settled(steps: int, tau: float, before: float) -> bool:
    """Returns whether a run is long enough, and its autocorrelation time close to that of the check before."""
    return steps > LONG_ENOUGH * tau and abs(tau - before) < _CHANGE * tau


def _last_check(sampler: Any) -> tuple[float, bool]:
    """Returns the autocorrelation time at the last check of the steps so far, and whether the run ends there.

    A run that continues from a checkpoint therefore stops where an uninterrupted run stops. This holds also if it was
    killed between a step and its check.
    """
    chain = sampler.get_chain() if sampler.iteration else np.empty((0, 0, 0))
    last = len(chain) - len(chain) % _CHECK_EVERY
    before, tau = (ensemble_time(chain[:n]) if n > 0 else np.inf for n in (last - _CHECK_EVERY, last))
    return tau, last == len(chain) and _settled(last, tau, before)


def _kept(sampler: Any, tau: float, cause: str | None) -> tuple[FloatArray, dict[str, FloatArray], dict[str, Any]]:
    """Returns the thinned draws after burn-in, the fields of each draw, and the statistics of the run."""
    burn_in = burn_in_of(tau, sampler.iteration)
    thin = thinning_of(tau, sampler.iteration - burn_in, sampler.nwalkers)
    samples = np.swapaxes(sampler.get_chain(discard=burn_in, thin=thin), 0, 1)
    parts = np.swapaxes(sampler.get_blobs(discard=burn_in, thin=thin), 0, 1)
    walkers, kept, dim = samples.shape
    statistics = {
        "n_walkers": walkers,
        "steps": int(sampler.iteration),
        "autocorrelation_time": tau,
        "burn_in": burn_in,
        "thin": thin,
        "acceptance": float(np.mean(sampler.acceptance_fraction)),
        "calls": int(walkers * (sampler.iteration + 1)),
        "stopped_by": cause,
        "converged": bool(sampler.iteration > LONG_ENOUGH * tau) and cause is None,
    }
    log_prior, log_likelihood = parts.reshape(-1, 2).T
    walker = np.repeat(np.arange(walkers), kept)
    fields = {"log_prior": log_prior, "log_likelihood": log_likelihood, "chain_id": walker}
    return samples.reshape(-1, dim), fields, statistics
