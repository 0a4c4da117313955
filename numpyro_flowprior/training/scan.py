"""scan_flows: which settings suit a chain? A grid of candidates, successively halved, judged on held-out rows."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from itertools import pairwise
from math import ceil
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from .._checks import positive_int, real_in, shorten
from ..chains.chain import Chain
from ..chains.edges import off_the_edges
from ..flows.config import FlowConfig
from .config import TrainConfig
from .defaults import NARROW
from .grid import Grid, Settings, expand
from .prepare import require_learnable
from .rungs import Source, Task, first_alike, run_all, shared_part
from .scan_log import ScanLog
from .scan_result import ScanResult, make_table

_CONFIG = replace(NARROW, layers=FlowConfig.layers)  # what the grid leaves open
_TRAIN = TrainConfig(max_steps=20_000, patience=60)  # the paper's learning rates are low: they need the steps
_FEWEST = 4  # candidates that go on at least, if there are as many: the last rung should have a choice


def scan_flows(
    key: jax.Array,
    chain: Chain,
    grid: Grid,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    *,
    rows: Sequence[int] = (200_000, 800_000, 3_200_000),
    keep: float = 0.25,
    folder: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> ScanResult:
    """Returns a table of how well candidate settings learn a chain, and the best of them.

    Successive halving (Jamieson and Talwalkar 2016): all candidates are trained on a small number of rows, the best
    `keep` of them on a larger one, and so on. What is equal at a rung is the number of rows seen, which is what time
    goes with, so that a batch of 5000 takes a tenth of the steps of one of 500: this favours small batches, as does
    training for an equal number of epochs. Every rung starts from fresh weights with a learning rate schedule of its
    own length, because half of a long schedule is not a short one; with `keep` = 1/4 that is a third more work, and
    no weights need to be kept. With one number of rows, all candidates are treated alike.

    `train.validation` of the chain is held out: no candidate is trained on it, all are judged on it. A candidate is
    judged by one member, without background. "kl" has the gradient of "nll": the two are one training, go on or
    stop together, and their rows of the table are equal.

    Args:
        key: JAX random key; all candidates start from the same weights and see rows in the same order.
        chain: draws, weighted or not; with its log density if a loss needs it.
        grid: lists of values by name of a field of FlowConfig or TrainConfig, e.g. PAPER_GRID or
            {"layers": [2, 4], "loss": ["nll"]}; or a list of (FlowConfig, TrainConfig).
        config, train: the other fields' values; None for networks with one hidden layer of 16, mixed in the refit:
            six members over a background, 20,000 steps each at most.
        rows: how many rows a candidate is trained on, rung by rung, increasing. Rungs that would stop nobody are left
            out but for the last.
        keep: fraction of the candidates that go on from a rung, in (0, 1); four at least.
        folder: keeps what is done, failures too, so that the same call goes on after a kill; made if it is missing.
        executor: where candidates are trained, several at a time: any concurrent.futures.Executor, such as a
            ProcessPoolExecutor (with the "spawn" context: JAX does not survive a fork), Dask's or MPI's. None for
            here, one after the other.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: what is given cannot be scanned; or the folder holds another scan.
        RuntimeError: a worker of the executor died.
    """
    candidates = expand(grid, config or _CONFIG, train or _TRAIN)
    rows = _checked_rows(rows)
    real_in(keep, "scan_flows: keep", 0.0, 1.0, open_low=True, open_high=True)
    _require_scannable(chain, candidates, executor)
    source = _source(key, off_the_edges(chain))
    log = ScanLog(folder, _identity(source, candidates, rows, keep))
    firsts = first_alike(candidates)
    alive = sorted(set(firsts))
    rungs, interrupted = _plan(len(alive), rows, keep), False
    with tqdm(total=sum(count for _, count in rungs), desc="scan", unit="fit", disable=not progress) as bar:
        try:
            for rung, (budget, count) in enumerate(rungs, 1):
                alive = _best(log, rung - 1, alive, count) if rung > 1 else alive
                _run_rung(log, rung, source, {j: candidates[j] for j in alive}, budget, executor, bar)
        except KeyboardInterrupt:
            if not log.outcomes:
                raise
            interrupted = True
            warnings.warn(
                "scan_flows: interrupted; the table is of what was done. With folder=..., the same call goes on.",
                stacklevel=2,
            )
    table = make_table(candidates, firsts, log.outcomes, rungs, alive if interrupted else ())
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
            f"scan_flows: chain: the losses {shorten(taught)} need the log density of each row (log_prob); there is "
            'none. Scan {"loss": ["nll"]}, or pass the chain with its log_prob.'
        )
    require_learnable(chain)


def _source(key: jax.Array, chain: Chain) -> Source:
    digest = hashlib.sha256(chain.fingerprint().encode())
    digest.update(json.dumps(chain.space.to_json()).encode())
    if chain.log_prob is not None:
        digest.update(np.ascontiguousarray(chain.log_prob).tobytes())
    return Source(digest.hexdigest(), chain, tuple(jax.random.bits(key, (2,), "uint32").tolist()))


def _identity(source: Source, candidates: Sequence[Settings], rows: Sequence[int], keep: float) -> dict[str, Any]:
    """Returns what makes a scan the same scan."""
    tried = json.dumps([(config.to_json(), train.to_json()) for config, train in candidates])
    grid = hashlib.sha256(tried.encode()).hexdigest()
    return {"chain": source.fingerprint, "key": source.key_data, "grid": grid, "rows": rows, "keep": keep}


def _plan(n: int, rows: Sequence[int], keep: float) -> list[tuple[int, int]]:
    """Returns (rows, number of candidates) of each rung."""
    counts = [n]
    for _ in rows[1:]:
        counts.append(max(ceil(keep * counts[-1]), min(_FEWEST, counts[-1])))
    stops = [here > there for here, there in pairwise(counts)]
    return [rung for rung, needed in zip(zip(rows, counts, strict=True), [*stops, True], strict=True) if needed]


def _best(log: ScanLog, rung: int, candidates: Sequence[int], count: int) -> list[int]:
    """Returns the `count` best candidates of a rung, fewer if others failed; of equals the first."""
    found = {j: log.outcomes[j, rung]["log_density"] for j in candidates}
    judged = [j for j in candidates if found[j] is not None]
    return sorted(sorted(judged, key=lambda j: -found[j])[:count])


def _run_rung(
    log: ScanLog,
    rung: int,
    source: Source,
    candidates: dict[int, Settings],
    rows: int,
    executor: Executor | None,
    bar: Any,
) -> None:
    """Trains those candidates that the log does not have; those that share compiled steps in one task."""
    todo = {j: settings for j, settings in candidates.items() if (j, rung) not in log.outcomes}
    bar.update(len(candidates) - len(todo))
    groups: dict[Any, dict[float, int]] = {}
    for j, settings in todo.items():
        groups.setdefault(shared_part(settings), {})[settings.train.learning_rate] = j
    longest_first = sorted(groups.items(), key=lambda group: -group[0][0].layers * len(group[1]))
    tasks = [Task(source, config, train, tuple(rates), rows) for (config, train), rates in longest_first]
    for task, outcomes in run_all(tasks, executor):
        done = dict(zip(groups[task.config, task.train].values(), outcomes, strict=True))
        log.add(rung, done)
        bar.update(len(done))
        trained = [one["log_density"] for (_, at), one in log.outcomes.items() if at == rung]
        bar.set_postfix(rung=rung, best=f"{max((one for one in trained if one is not None), default=np.nan):.4f}")
