"""The latent sites of a NumPyro model, their supports, and names for their coordinates."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from numpyro.distributions import ExpandedDistribution, MaskedDistribution, biject_to, constraints
from numpyro.handlers import seed, trace

from .._util.leaves import copied, forgetting
from ..chains.parameters import ParameterSpace, merge_spaces
from ..priors.box import Box
from .latent import LATENT_SUFFIX, HasLatentSpace, LatentDensity
from .unusual import FeasibleSites, unwrapped

UNCONSTRAINED_SUFFIX = "_unconstrained"  # suffix of the coordinates of a site with a support that is not a box
_OBSERVED, _UNOBSERVED = "_observed", "_unobserved"  # the two sites that NumPyro makes from a site with an obs_mask


@dataclass(frozen=True)
class Latent:
    """One latent site: its name, the shape of its value, and its coordinates in the vector that a sampler moves.

    If the support is a box, the coordinates are the raveled value. For any other support they are the unconstrained
    coordinates of NumPyro's bijection.

    Attributes:
        site: name of the site.
        shape: shape of its value.
        space: its coordinates in the vector.
        named: the parameters along the last axis of the value, if the distribution is over named parameters (for
            example a FlowPrior); else None.
        learned: whether that distribution has a latent space and no mask.
        support: NumPyro's constraint.
        transform: map from unconstrained coordinates to the value; None for a box.
        imputed: for the missing part of a partly observed site, which entries of its batch are missing; else None.
        others: raveled coordinates of the observed entries of such a site, which are not in the vector. No density
            depends on them.
    """

    site: str
    shape: tuple[int, ...]
    space: ParameterSpace
    named: ParameterSpace | None = None
    learned: bool = False
    support: Any = None
    transform: Any = None
    imputed: np.ndarray | None = None
    others: np.ndarray | None = None

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """The shape of the coordinates, including those that are not in the vector."""
        return self.shape if self.transform is None else self.transform.inverse_shape(self.shape)

    @property
    def moved(self) -> np.ndarray:
        """Which raveled coordinates are in the vector, as a bool array."""
        size = int(np.prod(self.inner_shape))
        return np.ones(size, bool) if self.imputed is None else _over_events(self.imputed, self.inner_shape).ravel()


def trace_model(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: jax.Array) -> dict[str, Any]:
    """Returns the trace of one run of the model with a random key."""
    return forgetting(lambda: trace(seed(model, key)).get_trace(*args, **kwargs))


def find_latents(model_trace: dict[str, Any]) -> list[Latent]:
    """Returns the latent sites of a trace, in its order.

    Raises:
        ValueError: a site that is not supported (discrete, `param`, subsampled plate), a support without a bijection
            from real coordinates, no latent site, or two sites with parameters of the same name. The message names the
            site.
    """
    latents = []
    for name, site in model_trace.items():
        if site["type"] == "param":
            raise ValueError(f"model: site {name!r} is a numpyro.param, which has no density. Make it a sample site.")
        if site["type"] == "plate" and site["args"][1] is not None and site["args"][1] < site["args"][0]:
            raise ValueError(f"model: plate {name!r} subsamples, so the density would be random. Use all data.")
        if site["type"] == "sample" and not site["is_observed"]:
            latents.append(_latent(name, site))
            if _is_half_observed(name, model_trace):
                latents[-1:] = _missing_part(latents[-1], site)
    if not latents:
        raise ValueError("model: expected at least one latent sample site; every site is observed.")
    _require_unique(latents)
    return latents


def trace_of_run(mcmc: Any) -> dict[str, Any]:
    """Returns the trace of the model of a numpyro.infer.MCMC, with the arguments of its run."""
    model, args, kwargs = FeasibleSites(mcmc.sampler.model), copied(mcmc._args), copied(mcmc._kwargs)
    with jax.enable_x64(True):  # so that a bound of 0.1 is not rounded to float32
        return trace_model(model, args, kwargs, jax.random.key(0))


def readable_sites(model_trace: dict[str, Any]) -> dict[str, Latent]:
    """Returns {sampled site: its coordinates in the model} for the latent sites of a trace with a box as support.

    A site that `LatentReparam` moved into latent space has the coordinates that the model sees: theta for the site
    theta_latent.

    Raises:
        ValueError: two sites with parameters of the same name.
    """
    latents = {}
    for name, site in model_trace.items():
        if site["type"] != "sample" or site["is_observed"]:
            continue
        density, shape = unwrapped(site["fn"]), np.shape(site["value"])
        if isinstance(density, LatentDensity):
            seen, space = name.removesuffix(LATENT_SUFFIX), density.prior.space
            latents[name] = Latent(seen, shape, space.repeated(seen, int(np.prod(shape)) // space.dim), space)
            continue
        with suppress(ValueError):
            latent = _latent(name, site)
            if latent.transform is None:  # others, e.g. a simplex, are read without bounds
                latents[name] = latent
    _require_unique(list(latents.values()))
    return latents


def observed_sites(model_trace: dict[str, Any]) -> list[str]:
    """Returns the names of the observed sample sites, including factors."""
    return [name for name, site in model_trace.items() if site["type"] == "sample" and site["is_observed"]]


def merged_space(latents: list[Latent]) -> ParameterSpace:
    """Returns the space of all latent coordinates, site after site."""
    return merge_spaces([latent.space for latent in latents])


def _latent(name: str, site: dict[str, Any]) -> Latent:
    function, shape = site["fn"], np.shape(site["value"])
    support = function.support
    if getattr(support, "is_discrete", False):
        raise ValueError(f"model: latent site {name!r} is discrete; expected a continuous site. Sum it out, or fix it.")
    size = int(np.prod(shape))
    named = named_space_of(function)
    if named is not None:
        learned = isinstance(unwrapped(function), HasLatentSpace) and mask_of(function) is None
        return Latent(name, shape, named.repeated(name, size // named.dim), named, learned, support)
    bounds = _box_of(support)
    if bounds is None or np.iscomplexobj(site["value"]):
        return _unconstrained(name, shape, support)
    lower, upper = (np.broadcast_to(bound, shape).ravel() for bound in bounds)
    return Latent(name, shape, ParameterSpace(_coordinate_names(name, shape), lower, upper), support=support)


def _unconstrained(name: str, shape: tuple[int, ...], support: Any) -> Latent:
    try:
        transform = biject_to(support)
    except NotImplementedError:
        transform = None
    if transform is None or support is constraints.complex:
        raise ValueError(
            f"model: latent site {name!r} has support {support!r}, for which NumPyro has no bijection from real "
            "coordinates; expected a box, simplex, ordered vector, Cholesky factor or similar. Reparametrise it."
        )
    inner = transform.inverse_shape(shape)
    if not np.prod(inner):
        raise ValueError(
            f"model: latent site {name!r} has one possible value only: its support {support!r} has dimension 0. "
            "Make it a numpyro.deterministic site."
        )
    space = ParameterSpace(_coordinate_names(f"{name}{UNCONSTRAINED_SUFFIX}", inner))
    return Latent(name, shape, space, support=support, transform=transform)


def _is_half_observed(name: str, model_trace: dict[str, Any]) -> bool:
    """Returns whether a latent site is the one that NumPyro makes for the missing part of a site with an obs_mask."""
    whole = name.removesuffix(_UNOBSERVED)
    observed = model_trace.get(f"{whole}{_OBSERVED}", {})
    return whole != name and whole in model_trace and bool(observed.get("is_observed"))


def _missing_part(latent: Latent, site: dict[str, Any]) -> list[Latent]:
    """Returns the latent site without its observed entries, which have no effect; [] if all are observed."""
    missing = mask_of(site["fn"])
    if missing is None or not missing.any():
        return []
    value = np.asarray(site["value"] if latent.transform is None else latent.transform.inv(site["value"]))
    moved = _over_events(missing, value.shape).ravel()
    names = [name for name, kept in zip(latent.space.names, moved, strict=True) if kept]
    return [replace(latent, space=latent.space.select(names), imputed=missing, others=value.ravel()[~moved])]


def named_space_of(function: Any) -> ParameterSpace | None:
    """Returns the space of a distribution over named parameters (e.g. a FlowPrior), also if expanded or masked."""
    space = getattr(unwrapped(function), "space", None)
    return space if isinstance(space, ParameterSpace) else None


def mask_of(function: Any) -> np.ndarray | None:
    """Returns the mask over the batch of a distribution, as a bool array; None if it has no mask."""
    masks, shape = [], function.batch_shape
    while isinstance(function, ExpandedDistribution | MaskedDistribution):
        if isinstance(function, MaskedDistribution):
            masks.append(np.broadcast_to(np.asarray(function._mask), shape))
        function = function.base_dist
    return np.logical_and.reduce(masks) if masks else None


def is_masked(function: Any) -> bool:
    """Returns whether a distribution has a mask, which may depend on latent values."""
    while isinstance(function, ExpandedDistribution | MaskedDistribution):
        if isinstance(function, MaskedDistribution):
            return True
        function = function.base_dist
    return False


def without_masks(function: Any) -> Any:
    """Returns the distribution without its masks, so that it counts everywhere in its batch."""
    if isinstance(function, MaskedDistribution):
        return without_masks(function.base_dist)
    if isinstance(function, ExpandedDistribution):
        return without_masks(function.base_dist).expand(function.batch_shape)
    return function


def _over_events(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a mask over a batch, broadcast to the coordinates of its members."""
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


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
                    "Train the prior without it (chain.select), or leave out the model's own site. For the product of "
                    "the two, sample one and add the other with numpyro.factor(name, prior.log_prob(theta))."
                )
            seen[name] = latent.site


def _box_of(support: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the lower and upper bounds of a box, broadcastable to the shape of the site; None for other supports."""
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
        return None
    return np.asarray(-np.inf if lower is None else lower), np.asarray(np.inf if upper is None else upper)
