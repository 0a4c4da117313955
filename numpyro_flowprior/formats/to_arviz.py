"""Converts chains to ArviZ data: InferenceData (ArviZ 0.x) or xarray's DataTree (1.x)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from .._util.checks import FloatArray, shorten
from ..chains.autocorrelation import steps_of
from ..chains.chain import Chain
from ..chains.variables import Variable, all_storable, labels_of, storable, variables_of
from .from_arviz import (
    ALL_ROWS,
    DERIVED,
    PARAMETERS,
    PER_ROW,
    PER_ROW_DERIVED,
    PER_STEP,
    RIDING,
    WRITER,
    arviz_module,
    digest_of,
)
from .table import KINDS

_MOST_STEPS = 200_000  # longer Markov chains with multiplicities are thinned to about this many steps
_MOST_VALUES = 2**28  # pointwise log likelihoods: 2 GiB


class HasLikelihood(Protocol):
    """The part of a ModelDensity that `to_arviz` needs."""

    observed: dict[str, np.ndarray]
    arrays: dict[str, Variable]  # of all sites
    variables: dict[str, Variable]  # of the parameters

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the vector."""

    def log_likelihood_by_site(self, x: Any, *, pointwise: bool = False) -> dict[str, FloatArray]:
        """Returns the log likelihood of each observed site, {site: (n,)}, or of each of its observations."""

    def deterministics(self, x: Any) -> dict[str, FloatArray]:
        """Returns the values of the deterministic sites, {site: (n, *shape)}."""


def to_arviz(
    chain: Any,
    density: HasLikelihood | None = None,
    *,
    pointwise: bool = True,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    key: jax.Array | None = None,
) -> Any:
    """Returns a chain as arviz.InferenceData (a DataTree with ArviZ 1.x).

    Parameters are variables under their own names. Columns `x[0]`, `x[1]`, ... that form an array are one variable x. A
    slash in a name becomes a dot, because NetCDF does not allow slashes. With the model's density, dimensions have the
    names of the plates, as in `arviz.from_numpyro`. The copies of a learned prior in a plate are then one variable. Its
    last dimension, "<site>_parameter", has the names of the parameters as coordinates.

    A numpyro.infer.MCMC that has run is converted by `arviz.from_numpyro`, with unchanged sites and divergences. Every
    site that draws from a learned prior has this last dimension.

    ArviZ does not support weights, or chains of unequal lengths. Rows that count several times are therefore repeated.
    Rows with importance weights are resampled to round(effective size) rows of equal weight. Chains of unequal lengths
    become a single chain. In these cases the group "posterior_rows" has the original rows, and `from_arviz` reads them.

    Derived quantities of the chain are variables of the posterior, too, marked as deterministic.

    Log density, log prior and log likelihood go to `sample_stats` (as lp, log_prior, log_likelihood_total), and so does
    `family_id`. Units, labels and bounds go to the attributes of the variables. The evidence, its error and the info of
    the chain (as JSON) go to the attributes of `posterior`.

    Args:
        chain: the Chain, or the MCMC.
        density: the ModelDensity that a Chain samples. It adds the groups `log_likelihood` (one value per draw and
            observation, which `arviz.loo` needs) and `observed_data`, and the deterministic sites in `posterior`.
            Observations that depend on each other, such as one draw of a multivariate normal, count as one.
        pointwise: False for one log likelihood per draw and observed *site*; for an MCMC, False for none.
        dims: {variable or site: names of its dimensions}, instead of those of the model.
        coords: {dimension: values along it}.
        key: for the resampling of weighted chains; jax.random.key(0) if None.

    Raises:
        ImportError: ArviZ is not installed.
        TypeError: `chain` is neither a Chain nor an MCMC.
        ValueError: the density has other parameters than the chain, or is given with an MCMC; the MCMC has not run;
            dims or coords are for something that does not exist, or have another length; the log likelihoods need more
            than 2 GiB.
    """
    arviz = arviz_module()
    if hasattr(chain, "get_samples"):
        from .mcmc_to_arviz import named_draws  # imported here: only an MCMC needs it

        if density is not None:
            raise ValueError("to_arviz: density: expected none with an MCMC. Pass read_chain(mcmc) instead of it.")
        return named_draws(arviz, chain, log_likelihood=pointwise, dims=dims or {}, coords=coords or {})
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

    variables = variables_of(chain.names) if density is None else density.variables
    parts = {stat: getattr(chain, field) for field, stat in PER_STEP.items()}
    groups = {
        "posterior": {name: _values(chain, variable) for name, variable in variables.items()},
        "sample_stats": {stat: values for stat, values in parts.items() if values is not None},
    }
    arrays = dict(variables)
    riding = variables_of(tuple(chain.derived)) if chain.derived else {}
    for name, variable in riding.items():
        if name in variables:
            raise ValueError(
                f"to_arviz: expected derived quantities with other names than the parameters; got {name!r} twice, as a "
                "variable of ArviZ. Rename one."
            )
        columns = np.column_stack([chain.derived[each] for each in variable.names])
        groups["posterior"][name], arrays[name] = columns.reshape(chain.n, *variable.shape), variable
    if density is not None:
        _add_sites(groups, arrays, density, chain, pointwise)
    for name, group in groups.items():
        groups[name] = group if name == "observed_data" else {each: arrange(values) for each, values in group.items()}
    groups = {name: group for name, group in groups.items() if group}
    groups = {name: {storable(each): values for each, values in group.items()} for name, group in groups.items()}
    variables, arrays = all_storable(variables), all_storable(arrays)
    labels: dict[str, Any] = labels_of(
        arrays, {storable(name): given for name, given in (dims or {}).items()}, coords or {}
    )
    nested = int(arviz.__version__.split(".")[0]) >= 1  # ArviZ 1.0 takes one nested dictionary
    data = arviz.from_dict(groups, **labels) if nested else arviz.from_dict(**groups, **labels)
    _describe(data.posterior, source, variables, resampled=weighted)
    for name in set(groups["posterior"]) - set(variables):
        data.posterior[name].attrs[DERIVED] = 1
    data.posterior.attrs[RIDING] = json.dumps({storable(name): list(each.names) for name, each in riding.items()})
    if weighted or _lost_chains(source):
        _add_all_rows(data, source, chain)
    return data


