"""From a chain to the training problems of the members: which rows teach, which choose the weights, in what units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..chains.chain import Chain, systematic_rows
from ..flows.config import FlowConfig
from .config import TrainConfig
from .prepare import Prepared, apply_prepared, prepare
from .steps import Data, Rows, make_rows

_MOST_HELD = 20_000  # rows of each kind in the validation loss; more would not change which weights are best
_DEPTH = 30.0  # nats below the highest density at which points stop teaching anything
_COPIES = 8  # entries per row in the list that stands for uneven weights ...
_MOST_LISTED = 4_000_000  # ... and at most in all, or one per row


@dataclass(frozen=True)
class Problem:
    """One member's training data, validation rows of both kinds, and what turns a loss in x into nats in theta."""

    data: Data
    held_draws: Rows
    held_points: Rows
    offset: float
    dim: int


def pose(
    key: jax.Array, seen: Chain, support_points: Chain | None, config: FlowConfig, train: TrainConfig
) -> tuple[dict[str, Any], list[Problem]]:
    """Returns the flow's fixed parameters and, in the coordinates that they define, one problem per member.

    A single member keeps `train.validation` of the rows for choosing its weights. Several are trained as in
    cross-validation: the rows are dealt into as many folds, and each member chooses by the fold that it did not see.
    All share one copy of the rows, and have lists of the same lengths, so that their training is compiled once.
    """
    key_rows, key_support, key_list = jax.random.split(key, 3)
    members = config.members
    shares = [train.validation, 1.0 - train.validation] if members == 1 else [1.0 / members] * members
    prepared = prepare(seen, config.whitening)
    log_p = None if train.loss == "nll" else _log_p(seen, prepared)
    top = 0.0 if log_p is None else float(log_p[prepared.probabilities > 0].max())
    folds, x = seen.deal(shares, key_rows), prepared.x
    more_folds = [np.empty(0, np.int64)] * len(folds)
    if support_points is not None and log_p is not None:  # no other loss looks at them
        apart = apply_prepared(support_points, prepared.fixed)
        more_folds = [fold + len(x) for fold in support_points.deal(shares, key_support)]
        x, log_p = np.concatenate([x, apart.x]), np.concatenate([log_p, _log_p(support_points, apart)])
    rows = make_rows(x, None if log_p is None else np.maximum(log_p - top, -_DEPTH))
    reached = np.zeros(len(x), bool)
    if log_p is not None and train.loss == "log_variance":
        reached = log_p - top > -_DEPTH
    problems = []
    for k in range(members):
        fold, more = folds[k], more_folds[k]
        in_fold = np.zeros(len(x), bool)
        in_fold[fold] = in_fold[more] = True
        taught = np.flatnonzero(~in_fold[: seen.n])
        key_taught, key_held = jax.random.split(jax.random.fold_in(key_list, k))
        held = fold[_drawn(key_held, prepared.probabilities[fold], _effective(prepared.probabilities[fold]))]
        data = Data(
            rows,
            _as_list(key_taught, taught, prepared.probabilities[taught]),
            _numbers(np.flatnonzero(reached & ~in_fold)),
        )
        nats = float(prepared.log_det[held].mean())  # what turns -log q in x into nats in theta
        offset = {"nll": nats, "kl": -top, "jeffreys": 0.0, "log_variance": train.likelihood * nats}[train.loss]
        held_points = np.flatnonzero(reached & in_fold)
        held_points = held_points[:: len(held_points) // _MOST_HELD + 1]
        problems.append(Problem(data, _take(rows, held), _take(rows, held_points), offset, x.shape[1]))
    return prepared.fixed, _of_equal_shapes(problems)


def _as_list(key: jax.Array, taught: np.ndarray, probabilities: np.ndarray) -> jax.Array:
    """Returns row numbers, as often as their weights ask for: drawn evenly, they are draws of the weighted chain."""
    if np.ptp(probabilities) == 0.0:
        return _numbers(taught)
    length = max(len(taught), min(_COPIES * len(taught), _MOST_LISTED))
    return _numbers(taught[systematic_rows(key, _normalised(probabilities), length)])


def _drawn(key: jax.Array, probabilities: np.ndarray, effective: float) -> np.ndarray:
    return systematic_rows(key, _normalised(probabilities), min(round(effective) + 1, _MOST_HELD))


def _numbers(rows: np.ndarray) -> jax.Array:
    return jnp.asarray(rows, jnp.int32)


def _take(rows: Rows, numbers: np.ndarray) -> Rows:
    return Rows(rows.x[numbers], rows.log_p[numbers])


def _of_equal_shapes(problems: list[Problem]) -> list[Problem]:
    """Returns the problems without the few rows that some have more of than others (they teach other members)."""
    shortest = [
        min(len(part) for part in column)
        for column in zip(
            *((p.data.taught, p.data.pointed, p.held_draws.x, p.held_points.x) for p in problems), strict=True
        )
    ]
    taught, pointed, draws, points = shortest
    return [
        replace(
            p,
            data=Data(p.data.rows, p.data.taught[:taught], p.data.pointed[:pointed]),
            held_draws=Rows(p.held_draws.x[:draws], p.held_draws.log_p[:draws]),
            held_points=Rows(p.held_points.x[:points], p.held_points.log_p[:points]),
        )
        for p in problems
    ]


def _log_p(chain: Chain, prepared: Prepared) -> np.ndarray:
    """Returns the chain's log density in training coordinates, (n,), up to its constant."""
    return np.asarray(chain.log_prob) - prepared.log_det


def _normalised(probabilities: np.ndarray) -> np.ndarray:
    return probabilities / probabilities.sum()


def _effective(probabilities: np.ndarray) -> float:
    return float(probabilities.sum() ** 2 / np.sum(probabilities**2))
