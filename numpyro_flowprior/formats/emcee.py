"""Reads emcee samplers, backends and HDF5 files. The files need only h5py; emcee itself is not imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .._util.checks import optional_import, positive_int, shorten
from .._util.storage import FORMAT, is_hdf5
from ..chains.autocorrelation import LONG_ENOUGH, burn_in_of, ensemble_time, thinning_of
from .table import Table

_LOG_PROB = "emcee's log_prob, the sampled density: log posterior up to a constant, prior included"


def read_emcee(sampler: Any, *, burn_in: int | None = None, thin: int | None = None) -> Table:
    """Returns the table of an emcee.EnsembleSampler or backend; chain ids are walkers.

    Args:
        sampler: has get_chain and get_log_prob.
        burn_in: steps to drop from the start; None for five autocorrelation times, at most half of the run.
        thin: keep every thin-th step. None keeps all steps up to some 200,000 rows, and thins longer runs to about that
            number, but kept steps are at most half an autocorrelation time apart.
    """
    if not hasattr(sampler, "get_chain"):
        raise TypeError(f"expected an emcee sampler or backend; got {type(sampler).__name__}.")
    if not getattr(sampler, "iteration", 0):
        raise ValueError("expected a sampler that has run; got one without steps. Call run_mcmc first.")
    blobs = sampler.get_blobs() is not None
    return _table(sampler.get_chain(), sampler.get_log_prob(), burn_in, thin, source="emcee", blobs=blobs)


def read_emcee_hdf5(path: Path, *, burn_in: int | None = None, thin: int | None = None, group: str = "mcmc") -> Table:
    """Returns the table of an HDF5 file from emcee's HDFBackend or from `sample_emcee` (see `read_emcee`).

    A file of `sample_emcee` also gives the names of the parameters. If its walkers moved in latent coordinates, it is
    refused, because its columns are not parameters.

    Args:
        path: the file.
        burn_in: see `read_emcee`.
        thin: see `read_emcee`.
        group: name of the backend's group in the file.

    Raises:
        ImportError: h5py is not installed.
    """
    h5py = optional_import("h5py", "readers", "read_chain of emcee's HDF5")
    try:
        with h5py.File(path, "r") as file:
            run = _run_in(file, group, h5py)
            steps = int(run.attrs.get("iteration", len(run["chain"])))
            if not steps:
                raise ValueError("expected a run; the file holds no steps.")
            chain, log_prob = run["chain"][:steps], run["log_prob"][:steps]
            blobs, names = "blobs" in run, _names_in(file)
    except OSError as error:
        raise ValueError(f"not a readable HDF5 file ({error}). It may be truncated: copy it again.") from error
    return _table(chain, log_prob, burn_in, thin, source=f"emcee HDF5, group {group!r}", blobs=blobs, names=names)


def read_checkpoint(path: Path, *, burn_in: int | None = None, thin: int | None = None, group: str = "mcmc") -> Table:
    """Returns the table of a stage's checkpoint from `run_stages`; only runs of emcee (see `read_emcee_hdf5`)."""
    if not is_hdf5(path):
        raise ValueError(
            "expected a run of sample_emcee; got one of another sampler, which only that sampler can continue. The "
            "chain that the stage's sampler returned is in chain.npz, in the same folder."
        )
    return read_emcee_hdf5(path, burn_in=burn_in, thin=thin, group=group)


