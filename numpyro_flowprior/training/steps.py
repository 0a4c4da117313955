"""The compiled part of training: minibatches, the loss of a batch, and many optimiser steps in one program.

A program is compiled once for an architecture, a number of parameters and a loss. Learning rates and numbers of steps
are traced, and rows are padded to a few sizes, so that pilots, members, refits and stages share programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .._util.batches import power_of_two
from .._util.checks import FloatArray
from ..flows.build import build_whitened_flow
from ..flows.config import FlowConfig
from ..flows.layout import Params
from .config import TrainConfig
from .losses import (
    against_a_common_shift,
    jeffreys,
    kullback_leibler,
    log_ratio_spread,
    negative_log_likelihood,
)

_WARM_UP = 0.05  # fraction of the steps over which the learning rate rises
_SIZES = tuple(1 << k for k in (13, 16, 19, 22))  # of padded arrays; longer arrays are not padded
MOST_HELD = 20_000  # largest number of rows of each kind in the validation loss; more would not change the best weights
_BATCH = 1024  # validation rows evaluated at a time


class Rows(NamedTuple):
    """Points x (n, d) in training coordinates and the log target density (n,) there, zero if it is not used."""

    x: jax.Array
    log_p: jax.Array


class Listed(NamedTuple):
    """Row numbers: the first `n` entries of an array (m,), where m is one of a few sizes, or zero if n is zero."""

    numbers: jax.Array
    n: Any

    @property
    def counted(self) -> np.ndarray:
        """The row numbers, (n,)."""
        return np.asarray(self.numbers)[: self.n]


class Data(NamedTuple):
    """The data of minibatches: rows, and two lists of row numbers from which training draws uniformly.

    `taught` lists draws, repeated by weight. `pointed` lists rows with a log density within reach, for the regression
    alone; it is empty if there is no regression.
    """

    rows: Rows
    taught: Listed
    pointed: Listed


class Held(NamedTuple):
    """Validation rows: the first `n` of `rows`, at most MOST_HELD. All arrays have the same size."""

    rows: Rows
    n: Any

    @property
    def counted(self) -> tuple[FloatArray, FloatArray]:
        """Points (n, d) and log density (n,) of the first `n` rows, in float64."""
        return tuple(np.asarray(part, np.float64)[: self.n] for part in self.rows)  # type: ignore[return-value]


@dataclass(frozen=True)
class Form:
    """The training settings that compiled code depends on; `batch_size` is the size that is actually used."""

    loss: str
    schedule: str
    normalised: bool
    batch_size: int


class Amounts(NamedTuple):
    """The other training settings, which are traced."""

    learning_rate: Any
    max_steps: Any
    weight_decay: Any
    clip: Any
    likelihood: Any
    supervision: Any


def form_of(train: TrainConfig, rows: int) -> Form:
    """Returns the settings that compiled code depends on; a batch is less than twice the number of training rows."""
    return Form(train.loss, train.schedule, train.normalised, min(train.batch_size, power_of_two(rows)))


def amounts_of(train: TrainConfig, **others: float) -> Amounts:
    """Returns the settings that are traced, with those in `others` replaced."""
    return Amounts(*(np.float32(others.get(name, getattr(train, name))) for name in Amounts._fields))


def make_rows(x: FloatArray, log_p: FloatArray | None, size: int | None = None) -> Rows:
    """Returns rows in float32 on the device, padded with zeros to a size."""
    log_p = np.zeros(len(x), np.float32) if log_p is None else log_p
    return Rows(*(jnp.asarray(_filled_up(part, np.float32, size or len(x))) for part in (x, log_p)))


def padded_size(n: int, most: int = _SIZES[-1]) -> int:
    """Returns the padded size of n rows: one of a few sizes up to `most`, else n. Padding costs only memory."""
    return next((size for size in _SIZES if n <= size <= most), n)


def _filled_up(array: np.ndarray, dtype: Any, size: int) -> np.ndarray:
    """Returns an array padded with zeros at its end to a size; not copied if it has that size and dtype."""
    if len(array) == size:
        return np.asarray(array, dtype)
    padded = np.zeros((size, *array.shape[1:]), dtype)
    padded[: len(array)] = array
    return padded


def listed(numbers: np.ndarray, size: int) -> Listed:
    """Returns row numbers in an array of a given size, which is empty if there are no rows."""
    padded = _filled_up(numbers, np.int32, size if len(numbers) else 0)
    return Listed(jnp.asarray(padded), np.int32(len(numbers)))


def held(x: FloatArray, log_p: FloatArray | None) -> Held:
    """Returns rows in the form that the validation loss takes."""
    return Held(make_rows(x, log_p, -(-MOST_HELD // _BATCH) * _BATCH), np.int32(len(x)))


def learning_rate(step: Any, peak: Any, total: Any) -> jax.Array:
    """Returns the learning rate at a step of `total`: a linear rise to the peak, then a cosine decay to zero."""
    warm_up = jnp.maximum(1.0, jnp.floor(_WARM_UP * total))
    way = jnp.clip((step - warm_up) / jnp.maximum(total - warm_up, 1.0), 0.0, 1.0)
    return peak * jnp.where(step < warm_up, step / warm_up, 0.5 * (1.0 + jnp.cos(jnp.pi * way)))


def optimiser(form: Form, amounts: Amounts) -> optax.GradientTransformation:
    """Returns AdamW with clipped gradients; its settings may be traced."""
    schedule: Any = amounts.learning_rate
    if form.schedule == "cosine":
        schedule = partial(learning_rate, peak=amounts.learning_rate, total=amounts.max_steps)
    return optax.chain(
        optax.clip_by_global_norm(amounts.clip), optax.adamw(schedule, weight_decay=amounts.weight_decay)
    )


@partial(jax.jit, static_argnames="form")
def first_state(trained: Params, amounts: Amounts, *, form: Form) -> Any:
    """Returns the optimiser's state before the first step."""
    return optimiser(form, amounts).init(trained)


