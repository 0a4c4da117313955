"""The checkpoint of an ensemble sampler: all steps and the generator's state, so that it can go on after a kill.

The file has the format that emcee's HDFBackend writes and reads. We add one attribute, which records which run it
holds. Unlike emcee's backend we replace the whole file at each write, so that a kill leaves the previous file. We also
verify its checksum.
"""

from __future__ import annotations

import io
import json
import os
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .._util.checks import optional_import
from .._util.storage import (
    CHECKSUM,
    FORMAT,
    FileFormatError,
    checksum,
    is_hdf5,
    load_file,
    require_arrays,
    write_atomically,
)
from .checkpoint import in_todays_words, require_same_run

# Schema 2 added checksums, schema 3 the moves, schema 4 checksums of proposals in a fixed order of their fields, and
# schema 5 emcee's HDF5.
KIND, SCHEMA = "emcee_run", 5

_SAFETENSORS = 4  # the last schema in safetensors
_GROUP = "mcmc"  # emcee's default
_GENERATOR = tuple(f"random_state_{j}" for j in range(5))  # name, keys, position, two values for a cached normal
_DIGITS = 64  # of a SHA-256
_SINCE_3 = ("moves", "proposal", "proposal_share")


def h5py_module() -> ModuleType:
    """Returns h5py. If it is missing, the ImportError explains how to install it."""
    return optional_import("h5py", "emcee", "sample_emcee: checkpoint")


def write_run(path: str | os.PathLike[str], backend: Any, about: dict[str, Any], *, finished: bool) -> Path:
    """Writes the steps of an emcee backend, a record of the run to which they belong, and whether it has finished."""
    h5py = h5py_module()
    n, path = backend.iteration, Path(path)
    steps = {"chain": backend.chain[:n], "log_prob": backend.log_prob[:n], "blobs": backend.blobs[:n]}
    arrays = {**steps, "accepted": np.asarray(backend.accepted, np.float64)}
    header = {"kind": KIND, "schema": SCHEMA, "about": about, "finished": finished}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group(_GROUP)
        group.attrs.update({"version": version("emcee")})
        group.attrs.update({"nwalkers": arrays["chain"].shape[1], "ndim": arrays["chain"].shape[2]})
        group.attrs.update({"has_blobs": True, "iteration": n})
        group.attrs.update(dict(zip(_GENERATOR, backend.random_state, strict=True)))
        group.create_dataset("accepted", data=arrays["accepted"])
        for name, array in steps.items():  # emcee stores the two blobs of a walker as one element of its dataset
            kind = np.dtype((array.dtype, array.shape[2:])) if name == "blobs" else array.dtype
            shape = array.shape[:2] if name == "blobs" else array.shape
            group.create_dataset(name, shape, kind, maxshape=(None, *shape[1:]))[...] = array
        header[CHECKSUM] = _checksum(header, arrays, backend.random_state)
        file.attrs[FORMAT] = json.dumps(header, allow_nan=False)
    write_atomically(path, content.getvalue())
    return path


def read_run(path: str | os.PathLike[str], backend: Any, about: dict[str, Any]) -> bool:
    """Fills an empty emcee backend with the steps in a file, and returns whether that run had finished.

    Raises:
        FileFormatError: the file is damaged, or does not hold a run.
        ValueError: it holds another run, with other parameters, walkers, moves, proposals or key (named).
    """
    record, arrays, state = _from_hdf5(path) if is_hdf5(path) else _from_safetensors(path, about)
    require_same_run(path, record.get("about"), about)
    steps, walkers, dim = np.shape(arrays.get("chain", np.empty((0, 0, 0))))
    shapes: dict[str, tuple[int, ...]] = {
        "chain": (steps, about["n_walkers"], len(about["names"])),
        "log_prob": (steps, walkers),
        "blobs": (steps, walkers, 2),
        "accepted": (walkers,),
    }
    require_arrays(path, arrays, shapes)
    backend.reset(walkers, dim)
    backend.chain, backend.log_prob, backend.blobs = arrays["chain"], arrays["log_prob"], arrays["blobs"]
    backend.accepted, backend.iteration, backend.random_state = arrays["accepted"], steps, state
    return bool(record["finished"])


def _checksum(header: dict[str, Any], arrays: dict[str, np.ndarray], state: Any) -> str:
    name, keys, position, has_gauss, cached = state
    generator = {"name": str(name), "position": int(position), "has_gauss": int(has_gauss)}
    numbers = {"keys": np.asarray(keys), "cached": np.array([cached])}
    return checksum({**header, "generator": generator}, {**arrays, **numbers})


def _from_hdf5(path: Any) -> tuple[dict[str, Any], dict[str, np.ndarray], Any]:
    """Returns the record, the arrays and the state of the generator in a file of the current schema."""
    h5py = h5py_module()
    try:
        with h5py.File(path, "r") as file:
            if FORMAT not in file.attrs:
                raise FileFormatError(
                    f"checkpoint: {path}: expected a run of sample_emcee; got a file that does not record which run it "
                    "holds, from emcee itself or another program. Use another file. read_chain can read this one."
                )
            header, group = json.loads(file.attrs[FORMAT]), file[_GROUP]
            arrays = {name: group[name][...] for name in ("chain", "log_prob", "blobs", "accepted")}
            state = tuple(group.attrs[name] for name in _GENERATOR)
    except FileFormatError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"checkpoint: {path}: damaged ({error}). Remove it to begin again.") from error
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise FileFormatError(f"checkpoint: {path}: expected a run of sample_emcee; its record is of another kind.")
    if header.get("schema") != SCHEMA:
        raise FileFormatError(
            f"checkpoint: {path}: expected schema {SCHEMA}; got {header.get('schema')!r}, from a newer version of this "
            "package. Install that version."
        )
    if header.get(CHECKSUM) != _checksum(header, arrays, state):
        raise FileFormatError(f"checkpoint: {path}: damaged: its checksum does not match. Remove it to begin again.")
    return header, arrays, state


def _from_safetensors(path: Any, about: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray], Any]:
    """Returns the same as `_from_hdf5`, from a file of schema 4 or older."""
    try:
        stored = load_file(path, KIND, newest_schema=_SAFETENSORS)
    except FileFormatError as error:
        raise FileFormatError(
            f"checkpoint: {path}: expected a run of sample_emcee, in HDF5 or in the safetensors of earlier versions; "
            f"got neither ({error}) Remove it to begin again."
        ) from error
    known = stored.record.get("about")
    if isinstance(known, dict) and stored.schema < 3:  # settings that are not recorded are assumed to be the same
        known = {"coordinates": "parameters", **{name: about[name] for name in _SINCE_3}, **in_todays_words(known)}
    if isinstance(known, dict) and stored.schema == 3 and _is_density(known) and _is_density(about):
        known = {**known, "proposal": about["proposal"]}
    arrays, generator = dict(stored.arrays), stored.record["generator"]
    numbers = {name: arrays.pop(name, np.empty(0)) for name in ("generator", "cached")}
    require_arrays(path, numbers, {"generator": (624,), "cached": (1,)})
    keys, cached = numbers["generator"].astype(np.uint32), float(numbers["cached"][0])
    state = (generator["name"], keys, generator["position"], generator["has_gauss"], cached)
    renamed = {"blobs" if name == "parts" else name: array for name, array in arrays.items()}
    return {**stored.record, "about": known}, renamed, state


def _is_density(about: dict[str, Any]) -> bool:
    """Returns whether the recorded proposal is the checksum of a density. In schema 3 it differs between processes."""
    return isinstance(about.get("proposal"), str) and len(about["proposal"]) == _DIGITS
