"""The training problem of each member: rows for training, rows for validation and the units of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from ..chains.chain import Chain, systematic_rows
from .config import TrainConfig
from .prepare import Prepared
from .steps import MOST_HELD, Data, Held, held, listed, make_rows, padded_size

DEPTH = 30.0  # nats below the highest log density; it is clipped there, and deeper points are not regressed on
_LOOKED_AT = ("loss", "validation", "likelihood", "normalised")  # the fields of TrainConfig that `pose` uses
_MOST_PADDED = 1 << 19  # largest padded number of rows: 65 MB for 30 parameters
_COPIES = 8  # entries per row in the list of row numbers that represents unequal weights ...
_MOST_LISTED = 4_000_000  # ... and maximum number of entries, unless there are more rows


@dataclass(frozen=True)
class Problem:
    """The training data and the validation rows of one member.

    Attributes:
        data: the training data.
        held_draws: validation rows, drawn by their weights.
        drawn: row numbers of `held_draws` in the chain, sorted.
        held_points: validation rows for the regression, whatever their weights.
        offset: is subtracted from the loss in x to give nats in theta.
        dim: number of parameters.
        draws_worth: effective number of independent draws in `held_draws`.
        points_worth: the same for `held_points`.
    """

    data: Data
    held_draws: Held
    drawn: np.ndarray
    held_points: Held
    offset: float
    dim: int
    draws_worth: float
    points_worth: float


def pose(key: jax.Array, seen: Prepared, support: Prepared | None, members: int, train: TrainConfig) -> list[Problem]:
    """Returns one training problem per member.

    A single member holds out `train.validation` of the rows to choose its weights. Several members are trained as in
    cross-validation: the rows are dealt into one fold per member, and each member chooses its weights on its own fold,
    which it is not trained on. All members share one copy of the rows and have arrays of the same shapes, so that their
    training is compiled once.

    Args:
        key: JAX random key.
        seen: the chain to train on, with its log density unless the loss is "nll".
        support: points with a log density, in the coordinates of `seen`.
        members: number of members.
        train: training settings; the loss determines which data are used.

    Raises:
        ValueError: `train.normalised` is set, but the chain has no evidence.
    """
    key_rows, key_support, key_list = jax.random.split(key, 3)
    probabilities = seen.chain.probabilities
    log_p = None if train.loss == "nll" else seen.log_p
    top = 0.0 if log_p is None else _top(seen)
    folds, x = _folds(key_rows, seen.chain, members, train.validation), seen.x
    more_folds = [np.empty(0, np.int64)] * len(folds)
    if support is not None and log_p is not None:  # "nll" does not use them
        more_folds = [fold + len(x) for fold in _folds(key_support, support.chain, members, train.validation)]
        x, log_p = np.concatenate([x, support.x]), np.concatenate([log_p, support.log_p])
    zero = known_evidence(seen.chain) if train.normalised else top  # is subtracted from all log densities
    held_p = None if log_p is None else np.maximum(log_p, top - DEPTH) - zero
    rows = make_rows(x, held_p, padded_size(len(x), _MOST_PADDED))
    longest = padded_size(seen.chain.n if np.ptp(probabilities) == 0.0 else _listed_at_most(seen.chain.n))
    reached = np.zeros(len(x), bool)
    if log_p is not None and train.loss == "log_variance":
        reached = log_p - top > -DEPTH
    in_folds = [np.concatenate(parts) for parts in zip(folds[:members], more_folds[:members], strict=True)]
    if any(np.count_nonzero(reached) == np.count_nonzero(reached[fold]) for fold in in_folds):
        reached[:] = False  # very few rows: some member would have none to train on
    problems = []
    for k in range(members):
        in_fold = np.zeros(len(x), bool)
        in_fold[in_folds[k]] = True
        taught = np.flatnonzero(~in_fold[: seen.chain.n])
        key_taught, key_held = jax.random.split(jax.random.fold_in(key_list, k))
        drawn = _drawn(key_held, folds[k], probabilities)
        data = Data(
            rows,
            listed(_by_weight(key_taught, taught, probabilities), longest),
            listed(np.flatnonzero(reached & ~in_fold), padded_size(len(x))),
        )
        nats = float(seen.log_det[drawn].mean())  # converts -log q in x to nats in theta
        offset = {"nll": nats, "kl": -top, "jeffreys": 0.0, "log_variance": train.likelihood * nats}[train.loss]
        held_points = np.flatnonzero(reached & in_fold)
        held_points = held_points[:: len(held_points) // MOST_HELD + 1]
        worth = worth_of(seen.chain, folds[k], drawn)
        own = held_points < seen.chain.n  # the others are support points, which count as independent
        points_worth = float(np.sum(np.where(own, worth / len(drawn), 1.0)))
        draws, points = (held(x[rows], None if held_p is None else held_p[rows]) for rows in (drawn, held_points))
        problems.append(Problem(data, draws, drawn, points, offset, x.shape[1], worth, points_worth))
    return problems


def posed_by(train: TrainConfig) -> TrainConfig:
    """Returns the fields that `pose` uses, the others at their defaults; equal results mean the same problem."""
    return TrainConfig(**{name: getattr(train, name) for name in _LOOKED_AT})


def share_in_reach(seen: Prepared) -> float:
    """Returns the share of the draws, by weight, whose log density is at most `DEPTH` nats below the highest."""
    return float(seen.chain.probabilities[seen.log_p > _top(seen) - DEPTH].sum())


def known_evidence(chain: Chain) -> float:
    """Returns the chain's log evidence, which `train.normalised` needs; raises ValueError if it is not known."""
    if chain.log_evidence is None:
        raise ValueError(
            "chain: TrainConfig.normalised needs chain.log_evidence, the normalising constant of log_prob; got none. "
            "Pass it, or leave normalised out."
        )
    return chain.log_evidence