def _add_sites(groups: Any, arrays: dict[str, Variable], density: HasLikelihood, chain: Chain, pointwise: bool) -> None:
    """Adds the model's sites at the rows of a chain to `groups`, {group: {name: values (n, ...)}}, and to `arrays`."""
    x = chain.select(density.names).samples
    if pointwise:
        _require_room(density, x)
    for name, values in density.deterministics(x).items():
        free = _free(name, density.variables)
        groups["posterior"][free], arrays[free] = values, density.arrays[name]
    by_site = density.log_likelihood_by_site(x, pointwise=pointwise)
    groups["log_likelihood"] = {_free(name, density.variables): values for name, values in by_site.items()}
    groups["observed_data"] = {}
    for name, value in density.observed.items():
        free = _free(name, density.variables)
        groups["observed_data"][free] = np.broadcast_to(value, density.arrays[name].shape)
        arrays[free] = density.arrays[name]


def _values(chain: Chain, variable: Variable) -> FloatArray:
    """Returns a variable's draws (n, *shape)."""
    return chain.select(variable.names).samples.reshape(chain.n, *variable.shape)


def _require_room(density: HasLikelihood, x: FloatArray) -> None:
    draws = len(x)
    if draws * sum(np.prod(density.arrays[name].shape) for name in density.observed) <= _MOST_VALUES:
        return  # an upper limit: all values of a multivariate distribution are one observation
    one = density.log_likelihood_by_site(x[:1], pointwise=True)
    observations = sum(values.size for values in one.values())
    if draws * observations > _MOST_VALUES:
        raise ValueError(
            f"to_arviz: expected at most {_MOST_VALUES:.3g} pointwise log likelihoods; got {draws} draws of "
            f"{observations} observations. Keep fewer rows (chain.thin), or pass pointwise=False."
        )


def _free(name: str, taken: Mapping[str, Variable]) -> str:
    """Returns the name of a deterministic or observed site, marked as such if a parameter has the same name."""
    return f"{name} (site)" if name in taken else name


def _equally_weighted(chain: Chain, key: jax.Array) -> Chain:
    """Returns rows of equal weight: the steps of a Markov chain, or weighted rows resampled to their effective size."""
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


def _add_all_rows(data: Any, chain: Chain, resampled: Chain) -> None:
    """Adds the original rows of the chain, so that the file loses nothing."""
    per_row = {name: getattr(chain, field) for field, name in PER_ROW.items()}
    columns = {storable(name): chain.samples[:, j] for j, name in enumerate(chain.names)}
    columns |= {name: values for name, values in per_row.items() if values is not None}
    columns |= {f"{PER_ROW_DERIVED}{j}": values for j, values in enumerate(chain.derived.values())}
    rows = data.posterior.to_dataset() if hasattr(data.posterior, "to_dataset") else data.posterior
    rows = rows.drop_vars(list(rows.variables)).assign({name: ("row:", values) for name, values in columns.items()})
    rows.attrs = {"written_by": WRITER, "resampled_to": data.posterior.sizes["draw"] * data.posterior.sizes["chain"]}
    rows.attrs["resampled_digest"] = digest_of(resampled.samples)
    rows.attrs |= {name: getattr(chain, name) for name in KINDS if getattr(chain, name) is not None}
    if hasattr(data, "add_groups"):
        data.add_groups({ALL_ROWS: rows}, warn_on_custom_groups=False)
    else:
        data[ALL_ROWS] = type(data)(dataset=rows)


def _describe(posterior: Any, chain: Chain, variables: Mapping[str, Variable], *, resampled: bool) -> None:
    space = chain.space
    for name, unit, label, bounds in zip(
        map(storable, chain.names), space.units, space.labels, space.bounds, strict=True
    ):
        if name in variables:
            posterior[name].attrs.update(units=unit, label=label, lower=bounds[0], upper=bounds[1])
    attributes = {"log_evidence": chain.log_evidence, "log_evidence_error": chain.log_evidence_error}
    posterior.attrs.update({name: value for name, value in attributes.items() if value is not None})
    posterior.attrs["written_by"] = WRITER
    columns = {name: list(variable.names) for name, variable in variables.items()}
    posterior.attrs[PARAMETERS] = json.dumps({"space": space.to_json(), "variables": columns})
    posterior.attrs["info"] = json.dumps(chain.info, default=str)
    posterior.attrs["resampled_from_weights"] = int(resampled)
    posterior.attrs["rows"] = chain.rows
