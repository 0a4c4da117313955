"""The checkpoint of a live training: points, flows and judgements, so that it goes on after a kill. No pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._util.checks import shorten
from .._util.storage import FileFormatError, load_file, require_arrays, save_file
from ..chains.parameters import ParameterSpace
from ..diagnostics.importance import DensityReport
from ..flows.config import FlowConfig
from ..flows.layout import FIXED, flatten_params, param_shapes, unflatten_params
from ..priors.flow_prior import FlowPrior
from .called import CalledDensity
from .config import TrainConfig
from .descent import History
from .live import LiveState, Trained

KIND, SCHEMA = "live_training", 2  # the first schema; it is two, because files have checksums from two on
_LOOKED_AT = 64  # points at which the density is compared with the stored values
_ROUNDING = 1e-6  # relative, of log densities on another machine
_CURVES = ("step", "train_loss", "validation_loss")


def write_state(path: str | os.PathLike[str], state: LiveState, config: FlowConfig, about: Mapping[str, Any]) -> None:
    """Writes a run between two rounds. A kill leaves the previous file, or none.

    Args:
        path: where to write; the folder must exist.
        state: the run.
        config: architecture of the flow that is trained.
        about: JSON-ready record that identifies the run.
    """
    assert state.report is not None
    working = state.working or []
    record = {
        "about": dict(about),
        "config": config.to_json(),
        "best": state.best.prior.config.to_json(),
        "train": state.best.train.to_json(),
        "space": state.best.prior.space.to_json(),
        "members": len(working),
        "histories": [{"seconds": one.seconds, "interrupted": one.interrupted} for one in state.best.histories],
        "rounds": state.rounds,
        "calls": state.calls,
        "seconds": state.seconds,
    }
    numbers = np.array([state.score, *_numbers(state.report)], np.float64)
    arrays = {"theta": state.theta, "log_p": state.log_p, "weights": state.weights, "report": numbers}
    arrays |= {f"best/{name}": array for name, array in flatten_params(state.best.prior.params).items()}
    for k, member in enumerate(working):
        arrays |= {f"working/{k}/{name}": array for name, array in flatten_params(member).items()}
    for k, one in enumerate(state.best.histories):
        arrays |= {f"history/{k}/{name}": np.asarray(getattr(one, name)) for name in _CURVES}
    save_file(path, KIND, SCHEMA, record, arrays)


def read_state(path: str | os.PathLike[str], about: Mapping[str, Any], density: CalledDensity) -> LiveState:
    """Returns the run in a file.

    Raises:
        FileFormatError: the file is damaged, or does not hold such a run.
        ValueError: it holds another run: other rows, settings or key (named), or another density.
    """
    stored = load_file(path, KIND, newest_schema=SCHEMA)
    record, arrays = stored.record, stored.arrays
    known = record.get("about")
    known = known if isinstance(known, Mapping) else {}
    other = sorted(name for name in {*known, *about} if known.get(name) != about.get(name))
    advice = "Use another file, or remove this one to begin again."
    if other:
        raise ValueError(f"checkpoint: {path}: expected a run with the same {shorten(other)}; got another. {advice}")
    try:
        config, best = (FlowConfig.from_json(record[name]) for name in ("config", "best"))
        space = ParameterSpace.from_json(record["space"])
        numbers = arrays["report"]
        theta, log_p, weights = (arrays[name] for name in ("theta", "log_p", "weights"))
        parts = _checked(path, arrays, "best", param_shapes(best, space.dim))
        shapes = {k: v for k, v in param_shapes(config.of_one_member(), space.dim).items() if k not in FIXED}
        working = [_checked(path, arrays, f"working/{k}", shapes) for k in range(record["members"])]
        histories = tuple(_history(arrays, k, one) for k, one in enumerate(record["histories"]))
        state = LiveState(
            best=Trained(FlowPrior(best, space, parts), histories, TrainConfig(**record["train"])),
            score=float(numbers[0]),
            report=_report(numbers[1:]),
            working=working or None,
            theta=theta.reshape(len(log_p), space.dim),
            log_p=log_p,
            weights=weights.reshape(log_p.shape),
            rounds=list(record["rounds"]),
            calls=int(record["calls"]),
            seconds=float(record["seconds"]),
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise FileFormatError(
            f"{path}: expected a live training that fit_flow wrote; a part is missing or does not fit ({error}). "
            "The file is damaged: remove it to begin again."
        ) from error
    rows = np.flatnonzero(np.isfinite(log_p))[-_LOOKED_AT:]
    if len(rows) and not np.allclose(density(theta[rows]), log_p[rows], rtol=_ROUNDING, atol=_ROUNDING):
        raise ValueError(f"checkpoint: {path}: expected a run with this density; its values differ. {advice}")
    return state


def _checked(path: Any, arrays: Mapping[str, np.ndarray], folder: str, shapes: Any) -> Any:
    found = {name.removeprefix(f"{folder}/"): part for name, part in arrays.items() if name.startswith(f"{folder}/")}
    require_arrays(path, found, flatten_params(shapes))
    return unflatten_params(shapes, found)


def _history(arrays: Mapping[str, np.ndarray], k: int, record: Mapping[str, Any]) -> History:
    step, train_loss, validation_loss = (arrays[f"history/{k}/{name}"] for name in _CURVES)
    return History(step, train_loss, validation_loss, record["seconds"], record["interrupted"])


def _numbers(report: DensityReport) -> list[float]:
    return [float(getattr(report, name)) for name in DensityReport.__dataclass_fields__]


def _report(numbers: np.ndarray) -> DensityReport:
    values: dict[str, Any] = dict(zip(DensityReport.__dataclass_fields__, numbers.tolist(), strict=True))
    return DensityReport(**{**values, "draws": int(values["draws"])})
