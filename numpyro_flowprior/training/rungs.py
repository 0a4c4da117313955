"""The work of a scan: training candidates on a given number of rows and judging them on held-out rows.

Executors call `run_task`, in other processes or on other machines. It depends on its argument alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..chains.chain import Chain
from ..diagnostics.quality import held_out_log_densities
from ..flows.config import FlowConfig
from .config import TrainConfig
from .fit import fit_flow, uninterrupted
from .gaussians import first_weights
from .grid import Settings
from .prepare import as_configured, prepare
from .problem import Problem, held_apart, pose, posed_by
from .steps import amounts_of, first_state, form_of, log_densities, run_between

_CHUNK = 50_000  # rows per compiled call; the keyboard can interrupt between calls

Outcome = dict[str, Any]  # JSON-ready: status, steps, log_density, error, seconds, message


@dataclass(frozen=True)
class Source:
    """The chain of a scan, with no draws exactly on a bound, and the key of the scan.

    Sources are equal if their fingerprints and keys are, in any process. A source caches the last object of each kind
    that was made from it, for as long as the scan. Equal copies that a worker receives in succession become one object.
    """

    fingerprint: str
    chain: Chain = field(compare=False, repr=False)
    key_data: tuple[int, ...]
    _made: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def keys(self) -> tuple[jax.Array, jax.Array]:
        """The keys of the split and of the training; all candidates share them and differ in their settings alone."""
        key = jax.random.wrap_key_data(jnp.asarray(self.key_data, jnp.uint32), impl="threefry2x32")
        key_split, key_train = jax.random.split(key)
        return key_split, key_train

    def last(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """Returns the cached object of this name if it was made for `key`; else makes it and drops the old one."""
        found = self._made.get(name)
        if found is None or found[0] != key:
            self._made.pop(name, None)
            found = key, make()
            self._made[name] = found
        return found[1]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the source without its cache."""
        return _arrived, (self.fingerprint, self.chain, self.key_data)


def _arrived(fingerprint: str, chain: Chain, key_data: tuple[int, ...]) -> Source:
    return _last_arrived(Source(fingerprint, chain, key_data))


@lru_cache(maxsize=1)
def _last_arrived(source: Source) -> Source:
    """Returns the source that was last received from another process if it equals this one, else this one."""
    return source


def forget_arrived() -> None:
    """Drops the source that was last received from another process, if there is one."""
    _last_arrived.cache_clear()


@dataclass(frozen=True)
class Task:
    """Candidates that share compiled steps: one architecture, batch size and loss, and several learning rates."""

    source: Source
    candidates: tuple[int, ...]
    config: FlowConfig
    train: TrainConfig
    rates: tuple[float, ...]
    rows: int


@dataclass(frozen=True)
class FullTask:
    """A candidate that is trained as in `fit_flow`: all members, with early stopping."""

    source: Source
    candidates: tuple[int]
    settings: Settings


def shared_part(candidate: Settings) -> tuple[FlowConfig, TrainConfig]:
    """Returns the settings that candidates must share to be one task, with the others set to fixed values.

    "kl" becomes "nll": their gradients are equal (training.losses), so one training serves both.
    """
    config, train = candidate
    loss = "nll" if train.loss == "kl" else train.loss
    train = replace(train, loss=loss, learning_rate=1.0, max_steps=1, eval_every=1, patience=1)
    return replace(config, members=1, background=False), train


def first_alike(candidates: Sequence[Settings]) -> list[int]:
    """Returns, for each candidate, the index of the first candidate with the same training."""
    trainings: dict[Any, int] = {}
    return [
        trainings.setdefault((shared_part(candidate), candidate.train.learning_rate), j)
        for j, candidate in enumerate(candidates)
    ]


def run_task(task: Task | FullTask) -> list[Outcome]:
    """Returns the outcome at each learning rate; an error during training is also an outcome."""
    if isinstance(task, FullTask):
        return [_outcome(partial(_in_full, task))]
    return [_outcome(partial(_held_log_density, task, rate)) for rate in task.rates]


