"""The checkpoint of a tempered run of particles, so that it can go on after a kill; not a pickle, unlike pocoMC's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._util.storage import FileFormatError, load_file, save_file
from .checkpoint import in_todays_words, require_same_run

KIND, SCHEMA = "particle_run", 4  # schema 2 added checksums, 3 the description of flows given as objects, 4 draws

PER_PARTICLE = ("u", "x", "logdetj", "logl", "logp")
DRAWN = ("log_prior", "log_likelihood", "log_weights")
PER_ITERATION = ("iter", "logz", "calls", "steps", "efficiency", "ess", "accept", "beta")
_SHAPES = {"u": 3, "x": 3, **dict.fromkeys(("logdetj", "logl", "logp"), 2), **dict.fromkeys(PER_ITERATION, 1)}


class ParticleRun(NamedTuple):
    """A run between two iterations.

    Attributes:
        past: the results of each iteration, by pocoMC's names: (iterations, particles, ...) and (iterations,).
        numbers: the sampler's scalars, by attribute name.
        scaler, geometry, flow: arrays of the map of the bounds, of the moves in latent space, of the preconditioner.
        draws: draws of the flow, if it is trained for the last time: points (n, d), and (n,) log densities and weights.
        numpy_state: state of NumPy's global generator, as `get_state` returns it.
        torch_state: bytes of the state of torch's generator.
    """

    past: dict[str, np.ndarray]
    numbers: dict[str, float]
    scaler: dict[str, np.ndarray]
    geometry: dict[str, np.ndarray]
    flow: dict[str, np.ndarray]
    draws: dict[str, np.ndarray]
    numpy_state: Any
    torch_state: np.ndarray


def write_particles(path: str | os.PathLike[str], run: ParticleRun, about: Mapping[str, Any]) -> Path:
    """Writes a run, with a record that identifies it. A kill leaves the previous file, or none."""
    name, keys, position, has_gauss, cached = run.numpy_state
    record = {
        "about": dict(about),
        "numbers": {key: float(value) for key, value in run.numbers.items()},
        "generator": {"name": name, "position": int(position), "has_gauss": int(has_gauss)},
    }
    arrays = {
        **{f"past/{key}": value for key, value in run.past.items()},
        **{f"scaler/{key}": value for key, value in run.scaler.items()},
        **{f"geometry/{key}": value for key, value in run.geometry.items()},
        **{f"flow/{key}": value for key, value in run.flow.items()},
        **{f"draws/{key}": value for key, value in run.draws.items()},
        "generator/keys": np.asarray(keys, np.float64),  # 32-bit integers: exact
        "generator/cached": np.array([cached], np.float64),
        "generator/torch": np.asarray(run.torch_state, np.float64),  # bytes
    }
    return save_file(path, KIND, SCHEMA, record, arrays)


def read_particles(path: str | os.PathLike[str], about: Mapping[str, Any]) -> ParticleRun:
    """Returns the run in a file.

    Raises:
        FileFormatError: the file is damaged, or does not hold a run.
        ValueError: it holds another run, with other parameters, settings or key (named).
    """
    stored = load_file(path, KIND, newest_schema=SCHEMA)
    known = stored.record.get("about")
    if stored.schema < 3 and isinstance(known, Mapping):
        known = _in_todays_terms(known, about)
    require_same_run(path, known, about)
    folders: dict[str, dict[str, np.ndarray]] = {
        name: {} for name in ("past", "scaler", "geometry", "flow", "draws", "generator")
    }
    for name, array in stored.arrays.items():
        folder, _, key = name.partition("/")
        if folder not in folders:
            raise FileFormatError(f"{path}: expected the arrays of a run; got {name!r}. Another program wrote it.")
        folders[folder][key] = array
    past, generator = folders["past"], stored.record["generator"]
    _require_past(path, past, about)
    _require_draws(path, folders["draws"], about)
    keys = folders["generator"]["keys"].astype(np.uint32)
    state = (generator["name"], keys, generator["position"], generator["has_gauss"])
    return ParticleRun(
        past,
        stored.record["numbers"],
        folders["scaler"],
        folders["geometry"],
        folders["flow"],
        folders["draws"],
        (*state, float(folders["generator"]["cached"][0])),
        folders["generator"]["torch"].astype(np.uint8),
    )


def _in_todays_terms(known: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record of an older file in today's terms; settings that it lacks are assumed to be the same.

    Of a flow given as an object it has only the type. Options are stored as text, which may have memory addresses.
    """
    today, texts = {"coordinates": "parameters", **in_todays_words(known)}, known.get("options")
    if isinstance(about["flow"], list) and known.get("flow") == about["flow"][0]:
        today["flow"] = about["flow"]
    if isinstance(texts, Mapping):
        now = about["options"]
        today["options"] = {
            name: now[name] if name in now and (text == repr(now[name]) or " at 0x" in str(text)) else text
            for name, text in texts.items()
        }
    return today


def _require_past(path: Any, past: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Raises FileFormatError unless all arrays have the iterations, particles and parameters of one run."""
    iterations = len(past.get("beta", ()))
    sizes = (iterations, about["n_active"], len(about["names"]))
    for name, axes in _SHAPES.items():
        if name not in past or past[name].shape != sizes[:axes] or iterations == 0:
            found = past[name].shape if name in past else "none"
            raise FileFormatError(f"{path}: array {name!r}: expected shape {sizes[:axes]}; got {found}.")


def _require_draws(path: Any, draws: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Raises FileFormatError unless there are no draws, or all of their arrays, of one length."""
    if not draws:
        return
    n = len(draws.get("points", ()))
    sizes = {"points": (n, len(about["names"])), **dict.fromkeys(DRAWN, (n,))}
    shapes = {name: array.shape for name, array in draws.items()}
    if shapes != sizes:
        raise FileFormatError(f"{path}: arrays of draws: expected shapes {sizes}; got {shapes}.")
