"""A NumPyro run as ArviZ data whose coordinates are the parameters of the priors that it drew from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._util.checks import shorten
from .._util.messages import FlowPriorWarning
from ..chains.parameters import ParameterSpace
from ..chains.variables import labels_of, parameter_dim
from ..models.dimensions import arrays_of_sites
from ..models.sites import observed_sites, readable_sites, trace_of_run
from .numpyro import require_run


def named_draws(
    arviz: ModuleType,
    mcmc: Any,
    *,
    log_likelihood: bool,
    dims: Mapping[str, Sequence[str]],
    coords: Mapping[str, Sequence[Any]],
) -> Any:
    """Returns what arviz.from_numpyro makes of an MCMC, its priors' sites with a dimension "<site>_parameter".

    Its coordinates are the parameters' names; units, labels and bounds are coordinates along it, "<site>_unit" and so
    on. A model with sites that were summed out has no log likelihood at the draws of the others: a warning says so.

    Args:
        arviz: the module, of 0.x or 1.x.
        mcmc: numpyro.infer.MCMC that has run.
        log_likelihood: whether that of each observation is computed.
        dims: as in `to_arviz`.
        coords: as in `to_arviz`.
    """
    require_run(mcmc)
    draws = mcmc.get_samples()
    if getattr(mcmc.sampler, "model", None) is None:  # a potential alone
        return arviz.from_numpyro(mcmc, log_likelihood=False, dims=dims, coords=coords)
    found = trace_of_run(mcmc)
    arrays = arrays_of_sites(found)
    kept = {name: arrays[name] for name in (*draws, *observed_sites(found)) if name in arrays}
    log_likelihood = log_likelihood and _are_all_there(found, draws)
    # JAX takes an array of data in one precision alone: that of the run
    double = any(np.asarray(values).dtype == np.float64 for values in draws.values())
    with jax.enable_x64(double or jnp.result_type(float) == jnp.float64):
        data = arviz.from_numpyro(mcmc, log_likelihood=log_likelihood, **labels_of(kept, dims, coords))
    for latent in readable_sites(found).values():
        if latent.named is not None and latent.site in draws:
            data.posterior.coords.update(_along(latent.site, latent.named))
    return data


def _are_all_there(model_trace: dict[str, Any], draws: Mapping[str, Any]) -> bool:
    """Returns whether the draws have all latent sites; warns if not."""
    latent = [name for name, site in model_trace.items() if site["type"] == "sample" and not site["is_observed"]]
    missing = [name for name in latent if name not in draws]
    if missing:
        warnings.warn(
            f"to_arviz: no log likelihood: the run has no draws of {shorten(missing)} (summed out?).",
            FlowPriorWarning,
            stacklevel=5,
        )
    return not missing


def _along(site: str, space: ParameterSpace) -> dict[str, Any]:
    values = {"unit": space.units, "label": space.labels, "lower": space.lower, "upper": space.upper}
    return {f"{site}_{what}": (parameter_dim(site), list(each)) for what, each in values.items()}
