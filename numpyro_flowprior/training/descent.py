"""The training loop on the host: chunks of compiled steps, early stopping and the record of the losses.

The host sees one validation loss per `eval_every` steps.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._util.batches import power_of_two
from .._util.checks import FloatArray
from .._util.messages import FlowPriorWarning
from .._util.progress import progress_bar
from ..flows.config import FlowConfig
from ..flows.layout import Params
from .config import TrainConfig
from .gaussians import first_weights
from .problem import Problem
from .steps import (
    Data,
    amounts_of,
    first_state,
    form_of,
    run_steps,
    run_steps_of_members,
    validation_loss,
    validation_loss_of_members,
)


@dataclass(frozen=True)
class History:
    """The record of a training run.

    Attributes:
        step: (k,) steps done at each evaluation, starting with 0.
        train_loss: (k,) mean loss over the steps since the previous evaluation, nats (NaN at step 0).
        validation_loss: (k,) the loss on validation rows, nats. For "nll" it is the mean of -log q in the parameters'
            units; for "kl" and "jeffreys" it is the divergence (for "kl" up to the constant of `chain.log_prob`).
        seconds: wall time, compilation included; members trained in one program share it equally.
        interrupted: whether training was stopped from the keyboard; the best weights so far were then kept.
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


def train_members(
    key: jax.Array,
    problems: list[Problem],
    config: FlowConfig,
    train: TrainConfig,
    *,
    starts: Sequence[Params] | None = None,
    progress: bool,
) -> tuple[list[Params], tuple[History, ...]]:
    """Returns the trained parameters and the history of each member; if interrupted, of those trained so far.

    Members start from `starts` if these are given, else from fresh weights.

    On a GPU all members are trained side by side, in one program. On a CPU they are trained one after the other: one
    step of six small members together takes 0.5 to 0.9 of the time of six steps, and of three wide members up to 1.2.
    This gain is lost because all members run until the last one stops, and because one more program is compiled.
    """
    keys = [jax.random.fold_in(key, k) for k in range(len(problems))]
    at_once = len(problems) if side_by_side() else 1
    results: list[tuple[Params, History]] = []
    for k in range(0, len(problems), at_once):
        label = "training flow" if at_once == len(problems) else f"training flow {k + 1}/{len(problems)}"
        part = slice(k, k + at_once)
        try:
            begun = None if starts is None else starts[part]
            results += train_group(keys[part], problems[part], config, train, label if progress else None, begun)
        except KeyboardInterrupt:
            if not results:
                raise
            trained, history = results[-1]
            results[-1] = trained, replace(history, interrupted=True)  # the members that follow are missing
        if results[-1][1].interrupted:
            break
    if results[-1][1].interrupted:
        warnings.warn("fit_flow: interrupted; keeping the best weights so far.", FlowPriorWarning, stacklevel=3)
    weights, histories = zip(*results, strict=True)
    return list(weights), histories


def side_by_side() -> bool:
    """Returns whether the members of a mixture are trained in one program."""
    return jax.default_backend() != "cpu"


def train_group(
    keys: Sequence[jax.Array],
    problems: Sequence[Problem],
    config: FlowConfig,
    train: TrainConfig,
    label: str | None,
    starts: Sequence[Params] | None = None,
) -> list[tuple[Params, History]]:
    """Returns the best weights and the history of each member, all trained in one program.

    Members start from `starts` if these are given, else from fresh weights.

    Each member stops on its own. Up to rounding, its weights are those that it would have if it were trained alone.
    There is one exception: if there are so few rows that they limit the batch size, all members use the smallest one.
    """
    start = time.perf_counter()
    group = _Group(problems, config, train)
    trained, state = group.begin(keys, starts)
    bests = [_Best(group.member(trained, k)) for k in range(len(problems))]
    interrupted = False
    with progress_bar(total=train.max_steps, desc=label, unit="step", disable=label is None) as bar:
        try:
            _update(bests, 0, group, trained, np.full(len(bests), np.nan), train.patience)
            for done in range(0, train.max_steps, train.eval_every):
                steps = min(train.eval_every, train.max_steps - done)
                chunk_keys = [jax.random.fold_in(key, done + 1) for key in keys]
                trained, state, losses = group.advance(chunk_keys, trained, state, steps)
                _update(bests, done + steps, group, trained, losses, train.patience)
                bar.update(steps)
                validation = np.mean([best.rows[-1][2] for best in bests])
                bar.set_postfix(validation=f"{validation:.4f}", best=f"{np.mean([b.loss for b in bests]):.4f}")
                if all(best.done for best in bests):
                    break
        except KeyboardInterrupt:
            if not all(best.rows for best in bests):
                raise
            interrupted = True
    seconds = (time.perf_counter() - start) / len(bests)
    return [(best.trained, best.history(seconds, interrupted=interrupted)) for best in bests]


