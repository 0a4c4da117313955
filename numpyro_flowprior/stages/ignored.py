"""What ignoring a correlation with earlier data would have cost: the same draws, weighted to the likelihood without it.

The weights are p(y2 | theta) / p(y2 | y1, theta). Only the correlation of this stage is ignored. The prior of the stage
stays as it is, with the correlations of the stages before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..chains.chain import Chain
from ..chains.effective import error_of_sum
from ..diagnostics.importance import RELIABLE, log_mean_ratio, pareto_smoothed
from ..sampling.density import ModelDensity

_ROUNDING = 1e-6  # nats by which the logarithms of equal weights scatter


@dataclass(frozen=True)
class IgnoredCorrelation:
    """The change of a posterior if the correlation of its data with earlier data is ignored.

    Attributes:
        shift: shift of the mean of each parameter, in standard deviations of the posterior with the correlation.
        shift_error: its standard error.
        width: standard deviation without the correlation, divided by the one with it.
        log_evidence_change: what is added to the log evidence of the stage.
        log_evidence_change_error: its standard error.
        pareto_k: tail shape of the weights; above 0.7 the numbers are not reliable.
    """

    shift: Mapping[str, float]
    shift_error: Mapping[str, float]
    width: Mapping[str, float]
    log_evidence_change: float
    log_evidence_change_error: float
    pareto_k: float

    @property
    def reliable(self) -> bool:
        """Whether the weights have a tail that is short enough for these numbers."""
        return bool(np.isfinite(self.log_evidence_change)) and self.pareto_k <= RELIABLE

    @property
    def same(self) -> bool:
        """Whether neither the posterior nor its evidence changes."""
        return self.pareto_k == -np.inf and abs(self.log_evidence_change) < _ROUNDING


def ignored_correlation(chain: Chain, uncorrelated: ModelDensity) -> IgnoredCorrelation:
    """Returns what changes in a posterior if a correlation is ignored.

    Args:
        chain: draws of the posterior, weighted or not, with their log likelihood given the earlier data.
        uncorrelated: the model with the likelihood of its data alone, with the same parameters.
    """
    chain = chain.take(np.flatnonzero(chain.probabilities > 0.0))
    assert chain.log_likelihood is not None
    probabilities = chain.probabilities
    ratio = uncorrelated.log_likelihood(chain.select(uncorrelated.names).samples) - chain.log_likelihood
    if np.ptp(ratio) < _ROUNDING:
        ratio, weights, k = np.full(chain.n, ratio.mean()), probabilities, -np.inf
    else:
        log_weights = np.log(probabilities) + ratio
        smoothed, k = pareto_smoothed(log_weights, relative_efficiency=1.0 / chain.autocorrelation_time)
        weights = np.exp(smoothed)
    mean, sigma = chain.mean(), np.sqrt(np.diagonal(chain.covariance()))
    z = (chain.samples - mean) / sigma
    shift = weights @ z
    terms = weights[:, None] * (z - shift) - probabilities[:, None] * z  # their sum has expectation zero
    error = [error_of_sum(column, probabilities, chain.dependence) for column in terms.T]
    width = np.sqrt(weights @ (z - shift) ** 2) / np.sqrt(probabilities @ z**2)
    change, change_error = log_mean_ratio(np.log(probabilities) + ratio, chain)
    by_name = [dict(zip(chain.names, map(float, each), strict=True)) for each in (shift, error, width)]
    return IgnoredCorrelation(by_name[0], by_name[1], by_name[2], change, change_error, k)
