"""The file format of a prior, the conversion of files from older versions, and all checks on reading.

This module does not need JAX. Both `FlowPrior.load` and `load_numpy` read files with it.

Schema 1 has a record with config, space, info and versions, and an array for every leaf of the params. Schema 2 adds a
checksum and masks, the columns that pass through each coupling unchanged. With the masks, a file does not depend on
NumPy's random permutations.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .._util.checks import plain_json
from .._util.storage import FileFormatError, StoredFile, load_file, require_arrays, save_file
from ..chains.parameters import ParameterSpace
from ..flows.config import FlowConfig
from ..flows.layout import Params, coupling_masks, flatten_params, is_ensemble, param_shapes, unflatten_params

KIND, SCHEMA = "flow_prior", 2
_INFO = ("metadata", "chain", "training", "report", "versions")  # parts of `info` that are JSON objects
_RECORDED = ("numpyro-flowprior", "jax", "numpyro", "distrax", "numpy")

# Fields added to FlowConfig after schema 1 began, with the values that describe what the code did then.
_IMPLIED: dict[str, Any] = {
    "members": 1,
    "background": False,
    "conditioner": "mlp",
    "bins": 8,
    "masks": "alternating",
    "support": True,
    "whitening": "full",
}
_SMALLEST = 4  # bytes of a number in an array, at least


@dataclass(frozen=True, eq=False)
class PriorFile:
    """The checked content of a prior file: all parts fit together. The checksum is None before schema 2."""

    config: FlowConfig
    space: ParameterSpace
    masks: tuple[np.ndarray, ...]
    params: Params
    info: dict[str, Any]
    schema: int
    checksum: str | None


def write_prior(
    path: str | os.PathLike[str],
    config: FlowConfig,
    space: ParameterSpace,
    params: Params,
    info: Mapping[str, Any],
) -> Path:
    """Writes a prior to a file and returns its path.

    Args:
        path: where to write; the folder must exist.
        config: architecture.
        space: names and bounds.
        params: NumPy arrays as laid out in `flows.layout`.
        info: JSON-ready record of the origin of the prior.

    Raises:
        TypeError, ValueError: a part of `info` is not JSON-ready; the message names it.
        ValueError: the file could not be read back (NaN, mixture weights that do not sum to one, ...).
    """
    arrays = flatten_params(params)
    try:
        require_arrays(path, arrays, flatten_params(param_shapes(config, space.dim)))
        _require_proper(path, arrays)
    except FileFormatError as error:
        raise ValueError(f"this prior is not saved, because its file could not be read back: {error}") from error
    record = {
        "config": config.to_json(),
        "space": space.to_json(),
        "masks": [np.flatnonzero(mask).tolist() for mask in coupling_masks(config, space.dim)],
        "info": plain_json(info, "info"),
        "versions": {name: version(name) for name in _RECORDED},
    }
    return save_file(path, KIND, SCHEMA, record, arrays)


def read_prior(path: str | os.PathLike[str]) -> PriorFile:
    """Returns the content of a file of any schema. The name, shape, dtype and values of every array are checked.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is damaged, of another kind, or newer than this package.
    """
    stored = load_file(path, KIND, newest_schema=SCHEMA)
    record = stored.record
    try:
        config = FlowConfig.from_json(_upgraded_config(stored))
        space = ParameterSpace.from_json(record.get("space"))
    except (ValueError, TypeError, OverflowError) as error:
        raise FileFormatError(f"{path}: the header does not describe a prior: {error}") from error
    _require_room(path, config, space.dim, stored.arrays)
    arrays = _upgraded_arrays(path, config, stored)
    shapes = param_shapes(config, space.dim)
    require_arrays(path, arrays, flatten_params(shapes))
    _require_proper(path, arrays)
    masks = _read_masks(path, stored, config, space.dim)
    params, info = unflatten_params(shapes, arrays), _read_info(path, record)
    return PriorFile(config, space, masks, params, info, stored.schema, stored.checksum)


def _upgraded_config(stored: StoredFile) -> Any:
    config = stored.record.get("config")
    return {**_IMPLIED, **config} if stored.schema == 1 and isinstance(config, Mapping) else config


def _upgraded_arrays(path: str | os.PathLike[str], config: FlowConfig, stored: StoredFile) -> Mapping[str, np.ndarray]:
    """Returns the arrays in the current layout.

    The first ensembles had members of equal weight, and stored only the weight of the background.
    """
    name = "background/weight"
    if stored.schema > 1 or name not in stored.arrays or not is_ensemble(config):
        return stored.arrays
    arrays = dict(stored.arrays)
    background = arrays.pop(name)
    require_arrays(path, {name: background}, {name: ()})
    shares = np.full(config.members, (1.0 - float(background)) / config.members)
    return {**arrays, "mixture/weights": np.append(shares, float(background))}


def _require_room(path: str | os.PathLike[str], config: FlowConfig, dim: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises FileFormatError, before allocating arrays, if the header describes more than the file contains."""
    couplings = 2 * config.layers if dim > 1 else 0
    depth = 3 if config.conditioner == "roch_shen" else len(config.hidden) + 1
    stored = sum(array.nbytes for array in arrays.values())
    if 2 * couplings * depth > len(arrays) or config.members * max(couplings, 1) * dim * _SMALLEST > stored:
        raise FileFormatError(
            f"{path}: the arrays do not fit the configuration in the header: {config.members} members of "
            f"{config.layers} layers for {dim} parameters need more than the {len(arrays)} arrays of {stored} bytes."
        )


