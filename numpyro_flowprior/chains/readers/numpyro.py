"""NumPyro: an MCMC object that has run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..table import Table, complaint_of_divergences, flattened

_LOG_PROB = "none: potential_energy is on the unconstrained scale, Jacobian included; it is not the posterior's"


def read_numpyro(mcmc: Any) -> Table:
    """Returns the table of a numpyro.infer.MCMC that has run: its sample sites, with chain ids.

    Sites with a shape become `name[0]`, `name[1]`, ... Deterministic sites are derived, and so are whole-numbered ones,
    which have no density: both are read only if a space asks for them.
    """
    if not hasattr(mcmc, "get_samples"):
        raise TypeError(f"expected a numpyro.infer.MCMC; got {type(mcmc).__name__}.")
    if getattr(mcmc, "last_state", None) is None:
        raise ValueError("expected an MCMC that has run; got one without draws. Call run first.")
    draws = mcmc.get_samples(group_by_chain=True)
    sites = draws if isinstance(draws, Mapping) else {"theta": draws}
    values = {name: np.asarray(site) for name, site in sites.items()}
    latent = getattr(mcmc.last_state, "z", None)
    sampled = set(latent) if isinstance(latent, Mapping) else set(values)
    real = {name for name, site in values.items() if site.dtype.kind == "f"}
    names, samples = flattened({name: site.astype(np.float64) for name, site in values.items()}, leading=2)
    owner = [name for name, site in values.items() for _ in range(int(np.prod(site.shape[2:])))]
    chains, length = next(iter(values.values())).shape[:2]
    info: dict[str, Any] = {"source": "NumPyro MCMC", "log_prob": _LOG_PROB}
    diverging = mcmc.get_extra_fields().get("diverging")
    if diverging is not None:
        info["divergences"] = int(np.sum(diverging))
    return Table(
        samples,
        names,
        {"chain_id": np.repeat(np.arange(chains), length)},
        derived=tuple(name for name, site in zip(names, owner, strict=True) if site not in sampled & real),
        info=info,
        complaints=complaint_of_divergences(info.get("divergences", 0), chains * length),
    )
