"""What `fit_flow` uses when nothing is asked for: candidates by chain size, chosen between in short pilot runs.

The candidates are those that held-out densities favoured in `benchmarks/fidelity.py`: several small flows mixed as
densities are more faithful than one large one in the same time, on every chain tried; how wide they should be depends
on the density (hard edges and separate modes want width), and so does whether the chain's log density helps (it does
where it is exact). Pilots tell both, on the rows kept for validation. With support points there is nothing to ask: wide
networks, trained for long, lose least in the tails (`benchmarks/tail.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ..chains.chain import Chain
from ..flows.config import FlowConfig
from .config import TrainConfig

_FEW = 4000  # effective rows below which width only overfits and no pilot is run
_FEW_SUPPORTED = 2000  # ... where support points teach as well
_MANY = 20_000  # effective rows from which training is worth its full length
_PILOT_STEPS = 1000
_TAUGHT_STEPS, _TAUGHT_RATE = 6000, 4e-3  # where the log density teaches, which overfits less; the rate at most
_MARGIN = 0.06, 1000.0  # nats, and nats over the number of effective rows, by which pilots must speak for width, or
# against the log density: they are too short for overfitting to show

_FEWEST = FlowConfig(layers=2, hidden=(16,), components=4, members=10, background=True)
NARROW = FlowConfig(layers=3, hidden=(16,), components=4, members=6, background=True)
_WIDE = FlowConfig(layers=4, hidden=(64,), components=16, members=3, background=True)
_SUPPORTED = TrainConfig(loss="log_variance", batch_size=256, max_steps=12_000, learning_rate=4e-3, patience=30)

T = TypeVar("T")
Pilot = Callable[[FlowConfig, TrainConfig], float]


def default_configs(
    chain: Chain,
    pilot: Pilot,
    *,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    supported: bool = False,
) -> tuple[FlowConfig, TrainConfig]:
    """Returns the architecture and the training settings for a chain, where they are not given.

    Args:
        chain: what will be learnt.
        pilot: from settings to the mean of -log q at validation rows, nats, after a short training of one member.
        config: the architecture, if it is given.
        train: the training settings, if they are given.
        supported: there are support points, which the regression alone can use, and tails to be learnt that hold next
            to none of the draws that pilots are judged by: they take width, and time.
    """
    rows = chain.effective_size
    if supported:
        return config or (_WIDE if rows >= _FEW_SUPPORTED else _FEWEST), train or _SUPPORTED
    candidates = [_FEWEST] if rows < _FEW else [NARROW, _WIDE]
    candidates = [config] if config else candidates
    margin = _MARGIN[0] + _MARGIN[1] / rows
    chosen = _best(candidates, lambda one: _try(pilot, one, train or _settings(rows, one)), margin)
    settings = train or _settings(rows, chosen)
    if train is None and chain.log_prob is not None:
        settings = _best([_taught(settings), settings], lambda one: _try(pilot, chosen, one), _MARGIN[0])
    return chosen, settings


def _settings(rows: float, config: FlowConfig) -> TrainConfig:
    """Returns how a flow learns from samples: longer from more rows, and longer and faster if it is wide."""
    if rows < _FEW:
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


def _best(candidates: list[T], judge: Callable[[T], float], margin: float = 0.0) -> T:
    """Returns the candidate of the lowest value, or the first one if none is lower than it by more than the margin."""
    if len(candidates) == 1:
        return candidates[0]
    values = [judge(candidate) for candidate in candidates]
    best = min(range(len(values)), key=values.__getitem__)
    return candidates[best] if values[best] < values[0] - margin else candidates[0]


def _try(pilot: Pilot, config: FlowConfig, train: TrainConfig) -> float:
    found = pilot(replace(config, members=1), replace(train, max_steps=min(train.max_steps, _PILOT_STEPS)))
    return found if found == found else float("inf")  # NaN: it diverged