def _require_proper(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises FileFormatError unless the fixed arrays describe an invertible map and valid mixture weights."""
    tril = arrays["whitening/tril"]
    for name, values in (("support/scale", arrays["support/scale"]), ("whitening/tril", np.diagonal(tril))):
        if not (values > 0).all():
            raise FileFormatError(
                f"{path}: array {name!r}: expected positive scales; the smallest is {values.min():g}. "
                "The file is damaged."
            )
    if np.triu(tril, 1).any():
        raise FileFormatError(
            f"{path}: array 'whitening/tril': expected zeros above the diagonal; got other values. The file is damaged."
        )
    weights = arrays.get("mixture/weights")
    if weights is not None and not ((weights >= 0).all() and abs(weights.sum(dtype=np.float64) - 1.0) < 1e-6):
        raise FileFormatError(
            f"{path}: array 'mixture/weights': expected weights >= 0 with sum 1; the smallest is {weights.min():g}, "
            f"the sum is {weights.sum():g}. The file is damaged."
        )


def _read_masks(
    path: str | os.PathLike[str], stored: StoredFile, config: FlowConfig, dim: int
) -> tuple[np.ndarray, ...]:
    """Returns the masks in the file. For schema 1, which has none, NumPy generates them."""
    drawn = coupling_masks(config, dim)
    if stored.schema == 1:
        return tuple(drawn)
    passed = stored.record.get("masks")
    if not isinstance(passed, list) or len(passed) != len(drawn):
        raise FileFormatError(f"{path}: header: masks: expected {len(drawn)} lists of columns; got {passed!r:.80}.")
    return tuple(_read_mask(path, columns, like) for columns, like in zip(passed, drawn, strict=True))


def _read_mask(path: str | os.PathLike[str], columns: Any, like: np.ndarray) -> np.ndarray:
    count, dim = int(like.sum()), len(like)
    numbers = columns if isinstance(columns, list) else []
    known = all(type(column) is int and 0 <= column < dim for column in numbers)
    if not known or len(numbers) != count or len(set(numbers)) != count:
        raise FileFormatError(
            f"{path}: header: masks: expected {count} different columns from 0 to {dim - 1}; got {columns!r:.80}."
        )
    mask = np.zeros(dim, dtype=bool)
    mask[numbers] = True
    return mask


def _read_info(path: str | os.PathLike[str], record: Mapping[str, Any]) -> dict[str, Any]:
    info = record.get("info", {})
    parts: dict[str, Any] = {"info": info, "versions": record.get("versions", {})}
    if isinstance(info, dict):
        info = {**info, "versions": parts["versions"]}
        parts |= {name: info[name] for name in _INFO if name in info}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise FileFormatError(f"{path}: header: {name}: expected a JSON object; got {part!r}.")
    return info


def require_same_masks(path: str | os.PathLike[str], masks: Sequence[np.ndarray], config: FlowConfig, dim: int) -> None:
    """Raises FileFormatError if the masks of a file differ from those that NumPy now draws for its configuration."""
    drawn = coupling_masks(config, dim)
    if any(not np.array_equal(mask, own) for mask, own in zip(masks, drawn, strict=True)):
        raise FileFormatError(
            f"{path}: NumPy {np.__version__} permutes the parameters differently than the version that wrote the file. "
            "Evaluate it with load_numpy, or load it with the versions that `flowprior info` shows."
        )