def _names_in(file: Any) -> tuple[str, ...] | None:
    """Returns the parameters in a run of `sample_emcee`, None for other runs; ValueError for latent coordinates."""
    if FORMAT not in file.attrs:
        return None
    try:
        about = json.loads(file.attrs[FORMAT])["about"]
        names = tuple(about["names"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError("the record of which run it holds is damaged. Copy the file again.") from error
    if about.get("coordinates", about.get("space")) == "latent":
        raise ValueError(
            "expected a run in the model's parameters; got one in latent coordinates, which only the model can convert "
            "to parameters. The same call of sample_emcee, with this checkpoint, returns the chain."
        )
    return names


def _run_in(file: Any, group: str, h5py: Any) -> Any:
    """Returns the backend's group. If it does not hold an ensemble's run, ValueError says what the file holds."""
    run = file.get(group)
    if not isinstance(run, h5py.Group) or "chain" not in run or "log_prob" not in run:
        found = {name: shorten(part, 20) if isinstance(part, h5py.Group) else "" for name, part in file.items()}
        got = ", ".join(f"{name!r}{f' with {parts}' if parts else ''}" for name, parts in found.items()) or "nothing"
        raise ValueError(
            f"expected emcee's group {group!r} with 'chain' and 'log_prob'; the file has {got}. {_advice(file, run)}"
        )
    shape = getattr(run["chain"], "shape", None)
    if shape is None or len(shape) != 3:
        got = "a group" if shape is None else f"shape {shape}"
        raise ValueError(
            f"{group}/chain: expected shape (steps, walkers, parameters), for one ensemble; got {got}. If the run has "
            "several temperatures, pass the coldest chain as an array, (walkers, steps, parameters)."
        )
    return run


def _advice(file: Any, run: Any) -> str:
    if "posterior" in file and run is None:
        return "If bilby wrote it, read it with bilby.result.read_in_result and pass the result, or save it as JSON."
    if run is not None and "log_like" in run:
        return "If Eryn wrote it, pass the coldest chain as an array, (walkers, steps, parameters)."
    return "Pass group=... if the backend has another name."


def _alive(log_prob: np.ndarray) -> tuple[np.ndarray, dict[str, str], tuple[str, ...]]:
    """Returns which walkers (walkers,) have a density at any step, and the record and the warning about the others.

    Args:
        log_prob: (steps, walkers).
    """
    dead = np.all(log_prob == -np.inf, axis=0)
    if not dead.any() or dead.all():  # if no walker has a density, Chain raises the error
        return np.ones(len(dead), bool), {}, ()
    said = f"{dead.sum()} of {len(dead)} walkers"
    return (
        ~dead,
        {"walkers": f"{said}, with log density -infinity in all steps"},
        (f"{said} are left out: their log density is -infinity in all steps.",),
    )


def _complaint_of_stuck(chain: np.ndarray, walkers: np.ndarray) -> tuple[str, ...]:
    """Returns a warning about walkers that never moved after the burn-in; empty if there are none.

    Args:
        chain: (steps, walkers, d).
        walkers: (walkers,) their numbers.
    """
    still = np.all(chain == chain[0], axis=(0, 2)) & (len(chain) > 1)
    if not still.any():
        return ()
    return (
        f"{still.sum()} of {len(still)} walkers ({shorten(walkers[still])}) did not move in {len(chain)} steps: "
        "they are stuck, and are not draws from the posterior. Leave them out, or run longer.",
    )


def _table(
    chain: np.ndarray,
    log_prob: np.ndarray,
    burn_in: int | None,
    thin: int | None,
    *,
    source: str,
    blobs: bool,
    names: tuple[str, ...] | None = None,
) -> Table:
    steps, walkers, dim = chain.shape
    alive, left_out, complaints = _alive(log_prob)
    if not alive.all():
        chain, log_prob = chain[:, alive], log_prob[:, alive]
    tau = ensemble_time(chain)
    start = burn_in_of(tau, steps) if burn_in is None else positive_int(burn_in, "burn_in", minimum=0)
    step = thinning_of(tau, steps - start, alive.sum()) if thin is None else positive_int(thin, "thin")
    if start >= steps:
        raise ValueError(f"burn_in: expected fewer than the {steps} steps of the run; got {start}.")
    complaints += _complaint_of_stuck(chain[start:], np.flatnonzero(alive))
    samples, density = (np.swapaxes(values[start::step], 0, 1) for values in (chain, log_prob))
    kept = samples.shape[1]
    left_out["burn-in"] = f"the first {start} of {steps} steps"
    if step > 1:
        left_out["thinning"] = f"one of every {step} steps is kept"
    if blobs:
        left_out["blobs"] = "not a parameter"
    too_short = (
        f"The run is {steps / tau:.0f} autocorrelation times of {tau:.0f} steps long; {LONG_ENOUGH:.0f} are needed "
        "for a reliable result. Run it longer."
    )
    return Table(
        samples.reshape(-1, dim),
        names,
        fields={"log_prob": density.reshape(-1), "chain_id": np.repeat(np.flatnonzero(alive), kept)},
        info={
            "source": source,
            "log_prob": _LOG_PROB,
            "steps": steps,
            "walkers": walkers,
            "autocorrelation_time": tau,
            "burn_in": start,
            "thin": step,
            "left_out": left_out,
        },
        complaints=(*complaints, *(() if steps > LONG_ENOUGH * tau else (too_short,))),
        walkers=True,
        rows="sequence",
    )
