"""sample_pocomc: preconditioned Monte Carlo. pocoMC (GPL-3, an optional extra) and torch are imported here alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from .._checks import FloatArray, optional_import, positive_int
from ..chains.chain import Chain
from .density import ModelDensity
from .record import begin, run_record, seed_of

_SHOWN = ("beta", "calls", "ESS", "logZ")  # of what pocoMC reports, in the progress bar


class _Prior:
    """A ModelDensity's prior under the contract that pocoMC asks of one."""

    def __init__(self, density: ModelDensity, key: jax.Array):
        self._density, self._key, self._calls = density, key, 0
        self.bounds, self.dim = density.bounds, density.dim

    def logpdf(self, x: FloatArray) -> FloatArray:
        """Returns the log prior (n,) at points (n, d)."""
        return self._density.log_prior(x)

    def rvs(self, size: int = 1) -> FloatArray:
        """Returns draws (size, d): float64, strictly interior, writable (pocoMC assigns into them)."""
        self._calls += 1
        return self._density.sample_prior(jax.random.fold_in(self._key, self._calls), size)


def sample_pocomc(
    key: jax.Array,
    density: ModelDensity,
    *,
    n_effective: int = 512,
    n_active: int = 256,
    n_total: int = 4096,
    n_evidence: int = 4096,
    n_steps: int | None = None,
    progress: bool = True,
    **options: Any,
) -> Chain:
    """Returns weighted posterior draws and the log evidence from preconditioned Monte Carlo.

    Args:
        key: JAX random key; seeds the prior draws, NumPy and torch, whose global states are restored afterwards.
        density: the posterior.
        n_effective: effective sample size kept along the temperature ladder.
        n_active: particles moved in each iteration.
        n_total: effective number of posterior draws at which sampling stops.
        n_evidence: importance draws for the evidence.
        n_steps: moves that each particle makes after its density stops rising, more where they are small; 20 times as
            many at most. None for the number of parameters, which is what pocoMC documents (its code takes half). A
            second stage whose prior has few draws where the posterior is may need more: too few leave its tails
            unfilled, a marginal 15 % too narrow where twice as many moves, and a second sampler, fill it.
        progress: show a progress bar.
        **options: further arguments of `pocomc.Sampler` (flow, precondition, periodic, reflective, train_config, ...).

    Returns:
        A Chain of the particles of all temperatures with their importance weights (those of the early ones are all
        but zero), log prior and log likelihood, log evidence and its error. The particles of low weight cost nothing
        in any weighted average, and teach `fit_flow` the tails (loss "log_variance").

    Raises:
        ImportError: pocoMC is not installed.
        ValueError: n_active > n_effective.

    Source: Karamanis et al. (2022), MNRAS 516, 1644 and arXiv:2207.05660.
    """
    pocomc = optional_import("pocomc", "samplers", "sample_pocomc")
    sizes = {"n_effective": n_effective, "n_active": n_active, "n_total": n_total}
    for name, value in sizes.items():
        positive_int(value, f"sample_pocomc: {name}")
    positive_int(n_evidence, "sample_pocomc: n_evidence", minimum=0)
    sizes["n_steps"] = density.dim if n_steps is None else positive_int(n_steps, "sample_pocomc: n_steps")
    options = {"n_max_steps": 20 * sizes["n_steps"], **options}
    if n_active > n_effective:
        raise ValueError(f"sample_pocomc: expected n_active <= n_effective; got {n_active} > {n_effective}.")
    key_prior, key_seed = jax.random.split(key)
    seed = seed_of(key_seed)
    start = begin(key, density)
    with _global_generators_restored():
        sampler = _with_quiet_bar(pocomc.Sampler, progress)(
            prior=_Prior(density, key_prior),
            likelihood=density.log_likelihood,
            n_effective=n_effective,
            n_active=n_active,
            n_steps=sizes["n_steps"],
            vectorize=True,
            random_state=seed,
            **options,
        )
        sampler.run(n_total=n_total, n_evidence=n_evidence, progress=False)
        samples, weights, log_likelihood, log_prior = sampler.posterior(trim_importance_weights=False)
        log_evidence, error = sampler.evidence()
    alive = np.isfinite(log_likelihood + log_prior)  # the rest has weight zero, and no density to regress on
    samples, weights, log_likelihood, log_prior = (
        values[alive] for values in (samples, weights, log_likelihood, log_prior)
    )
    settings = {**sizes, "n_evidence": n_evidence, "calls": int(sampler.calls), "iterations": int(sampler.t)}
    return Chain(
        samples,
        density.space,
        log_prob=log_prior + log_likelihood,
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        weights=weights,
        log_evidence=log_evidence,
        log_evidence_error=error,
        info=run_record("pocomc", seed, start, density, settings),
    )


class _Bar:
    """What pocoMC asks of a progress bar, redrawn every so often instead of at every move of its particles."""

    def __init__(self, *, show: bool):
        self._bar = tqdm(desc="pocoMC", unit="iteration", disable=not show)
        self._interval = 0.5 if sys.stderr.isatty() else 15.0
        self.info: dict[str, Any] = {}  # pocoMC reads "calls" from it
        self._drawn = time.perf_counter()

    def update_stats(self, info: dict[str, Any]) -> None:
        """Takes note of what the sampler reports, and shows it if it is time."""
        self.info.update(info)
        self._bar.set_postfix({name: self.info.get(name, 0) for name in _SHOWN}, refresh=False)
        if time.perf_counter() - self._drawn > self._interval:
            self._drawn = time.perf_counter()
            self._bar.refresh()

    def update_iter(self) -> None:
        """Counts an iteration."""
        self._bar.n += 1

    def close(self) -> None:
        """Draws the last state."""
        self._bar.close()


def _with_quiet_bar(sampler: type, show: bool) -> type:
    """Returns pocoMC's sampler class with our bar in place of the one that it makes in `run`."""

    class Sampler(sampler):
        @property
        def pbar(self) -> _Bar:
            if "_bar" not in self.__dict__:
                self._bar = _Bar(show=show)
            return self._bar

        @pbar.setter
        def pbar(self, made_by_run: Any) -> None:
            del made_by_run

    return Sampler


@contextmanager
def _global_generators_restored() -> Iterator[None]:
    """Gives back NumPy's and torch's global generators as they were: pocoMC seeds and uses both."""
    torch = optional_import("torch", "samplers", "sample_pocomc")
    torch_state, threads = torch.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        torch.set_num_threads(threads)
