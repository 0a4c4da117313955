"""What `fit_flow` uses when nothing is asked for: candidates by chain size, chosen between in short pilot runs.

The candidates are those that held-out densities favoured in `benchmarks/fidelity.py`: several small flows mixed as
densities are more faithful than one large one in the same time, on every chain tried; how wide they should be depends
on the density (hard edges and separate modes want width), and so does whether the chain's log density helps (it does
where it is exact). Pilots tell both, on the rows kept for validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..chains.chain import Chain
from ..flows.config import FlowConfig
from .config import TrainConfig

_FEW = 4000  # effective rows below which width only overfits and no pilot is run
_MANY = 20_000  # effective rows from which members are few and trained for long
_PILOT_STEPS = 1000

_NARROW = FlowConfig(layers=3, hidden=(32,), members=4, background=True)
_WIDE = FlowConfig(layers=4, hidden=(64,), components=16, members=3, background=True)

Pilot = Callable[[FlowConfig, TrainConfig], float]


def default_configs(chain: Chain, pilot: Pilot) -> tuple[FlowConfig, TrainConfig]:
    """Returns the architecture and the training settings for a chain.

    Args:
        chain: what will be learnt.
        pilot: from settings to the mean of -log q at validation rows, nats, after a short training of one member.
    """
    rows = chain.effective_size
    train = TrainConfig(batch_size=256, max_steps=2000)
    if rows >= _FEW:
        train = replace(train, max_steps=3000, learning_rate=4e-3, patience=30)
    if rows >= _MANY:
        train = replace(train, batch_size=512, max_steps=6000)
    config = replace(_NARROW, layers=2, members=6)
    if rows >= _FEW:
        config = min((_NARROW, _WIDE), key=lambda candidate: _try(pilot, candidate, train))
    if chain.log_prob is not None:
        taught = replace(train, loss="log_variance", batch_size=256)
        train = min((train, taught), key=lambda candidate: _try(pilot, config, candidate))
    return config, train


def _try(pilot: Pilot, config: FlowConfig, train: TrainConfig) -> float:
    found = pilot(replace(config, members=1), replace(train, max_steps=_PILOT_STEPS))
    return found if found == found else float("inf")  # NaN: it diverged
