"""Sites that are not ordinary priors: a Delta is a constant, and an ImproperUniform has no draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Delta, ExpandedDistribution, ImproperUniform, Independent, MaskedDistribution
from numpyro.primitives import Messenger


def unwrapped(function: Any) -> Any:
    """Returns the distribution of a site without the wrappers that expand, reshape or mask it."""
    while isinstance(function, ExpandedDistribution | Independent | MaskedDistribution):
        function = function.base_dist
    return function


class ConstantSites(Messenger):
    """Turns latent Delta sites into deterministic sites, which no sampler moves.

    Raises:
        ValueError: a Delta has its own log density.
    """

    def process_message(self, msg: dict[str, Any]) -> None:
        """Fixes a latent Delta site at its value."""
        if not _is_latent(msg):
            return
        function = unwrapped(msg["fn"])
        if not isinstance(function, Delta):
            return
        if not isinstance(function.log_density, jax.core.Tracer) and np.any(np.asarray(function.log_density) != 0.0):
            raise ValueError(
                f"model: site {msg['name']!r} is a Delta with a log density. Make it a numpyro.deterministic site, and "
                "its log density a numpyro.factor."
            )
        msg["value"] = jnp.broadcast_to(jnp.asarray(function.v), msg["fn"].shape())
        msg["type"] = "deterministic"


def is_constant(site: dict[str, Any]) -> bool:
    """Returns whether a traced site is a Delta that was turned into a deterministic site."""
    return site["type"] == "deterministic" and isinstance(unwrapped(site.get("fn")), Delta)


class ProperSites(Messenger):
    """Refuses improper priors, because they have no draws."""

    def process_message(self, msg: dict[str, Any]) -> None:
        """Raises ValueError at a latent ImproperUniform site."""
        if _is_latent(msg) and isinstance(unwrapped(msg["fn"]), ImproperUniform):
            raise ValueError(
                f"model: site {msg['name']!r} has an improper prior (ImproperUniform), which has no draws to start "
                "from and no evidence. Its posterior may not be normalisable. Give it a proper one, for example a "
                "Uniform between bounds or a wide Normal."
            )


class FeasibleSites(Messenger):
    """Gives sites with improper priors a value in their support, for runs that only inspect the sites of a model."""

    def process_message(self, msg: dict[str, Any]) -> None:
        """Sets a latent ImproperUniform site to a value in its support."""
        if _is_latent(msg) and isinstance(unwrapped(msg["fn"]), ImproperUniform):
            msg["value"] = msg["fn"].support.feasible_like(jnp.zeros(msg["fn"].shape()))


def _is_latent(msg: dict[str, Any]) -> bool:
    return msg["type"] == "sample" and not msg["is_observed"] and msg["value"] is None
