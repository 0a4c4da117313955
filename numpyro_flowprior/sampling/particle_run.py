"""pocoMC's sampler with a time limit, checkpoints, a quiet progress bar, any preconditioner and a corrected evidence.

The class is derived from pocoMC's own, which is an argument: pocoMC is imported in one place, and not here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from .._util.checks import FloatArray
from .._util.progress import progress_bar
from ..diagnostics.importance import pareto_smoothed
from .particle_file import PER_ITERATION, PER_PARTICLE

# Scalar attributes of a sampler that change during a run: the integers, and all of them.
COUNTS = ("t", "calls", "n_effective", "drawn", "impossible", "flow_untrained")
NUMBERS = (*COUNTS, "proposal_scale")
COLD = 1e-4  # pocoMC takes an inverse temperature this close to one for one
_SHOWN = ("beta", "calls", "ESS", "logZ")  # values from pocoMC that the progress bar shows
_REDRAWN = 0.5  # seconds between two updates of the progress bar


class Evidence(NamedTuple):
    """A log evidence and its standard error, with Pareto k and the largest share of the averaged weights."""

    log_evidence: float
    error: float | None
    pareto_k: float | None
    largest: float


def evidence_of(log_weights: FloatArray) -> Evidence:
    """Returns the log of the mean of exp(log_weights) (n,). Points of weight zero (-inf) count."""
    n = len(log_weights)
    if not np.isfinite(log_weights).any():
        return Evidence(-np.inf, None, None, 1.0)
    log_mean = float(logsumexp(log_weights) - np.log(n))
    relative = np.exp(log_weights - log_mean)
    error = float(relative.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return Evidence(log_mean, error, float(pareto_smoothed(log_weights)[1]), float(relative.max() / n))


def watched(sampler: type) -> type:
    """Returns a subclass of pocoMC's sampler. Set `watch` and `preconditioner` before it runs."""

    class Run(sampler):
        watch: Callable[[Any, bool], bool] = staticmethod(lambda run, unfinished: True)  # between iterations: go on?
        preconditioner: Any = None  # ours, which replaces pocoMC's flow
        found: Evidence | None = None
        drawn = impossible = 0  # number of prior draws, and of those with likelihood zero

        @property
        def pbar(self) -> Bar:
            """Our bar, which replaces the one that `run` makes."""
            return self._bar

        @pbar.setter
        def pbar(self, made_by_run: Any) -> None:
            if "_bar" not in self.__dict__:
                self._bar = Bar(show=False)

        def show(self) -> None:
            """Shows the progress bar."""
            self._bar = Bar(show=True)

        def _not_termination(self, current_particles: Any) -> bool:
            unfinished = bool(super()._not_termination(current_particles))
            return self.watch(self, unfinished) and unfinished

        def _log_like(self, x: FloatArray) -> tuple[FloatArray, None]:
            values, _ = super()._log_like(x)
            if self.warmup:
                bad = int(np.isinf(values).sum())
                self.drawn, self.impossible = self.drawn + len(x), self.impossible + bad
                if bad == len(x):
                    raise ValueError(
                        f"sample_pocomc: the likelihood is zero at all {bad} draws from the prior; expected some with "
                        "a positive likelihood. Check that it is finite where the prior has its mass. If it is "
                        "positive only in a small part, raise n_active."
                    )
            return values, None

        def _train(self, current_particles: dict[str, Any]) -> dict[str, Any]:
            if self.preconditioner is None:
                return super()._train(current_particles)
            beta, past = current_particles["beta"], self.particles
            u, logl, logp, log_det = (past.get(name, flat=True) for name in ("u", "logl", "logp", "logdetj"))
            weights = np.exp(past.compute_logw_and_logz(beta)[0])
            log_p = beta * logl + logp + log_det
            usable = np.isfinite(log_p)  # a prior density may be NaN, and count as zero, at a draw of its own
            self.preconditioner.fit(u[usable], weights[usable] / weights[usable].sum(), log_p[usable])
            self.flow_untrained = False
            chosen = current_particles["u"], current_particles["weights"]
            self.theta_geometry.fit(self.preconditioner.to_latent(chosen[0])[0], weights=chosen[1])
            return current_particles

        def _compute_evidence(self, n: int) -> None:
            """Computes the evidence by importance sampling from the flow; draws of density zero have weight zero."""
            if not self.cold:
                self.logz, self.logz_err = self.tempered_evidence(), None
                return
            u, log_q = self._flow_draws(n)
            parts = [self._log_target(u[k : k + self.n_active]) for k in range(0, n, self.n_active)]
            log_p = np.concatenate(parts)
            self.found = evidence_of(np.where(np.isneginf(log_p), -np.inf, log_p - log_q))
            self.logz, self.logz_err = self.found.log_evidence, self.found.error

        def _log_target(self, u: FloatArray) -> FloatArray:
            """Returns the log density (n,) of the unnormalised posterior in the coordinates u (n, d)."""
            x, log_det = self.scaler.inverse(u)
            usable = np.isfinite(log_det) & np.isfinite(x).all(axis=1)
            log_p = np.full(len(u), -np.inf)
            log_p[usable] = self.log_prior(x[usable])
            usable &= np.isfinite(log_p)
            log_p[usable] += self._log_like(x[usable])[0] + log_det[usable]
            self.calls += int(usable.sum())
            return log_p

        def _flow_draws(self, n: int) -> tuple[FloatArray, FloatArray]:
            if self.preconditioner is not None:
                return self.preconditioner.sample(n)
            u, log_q = self.flow.sample(n)
            return np.asarray(u.detach(), np.float64), np.asarray(log_q.detach(), np.float64)

        @property
        def cold(self) -> bool:
            """Whether the particles have reached the posterior."""
            return bool(1.0 - self.particles.get("beta", index=-1) < COLD)

        def tempered_evidence(self) -> float:
            """Returns the log evidence from the particles of all temperatures alone.

            pocoMC replaces prior draws of zero likelihood by other draws, which makes its evidence too large. Here it
            is multiplied by the fraction of prior draws with a positive likelihood.
            """
            return float(self.particles.compute_logw_and_logz(1.0)[1] + np.log1p(-self.impossible / self.drawn))

        def past_arrays(self) -> dict[str, np.ndarray]:
            """Returns the results of each iteration, (iterations, particles, ...) and (iterations,)."""
            return {name: np.asarray(self.particles.past[name]) for name in (*PER_PARTICLE, *PER_ITERATION)}

        def go_on_from(self, past: dict[str, np.ndarray], numbers: dict[str, float]) -> None:
            """Takes over the state of a run between two iterations, from its arrays and numbers."""
            for name, values in past.items():
                self.particles.past[name] = list(values)
            for name in NUMBERS:
                setattr(self, name, int(numbers[name]) if name in COUNTS else numbers[name])
            self.warmup = False
            self.prior_samples = np.empty((0, self.n_dim))  # used only before the first iteration
            last = {name: values[-1] for name, values in past.items()}
            self.current_particles = {**last, "calls": self.calls, "blobs": None}

    return Run


class Bar:
    """A progress bar for pocoMC, redrawn at intervals instead of at every move of the particles."""

    def __init__(self, *, show: bool):
        self._bar = progress_bar(desc="pocoMC", unit="iteration", disable=not show)
        self.info: dict[str, Any] = {"calls": 0}  # pocoMC reads the calls here
        self._drawn = time.perf_counter()

    def update_stats(self, info: dict[str, Any]) -> None:
        """Stores the values that the sampler reports, and shows them if an update is due."""
        self.info.update(info)
        self._bar.set_postfix({name: self.info.get(name, 0) for name in _SHOWN}, refresh=False)
        if time.perf_counter() - self._drawn > _REDRAWN:
            self._drawn = time.perf_counter()
            self._bar.refresh()

    def update_iter(self) -> None:
        """Counts an iteration."""
        self._bar.n += 1

    def close(self) -> None:
        """Closes the bar in its final state."""
        self._bar.close()
