"""LatentReparam: samplers walk in the flow's latent space, where its density is close to a standard normal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import validate_sample
from numpyro.infer.reparam import Reparam

from .prior import FlowPrior

LATENT_SUFFIX = "_latent"  # of the site that is sampled in place of a prior's


class LatentDensity(Distribution):
    """Density of omega = T^-1(theta), for theta drawn from a FlowPrior and T its `from_latent`.

    Normalised on R^d, and exact for a mixture of flows too, whose T is the first member's:
    log p(omega) = log q(T(omega)) + log |det dT / domega|. One flow alone has its base density there.

    Args:
        prior: the FlowPrior.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (NumPyro's contract)
    pytree_data_fields = ("prior",)
    support = constraints.real_vector

    def __init__(self, prior: FlowPrior, *, validate_args: bool | None = None):
        self.prior = prior
        super().__init__(batch_shape=(), event_shape=prior.event_shape, validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        """Returns the normalised log density (...,) at latent points (..., d)."""
        return self.prior.latent_log_prob(value)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Returns latent coordinates (*sample_shape, d) of draws from the prior."""
        return self.prior.to_latent(self.prior.sample(key, sample_shape))


class LatentReparam(Reparam):
    """Samples a FlowPrior site in its latent space, and hands the model theta as before.

        model = numpyro.handlers.reparam(model, config={"theta": LatentReparam()})

    The posterior of theta is the same; curved, bounded and strongly correlated priors become nearly a standard normal,
    which is what NUTS moves in best. Separate modes come together only in the latent space of one flow with
    `FlowConfig(base="normal")`: a mixture base, the default, keeps them apart. The sampled site is "<name>_latent";
    "<name>" becomes a deterministic one.

    Raises:
        TypeError: the site's distribution is not a FlowPrior (expanded or not).
        ValueError: the site is observed.
    """

    def __call__(self, name: str, fn: Any, obs: Any) -> tuple[None, jax.Array]:
        """Returns (None, theta), having sampled the latent site."""
        if obs is not None:
            raise ValueError(f"LatentReparam: expected a latent site; {name!r} is observed. Leave it out of `config`.")
        prior, expand_shape, event_dim = self._unwrap(fn)
        if not isinstance(prior, FlowPrior):
            raise TypeError(
                f"LatentReparam: expected a FlowPrior at site {name!r}; got {type(prior).__name__}, which has no "
                "latent space. Leave it out of `config`."
            )
        omega = numpyro.sample(f"{name}{LATENT_SUFFIX}", self._wrap(LatentDensity(prior), expand_shape, event_dim))
        return None, prior.from_latent(jnp.asarray(omega))
