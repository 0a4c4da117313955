"""Reads ArviZ data as chains: InferenceData (ArviZ 0.x) or xarray's DataTree (1.x). Only this module imports ArviZ."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .._util.checks import FloatArray, optional_import, shorten
from ..chains.chain import Chain
from ..chains.parameters import ParameterSpace
from ..chains.variables import parameter_dim, storable
from .table import KINDS, Table, columns_of, complaint_of_divergences, declared, to_chain

# Names that only `to_arviz` writes
WRITER = "numpyro_flowprior"  # marks our own files: in other files "lp" is often the density in other coordinates
PER_STEP = {  # {field of a chain: its name in sample_stats}
    "log_prob": "lp",
    "log_prior": "log_prior",
    "log_likelihood": "log_likelihood_total",
    "family_id": "family_id",
}
ALL_ROWS = "posterior_rows"  # a group with the original rows; PER_ROW has its variables that are not parameters
PER_ROW = {field: f"row:{field}" for field in (*PER_STEP, "weights", "chain_id")}
PER_ROW_DERIVED = "derived:"  # and a number: its variables that are derived quantities of the chain, in order
RIDING = "derived"  # attribute of the posterior: {variable: names of its columns} of these quantities
DERIVED = "deterministic"  # marks variables of the posterior that are functions of the parameters
PARAMETERS = "parameters"  # attribute of the posterior: variables, bounds, units and labels of the parameters


def from_arviz(data: Any, space: ParameterSpace | None = None) -> Chain:
    """Returns the posterior of an InferenceData or DataTree as a Chain. This is the inverse of `to_arviz`.

    Log densities, derived quantities of a chain, evidence and info are read only from data that `to_arviz` wrote, and
    the densities only together with all parameters. In other data `lp` may belong to other coordinates: NumPyro and
    PyMC store it in unconstrained ones.

    Args:
        data: arviz.InferenceData or xarray.DataTree with a group `posterior`. Elements of array variables are read as
            `name[0]`, `name[1]`, ..., by position.
        space: the parameters to read and their bounds; None for all, with the bounds that `to_arviz` wrote.

    Raises:
        ValueError: there is no posterior, or a parameter is missing (named).
    """
    return to_chain(read_arviz(data), space)


def read_arviz(data: Any) -> Table:
    """Returns the table of an InferenceData's or DataTree's posterior (see `from_arviz`)."""
    table = _read_posterior(data)
    all_rows = getattr(data, ALL_ROWS, None)
    return table if all_rows is None else _with_all_rows(table, all_rows)


def read_netcdf(path: Path) -> Table:
    """Returns the table of a NetCDF file that ArviZ wrote (see `from_arviz`).

    Raises:
        ImportError: ArviZ is not installed.
    """
    try:
        data = arviz_module().from_netcdf(str(path))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"not a readable NetCDF file of ArviZ ({error}). It may be truncated: copy it again."
        ) from error
    try:
        return read_arviz(data)
    finally:
        if hasattr(data, "close"):
            data.close()


def arviz_module() -> ModuleType:
    """Returns the module arviz; ImportError if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.23 announces its own refactoring on import
        return optional_import("arviz", "arviz", "to_arviz")


def _read_posterior(data: Any) -> Table:
    posterior = getattr(data, "posterior", None)
    if posterior is None:
        groups = getattr(data, "groups", ())
        groups = groups() if callable(groups) else groups
        raise ValueError(f"expected a group 'posterior'; got {shorten(groups) or 'none'}.")
    missing = [name for name in ("chain", "draw") if name not in posterior.sizes]
    if missing:
        raise ValueError(f"posterior: expected dimensions chain and draw; got {shorten(posterior.sizes)}.")
    ours = posterior.attrs.get("written_by") == WRITER
    without = [name for name in posterior.data_vars if not {"chain", "draw"} <= {*posterior[name].dims}]
    names = [
        name for name in posterior.data_vars if name not in without and not (ours and DERIVED in posterior[name].attrs)
    ]
    variables = {str(name): posterior[name].transpose("chain", "draw", ...).values for name in names}
    words = [name for name, values in variables.items() if values.dtype.kind not in "fiu"]
    numbers = {name: values for name, values in variables.items() if name not in words}
    if not numbers:
        raise ValueError(f"posterior: expected numeric variables; got {shorten(variables) or 'none'}.")
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    fields: dict[str, Any] = {"chain_id": np.repeat(np.arange(chains), draws) if chains > 1 else None}
    stats = getattr(data, "sample_stats", {})
    diverged = int(np.sum(stats["diverging"].values)) if "diverging" in stats else 0
    if ours:
        fields |= {field: stats[stat].values.ravel() for field, stat in PER_STEP.items() if stat in stats}
    written = json.loads(posterior.attrs[PARAMETERS]) if ours and PARAMETERS in posterior.attrs else None
    spaces = {name: _written_space(posterior[name], written) or _space_of(posterior[name], ours) for name in numbers}
    riding = json.loads(posterior.attrs.get(RIDING, "{}")) if ours else {}
    riding = {name: columns for name, columns in riding.items() if name in posterior.data_vars}
    parts = [columns_of(name, values, spaces[name]) for name, values in numbers.items()]
    for name, own in riding.items():
        parts.append((tuple(own), columns_of(name, posterior[name].transpose("chain", "draw", ...).values, None)[1]))
    columns = [name for names, _ in parts for name in names]
    places = {name: place for place, name in enumerate(written["space"]["names"])} if written else {}
    order = sorted(range(len(columns)), key=lambda j: places.get(columns[j], len(places)))
    return Table(
        np.concatenate([draws for _, draws in parts], axis=1)[:, order],
        tuple(columns[j] for j in order),
        fields,
        derived=tuple(name for own in riding.values() for name in own),
        **declared(space for space in spaces.values() if space is not None),
        evidence={n: posterior.attrs.get(n) for n in ("log_evidence", "log_evidence_error")} if ours else {},
        rows=posterior.attrs.get("rows") if ours else None,
        info=json.loads(posterior.attrs["info"]) if ours else _record(words, without, "lp" in stats, diverged),
        complaints=complaint_of_divergences(diverged, chains * draws),
    )


