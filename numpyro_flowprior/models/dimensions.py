"""Names of the dimensions of the sites of a model, taken from its plates. ArviZ uses them to label arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..chains.variables import Variable, default_dims, parameter_dim, variables_of
from .latent import LATENT_SUFFIX, LatentDensity
from .sites import UNCONSTRAINED_SUFFIX, Latent, named_space_of
from .unusual import unwrapped

_KINDS = ("sample", "deterministic")


def arrays_of_sites(model_trace: dict[str, Any]) -> dict[str, Variable]:
    """Returns {site: its value's shape and dimensions} for the sample and deterministic sites of a trace.

    A dimension in a plate has the name of the plate. An event dimension has the name given by
    `infer={"event_dims": [...]}`. The last dimension of a prior over named parameters is `<site>_parameter`. Any other
    dimension is `<site>_dim_<j>`. The shape of an observed value is broadcast to that of its distribution, because one
    number may be the observation of a whole plate.
    """
    arrays = {name: _array(name, site) for name, site in model_trace.items() if site["type"] in _KINDS}
    for name, site in model_trace.items():
        seen = name.removesuffix(LATENT_SUFFIX)
        if site["type"] == "sample" and isinstance(unwrapped(site["fn"]), LatentDensity) and seen in arrays:
            array = _array(seen, site)
            along, names = parameter_dim(seen), unwrapped(site["fn"]).prior.space.names
            arrays[seen] = replace(array, dims=(*array.dims[:-1], along), coords={along: names})
    return arrays


def variables_of_latents(latents: Sequence[Latent], arrays: dict[str, Variable]) -> dict[str, Variable]:
    """Returns the variables that the coordinates of latent sites form, {name: variable}.

    A site is one variable, with its plates. A prior over named parameters outside of plates is one variable for each
    parameter, under the name of the parameter. Each missing entry of a partly observed site is one variable.
    """
    variables: dict[str, Variable] = {}
    for latent in latents:
        names, site = latent.space.names, latent.site
        if latent.imputed is not None:
            variables |= {name: Variable((name,)) for name in names}
        elif latent.named is not None and latent.named.dim == len(names):
            variables |= variables_of(names)
        elif latent.transform is not None:
            name = f"{site}{UNCONSTRAINED_SUFFIX}"
            variables[name] = Variable(names, latent.inner_shape, _plates_of(arrays[site], name, latent.inner_shape))
        else:
            variables[site] = replace(arrays[site], names=names)
    return variables


def _plates_of(site: Variable, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Returns the dimensions of the unconstrained coordinates of a site. The last one is the event dimension."""
    dims = list(default_dims(name, len(shape)))
    for axis in range(min(len(shape), len(site.shape)) - 1):
        if shape[axis] == site.shape[axis]:
            dims[axis] = site.dims[axis]
    return tuple(dims)


def _array(name: str, site: dict[str, Any]) -> Variable:
    shape = np.shape(site["value"])
    plates = {frame.dim: frame for frame in site.get("cond_indep_stack", ())}
    events = list((site.get("infer") or {}).get("event_dims", ()))
    if site["type"] == "deterministic":  # its event dimensions are not recorded, but plates come first
        rank = max(len(shape) - max((-dim for dim in plates), default=0), 0)
    else:
        rank = site["fn"].event_dim
        shape = np.broadcast_shapes(shape, (*site["fn"].batch_shape, *shape[len(shape) - rank :]))
    dims = list(default_dims(name, len(shape)))
    for axis in range(-len(shape), -rank):
        plate = plates.get(axis + rank)
        if plate is not None and plate.size == shape[axis]:
            dims[axis] = plate.name
    if rank and len(events) == rank:
        dims[-rank:] = events
    named = named_space_of(site["fn"]) if site["type"] == "sample" else None
    if named is None:
        return Variable((), shape, tuple(dims))
    return Variable((), shape, (*dims[:-1], parameter_dim(name)), {parameter_dim(name): named.names})
