"""Chains as ArviZ data: InferenceData (ArviZ 0.x) or xarray's DataTree (1.x). ArviZ is imported here alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import jax
import numpy as np

from .._checks import FloatArray, optional_import, shorten
from .autocorrelation import steps_of
from .chain import Chain
from .parameters import ParameterSpace
from .table import KINDS, Table, columns_of, complaint_of_divergences, declared, to_chain

_PARTS = {"log_prob": "lp", "log_prior": "log_prior", "log_likelihood": "log_likelihood_total"}
_PER_STEP = {**_PARTS, "family_id": "family_id"}  # in sample_stats, under these names
_WRITER = "numpyro_flowprior"  # marks our own files: elsewhere "lp" is often the density in other coordinates
_ALL_ROWS = "posterior_rows"  # a group with the rows as they were; next, its variables that are no parameters
_PER_ROW = {field: f"row:{field}" for field in (*_PER_STEP, "weights", "chain_id")}
_MOST_STEPS = 200_000  # of longer Markov chains with multiplicities every so many steps are kept
_DERIVED = "deterministic"  # marks the posterior's variables that are functions of the parameters


class HasLikelihood(Protocol):
    """What `to_arviz` needs of a ModelDensity."""

    observed: dict[str, np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the vector."""

    def log_likelihood_by_site(self, x: Any) -> dict[str, FloatArray]:
        """Returns the log likelihood of each observed site, {site: (n,)}."""

    def deterministics(self, x: Any) -> dict[str, FloatArray]:
        """Returns the values of the deterministic sites, {site: (n, *shape)}."""


def to_arviz(chain: Any, density: HasLikelihood | None = None, *, key: jax.Array | None = None) -> Any:
    """Returns a chain as arviz.InferenceData (a DataTree with ArviZ 1.x), one variable per parameter.

    A numpyro.infer.MCMC that has run is taken as `arviz.from_numpyro` does, sites and divergences as they are, with the
    names, units, labels and bounds of learned priors as coordinates of their sites (dimension "<site>_parameter").

    ArviZ knows no weights, and chains of one length only. Rows that count several times are therefore repeated,
    importance weights resampled to round(effective size) rows of equal weight, and rows of unequal chain lengths become
    a single chain; all rows as they were are then in a group of their own, "posterior_rows", from which `from_arviz`
    has them back. Log density, log prior and log likelihood go to `sample_stats` (as lp, log_prior,
    log_likelihood_total), and so does `family_id`; units, labels and bounds to the variables' attributes; evidence, its
    error and the chain's info (as JSON) to the attributes of `posterior`.

    Args:
        chain: the Chain, or the MCMC.
        density: the ModelDensity that a Chain samples; adds the groups `log_likelihood` (one value per draw and
            observed site) and `observed_data`, and to `posterior` the model's deterministic sites.
        key: for the resampling of weighted chains; jax.random.key(0) if None.

    Raises:
        ImportError: ArviZ is not installed.
        TypeError: neither a Chain nor an MCMC.
        ValueError: the density is of other parameters than the chain; or given with an MCMC; or that has not run.
    """
    arviz = arviz_module()
    if hasattr(chain, "get_samples"):
        from ..sampling.named_draws import named_draws  # from a room below: what a model samples is known there

        if density is not None:
            raise ValueError("to_arviz: density: expected none with an MCMC. Pass read_chain(mcmc) in its place.")
        return named_draws(arviz, chain)
    if not isinstance(chain, Chain):
        raise TypeError(f"to_arviz: expected a Chain or a numpyro.infer.MCMC; got {type(chain).__name__}.")
    if density is not None and set(density.names) != set(chain.names):
        raise ValueError(
            f"to_arviz: density: expected the chain's parameters {shorten(chain.names, 40)}; "
            f"got {shorten(density.names, 40)}."
        )
    source, weighted = chain, chain.weights is not None
    if weighted:
        chain = _equally_weighted(chain, jax.random.key(0) if key is None else key)
    shape = _chains_and_draws(chain)
    order = np.arange(chain.n) if chain.chain_id is None else np.argsort(chain.chain_id, kind="stable")

    def arrange(values: FloatArray) -> FloatArray:
        return values[order].reshape(*shape, *values.shape[1:])

    groups: dict[str, Any] = {"posterior": {name: arrange(chain.samples[:, j]) for j, name in enumerate(chain.names)}}
    parts = {stat: getattr(chain, field) for field, stat in _PER_STEP.items()}
    groups["sample_stats"] = {stat: arrange(values) for stat, values in parts.items() if values is not None}
    if density is not None:
        by_site = density.log_likelihood_by_site(chain.select(density.names).samples)
        groups["log_likelihood"] = {name: arrange(values) for name, values in by_site.items()}
        groups["observed_data"] = dict(density.observed)
        derived = density.deterministics(chain.select(density.names).samples)
        groups["posterior"] |= {_free(name, chain.names): arrange(values) for name, values in derived.items()}
    groups = {name: group for name, group in groups.items() if group}
    nested = int(arviz.__version__.split(".")[0]) >= 1  # ArviZ 1.0 takes one nested dictionary
    data = arviz.from_dict(groups) if nested else arviz.from_dict(**groups)
    _describe(data.posterior, source, resampled=weighted)
    for name in set(groups["posterior"]) - set(chain.names):
        data.posterior[name].attrs[_DERIVED] = 1
    if weighted or _lost_chains(source):
        _add_all_rows(data, source)
    return data


