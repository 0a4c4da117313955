"""The learned harmonic mean: the log evidence from rows whose log density is known, without a call of the density.

For a normalised density t inside the posterior p = p~ / Z, the mean of t / p~ over the posterior is 1 / Z. The mean is
noisy wherever t has more mass than p, in the tails, along ridges, and in the bridges that a flow makes between modes.
The rows there are few, so that the estimate of Z is also too high, and its error too small. Here t is concentrated: it
is a power >= 1 of the flow q, within a highest-density region q > c, normalised by the flow's own draws. Power and
region are those with the smallest error on the rows that trained the flow, as long as the terms have no heavy tail.

Sources: A. E. Gelfand, D. K. Dey, JRSS B 56 (1994) 501; J. D. McEwen et al., arXiv:2111.12720; flows that are
concentrated: A. Polanska et al., arXiv:2405.05969; the truncation: C. P. Robert, D. Wraith, arXiv:0907.5123.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.special import logsumexp, softmax

from .._util.checks import FloatArray
from ..chains.chain import Chain
from ..chains.effective import error_of_sum
from ..diagnostics.importance import pareto_smoothed
from .crossed import Estimate

_POWERS = (1.0, 1.25, 1.5, 2.0)
_LEFT_OUT = (0.05, 0.2, 0.35, 0.5)  # shares of the training rows outside the region
_INNER = 0.6  # share of the rows in the region that the inner part leaves out
_HEAVIEST = 0.3  # Pareto k of the terms; from 0.5 on they have no variance, and its estimate scatters by 0.1


@dataclass(frozen=True)
class Region:
    """A density made of a flow: q^power where log q > cut, normalised.

    Attributes:
        power: at least 1.
        cut: log density of the flow on the surface of the region, below the highest of its draws.
    """

    power: float
    cut: float


def harmonic(
    log_p: FloatArray, log_q: FloatArray, probabilities: FloatArray, log_q_of_draws: FloatArray, region: Region
) -> Estimate:
    """Returns the log evidence from the rows in a region.

    Args:
        log_p: (n,) unnormalised log posterior of the rows of the chain.
        log_q: (n,) normalised log density of the flow at the rows.
        probabilities: (n,) weights of the rows, which sum to one; zero for those that trained the flow.
        log_q_of_draws: (m,) log density of the flow at its own draws.
        region: power and region of the flow.
    """
    log_terms = np.where(log_q > region.cut, region.power * log_q - log_p, -np.inf)
    log_weights = np.where(log_q_of_draws > region.cut, (region.power - 1.0) * log_q_of_draws, -np.inf)
    log_mean, number = float(logsumexp(log_terms, b=probabilities)), len(log_q_of_draws)
    log_norm = float(logsumexp(log_weights) - np.log(number))
    deviations = 1.0 - np.exp(log_terms - log_mean)
    return Estimate(log_norm - log_mean, probabilities, deviations, softmax(log_weights) - 1.0 / number)


def tail_shape(estimate: Estimate) -> float:
    """Returns Pareto k of the shares of the rows in a harmonic mean."""
    shares = estimate.probabilities * (1.0 - estimate.rows)
    return float(pareto_smoothed(np.log(shares[shares > 0.0]))[1])


def best_region(
    chain: Chain, log_p: FloatArray, log_q: FloatArray, probabilities: FloatArray, log_q_of_draws: FloatArray
) -> tuple[Region, Region]:
    """Returns the region with the smallest error on the rows that trained the flow, and its inner part, for a check.

    The terms of its rows have a short tail. If this is so in no region, it is the one with the shortest tail.

    Args:
        chain: all rows.
        log_p: (n,) their unnormalised log posterior.
        log_q: (n,) log density of the flow at them.
        probabilities: (n,) weights of the rows that trained the flow, which sum to one; zero for all others.
        log_q_of_draws: (m,) log density of the flow at its own draws.
    """
    trained = probabilities > 0.0
    order = np.argsort(log_q[trained])
    values, ends = log_q[trained][order], np.cumsum(probabilities[trained][order])

    def cut_of(share: float) -> float:
        return float(values[min(int(np.searchsorted(ends, share)), len(values) - 1)])

    found = []
    for power, share in product(_POWERS, _LEFT_OUT):
        region = Region(power, cut_of(share))
        tried = harmonic(log_p, log_q, probabilities, log_q_of_draws, region)
        error = np.hypot(
            error_of_sum(tried.parts, chain.probabilities, chain.dependence), np.sqrt(np.sum(tried.draws**2))
        )
        found.append((max(tail_shape(tried), _HEAVIEST), error, share, region))
    _, _, share, best = min(found, key=lambda each: each[:2])
    return best, replace(best, cut=cut_of(share + _INNER * (1.0 - share)))
