"""fit_flow: train a flow on a chain.

The host's side of training: splits, the loop over compiled chunks of steps, early stopping, what is written down. The
host sees one validation loss per `eval_every` steps.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from .._checks import FloatArray, shorten
from ..chains.chain import Chain
from ..chains.edges import off_the_edges
from ..diagnostics.quality import QualityReport, quality_report
from ..flows.build import Params, init_trained
from ..flows.config import FlowConfig
from ..prior import FlowPrior
from .config import TrainConfig
from .prepare import Prepared, apply_prepared, prepare, require_learnable
from .steps import Data, Rows, cumulative_weights, make_rows, optimiser, run_steps, validation_loss

_MOST_HELD = 20_000  # rows of each kind in the validation loss; more would not change which weights are best
_DEPTH = 30.0  # nats below the highest density at which points stop teaching anything


@dataclass(frozen=True)
class History:
    """What happened during training.

    Attributes:
        step: (k,) steps done at each evaluation, starting with 0.
        train_loss: (k,) mean loss over the steps since the evaluation before, nats (NaN at step 0).
        validation_loss: (k,) the loss on validation rows, nats; for "nll" the mean of -log q in the parameters' units,
            for "kl" and "jeffreys" the divergence (the former up to the constant of `chain.log_prob`).
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
        return int(self.step[np.nanargmin(self.validation_loss)])


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
    support_points: Chain | None = None,
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
        support_points: points with a log density (up to the constant of `chain.log_prob`) that are not draws, e.g. of
            a tempered run; used by the loss "log_variance" alone. Rows of the chain with weight zero serve likewise:
            the chain of `sample_pocomc` brings its own.
        progress: show a progress bar.

    Raises:
        TypeError: `chain` is not a Chain.
        ValueError: constant or linearly dependent columns, too few rows, or no log density for a loss that needs it.
    """
    if not isinstance(chain, Chain):
        raise TypeError(f"fit_flow: chain: expected a Chain; got {type(chain).__name__}. See read_chain.")
    config, train = config or FlowConfig(), train or TrainConfig()
    support_points = _checked_support(chain, support_points, train)
    require_learnable(chain)
    fingerprint = chain.fingerprint()
    chain = off_the_edges(chain)  # once, before the splits: the report sees the same draws
    key_test, key_validation, key_train, key_report = jax.random.split(key, 4)
    seen, test = chain.split(0.9, key_test)
    fixed, problem = _pose(key_validation, seen, support_points, train)
    trained, history = _train(key_train, problem, config, train, progress=progress)
    params = jax.tree.map(np.asarray, {**fixed, **trained})
    prior = FlowPrior(config, chain.space, params)
    report = quality_report(key_report, prior, test)
    prior.info = {
        "chain": {"rows": chain.n, "effective_size": chain.effective_size, "fingerprint": fingerprint},
        "training": {
            **train.to_json(),
            "steps": int(history.step[-1]),
            "best_step": history.best_step,
            "seconds": round(history.seconds, 3),
            "validation_loss": float(np.nanmin(history.validation_loss)),
        },
        "report": report.to_json(),
    }
    return FlowFit(prior, history, report)


def _checked_support(chain: Chain, support_points: Chain | None, train: TrainConfig) -> Chain | None:
    if train.loss != "log_variance" and support_points is not None:
        raise ValueError('fit_flow: support_points are used by TrainConfig(loss="log_variance") alone.')
    if train.loss == "nll":
        return None
    for name, part in (("chain", chain), ("support_points", support_points)):
        if part is not None and part.log_prob is None:
            raise ValueError(
                f'fit_flow: {name}: the loss "{train.loss}" needs the log density of each row (log_prob); there is '
                'none. Use TrainConfig(loss="nll"), or pass the chain with its log_prob.'
            )
    if support_points is None:
        return None
    if set(support_points.names) != set(chain.names):
        raise ValueError(
            f"fit_flow: support_points: expected the chain's parameters {shorten(chain.names, 40)}; "
            f"got {shorten(support_points.names, 40)}. A log density cannot be marginalised point by point."
        )
    return off_the_edges(support_points.select(chain.names).replace(space=chain.space))


@dataclass(frozen=True)
class _Problem:
    """Training data, validation rows of both kinds, and what turns a loss in x into nats in theta."""

    data: Data
    held_draws: Rows
    held_points: Rows
    offset: float
    dim: int


def _pose(
    key: jax.Array, seen: Chain, support_points: Chain | None, train: TrainConfig
) -> tuple[dict[str, Any], _Problem]:
    """Returns the flow's fixed parameters and the training problem in the coordinates that they define."""
    key_rows, key_support, key_held = jax.random.split(key, 3)
    fitted, validation = seen.split(1.0 - train.validation, key_rows)
    prepared = prepare(fitted)
    held = validation.resample(key_held, min(round(validation.effective_size) + 1, _MOST_HELD))
    held_prepared = apply_prepared(held, prepared.fixed)
    draws, held_draws = make_rows(prepared.x, None), make_rows(held_prepared.x, None)
    points = held_points = make_rows(prepared.x[:0], None)
    nats = float(held_prepared.log_det.mean())  # what turns -log q in x into nats in theta
    if train.loss != "nll":
        top = float(_log_p(fitted, prepared)[prepared.probabilities > 0].max())
        draws, held_draws = (_with_log_p(*pair, top) for pair in ((fitted, prepared), (held, held_prepared)))
        nats = {"kl": -top, "jeffreys": 0.0, "log_variance": train.likelihood * nats}[train.loss]
    if train.loss == "log_variance":
        more = [None, None] if support_points is None else support_points.split(1.0 - train.validation, key_support)
        points, held_points = (
            _regression_rows([part for part in pair if part is not None], prepared.fixed, top)
            for pair in zip((fitted, validation), more, strict=True)
        )
        held_points = Rows(*(column[:_MOST_HELD] for column in held_points))
    cumulative = None if fitted.weights is None else cumulative_weights(prepared.probabilities)
    return prepared.fixed, _Problem(Data(draws, cumulative, points), held_draws, held_points, nats, seen.dim)


