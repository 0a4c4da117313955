"""The candidates of a scan: a grid of values by field name, or a list of settings, checked before any training."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .._util.checks import shorten
from ..flows.config import FlowConfig
from .config import TrainConfig

PAPER_GRID: Mapping[str, Sequence[Any]] = MappingProxyType(
    {
        "layers": tuple(range(2, 13)),
        "batch_size": (500, 1000, 2000, 5000),
        "learning_rate": (1e-3, 5e-4, 1e-4, 5e-5),
        "loss": ("nll", "kl", "jeffreys"),
    }
)
"""The 528 configurations of Roch and Shen (2025), section II. Two of its losses need the chain's log density."""

QUICK_GRID: Mapping[str, Sequence[Any]] = MappingProxyType(
    {"layers": (2, 4, 8), "batch_size": (500, 2000), "learning_rate": (4e-3, 1e-3), "loss": ("nll",)}
)
"""Twelve configurations, for any chain."""

Grid = Mapping[str, Sequence[Any]] | Sequence[tuple[FlowConfig, TrainConfig]]

_NOT_SCANNED = {
    "members": "candidates are compared with one member each; set it in `config` for the finalists and the refit",
    "background": "candidates are compared with one member each; set it in `config` for the finalists and the refit",
    "validation": "all candidates are judged on the same rows; set one value in TrainConfig",
    "max_steps": "`rows` sets how long candidates are trained; set it in `train` for the finalists and the refit",
    "eval_every": "only finalists are stopped early; set it in `train`",
    "patience": "only finalists are stopped early; set it in `train`",
}


class Settings(NamedTuple):
    """One candidate: `fit_flow(key, chain, *settings)` trains it in full."""

    config: FlowConfig
    train: TrainConfig


def read_grid(name: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the grid named "quick" or "paper", or one from a JSON file that maps field names to lists.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold a JSON object.
    """
    named = {"quick": QUICK_GRID, "paper": PAPER_GRID}
    if name in named:
        return dict(named[str(name)])
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Pass a JSON file or the name of a grid: {', '.join(named)}.")
    try:
        grid = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON object that maps field names to lists; {error}.") from error
    if not isinstance(grid, dict):
        raise ValueError(f"{path}: expected a JSON object that maps field names to lists; got {type(grid).__name__}.")
    return grid


def expand(grid: Grid, config: FlowConfig, train: TrainConfig) -> tuple[Settings, ...]:
    """Returns the candidates of a grid in its order; the last field varies fastest.

    Args:
        grid: lists of values by field name of FlowConfig or TrainConfig; or the candidates themselves.
        config, train: values of the fields that the grid does not name; not used for a list of candidates.

    Raises:
        TypeError, ValueError: the grid names a field that is unknown or cannot be scanned, has no values or repeated
            ones, or has a value that its field does not accept.
    """
    candidates = _of_mapping(grid, config, train) if isinstance(grid, Mapping) else _of_pairs(grid)
    if not candidates:
        raise ValueError("grid: expected at least one candidate; got none.")
    repeated = [candidate for candidate, count in Counter(candidates).items() if count > 1]
    if repeated:
        raise ValueError(f"grid: expected candidates that differ; got {shorten(repeated, 1)} more than once.")
    return candidates


def _of_mapping(grid: Mapping[str, Sequence[Any]], config: FlowConfig, train: TrainConfig) -> tuple[Settings, ...]:
    flow_fields, train_fields = _names(FlowConfig), _names(TrainConfig)
    for name, values in grid.items():
        if name in _NOT_SCANNED:
            raise ValueError(f"grid: {name!r} cannot be scanned: {_NOT_SCANNED[name]}.")
        if name not in flow_fields + train_fields:
            known = [field for field in flow_fields + train_fields if field not in _NOT_SCANNED]
            raise ValueError(
                f"grid: expected names of fields of FlowConfig or TrainConfig; got {name!r}. "
                f"Choose from {shorten(known, 30)}."
            )
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TypeError(
                f"grid: {name}: expected a list of values; got {values!r}. For one value write [{values!r}]."
            )
        if not values:
            raise ValueError(
                f"grid: {name}: expected at least one value; got none. Leave the name out for the default."
            )
    candidates = []
    for values in product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        flow = {name: value for name, value in chosen.items() if name in flow_fields}
        rest = {name: value for name, value in chosen.items() if name in train_fields}
        candidates.append(Settings(replace(config, **flow), replace(train, **rest)))
    return tuple(candidates)


def _of_pairs(grid: Any) -> tuple[Settings, ...]:
    if isinstance(grid, str) or not isinstance(grid, Sequence):
        raise TypeError(
            "grid: expected a mapping from field names to lists of values, or a list of (FlowConfig, TrainConfig) "
            f"pairs; got {type(grid).__name__}."
        )
    for j, pair in enumerate(grid):
        kinds = [type(part) for part in pair] if isinstance(pair, Sequence) else [type(pair)]
        if kinds != [FlowConfig, TrainConfig]:
            got = ", ".join(kind.__name__ for kind in kinds)
            raise TypeError(f"grid[{j}]: expected a pair (FlowConfig, TrainConfig); got ({got}).")
    shares = sorted({train.validation for _, train in grid})
    if len(shares) > 1:
        raise ValueError(f"grid: expected one TrainConfig.validation; got {shares}: {_NOT_SCANNED['validation']}.")
    return tuple(Settings(*pair) for pair in grid)


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


def varied(candidates: Sequence[Settings]) -> list[dict[str, Any]]:
    """Returns for each candidate the four settings of the paper and all others in which candidates differ."""
    flat = [{**vars(config), **vars(train)} for config, train in candidates]
    names = [name for name in flat[0] if name in PAPER_GRID or any(one[name] != flat[0][name] for one in flat)]
    return [{name: one[name] for name in names} for one in flat]
