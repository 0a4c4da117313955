"""What a posterior loses to a learned prior, exactly but for finite draws: no histogram, no second run."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from .._util.checks import FloatArray
from ..chains.effective import INDEPENDENT, Dependence, error_of_sum


def posterior_divergence(
    log_ratio: FloatArray, probabilities: FloatArray, dependence: Dependence = INDEPENDENT
) -> tuple[float, float]:
    """Returns KL(J || J_q) in nats, and its standard error: what J loses if q stands for the density p in it.

    J = p L / Z is the posterior of a prior p and a likelihood L, J_q that of q in the place of p. With draws of J,

        KL(J || J_q) = E_J[log p / q] + log E_J[q / p]

    L cancels, and so do constants of p and q. Marginal divergences between J and J_q are at most this large.

    Args:
        log_ratio: (n,) log q - log p at draws of J, up to a constant.
        probabilities: (n,) weights of the draws, which sum to one.
        dependence: of the draws, for the error.
    """
    log_ratio = np.where(probabilities > 0.0, log_ratio, 0.0)
    log_ratio = log_ratio - probabilities @ log_ratio
    log_mean = float(logsumexp(log_ratio, b=probabilities))
    with np.errstate(divide="ignore"):
        share = np.exp(np.log(probabilities) + log_ratio - log_mean)  # of each draw in the mean
    error = error_of_sum(share - probabilities * (log_ratio + 1.0), probabilities, dependence)  # to first order
    return log_mean, error
