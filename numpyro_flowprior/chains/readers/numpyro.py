"""NumPyro: an MCMC object that has run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..parameters import ParameterSpace, merge_spaces
from ..table import Table, complaint_of_divergences, flattened

_LOG_PROB = "none: potential_energy is on the unconstrained scale, Jacobian included; it is not the posterior's"


def read_numpyro(mcmc: Any) -> Table:
    """Returns the table of a numpyro.infer.MCMC that has run: its sample sites, with chain ids and the model's bounds.

    A site of a prior over named parameters (a FlowPrior) is read under their names, others with a shape as `name[0]`,
    `name[1]`, ... Deterministic sites are derived, and so are whole-numbered ones, which have no density: both are
    read only if a space asks for them. The latent sites of `LatentReparam` are read as what they stand for.
    """
    if not hasattr(mcmc, "get_samples"):
        raise TypeError(f"expected a numpyro.infer.MCMC; got {type(mcmc).__name__}.")
    if getattr(mcmc, "last_state", None) is None:
        raise ValueError("expected an MCMC that has run; got one without draws. Call run first.")
    draws = mcmc.get_samples(group_by_chain=True)
    sites = draws if isinstance(draws, Mapping) else {"theta": draws}
    values = {name: np.asarray(site) for name, site in sites.items()}
    latents = _latents(mcmc)
    spaces = {latent.site: latent.space for latent in latents.values()}
    state = getattr(mcmc.last_state, "z", None)
    moved = state if isinstance(state, Mapping) else values
    sampled = {latents[name].site if name in latents else name for name in moved}
    columns = {name: _columns(name, site, spaces.get(name)) for name, site in values.items()}
    unlike = [name for name, site in values.items() if name not in sampled or site.dtype.kind != "f"]
    chains, length = next(iter(values.values())).shape[:2]
    info: dict[str, Any] = {"source": "NumPyro MCMC", "log_prob": _LOG_PROB}
    diverging = mcmc.get_extra_fields().get("diverging")
    if diverging is not None:
        info["divergences"] = int(np.sum(diverging))
    known = merge_spaces(list(spaces.values())) if spaces else None
    return Table(
        np.concatenate([draws for _, draws in columns.values()], axis=1),
        tuple(name for names, _ in columns.values() for name in names),
        {"chain_id": np.repeat(np.arange(chains), length)},
        dict(zip(known.names, known.bounds.tolist(), strict=True)) if known else {},
        dict(zip(known.names, known.units, strict=True)) if known else {},
        dict(zip(known.names, known.labels, strict=True)) if known else {},
        tuple(name for site in unlike for name in columns[site][0]),
        info=info,
        complaints=complaint_of_divergences(info.get("divergences", 0), chains * length),
    )


def _latents(mcmc: Any) -> Mapping[str, Any]:
    """Returns {sampled site: its name and parameters}, from one more run of the model; none for a bare potential."""
    model = getattr(mcmc.sampler, "model", None)
    if model is None or not hasattr(mcmc, "_args"):
        return {}
    from ...sampling.sites import readable_sites  # from a room below: what a model samples is known there

    return readable_sites(model, mcmc._args, mcmc._kwargs)


def _columns(name: str, site: np.ndarray, space: ParameterSpace | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the names of a site's columns and its draws (chains, draws, *shape) as (chains * draws, columns)."""
    names, values = flattened({name: site.astype(np.float64)}, leading=2)
    if space is None:
        return names, values
    rounded = site.reshape(values.shape)
    for bound in space.bounds.T:  # in float32 a draw next to a bound of 0.1 is 0.10000000149
        values = np.where(rounded == bound.astype(rounded.dtype), bound, values)
    return space.names, values
