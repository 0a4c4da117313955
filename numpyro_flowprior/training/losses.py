"""What a flow is trained to minimise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from scipy.special import huber

from .._util.checks import FloatArray

_HUBER = 0.5  # nats of log ratio up to which the regression is quadratic, beyond which it is linear
_STEEPEST = 3.0  # log(q / p), about log 20: Jeffreys' divergence goes on as its tangent there


def negative_log_likelihood(log_q: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Returns -E_p[log q], estimated by the mean over draws of p.

    Needs samples only. Equals the entropy of p plus KL(p || q), so its minimum is the best q in Kullback-Leibler
    divergence, and its gradient that of `kullback_leibler`.

    Args:
        log_q: (n,) normalised log density of the flow at draws of p.
        weights: (n,) of the draws, which sum to one; None for equal ones.

    Source: Roch and Shen (2025), Eq. 8.
    """
    return -_mean(log_q, weights)


def kullback_leibler(log_p: jax.Array, log_q: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Returns KL(p || q) = E_p[log p - log q], estimated by the mean over draws of p.

    Needs the log density of p, and gains nothing from it in training: log p does not depend on the flow, so the
    gradient is that of `negative_log_likelihood`. The value is a divergence in nats if log p is normalised, and one up
    to an additive constant if not. For comparison with published results.

    Args:
        log_p: (n,) log density of the target at draws of p.
        log_q: (n,) log density of the flow there.
        weights: (n,) of the draws, which sum to one; None for equal ones.

    Source: Roch and Shen (2025), Eq. 5.
    """
    return _mean(log_p - log_q, weights)


def jeffreys(
    log_p: jax.Array, log_q: jax.Array, weights: jax.Array | None = None, *, normalised: bool = False
) -> jax.Array:
    """Returns KL(p || q) + KL(q || p), estimated over draws of p alone.

    The reverse term is an expectation over q. Draws of p stand in for it with the self-normalised weights
    w = softmax(log q - log p), in which a constant in log p cancels, so that it only sees where p has draws: mass that
    q puts elsewhere goes unnoticed. At q = p the gradient of every batch is zero, without noise. Use it where p has a
    log density and no support points; "log_variance" is the more robust of the two, as single rows can carry most of
    the weight here.

    With a normalised log p the weights are q / p themselves: E_p[(q / p - 1) log(q / p)], whose minimum needs all of
    q's mass where p's draws are. Above q / p = 20 it goes on as its tangent in log(q / p), or single rows would be all.

    Args:
        log_p: (n,) log density of the target at draws of p, up to a constant unless `normalised`.
        log_q: (n,) log density of the flow there.
        weights: (n,) of the draws, which sum to one; None for equal ones.
        normalised: whether log p is.

    Source: Roch and Shen (2025), Eq. 4; there with raw weights clipped at exp(+-30), of log densities with a constant.
    """
    log_ratio = log_q - log_p
    if not normalised:
        tilted = log_ratio if weights is None else log_ratio + jnp.log(weights)
        return jnp.sum(jax.nn.softmax(tilted) * log_ratio) - _mean(log_ratio, weights)
    low = jnp.minimum(log_ratio, _STEEPEST)
    slope = jnp.exp(_STEEPEST) * (_STEEPEST + 1.0) - 1.0
    return _mean(jnp.expm1(low) * low + slope * (log_ratio - low), weights)


def log_ratio_spread(
    log_p: jax.Array, log_q: jax.Array, centre: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Returns the mean Huber loss of (log p - log q) - centre: zero where q is p up to a constant.

    A robust form of the variance of the log ratio. Needs the log density of p, up to an additive constant, at points
    that need not be draws of p: it teaches tails that hold few draws or none, and its gradient has no noise at the
    optimum.

    Args:
        log_p: (n,) log density of the target, up to a constant.
        log_q: (n,) log density of the flow at the same points.
        centre: the log ratio in the bulk of p, e.g. its median over draws of p.
        weights: (n,) of the points, which sum to one; None for equal ones.
    """
    return _mean(optax.huber_loss(log_p - log_q - centre, delta=_HUBER), weights)


def log_ratio_losses(log_p: FloatArray, log_q: FloatArray, centre: FloatArray) -> FloatArray:
    """Returns what `log_ratio_spread` takes the mean of, at points (n,), in NumPy."""
    losses: FloatArray = huber(_HUBER, log_p - log_q - centre)
    return losses


def _mean(values: jax.Array, weights: jax.Array | None) -> jax.Array:
    return jnp.mean(values) if weights is None else jnp.sum(weights * values)
