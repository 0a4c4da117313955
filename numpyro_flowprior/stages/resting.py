"""How many rows of the previous stage lie where the posterior is, and which share of the posterior lies beyond them."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
from scipy.linalg import solve_triangular

from .._util.keys import seed_from_key
from ..chains.chain import Chain
from ..diagnostics.coverage import Extrapolation, extrapolation
from ..diagnostics.independent import independent_rows
from .tension import normal_scores

_MOST_ROWS = 8000  # independent rows used from each chain, at most
_FEWEST = 50  # independent rows needed for a share: with fewer, hardly any share is significant


@dataclass(frozen=True)
class Resting:
    """The number of independent rows of the previous chain that a posterior rests on.

    Attributes:
        rows: this number.
        error: its standard error, to first order.
    """

    rows: float
    error: float


def rows_rested_on(chain: Chain, before: Chain) -> Resting | None:
    """Returns the number of independent rows of the previous chain that the posterior rests on.

    It is the effective size of that chain after reweighting to the posterior by the likelihood L, n Z / E_posterior[L],
    with its effective size n before. None if the posterior chain has no finite log evidence or no log likelihood.
    """
    if chain.log_evidence is None or chain.log_likelihood is None or not np.isfinite(chain.log_evidence):
        return None
    counted = chain.probabilities > 0.0
    top = chain.log_likelihood[counted].max()
    mean, error = chain.mean_and_error(np.exp(np.where(counted, chain.log_likelihood, top) - top))
    known = np.nan_to_num(chain.log_evidence_error or 0.0)
    rows = float(before.effective_size * np.exp(min(chain.log_evidence - top - np.log(mean), 0.0)))
    return Resting(rows, float(rows * np.hypot(error / mean, known)))


def beyond_rows(key: jax.Array, chain: Chain, before: Chain) -> Extrapolation | None:
    """Returns the share of the posterior where the previous chain has no rows.

    It is computed in decorrelated normal scores of the previous chain. None if either chain has too few independent
    rows.
    """
    after = chain.select(before.names)
    keys = jax.random.split(key)
    rows, draws = (
        part.samples[independent_rows(each, part, np.zeros(part.n), _MOST_ROWS)]
        for each, part in zip(keys, (before, after), strict=True)
    )
    if min(len(rows), len(draws)) < max(_FEWEST, 2 * before.dim):
        return None
    z, z_draws = (normal_scores(points, before) for points in (rows, draws))
    factor = np.linalg.cholesky(np.cov(z.T).reshape(before.dim, -1))
    white, white_draws = (solve_triangular(factor, points.T, lower=True).T for points in (z, z_draws))
    generator = np.random.default_rng(seed_from_key(key))
    return extrapolation(generator, white, white_draws, white[:1])