def run_all(
    tasks: Sequence[Task | FullTask], executor: Executor | None
) -> Iterator[tuple[Task | FullTask, list[Outcome]]]:
    """Yields tasks with their outcomes as they finish; cancels tasks that have not started if the caller stops."""
    if executor is None:
        for task in tasks:
            yield task, run_task(task)
        return
    run = partial(_run_elsewhere, float64=jnp.result_type(float) == jnp.float64)
    futures = {executor.submit(run, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenExecutor as error:
        raise RuntimeError(
            f"scan_flows: executor: a worker died ({error}). It may have run out of memory: use fewer workers. With "
            "folder=..., the same call continues from the stored outcomes."
        ) from error
    finally:
        for future in futures:
            future.cancel()


def _run_elsewhere(task: Task | FullTask, *, float64: bool) -> list[Outcome]:
    """Runs a task in the caller's precision, which neither a thread nor a process takes over by itself."""
    with jax.enable_x64(float64):
        return run_task(task)


def _outcome(train: Callable[[], tuple[int, np.ndarray, float]]) -> Outcome:
    start = time.perf_counter()
    outcome: Outcome = {"steps": 0, "log_density": None, "error": None, "message": ""}
    try:
        outcome["steps"], log_q, worth = train()
        if np.isfinite(log_q).all():
            outcome["log_density"] = float(log_q.mean())
            outcome["error"] = float(log_q.std() / np.sqrt(worth))
            outcome["status"] = "trained"
        else:
            bad = int((~np.isfinite(log_q)).sum())
            outcome["status"], outcome["message"] = "diverged", f"log q is not finite at {bad} of {len(log_q)} rows"
    except Exception as error:  # failures appear in the table
        outcome["status"], outcome["message"] = "failed", f"{type(error).__name__}: {error}"
    outcome["seconds"] = round(time.perf_counter() - start, 3)
    return outcome


def _held_log_density(task: Task, rate: float) -> tuple[int, np.ndarray, float]:
    """Returns the number of steps, log q at the held-out rows, and the effective number of these rows.

    log q (n,) is in nats, in the parameters' units.
    """
    config, train = task.config, task.train
    problem, nats = _posed(task.source, train, config)
    form = form_of(train, int(problem.data.taught.n))
    steps = -(-task.rows // form.batch_size)
    key_init, key_steps = jax.random.split(task.source.keys[1])
    amounts = amounts_of(train, learning_rate=rate, max_steps=steps)
    compiled_for: Any = {"config": config.of_one_member(), "form": form}
    trained = first_weights(key_init, config, problem)
    state = first_state(trained, amounts, form=form)
    chunk = max(1, _CHUNK // form.batch_size)
    for start in range(0, steps, chunk):
        stop = min(start + chunk, steps)
        trained, state = run_between(key_steps, trained, state, problem.data, amounts, start, stop, **compiled_for)
        jax.block_until_ready(trained)
    log_q, _ = log_densities(trained, problem.held_draws, config=config)
    return steps, log_q + nats, problem.draws_worth


def _in_full(task: FullTask) -> tuple[int, np.ndarray, float]:
    """Returns the same as `_held_log_density`, for a prior that `fit_flow` trains on the other rows."""
    (config, train), (key_split, key_train) = task.settings, task.source.keys
    chain = as_configured(task.source.chain, config)
    taught, held, worth = held_apart(key_split, chain, train.validation)
    fit = fit_flow(key_train, chain.take(taught), config, train, progress=False)
    prior = uninterrupted(fit)
    steps = sum(int(history.step[-1]) for history in fit.histories)
    return steps, held_out_log_densities(prior, chain.take(held))[0], worth


def _coordinates(config: FlowConfig) -> FlowConfig:
    """Returns the fields that the training coordinates depend on, with the others at their defaults."""
    return FlowConfig(support=config.support, whitening=config.whitening)


def posed_alike(config: FlowConfig, train: TrainConfig) -> tuple[TrainConfig, FlowConfig]:
    """Returns the settings that the training problem of a candidate depends on."""
    return posed_by(train), _coordinates(config)


def _posed(source: Source, train: TrainConfig, config: FlowConfig) -> tuple[Problem, float]:
    """Returns the training problem and the mean log |det dx / dtheta| at the held-out rows, equal for all losses."""
    train, config = posed_alike(config, train)

    def make() -> tuple[Problem, float]:
        seen = source.last("prepared", config, lambda: prepare(as_configured(source.chain, config), config.whitening))
        (problem,) = pose(source.keys[0], seen, None, 1, train)
        _, held, _ = held_apart(source.keys[0], seen.chain, train.validation)
        return problem, float(seen.log_det[held].mean())

    return source.last("posed", (train, config), make)
