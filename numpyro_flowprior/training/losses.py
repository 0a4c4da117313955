"""What a flow is trained to minimise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

_HUBER = 0.5  # nats of log ratio up to which the regression is quadratic, beyond which it is linear


def negative_log_likelihood(log_q: jax.Array) -> jax.Array:
    """Returns -E_p[log q], estimated by the mean over draws of p.

    Needs samples only. Equals the entropy of p plus KL(p || q), so its minimum is the best q in Kullback-Leibler
    divergence.

    Args:
        log_q: (n,) normalised log density of the flow at draws of p.

    Source: Roch and Shen (2025), Eq. 8.
    """
    return -jnp.mean(log_q)


def log_ratio_spread(log_p: jax.Array, log_q: jax.Array, centre: jax.Array) -> jax.Array:
    """Returns the mean Huber loss of (log p - log q) - centre: zero where q is p up to a constant.

    A robust form of the variance of the log ratio. Needs the log density of p, up to an additive constant, at points
    that need not be draws of p: it teaches tails that hold few draws or none, and its gradient has no noise at the
    optimum.

    Args:
        log_p: (n,) log density of the target, up to a constant.
        log_q: (n,) log density of the flow at the same points.
        centre: the log ratio in the bulk of p, e.g. its median over draws of p.
    """
    return jnp.mean(optax.huber_loss(log_p - log_q - centre, delta=_HUBER))
