"""From a chain to the training problems of the members: which rows teach, which choose the weights, in what units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from ..chains.chain import Chain, systematic_rows
from ..flows.config import FlowConfig
from .config import TrainConfig
from .prepare import Prepared, apply_prepared, prepare
from .steps import Data, Rows, cumulative_weights, make_rows

_MOST_HELD = 20_000  # rows of each kind in the validation loss; more would not change which weights are best
_DEPTH = 30.0  # nats below the highest density at which points stop teaching anything


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
    All have arrays of the same shapes, so that their training is compiled once.
    """
    key_rows, key_support, key_held = jax.random.split(key, 3)
    members = config.members
    shares = [train.validation, 1.0 - train.validation] if members == 1 else [1.0 / members] * members
    prepared = prepare(seen, config.whitening)
    draws = prepared.x, prepared.log_det, prepared.probabilities
    table = _Table(*draws, _log_p(seen, prepared) if train.loss != "nll" else None)
    top = 0.0 if table.log_p is None else float(table.log_p[table.probabilities > 0].max())
    folds, more = seen.deal(shares, key_rows), None
    if support_points is not None:
        apart = apply_prepared(support_points, prepared.fixed)
        more = _Table(apart.x, apart.log_det, apart.probabilities, _log_p(support_points, apart))
        more_folds = support_points.deal(shares, key_support)
    sizes = [_effective(table.probabilities[fold]) for fold in folds[:members]]
    n_held = min(round(min(sizes)) + 1, _MOST_HELD)
    problems = []
    for k in range(members):
        held = folds[k]
        held = held[systematic_rows(jax.random.fold_in(key_held, k), _normalised(table.probabilities[held]), n_held)]
        pairs = [table.apart(folds[k])] + ([] if more is None else [more.apart(more_folds[k])])
        problems.append(_problem(table.take(held), pairs, train, top))
    return prepared.fixed, _of_equal_shapes(problems)


@dataclass(frozen=True)
class _Table:
    """Rows in training coordinates: x (n, d), log |det dx / dtheta|, weights, log target density in x (or None)."""

    x: np.ndarray
    log_det: np.ndarray
    probabilities: np.ndarray
    log_p: np.ndarray | None

    def take(self, rows: np.ndarray) -> _Table:
        log_p = None if self.log_p is None else self.log_p[rows]
        return _Table(self.x[rows], self.log_det[rows], self.probabilities[rows], log_p)

    def apart(self, fold: np.ndarray) -> tuple[_Table, _Table]:
        """Returns the rows outside of a fold and those in it."""
        return self.take(np.setdiff1d(np.arange(len(self.x)), fold)), self.take(fold)


def _problem(held: _Table, pairs: list[tuple[_Table, _Table]], train: TrainConfig, top: float) -> Problem:
    """Returns a member's problem from its validation draws and its (taught, held) rows of chain and support points."""
    taught = pairs[0][0]
    points = held_points = make_rows(taught.x[:0], None)
    if train.loss == "log_variance":
        points, held_points = (_regression_rows(list(tables), top) for tables in zip(*pairs, strict=True))
    even = np.ptp(taught.probabilities) == 0.0
    cumulative = None if even else cumulative_weights(_normalised(taught.probabilities))
    nats = float(held.log_det.mean())  # what turns -log q in x into nats in theta
    offset = {"nll": nats, "kl": -top, "jeffreys": 0.0, "log_variance": train.likelihood * nats}[train.loss]
    return Problem(
        Data(_draws(taught, top), cumulative, points), _draws(held, top), held_points, offset, held.x.shape[1]
    )


def _of_equal_shapes(problems: list[Problem]) -> list[Problem]:
    """Returns the problems without the few rows that some have more of than others (they teach other members)."""
    n, m, held = (
        min(len(rows.x) for rows in column)
        for column in zip(*((p.data.draws, p.data.points, p.held_points) for p in problems), strict=True)
    )
    held = min(held, _MOST_HELD)
    return [
        replace(
            p,
            data=Data(_first(p.data.draws, n), _renormalised(p.data.cumulative, n), _first(p.data.points, m)),
            held_points=_first(p.held_points, held),
        )
        for p in problems
    ]


def _renormalised(cumulative: jax.Array | None, n: int) -> jax.Array | None:
    return None if cumulative is None else cumulative[:n] / cumulative[n - 1]


def _first(rows: Rows, n: int) -> Rows:
    return Rows(rows.x[:n], rows.log_p[:n])


def _log_p(chain: Chain, prepared: Prepared) -> np.ndarray:
    """Returns the chain's log density in training coordinates, (n,), up to its constant."""
    return np.asarray(chain.log_prob) - prepared.log_det


def _draws(table: _Table, top: float) -> Rows:
    return make_rows(table.x, None if table.log_p is None else np.maximum(table.log_p - top, -_DEPTH))


def _regression_rows(tables: list[_Table], top: float) -> Rows:
    """Returns the rows of all tables whose density is within reach of the highest, whatever their weight."""
    x = np.concatenate([table.x for table in tables])
    log_p = np.concatenate([np.asarray(table.log_p) for table in tables]) - top
    return make_rows(x[log_p > -_DEPTH], log_p[log_p > -_DEPTH])


def _normalised(probabilities: np.ndarray) -> np.ndarray:
    return probabilities / probabilities.sum()


def _effective(probabilities: np.ndarray) -> float:
    return float(probabilities.sum() ** 2 / np.sum(probabilities**2))