def _with_all_rows(table: Table, rows: Any) -> Table:
    """Returns the table with the original rows, or unchanged if the posterior was modified since it was written."""
    names = [str(name) for name in rows.data_vars if name not in PER_ROW.values()]
    own = [name for name in table.names or () if name not in table.derived]
    expected = [*map(storable, own), *(f"{PER_ROW_DERIVED}{j}" for j in range(len(table.derived)))]
    if rows.attrs.get("written_by") != WRITER or names != expected:
        return table
    columns = [j for j, name in enumerate(table.names or ()) if name in own]
    if len(table.samples) != rows.attrs["resampled_to"]:
        return table
    if rows.attrs.get("resampled_digest") not in (None, digest_of(table.samples[:, columns])):
        return table
    fields = {field: rows[name].values for field, name in PER_ROW.items() if name in rows}
    samples = np.column_stack([rows[name].values for name in names])
    kinds: dict[str, Any] = {name: rows.attrs.get(name) for name in KINDS}
    return replace(table, samples=samples, names=(*own, *table.derived), fields=fields, **kinds)


def digest_of(samples: FloatArray) -> str:
    """Returns a fingerprint of samples (n, d) that does not depend on the order of the rows."""
    return hashlib.sha256(np.ascontiguousarray(np.sort(samples, axis=0)).tobytes()).hexdigest()


def _written_space(variable: Any, written: Any) -> ParameterSpace | None:
    """Returns the parameters that `to_arviz` recorded for a variable; None if there are none, or not as many."""
    names = written["variables"].get(variable.name) if written else None
    if names is None or len(names) != np.prod(variable.shape) // (variable.sizes["chain"] * variable.sizes["draw"]):
        return None
    return ParameterSpace.from_json(written["space"]).select(names)


def _space_of(variable: Any, ours: bool) -> ParameterSpace | None:
    """Returns the parameters of a variable's columns from its coordinates or attributes, None if there are none.

    Bounds in attributes are read only from our own data, units and labels from any data.
    """
    name = str(variable.name)
    if variable.dims[-1] == parameter_dim(name) and f"{name}_lower" in variable.coords:
        names, lower, upper, units, labels = (
            variable.coords[f"{name}_{what}"].values.tolist()
            for what in ("parameter", "lower", "upper", "unit", "label")
        )
        space = ParameterSpace(names, lower, upper, units=units, labels=labels)
        copies = np.prod([size for dim, size in variable.sizes.items() if dim not in ("chain", "draw")]) // space.dim
        return space.repeated(name, int(copies))
    if variable.ndim != 2:
        return None
    bounds = variable.attrs if ours else {}
    unit, label = (variable.attrs.get(what) for what in ("units", "label"))
    return ParameterSpace(
        [name],
        [bounds.get("lower", -np.inf)],
        [bounds.get("upper", np.inf)],
        units=[unit if isinstance(unit, str) else ""],
        labels=[label if isinstance(label, str) else name],
    )


def _record(words: list[str], without: list[str], has_lp: bool, diverged: int) -> dict[str, Any]:
    info: dict[str, Any] = {"source": "ArviZ", "log_prob": "none", "divergences": diverged}
    left_out = {name: "not a numeric variable" for name in words}
    left_out |= {str(name): "does not have the dimensions chain and draw" for name in without}
    if has_lp:
        left_out["lp"] = "often the density in unconstrained coordinates, which is not the posterior density"
    return {**info, "left_out": left_out} if left_out else info
