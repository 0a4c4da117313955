"""The same posterior, its learned priors sampled through broad ones: for one that holds little of the prior's mass.

A tempered sampler begins with draws from the prior. Where the posterior rests on a thousandth of that, as many of its
particles are where they are needed, and how they divide between two modes there is chance. Through a broad prior b it
begins everywhere: b L q / b is q L, evidence included.
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
_LOOKED_AT = 4096  # draws from the prior
_ENOUGH = 100.0  # of them, effectively, that the posterior rests on: then particles from the prior find its modes


class BroadStart(Reparam):
    """Samples the site of a learned prior from a broad one, their ratio a factor; the model sees theta as before."""

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[None, jax.Array]:
        """Returns (None, theta), having sampled the broad site."""
        del obs
        prior, expand_shape, event_dim = self._unwrap(fn)
        broad = broad_of(prior)
        theta = numpyro.sample(f"{name}_broad", self._wrap(broad, expand_shape, event_dim))
        numpyro.factor(f"{name}_learned", prior.log_prob(theta) - broad.log_prob(theta))
        return None, theta


@dataclass(frozen=True)
class WeightedPrior:
    """A posterior as draws from its prior, weighted by the likelihood, have it.

    Attributes:
        effective_size: of the weighted draws; 0 if none has a likelihood.
        log_evidence: log of the mean likelihood; -inf if none has one.
        log_evidence_error: its standard error, to first order.
    """

    effective_size: float
    log_evidence: float
    log_evidence_error: float


def weighted_prior(key: jax.Array, density: ModelDensity, draws: int = _LOOKED_AT) -> WeightedPrior:
    """Returns what so many weighted draws from the prior say of a posterior."""
    log_likelihood = density.log_likelihood(density.sample_prior(key, draws))
    if not np.isfinite(log_likelihood).any():
        return WeightedPrior(0.0, -np.inf, np.inf)
    size = float(np.exp(2.0 * logsumexp(log_likelihood) - logsumexp(2.0 * log_likelihood)))
    error = float(np.sqrt(max(1.0 / size - 1.0 / draws, 0.0)))
    return WeightedPrior(size, float(logsumexp(log_likelihood) - np.log(draws)), error)


def require_start(start: Any) -> None:
    """Raises ValueError unless it says where a sampler begins."""
    if start not in get_args(Start):
        raise ValueError(f"start: expected one of {', '.join(map(repr, get_args(Start)))}; got {start!r}.")


def starts_broad(key: jax.Array, density: ModelDensity, start: Start) -> bool:
    """Returns whether a sampler should go through broad priors; "auto" where the posterior rests on few prior draws.

    Raises:
        ValueError: no such start.
    """
    require_start(start)
    if start != "auto" or not density.learned_sites:
        return start == "broad" and bool(density.learned_sites)
    return weighted_prior(key, density).effective_size < _ENOUGH


def through_broad(density: ModelDensity, sample: Callable[[ModelDensity], Chain]) -> Chain:
    """Returns what a sampler finds through broad priors, as the chain of the density itself."""
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