@partial(jax.jit, static_argnames=("config", "form", "most"))
def run_steps(
    key: jax.Array,
    trained: Params,
    state: Any,
    data: Data,
    amounts: Amounts,
    steps: Any,
    *,
    config: FlowConfig,
    form: Form,
    most: int,
) -> tuple[Params, Any, jax.Array]:
    """Returns the weights and optimiser state after `steps` steps, at most `most`, and the mean loss over them."""
    chosen = _choose(key, data, (most,), form)
    step = partial(_step, data=data, config=config, form=form, amounts=amounts)

    def body(j: Any, carry: Any) -> Any:
        trained, state, total = carry
        after, loss = step((trained, state), jax.tree.map(lambda rows: rows[j], chosen))
        return *after, total + loss

    total = jnp.zeros((), data.rows.x.dtype)
    trained, state, total = jax.lax.fori_loop(0, steps, body, (trained, state, total))
    return trained, state, total / steps


@partial(jax.jit, static_argnames=("config", "form", "most"))
def run_steps_of_members(
    keys: jax.Array, trained: Params, state: Any, data: Data, amounts: Amounts, steps: Any, **static: Any
) -> tuple[Params, Any, jax.Array]:
    """Runs `run_steps` for several members; all arguments but rows, amounts and steps have a member axis first."""
    axes = (0, 0, 0, Data(None, 0, 0), None, None)  # type: ignore[arg-type]
    return jax.vmap(partial(run_steps, **static), in_axes=axes)(keys, trained, state, data, amounts, steps)


@partial(jax.jit, static_argnames=("config", "form"))
def run_between(
    key: jax.Array,
    trained: Params,
    state: Any,
    data: Data,
    amounts: Amounts,
    start: Any,
    stop: Any,
    *,
    config: FlowConfig,
    form: Form,
) -> tuple[Params, Any]:
    """Returns the weights and optimiser state after the steps from `start` to `stop`, any number of steps.

    It does the same as `run_steps`, but draws the batches step by step; `key` is the key of the whole training.
    """
    step = partial(_step, data=data, config=config, form=form, amounts=amounts)

    def body(j: Any, carry: Any) -> Any:
        return step(carry, _choose(jax.random.fold_in(key, j), data, (), form))[0]

    return jax.lax.fori_loop(start, stop, body, (trained, state))


def _choose(key: jax.Array, data: Data, batches: tuple[int, ...], form: Form) -> tuple[jax.Array, jax.Array]:
    """Returns row numbers of batches, (*batches, batch size), of draws and of points; empty if there are no points."""
    keys = jax.random.split(key)
    return tuple(  # type: ignore[return-value]
        part.numbers[jax.random.randint(one, (*batches, form.batch_size if len(part.numbers) else 0), 0, part.n)]
        for one, part in zip(keys, (data.taught, data.pointed), strict=True)
    )


def _step(
    carry: Any,
    chosen: tuple[jax.Array, jax.Array],
    *,
    data: Data,
    config: FlowConfig,
    form: Form,
    amounts: Amounts,
) -> tuple[Any, jax.Array]:
    trained, state = carry
    draws, points = (Rows(data.rows.x[rows], data.rows.log_p[rows]) for rows in chosen)
    loss, gradient = jax.value_and_grad(batch_loss)(trained, draws, points, amounts, config=config, form=form)
    updates, state = optimiser(form, amounts).update(gradient, state, trained)
    return (optax.apply_updates(trained, updates), state), loss


