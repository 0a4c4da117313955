"""An ensemble sampler's run in a file, so that it can go on after a kill: all steps, and the generator's state.

The file is replaced as a whole (a kill leaves the old one), checked by its checksum, and holds no pickle.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .._util.storage import load_file, require_arrays, save_file
from .checkpoint import require_same_run

KIND, SCHEMA = "emcee_run", 4  # with checksums from 2 on, moves from 3 on, proposals by name from 4 on

_DIGITS = 64  # of a SHA-256
_SINCE_3 = ("moves", "proposal", "proposal_share")


def write_run(path: str | os.PathLike[str], backend: Any, about: dict[str, Any], *, finished: bool) -> Path:
    """Writes the steps in an emcee backend, with a record of which run they are, and whether it came to its end."""
    name, keys, position, has_gauss, cached = backend.random_state
    n = backend.iteration
    arrays = {
        "chain": backend.chain[:n],
        "log_prob": backend.log_prob[:n],
        "parts": backend.blobs[:n],
        "accepted": np.asarray(backend.accepted, np.float64),
        "generator": np.asarray(keys, np.float64),  # 32-bit integers: exact
        "cached": np.array([cached]),
    }
    generator = {"name": name, "position": int(position), "has_gauss": int(has_gauss)}
    return save_file(path, KIND, SCHEMA, {"about": about, "finished": finished, "generator": generator}, arrays)


def _is_density(about: dict[str, Any]) -> bool:
    """Returns whether walkers propose from a density that a checksum stands for, of another order in each process."""
    return isinstance(about.get("proposal"), str) and len(about["proposal"]) == _DIGITS


def read_run(path: str | os.PathLike[str], backend: Any, about: dict[str, Any]) -> bool:
    """Fills an empty emcee backend with the steps in a file, and returns whether that run came to its end.

    Raises:
        FileFormatError: the file is damaged, or no run.
        ValueError: it is another run: other parameters, walkers, moves, proposals or key (named).
    """
    stored = load_file(path, KIND, newest_schema=SCHEMA)
    known = stored.record.get("about")
    if isinstance(known, dict) and stored.schema < 3:  # what they do not know is taken to be the same
        known = {"space": "parameters", **{name: about[name] for name in _SINCE_3}, **known}
    if isinstance(known, dict) and stored.schema == 3 and _is_density(known) and _is_density(about):
        known = {**known, "proposal": about["proposal"]}
    require_same_run(path, known, about)
    steps, walkers, dim = np.shape(stored.arrays.get("chain", np.empty((0, 0, 0))))
    shapes: dict[str, tuple[int, ...]] = {
        "chain": (steps, about["n_walkers"], len(about["names"])),
        "log_prob": (steps, walkers),
        "parts": (steps, walkers, 2),
        "accepted": (walkers,),
        "generator": (624,),
        "cached": (1,),
    }
    require_arrays(path, stored.arrays, shapes)
    arrays, generator = stored.arrays, stored.record["generator"]
    backend.reset(walkers, dim)
    backend.chain, backend.log_prob, backend.blobs = arrays["chain"], arrays["log_prob"], arrays["parts"]
    backend.accepted, backend.iteration = arrays["accepted"], steps
    state = (generator["name"], arrays["generator"].astype(np.uint32), generator["position"], generator["has_gauss"])
    backend.random_state = (*state, float(arrays["cached"][0]))
    return bool(stored.record["finished"])
