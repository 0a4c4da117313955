"""Sites that are no ordinary priors: Delta is a constant, and of ImproperUniform there are no draws."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Delta, ExpandedDistribution, ImproperUniform, Independent, MaskedDistribution
from numpyro.primitives import Messenger


def unwrapped(function: Any) -> Any:
    """Returns a site's distribution without what expands, shapes or masks it."""
    while isinstance(function, ExpandedDistribution | Independent | MaskedDistribution):
        function = function.base_dist
    return function


class ConstantSites(Messenger):
    """Makes latent Delta sites what they are: deterministic ones, which no sampler moves.

    Raises:
        ValueError: one with a log density of its own.
    """

    def process_message(self, msg: dict[str, Any]) -> None:
        """Takes the value of a Delta site for given."""
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
    """Returns whether a traced site is a Delta that was made a deterministic one."""
    return site["type"] == "deterministic" and isinstance(unwrapped(site.get("fn")), Delta)


class ProperSites(Messenger):
    """Refuses improper priors, of which there are no draws."""

    def process_message(self, msg: dict[str, Any]) -> None:
        """Raises ValueError at a latent ImproperUniform site."""
        if _is_latent(msg) and isinstance(unwrapped(msg["fn"]), ImproperUniform):
            raise ValueError(
                f"model: site {msg['name']!r} has an improper prior (ImproperUniform): it has no draws to begin at, no "
                "evidence, and its posterior may have no mass. Give it a proper one, Uniform between bounds or a wide "
                "Normal, say."
            )


class FeasibleSites(Messenger):
    """Gives improper priors some value of their support, where a model is run to see what its sites are."""

    def process_message(self, msg: dict[str, Any]) -> None:
        """Takes a feasible value for a latent ImproperUniform site."""
        if _is_latent(msg) and isinstance(unwrapped(msg["fn"]), ImproperUniform):
            msg["value"] = msg["fn"].support.feasible_like(jnp.zeros(msg["fn"].shape()))


def _is_latent(msg: dict[str, Any]) -> bool:
    return msg["type"] == "sample" and not msg["is_observed"] and msg["value"] is None
