"""How much each member of an ensemble, and the background, counts: most likely weights at rows unseen in training."""

from __future__ import annotations

import numpy as np

from .._checks import FloatArray
from ..flows.build import Params
from ..flows.config import FlowConfig
from .problem import Problem
from .steps import log_densities

_FAINTEST = 1e-5  # least weight of the background, if it is asked for or not: it keeps log q from running away
_ENOUGH = 500  # rows kept for validation per member from which members are weighed against one another
_ITERATIONS = 1000


def mixture_weights(trained: list[Params], problems: list[Problem], config: FlowConfig) -> FloatArray:
    """Returns the weights of K members and the background, (K + 1,), which sum to one.

    The members' shares of the total are the most likely ones at all rows that any member kept for validation
    ("stacking", Smyth and Wolpert 1999), so that one that is stuck in a poor optimum counts for little. Each row was
    seen in training by all members but one, which favours none of them; where rows are few, and seen ones are fitted
    much better than others, all members count alike. The background's weight is found at unseen rows alone, and at one
    imaginary row that it alone explains: where a flow is no better than the Gaussian, the Gaussian it is.
    """
    held = [problem.held_draws.x for problem in problems[: len(trained)]]
    tables = [[log_densities(params, x, config=config) for params in trained] for x in held]
    members = np.full(len(trained), 1.0 / len(trained))
    if min(len(x) for x in held) >= _ENOUGH:
        members = _most_likely(np.concatenate([[flow for flow, _ in row] for row in tables], axis=1))
    if not config.background:
        return np.append((1.0 - _FAINTEST) * members, _FAINTEST)
    unseen = np.concatenate([row[k] for k, row in enumerate(tables)], axis=1)  # each by the member that did not see it
    background = max(_most_likely(unseen, extra=np.array([0.0, 1.0]))[1], _FAINTEST)
    return np.append((1.0 - background) * members, background)


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
