"""LatentReparam: sampling in the latent space of a flow, where its density is close to a standard normal."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpyro
from numpyro.distributions import Distribution, constraints
from numpyro.infer.reparam import Reparam

from .._util.validation import validated
from ..chains.parameters import ParameterSpace

LATENT_SUFFIX = "_latent"  # suffix of the site that is sampled instead of the site of the prior


@runtime_checkable
class HasLatentSpace(Protocol):
    """A learned prior with a map to coordinates in which it is close to a standard normal."""

    space: ParameterSpace
    event_shape: tuple[int, ...]

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Returns draws (*sample_shape, d)."""

    def to_latent(self, theta: Any) -> jax.Array:
        """Returns latent coordinates (..., d) of points (..., d)."""

    def from_latent(self, omega: Any) -> jax.Array:
        """Returns points (..., d) at latent coordinates (..., d)."""

    def latent_log_prob(self, omega: Any) -> jax.Array:
        """Returns the normalised log density (...,) of the prior in latent coordinates, at (..., d)."""


class LatentDensity(Distribution):
    """Distribution of omega = T^-1(theta), for theta drawn from a learned prior p, where T is its `from_latent`.

    log p(omega) = log p(T(omega)) + log |det dT / domega|, normalised on R^d. This is the base density if the prior is
    a single flow. It is also exact for a mixture of flows, where T is that of the first member, and for tempered and
    robust priors, where T is that of the original prior.

    Args:
        prior: a FlowPrior, or the result of `temper` or `robustify` for one.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (NumPyro's contract)
    pytree_data_fields = ("prior",)
    support = constraints.real_vector

    def __init__(self, prior: HasLatentSpace, *, validate_args: bool | None = None):
        self.prior = prior
        super().__init__(batch_shape=(), event_shape=prior.event_shape, validate_args=validate_args)

    @validated
    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        """Returns the normalised log density (...,) at latent points (..., d)."""
        return self.prior.latent_log_prob(value)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Returns latent coordinates (*sample_shape, d) of draws from the prior."""
        return self.prior.to_latent(self.prior.sample(key, sample_shape))


class LatentReparam(Reparam):
    """Reparametrisation that samples the site of a learned prior in its latent space. The model still gets theta.

        model = numpyro.handlers.reparam(model, config={"theta": LatentReparam()})

    The posterior of theta is the same. Curved, bounded and strongly correlated priors become nearly standard normal,
    which NUTS samples best. Separate modes merge only in the latent space of a single flow with
    `FlowConfig(base="normal")`. The default, a mixture base, keeps them apart. The sampled site is "<name>_latent", and
    "<name>" becomes a deterministic site.

    Raises:
        TypeError: the distribution of the site is not a FlowPrior, tempered prior or robust prior (expanded or not).
        ValueError: the site is observed.
    """

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[None, jax.Array]:
        """Samples the latent site, and returns (None, theta)."""
        if obs is not None:
            raise ValueError(f"LatentReparam: expected a latent site; {name!r} is observed. Leave it out of `config`.")
        prior, expand_shape, event_dim = self._unwrap(fn)
        if not isinstance(prior, HasLatentSpace):
            raise TypeError(
                f"LatentReparam: expected a FlowPrior, TemperedPrior or RobustPrior at site {name!r}; got "
                f"{type(prior).__name__}, which has no latent space. Leave it out of `config`."
            )
        omega = numpyro.sample(f"{name}{LATENT_SUFFIX}", self._wrap(LatentDensity(prior), expand_shape, event_dim))
        return None, prior.from_latent(jnp.asarray(omega))
