"""The exact posterior density of a stage as a function, and the effect of a learned prior on the next posterior.

The posterior density of a model is known up to a constant, its evidence. In the exact density of a later stage the
learned priors cancel:

    p_k(theta) = p_{k-1}(theta) pi_k(theta) / q_{k-1}(theta) L_k(theta) / Z_k

Here p_{k-1} is the exact posterior that q_{k-1} was learnt from. pi_k is the prior in the model of stage k as written:
q_{k-1} times the priors of the parameters that stage k adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from .._util.batches import in_batches
from .._util.checks import FloatArray
from ..chains.chain import Chain
from ..chains.effective import error_of_sum
from ..diagnostics.importance import RELIABLE, log_mean_ratio, pareto_smoothed
from ..diagnostics.posterior_divergence import posterior_divergence
from ..priors.protocol import ParameterPrior
from ..sampling.density import ModelDensity

_COUNTS = 1e-6  # fraction of the mean weight; particles below it are ignored, as stage one may have zero density there


@dataclass(frozen=True)
class ExactDensity:
    """A density over named parameters.

    Attributes:
        names: the parameters, in the order of the columns of the points.
        log_density: function from points (n, d) to log densities (n,), float64.
        normalised: whether the density is normalised, up to the error of an evidence; otherwise it is known up to a
            constant.
    """

    names: tuple[str, ...]
    log_density: Callable[[FloatArray], FloatArray]
    normalised: bool
    models: tuple[ModelDensity, ...] = ()  # whose likelihoods it calls

    @property
    def seconds_per_call(self) -> float:
        """Seconds that external likelihoods take at one point; 0 without any."""
        return sum(model.seconds_per_call for model in self.models)


@dataclass(frozen=True)
class PriorError:
    """The KL divergence that a learned prior causes in a posterior, estimated at draws under the learned prior.

    Attributes:
        loss: KL divergence from the posterior under the exact prior to the one under the learned prior, nats.
        loss_error: its standard error.
        pareto_k: tail shape of the weights exact / learned; above 0.7 the estimates are not reliable.
        log_evidence_change: what the exact prior adds to the log evidence under the learned one. None if the exact
            prior is not normalised, or if the estimates are not reliable.
        log_evidence_change_error: its standard error, or None.
    """

    loss: float
    loss_error: float
    pareto_k: float
    log_evidence_change: float | None = None
    log_evidence_change_error: float | None = None

    @property
    def reliable(self) -> bool:
        """Whether the weights have a tail that is short enough for these numbers."""
        return bool(np.isfinite([self.loss, self.loss_error]).all() and self.pareto_k <= RELIABLE)


def exact_prior(density: ModelDensity, prior: ParameterPrior, before: ExactDensity) -> ExactDensity:
    """Returns the prior of a stage's model with the learned prior replaced by the exact posterior `before`."""
    learned = [density.space.index(name) for name in prior.space.names]
    exact = [density.space.index(name) for name in before.names]
    log_q = compiled(prior.log_prob)

    def log_density(x: FloatArray) -> FloatArray:
        return density.log_prior(x) - log_q(x[:, learned]) + before.log_density(x[:, exact])

    return ExactDensity(density.names, log_density, before.normalised, before.models)


def exact_posterior(density: ModelDensity, chain: Chain, prior: ExactDensity | None) -> ExactDensity:
    """Returns the posterior density of a stage, normalised if the chain has a log evidence and the prior is normalised.

    Args:
        density: the stage's model.
        chain: draws of the posterior; its log evidence must be the one under the exact prior.
        prior: the exact prior of the model; None if the prior in the model is exact.
    """
    evidence = chain.log_evidence

    def log_density(x: FloatArray) -> FloatArray:
        log_prior = density.log_prior(x) if prior is None else prior.log_density(x)
        return log_prior + density.log_likelihood(x) - (evidence or 0.0)

    normalised = evidence is not None and (prior is None or prior.normalised)
    models = (density,) if prior is None else (*prior.models, density)
    return ExactDensity(density.names, log_density, normalised, models)


def log_prob_of(prior: ParameterPrior | Distribution, theta: FloatArray) -> FloatArray:
    """Returns the log density (n,) of a NumPyro distribution at points (n, d), in float64."""
    return compiled(prior.log_prob)(theta)


def compiled(function: Callable[[Any], Any]) -> Callable[[FloatArray], FloatArray]:
    """Returns a compiled JAX function as a function of NumPy points (n, d), with values (n,) in float64."""
    jitted = jax.jit(function)

    def values(theta: FloatArray) -> FloatArray:
        with jax.enable_x64(True):
            return in_batches(lambda points: jitted(jnp.asarray(points)), theta, np.zeros(theta.shape[1]))

    return values


def prior_error(chain: Chain, exact: ExactDensity) -> PriorError:
    """Returns what the learned prior causes in a posterior and its evidence, from draws of it and their log prior.

    The draws of J_q have probabilities b. Smoothed, normalised importance weights w, proportional to b exact / learned,
    turn them into draws of J. KL(J || J_q) is estimated as the KL from w to b, sum w log(w / b). The mean of exact /
    learned over the draws is the ratio of the evidences.
    """
    chain = chain.take(np.flatnonzero(chain.probabilities > 0.0))
    assert chain.log_prior is not None
    probabilities = chain.probabilities
    log_ratio = exact.log_density(chain.samples) - chain.log_prior
    if not np.isfinite(log_ratio).any():
        return PriorError(np.inf, np.inf, np.inf)
    log_b = np.log(probabilities)
    smoothed, k = pareto_smoothed(log_b + log_ratio, relative_efficiency=1.0 / chain.autocorrelation_time)
    weights = np.exp(smoothed)
    terms = weights * np.where(weights > 0.0, smoothed - log_b, 0.0)
    loss = terms.sum()
    first_order = terms - (loss + 1.0) * weights + probabilities
    error = error_of_sum(first_order, probabilities, chain.dependence)
    found = PriorError(float(loss), error, k)
    change = log_mean_ratio(log_b + log_ratio, chain)
    if not (exact.normalised and found.reliable and np.isfinite(change).all()):
        return found
    return PriorError(float(loss), error, k, *change)


def joint_loss(prior: ParameterPrior, first: ModelDensity, joint: Chain) -> tuple[float, float]:
    """Returns the KL from the exact joint posterior J to the one computed with the flow, J_q, and its standard error.

    Both are in nats. The estimate uses draws of the joint fit, so it does not depend on the sampler of a second stage.

    Args:
        prior: the learned prior q.
        first: the model of the first stage; q was learnt from its posterior.
        joint: draws of the joint fit J, with the same parameters.
    """
    joint = joint.take(joint.probabilities * joint.n > _COUNTS)
    log_ratio = log_prob_of(prior, joint.samples) - first.log_posterior(joint.samples)
    return posterior_divergence(log_ratio, joint.probabilities, joint.dependence)