class _Group:
    """Members that are trained in one program; a single member has no member axis."""

    def __init__(self, problems: Sequence[Problem], config: FlowConfig, train: TrainConfig):
        self._problems, self._config = problems, config
        self._offsets = np.array([problem.offset for problem in problems])
        self._alone = len(problems) == 1
        form = form_of(train, min(int(problem.data.taught.n) for problem in problems))
        self._amounts, self._static = amounts_of(train), {"config": config.of_one_member(), "form": form}
        self._most = min(train.eval_every, power_of_two(train.max_steps))  # rounded up: few lengths are compiled
        lists = self._stacked([problem.data[1:] for problem in problems])
        self._data = Data(problems[0].data.rows, *lists)  # all members share the rows
        self._held = self._stacked([(problem.held_draws, problem.held_points) for problem in problems])

    def _stacked(self, trees: list[Any]) -> Any:
        return trees[0] if self._alone else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def begin(self, keys: Sequence[jax.Array], starts: Sequence[Params] | None) -> tuple[Params, Any]:
        """Returns the weights to start from, fresh ones if none are given, and the optimiser's state."""
        fresh = (jax.random.fold_in(key, 0) for key in keys)
        trained = list(starts or map(first_weights, fresh, [self._config] * len(keys), self._problems))
        states = [first_state(weights, self._amounts, form=self._static["form"]) for weights in trained]
        return self._stacked(trained), self._stacked(states)

    def advance(self, keys: Sequence[jax.Array], trained: Params, state: Any, steps: int) -> Any:
        """Returns the weights and state after `steps` steps, and each member's mean loss over them, nats."""
        run = run_steps if self._alone else run_steps_of_members
        key = keys[0] if self._alone else jnp.stack(keys)
        given = key, trained, state, self._data, self._amounts, steps
        trained, state, losses = run(*given, most=self._most, **self._static)
        return trained, state, np.atleast_1d(np.asarray(losses, np.float64)) - self._offsets

    def validate(self, trained: Params) -> FloatArray:
        """Returns each member's validation loss, nats."""
        loss = validation_loss if self._alone else validation_loss_of_members
        losses = loss(trained, *self._held, self._amounts, **self._static)
        return np.atleast_1d(np.asarray(losses, np.float64)) - self._offsets

    def member(self, trained: Params, k: int) -> Params:
        """Returns a member's weights."""
        return trained if self._alone else jax.tree.map(lambda leaf: np.asarray(leaf)[k], trained)


@dataclass
class _Best:
    """A member's best weights so far and the record of its losses."""

    trained: Params
    loss: float = np.inf
    step: int = 0
    since: int = 0
    done: bool = False
    rows: list[tuple[int, float, float]] = field(default_factory=list)

    def history(self, seconds: float, *, interrupted: bool) -> History:
        step, losses, validation = (np.array(column) for column in zip(*self.rows, strict=True))
        return History(step, losses, validation, seconds, interrupted)


def _update(bests: list[_Best], step: int, group: _Group, trained: Params, losses: FloatArray, patience: int) -> None:
    """Records the losses of the members that are not done, and their weights if the validation loss is lower."""
    for k, (best, loss, validation) in enumerate(zip(bests, losses, group.validate(trained), strict=True)):
        if best.done:
            continue
        best.rows.append((step, float(loss), float(validation)))
        if validation < best.loss:
            best.trained, best.loss, best.step, best.since = group.member(trained, k), float(validation), step, 0
        else:
            best.since += 1
        diverged = step > 0 and not np.isfinite(validation)
        best.done = diverged or best.since >= patience
        if diverged:
            warnings.warn(
                f"fit_flow: the validation loss is {validation} after {step} steps: training diverged. The weights of "
                f"step {best.step} are kept. Try a lower learning rate.",
                FlowPriorWarning,
                stacklevel=5,
            )