def from_arviz(data: Any, space: ParameterSpace | None = None) -> Chain:
    """Returns the posterior of an InferenceData or DataTree as a Chain: the inverse of `to_arviz`.

    Log densities, evidence and info are read only from what `to_arviz` wrote, and the densities only with all of its
    parameters. Elsewhere `lp` may belong to other coordinates: NumPyro and PyMC store it in the unconstrained ones.

    Args:
        data: arviz.InferenceData or xarray.DataTree with a group `posterior`; variables with a shape are read as
            `name[0]`, `name[1]`, ..., by position.
        space: the parameters to read and their bounds; None for all, with the bounds that `to_arviz` wrote.

    Raises:
        ValueError: there is no posterior, or it lacks a parameter (named).
    """
    return to_chain(read_arviz(data), space)


def read_arviz(data: Any) -> Table:
    """Returns the table of an InferenceData's or DataTree's posterior (see `from_arviz`)."""
    table = _read_posterior(data)
    all_rows = getattr(data, _ALL_ROWS, None)
    return table if all_rows is None else _with_all_rows(table, all_rows)


def _read_posterior(data: Any) -> Table:
    posterior = getattr(data, "posterior", None)
    if posterior is None:
        groups = getattr(data, "groups", ())
        groups = groups() if callable(groups) else groups
        raise ValueError(f"expected a group 'posterior'; got {shorten(groups) or 'none'}.")
    missing = [name for name in ("chain", "draw") if name not in posterior.sizes]
    if missing:
        raise ValueError(f"posterior: expected dimensions chain and draw; got {shorten(posterior.sizes)}.")
    ours = posterior.attrs.get("written_by") == _WRITER
    names = [name for name in posterior.data_vars if not (ours and _DERIVED in posterior[name].attrs)]
    variables = {str(name): posterior[name].transpose("chain", "draw", ...).values for name in names}
    words = [name for name, values in variables.items() if values.dtype.kind not in "fiu"]
    numbers = {name: values for name, values in variables.items() if name not in words}
    if not numbers:
        raise ValueError(f"posterior: expected variables of numbers; got {shorten(variables) or 'none'}.")
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    fields: dict[str, Any] = {"chain_id": np.repeat(np.arange(chains), draws) if chains > 1 else None}
    stats = getattr(data, "sample_stats", {})
    diverged = int(np.sum(stats["diverging"].values)) if "diverging" in stats else 0
    if ours:
        fields |= {field: stats[stat].values.ravel() for field, stat in _PER_STEP.items() if stat in stats}
    spaces = {name: _space_of(posterior[name], ours) for name in numbers}
    columns = [columns_of(name, values, spaces[name]) for name, values in numbers.items()]
    return Table(
        np.concatenate([draws for _, draws in columns], axis=1),
        tuple(name for names, _ in columns for name in names),
        fields,
        **declared(space for space in spaces.values() if space is not None),
        evidence={n: posterior.attrs.get(n) for n in ("log_evidence", "log_evidence_error")} if ours else {},
        rows=posterior.attrs.get("rows") if ours else None,
        info=json.loads(posterior.attrs["info"]) if ours else _record(words, "lp" in stats, diverged),
        complaints=complaint_of_divergences(diverged, chains * draws),
    )


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


def _free(name: str, taken: Sequence[str]) -> str:
    """Returns a deterministic site's name, marked as such where a parameter has it."""
    return f"{name} (site)" if name in taken else name


