"""Reads an MCMC object of NumPyro that has run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .table import Table, columns_of, complaint_of_divergences, declared

_LOG_PROB = "none: potential_energy is on the unconstrained scale, Jacobian included; it is not the posterior density"


def read_numpyro(mcmc: Any) -> Table:
    """Returns the table of a numpyro.infer.MCMC that has run: its sample sites, with chain ids and the model's bounds.

    Columns of a site with a prior over named parameters (a FlowPrior) have the names of the parameters. Those of other
    array sites are `name[0]`, `name[1]`, ... Deterministic sites are derived, and so are integer sites, which have no
    density. Both are read only on request. The latent sites of `LatentReparam` are read as the parameters that they
    represent.
    """
    if not hasattr(mcmc, "get_samples"):
        raise TypeError(f"expected a numpyro.infer.MCMC; got {type(mcmc).__name__}.")
    require_run(mcmc)
    draws = mcmc.get_samples(group_by_chain=True)
    sites = draws if isinstance(draws, Mapping) else {"theta": draws}
    values = {name: np.asarray(site) for name, site in sites.items()}
    latents = _latents(mcmc)
    spaces = {latent.site: latent.space for latent in latents.values()}
    state = getattr(mcmc.last_state, "z", None)
    moved = state if isinstance(state, Mapping) else values
    sampled = {latents[name].site if name in latents else name for name in moved}
    columns = {name: columns_of(name, site, spaces.get(name)) for name, site in values.items()}
    unlike = [name for name, site in values.items() if name not in sampled or site.dtype.kind != "f"]
    chains, length = next(iter(values.values())).shape[:2]
    info: dict[str, Any] = {"source": "NumPyro MCMC", "log_prob": _LOG_PROB}
    diverging = mcmc.get_extra_fields().get("diverging")
    if diverging is not None:
        info["divergences"] = int(np.sum(diverging))
    return Table(
        np.concatenate([draws for _, draws in columns.values()], axis=1),
        tuple(name for names, _ in columns.values() for name in names),
        {"chain_id": np.repeat(np.arange(chains), length)},
        **declared(spaces.values()),
        derived=tuple(name for site in unlike for name in columns[site][0]),
        info=info,
        rows="sequence",
        complaints=complaint_of_divergences(info.get("divergences", 0), chains * length),
    )


def require_run(mcmc: Any) -> None:
    """Raises ValueError if an MCMC has no posterior draws, because it has not run, or only its warm-up has."""
    last = getattr(mcmc, "last_state", None)
    if last is None or last is getattr(mcmc, "post_warmup_state", None):
        got = "one without draws" if last is None else "one that was only warmed up"
        raise ValueError(f"expected an MCMC that has run; got {got}. Call run first.")


def _latents(mcmc: Any) -> Mapping[str, Any]:
    """Returns {sampled site: its name and parameters}, from one run of the model; empty for a bare potential."""
    model = getattr(mcmc.sampler, "model", None)
    if model is None or not hasattr(mcmc, "_args"):
        return {}
    from ..models.sites import readable_sites, trace_of_run  # here: only models need it

    return readable_sites(trace_of_run(mcmc))
