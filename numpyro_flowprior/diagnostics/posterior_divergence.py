"""KL from an exact posterior to the one computed with a learned prior, without histograms or a second run."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from .._util.checks import FloatArray
from ..chains.effective import INDEPENDENT, Dependence, error_of_sum


def posterior_divergence(
    log_ratio: FloatArray, probabilities: FloatArray, dependence: Dependence = INDEPENDENT
) -> tuple[float, float]:
    """Returns KL(J || J_q) in nats and its standard error: the KL from the posterior with prior p to that with q.

    J = p L / Z is the posterior for a prior p and a likelihood L. J_q is the posterior for the prior q and the same L.
    KL(J || J_q) is estimated from draws of J,

        KL(J || J_q) = E_J[log p / q] + log E_J[q / p]

    L and the normalisations of p and q cancel. The same KL for any marginals of J and J_q is at most this large.

    Args:
        log_ratio: (n,) log q - log p at draws of J, up to an additive constant.
        probabilities: (n,) weights of the draws, which sum to one.
        dependence: dependence between the draws, for the error.
    """
    log_ratio = np.where(probabilities > 0.0, log_ratio, 0.0)
    log_ratio = log_ratio - probabilities @ log_ratio
    log_mean = float(logsumexp(log_ratio, b=probabilities))
    with np.errstate(divide="ignore"):
        share = np.exp(np.log(probabilities) + log_ratio - log_mean)  # contribution of each draw to the mean
    error = error_of_sum(share - probabilities * (log_ratio + 1.0), probabilities, dependence)  # to first order
    return log_mean, error