def batch_loss(
    trained: Params, draws: Rows, points: Rows, amounts: Amounts, *, config: FlowConfig, form: Form
) -> jax.Array:
    """Returns the loss of a batch; only the regression of "log_variance" uses `points`."""
    x = jnp.concatenate([draws.x, points.x]) if form.loss == "log_variance" else draws.x
    log_q = build_whitened_flow(config, x.shape[1], trained, x.dtype).log_prob(x)
    n = len(draws.x)
    return _loss(draws.log_p, log_q[:n], points.log_p, log_q[n:], amounts, form=form)


def _loss(
    log_p: jax.Array,
    log_q: jax.Array,
    points_p: jax.Array,
    points_q: jax.Array,
    amounts: Amounts,
    counts: tuple[Any, Any] | None = None,
    *,
    form: Form,
) -> jax.Array:
    """Returns the loss of draws and points; with `counts`, only of the first counts[0] draws and counts[1] points."""
    weights = joint = None
    if counts is not None:
        n, m = counts
        draws = jnp.arange(len(log_q)) < n
        weights = draws / n
        joint = jnp.concatenate([draws, jnp.arange(len(points_q)) < m]) / (n + m)
    if form.loss == "log_variance":
        ratio = log_p - log_q
        centre = jnp.median(ratio) if weights is None else jnp.nanmedian(jnp.where(weights > 0, ratio, jnp.nan))
        all_p, all_q = jnp.concatenate([log_p, points_p]), jnp.concatenate([log_q, points_q])
        centre = jax.lax.stop_gradient(centre)
        regression = log_ratio_spread(all_p, all_q, centre, joint)
        if weights is None:
            regression += against_a_common_shift(all_p, all_q, centre, len(log_q))
        likelihood = negative_log_likelihood(log_q, weights)
        return amounts.likelihood * likelihood + amounts.supervision * regression
    if form.loss == "nll":
        return negative_log_likelihood(log_q, weights)
    if form.loss == "kl":
        return kullback_leibler(log_p, log_q, weights)
    return jeffreys(log_p, log_q, weights, normalised=form.normalised)


@partial(jax.jit, static_argnames=("config", "form"))
def validation_loss(
    trained: Params, draws: Held, points: Held, amounts: Amounts, *, config: FlowConfig, form: Form
) -> jax.Array:
    """Returns the loss of all validation rows."""
    log_q = _flow_log_prob(trained, draws, config)
    points_q = _flow_log_prob(trained, points, config) if form.loss == "log_variance" else points.rows.log_p
    counts = (draws.n, points.n)
    return _loss(draws.rows.log_p, log_q, points.rows.log_p, points_q, amounts, counts, form=form)


@partial(jax.jit, static_argnames=("config", "form"))
def validation_loss_of_members(
    trained: Params, draws: Held, points: Held, amounts: Amounts, **static: Any
) -> jax.Array:
    """Returns the validation loss of each member, (K,); all arguments but `amounts` have a member axis first."""
    return jax.vmap(partial(validation_loss, **static), in_axes=(0, 0, 0, None))(trained, draws, points, amounts)


def _flow_log_prob(trained: Params, held: Held, config: FlowConfig) -> jax.Array:
    """Returns the flow's log density at all rows (m,); batches after the first `n` rows are skipped and give zeros."""
    x = held.rows.x
    batch = min(_BATCH, len(x))
    flow = build_whitened_flow(config, x.shape[1], trained, x.dtype)

    def body(j: Any, log_q: jax.Array) -> jax.Array:
        some = jax.lax.dynamic_slice_in_dim(x, j * batch, batch)
        return jax.lax.dynamic_update_slice_in_dim(log_q, flow.log_prob(some), j * batch, 0)

    return jax.lax.fori_loop(0, -(-held.n // batch), body, jnp.zeros(len(x), x.dtype))


@partial(jax.jit, static_argnames="config")
def _log_densities(trained: Params, held: Held, *, config: FlowConfig) -> jax.Array:
    return _flow_log_prob(trained, held, config)


def log_densities(trained: Params, held: Held, *, config: FlowConfig) -> tuple[FloatArray, FloatArray]:
    """Returns the log densities of a member and of the standard normal at the first `n` rows, (n,), in float64."""
    log_q = _log_densities(trained, held, config=config.of_one_member())
    x, _ = held.counted
    return np.asarray(log_q, np.float64)[: held.n], -0.5 * np.sum(x * x + np.log(2 * np.pi), axis=-1)
