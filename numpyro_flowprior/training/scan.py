"""scan_flows compares settings for a chain: successive halving of candidates, judged on held-out rows."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from itertools import pairwise
from math import ceil, prod
from typing import Any

import jax
import numpy as np

from .._util.checks import positive_int, real_in, shorten
from .._util.messages import FlowPriorWarning
from .._util.progress import progress_bar
from ..chains.chain import Chain
from ..chains.edges import off_the_edges
from ..flows.config import FlowConfig
from ..flows.layout import is_ensemble, param_shapes
from .config import TrainConfig
from .defaults import NARROW
from .grid import Grid, Settings, expand
from .prepare import require_learnable
from .problem import known_evidence
from .rungs import FullTask, Source, Task, first_alike, forget_arrived, posed_alike, run_all, shared_part
from .scan_log import ScanLog
from .scan_result import ScanResult, make_table

_CONFIG = replace(NARROW, layers=FlowConfig.layers)  # the fields that the grid does not name
_TRAIN = TrainConfig(max_steps=20_000, patience=60)  # the low learning rates of the paper need many steps
_FEWEST = 4  # minimum number of candidates kept, so that the last rung has a choice


def scan_flows(
    key: jax.Array,
    chain: Chain,
    grid: Grid,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    *,
    rows: Sequence[int] = (200_000, 800_000, 3_200_000),
    keep: float = 0.25,
    finalists: int = 4,
    folder: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> ScanResult:
    """Returns a table of candidate settings by held-out log density on a chain, and the best of them.

    The method is successive halving (Jamieson and Talwalkar 2016): all candidates are trained on a small number of
    rows, the best fraction `keep` on a larger number, and so on. At each rung all candidates see the same number of
    rows, which determines the time. A batch of 5000 thus takes a tenth of the steps of a batch of 500. This favours
    small batches, as does training for an equal number of epochs. Every rung starts from fresh weights with a learning
    rate schedule of its own length, because half of a long schedule is not a short one. With `keep` = 1/4 this costs a
    third more work, and no weights need to be stored. With a single number of rows, all candidates are treated alike.

    The fraction `train.validation` of the chain is held out: no candidate is trained on it, and all are judged on it.
    At these rungs a candidate is judged by one member without background. For mixtures this favours large networks,
    because a single flow needs more layers than a member of a mixture. For mixtures, the last rung therefore
    trains some finalists as `fit_flow` will train the best one: all members, for at most `train.max_steps` steps. The
    finalists cover the range of sizes: candidates that are better than all smaller ones come first. "kl" and "nll"
    have the same gradient and share one training. They continue or stop together, and their rows of the table are
    equal.

    Args:
        key: JAX random key; all candidates start from the same weights and see rows in the same order.
        chain: draws, weighted or not; with its log density if a loss needs it.
        grid: lists of values by field name of FlowConfig or TrainConfig, e.g. PAPER_GRID or
            {"layers": [2, 4], "loss": ["nll"]}; or a list of (FlowConfig, TrainConfig).
        config, train: values of the other fields. None: networks with one hidden layer of 16 units; the finalists and
            the refit are mixtures of six members and a background, with at most 20,000 steps each.
        rows: number of rows that a candidate is trained on at each rung, increasing. Rungs that would not stop any
            candidate are left out, except for the last.
        keep: fraction of the candidates that continue after a rung, in (0, 1); at least four continue.
        finalists: maximum number of candidates that are trained in full, if they are mixtures; 0 for none.
        folder: stores all outcomes, including failures, so that the same call continues after a kill; created if
            missing.
        executor: where candidates are trained, several at a time: any concurrent.futures.Executor, such as a
            ProcessPoolExecutor (with the "spawn" context: JAX does not survive a fork) or one from Dask or MPI. None:
            in this process, one after the other.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: an argument is not valid for a scan, or the folder holds another scan.
        RuntimeError: a worker of the executor died.
    """
    candidates = expand(grid, config or _CONFIG, train or _TRAIN)
    rows = _checked_rows(rows)
    real_in(keep, "scan_flows: keep", 0.0, 1.0, open_low=True, open_high=True)
    positive_int(finalists, "scan_flows: finalists", minimum=0)
    _require_scannable(chain, candidates, executor)
    source = _source(key, off_the_edges(chain), candidates)
    log = ScanLog(folder, _identity(source, candidates, rows, keep, finalists))
    firsts = first_alike(candidates)
    alive = {j: candidates[j] for j in sorted(set(firsts))}
    mixtures = any(is_ensemble(config) for config, _ in alive.values())
    rungs, interrupted = _plan(len(alive), rows, keep, finalists if mixtures else 0), False
    with progress_bar(total=sum(count for _, count in rungs), desc="scan", unit="fit", disable=not progress) as bar:
        try:
            for rung, (budget, count) in enumerate(rungs, 1):
                if rung > 1:
                    chosen = _chosen(log, rung - 1, alive, count, chain.dim, in_full=budget is None)
                    alive = {j: alive[j] for j in chosen}
                _run_rung(log, rung, source, alive, budget, executor, bar)
        except KeyboardInterrupt:
            if not log.outcomes:
                raise
            interrupted = True
            warnings.warn(
                "scan_flows: interrupted; the table shows what was done. With folder=..., the same call continues.",
                FlowPriorWarning,
                stacklevel=2,
            )
        finally:
            forget_arrived()  # an executor may have unpickled the source in this process
    table = make_table(candidates, firsts, log.outcomes, rungs, list(alive) if interrupted else ())
    return ScanResult(candidates, table, interrupted)


def _checked_rows(rows: Any) -> tuple[int, ...]:
    if isinstance(rows, str) or not isinstance(rows, Sequence) or not rows:
        raise TypeError(f"scan_flows: rows: expected a list of numbers of rows, one per rung; got {rows!r}.")
    checked = tuple(positive_int(number, "scan_flows: rows") for number in rows)
    if sorted(set(checked)) != list(checked):
        raise ValueError(f"scan_flows: rows: expected increasing numbers; got {list(checked)}.")
    return checked


def _require_scannable(chain: Any, candidates: Sequence[Settings], executor: Any) -> None:
    if not isinstance(chain, Chain):
        raise TypeError(f"scan_flows: chain: expected a Chain; got {type(chain).__name__}. See read_chain.")
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"scan_flows: executor: expected a concurrent.futures.Executor; got {type(executor).__name__}. "
            "For Dask, pass client.get_executor()."
        )
    taught = sorted({train.loss for _, train in candidates} - {"nll"})
    if taught and chain.log_prob is None:
        raise ValueError(
            f"scan_flows: chain: the losses {shorten(taught)} need the log density of each row (log_prob); got "
            'none. Scan {"loss": ["nll"]}, or pass the chain with its log_prob.'
        )
    if any(train.normalised for _, train in candidates):
        known_evidence(chain)
    require_learnable(chain)


def _source(key: jax.Array, chain: Chain, candidates: Sequence[Settings]) -> Source:
    digest = hashlib.sha256(chain.fingerprint().encode())
    digest.update(json.dumps(chain.space.to_json()).encode())
    if chain.log_prob is not None:
        digest.update(np.ascontiguousarray(chain.log_prob).tobytes())
    if any(train.normalised for _, train in candidates):
        digest.update(repr(chain.log_evidence).encode())
    return Source(digest.hexdigest(), chain, tuple(jax.random.bits(key, (2,), "uint32").tolist()))


def _identity(
    source: Source, candidates: Sequence[Settings], rows: Sequence[int], keep: float, finalists: int
) -> dict[str, Any]:
    """Returns what two calls must have in common to be the same scan."""
    tried = json.dumps([(config.to_json(), train.to_json()) for config, train in candidates])
    grid = hashlib.sha256(tried.encode()).hexdigest()
    return {
        "chain": source.fingerprint,
        "key": source.key_data,
        "grid": grid,
        "rows": rows,
        "keep": keep,
        "finalists": finalists,
    }


def _plan(n: int, rows: Sequence[int], keep: float, finalists: int) -> list[tuple[int | None, int]]:
    """Returns (rows, number of candidates) of each rung; rows is None for training in full."""
    counts = [n]
    for _ in rows[1:]:
        counts.append(max(ceil(keep * counts[-1]), min(_FEWEST, counts[-1])))
    budgets: list[int | None] = list(rows)
    if finalists:
        counts.append(min(finalists, counts[-1]))
        budgets.append(None)
    stops = [here > there for here, there in pairwise(counts)]
    return [rung for rung, needed in zip(zip(budgets, counts, strict=True), [*stops, True], strict=True) if needed]


def _chosen(
    log: ScanLog, rung: int, candidates: dict[int, Settings], count: int, dim: int, *, in_full: bool
) -> list[int]:
    """Returns the `count` best candidates of a rung, fewer if others failed; ties go to the first.

    Candidates for training in full are spread over sizes, from the smallest to that of the best.
    """
    found = {j: log.outcomes[j, rung]["log_density"] for j in candidates}
    judged = sorted((j for j in found if found[j] is not None), key=lambda j: -found[j])
    if in_full:
        front: list[int] = []
        for j in sorted(judged, key=lambda j: _size(candidates[j].config, dim)):  # the best first within a size
            if not front or found[j] > found[front[-1]]:
                front.append(j)
        spread = [front[i] for i in np.unique(np.linspace(0, len(front) - 1, count).round().astype(int))]
        judged = [*spread, *(j for j in judged if j not in spread)]
    return sorted(judged[:count])


def _size(config: FlowConfig, dim: int) -> int:
    """Returns the number of weights."""
    shapes = jax.tree.leaves(param_shapes(config, dim), is_leaf=lambda shape: isinstance(shape, tuple))
    return sum(prod(shape) for shape in shapes)


def _run_rung(
    log: ScanLog,
    rung: int,
    source: Source,
    candidates: dict[int, Settings],
    rows: int | None,
    executor: Executor | None,
    bar: Any,
) -> None:
    """Trains the candidates that are not yet in the log."""
    todo = {j: settings for j, settings in candidates.items() if (j, rung) not in log.outcomes}
    bar.update(len(candidates) - len(todo))
    for task, outcomes in run_all(_tasks(source, todo, rows), executor):
        log.add(rung, dict(zip(task.candidates, outcomes, strict=True)))
        bar.update(len(outcomes))
        trained = [one["log_density"] for (_, at), one in log.outcomes.items() if at == rung]
        bar.set_postfix(rung=rung, best=f"{max((one for one in trained if one is not None), default=np.nan):.4f}")


def _tasks(source: Source, candidates: dict[int, Settings], rows: int | None) -> list[Task] | list[FullTask]:
    """Returns the tasks, sorted by training problem (one is cached at a time), then the longest first.

    Candidates that share compiled steps form one task.
    """
    longest_first = sorted(candidates, key=lambda j: -candidates[j].config.layers)
    if rows is None:
        return [FullTask(source, (j,), candidates[j]) for j in longest_first]
    groups: dict[Any, list[int]] = {}
    for j in longest_first:
        groups.setdefault(shared_part(candidates[j]), []).append(j)
    tasks = [
        Task(source, tuple(group), config, train, tuple(candidates[j].train.learning_rate for j in group), rows)
        for (config, train), group in groups.items()
    ]
    problems = list(dict.fromkeys(posed_alike(task.config, task.train) for task in tasks))
    return sorted(tasks, key=lambda task: problems.index(posed_alike(task.config, task.train)))
