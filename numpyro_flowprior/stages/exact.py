"""A stage's posterior as a density known as a function, and what a learned prior in its place does to the next one.

A model's density is known up to a constant, its evidence. Over the stages before it the learned priors divide out:

    p_k(theta) = p_{k-1}(theta) pi_k(theta) / q_{k-1}(theta) L_k(theta) / Z_k

with p_{k-1} the exact posterior that q_{k-1} was learnt from, and pi_k the prior of stage k's model as written: q_{k-1}
times the priors of the parameters that stage k adds.
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
from ..diagnostics.posterior_divergence import posterior_divergence
from ..priors.protocol import ParameterPrior
from ..sampling.density import ModelDensity
from ..sampling.reweight import pareto_smoothed

_COUNTS = 1e-6  # share of the mean weight below which a particle does not count: stage one may have no density there


@dataclass(frozen=True)
class ExactDensity:
    """A density over named parameters.

    Attributes:
        names: the parameters, in the order of the points.
        log_density: (n,) at points (n, d), float64.
        normalised: whether the constant is known too.
    """

    names: tuple[str, ...]
    log_density: Callable[[FloatArray], FloatArray]
    normalised: bool


@dataclass(frozen=True)
class PriorError:
    """What a learned prior in place of the exact one does to a posterior, seen at the draws of the former.

    Attributes:
        loss: KL divergence from the posterior under the exact prior to the one under the learned prior, nats.
        loss_error: its standard error.
        pareto_k: shape of the tail of the weights exact / learned; above 0.7 the draws cannot tell.
    """

    loss: float
    loss_error: float
    pareto_k: float


def exact_prior(density: ModelDensity, prior: ParameterPrior, before: ExactDensity) -> ExactDensity:
    """Returns the prior of a stage's model with the exact posterior `before` in place of the learned prior."""
    learned = [density.space.index(name) for name in prior.space.names]
    exact = [density.space.index(name) for name in before.names]
    log_q = compiled(prior.log_prob)

    def log_density(x: FloatArray) -> FloatArray:
        return density.log_prior(x) - log_q(x[:, learned]) + before.log_density(x[:, exact])

    return ExactDensity(density.names, log_density, before.normalised)


def exact_posterior(density: ModelDensity, chain: Chain, prior: ExactDensity | None) -> ExactDensity:
    """Returns the posterior of a stage's model, normalised by the chain's evidence where it has one.

    Args:
        density: the stage's.
        chain: of that posterior, its evidence under the exact prior.
        prior: the exact prior of the model; None if the model's own is exact.
    """
    evidence = chain.log_evidence

    def log_density(x: FloatArray) -> FloatArray:
        log_prior = density.log_prior(x) if prior is None else prior.log_density(x)
        return log_prior + density.log_likelihood(x) - (evidence or 0.0)

    return ExactDensity(density.names, log_density, evidence is not None and (prior is None or prior.normalised))


def log_prob_of(prior: ParameterPrior | Distribution, theta: FloatArray) -> FloatArray:
    """Returns the log density (n,) of a NumPyro distribution at points (n, d), in float64."""
    return compiled(prior.log_prob)(theta)


def compiled(function: Callable[[Any], Any]) -> Callable[[FloatArray], FloatArray]:
    """Returns a function of points (n, d) in JAX as one of arrays, whose values are (n,) and in float64."""
    jitted = jax.jit(function)

    def values(theta: FloatArray) -> FloatArray:
        with jax.enable_x64(True):
            return in_batches(lambda points: jitted(jnp.asarray(points)), theta, np.zeros(theta.shape[1]))

    return values


def prior_error(chain: Chain, exact: ExactDensity) -> PriorError:
    """Returns what the learned prior did to a posterior, from its draws and their log prior.

    With draws of J_q of probabilities b and smoothed, normalised weights w of exact / learned, KL(J || J_q) is that of
    w against b.
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
    return PriorError(float(loss), error, k)


def joint_loss(prior: ParameterPrior, first: ModelDensity, joint: Chain) -> tuple[float, float]:
    """Returns KL(J || J_q) in nats and its standard error: what a joint fit loses to a prior in place of a first stage.

    At the joint fit's own draws, so that no second stage's sampler takes part.

    Args:
        prior: the learned prior q.
        first: the first stage, whose posterior q was learnt from.
        joint: draws of the joint fit J, of the same parameters.
    """
    joint = joint.take(joint.probabilities * joint.n > _COUNTS)
    log_ratio = log_prob_of(prior, joint.samples) - first.log_posterior(joint.samples)
    return posterior_divergence(log_ratio, joint.probabilities, joint.dependence)
