"""The compiled part of training: minibatches, the loss of a batch, many optimiser steps in one scan."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._util.checks import FloatArray
from ..flows.build import build_whitened_flow
from ..flows.config import FlowConfig
from ..flows.layout import Params
from .config import TrainConfig
from .losses import jeffreys, kullback_leibler, log_ratio_spread, negative_log_likelihood

_WARM_UP = 0.05  # fraction of the steps over which the learning rate rises


class Rows(NamedTuple):
    """Points x (n, d) in training coordinates and their log target density there (n,), zeros where not used."""

    x: jax.Array
    log_p: jax.Array


class Data(NamedTuple):
    """What minibatches are taken from: rows, and the numbers of those that teach, drawn evenly from each list.

    `taught` are draws, listed as often as their weights ask for; `pointed` are rows with a log density within reach,
    for the regression alone (none if it is not used).
    """

    rows: Rows
    taught: jax.Array
    pointed: jax.Array


def make_rows(x: FloatArray, log_p: FloatArray | None) -> Rows:
    """Returns rows in float32 on the device."""
    log_p = np.zeros(len(x)) if log_p is None else log_p
    return Rows(jnp.asarray(x, jnp.float32), jnp.asarray(log_p, jnp.float32))


def learning_rate(step: Any, peak: Any, total: Any) -> jax.Array:
    """Returns the learning rate at a step of `total`: a linear rise to the peak, then a cosine down to zero."""
    warm_up = jnp.maximum(1.0, jnp.floor(_WARM_UP * total))
    way = jnp.clip((step - warm_up) / jnp.maximum(total - warm_up, 1.0), 0.0, 1.0)
    return peak * jnp.where(step < warm_up, step / warm_up, 0.5 * (1.0 + jnp.cos(jnp.pi * way)))


def optimiser(train: TrainConfig, peak: Any = None, total: Any = None) -> optax.GradientTransformation:
    """Returns AdamW with clipped gradients; its learning rate's peak and length may be traced values of their own."""
    peak = train.learning_rate if peak is None else peak
    schedule: Any = peak
    if train.schedule == "cosine":
        schedule = partial(learning_rate, peak=peak, total=train.max_steps if total is None else total)
    return optax.chain(optax.clip_by_global_norm(train.clip), optax.adamw(schedule, weight_decay=train.weight_decay))


@partial(jax.jit, static_argnames=("config", "train", "steps"))
def run_steps(
    key: jax.Array, trained: Params, state: Any, data: Data, *, config: FlowConfig, train: TrainConfig, steps: int
) -> tuple[Params, Any, jax.Array]:
    """Returns the weights and optimiser state after `steps` steps, and the mean loss over them."""
    chosen = _choose(key, data, (steps,), train)
    step = partial(_step, data=data, descend=optimiser(train), config=config, train=train)
    (trained, state), losses = jax.lax.scan(step, (trained, state), chosen)
    return trained, state, jnp.mean(losses)


@partial(jax.jit, static_argnames=("config", "train"))
def run_between(
    key: jax.Array, trained: Params, state: Any, data: Data, span: Any, peak: Any, *, config: FlowConfig, train: Any
) -> tuple[Params, Any]:
    """Returns the weights and optimiser state after the steps from `start` to `stop` of a training of `total`.

    What `run_steps` does, compiled once for every learning rate and length: `span` (start, stop, total) and `peak` are
    traced, and `train.learning_rate` and `train.max_steps` are not looked at. `key` is the whole training's.
    """
    start, stop, total = span
    step = partial(_step, data=data, descend=optimiser(train, peak, total), config=config, train=train)

    def body(j: Any, carry: Any) -> Any:
        return step(carry, _choose(jax.random.fold_in(key, j), data, (), train))[0]

    return jax.lax.fori_loop(start, stop, body, (trained, state))


def _choose(key: jax.Array, data: Data, batches: tuple[int, ...], train: TrainConfig) -> tuple[jax.Array, jax.Array]:
    """Returns the row numbers of batches, (*batches, batch size): of draws and of points (none if there are none)."""
    key_draws, key_points = jax.random.split(key)
    size = min(train.batch_size, len(data.taught))
    drawn = jax.random.randint(key_draws, (*batches, size), 0, len(data.taught))
    shape = (*batches, min(size, len(data.pointed)))
    return data.taught[drawn], data.pointed[jax.random.randint(key_points, shape, 0, max(len(data.pointed), 1))]


def _step(
    carry: Any, chosen: tuple[jax.Array, jax.Array], *, data: Data, descend: Any, config: FlowConfig, train: TrainConfig
) -> tuple[Any, jax.Array]:
    trained, state = carry
    draws, points = (Rows(data.rows.x[rows], data.rows.log_p[rows]) for rows in chosen)
    loss, gradient = jax.value_and_grad(batch_loss)(trained, draws, points, config=config, train=train)
    updates, state = descend.update(gradient, state, trained)
    return (optax.apply_updates(trained, updates), state), loss


def batch_loss(trained: Params, draws: Rows, points: Rows, *, config: FlowConfig, train: TrainConfig) -> jax.Array:
    """Returns the loss of a batch; `points` count in the regression of "log_variance" alone."""
    flow = build_whitened_flow(config, draws.x.shape[1], trained, draws.x.dtype)
    if train.loss == "log_variance":
        x, log_p = (jnp.concatenate(pair) for pair in zip(draws, points, strict=True))
        log_q, n = flow.log_prob(x), len(draws.x)
        centre = jax.lax.stop_gradient(jnp.median(log_p[:n] - log_q[:n]))
        regression = log_ratio_spread(log_p, log_q, centre)
        return train.likelihood * negative_log_likelihood(log_q[:n]) + train.supervision * regression
    log_q = flow.log_prob(draws.x)
    if train.loss == "nll":
        return negative_log_likelihood(log_q)
    if train.loss == "kl":
        return kullback_leibler(draws.log_p, log_q)
    return jeffreys(draws.log_p, log_q, normalised=train.normalised)


validation_loss = partial(jax.jit, static_argnames=("config", "train"))(batch_loss)


@partial(jax.jit, static_argnames="config")
def log_densities(trained: Params, x: jax.Array, *, config: FlowConfig) -> tuple[jax.Array, jax.Array]:
    """Returns a member's and the standard normal's log density at whitened points x (n, d), (n,) each."""
    flow = build_whitened_flow(config, x.shape[1], trained, x.dtype)
    return flow.log_prob(x), -0.5 * jnp.sum(x * x + jnp.log(2 * jnp.pi), axis=-1)
