"""pocoMC's sampler with a time limit, checkpoints, a quiet progress bar, any preconditioner, and draws of its flow.

The particles of the last iterations have common ancestors: a mode that few of them reached has a share that is noise,
whatever their weights say. Independent draws of the flow, weighted to the posterior, have none, and they give the
evidence too. Two tests say if the flow covers the posterior. Its weights must be even; and no particles may lie where
it has far too little density, as they do in a mode that it lacks, which its own draws cannot show.

The class is derived from pocoMC's own, which is an argument: pocoMC is imported in one place, and not here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax

from .._util.checks import FloatArray
from .._util.progress import progress_bar
from ..chains.effective import kish
from ..diagnostics.importance import pareto_smoothed
from .particle_file import PER_ITERATION, PER_PARTICLE

# Scalar attributes of a sampler that change during a run: the integers, and all of them.
COUNTS = ("t", "calls", "n_effective", "drawn", "impossible", "flow_untrained", "calls_of_draws")
NUMBERS = (*COUNTS, "proposal_scale")
COLD = 1e-4  # pocoMC takes an inverse temperature this close to one for one
_SHOWN = ("beta", "calls", "ESS", "logZ")  # values from pocoMC that the progress bar shows
_REDRAWN = 0.5  # seconds between two updates of the progress bar
_MARGIN = 1.1  # more draws than are expected to be needed
_BLOCK = 16_384  # draws between two looks at their effective number
_PIECE = 1024  # draws of a flow in torch at a time, because of its memory
_JUDGED = 1000  # draws from which their weights say whether the flow covers the posterior
_COUNTED, _FAR, LACKING = 1e-3, 1.0, 0.02  # weight of a particle that counts, relative to the mean; nats above the
# highest ratio of the draws from which the flow lacks density; share of the particles where it may
_ENOUGH = 400.0  # effective sample size below which a run is too short, if more draws were requested
UNRELIABLE_K, _HEAVY = 0.7, 0.01  # Pareto k of the weights; the largest share that a single draw may have


class Evidence(NamedTuple):
    """A log evidence and its standard error, with Pareto k and the largest share of the averaged weights."""

    log_evidence: float
    error: float | None
    pareto_k: float | None
    largest: float

    @property
    def heavy(self) -> bool:
        """Whether the weights have so heavy a tail that nothing can be said; a negligible tail does not matter."""
        return self.pareto_k is not None and self.pareto_k > UNRELIABLE_K and self.largest > _HEAVY


class Draws(NamedTuple):
    """Draws of a flow, weighted to the posterior: points (n, d), and (n,) log prior, log likelihood and log weight.

    The density is zero where the log weight is -inf. The log likelihood is then not computed, or -inf.
    """

    points: FloatArray
    log_prior: FloatArray
    log_likelihood: FloatArray
    log_weights: FloatArray

    @property
    def effective_size(self) -> float:
        """Effective number of draws; 0 if the density is zero at all of them, or is not a number."""
        highest = self.log_weights.max()
        return kish(softmax(self.log_weights)) if np.isfinite(highest) else 0.0

    def and_more(self, other: Draws) -> Draws:
        """Returns these draws and others of the same flow."""
        return Draws(*(np.concatenate(parts) for parts in zip(self, other, strict=True)))


def enough_of(n_total: int) -> float:
    """Returns the effective sample size below which a run is too short."""
    return min(_ENOUGH, 0.9 * n_total)


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
        keep: Callable[[Any], None] = staticmethod(lambda run: None)  # called when there are new draws
        complete = True  # False if the time limit ended the run; then no more draws are made than were asked for
        no_grad: Any = nullcontext  # torch's, for its own flows, its conversion, and a generator of its own for draws
        as_tensor: Any = staticmethod(lambda array: array)
        generator: Any = staticmethod(lambda *place: nullcontext())
        preconditioner: Any = None  # ours, which replaces pocoMC's flow
        draws: Draws | None = None
        found: Evidence | None = None
        logz_err: float | None
        kept: Draws | None = None  # the draws so far, those of an earlier call included ...
        kept_at = calls_of_draws = 0  # ... the iteration at which they were made; calls of all draws ever made
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
            """Draws from the flow, n points and as many more as give `n_total` effective ones, and finds the evidence.

            There are no more draws than there were calls for the particles, and only n if more would not be enough.
            """
            if not self.cold:
                self.logz, self.logz_err = self.tempered_evidence(), None
                return
            most = max(n, self.calls - self.calls_of_draws) if self.complete else n
            draws = self.kept_draws()
            while draws is None or len(draws.points) < n:
                draws = self._more_draws(draws, min(_BLOCK, n - (0 if draws is None else len(draws.points))))
            while draws.effective_size < self.n_total:
                per_effective = len(draws.points) / max(draws.effective_size, 1.0)
                missing = math.ceil(_MARGIN * per_effective * self.n_total) - len(draws.points)
                more = min(missing, most - len(draws.points), _BLOCK)
                judged = len(draws.points) >= _JUDGED  # fewer say nothing
                hopeless = per_effective * enough_of(self.n_total) > most or evidence_of(draws.log_weights).heavy
                if more <= 0 or (judged and hopeless):
                    break
                draws = self._more_draws(draws, more)
                self.pbar.update_stats({"calls": self.calls})
            self._take(draws)

        def _take(self, draws: Draws) -> None:
            self.draws, self.found = draws, evidence_of(draws.log_weights)
            self.logz, self.logz_err = self.found.log_evidence, self.found.error

        def as_interrupted(self) -> None:
            """Finds the evidence of a run that ends here: from draws of the flow so far, if there are any."""
            draws = self.kept_draws()
            if draws is None:
                self.logz, self.logz_err = self.tempered_evidence(), None
            else:
                self._take(draws)

        def kept_draws(self) -> Draws | None:
            """Returns the draws of the flow as it is now, also those of an earlier call; None if there are none."""
            return self.kept if self.kept_at == len(self.particles.past["beta"]) else None

        def _more_draws(self, draws: Draws | None, n: int) -> Draws:
            calls, block = self.calls, 0 if draws is None else len(draws.points)
            new = self._weighted_draws(n, block)
            self.calls_of_draws += self.calls - calls
            self.kept = new if draws is None else draws.and_more(new)
            self.kept_at = len(self.particles.past["beta"])
            self.keep(self)
            return self.kept

        def _weighted_draws(self, n: int, block: int) -> Draws:
            u, log_q = self._flow_draws(n, block)
            parts = [self._at(u[k : k + self.n_active]) for k in range(0, n, self.n_active)]
            x, log_prior, log_likelihood, log_det = (np.concatenate(each) for each in zip(*parts, strict=True))
            log_p = log_prior + log_likelihood + log_det
            return Draws(x, log_prior, log_likelihood, np.where(np.isneginf(log_p), -np.inf, log_p - log_q))

        def _at(self, u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
            """Returns the points x (n, d) at coordinates u, their log prior, log likelihood and log |det dx / du|."""
            x, log_det = self.scaler.inverse(u)
            usable = np.isfinite(log_det) & np.isfinite(x).all(axis=1)
            log_prior, log_likelihood = np.full(len(u), -np.inf), np.full(len(u), -np.inf)
            log_prior[usable] = self.log_prior(x[usable])
            usable &= np.isfinite(log_prior)
            log_likelihood[usable] = self._log_like(x[usable])[0]
            self.calls += int(usable.sum())
            return x, log_prior, log_likelihood, np.where(usable, log_det, 0.0)

        def _flow_draws(self, n: int, block: int) -> tuple[FloatArray, FloatArray]:
            if self.preconditioner is not None:
                return self.preconditioner.sample(n, block)
            with self.generator(len(self.particles.past["beta"]), block):
                parts = [self.flow.sample(min(_PIECE, n - k)) for k in range(0, n, _PIECE)]
            u, log_q = (
                np.concatenate([np.asarray(one, np.float64) for one in each]) for each in zip(*parts, strict=True)
            )
            return u, log_q

        def _flow_log_prob(self, u: FloatArray) -> FloatArray:
            if self.preconditioner is not None:
                return self.preconditioner.log_prob(u)
            with self.no_grad():
                parts = [
                    np.asarray(self.flow.log_prob(self.as_tensor(u[k : k + _PIECE])), np.float64)
                    for k in range(0, len(u), _PIECE)
                ]
            return np.concatenate(parts)

        @property
        def covered(self) -> bool:
            """Whether the draws of the flow are enough, and its weights even enough, to be those of the posterior."""
            if self.draws is None or self.found is None or self.found.heavy:
                return False
            return self.draws.effective_size >= enough_of(self.n_total) and self.lacking <= LACKING

        @cached_property
        def lacking(self) -> float:
            """Share of the particles, by weight, where the flow has less density than at any of its draws, by far."""
            if self.draws is None or self.found is None or not np.isfinite(self.found.log_evidence):
                return 0.0
            past = self.particles
            u, logl, logp, log_det = (past.get(name, flat=True) for name in ("u", "logl", "logp", "logdetj"))
            weights = np.exp(past.compute_logw_and_logz(1.0)[0])
            log_p = logl + logp + log_det
            counted = np.flatnonzero((weights > _COUNTED / len(weights)) & np.isfinite(log_p))
            ratio = log_p[counted] - self._flow_log_prob(u[counted])
            far = ratio > self.draws.log_weights.max() + _FAR
            return float(weights[counted][far].sum() / weights[counted].sum())

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

        def go_on_from(
            self, past: dict[str, np.ndarray], numbers: dict[str, float], draws: dict[str, np.ndarray]
        ) -> None:
            """Takes over the state of a run between two iterations, from its arrays, numbers and draws of the flow."""
            for name, values in past.items():
                self.particles.past[name] = list(values)
            if draws:
                self.kept, self.kept_at = Draws(**draws), len(past["beta"])
            numbers = {"calls_of_draws": 0, **numbers}  # which older files lack
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
