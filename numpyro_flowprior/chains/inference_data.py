"""Chains as ArviZ data: InferenceData (ArviZ 0.x) or xarray's DataTree (1.x). ArviZ is imported here alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import jax
import numpy as np

from .._checks import FloatArray, optional_import, shorten
from .chain import Chain
from .parameters import ParameterSpace
from .table import Table, complaint_of_divergences, flattened, to_chain

_PARTS = {"log_prob": "lp", "log_prior": "log_prior", "log_likelihood": "log_likelihood_total"}
_WRITER = "numpyro_flowprior"  # marks our own files: elsewhere "lp" is often the density in other coordinates


class HasLikelihood(Protocol):
    """What `to_arviz` needs of a ModelDensity."""

    observed: dict[str, np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the vector."""

    def log_likelihood_by_site(self, x: Any) -> dict[str, FloatArray]:
        """Returns the log likelihood of each observed site, {site: (n,)}."""


def to_arviz(chain: Chain, density: HasLikelihood | None = None, *, key: jax.Array | None = None) -> Any:
    """Returns a chain as arviz.InferenceData (a DataTree with ArviZ 1.x), one variable per parameter.

    Weighted chains are resampled to round(effective size) rows of equal weight, because InferenceData has no weights;
    rows of unequal chain lengths become a single chain. Log density, log prior and log likelihood go to `sample_stats`
    (as lp, log_prior, log_likelihood_total); units, labels and bounds to the variables' attributes; evidence, its error
    and the chain's info (as JSON) to the attributes of `posterior`.

    Args:
        chain: what to convert.
        density: the ModelDensity that it samples; adds the groups `log_likelihood` (one value per draw and observed
            site) and `observed_data`.
        key: for the resampling of weighted chains; jax.random.key(0) if None.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: the density is of other parameters than the chain.
    """
    arviz = _arviz()
    if density is not None and set(density.names) != set(chain.names):
        raise ValueError(
            f"to_arviz: density: expected the chain's parameters {shorten(chain.names, 40)}; "
            f"got {shorten(density.names, 40)}."
        )
    rows = round(chain.effective_size)
    weighted = chain.weights is not None
    source = chain
    if weighted:
        chain = chain.resample(jax.random.key(0) if key is None else key, max(rows, 1))
    shape = _chains_and_draws(chain)
    order = np.arange(chain.n) if chain.chain_id is None else np.argsort(chain.chain_id, kind="stable")

    def arrange(values: FloatArray) -> FloatArray:
        return values[order].reshape(shape)

    groups: dict[str, Any] = {"posterior": {name: arrange(chain.samples[:, j]) for j, name in enumerate(chain.names)}}
    parts = {stat: getattr(chain, field) for field, stat in _PARTS.items()}
    groups["sample_stats"] = {stat: arrange(values) for stat, values in parts.items() if values is not None}
    if density is not None:
        by_site = density.log_likelihood_by_site(chain.select(density.names).samples)
        groups["log_likelihood"] = {name: arrange(values) for name, values in by_site.items()}
        groups["observed_data"] = dict(density.observed)
    groups = {name: group for name, group in groups.items() if group}
    nested = int(arviz.__version__.split(".")[0]) >= 1  # ArviZ 1.0 takes one nested dictionary
    data = arviz.from_dict(groups) if nested else arviz.from_dict(**groups)
    _describe(data.posterior, source, resampled=weighted)
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
    posterior = getattr(data, "posterior", None)
    if posterior is None:
        groups = getattr(data, "groups", ())
        groups = groups() if callable(groups) else groups
        raise ValueError(f"expected a group 'posterior'; got {shorten(groups) or 'none'}.")
    missing = [name for name in ("chain", "draw") if name not in posterior.sizes]
    if missing:
        raise ValueError(f"posterior: expected dimensions chain and draw; got {shorten(posterior.sizes)}.")
    variables = {str(name): posterior[name].transpose("chain", "draw", ...).values for name in posterior.data_vars}
    words = [name for name, values in variables.items() if values.dtype.kind not in "fiu"]
    numbers = {name: values.astype(np.float64) for name, values in variables.items() if name not in words}
    if not numbers:
        raise ValueError(f"posterior: expected variables of numbers; got {shorten(variables) or 'none'}.")
    names, samples = flattened(numbers, leading=2)
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    fields: dict[str, Any] = {"chain_id": np.repeat(np.arange(chains), draws) if chains > 1 else None}
    stats = getattr(data, "sample_stats", {})
    diverged = int(np.sum(stats["diverging"].values)) if "diverging" in stats else 0
    ours = posterior.attrs.get("written_by") == _WRITER
    if ours:
        fields |= {field: stats[stat].values.ravel() for field, stat in _PARTS.items() if stat in stats}
    return Table(
        samples,
        names,
        fields,
        {name: [posterior[name].attrs[end] for end in ("lower", "upper")] for name in numbers} if ours else {},
        _attributes(posterior, numbers, "units"),
        _attributes(posterior, numbers, "label"),
        evidence={n: posterior.attrs.get(n) for n in ("log_evidence", "log_evidence_error")} if ours else {},
        info=json.loads(posterior.attrs["info"]) if ours else _record(words, "lp" in stats, diverged),
        complaints=complaint_of_divergences(diverged, chains * draws),
    )


def read_netcdf(path: Path) -> Table:
    """Returns the table of a NetCDF file that ArviZ wrote (see `from_arviz`).

    Raises:
        ImportError: ArviZ is not installed.
    """
    try:
        data = _arviz().from_netcdf(str(path))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"not a readable NetCDF file of ArviZ ({error}). It may be truncated: copy it again."
        ) from error
    try:
        return read_arviz(data)
    finally:
        if hasattr(data, "close"):
            data.close()


def _attributes(posterior: Any, names: Iterable[str], attribute: str) -> dict[str, str]:
    values = {name: posterior[name].attrs.get(attribute) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _record(words: list[str], has_lp: bool, diverged: int) -> dict[str, Any]:
    info: dict[str, Any] = {"source": "ArviZ", "log_prob": "none", "divergences": diverged}
    left_out = {name: "not a variable of numbers" for name in words}
    if has_lp:
        left_out["lp"] = "often the density in unconstrained coordinates: not the posterior's"
    return {**info, "left_out": left_out} if left_out else info


def _arviz() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.23 announces its own refactoring on import
        return optional_import("arviz", "arviz", "to_arviz")


def _chains_and_draws(chain: Chain) -> tuple[int, int]:
    if chain.chain_id is None:
        return 1, chain.n
    counts = np.unique(chain.chain_id, return_counts=True)[1]
    return (len(counts), int(counts[0])) if (counts == counts[0]).all() else (1, chain.n)


def _describe(posterior: Any, chain: Chain, *, resampled: bool) -> None:
    space = chain.space
    for name, unit, label, bounds in zip(chain.names, space.units, space.labels, space.bounds, strict=True):
        posterior[name].attrs.update(units=unit, label=label, lower=bounds[0], upper=bounds[1])
    attributes = {"log_evidence": chain.log_evidence, "log_evidence_error": chain.log_evidence_error}
    posterior.attrs.update({name: value for name, value in attributes.items() if value is not None})
    posterior.attrs["written_by"] = _WRITER
    posterior.attrs["info"] = json.dumps(chain.info, default=str)
    posterior.attrs["resampled_from_weights"] = int(resampled)
