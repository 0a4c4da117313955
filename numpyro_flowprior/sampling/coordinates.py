"""The coordinates that a sampler moves in: the model's parameters, or the latent coordinates of its learned priors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

from .._util.checks import FloatArray
from ..chains.chain import Chain
from .density import ModelDensity

Coordinates = Literal["auto", "parameters", "latent"]


def resolved(coordinates: Coordinates, density: ModelDensity, subject: str, *, auto: str) -> str:
    """Returns the coordinates that a sampler moves in, "parameters" or "latent".

    Without learned priors there is no separate latent space, and the result is always "parameters".

    Args:
        coordinates: the user's choice; "auto" leaves it to the sampler.
        density: the posterior.
        subject: the subject of error messages.
        auto: the sampler's choice if there are learned priors.

    Raises:
        ValueError: `coordinates` is none of the three words.
    """
    if coordinates not in get_args(Coordinates):
        expected = ", ".join(map(repr, get_args(Coordinates)))
        raise ValueError(f"{subject}: coordinates: expected one of {expected}; got {coordinates!r}.")
    chosen = auto if coordinates == "auto" else coordinates
    return chosen if density.learned_sites else "parameters"


def sampled_in(density: ModelDensity, coordinates: str) -> tuple[ModelDensity, Callable[..., Chain]]:
    """Returns the density to sample, and a function that turns its draws into a chain in the model's parameters.

        inner, to_chain = sampled_in(density, coordinates)
        ...  # samples, log_prior, log_likelihood of inner
        return to_chain(samples, log_prior=log_prior, log_likelihood=log_likelihood, chain_id=..., info=...)

    Evidence, importance weights and log likelihood are the same in both coordinates. The log prior is not. `to_chain`
    computes it again in the model's parameters, so that `log_prob` means the same for every sampler.

    Args:
        density: the posterior.
        coordinates: "parameters" for the density as it is; "latent" for `density.in_latent_space()`.
    """
    if coordinates == "parameters":
        return density, partial(chain_of_draws, density)
    inner = density.in_latent_space()

    def to_chain(samples: FloatArray, *, log_prior: FloatArray, log_likelihood: FloatArray, **fields: Any) -> Chain:
        del log_prior  # it is the density in latent coordinates
        theta = parameters_of(density, inner, samples)
        own = density.log_prior(theta)
        return chain_of_draws(density, theta, log_prior=own, log_likelihood=log_likelihood, **fields)

    return inner, to_chain


def parameters_of(density: ModelDensity, inner: ModelDensity, samples: FloatArray) -> FloatArray:
    """Returns the vectors (n, d) of a density at points (n, d) of `inner`, its `in_latent_space()`."""
    return density.vector({**inner.constrain(samples), **inner.deterministics(samples)})


def chain_of_draws(
    density: ModelDensity, samples: FloatArray, *, log_prior: FloatArray, log_likelihood: FloatArray, **fields: Any
) -> Chain:
    """Returns the chain of draws (n, d) from a density, with log prior (n,), log likelihood (n,) and their sum."""
    return Chain(
        samples,
        density.space,
        log_prob=log_prior + log_likelihood,
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        **fields,
    )
