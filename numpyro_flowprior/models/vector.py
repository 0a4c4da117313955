"""Maps between the vector that a sampler moves and the values of the latent sites of a model.

If the support of a site is a box, its coordinates are its value. Any other continuous support (a simplex, a Cholesky
factor, an ordered vector) enters through the unconstrained coordinates of NumPyro's bijection, and its density there
includes the Jacobian. The functions take vectors (..., d), as NumPy or traced arrays, in the current precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .sites import Latent

_FARTHEST = 700.0  # bound on unconstrained coordinates, with a finite exp. A Dirichlet draw with a zero is at inf


def coordinates_of(latents: Sequence[Latent], x: Any) -> dict[str, Any]:
    """Returns each site's coordinates, {site: (..., *inner_shape)}, from vectors (..., d)."""
    parts, start = {}, 0
    for latent in latents:
        stop = start + latent.space.dim
        parts[latent.site] = _filled(latent, x[..., start:stop]).reshape(*x.shape[:-1], *latent.inner_shape)
        start = stop
    return parts


def values_of(latents: Sequence[Latent], x: Any) -> tuple[dict[str, Any], Any]:
    """Returns the values of latent sites, {site: (..., *shape)}, and the log Jacobian of the map (...,), at x."""
    values, log_det = coordinates_of(latents, x), jnp.zeros(x.shape[:-1], x.dtype)
    for latent in latents:
        if latent.transform is not None:
            inner = values[latent.site]
            values[latent.site] = latent.transform(inner)
            change = latent.transform.log_abs_det_jacobian(inner, values[latent.site])
            if latent.imputed is not None:
                change = jnp.where(latent.imputed, change, 0.0)
            log_det = log_det + change.sum(axis=tuple(range(x.ndim - 1, change.ndim)))
    return values, log_det


def vector_of(latents: Sequence[Latent], values: Mapping[str, Any]) -> Any:
    """Returns vectors (..., d) for values of latent sites, {site: (..., *shape)}. It is the inverse of `values_of`."""
    parts = []
    for latent in latents:
        value = values[latent.site]
        batch = value.shape[: value.ndim - len(latent.shape)]
        if latent.transform is not None:
            value = jnp.clip(latent.transform.inv(value), -_FARTHEST, _FARTHEST)
        value = value.reshape(*batch, -1)
        parts.append(value if latent.imputed is None else value[..., latent.moved])
    xp = jnp if any(isinstance(part, jax.Array) for part in parts) else np
    return xp.concatenate(parts, axis=-1)


def _filled(latent: Latent, part: Any) -> Any:
    """Returns the raveled coordinates of a site, including those that are not in the vector."""
    if latent.others is None:
        return part
    order = np.argsort(np.concatenate([np.flatnonzero(latent.moved), np.flatnonzero(~latent.moved)]))
    xp = np if isinstance(part, np.ndarray) else jnp
    others = np.broadcast_to(latent.others, (*part.shape[:-1], len(latent.others)))
    return xp.concatenate([part, others], axis=-1)[..., order]
