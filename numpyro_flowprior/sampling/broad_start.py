"""Sampling through broad priors, for a posterior that covers little of the mass of its learned priors.

A tempered sampler starts with draws from the prior. If the posterior covers a thousandth of the prior mass, only that
fraction of the particles starts where it is needed, and chance decides how these divide between two modes. With a broad
prior b, the particles start everywhere. The posterior and the evidence stay the same, because b (L q / b) = q L for the
likelihood L and the learned prior q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import numpy as np
import numpyro
from numpyro.infer.reparam import Reparam
from scipy.special import logsumexp

from ..chains.chain import Chain
from ..priors.composed import broad_of
from .density import ModelDensity

Start = Literal["auto", "prior", "broad"]
_LOOKED_AT = 4096, 32_768  # draws from the prior: those of the first look, and of the second
_ENOUGH = 0.025  # effective share of these draws, weighted by the likelihood, at which the particles find the modes
_LONGEST = 60.0  # seconds that the second look may take


class BroadStart(Reparam):
    """Samples the site of a learned prior from a broad prior; the model gets theta as before.

    The ratio of the two densities is added as a factor.
    """

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[None, jax.Array]:
        """Returns (None, theta), with theta sampled from the broad prior."""
        del obs
        prior, expand_shape, event_dim = self._unwrap(fn)
        broad = broad_of(prior)
        theta = numpyro.sample(f"{name}_broad", self._wrap(broad, expand_shape, event_dim))
        numpyro.factor(f"{name}_learned", prior.log_prob(theta) - broad.log_prob(theta))
        return None, theta


@dataclass(frozen=True)
class WeightedPrior:
    """Effective sample size and evidence of a posterior, from prior draws weighted by the likelihood.

    Attributes:
        effective_size: effective sample size of the weighted draws; 0 if the likelihood is zero at all of them.
        log_evidence: log of the mean likelihood; -inf if the likelihood is zero at all draws.
        log_evidence_error: its standard error, to first order; inf if the likelihood is zero at all draws.
    """

    effective_size: float
    log_evidence: float
    log_evidence_error: float


def weighted_prior(key: jax.Array, density: ModelDensity, draws: int) -> WeightedPrior:
    """Returns the effective sample size and the evidence of a posterior from weighted prior draws."""
    log_likelihood = density.log_likelihood(density.sample_prior(key, draws))
    if not np.isfinite(log_likelihood).any():
        return WeightedPrior(0.0, -np.inf, np.inf)
    size = float(np.exp(2.0 * logsumexp(log_likelihood) - logsumexp(2.0 * log_likelihood)))
    error = float(np.sqrt(max(1.0 / size - 1.0 / draws, 0.0)))
    return WeightedPrior(size, float(logsumexp(log_likelihood) - np.log(draws)), error)


def require_start(start: Any) -> None:
    """Raises ValueError unless `start` is "auto", "prior" or "broad"."""
    if start not in get_args(Start):
        raise ValueError(f"start: expected one of {', '.join(map(repr, get_args(Start)))}; got {start!r}.")


def starts_broad(key: jax.Array, density: ModelDensity, start: Start) -> bool:
    """Returns whether a sampler should start from broad priors.

    With "auto" it should if weighted prior draws have a small effective sample size. This size is too large if no draw
    happens to lie in a small region with much of the posterior. So there is a second look, with more draws, unless
    external likelihoods are too slow. A density without learned priors never needs broad ones.

    Raises:
        ValueError: `start` is unknown.
    """
    require_start(start)
    if start != "auto" or not density.learned_sites:
        return start == "broad" and bool(density.learned_sites)
    few, many = _LOOKED_AT
    if weighted_prior(key, density, few).effective_size < _ENOUGH * few:
        return True
    if many * density.seconds_per_call > _LONGEST:
        return False
    return weighted_prior(jax.random.fold_in(key, 2), density, many).effective_size < _ENOUGH * many


def through_broad(density: ModelDensity, sample: Callable[[ModelDensity], Chain]) -> Chain:
    """Returns the chain that a sampler draws through broad priors, in the parameters of the density itself.

    Log prior and log likelihood are those of the density. Draws at which they are not finite are dropped.
    """
    chain = sample(density.reparametrised({site: BroadStart() for site in density.learned_sites}))
    chain = chain.select(density.names)
    log_prior, log_likelihood = density.log_prior_and_likelihood(chain.samples)
    possible = np.flatnonzero(np.isfinite(log_prior + log_likelihood))
    return chain.take(possible).replace(
        log_prior=log_prior[possible],
        log_likelihood=log_likelihood[possible],
        log_prob=(log_prior + log_likelihood)[possible],
        info={**chain.info, "start": "broad"},
    )