def _top(seen: Prepared) -> float:
    """Returns the highest log density of the draws of positive weight, in training coordinates."""
    return float(seen.log_p[seen.chain.probabilities > 0].max())


def worth_of(chain: Chain, fold: np.ndarray, drawn: np.ndarray) -> float:
    """Returns the effective number of independent draws in `drawn`, row numbers drawn by weight from a fold."""
    return min(float(len(drawn)), chain.effective_size * float(chain.probabilities[fold].sum()))


def held_apart(key: jax.Array, chain: Chain, validation: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the training rows of a single member, its validation draws, and the effective number of the latter.

    Both are row numbers, and the same as in `pose`.
    """
    key_rows, _, key_list = jax.random.split(key, 3)
    fold, taught = _folds(key_rows, chain, 1, validation)
    _, key_held = jax.random.split(jax.random.fold_in(key_list, 0))
    drawn = _drawn(key_held, fold, chain.probabilities)
    return taught, drawn, worth_of(chain, fold, drawn)


def _folds(key: jax.Array, chain: Chain, members: int, validation: float) -> list[np.ndarray]:
    """Returns the validation row numbers of each member; for a single member, also those of all other rows."""
    shares = [validation, 1.0 - validation] if members == 1 else [1.0 / members] * members
    return chain.deal(key, shares)


def _by_weight(key: jax.Array, taught: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns row numbers, repeated by weight: uniform draws from them are draws from the weighted chain."""
    shares = _normalised(probabilities[taught])
    if np.ptp(shares) == 0.0:
        return taught
    return taught[systematic_rows(key, shares, _listed_at_most(len(taught)))]


def _listed_at_most(rows: int) -> int:
    return max(rows, min(_COPIES * rows, _MOST_LISTED))


def _drawn(key: jax.Array, fold: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns row numbers drawn by weight from a fold, about as many as its effective size."""
    shares = _normalised(probabilities[fold])
    return fold[systematic_rows(key, shares, min(round(1.0 / np.sum(shares**2)) + 1, MOST_HELD))]


def _normalised(probabilities: np.ndarray) -> np.ndarray:
    return probabilities / probabilities.sum()
