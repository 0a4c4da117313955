"""Chains as ArviZ InferenceData. ArviZ is imported here alone."""

from __future__ import annotations

import json
import warnings
from types import ModuleType
from typing import Any, Protocol

import jax
import numpy as np

from .._checks import FloatArray, optional_import, shorten
from .chain import Chain

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
    """Returns a chain as arviz.InferenceData, one variable per parameter.

    Weighted chains are resampled to round(effective size) rows of equal weight, because InferenceData has no weights;
    rows of unequal chain lengths become a single chain. Log density, log prior and log likelihood go to `sample_stats`
    (as lp, log_prior, log_likelihood_total); units and labels to the variables' attributes; evidence, its error and the
    chain's info (as JSON) to the attributes of `posterior`.

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
    data = arviz.from_dict(**{name: group for name, group in groups.items() if group})
    _describe(data.posterior, source, resampled=weighted)
    return data


def from_arviz(data: Any, space: Any) -> Chain:
    """Returns the posterior of an InferenceData as a Chain: the inverse of `to_arviz` for the space's parameters.

    Log densities, evidence and info are read only from what `to_arviz` wrote, and the densities only with all of its
    parameters. Elsewhere `lp` may belong to other coordinates: NumPyro and PyMC store it in the unconstrained ones.

    Args:
        data: arviz.InferenceData with scalar variables named like the space's parameters.
        space: the parameters to read and their bounds.

    Raises:
        ValueError: a parameter is missing from the posterior group (named).
    """
    posterior = data.posterior
    missing = [name for name in space.names if name not in posterior]
    if missing:
        raise ValueError(f"posterior: expected variables {space.names}; {missing} missing from {list(posterior)}.")
    samples = np.column_stack([posterior[name].values.ravel() for name in space.names])
    chains, draws = posterior.sizes["chain"], posterior.sizes["draw"]
    chain_id = np.repeat(np.arange(chains), draws) if chains > 1 else None
    if posterior.attrs.get("written_by") != _WRITER:
        return Chain(samples, space, chain_id=chain_id)
    stats = getattr(data, "sample_stats", {}) if set(space.names) == set(posterior.data_vars) else {}
    parts = {field: stats[stat].values.ravel() for field, stat in _PARTS.items() if stat in stats}
    evidence = {name: posterior.attrs.get(name) for name in ("log_evidence", "log_evidence_error")}
    return Chain(samples, space, chain_id=chain_id, info=json.loads(posterior.attrs["info"]), **parts, **evidence)


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
    for name, unit, label in zip(chain.names, chain.space.units, chain.space.labels, strict=True):
        posterior[name].attrs.update(units=unit, label=label)
    attributes = {"log_evidence": chain.log_evidence, "log_evidence_error": chain.log_evidence_error}
    posterior.attrs.update({name: value for name, value in attributes.items() if value is not None})
    posterior.attrs["written_by"] = _WRITER
    posterior.attrs["info"] = json.dumps(chain.info, default=str)
    posterior.attrs["resampled_from_weights"] = int(resampled)
