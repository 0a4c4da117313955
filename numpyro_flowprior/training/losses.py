"""The loss functions that training minimises."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from scipy.special import huber

from .._util.checks import FloatArray

_HUBER = 0.5  # nats; the regression is quadratic in smaller log ratios and linear in larger ones
_STEEPEST = 3.0  # log(q / p), about log 20; above it Jeffreys' divergence is continued by its tangent


def negative_log_likelihood(log_q: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Returns -E_p[log q], estimated by the mean over draws of p.

    It needs samples only. It equals the entropy of p plus KL(p || q). Its minimum is therefore the q with the smallest
    KL divergence, and its gradient equals that of `kullback_leibler`.

    Args:
        log_q: (n,) normalised log density of the flow at draws of p.
        weights: (n,) weights of the draws, which sum to one; None for equal weights.

    Source: Roch and Shen (2025), Eq. 8.
    """
    return -_mean(log_q, weights)


def kullback_leibler(log_p: jax.Array, log_q: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Returns KL(p || q) = E_p[log p - log q], estimated by the mean over draws of p.

    It needs the log density of p, but training gains nothing from it: log p does not depend on the flow, so the
    gradient equals that of `negative_log_likelihood`. The value is a divergence in nats if log p is normalised, and is
    known up to an additive constant otherwise. Use it to compare with published results.

    Args:
        log_p: (n,) log density of the target at draws of p.
        log_q: (n,) log density of the flow at the same draws.
        weights: (n,) weights of the draws, which sum to one; None for equal weights.

    Source: Roch and Shen (2025), Eq. 5.
    """
    return _mean(log_p - log_q, weights)


def jeffreys(
    log_p: jax.Array, log_q: jax.Array, weights: jax.Array | None = None, *, normalised: bool = False
) -> jax.Array:
    """Returns KL(p || q) + KL(q || p), estimated from draws of p alone.

    The reverse term is an expectation over q. It is estimated from draws of p with the self-normalised weights
    w = softmax(log q - log p), in which a constant in log p cancels. The loss therefore does not see mass that q puts
    where p has no draws. At q = p the gradient of every batch is exactly zero. Use this loss if p has a log density
    and there are no support points; "log_variance" is more robust, because here single rows can carry most of the
    weight.

    If log p is normalised, the weights are q / p themselves: E_p[(q / p - 1) log(q / p)]. The minimum then requires
    that all mass of q is where p has draws. Above q / p = 20 the loss is continued by its tangent in log(q / p);
    otherwise single rows would dominate.

    Args:
        log_p: (n,) log density of the target at draws of p, up to a constant unless `normalised`.
        log_q: (n,) log density of the flow at the same draws.
        weights: (n,) weights of the draws, which sum to one; None for equal weights.
        normalised: whether log p is normalised.

    Source: Roch and Shen (2025), Eq. 4. They use raw weights of unnormalised log densities, clipped at exp(+-30).
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
    """Returns the mean Huber loss of (log p - log q) - centre, which is zero if q equals p up to a constant.

    This is a robust form of the variance of the log ratio. It needs the log density of p, up to an additive constant,
    at points that need not be draws of p. It therefore constrains tails with few draws or none, and its gradient has no
    noise at the optimum.

    Args:
        log_p: (n,) log density of the target, up to a constant.
        log_q: (n,) log density of the flow at the same points.
        centre: the log ratio in the bulk of p, e.g. its median over draws of p.
        weights: (n,) weights of the points, which sum to one; None for equal weights.
    """
    return _mean(optax.huber_loss(log_p - log_q - centre, delta=_HUBER), weights)


def against_a_common_shift(log_p: jax.Array, log_q: jax.Array, centre: jax.Array, draws: int) -> jax.Array:
    """Returns zero, with a gradient that keeps the regression from lowering log q at all points together.

    `log_ratio_spread` does not change if log q falls by the same amount at all points, as the centre follows. A flow
    can do that by moving its mass to where there are no points. If most points are too high, the regression pushes it
    there, without end. The push that is common to all points is therefore taken back at the draws of p.

    Args:
        log_p, log_q, centre: as for `log_ratio_spread`, with equal weights.
        draws: number of points that are draws of p, which come first.
    """
    common = jnp.minimum(jnp.mean(jnp.clip(log_p - log_q - centre, -_HUBER, _HUBER)), 0.0)
    ratio = jnp.mean((log_p - log_q)[:draws])
    return -jax.lax.stop_gradient(common) * (ratio - jax.lax.stop_gradient(ratio))


def log_ratio_losses(log_p: FloatArray, log_q: FloatArray, centre: FloatArray) -> FloatArray:
    """Returns the terms, at points (n,), that `log_ratio_spread` averages; in NumPy."""
    losses: FloatArray = huber(_HUBER, log_p - log_q - centre)
    return losses


def _mean(values: jax.Array, weights: jax.Array | None) -> jax.Array:
    return jnp.mean(values) if weights is None else jnp.sum(weights * values)
