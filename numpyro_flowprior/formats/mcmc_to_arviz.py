"""Converts a NumPyro run to ArviZ data, with the parameters of its priors as coordinates."""

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
    """Returns the ArviZ data of an MCMC from arviz.from_numpyro; sites of priors get a dimension "<site>_parameter".

    The coordinates of this dimension are the names of the parameters. Units, labels and bounds are further coordinates
    along it, "<site>_unit" and so on. If sites were summed out, there is no log likelihood at the draws of the other
    sites: a warning says so.

    Args:
        arviz: the module, of 0.x or 1.x.
        mcmc: numpyro.infer.MCMC that has run.
        log_likelihood: whether to compute the log likelihood of each observation.
        dims: as in `to_arviz`.
        coords: as in `to_arviz`.
    """
    require_run(mcmc)
    draws = mcmc.get_samples()
    if getattr(mcmc.sampler, "model", None) is None:  # only a potential
        return arviz.from_numpyro(mcmc, log_likelihood=False, dims=dims, coords=coords)
    found = trace_of_run(mcmc)
    arrays = arrays_of_sites(found)
    kept = {name: arrays[name] for name in (*draws, *observed_sites(found)) if name in arrays}
    log_likelihood = log_likelihood and _are_all_there(found, draws)
    # JAX reads an array of data in one precision, which must be that of the run
    double = any(np.asarray(values).dtype == np.float64 for values in draws.values())
    with jax.enable_x64(double or jnp.result_type(float) == jnp.float64):
        data = arviz.from_numpyro(mcmc, log_likelihood=log_likelihood, **labels_of(kept, dims, coords))
    for latent in readable_sites(found).values():
        if latent.named is not None and latent.site in draws:
            data.posterior.coords.update(_along(latent.site, latent.named))
    return data


def _are_all_there(model_trace: dict[str, Any], draws: Mapping[str, Any]) -> bool:
    """Returns whether there are draws of all latent sites; warns if not."""
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
