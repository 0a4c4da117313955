"""The mixture weights of the members of an ensemble and of the background, chosen on held-out rows."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray
from ..flows.build import stack_members
from ..flows.config import FlowConfig
from ..flows.layout import Params, is_ensemble
from .config import TrainConfig
from .losses import log_ratio_losses
from .problem import Problem
from .steps import log_densities

_FAINTEST = 1e-13  # minimum weight of the background, about 30 nats: the regression does not go deeper either
_WEIGHTS = np.append(np.geomspace(_FAINTEST, 0.1, 13), 1.0 - np.geomspace(0.8, 1e-3, 8))  # weights of the
# background to choose from if training uses a log density
_ENOUGH = 500  # validation rows per member from which the members get different weights
_ITERATIONS = 1000


def mixture_weights(
    trained: list[Params], problems: list[Problem], config: FlowConfig, train: TrainConfig
) -> FloatArray:
    """Returns the weights of K members and the background, (K + 1,), which sum to one.

    The relative weights of the members maximise the likelihood of all rows that any member held out for validation
    ("stacking", Smyth and Wolpert 1999). A member that is stuck in a poor optimum therefore gets little weight. Each
    row was seen in training by all members but one, so no member is favoured. If there are few rows, a flow fits seen
    rows much better than unseen ones; all members then get equal weights.

    The weight of the background maximises the likelihood of unseen rows alone, plus one imaginary row that only the
    background explains. If a flow is no better than the Gaussian, the weight thus goes to the Gaussian. Draws do not
    constrain how so small a background changes the tails. With the loss "log_variance", the regression on unseen
    points therefore chooses the weight, which is then far smaller.
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
    """Returns the background weight with the smallest spread of the log ratio at each member's unseen points.

    If weights are equally good within one standard error, the smallest one is returned (Breiman et al. 1984, the
    one-standard-error rule).
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
    """Returns the log density of a member mixed with the background, for each background weight, (W, n)."""
    return np.logaddexp(
        np.log1p(-_WEIGHTS)[:, None] + np.asarray(log_q), np.log(_WEIGHTS)[:, None] + np.asarray(log_gauss)
    )


def _most_likely(log_densities: FloatArray, extra: FloatArray | float = 0.0) -> FloatArray:
    """Returns the maximum-likelihood weights (K,) of a mixture, given its densities (K, n) at n draws, by EM.

    `extra` (K,) is the number of further draws that are known to come from each component.
    """
    log_densities = np.asarray(log_densities, np.float64)
    relative = np.exp(log_densities - log_densities.max(axis=0))
    weights = np.full(len(relative), 1.0 / len(relative))
    for _ in range(_ITERATIONS):
        shares = weights[:, None] * relative
        counts = np.sum(shares / shares.sum(axis=0), axis=1) + extra
        weights = counts / counts.sum()
    return weights


def assembled(
    fixed: Params, trained: list[Params], problems: list[Problem], config: FlowConfig, train: TrainConfig
) -> Params:
    """Returns all parameters of the flow, computed and trained, with the members in order of decreasing weight."""
    if not is_ensemble(config):
        return jax.tree.map(np.asarray, {**fixed, **trained[0]})
    weights = mixture_weights(trained, problems, config, train)
    order = np.argsort(-weights[:-1], kind="stable")
    weights[:-1] = weights[order]
    return {**fixed, "mixture": {"weights": weights}, **stack_members([trained[k] for k in order])}
