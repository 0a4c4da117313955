"""The live density: a flow is tested on its own draws with the density itself, and trained again on the answers.

A chain has few rows in many dimensions. If the density can be called, the flow can ask for more. Each round draws from
the flow, evaluates the density at the draws, and trains further on two things. Draws of the density, thinned from all
points by their importance weights, train the likelihood. All points train the regression of the log density. No weight
steers the training: the heaviest are cut before the draws are thinned, and the regression does not use weights.

One point in eight is drawn from the flow widened. Such points show, and teach, tails in which the flow is too low.
Points on which a round is judged are drawn after its training, so every judgement is exact. The flow of the best round
is kept, and a last set of draws gives the numbers that are reported.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._util.batches import in_batches
from .._util.checks import FloatArray, positive_int, real_in
from .._util.json_numbers import rounded
from .._util.keys import seed_from_key
from .._util.messages import FlowPriorWarning
from .._util.progress import say
from ..chains.chain import Chain
from ..diagnostics.importance import DensityReport, density_report, log_mixture
from ..diagnostics.independent import independent_rows
from ..diagnostics.posterior_divergence import posterior_divergence
from ..flows.config import FlowConfig
from ..flows.layout import FIXED, Params, is_ensemble
from ..priors.flow_prior import FlowPrior
from ..priors.moments import draws_of
from ..priors.widened import widened_draws, widened_log_prob
from .called import CalledDensity
from .config import TrainConfig
from .descent import History, train_members
from .mixture import assembled
from .prepare import apply_prepared
from .problem import pose

INTERRUPTED = "interrupted"
LIVE = FlowConfig(layers=8, hidden=(48, 48), masks="permuted", components=16, background=True)
_TRAIN = TrainConfig(loss="log_variance", batch_size=512, learning_rate=4e-3, eval_every=200, patience=30)
_DRAWS = (16_384, 65_536)  # draws of the first round, and of any round; they double from round to round
_STEPS = (1000, 4000)  # optimiser steps of the first round, and of any round; they double in two rounds
_FEWEST = 4096  # draws of a round or of the last report, at least
_MOST_ROWS = 65_536  # rows of the chain that take part
_MOST_POINTS = 400_000  # points that take part; the oldest are left out
_HEAVIEST = 10.0  # weight, relative to the mean, at which weights are cut, at most ...
_CUT = 0.9  # ... or the weight below which this share of the mass lies, if that is smaller
FLOOR = 10.0  # nats below the median log density of the draws, for points at which the density is zero: far lower
# values would push so hard at an edge that is not declared that the flow is bent inside of it
_DEEP = 1e-3  # quantile of the draws' log densities below which points are deep
_FEW_DEEP = 0.25  # deep points per other point, at most: more of them would bend the flow where the draws are
_COUNTS = 1e-3  # weight, relative to the mean, from which a support point is never left out, and from which it judges
_COPIES = 8  # most copies of a support point among the points; they make up a quarter of the points at most
_JUDGED = 5  # one of so many support points judges and does not train
_WIDENED = 8  # one of so many draws is of the flow widened; it shows and teaches tails in which the flow has no draws
_OUTWARDS = 2.0  # by which the widened flow's draws lie farther out, in standard deviations of their radius
_GAINED, _STALLED = 0.97, 3  # a score that is lower by this factor is a gain; training ends after three rounds without
_SLOW = 0.85  # a round that lowers the score by a smaller factor halves the learning rate of the later ones
_SHOWN = ("efficiency", "kl_to_prior", "pareto_k", "score", "calls")  # of each round, in the record
_KNOWN = 64  # rows that show whether the chain's log density is that of the function
_SAME = 1e-3  # nats, the scatter of their difference if it is


@dataclass(frozen=True)
class LiveConfig:
    """Where the training on a density that can be called ends.

    Attributes:
        efficiency: importance efficiency of the flow's draws at which training ends, in (0, 1). An efficiency of
            0.98 corresponds to a KL of about 0.01 nats, one of 0.9 to 0.05.
        max_calls: number of calls of the density at which rounds end; those of the last report are included. Rows of
            the chain without a log density, and support points, are evaluated before and count. At least 8192.
        max_seconds: no round begins after this time; None for no limit.

    Raises:
        TypeError, ValueError: a field has the wrong type or is out of range.
    """

    efficiency: float = 0.98
    max_calls: int = 500_000
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        real_in(self.efficiency, "LiveConfig.efficiency", 0.0, 1.0, open_low=True, open_high=True)
        positive_int(self.max_calls, "LiveConfig.max_calls", minimum=2 * _FEWEST)
        if self.max_seconds is not None:
            real_in(self.max_seconds, "LiveConfig.max_seconds", 0.0, 1e9, open_low=True)


@dataclass(frozen=True)
class Trained:
    """A flow with its training.

    Attributes:
        prior: the flow.
        histories: the training of each member.
        train: the settings.
        unexplained: scatter of a log density that was not used because of it, nats; else None.
    """

    prior: FlowPrior
    histories: tuple[History, ...]
    train: TrainConfig
    unexplained: float | None = None


@dataclass
class LiveState:
    """A run between two rounds.

    Attributes:
        best: the flow of the best round so far.
        score: its score, nats: KL from the density to the flow, and what the flow costs at the support points.
        report: the judgement of the best round.
        working: the trained parameters of each member after the last round; None before the first.
        theta: (n, d) points at which the density was evaluated.
        log_p: (n,) log density there, -inf where it is zero.
        weights: (n,) importance weights in the round that drew the points, with mean one.
        rounds: a record of each judgement, JSON-ready.
        calls: calls of the density so far.
        seconds: time so far.
    """

    best: Trained
    score: float = np.inf
    report: DensityReport | None = None
    working: list[Params] | None = None
    theta: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    log_p: FloatArray = field(default_factory=lambda: np.empty(0))
    weights: FloatArray = field(default_factory=lambda: np.empty(0))
    rounds: list[dict[str, Any]] = field(default_factory=list)
    calls: int = 0
    seconds: float = 0.0

    def record(self, ended: str) -> dict[str, Any]:
        """Returns a JSON-ready record of the rounds; `ended` says what ended them."""
        assert self.report is not None
        return {
            **self.report.to_json(),
            "stopped_by": ended,
            "calls": self.calls,
            "seconds": round(self.seconds, 3),
            "rounds": [{name: found[name] for name in _SHOWN} for found in self.rounds],
        }


@dataclass(frozen=True)
class _Points:
    """Points (n, d), log densities (n,) there, importance weights (n,) with mean one, and what they say of the flow."""

    theta: FloatArray
    log_p: FloatArray
    weights: FloatArray
    report: DensityReport


class LiveTraining:
    """The rounds of one fit.

    Args:
        key: JAX random key.
        seen: rows of the chain that may train, with the log density of `density`.
        density: the density.
        config: architecture of the flow that is trained here.
        train: settings of the optimiser.
        live: where training ends.
        support: points with a log density, that are not draws, or None. Their weights say how much they count in the
            judgement: weighted like a posterior, they measure what the flow costs this posterior.
        keep: is called with the state after each round.
        progress: show progress.
    """

    def __init__(
        self,
        key: jax.Array,
        seen: Chain,
        density: CalledDensity,
        config: FlowConfig,
        train: TrainConfig | None,
        live: LiveConfig,
        *,
        support: Chain | None,
        keep: Callable[[LiveState], None],
        progress: bool,
    ):
        self._key, self._density, self._live, self._keep, self._progress = key, density, live, keep, progress
        self._config = config
        self._train = _TRAIN if train is None else replace(train, loss="log_variance", normalised=False)
        rows = independent_rows(jax.random.fold_in(key, 0), seen, np.empty((seen.n, 0)), _MOST_ROWS)
        others = np.setdiff1d(np.arange(seen.n), rows)[: _MOST_ROWS - len(rows)]
        self._draws = seen.take(np.sort(rows))
        self._rows = _unweighted(seen).take(others) if len(others) else None
        self._floor = float(np.median(_log_prob_of(self._draws))) - FLOOR
        self._deep = float(np.quantile(_log_prob_of(self._draws), _DEEP))
        self._support, self._judges = None, None
        if support is not None:
            counts = support.probabilities * support.n > _COUNTS
            judging = counts & (np.arange(support.n) % _JUDGED == 0)
            if judging.any() and not judging.all():
                self._judges = support.take(np.flatnonzero(judging))
                counts, support = counts[~judging], _unweighted(support).take(np.flatnonzero(~judging))
            kept = self._few_deep(_log_prob_of(support), counts, key)
            self._support = _unweighted(support).take(kept)

    def run(self, state: LiveState) -> str:
        """Trains until an end is reached and returns which: "efficiency", "calls", "seconds", "no gain", "interrupted".

        The state is updated in place; its best flow is judged.
        """
        start = time.monotonic() - state.seconds
        try:
            if not state.rounds:
                self._judge(state, state.best)
                state.seconds = time.monotonic() - start
                self._keep(state)
                self._tell_price(state)
            while True:
                ended = self._ended(state, time.monotonic() - start)
                if ended:
                    break
                candidate = self._trained(state)
                if any(history.interrupted for history in candidate.histories):
                    raise KeyboardInterrupt
                self._judge(state, candidate)
                state.seconds = time.monotonic() - start
                self._keep(state)
            self._report(state)
        except KeyboardInterrupt:
            if state.report is None:
                raise
            warnings.warn("fit_flow: interrupted; keeping the best flow so far.", FlowPriorWarning, stacklevel=3)
            ended = INTERRUPTED
        state.seconds = time.monotonic() - start
        return ended

    def _tell_price(self, state: LiveState) -> None:
        left, price = self._live.max_calls - state.calls, self._density.price
        say(
            f"live density: {1e6 * price:.3g} microseconds a call, so that the calls take at most {left * price:.0f} s "
            f"({left} calls; LiveConfig.max_calls); training comes on top",
            progress=self._progress,
        )

    def _ended(self, state: LiveState, seconds: float) -> str:
        scores = _scores(state)
        assert state.report is not None
        enough = min(self._live.efficiency, 1.0 - 1e-9)
        if state.report.efficiency >= enough and state.score <= 1.0 / enough - 1.0:
            return "efficiency"
        if state.calls + 2 * _FEWEST > self._live.max_calls:
            return "calls"
        if self._live.max_seconds is not None and seconds > self._live.max_seconds:
            return "seconds"
        if len(scores) > _STALLED and min(scores[-_STALLED:]) > _GAINED * min(scores[:-_STALLED]):
            return "no gain"
        return ""

    def _judge(self, state: LiveState, trained: Trained) -> None:
        """Draws from a flow, adds the draws to the points, and keeps the flow if it is the best so far."""
        number, prior = len(state.rounds), trained.prior
        n = max(min(_DRAWS[0] << number, _DRAWS[1], self._live.max_calls - state.calls - _FEWEST), _FEWEST)
        points = self._at_draws(state, jax.random.fold_in(self._key, 2 * number + 1), prior, n)
        report = points.report
        cost = self._cost(prior)
        score = float(np.nan_to_num(report.kl_to_prior + cost, nan=np.inf))
        state.rounds.append({**report.to_json(), "score": rounded(score), "calls": state.calls})
        if np.isfinite(report.log_evidence):
            state.theta = np.concatenate([state.theta.reshape(-1, prior.space.dim), points.theta])[-_MOST_POINTS:]
            state.log_p = np.concatenate([state.log_p, points.log_p])[-_MOST_POINTS:]
            state.weights = np.concatenate([state.weights, points.weights])[-_MOST_POINTS:]
        if not len(state.log_p):
            raise ValueError(
                f"density: expected a density above zero at draws of the flow; it is zero or undefined at all {n}. "
                "Is it the density of this chain, and is start a prior of it?"
            )
        if state.report is None or score < state.score:
            state.best, state.score, state.report = trained, score, report
        say(
            f"live density: round {number}: efficiency {100 * report.efficiency:.1f} %, KL {report.kl_to_prior:.3g} "
            f"nats{'' if self._judges is None else f', cost at the support points {cost:.3g}'}, {state.calls} calls",
            progress=self._progress,
        )

    def _report(self, state: LiveState) -> None:
        """Judges the best flow again, on draws that did not choose it."""
        n = max(min(_DRAWS[1], self._live.max_calls - state.calls), _FEWEST)
        state.report = self._at_draws(state, jax.random.fold_in(self._key, 1 << 20), state.best.prior, n).report

    def _at_draws(self, state: LiveState, key: jax.Array, prior: FlowPrior, n: int) -> _Points:
        """Returns n draws, most of them of a flow and some of the flow widened, with their log densities."""
        key_own, key_wide = jax.random.split(key)
        own, spread = n - n // _WIDENED, 1.0 + _OUTWARDS / np.sqrt(prior.space.dim)
        drawn = draws_of(prior, key_own, own), widened_draws(prior, key_wide, n - own, spread)
        theta, before = np.concatenate(drawn), self._density.calls
        log_p = self._density(theta)
        state.calls += self._density.calls - before
        log_q, log_wide = log_prob_at(prior, theta), widened_log_prob(prior, theta, spread)
        report = density_report(log_p, log_q, log_wide, own=own)
        log_weights = log_p - log_mixture(log_q, log_wide, own)
        return _Points(theta, log_p, np.exp(log_weights - report.log_evidence), report)

    def _cost(self, prior: FlowPrior) -> float:
        """Returns the KL that the flow costs a posterior that is weighted as the judging support points are, nats."""
        if self._judges is None:
            return 0.0
        log_ratio = log_prob_at(prior, self._judges.samples) - _log_prob_of(self._judges)
        return float(posterior_divergence(log_ratio, self._judges.probabilities)[0])

    def _trained(self, state: LiveState) -> Trained:
        """Returns a flow that was trained on all points."""
        number, before = len(state.rounds), state.best.prior
        key_pose, key_train, key_thin = jax.random.split(jax.random.fold_in(self._key, 2 * number + 2), 3)
        steps = min(int(_STEPS[0] * 2 ** (0.5 * (number - 1))), _STEPS[1])
        train = replace(self._train, max_steps=steps, learning_rate=self._train.learning_rate * 0.5 ** _slow(state))
        fixed = {name: part for name, part in before.params.items() if name in FIXED and name != "mixture"}
        thinned = np.asarray(jax.random.uniform(key_thin, (len(state.weights),)), np.float64) < _chances(state.weights)
        draws = _joined(self._draws, state.theta[thinned], self._floored(state.log_p[thinned]))
        points = self._points(state, ~thinned)
        seen, support = (apply_prepared(part, fixed) for part in (draws, points))
        problems = pose(key_pose, seen, support, self._config.members, train)
        starts = state.working or members_of(before, self._config)
        trained, histories = train_members(
            key_train, problems, self._config, train, starts=starts, progress=self._progress
        )
        config = replace(self._config, members=len(trained))
        state.working = [jax.tree.map(np.asarray, member) for member in trained]
        params = assembled(fixed, trained, problems, config, train)
        return Trained(FlowPrior(config, before.space, params), histories, train)

    def _points(self, state: LiveState, others: np.ndarray) -> Chain:
        """Returns the points for the regression that are not draws: rows of the chain, drawn points, support points."""
        theta, log_p = state.theta[others], self._floored(state.log_p[others])
        chain = Chain(theta, self._draws.space, log_prob=log_p, rows="independent")
        if self._rows is not None:
            chain = _joined(self._rows, theta, log_p)
        key = jax.random.fold_in(self._key, len(state.rounds))
        chain = chain.take(self._few_deep(_log_prob_of(chain), np.zeros(chain.n, bool), key))
        if self._support is not None:
            copies = int(np.clip((self._draws.n + len(state.theta)) / (3 * self._support.n), 1, _COPIES))
            rows = np.tile(np.arange(self._support.n), copies)
            chain = _joined(chain, self._support.samples[rows], self._floored(_log_prob_of(self._support)[rows]))
        return chain

    def _few_deep(self, log_p: FloatArray, always: np.ndarray, key: jax.Array) -> np.ndarray:
        """Returns the numbers of points of which few are deep, but all those that are wanted `always`."""
        kept = always | (log_p >= self._deep)
        deep = np.flatnonzero(~kept)
        most = int(_FEW_DEEP * (self._draws.n + kept.sum()))
        if len(deep) > most:
            deep = np.random.default_rng(seed_from_key(key)).choice(deep, most, replace=False)
        return np.sort(np.concatenate([np.flatnonzero(kept), deep]))

    def _floored(self, log_p: FloatArray) -> FloatArray:
        """Returns log densities with those of zero raised to a floor, so that the regression learns that it is low."""
        return np.where(np.isfinite(log_p), log_p, self._floor)


def _scores(state: LiveState) -> list[float]:
    return [np.inf if found["score"] is None else found["score"] for found in state.rounds]


def _slow(state: LiveState) -> int:
    """Returns the number of rounds after which the score was hardly lower than the best before."""
    scores = _scores(state)
    return sum(score > _SLOW * min(scores[:j]) for j, score in enumerate(scores) if j > 0)


def with_density(chain: Chain, density: CalledDensity) -> Chain:
    """Returns a chain with the log densities of a function, evaluated unless the chain already has them.

    Of more than 65,536 rows, so many at equal distances are used: with a density, more rows teach nothing.

    Raises:
        ValueError: the density is zero or undefined at rows of positive weight.
    """
    if chain.n > _MOST_ROWS:
        chain = chain.take(np.unique(np.linspace(0, chain.n - 1, _MOST_ROWS).astype(int)))
    shift, apart = _shift_to(density, chain)
    if shift is not None:
        evidence = None if chain.log_evidence is None else chain.log_evidence + shift
        return chain.replace(log_prob=_log_prob_of(chain) + shift, log_evidence=evidence)
    if apart:
        warnings.warn(
            f"fit_flow: density and chain.log_prob {apart}. The density is used. Is it the density of this chain?",
            FlowPriorWarning,
            stacklevel=3,
        )
    log_prob = density(chain.samples)
    zero = ~np.isfinite(log_prob) & (chain.probabilities > 0)
    if zero.any():
        raise ValueError(
            f"density: expected a density above zero at the rows of the chain; it is zero or undefined at "
            f"{int(zero.sum())} of {chain.n}. Is it the density of this chain, and are the parameters in its order "
            f"({', '.join(chain.names)})?"
        )
    kept = np.flatnonzero(np.isfinite(log_prob))
    unknown = {"log_prior": None, "log_likelihood": None, "log_evidence": None, "log_evidence_error": None}
    return chain.take(kept).replace(log_prob=log_prob[kept], **unknown)


def support_with_density(support: Chain, density: CalledDensity, chain: Chain) -> Chain:
    """Returns support points with the log densities of a function, without those at which it is zero or undefined.

    Raises:
        ValueError: the density is zero or undefined at all of them.
    """
    if set(support.names) != set(chain.names):
        return support  # refused where the names are checked
    support = support.select(chain.names)
    shift, _ = _shift_to(density, support)
    if shift is not None:
        return support.replace(log_prob=_log_prob_of(support) + shift)
    log_prob = density(support.samples)
    kept = np.flatnonzero(np.isfinite(log_prob))
    if not support.probabilities[kept].any():
        raise ValueError(
            f"fit_flow: support_points: expected a density above zero at some of them; it is zero or undefined at all "
            f"{support.n} points of positive weight. Are they points of these parameters, in the density's units?"
        )
    return support.take(kept).replace(log_prob=log_prob[kept], log_prior=None, log_likelihood=None)


def _shift_to(density: CalledDensity, chain: Chain) -> tuple[float | None, str]:
    """Returns the constant between a chain's log density and a function, and how they differ in words.

    The constant is None if the chain has no log density, or one that is not the function's; the words are empty if it
    has none.
    """
    if chain.log_prob is None:
        return None, ""
    counting = np.flatnonzero(chain.probabilities)
    looked_at = counting[np.unique(np.linspace(0, len(counting) - 1, _KNOWN).astype(int))]
    difference = density(chain.samples[looked_at]) - chain.log_prob[looked_at]
    if np.isfinite(difference).all() and difference.std() < _SAME:
        return float(np.median(difference)), ""
    with np.errstate(invalid="ignore"):
        return None, f"differ by {difference.mean():.3g} nats with a scatter of {difference.std():.3g} nats"


def log_prob_at(prior: FlowPrior, theta: FloatArray) -> FloatArray:
    """Returns the log density (n,) of a prior at points (n, d), in float64."""
    with jax.enable_x64(True):
        return in_batches(lambda points: prior.log_prob(jnp.asarray(points)), theta)


def members_of(prior: FlowPrior, config: FlowConfig) -> list[Params] | None:
    """Returns the trained parameters of each member of a flow if it has the given architecture, else None."""
    if prior.config != config:
        return None
    trained = {name: part for name, part in prior.params.items() if name not in FIXED}
    if not is_ensemble(config):
        return [jax.tree.map(np.asarray, trained)]
    return [jax.tree.map(lambda leaf, k=k: np.asarray(leaf)[k], trained) for k in range(config.members)]


def _chances(weights: FloatArray) -> FloatArray:
    """Returns the probabilities (n,) with which points become draws: proportional to the weights, the heaviest cut."""
    if not weights.any():
        return np.zeros(len(weights))
    order = np.argsort(weights)
    mass = np.cumsum(weights[order])
    cut = weights[order][np.searchsorted(mass, _CUT * mass[-1])]
    return np.minimum(weights / np.clip(cut, 1.0, _HEAVIEST), 1.0)


def _unweighted(chain: Chain) -> Chain:
    return chain.replace(weights=None, family_id=None)


def _joined(chain: Chain, theta: FloatArray, log_p: FloatArray) -> Chain:
    """Returns a chain without order, with equal weights, of a chain's rows and further points."""
    samples = np.concatenate([chain.samples, theta.reshape(-1, chain.dim)])
    return Chain(samples, chain.space, log_prob=np.concatenate([_log_prob_of(chain), log_p]), rows="independent")


def _log_prob_of(chain: Chain) -> FloatArray:
    assert chain.log_prob is not None  # rows and support points have got it from the density
    return chain.log_prob
