"""What a NumPyro model samples: its latent sites, their supports as boxes, and names for their coordinates."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpyro.distributions import ExpandedDistribution, Independent, MaskedDistribution, constraints
from numpyro.handlers import seed, trace

from .._leaves import copied, forgetting
from ..box import Box
from ..chains.parameters import ParameterSpace, merge_spaces
from ..latent import LATENT_SUFFIX, HasLatentSpace, LatentDensity


@dataclass(frozen=True)
class Latent:
    """One latent site: its name, its value's shape, and the parameters that its raveled value holds.

    `named` are those of the distribution over named parameters (a FlowPrior, say) along the value's last axis, if any;
    `learned` says whether that distribution has a latent space.
    """

    site: str
    shape: tuple[int, ...]
    space: ParameterSpace
    named: ParameterSpace | None = None
    learned: bool = False


def trace_model(model: Any, args: tuple, kwargs: dict[str, Any], key: jax.Array) -> dict[str, Any]:
    """Returns the trace of one run of the model under a key."""
    return forgetting(lambda: trace(seed(model, key)).get_trace(*args, **kwargs))


def find_latents(model_trace: dict[str, Any]) -> list[Latent]:
    """Returns the latent sites of a trace, in its order.

    Raises:
        ValueError: a site that no bridge can hold (discrete, `param`, subsampled plate), a support that is not a
            product of intervals, half lines and lines, or two sites with parameters of one name. The site is named.
    """
    latents = []
    for name, site in model_trace.items():
        if site["type"] == "param":
            raise ValueError(f"model: site {name!r} is a numpyro.param, which has no density. Make it a sample site.")
        if site["type"] == "plate" and site["args"][1] is not None and site["args"][1] < site["args"][0]:
            raise ValueError(f"model: plate {name!r} subsamples: its density would be random. Use all data.")
        if site["type"] == "sample" and not site["is_observed"]:
            latents.append(_latent(name, site))
    if not latents:
        raise ValueError("model: expected at least one latent sample site; every site is observed.")
    _require_unique(latents)
    return latents


def readable_sites(model: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Latent]:
    """Returns {sampled site: what its draws hold} for the latent sites whose support is a box.

    What `LatentReparam` moved into latent space is there as what the model sees: theta for the site theta_latent.

    Raises:
        ValueError: two sites with parameters of one name.
    """
    latents = {}
    with jax.enable_x64(True):  # so that a bound of 0.1 is 0.1
        sites = trace_model(model, copied(args), copied(kwargs), jax.random.key(0))
    for name, site in sites.items():
        if site["type"] != "sample" or site["is_observed"]:
            continue
        density, shape = _unwrapped(site["fn"]), np.shape(site["value"])
        if isinstance(density, LatentDensity):
            seen, space = name.removesuffix(LATENT_SUFFIX), density.prior.space
            latents[name] = Latent(seen, shape, _repeated(space, seen, int(np.prod(shape)) // space.dim), space)
            continue
        with suppress(ValueError):  # a simplex, say: its draws are read, but have no bounds of their own
            latents[name] = _latent(name, site)
    _require_unique(list(latents.values()))
    return latents


def observed_sites(model_trace: dict[str, Any]) -> list[str]:
    """Returns the names of the observed sample sites (factors among them)."""
    return [name for name, site in model_trace.items() if site["type"] == "sample" and site["is_observed"]]


def merged_space(latents: list[Latent]) -> ParameterSpace:
    """Returns the space of all latent coordinates, site after site."""
    return merge_spaces([latent.space for latent in latents])


def _latent(name: str, site: dict[str, Any]) -> Latent:
    function, shape = site["fn"], np.shape(site["value"])
    support = function.support
    if getattr(support, "is_discrete", False):
        raise ValueError(f"model: latent site {name!r} is discrete; samplers of densities need it summed out or fixed.")
    size = int(np.prod(shape))
    named = _named_space_of(function)
    if named is not None:
        learned = isinstance(_unwrapped(function), HasLatentSpace)
        return Latent(name, shape, _repeated(named, name, size // named.dim), named, learned)
    lower, upper = (np.broadcast_to(bound, shape).ravel() for bound in box_of(support, name))
    return Latent(name, shape, ParameterSpace(_coordinate_names(name, shape), lower, upper))


def _named_space_of(function: Any) -> ParameterSpace | None:
    """Returns the space of a distribution over named parameters (a FlowPrior, say), also if expanded or masked."""
    space = getattr(_unwrapped(function), "space", None)
    return space if isinstance(space, ParameterSpace) else None


def _unwrapped(function: Any) -> Any:
    while isinstance(function, ExpandedDistribution | Independent | MaskedDistribution):
        function = function.base_dist
    return function


def _repeated(space: ParameterSpace, site: str, copies: int) -> ParameterSpace:
    if copies == 1:
        return space
    parts = []
    for copy in range(copies):
        names = [f"{site}[{copy}].{name}" for name in space.names]
        parts.append(ParameterSpace(names, space.lower, space.upper, units=space.units))
    return merge_spaces(parts)


def _coordinate_names(site: str, shape: tuple[int, ...]) -> list[str]:
    if shape == ():
        return [site]
    return [f"{site}[{','.join(map(str, index))}]" for index in np.ndindex(*shape)]


def _require_unique(latents: list[Latent]) -> None:
    seen: dict[str, str] = {}
    for latent in latents:
        for name in latent.space.names:
            if name in seen:
                raise ValueError(
                    f"model: parameter {name!r} has two priors, at sites {seen[name]!r} and {latent.site!r}. "
                    "Train the prior without it (chain.select), or leave out the model's own site."
                )
            seen[name] = latent.site


def box_of(support: Any, site: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns lower and upper bounds (broadcastable to the site's shape) of a support that is a box.

    Raises:
        ValueError: the support is something else (a simplex, a Cholesky factor); the site is named.
    """
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, Box):
        return np.array(support.space.lower), np.array(support.space.upper)
    if isinstance(support, type(constraints.real) | type(constraints.real_vector) | type(constraints.real_matrix)):
        return np.array(-np.inf), np.array(np.inf)
    if isinstance(support, type(constraints.circular)):
        return np.array(-np.pi), np.array(np.pi)
    lower, upper = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    positive = (constraints.positive, constraints.nonnegative, constraints.softplus_positive)
    if isinstance(support, tuple(type(constraint) for constraint in positive)):
        lower = 0.0
    if lower is None and upper is None:
        raise ValueError(
            f"model: latent site {site!r} has support {support!r}; expected intervals, half lines or real lines. "
            "Reparametrise it."
        )
    return np.asarray(-np.inf if lower is None else lower), np.asarray(np.inf if upper is None else upper)
