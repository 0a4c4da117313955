"""What a flow is trained to minimise."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def negative_log_likelihood(log_q: jax.Array, probabilities: jax.Array | None = None) -> jax.Array:
    """Returns -E_p[log q], estimated from draws of p: the mean of -log q, weighted if weights are given.

    Needs samples only. Equals the entropy of p plus KL(p || q), so its minimum is the best q in Kullback-Leibler
    divergence.

    Args:
        log_q: (n,) normalised log density of the flow at the draws.
        probabilities: (n,) weights that sum to one; None for draws of equal weight.

    Source: Roch and Shen (2025), Eq. 8.
    """
    return -jnp.mean(log_q) if probabilities is None else -jnp.sum(probabilities * log_q)
