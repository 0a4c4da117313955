"""What `fit_flow` uses when nothing is asked for: candidates, chosen between in short pilot runs on held-out rows.

The candidates are those that held-out densities favoured in `benchmarks/fidelity.py`: several small flows mixed as
densities are more faithful than one large one in the same time, on every chain tried; how wide they should be depends
on the density (hard edges, separate modes and many parameters want width), and so does whether the chain's log density
helps (it does where it is exact). Pilots tell both, on the rows kept for validation, beyond their own noise. With
support points there is nothing to ask: wide networks, trained for long, lose least in the tails (`benchmarks/tail.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .._util.checks import FloatArray
from ..chains.chain import Chain
from ..flows.config import FlowConfig
from .config import TrainConfig

_FEW = 4000  # effective rows below which the smallest networks are tried too ...
_SHORT = 2000  # rows below which, of the larger ones, the widest alone is
_FEW_SUPPORTED = 2000  # effective rows from which on support points teach wide networks
_MANY = 20_000  # effective rows from which training is worth its full length
_PILOT_STEPS = 1000
_TAUGHT_STEPS, _TAUGHT_RATE = 6000, 4e-3  # where the log density teaches, which overfits less; the rate at most
_SLACK, _ERRORS = 0.03, 2.0  # nats, and standard errors, by which a larger network must be better
_NO_WORSE = 0.06  # nats that a pilot may lose by the log density: it is too short to have all of its merits
_UNEXPLAINED, _SCATTER = 0.9, 0.5  # share of the scatter of log p - log q that is left when log p has been taught, and
# nats of it, from which on it is noise: log p is then not the density of these parameters

_FEWEST = FlowConfig(layers=2, hidden=(16,), components=4, members=10, background=True)
NARROW = FlowConfig(layers=3, hidden=(16,), components=4, members=6, background=True)
_WIDE = FlowConfig(layers=4, hidden=(64,), components=16, members=3, background=True)
_SUPPORTED = TrainConfig(loss="log_variance", batch_size=256, max_steps=12_000, learning_rate=4e-3, patience=30)


@dataclass(frozen=True)
class Piloted:
    """A pilot at the rows kept for validation.

    Attributes:
        log_q: (n,) its log density, nats, in whitened coordinates.
        log_p: (n,) the chain's there, up to a constant; zero where it is not taught.
        independent: how many independent rows they are.
    """

    log_q: FloatArray
    log_p: FloatArray
    independent: float

    def is_better(self, other: Piloted, slack: float, errors: float = 0.0) -> bool:
        """Returns whether its mean log density is higher by so many nats, and standard errors of the difference."""
        if not np.isfinite(self.log_q).all():
            return False
        if not np.isfinite(other.log_q).all():
            return True
        gain = self.log_q - other.log_q
        return bool(gain.mean() > slack + errors * gain.std() / np.sqrt(max(self.independent, 1.0)))


@dataclass(frozen=True)
class Defaults:
    """What is used.

    Attributes:
        config: the architecture.
        train: the training settings.
        unexplained: scatter of the chain's log density about the flows, nats, if it is left out because of it.
    """

    config: FlowConfig
    train: TrainConfig
    unexplained: float | None = None


Pilot = Callable[[FlowConfig, TrainConfig], Piloted]


def default_configs(
    chain: Chain,
    pilot: Pilot,
    *,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    supported: bool = False,
    trusted: bool | None = None,
) -> Defaults:
    """Returns the architecture and the training settings for a chain, where they are not given.

    Args:
        chain: what will be learnt.
        pilot: from settings to what a short training of one member has learnt.
        config: the architecture, if it is given.
        train: the training settings, if they are given.
        supported: there are support points, which the regression alone can use, and tails to be learnt that hold next
            to none of the draws that pilots are judged by: they take width, and time.
        trusted: whether the log density is known to be that of these parameters; None if held-out rows are to tell.
    """
    rows = chain.effective_size
    tried = cache(lambda one, settings: pilot(replace(one, members=1), _shortened(settings)))
    unexplained = None
    if supported and not trusted and train is None:
        small = config or _FEWEST
        unexplained = _unexplained(*(tried(small, how(_settings(rows, small))) for how in (_taught, replace)))
    if supported and unexplained is None:
        return Defaults(config or (_WIDE if rows >= _FEW_SUPPORTED else _FEWEST), train or _SUPPORTED)
    candidates = [NARROW, _WIDE] if rows >= _FEW else [_FEWEST, *([NARROW] if chain.n >= _SHORT else []), _WIDE]
    candidates = [config] if config else candidates
    chosen = candidates[0]
    for other in candidates[1:]:
        own, others = (tried(one, train or _settings(rows, one)) for one in (chosen, other))
        if others.is_better(own, _SLACK, _ERRORS):
            chosen = other
    settings = train or _settings(rows, chosen)
    if train is not None or chain.log_prob is None or unexplained is not None:
        return Defaults(chosen, settings, unexplained)
    taught, plain = tried(chosen, _taught(settings)), tried(chosen, settings)
    unexplained = None if trusted else _unexplained(taught, plain)
    if unexplained is None and not plain.is_better(taught, _NO_WORSE):
        return Defaults(chosen, _taught(settings))
    return Defaults(chosen, settings, unexplained)


def _unexplained(taught: Piloted, plain: Piloted) -> float | None:
    """Returns the scatter of log p about a flow that was taught it, nats, if it is noise; None if it is the flow's.

    Where log p is the density of the parameters, teaching it takes most of the scatter of log p - log q away, on rows
    that were not taught. Where parameters are missing, what they add to it is noise, which no function of the others
    explains: the scatter stays.
    """
    if not (np.isfinite(taught.log_q).all() and np.isfinite(plain.log_q).all()):
        return None  # one diverged, and the other is taken
    left, before = (taught.log_p - each.log_q for each in (taught, plain))
    scatter = float(np.std(left))
    stays = all(
        spread(left) > _UNEXPLAINED * spread(before) for spread in (np.std, _middle)
    )  # of outliers, and without
    return scatter if scatter > _SCATTER and stays else None


def _middle(values: FloatArray) -> float:
    """Returns the median distance from the median."""
    return float(np.median(np.abs(values - np.median(values))))


def _shortened(train: TrainConfig) -> TrainConfig:
    return replace(train, max_steps=min(train.max_steps, _PILOT_STEPS))


def _settings(rows: float, config: FlowConfig) -> TrainConfig:
    """Returns how a flow learns from samples: longer from more rows, and longer and faster if it is wide."""
    if config == _FEWEST or (rows < _FEW and config not in (NARROW, _WIDE)):
        return TrainConfig(batch_size=256, max_steps=2000)
    train = TrainConfig(batch_size=256, max_steps=3000, learning_rate=4e-3, patience=30)
    if rows >= _MANY:
        train = replace(train, batch_size=512, max_steps=6000)
    if config == _WIDE:
        train = replace(train, learning_rate=8e-3, max_steps=2 * train.max_steps)
    return train


def _taught(train: TrainConfig) -> TrainConfig:
    rate = min(train.learning_rate, _TAUGHT_RATE)
    return replace(train, loss="log_variance", batch_size=256, max_steps=_TAUGHT_STEPS, learning_rate=rate)
