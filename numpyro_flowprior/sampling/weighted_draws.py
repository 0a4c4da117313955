"""Draws of several normalised densities, weighted to another one that lies between them.

The draws count as those of one mixture, so that a weight is large only where all of the densities are too low (A. Owen,
Y. Zhou, "Safe and effective importance sampling", JASA 95 (2000) 135, the balance heuristic). Draws are independent,
and the estimate of the evidence is unbiased. A particle sampler begins with few draws of one density. If a mode has
little mass in it, few particles are the ancestors of all that end there, and the share of the mode is noise.
"""

from __future__ import annotations

import time
import warnings
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
from ..training.fit import fit_flow, uninterrupted
from .density import ModelDensity
from .pocomc import sample_pocomc

IMPORTANCE = "importance sampling"  # the sampler in the info of weighted draws
_PILOT = 2048  # draws of each density that show how many are needed
_BLOCK = 16_384
_MOST = 500_000  # draws, or _PER_DRAW for each effective one
_PER_DRAW = 4
_FEWEST = 10.0  # effective draws of the pilot, below which it says nothing
_MARGIN = 1.2
_DEEPEST = 700.0  # log weights below the highest by more count as zero


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
    trained on its particles and their log density is a further proposal. If this fails, they are those of pocoMC;
    `info["sampler"]` is then not IMPORTANCE.

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
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sampled = sample_pocomc(key_sample, model(), n_total=draws, progress=progress).select(space.names)
    sampled = sampled.replace(space=space, log_prob=log_density(sampled.samples))
    learned = uninterrupted(fit_flow(key_fit, sampled, config, train, trust_log_prob=True, progress=progress))
    more = [*proposals, NamedPrior(learned, space, "proposal")]
    found = weighted_draws(key_far, more, log_density, space, draws=draws, progress=progress)
    for warning in said if found is None else ():  # of a proposal, weights say enough
        warnings.warn(warning.message, stacklevel=3)
    return found or sampled


def weighted_draws(
    key: jax.Array,
    proposals: Sequence[Any],
    log_density: Callable[[FloatArray], FloatArray],
    space: ParameterSpace,
    *,
    draws: int,
    progress: bool,
) -> Chain | None:
    """Returns draws of some densities, weighted to another; None if these are not near enough.

    They are not if more than 500,000 draws would be needed, or four for each effective draw if that is more; if the
    weights have a Pareto k above 0.7; or if the other density is zero at all of 2,048 draws of each.

    Args:
        key: JAX random key.
        proposals: normalised densities over the parameters of `space`, in its order.
        log_density: the log of the other one, (n,) at points (n, d); its normalising constant is the evidence.
        space: the parameters.
        draws: effective number of draws. Rows of low weight are thinned out at random until it is about this.
        progress: show a progress bar.
    """
    start = time.perf_counter()
    run = _Draws(key, proposals, log_density)
    run.more(_PILOT)
    if run.effective < _FEWEST:
        return None
    needed = _MARGIN * draws * run.number / run.effective
    if needed > max(_MOST, _PER_DRAW * draws):
        return None
    each = max(needed - run.number, 0.0) / len(proposals)
    count = int(np.ceil(each / _BLOCK))
    for _ in progress_bar(range(count), desc="drawing", unit="batch", disable=not progress):
        run.more(int(np.ceil(each / count)))
    log_w = np.concatenate(run.log_weights)
    k = float(pareto_smoothed(log_w)[1])
    if run.effective < draws / _MARGIN or k > RELIABLE:
        return None
    rows, weights = _thinned(np.random.default_rng(seed_from_key(key)), log_w, draws)
    log_p = np.concatenate(run.log_p)
    record = {
        "sampler": IMPORTANCE,
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
        possible = log_p > -np.inf  # not NaN
        mixture = logsumexp(log_q, axis=0) - np.log(len(log_q))
        self.log_p.append(np.where(possible, log_p, -np.inf))
        self.log_weights.append(np.where(possible, log_p - np.where(possible, mixture, 0.0), -np.inf))
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


def _thinned(rng: np.random.Generator, log_w: FloatArray, effective: float) -> tuple[np.ndarray, FloatArray]:
    """Returns rows with an effective number of about `effective`, and their weights. Expectations stay the same.

    A row is kept with probability min(1, w / c), and then has the weight max(w, c). The effective number is
    (sum w)^2 / sum w max(w, c).
    """
    possible = np.flatnonzero(log_w > log_w.max() - _DEEPEST)
    log_w = log_w[possible] - logsumexp(log_w[possible])

    def log_size(log_c: float) -> float:
        return -float(logsumexp(log_w + np.maximum(log_w, log_c)))

    if log_size(-np.inf) <= np.log(effective):
        return possible, np.exp(log_w)
    log_c = brentq(lambda at: log_size(at) - np.log(effective), log_w.min(), 0.0)
    kept = rng.random(len(possible)) < np.exp(np.minimum(0.0, log_w - log_c))
    return possible[kept], np.exp(np.maximum(log_w[kept], log_c))
