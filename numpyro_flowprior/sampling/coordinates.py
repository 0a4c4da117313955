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

    A model without learned priors has no latent space other than its parameters: there all three are one.

    Args:
        coordinates: what the user asks for; "auto" leaves it to the sampler.
        density: the posterior.
        subject: of error messages.
        auto: the sampler's choice where there are learned priors.

    Raises:
        ValueError: another word.
    """
    if coordinates not in get_args(Coordinates):
        expected = ", ".join(map(repr, get_args(Coordinates)))
        raise ValueError(f"{subject}: coordinates: expected one of {expected}; got {coordinates!r}.")
    chosen = auto if coordinates == "auto" else coordinates
    return chosen if density.learned_sites else "parameters"


def sampled_in(density: ModelDensity, coordinates: str) -> tuple[ModelDensity, Callable[..., Chain]]:
    """Returns the density that a sampler is to sample, and what makes a chain in the model's parameters of its draws.

        inner, to_chain = sampled_in(density, coordinates)
        ...  # samples, log_prior, log_likelihood of inner
        return to_chain(samples, log_prior=log_prior, log_likelihood=log_likelihood, chain_id=..., info=...)

    Evidence, importance weights and log likelihood are those of the model in either coordinates. The log prior is not:
    the chain's is taken anew in the model's own, so that `log_prob` means the same for every sampler.

    Args:
        density: the posterior.
        coordinates: "parameters" for the density as it is; "latent" for `density.in_latent_space()`.
    """
    if coordinates == "parameters":
        return density, partial(chain_of_draws, density)
    inner = density.in_latent_space()

    def to_chain(samples: FloatArray, *, log_prior: FloatArray, log_likelihood: FloatArray, **fields: Any) -> Chain:
        del log_prior  # of the latent coordinates
        theta = parameters_of(density, inner, samples)
        own = density.log_prior(theta)
        return chain_of_draws(density, theta, log_prior=own, log_likelihood=log_likelihood, **fields)

    return inner, to_chain


def parameters_of(density: ModelDensity, inner: ModelDensity, samples: FloatArray) -> FloatArray:
    """Returns the vectors (n, d) of a density at points (n, d) of `density.in_latent_space()`."""
    return density.vector({**inner.constrain(samples), **inner.deterministics(samples)})


def chain_of_draws(
    density: ModelDensity, samples: FloatArray, *, log_prior: FloatArray, log_likelihood: FloatArray, **fields: Any
) -> Chain:
    """Returns the chain of a density's draws (n, d), with log prior and log likelihood (n,) and their sum."""
    return Chain(
        samples,
        density.space,
        log_prob=log_prior + log_likelihood,
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        **fields,
    )
