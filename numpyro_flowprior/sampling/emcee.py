"""sample_emcee: the affine-invariant ensemble sampler. emcee is imported here alone."""

from __future__ import annotations

import time
import warnings
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from .._checks import FloatArray, optional_import, positive_int
from ..chains.autocorrelation import LONG_ENOUGH, burn_in_of, ensemble_time, thinning_of
from ..chains.chain import Chain
from .density import ModelDensity
from .record import run_record, seed_of

_CHECK_EVERY = 100  # steps between looks at the autocorrelation time
_TRIES = 100  # rounds of prior draws in search of starts with a finite density


def sample_emcee(
    key: jax.Array,
    density: ModelDensity,
    *,
    n_walkers: int | None = None,
    max_steps: int = 10_000,
    progress: bool = True,
    **options: Any,
) -> Chain:
    """Returns posterior draws from emcee, started from the prior and stopped by its autocorrelation time.

    Stops when the run is longer than 50 autocorrelation times of every parameter, or at `max_steps` with a warning.
    Five autocorrelation times of burn-in (at most half the run) are dropped and the rest thinned by half of one (but
    not below 100 steps per walker). Interrupting with the keyboard returns what there is.

    Args:
        key: JAX random key; seeds the starts and emcee's generator.
        density: the posterior.
        n_walkers: number of walkers, at least 2 d (one more if odd); None for max(64, 4 d rounded up to even).
        max_steps: most steps taken.
        progress: show a progress bar.
        **options: further arguments of `emcee.EnsembleSampler` (moves, ...).

    Returns:
        A Chain with `chain_id` = walker, log prior and log likelihood per draw; `info` holds acceptance,
        autocorrelation time and whether it converged.

    Raises:
        ImportError: emcee is not installed.
        ValueError: too few walkers, or no prior draw with a finite density.

    Source: Foreman-Mackey et al. (2013), PASP 125, 306; Goodman and Weare (2010).
    """
    emcee = optional_import("emcee", "samplers", "sample_emcee")
    n_walkers = max(64, 4 * density.dim) if n_walkers is None else n_walkers
    n_walkers = positive_int(n_walkers, "sample_emcee: n_walkers", minimum=2 * density.dim)
    n_walkers += n_walkers % 2
    max_steps = positive_int(max_steps, "sample_emcee: max_steps")
    key_start, key_seed = jax.random.split(key)
    seed = seed_of(key_seed)
    start_time = time.perf_counter()

    def log_prob_and_parts(x: FloatArray) -> FloatArray:
        log_prior, log_likelihood = density.log_prior_and_likelihood(x)
        return np.column_stack([log_prior + log_likelihood, log_prior, log_likelihood])

    sampler = emcee.EnsembleSampler(n_walkers, density.dim, log_prob_and_parts, vectorize=True, **options)
    generator = np.random.RandomState(seed)
    starts = emcee.State(_starts(key_start, density, n_walkers), random_state=generator.get_state())
    tau, interrupted = _run(sampler, starts, max_steps, progress=progress)
    return _chain(sampler, density, tau, run=(seed, start_time), interrupted=interrupted)


def _starts(key: jax.Array, density: ModelDensity, n: int) -> FloatArray:
    """Returns n prior draws of finite posterior density: emcee accepts walkers at -inf in silence."""
    found: list[FloatArray] = []
    for attempt in range(_TRIES):
        draws = density.sample_prior(jax.random.fold_in(key, attempt), n)
        found.append(draws[np.isfinite(density.log_posterior(draws))])
        if sum(map(len, found)) >= n:
            return np.concatenate(found)[:n]
    raise ValueError(
        f"sample_emcee: {sum(map(len, found))} of {_TRIES * n} prior draws have a finite posterior density; expected "
        f"at least {n}. Is the likelihood finite where the prior has its mass?"
    )


def _run(sampler: Any, starts: Any, max_steps: int, *, progress: bool) -> tuple[float, bool]:
    tau, previous = np.inf, np.inf
    with tqdm(total=max_steps, desc="emcee", unit="step", disable=not progress) as bar:
        try:
            for _ in sampler.sample(starts, iterations=max_steps, skip_initial_state_check=True):
                bar.update()
                if sampler.iteration % _CHECK_EVERY and sampler.iteration != max_steps:
                    continue
                tau = ensemble_time(sampler.get_chain())
                bar.set_postfix(tau=f"{tau:.0f}", length=f"{sampler.iteration / tau:.0f} tau")
                if sampler.iteration > LONG_ENOUGH * tau and abs(tau - previous) < 0.05 * tau:
                    break
                previous = tau
        except KeyboardInterrupt:
            if sampler.iteration < 2:
                raise
            tau = ensemble_time(sampler.get_chain())
            warnings.warn(f"sample_emcee: interrupted after {sampler.iteration} steps.", stacklevel=3)
            return tau, True
    if sampler.iteration <= LONG_ENOUGH * tau:
        warnings.warn(
            f"sample_emcee: stopped at max_steps={max_steps}, only {sampler.iteration / tau:.1f} autocorrelation times "
            f"of {tau:.0f} steps (50 are needed). The draws are not converged: raise max_steps, or use sample_pocomc.",
            stacklevel=3,
        )
    return tau, False


def _chain(sampler: Any, density: ModelDensity, tau: float, *, run: tuple[int, float], interrupted: bool) -> Chain:
    burn_in = burn_in_of(tau, sampler.iteration)
    thin = thinning_of(tau, sampler.iteration - burn_in)
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
        "converged": bool(sampler.iteration > LONG_ENOUGH * tau) and not interrupted,
    }
    log_prior, log_likelihood = parts.reshape(-1, 2).T
    return Chain(
        samples.reshape(-1, dim),
        density.space,
        log_prob=log_prior + log_likelihood,
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        chain_id=np.repeat(np.arange(walkers), kept),
        info=run_record("emcee", run[0], run[1], density, statistics),
    )
