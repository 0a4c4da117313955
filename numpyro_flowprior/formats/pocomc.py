"""Reads pocoMC samplers, and the pickled dictionary that analyses publish (chain, weights, logl, ...)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import read_array, read_dict
from .pickles import load_plain
from .table import Table


def read_pocomc(sampler: Any) -> Table:
    """Returns the table of a pocomc.Sampler that has run: all particles with weights, log densities and evidence."""
    if not hasattr(sampler, "posterior"):
        raise TypeError(f"expected a pocomc.Sampler; got {type(sampler).__name__}.")
    if getattr(sampler, "particles", None) is None or not len(sampler.particles.get("x", flat=True)):
        raise ValueError("expected a sampler that has run; got one without particles. Call run first.")
    samples, weights, log_likelihood, log_prior = sampler.posterior(trim_importance_weights=False)
    log_evidence, error = sampler.evidence()
    record = {"chain": samples, "weights": weights, "logl": log_likelihood, "logp": log_prior}
    return read_dict({**record, "logz": log_evidence, "logz_err": error})


def read_pickle(path: Path, *, parameters: Sequence[str] = ()) -> Table:
    """Returns the table of a pickled dictionary or array, read without running code (see `pickles`)."""
    with path.open("rb") as file:
        content = load_plain(file)
    if isinstance(content, Mapping):
        return read_dict(content, parameters=parameters)
    if isinstance(content, np.ndarray):
        return read_array(content, parameters=parameters)
    raise ValueError(f"expected a pickled dictionary or array; got {type(content).__name__}.")
