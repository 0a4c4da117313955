"""An ensemble sampler's run in a file, so that it can go on after a kill: all steps, and the generator's state.

The file is emcee's own: what its HDFBackend writes, and reads, with one attribute of ours that says whose run it is.
Unlike emcee's backend we replace the file as a whole, so that a kill leaves the old one, and check it by its checksum.
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

# With checksums from schema 2 on, moves from 3 on, proposals by name from 4 on, in emcee's HDF5 from 5 on.
KIND, SCHEMA = "emcee_run", 5

_SAFETENSORS = 4  # the last schema of files that are no HDF5
_GROUP = "mcmc"  # emcee's default
_GENERATOR = tuple(f"random_state_{j}" for j in range(5))  # attributes: name, keys, position, two of a cached normal
_DIGITS = 64  # of a SHA-256
_SINCE_3 = ("moves", "proposal", "proposal_share")


def h5py_module() -> ModuleType:
    """Returns h5py; ImportError says how it is installed."""
    return optional_import("h5py", "emcee", "sample_emcee: checkpoint")


def write_run(path: str | os.PathLike[str], backend: Any, about: dict[str, Any], *, finished: bool) -> Path:
    """Writes the steps in an emcee backend, with a record of which run they are, and whether it came to its end."""
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
        for name, array in steps.items():  # blobs are two numbers in one element of emcee's dataset
            kind = np.dtype((array.dtype, array.shape[2:])) if name == "blobs" else array.dtype
            shape = array.shape[:2] if name == "blobs" else array.shape
            group.create_dataset(name, shape, kind, maxshape=(None, *shape[1:]))[...] = array
        header[CHECKSUM] = _checksum(header, arrays, backend.random_state)
        file.attrs[FORMAT] = json.dumps(header, allow_nan=False)
    write_atomically(path, content.getvalue())
    return path


def read_run(path: str | os.PathLike[str], backend: Any, about: dict[str, Any]) -> bool:
    """Fills an empty emcee backend with the steps in a file, and returns whether that run came to its end.

    Raises:
        FileFormatError: the file is damaged, or no run.
        ValueError: it is another run: other parameters, walkers, moves, proposals or key (named).
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
    """Returns the record, the arrays, and the generator's state in a file of today's."""
    h5py = h5py_module()
    try:
        with h5py.File(path, "r") as file:
            if FORMAT not in file.attrs:
                raise FileFormatError(
                    f"checkpoint: {path}: expected a run that sample_emcee kept; it does not say whose run it "
                    "holds: emcee itself, or another program, wrote it. Use another file; read_chain reads it."
                )
            header, group = json.loads(file.attrs[FORMAT]), file[_GROUP]
            arrays = {name: group[name][...] for name in ("chain", "log_prob", "blobs", "accepted")}
            state = tuple(group.attrs[name] for name in _GENERATOR)
    except FileFormatError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"checkpoint: {path}: damaged ({error}). Remove it to begin anew.") from error
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise FileFormatError(f"checkpoint: {path}: expected a run of sample_emcee; it says that it is none.")
    if header.get("schema") != SCHEMA:
        raise FileFormatError(
            f"checkpoint: {path}: expected schema {SCHEMA}; got {header.get('schema')!r}, of a newer version of this "
            "package. Install that."
        )
    if header.get(CHECKSUM) != _checksum(header, arrays, state):
        raise FileFormatError(f"checkpoint: {path}: damaged: its checksum is another. Remove it to begin anew.")
    return header, arrays, state


def _from_safetensors(path: Any, about: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray], Any]:
    """Returns what `_from_hdf5` does of a file of schema 4 or older."""
    try:
        stored = load_file(path, KIND, newest_schema=_SAFETENSORS)
    except FileFormatError as error:
        raise FileFormatError(
            f"checkpoint: {path}: expected a run that sample_emcee kept, in HDF5 or in the safetensors of earlier "
            f"versions; got neither ({error}) Remove it to begin anew."
        ) from error
    known = stored.record.get("about")
    if isinstance(known, dict) and stored.schema < 3:  # what they do not know is taken to be the same
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
    """Returns whether walkers propose from a density that a checksum stands for, of another order in each process."""
    return isinstance(about.get("proposal"), str) and len(about["proposal"]) == _DIGITS