def _space_of(variable: Any, ours: bool) -> ParameterSpace | None:
    """Returns the parameters of a variable's columns, as `to_arviz` describes them; units and labels of anybody's."""
    name = str(variable.name)
    if f"{name}_parameter" in variable.dims and f"{name}_lower" in variable.coords and variable.ndim == 3:
        names, lower, upper, units, labels = (
            variable.coords[f"{name}_{what}"].values.tolist()
            for what in ("parameter", "lower", "upper", "unit", "label")
        )
        return ParameterSpace(names, lower, upper, units=units, labels=labels)
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


def _record(words: list[str], has_lp: bool, diverged: int) -> dict[str, Any]:
    info: dict[str, Any] = {"source": "ArviZ", "log_prob": "none", "divergences": diverged}
    left_out = {name: "not a variable of numbers" for name in words}
    if has_lp:
        left_out["lp"] = "often the density in unconstrained coordinates: not the posterior's"
    return {**info, "left_out": left_out} if left_out else info


def arviz_module() -> ModuleType:
    """Returns ArviZ; ImportError if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.23 announces its own refactoring on import
        return optional_import("arviz", "arviz", "to_arviz")


def _equally_weighted(chain: Chain, key: jax.Array) -> Chain:
    """Returns rows of equal weight: a Markov chain's steps, or as many draws of weighted rows as they are worth."""
    if chain.weights_kind == "counts" and chain.rows == "sequence":
        assert chain.weights is not None
        assert chain.dependence.sequences is not None
        every = max(1, round(float(chain.weights.sum()) / _MOST_STEPS))
        steps = steps_of(chain.dependence.sequences, chain.weights, every)
        return chain.take(np.concatenate(steps)).replace(weights=None)
    return chain.resample(key, max(round(chain.effective_size), 1))


def _chains_and_draws(chain: Chain) -> tuple[int, int]:
    if chain.chain_id is None:
        return 1, chain.n
    counts = np.unique(chain.chain_id, return_counts=True)[1]
    return (len(counts), int(counts[0])) if (counts == counts[0]).all() else (1, chain.n)


def _lost_chains(chain: Chain) -> bool:
    return chain.chain_id is not None and _chains_and_draws(chain) == (1, chain.n)


def _add_all_rows(data: Any, chain: Chain) -> None:
    """Adds the chain's rows as they are, so that nothing of them is lost in the file."""
    per_row = {name: getattr(chain, field) for field, name in _PER_ROW.items()}
    columns = {name: chain.samples[:, j] for j, name in enumerate(chain.names)}
    columns |= {name: values for name, values in per_row.items() if values is not None}
    rows = data.posterior.to_dataset() if hasattr(data.posterior, "to_dataset") else data.posterior
    rows = rows.drop_vars(list(rows.variables)).assign({name: ("row", values) for name, values in columns.items()})
    rows.attrs = {"written_by": _WRITER, "resampled_to": data.posterior.sizes["draw"] * data.posterior.sizes["chain"]}
    rows.attrs |= {name: getattr(chain, name) for name in KINDS if getattr(chain, name) is not None}
    if hasattr(data, "add_groups"):
        data.add_groups({_ALL_ROWS: rows}, warn_on_custom_groups=False)
    else:
        data[_ALL_ROWS] = type(data)(dataset=rows)


def _with_all_rows(table: Table, rows: Any) -> Table:
    """Returns the table with the rows that its posterior was made of; as it is if somebody changed the posterior."""
    names = tuple(str(name) for name in rows.data_vars if name not in _PER_ROW.values())
    if rows.attrs.get("written_by") != _WRITER or table.names != names:
        return table
    if len(table.samples) != rows.attrs["resampled_to"]:
        return table
    fields = {field: rows[name].values for field, name in _PER_ROW.items() if name in rows}
    samples = np.column_stack([rows[name].values for name in names])
    kinds: dict[str, Any] = {name: rows.attrs.get(name) for name in KINDS}
    return replace(table, samples=samples, fields=fields, **kinds)


def _describe(posterior: Any, chain: Chain, *, resampled: bool) -> None:
    space = chain.space
    for name, unit, label, bounds in zip(chain.names, space.units, space.labels, space.bounds, strict=True):
        posterior[name].attrs.update(units=unit, label=label, lower=bounds[0], upper=bounds[1])
    attributes = {"log_evidence": chain.log_evidence, "log_evidence_error": chain.log_evidence_error}
    posterior.attrs.update({name: value for name, value in attributes.items() if value is not None})
    posterior.attrs["written_by"] = _WRITER
    posterior.attrs["info"] = json.dumps(chain.info, default=str)
    posterior.attrs["resampled_from_weights"] = int(resampled)
    posterior.attrs["rows"] = chain.rows
