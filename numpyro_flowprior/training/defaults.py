"""The default settings of `fit_flow`: a few candidates, compared in short pilot runs on held-out rows.

The candidates had the highest held-out log densities in `benchmarks/fidelity.py`. On every chain tried, a mixture of
several small flows was more accurate than one large flow trained for the same time. The best width depends on the
density: hard edges, separate modes and many parameters need wide networks. Training on the chain's log density helps
if that density is exact. Pilot runs decide both questions on the validation rows, and allow for noise. With support
points, widths are not compared: wide networks with long training are the most accurate in the tails
(`benchmarks/tail.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .._util.checks import FloatArray
from ..chains.chain import Chain
from ..chains.effective import Dependence, mean_and_error
from ..flows.config import FlowConfig
from .config import TrainConfig

_FEW = 4000  # effective size below which the smallest networks are also tried ...
_SHORT = 2000  # ... and, in that case, number of rows from which NARROW is tried
_FEW_SUPPORTED = 2000  # effective size from which wide networks are used with support points
_MANY = 20_000  # effective size from which training takes its full length
_PILOT_STEPS = 1000
_TAUGHT_STEPS, _TAUGHT_RATE = 6000, 4e-3  # for training on the log density, which overfits less; the highest rate
_SLACK, _ERRORS = 0.03, 2.0  # nats, plus this many standard errors, by which a larger network must be better
_NO_WORSE = 0.06  # nats by which a pilot with the log density may be worse: it is too short to show the full gain
_NEAR = 0.1  # nats below a pilot, above which a mixture of Gaussians is tried as the base
_UNEXPLAINED, _SCATTER = 0.9, 0.5  # share of the scatter of log p - log q that remains after training on log p, and its
# size in nats; if both are exceeded, it is noise, and log p is not the density of these parameters

_FEWEST = FlowConfig(layers=2, hidden=(16,), components=4, members=10, background=True)
NARROW = FlowConfig(layers=3, hidden=(16,), components=4, members=6, background=True)
_WIDE = FlowConfig(layers=4, hidden=(64,), components=16, members=5, background=True)
_WIDE_SUPPORTED = replace(_WIDE, members=3)  # the log density leaves little to average
_SUPPORTED = TrainConfig(loss="log_variance", batch_size=256, max_steps=12_000, learning_rate=4e-3, patience=30)


@dataclass(frozen=True)
class Piloted:
    """The log densities of a pilot run at its validation rows.

    Attributes:
        log_q: (n,) log density of the trained flow, nats, in whitened coordinates.
        log_p: (n,) log density of the chain in the same coordinates, up to a constant; zero if the loss is "nll".
        dependence: how the rows depend on each other.
    """

    log_q: FloatArray
    log_p: FloatArray
    dependence: Dependence

    def is_better(self, other: Piloted, slack: float, errors: float = 0.0) -> bool:
        """Returns whether its mean log q is higher by more than `slack` nats plus `errors` standard errors.

        The error is that of the gain itself. In a Markov chain it can be far smaller than the slowest parameter
        suggests. Two flows differ in local features, which a chain visits often.
        """
        if not np.isfinite(self.log_q).all():
            return False
        if not np.isfinite(other.log_q).all():
            return True
        gain = self.log_q - other.log_q
        (mean,), (error,) = mean_and_error(gain[:, None], np.full(len(gain), 1.0 / len(gain)), self.dependence)
        return bool(mean > slack + errors * error)


@dataclass(frozen=True)
class Defaults:
    """The chosen settings.

    Attributes:
        config: the architecture.
        train: the training settings.
        unexplained: scatter of the chain's log density about the flow, nats, if the log density is not used because of
            this scatter; else None.
    """

    config: FlowConfig
    train: TrainConfig
    unexplained: float | None = None


Pilot = Callable[[FlowConfig, TrainConfig], Piloted]
Gaussians = Callable[[], tuple[int, float]]


def default_configs(
    chain: Chain,
    pilot: Pilot,
    *,
    gaussians: Gaussians | None = None,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    supported: bool = False,
    trusted: bool | None = None,
) -> Defaults:
    """Returns the architecture and the training settings for a chain, where they are not given.

    Args:
        chain: the chain to learn.
        pilot: function that trains one member briefly with the given settings and returns its log densities.
        gaussians: function that returns how many Gaussians fit the chain best, and their mean log density at the rows
            that judge the pilots; None not to try them.
        config: the architecture, if it is given.
        train: the training settings, if they are given.
        supported: whether there are support points. Only the regression can use them. The tails that they cover hold
            almost none of the draws that judge pilots, and need wide networks and long training.
        trusted: whether the log density is known to be that of these parameters; None to decide on held-out rows.
    """
    rows = chain.effective_size
    tried = cache(lambda one, settings: pilot(replace(one, members=1), _shortened(settings)))
    unexplained = None
    if supported and not trusted and train is None:
        small = config or _FEWEST
        unexplained = _unexplained(*(tried(small, how(_settings(rows, small))) for how in (_taught, replace)))
    if supported and unexplained is None:
        return Defaults(config or (_WIDE_SUPPORTED if rows >= _FEW_SUPPORTED else _FEWEST), train or _SUPPORTED)
    candidates = [NARROW, _WIDE] if rows >= _FEW else [_FEWEST, *([NARROW] if chain.n >= _SHORT else []), _WIDE]
    candidates = [config] if config else candidates
    chosen = candidates[0]
    for other in candidates[1:]:
        own, others = (tried(one, train or _settings(rows, one)) for one in (chosen, other))
        if others.is_better(own, _SLACK, _ERRORS):
            chosen = other
    settings = train or _settings(rows, chosen)
    if config is None and gaussians is not None:
        (number, log_density), own = gaussians(), tried(chosen, settings)
        if number > 1 and not own.log_q.mean() - log_density > _NEAR:
            other = replace(chosen, base="full_mixture", components=number)
            if tried(other, settings).is_better(own, _SLACK, _ERRORS):
                chosen = other
    if train is not None or chain.log_prob is None or unexplained is not None:
        return Defaults(chosen, settings, unexplained)
    taught, plain = tried(chosen, _taught(settings)), tried(chosen, settings)
    unexplained = None if trusted else _unexplained(taught, plain)
    if unexplained is None and not plain.is_better(taught, _NO_WORSE):
        return Defaults(chosen, _taught(settings))
    return Defaults(chosen, settings, unexplained)


def _unexplained(taught: Piloted, plain: Piloted) -> float | None:
    """Returns the scatter of log p about a flow trained on it, nats, if it is noise in log p; else None.

    If log p is the density of the parameters, training on it removes most of the scatter of log p - log q, also on
    held-out rows. If parameters are missing, their contribution to log p is noise. No function of the other parameters
    explains it, and the scatter remains.
    """
    if not (np.isfinite(taught.log_q).all() and np.isfinite(plain.log_q).all()):
        return None  # one pilot diverged; the other one is chosen
    left, before = (taught.log_p - each.log_q for each in (taught, plain))
    scatter = float(np.std(left))
    stays = all(
        spread(left) > _UNEXPLAINED * spread(before) for spread in (np.std, _middle)
    )  # sensitive to outliers, and robust against them
    return scatter if scatter > _SCATTER and stays else None


def _middle(values: FloatArray) -> float:
    """Returns the median absolute deviation from the median."""
    return float(np.median(np.abs(values - np.median(values))))


def _shortened(train: TrainConfig) -> TrainConfig:
    return replace(train, max_steps=min(train.max_steps, _PILOT_STEPS))


def _settings(rows: float, config: FlowConfig) -> TrainConfig:
    """Returns settings for training on samples alone: longer for more rows, longer and faster for wide networks."""
    if config == _FEWEST or (rows < _FEW and config not in (NARROW, _WIDE)):
        return TrainConfig(batch_size=256, max_steps=2000)
    train = TrainConfig(batch_size=256, max_steps=3000, learning_rate=4e-3, patience=30)
    if rows >= _MANY:
        train = replace(train, batch_size=512, max_steps=6000)
    if config == _WIDE:
        train = replace(train, learning_rate=8e-3, max_steps=2 * train.max_steps, patience=60, weight_decay=1e-2)
    return train


def _taught(train: TrainConfig) -> TrainConfig:
    rate = min(train.learning_rate, _TAUGHT_RATE)
    return replace(train, loss="log_variance", batch_size=256, max_steps=_TAUGHT_STEPS, learning_rate=rate)
