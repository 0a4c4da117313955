"""Draws of several normalised densities, weighted to another one that lies between them.

The draws count as those of one mixture, so that no weight exceeds that with respect to the density that suits a point
best (A. Owen, Y. Zhou, "Safe and effective importance sampling", JASA 95 (2000) 135, the balance heuristic). Draws are
independent, and the evidence has an exact error. A particle sampler begins with few draws of one density. If a mode has
little mass in it, few particles are the ancestors of all that end there, and the share of the mode is noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp, softmax

from .._util.batches import in_float64
from .._util.checks import FloatArray
from .._util.keys import seed_from_key
from .._util.progress import progress_bar
from ..chains.chain import Chain
from ..chains.effective import kish
from ..chains.parameters import ParameterSpace
from ..diagnostics.importance import RELIABLE, pareto_smoothed
from ..flows.config import FlowConfig
from ..priors.moments import draws_of
from ..priors.named import NamedPrior
from ..training.config import TrainConfig
from ..training.fit import fit_flow
from .density import ModelDensity
from .pocomc import sample_pocomc

_PILOT = 2048  # draws of each density that show how many are needed
_BLOCK = 16_384
_MOST = 500_000  # draws
_FEWEST = 10.0  # effective draws of the pilot, below which it says nothing
_MARGIN = 1.2
_DEEPEST = 700.0  # log weights below the highest by more count as zero
_KEPT = 2  # rows per effective draw: draws with low weights are thinned out at random


def near_draws(
    key: jax.Array,
    proposals: Sequence[Any],
    log_density: Callable[[FloatArray], FloatArray],
    model: Callable[[], ModelDensity],
    *,
    draws: int,
    config: FlowConfig | None,
    train: TrainConfig | None,
    progress: bool,
) -> Chain:
    """Returns draws of a density near some normalised ones, with its evidence.

    They are weighted draws of these, if there are enough. Otherwise pocoMC samples the density, and a flow that is
    trained on its particles and their log density is a further proposal. If this fails, they are those of pocoMC.

    Args:
        key: JAX random key.
        proposals, log_density, draws, progress: as for `weighted_draws`.
        model: makes the density as a model, whose evidence is the normalising constant of `log_density`.
        config, train: of the flow, as for `fit_flow`.
    """
    key_near, key_sample, key_fit, key_far = jax.random.split(key, 4)
    space = proposals[0].space
    found = weighted_draws(key_near, proposals, log_density, space, draws=draws, progress=progress)
    if found is not None:
        return found
    sampled = sample_pocomc(key_sample, model(), n_total=draws, progress=progress).select(space.names)
    sampled = sampled.replace(space=space, log_prob=log_density(sampled.samples))
    learned = fit_flow(key_fit, sampled, config, train, trust_log_prob=True, progress=progress).prior
    more = [*proposals, NamedPrior(learned, space, "proposal")]
    return weighted_draws(key_far, more, log_density, space, draws=draws, progress=progress) or sampled


def weighted_draws(
    key: jax.Array,
    proposals: Sequence[Any],
    log_density: Callable[[FloatArray], FloatArray],
    space: ParameterSpace,
    *,
    draws: int,
    progress: bool,
) -> Chain | None:
    """Returns draws of some densities, weighted to another; None if more than 500,000 would be needed.

    Args:
        key: JAX random key.
        proposals: normalised densities over the parameters of `space`, in its order.
        log_density: the log of the other one, (n,) at points (n, d); its normalising constant is the evidence.
        space: the parameters.
        draws: effective number of draws.
        progress: show a progress bar.
    """
    start = time.perf_counter()
    run = _Draws(key, proposals, log_density)
    run.more(_PILOT)
    if run.effective < _FEWEST:
        return None
    needed = _MARGIN * draws * run.number / run.effective
    if needed > _MOST:
        return None
    blocks = np.full(max(1, int(np.ceil(needed / len(proposals) / _BLOCK))), _BLOCK)
    for block in progress_bar(blocks, desc="drawing", unit="batch", disable=not progress):
        run.more(int(block))
    log_w = np.concatenate(run.log_weights)
    k = float(pareto_smoothed(log_w)[1])
    if run.effective < draws / _MARGIN or k > RELIABLE:
        return None
    rows, weights = _thinned(np.random.default_rng(seed_from_key(key)), log_w, _KEPT * draws)
    log_p = np.concatenate(run.log_p)
    record = {
        "sampler": "importance sampling",
        "draws": run.number,
        "efficiency": run.effective / run.number,
        "pareto_k": k,
        "seconds": round(time.perf_counter() - start, 3),
    }
    return Chain(
        np.concatenate(run.points)[rows],
        space,
        log_prob=log_p[rows],
        weights=weights,
        weights_kind="importance",
        rows="independent",
        log_evidence=float(logsumexp(log_w) - np.log(run.number)),
        log_evidence_error=run.error(),
        info=record,
    )


class _Draws:
    """Draws of a mixture of densities in equal parts, with log density and log weights, in blocks."""

    def __init__(self, key: jax.Array, proposals: Sequence[Any], log_density: Callable[[FloatArray], FloatArray]):
        self._key, self._proposals, self._log_density = key, proposals, log_density
        self.points: list[FloatArray] = []
        self.log_p: list[FloatArray] = []
        self.log_weights: list[FloatArray] = []
        self._origin: list[np.ndarray] = []

    def more(self, number: int) -> None:
        """Adds draws, as many of each density."""
        keys = jax.random.split(jax.random.fold_in(self._key, len(self.points)), len(self._proposals))
        drawn = [draws_of(each, one, number) for each, one in zip(self._proposals, keys, strict=True)]
        points = np.concatenate(drawn)
        log_q = [in_float64(each.log_prob, points) for each in self._proposals]
        log_p = self._log_density(points)
        self.points.append(points)
        self.log_p.append(np.where(np.isnan(log_p), -np.inf, log_p))
        self.log_weights.append(self.log_p[-1] - logsumexp(log_q, axis=0) + np.log(len(log_q)))
        self._origin.append(np.repeat(np.arange(len(log_q)), number))

    @property
    def number(self) -> int:
        """Number of draws so far."""
        return sum(map(len, self.log_weights))

    @property
    def effective(self) -> float:
        """Effective number of draws so far; 0 if the density is zero at all of them."""
        log_w = np.concatenate(self.log_weights)
        return kish(softmax(log_w)) if np.isfinite(log_w.max()) else 0.0

    def error(self) -> float:
        """Returns the standard error of the log evidence. The parts of a mixture are strata."""
        log_w, origin = np.concatenate(self.log_weights), np.concatenate(self._origin)
        shares = softmax(log_w)
        parts = [shares[origin == k] for k in range(len(self._proposals))]
        return float(np.sqrt(sum(len(part) * np.var(part) for part in parts)))


def _thinned(rng: np.random.Generator, log_w: FloatArray, number: int) -> tuple[np.ndarray, FloatArray]:
    """Returns the rows that are kept, about `number`, and their weights: any expectation stays the same on average.

    A row is kept with probability min(1, w / c), and then has the weight max(w, c).
    """
    possible = np.flatnonzero(log_w > log_w.max() - _DEEPEST)
    log_w = log_w[possible] - log_w.max()
    if len(possible) <= number:
        return possible, np.exp(log_w)

    def chances(log_c: float) -> FloatArray:
        return np.exp(np.minimum(0.0, log_w - log_c))

    log_c = brentq(lambda at: chances(at).sum() - number, log_w.min(), logsumexp(log_w))
    kept = rng.random(len(possible)) < chances(log_c)
    return possible[kept], np.exp(np.maximum(log_w[kept], log_c))
