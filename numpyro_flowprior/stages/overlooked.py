"""Is a row of the stage before as likely as the posterior's own draws, at a place where that has next to none?

What the posterior's draws say of the learned prior is blind to what they miss: a mode that the prior all but forgot.
The rows of the stage before, those of low weight above all, were there before anything was learnt, and the exact
density of the joint posterior can be asked at each.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from scipy.spatial import cKDTree

from .._checks import FloatArray
from ..chains.chain import Chain
from ..diagnostics.independent import independent_rows
from ..diagnostics.whitening import whitened
from ..sampling.density import ModelDensity
from .exact import ExactDensity

_CORE = 0.75  # of the posterior: its most likely draws, which leave no room for a row that is as likely
_NEAR = 500  # draws of which the nearest counts as near: the 8th of 4000, so that a few strays make no mode
_STRAYS = 1e-3  # of the draws: their distances to the draws near them may be larger than
_FAR = 1.5  # times this distance, from which on a row is where there are next to none
_FEWEST = 10  # draws for each parameter
_MOST = 4000  # of them, and of the most likely rows


@dataclass(frozen=True)
class Overlooked:
    """Rows of the stage before where the posterior should have draws, and has next to none.

    Attributes:
        rows: how many there are.
        likely: how many are as likely as three quarters of the posterior, wherever they are.
        example: parameters of the most likely one; None if there is none.
    """

    rows: int
    likely: int
    example: dict[str, float] | None


def overlooked(
    key: jax.Array, density: ModelDensity, chain: Chain, before: Chain, exact: ExactDensity
) -> Overlooked | None:
    """Returns what a stage's posterior overlooked of the chain before.

    None if they have not the same parameters, or the posterior has too few independent draws to tell.

    Args:
        key: JAX random key.
        density: the stage's model.
        chain: its posterior.
        before: the chain that the prior was learnt from, rows of low weight included.
        exact: the model's prior with the exact posterior of the stage before.
    """
    if set(before.names) != set(density.names):
        return None

    def log_joint(samples: FloatArray) -> FloatArray:
        return exact.log_density(samples) + density.log_likelihood(samples)

    draws = chain.select(density.names)
    draws = draws.take(independent_rows(key, draws, np.zeros(draws.n), _MOST))
    if draws.n < _FEWEST * draws.dim:
        return None
    log_draws = log_joint(draws.samples)
    least = np.quantile(log_draws, 1.0 - _CORE)
    core = draws.samples[log_draws >= least]
    rows = before.select(density.names)
    log_rows = log_joint(rows.samples)
    likely = np.argsort(-log_rows, kind="stable")[: min(_MOST, int((log_rows >= least).sum()))]
    nearest = max(1, len(core) // _NEAR)
    tree = cKDTree(whitened(core, core))
    reach = _FAR * np.quantile(tree.query(tree.data, k=[nearest + 1])[0], 1.0 - _STRAYS)
    distance = tree.query(whitened(core, rows.samples[likely]), k=[nearest])[0][:, 0]
    far = likely[distance > reach]
    example = dict(zip(rows.names, rows.samples[far[0]].tolist(), strict=True)) if len(far) else None
    return Overlooked(len(far), len(likely), example)