def _log_p(chain: Chain, prepared: Prepared) -> FloatArray:
    """Returns the chain's log density in training coordinates, (n,), up to its constant."""
    return np.asarray(chain.log_prob) - prepared.log_det


def _with_log_p(chain: Chain, prepared: Prepared, top: float) -> Rows:
    return make_rows(prepared.x, np.maximum(_log_p(chain, prepared) - top, -_DEPTH))


def _regression_rows(chains: list[Chain], fixed: dict[str, Any], top: float) -> Rows:
    """Returns the rows of all chains whose density is within reach of the highest, whatever their weight."""
    parts = [(chain, apply_prepared(chain, fixed)) for chain in chains]
    x = np.concatenate([prepared.x for _, prepared in parts])
    log_p = np.concatenate([_log_p(*part) for part in parts]) - top
    return make_rows(x[log_p > -_DEPTH], log_p[log_p > -_DEPTH])


@dataclass
class _Best:
    """The best weights so far and the record of losses."""

    trained: Params
    loss: float = np.inf
    step: int = 0
    since: int = 0
    rows: list[tuple[int, float, float]] = field(default_factory=list)

    def update(self, step: int, trained: Params, train_loss: float, loss: float) -> None:
        self.rows.append((step, train_loss, loss))
        if loss < self.loss:
            self.trained, self.loss, self.step, self.since = trained, loss, step, 0
        else:
            self.since += 1


def _train(
    key: jax.Array, problem: _Problem, config: FlowConfig, train: TrainConfig, *, progress: bool
) -> tuple[Params, History]:
    start = time.perf_counter()

    def validate(trained: Params) -> float:
        loss = validation_loss(trained, problem.held_draws, problem.held_points, config=config, train=train)
        return float(loss) - problem.offset

    trained = init_trained(jax.random.fold_in(key, 0), config, problem.dim)
    state = optimiser(train).init(trained)
    advance = partial(run_steps, config=config, train=train)
    best = _Best(trained)
    interrupted = False
    with tqdm(total=train.max_steps, desc="training flow", unit="step", disable=not progress) as bar:
        try:
            best.update(0, trained, np.nan, validate(trained))
            for done in range(0, train.max_steps, train.eval_every):
                steps = min(train.eval_every, train.max_steps - done)
                chunk_key = jax.random.fold_in(key, done + 1)
                trained, state, loss = advance(chunk_key, trained, state, problem.data, steps=steps)
                best.update(done + steps, trained, float(loss) - problem.offset, validate(trained))
                bar.update(steps)
                bar.set_postfix(validation=f"{best.rows[-1][2]:.4f}", best=f"{best.loss:.4f}")
                if not np.isfinite(best.rows[-1][2]):
                    warnings.warn(
                        f"fit_flow: the validation loss is {best.rows[-1][2]} after {done + steps} steps: training "
                        f"diverged. The weights of step {best.step} are kept; try a lower learning rate.",
                        stacklevel=3,
                    )
                    break
                if best.since >= train.patience:
                    break
        except KeyboardInterrupt:
            if not best.rows:
                raise
            interrupted = True
            warnings.warn("fit_flow: interrupted; keeping the best weights so far.", stacklevel=3)
    step, losses, validation = (np.array(column) for column in zip(*best.rows, strict=True))
    return best.trained, History(step, losses, validation, time.perf_counter() - start, interrupted)
