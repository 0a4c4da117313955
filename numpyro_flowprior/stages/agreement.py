"""Suspiciousness: the Bayes factor of a combination without its dependence on the width of the prior.

    log S = log R - log I,   log I = sum_i D_i - D,   D = KL(posterior || prior)

D_i and D are the information that each analysis gains, and all together. A wider prior adds equally to log R and log I.
If the posteriors are Gaussian and the data agree, d - 2 log S is chi-square distributed with d degrees of freedom. This
is the number of parameters that more than one analysis constrains. It follows from the Bayesian model dimensionality,
2 var(log posterior / prior), of each. Source: Handley and Lemos (2019), Phys. Rev. D 100, 043504 and 023512.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np
from scipy.stats import chi2, norm

from .._util.batches import in_float64
from ..chains.chain import Chain
from ..likelihoods.learned import LearnedLikelihood
from ..priors.moments import draws_of
from .called import CalledPosterior

_DRAWS = 20_000  # draws of each posterior
_FEWEST = 0.5  # degrees of freedom below which the analyses constrain nothing together


@dataclass(frozen=True)
class Suspiciousness:
    """Agreement of analyses.

    Attributes:
        log_suspiciousness: log S, nats; negative if the data disagree.
        information: KL from the joint posterior to the prior, nats.
        informations: the same for each analysis.
        freedom: degrees of freedom d: for two analyses, the number of parameters that both constrain.
        p_value: probability of a log S at most this large, if the data agree and all posteriors are Gaussian. NaN if d
            is below one half, if the analyses and the result do not have one prior, or if the exact density of an
            analysis is too far from the learned one.
    """

    log_suspiciousness: float
    information: float
    informations: Mapping[str, float]
    freedom: float
    p_value: float

    @property
    def sigma(self) -> float:
        """The p-value as two-sided standard deviations of a normal variable; NaN without one."""
        return float(norm.isf(max(self.p_value, 1e-300) / 2.0))

    def __str__(self) -> str:
        if not np.isfinite(self.p_value):
            return f"log suspiciousness {self.log_suspiciousness:.2f} nats; no test of the agreement"
        return (
            f"log suspiciousness {self.log_suspiciousness:.2f} nats with {self.freedom:.1f} degrees of freedom: "
            f"tension of {self.sigma:.1f} sigma (p = {self.p_value:.2g})"
        )


def suspiciousness(
    likelihoods: Mapping[str, LearnedLikelihood],
    exact: Mapping[str, CalledPosterior],
    chain: Chain,
    log_bayes_factor: float,
    *,
    one_prior: bool,
) -> Suspiciousness:
    """Returns the agreement of analyses.

    Args:
        likelihoods: those of the analyses, divided by their evidences.
        exact: the exact posteriors of some of them, which count instead of the learned ones.
        chain: draws of the joint posterior, with the log likelihood of all data, divided by their evidences.
        log_bayes_factor: log R.
        one_prior: whether all analyses and the result have the same prior; there is no test otherwise.
    """
    gained, dimensions = {}, []
    for name, likelihood in likelihoods.items():
        if name in exact:
            called, p = exact[name], exact[name].probabilities
            ratio = called.log_prob - in_float64(likelihood.prior.log_prob, called.theta)
        else:
            ratio = in_float64(likelihood.log_likelihood, draws_of(likelihood.posterior, jax.random.key(0), _DRAWS))
            p = np.full(len(ratio), 1.0 / len(ratio))
        inside = np.isfinite(ratio) & (p > 0.0)
        ratio, p = ratio[inside], p[inside] / p[inside].sum()
        gained[name] = float(p @ ratio)
        dimensions.append(2.0 * float(p @ (ratio - gained[name]) ** 2))
    assert chain.log_likelihood is not None
    joint, p = chain.log_likelihood, chain.probabilities
    mean = float(p @ joint)  # log R cancels in log S
    freedom = sum(dimensions) - 2.0 * float(p @ (joint - mean) ** 2)
    log_s, information = mean - sum(gained.values()), mean - log_bayes_factor
    reliable = all(called.report.evidence_is_reliable for called in exact.values())
    tested = one_prior and reliable and freedom >= _FEWEST and np.isfinite(log_s)
    p_value = float(chi2.sf(freedom - 2.0 * log_s, freedom)) if tested else float("nan")
    return Suspiciousness(log_s, information, gained, freedom, p_value)
