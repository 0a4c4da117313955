"""A NumPyro run as ArviZ data whose coordinates are the parameters of the priors that it drew from."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from ..chains.parameters import ParameterSpace
from .sites import readable_sites


def named_draws(arviz: ModuleType, mcmc: Any) -> Any:
    """Returns what arviz.from_numpyro makes of an MCMC, its priors' sites with a dimension "<site>_parameter".

    Its coordinates are the parameters' names; units, labels and bounds are coordinates along it, "<site>_unit" and so
    on. The log likelihood is left out: ArviZ would compute it anew.

    Args:
        arviz: the module, of 0.x or 1.x.
        mcmc: numpyro.infer.MCMC that has run.
    """
    if getattr(mcmc, "last_state", None) is None:
        raise ValueError("to_arviz: expected an MCMC that has run; got one without draws. Call run first.")
    model = getattr(mcmc.sampler, "model", None)
    latents = {} if model is None else readable_sites(model, mcmc._args, mcmc._kwargs)
    named = {latent.site: latent.named for latent in latents.values() if latent.named is not None}
    shapes = {site: np.shape(draws) for site, draws in mcmc.get_samples().items() if site in named}
    dims = {site: [*(f"{site}_dim_{j}" for j in range(len(shape) - 2)), _dim(site)] for site, shape in shapes.items()}
    coords = {_dim(site): list(named[site].names) for site in shapes}
    data = arviz.from_numpyro(mcmc, log_likelihood=False, dims=dims, coords=coords)
    for site in shapes:
        data.posterior.coords.update(_along(site, named[site]))
    return data


def _dim(site: str) -> str:
    return f"{site}_parameter"


def _along(site: str, space: ParameterSpace) -> dict[str, Any]:
    values = {"unit": space.units, "label": space.labels, "lower": space.lower, "upper": space.upper}
    return {f"{site}_{what}": (_dim(site), list(each)) for what, each in values.items()}
