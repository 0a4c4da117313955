"""How much each member of an ensemble, and the background, counts: most likely weights at rows unseen in training."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._util.checks import FloatArray
from ..flows.config import FlowConfig
from ..flows.layout import Params
from .config import TrainConfig
from .losses import log_ratio_losses
from .problem import Problem
from .steps import log_densities

_FAINTEST = 1e-13  # least weight of the background, about 30 nats: deeper the regression teaches nothing either
_WEIGHTS = np.append(np.geomspace(_FAINTEST, 0.1, 13), 1.0 - np.geomspace(0.8, 1e-3, 8))  # of the background,
# to choose from where a log density teaches
_ENOUGH = 500  # rows kept for validation per member from which members are weighed against one another
_ITERATIONS = 1000


def mixture_weights(
    trained: list[Params], problems: list[Problem], config: FlowConfig, train: TrainConfig
) -> FloatArray:
    """Returns the weights of K members and the background, (K + 1,), which sum to one.

    The members' shares of the total are the most likely ones at all rows that any member kept for validation
    ("stacking", Smyth and Wolpert 1999), so that one that is stuck in a poor optimum counts for little. Each row was
    seen in training by all members but one, which favours none of them; where rows are few, and seen ones are fitted
    much better than others, all members count alike. The background's weight is found at unseen rows alone, and at one
    imaginary row that it alone explains: where a flow is no better than the Gaussian, the Gaussian it is. Draws do not
    tell what so thin a background does to the tails: where a log density taught those, its regression on unseen points
    chooses, and asks for far less.
    """
    held = [problem.held_draws for problem in problems[: len(trained)]]
    tables = [[log_densities(params, rows, config=config) for params in trained] for rows in held]
    members = np.full(len(trained), 1.0 / len(trained))
    if min(int(rows.n) for rows in held) >= _ENOUGH:
        members = _most_likely(np.concatenate([[flow for flow, _ in row] for row in tables], axis=1))
    background = _FAINTEST
    unseen = [row[k] for k, row in enumerate(tables)]  # each by the member that did not see it
    if config.background and train.loss == "log_variance":
        background = _by_regression(trained, problems, unseen, config)
    elif config.background:
        background = max(_most_likely(np.concatenate(unseen, axis=1), extra=np.array([0.0, 1.0]))[1], _FAINTEST)
    return np.append((1.0 - background) * members, background)


def _by_regression(trained: list[Params], problems: list[Problem], unseen: list[Any], config: FlowConfig) -> float:
    """Returns the background's weight at which the log ratio spreads least over each member's unseen points.

    Of weights that are as good to one standard error, the least (Breiman et al. 1984, the one-standard-error rule).
    """
    losses, worth = [], 0.0
    for params, problem, at_draws in zip(trained, problems, unseen, strict=False):  # fewer if interrupted
        centres = np.median(problem.held_draws.counted[1] - _mixed(*at_draws), axis=1)
        mixed = _mixed(*log_densities(params, problem.held_points, config=config))
        losses.append(log_ratio_losses(problem.held_points.counted[1], mixed, centres[:, None]))
        worth += problem.points_worth
    table = np.concatenate(losses, axis=1)
    worse = table - table[np.argmin(table.mean(axis=1))]
    error = worse.std(axis=1) / np.sqrt(worth)
    return float(_WEIGHTS[np.argmax(worse.mean(axis=1) <= error)])


def _mixed(log_q: Any, log_gauss: Any) -> FloatArray:
    """Returns a member's log density with the background at each of its weights, (W, n)."""
    return np.logaddexp(
        np.log1p(-_WEIGHTS)[:, None] + np.asarray(log_q), np.log(_WEIGHTS)[:, None] + np.asarray(log_gauss)
    )


def _most_likely(log_densities: FloatArray, extra: FloatArray | float = 0.0) -> FloatArray:
    """Returns the weights (K,) of the mixture of given densities (K, n) that is most likely at n draws, by EM.

    `extra` (K,) are further draws that are known to be of one part each.
    """
    log_densities = np.asarray(log_densities, np.float64)
    relative = np.exp(log_densities - log_densities.max(axis=0))
    weights = np.full(len(relative), 1.0 / len(relative))
    for _ in range(_ITERATIONS):
        shares = weights[:, None] * relative
        counts = np.sum(shares / shares.sum(axis=0), axis=1) + extra
        weights = counts / counts.sum()
    return weights
