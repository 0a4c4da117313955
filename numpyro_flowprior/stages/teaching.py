"""Priors taught by the exact density: where the flow itself has draws, and where the next stage needs it.

A flow that was trained on a posterior alone may be wrong in two ways. In many dimensions the draws are too few. And the
next posterior may lie where the draws are rare, or where there are none. If the exact density of the posterior is known
as a function, both can be mended. A flow with a large loss on held-out rows is trained on the density (training.live).
And a stage whose posterior loses too much to its learned prior is a rehearsal: its draws, of all temperatures, become
support points with exact log densities, the prior is trained again, and the stage is sampled again.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray
from .._util.progress import say
from ..chains.chain import Chain
from ..diagnostics.importance import RELIABLE, smoothed_ratios
from ..priors.composed import RobustPrior, robustify
from ..priors.fingerprint import prior_fingerprint
from ..priors.flow_prior import FlowPrior
from ..training.fit import fit_flow, uninterrupted
from ..training.live import FLOOR, LiveConfig
from .exact import ExactDensity, PriorError
from .findings import price_of
from .folder import StageFolder
from .guards import share_of_broad
from .origin import chain_fingerprint
from .stage import StageOptions

_SAME = 1e-6  # nats by which two log densities of one function scatter
_TIMED = 512  # calls that measure the price of a density
_MOST_CALLS = 500_000
_FEWEST_CALLS = 40_000  # a density that can be called less often within the budget is not worth its price
_LEAST_SECONDS = 60.0  # for the calls, or as long as the sampler of the stage took, if that is longer
_TRAINING = 4.0  # times as long for calls and training together


@dataclass(frozen=True)
class Taught:
    """What a prior was trained on, so that it can be trained again.

    Attributes:
        key: the key of its training.
        chain: the rows.
        exact: their exact density.
    """

    key: jax.Array
    chain: Chain
    exact: ExactDensity


def loss_of(prior: Any, chain: Chain, error: PriorError) -> float:
    """Returns what a posterior loses to its learned prior, nats; infinite if the estimate is not reliable.

    What is due to the broad part of a robust prior is not a loss.
    """
    if not error.reliable:
        return np.inf
    return error.loss - price_of(share_of_broad(prior, chain))


def needs_teaching(prior: Any, chain: Chain, error: PriorError, options: StageOptions) -> bool:
    """Returns whether a prior is to be trained again: the posterior loses too much to it, and its draws can teach it.

    They cannot if the exact density is zero at all of them.
    """
    return error.loss < np.inf and loss_of(prior, chain, error) > options.max_loss


def refined(
    learned: FlowPrior, given: Taught, options: StageOptions, files: StageFolder | None, *, progress: bool
) -> FlowPrior:
    """Returns a learned prior, trained on the exact density if its loss on held-out rows is too large.

    A prior that was trained in this way before is returned as it is.
    """
    loss = learned.info.get("report", {}).get("loss")
    if options.live is False or not learnable(options) or (loss is not None and loss <= options.max_loss):
        return learned
    if "live" in learned.info:
        return learned
    if not np.isfinite(in_order_of(given.exact, given.chain.names)(given.chain.samples)).any():
        say("the exact density is zero at all draws, so the prior learns from the draws alone", progress=progress)
        return learned
    live = _affordable(given, options, progress=progress)
    if live is None:
        return learned
    return _fit(given, learned, None, live, options, files, progress=progress)


def taught(
    prior: Any,
    given: Taught,
    rehearsal: Chain,
    options: StageOptions,
    files: StageFolder | None,
    *,
    progress: bool,
) -> Any:
    """Returns the prior of a stage, trained again with the draws of a rehearsal as support points.

    Args:
        prior: the prior of the rehearsal, a FlowPrior or a robust one.
        given: what the prior was trained on.
        rehearsal: the posterior that was sampled under the prior, with its draws of low weight.
        options: options of the run.
        files: the folder of the stage.
        progress: show progress.
    """
    learned = prior.prior if isinstance(prior, RobustPrior) else prior
    support = _with_exact(rehearsal.select(learned.space.names), given.exact)
    live = None if options.live is False else _affordable(given, options, progress=progress)
    return _fit(given, learned, support, live, options, files, progress=progress)


def made_robust(learned: FlowPrior, options: StageOptions) -> Any:
    """Returns the prior that a stage gets: the learned one, mixed with a broad one if the options say so."""
    return robustify(learned, options.robust) if options.robust else learned


def learnable(options: StageOptions) -> bool:
    """Returns whether the training settings use a log density."""
    return options.tail_aware and (options.train is None or options.train.loss == "log_variance")


def _fit(
    given: Taught,
    start: FlowPrior,
    support: Chain | None,
    live: LiveConfig | None,
    options: StageOptions,
    files: StageFolder | None,
    *,
    progress: bool,
) -> FlowPrior:
    """Returns the prior of a fit on the exact density, or, if that is dear, on its values at rows and support points.

    Raises:
        KeyboardInterrupt: the training was interrupted; with a folder, the next call goes on from its checkpoint.
    """
    chain = _as_exact(given.chain, given.exact)
    arguments: dict[str, Any] = {"trust_log_prob": True, "support_points": support, "progress": progress}
    checkpoint = None if files is None or live is None else _checkpoint(files, start, chain, support)
    if live is not None:
        density = in_order_of(given.exact, chain.names)
        arguments |= {"density": density, "live": live, "start": start, "checkpoint": checkpoint}
    prior = uninterrupted(fit_flow(given.key, chain, options.config, options.train, **arguments))
    prior.info["chain"]["fingerprint"] = given.chain.fingerprint()  # of the rows as the stage knows them
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return prior


def _checkpoint(files: StageFolder, start: FlowPrior, *chains: Chain | None) -> Path:
    """Returns the path of a checkpoint for these inputs, and removes those of other inputs."""
    digest = hashlib.sha256(prior_fingerprint(start).encode())
    for chain in chains:
        digest.update(b"none" if chain is None else chain_fingerprint(chain).encode())
    path = files.path / f"live_{digest.hexdigest()[:12]}.checkpoint"
    for other in files.path.glob("live_*.checkpoint"):
        if other != path:
            other.unlink()
    return path


def in_order_of(exact: ExactDensity, names: tuple[str, ...]) -> Any:
    """Returns the exact density as a function of points with the parameters in the order of `names`."""
    columns = [names.index(name) for name in exact.names]
    return lambda theta: exact.log_density(theta[:, columns])


def _as_exact(chain: Chain, exact: ExactDensity) -> Chain:
    """Returns the posterior of a stage with exact log densities, weighted to the exact prior of that stage.

    No row is left out. In the first stage, whose prior is exact, the rows are therefore split as they were in the first
    training. If the learned prior of a later stage is too far from the exact one, only rows at which the exact density
    is zero get the weight zero. The log density there is that of a far tail.
    """
    values: FloatArray = in_order_of(exact, chain.names)(chain.samples)
    possible = np.isfinite(values)
    assert chain.log_prob is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        log_b = np.log(chain.probabilities)
        ratio = np.where(possible & np.isfinite(log_b), values - chain.log_prob, -np.inf)
    lowest = float(np.median(values[possible])) - FLOOR
    filled = chain.replace(log_prob=np.where(possible, values, lowest), log_prior=None, log_likelihood=None)
    apart = ratio[np.isfinite(ratio)]
    if possible.all() and np.ptp(apart) < _SAME:
        return filled  # the first stage, whose prior is exact
    smoothed, k = smoothed_ratios(log_b, ratio, relative_efficiency=1.0 / chain.autocorrelation_time)
    weights = np.exp(smoothed) if k <= RELIABLE else np.where(possible, chain.probabilities, 0.0)
    return filled.replace(weights=weights, weights_kind="importance")


def _with_exact(chain: Chain, exact: ExactDensity) -> Chain:
    """Returns a chain with the exact log densities of its rows, without the rows at which the density is zero."""
    values: FloatArray = in_order_of(exact, chain.names)(chain.samples)
    kept = np.flatnonzero(np.isfinite(values))
    return chain.take(kept).replace(log_prob=values[kept], log_prior=None, log_likelihood=None)


def _affordable(given: Taught, options: StageOptions, *, progress: bool) -> LiveConfig | None:
    """Returns where training on the exact density ends, as the options say or as its price allows; None if it is dear.

    The density is timed. Its calls may take a minute, or as long as the sampler took.
    """
    if isinstance(options.live, LiveConfig):
        return options.live
    density, rows = in_order_of(given.exact, given.chain.names), given.chain.samples[:_TIMED]
    density(rows)  # compiled
    start = time.perf_counter()
    density(rows)
    price = max((time.perf_counter() - start) / len(rows), given.exact.seconds_per_call)
    seconds = max(_LEAST_SECONDS, float(given.chain.info.get("seconds") or 0.0))
    calls = int(min(_MOST_CALLS, seconds / price))
    if calls < _FEWEST_CALLS:
        say(
            f"the exact density takes {1e3 * price:.3g} ms a call, too long to train on it ({calls} calls in "
            f"{seconds:.0f} s). StageOptions(live=LiveConfig(...)) does it anyway",
            progress=progress,
        )
        return None
    say(
        f"training on the exact density: at most {calls} calls, {calls * price:.0f} s, and as a whole at most "
        f"{_TRAINING * seconds:.0f} s",
        progress=progress,
    )
    return LiveConfig(1.0 / (1.0 + options.max_loss), calls, _TRAINING * seconds)
