"""fit_flow: train a flow on a chain.

The loop is a `lax.scan` over minibatches, compiled once; the host sees one validation loss per `eval_every` steps.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm.auto import tqdm

from .._checks import FloatArray
from ..chains.chain import Chain
from ..diagnostics.quality import QualityReport, quality_report
from ..flows.build import Params, build_whitened_flow, init_trained
from ..flows.config import FlowConfig
from ..prior import FlowPrior
from .config import TrainConfig
from .losses import negative_log_likelihood
from .prepare import Prepared, apply_prepared, prepare

_WARM_UP = 0.05  # fraction of the steps over which the learning rate rises
_EVALUATION_ROWS = 8192  # the validation loss is summed in slices of this many rows


@dataclass(frozen=True)
class History:
    """What happened during training.

    Attributes:
        step: (k,) steps done at each evaluation, starting with 0.
        train_loss: (k,) mean loss over the steps since the evaluation before, nats (NaN at step 0).
        validation_loss: (k,) mean of -log q over the validation rows, nats, in the parameters' own units.
        seconds: wall time, compilation included.
        interrupted: training was stopped by the keyboard; the best weights until then were kept.
    """

    step: np.ndarray
    train_loss: FloatArray
    validation_loss: FloatArray
    seconds: float
    interrupted: bool = False

    @property
    def best_step(self) -> int:
        """The step whose weights were kept."""
        return int(self.step[np.argmin(self.validation_loss)])


@dataclass(frozen=True)
class FlowFit:
    """The outcome of `fit_flow`: the prior, how training went, and how good the prior is on unseen rows."""

    prior: FlowPrior
    history: History
    report: QualityReport


def fit_flow(
    key: jax.Array,
    chain: Chain,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    *,
    progress: bool = True,
) -> FlowFit:
    """Returns a FlowPrior trained on a chain, with its history and quality report.

    A tenth of the chain is set aside for the report and never seen in training; of the rest, `train.validation` is
    used to choose the weights. Interrupting with the keyboard keeps the best weights so far.

    Args:
        key: JAX random key; the same key gives the same prior on the same machine.
        chain: draws, weighted or not.
        config: architecture; FlowConfig() if None.
        train: optimiser settings; TrainConfig() if None.
        progress: show a progress bar.

    Raises:
        TypeError: `chain` is not a Chain.
        ValueError: constant or linearly dependent columns, or too few rows.
    """
    if not isinstance(chain, Chain):
        raise TypeError(f"fit_flow: chain: expected a Chain; got {type(chain).__name__}. See read_chain.")
    config, train = config or FlowConfig(), train or TrainConfig()
    key_test, key_validation, key_train, key_report = jax.random.split(key, 4)
    seen, test = chain.split(0.9, key_test)
    fitted, validation = seen.split(1.0 - train.validation, key_validation)
    prepared = prepare(fitted)
    trained, history = _train(
        key_train,
        prepared,
        apply_prepared(validation, prepared.fixed),
        config,
        train,
        weighted=chain.weights is not None,
        progress=progress,
    )
    params = jax.tree.map(np.asarray, {**prepared.fixed, **trained})
    prior = FlowPrior(config, chain.space, params)
    report = quality_report(key_report, prior, test)
    prior.info = {
        "chain": {"rows": chain.n, "effective_size": chain.effective_size, "fingerprint": chain.fingerprint()},
        "training": {
            **train.to_json(),
            "steps": int(history.step[-1]),
            "best_step": history.best_step,
            "seconds": round(history.seconds, 3),
            "validation_loss": float(history.validation_loss.min()),
        },
        "report": report.to_json(),
    }
    return FlowFit(prior, history, report)


@dataclass
class _Best:
    """The best weights so far and the record of losses."""

    trained: Params
    loss: float = np.inf
    since: int = 0
    rows: list[tuple[int, float, float]] = field(default_factory=list)

    def update(self, step: int, trained: Params, train_loss: float, loss: float) -> None:
        self.rows.append((step, train_loss, loss))
        if loss < self.loss:
            self.trained, self.loss, self.since = trained, loss, 0
        else:
            self.since += 1


def _train(
    key: jax.Array,
    prepared: Prepared,
    held: Prepared,
    config: FlowConfig,
    train: TrainConfig,
    *,
    weighted: bool,
    progress: bool,
) -> tuple[Params, History]:
    start = time.perf_counter()
    data = jnp.asarray(prepared.x, jnp.float32), _cumulative(prepared.probabilities, weighted=weighted)
    validation_x, validation_weights = _padded(held)
    offset = float(held.probabilities @ held.log_det)

    def validate(trained: Params) -> float:
        return float(_validation_loss(trained, validation_x, validation_weights, config=config)) - offset

    trained = init_trained(jax.random.fold_in(key, 0), config, prepared.x.shape[1])
    state = _optimiser(train).init(trained)
    best = _Best(trained)
    interrupted = False
    chunks = -(-train.max_steps // train.eval_every)
    with tqdm(total=chunks * train.eval_every, desc="training flow", unit="step", disable=not progress) as bar:
        try:
            best.update(0, trained, np.nan, validate(trained))
            for chunk in range(1, chunks + 1):
                chunk_key = jax.random.fold_in(key, chunk)
                trained, state, loss = _run_steps(chunk_key, trained, state, data, config=config, train=train)
                best.update(chunk * train.eval_every, trained, float(loss) - offset, validate(trained))
                bar.update(train.eval_every)
                bar.set_postfix(validation=f"{best.rows[-1][2]:.4f}", best=f"{best.loss:.4f}")
                if best.since >= train.patience or not np.isfinite(best.rows[-1][2]):
                    break
        except KeyboardInterrupt:
            if not best.rows:
                raise
            interrupted = True
            warnings.warn("fit_flow: interrupted; keeping the best weights so far.", stacklevel=3)
    steps, losses, validation = (np.array(column) for column in zip(*best.rows, strict=True))
    return best.trained, History(steps, losses, validation, time.perf_counter() - start, interrupted)


def _optimiser(train: TrainConfig) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, train.learning_rate, max(1, int(_WARM_UP * train.max_steps)), train.max_steps
    )
    return optax.chain(optax.clip_by_global_norm(train.clip), optax.adamw(schedule, weight_decay=train.weight_decay))


@partial(jax.jit, static_argnames=("config", "train"))
def _run_steps(
    key: jax.Array, trained: Params, state: Any, data: Any, *, config: FlowConfig, train: TrainConfig
) -> tuple[Params, Any, jax.Array]:
    """Returns the weights and optimiser state after `eval_every` steps, and the mean loss over them."""
    x, cumulative = data
    size = min(train.batch_size, len(x))
    rows = _draw_rows(key, cumulative, len(x), (train.eval_every, size))
    optimiser = _optimiser(train)

    def loss_of(trained: Params, batch: jax.Array) -> jax.Array:
        flow = build_whitened_flow(config, x.shape[1], trained, x.dtype)
        return negative_log_likelihood(flow.log_prob(batch))

    def step(carry: Any, chosen: jax.Array) -> tuple[Any, jax.Array]:
        trained, state = carry
        loss, gradient = jax.value_and_grad(loss_of)(trained, x[chosen])
        updates, state = optimiser.update(gradient, state, trained)
        return (optax.apply_updates(trained, updates), state), loss

    (trained, state), losses = jax.lax.scan(step, (trained, state), rows)
    return trained, state, jnp.mean(losses)


@partial(jax.jit, static_argnames=("config",))
def _validation_loss(trained: Params, x: jax.Array, weights: jax.Array, *, config: FlowConfig) -> jax.Array:
    """Returns the weighted mean of -log q over sliced rows (k, r, d), weights (k, r) that sum to one."""
    flow = build_whitened_flow(config, x.shape[-1], trained, x.dtype)
    return jnp.sum(jax.lax.map(lambda part: negative_log_likelihood(flow.log_prob(part[0]), part[1]), (x, weights)))


def _padded(held: Prepared) -> tuple[jax.Array, jax.Array]:
    slices = -(-len(held.x) // _EVALUATION_ROWS)
    size = -(-len(held.x) // slices)
    x = np.zeros((slices * size, held.x.shape[1]), np.float32)
    weights = np.zeros(slices * size, np.float32)
    x[: len(held.x)], weights[: len(held.x)] = held.x, held.probabilities
    return jnp.asarray(x.reshape(slices, size, -1)), jnp.asarray(weights.reshape(slices, size))


def _draw_rows(key: jax.Array, cumulative: jax.Array | None, n: int, shape: tuple[int, int]) -> jax.Array:
    """Returns row numbers drawn in proportion to the weights, or uniformly where there are none."""
    if cumulative is None:
        return jax.random.randint(key, shape, 0, n)
    return jnp.minimum(jnp.searchsorted(cumulative, jax.random.uniform(key, shape)), n - 1)


def _cumulative(probabilities: FloatArray, *, weighted: bool) -> jax.Array | None:
    if not weighted:
        return None
    total = np.cumsum(probabilities)
    return jnp.asarray(total / total[-1], jnp.float32)
