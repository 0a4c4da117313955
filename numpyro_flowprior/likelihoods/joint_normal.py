"""Data sets that share errors: their joint normal distribution, and that of one data set given the others.

Measurements with a common normalisation, luminosity or calibration are correlated. The joint density of two data sets
is then not the product of their likelihoods, but

    p(y1, y2 | theta) = p(y1 | theta) p(y2 | y1, theta)

    y2 | y1, theta ~ Normal(m2 + C21 C11^-1 (y1 - m1), C22 - C21 C11^-1 C12)

Means and covariances may depend on theta. Let L be the Cholesky factor of the joint covariance. The mean of y2 is then
m2 + L21 L11^-1 (y1 - m1), and L22 is the Cholesky factor of its covariance, so that nothing is subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from .._util.checks import shorten
from .._util.leaves import copied
from ..emulators.low_rank_normal import NormalAroundLoc
from ..emulators.precision import precise

_NORMALS = (Normal, MultivariateNormal, LowRankMultivariateNormal, NormalAroundLoc)


@precise
def joint_normal(
    normals: Mapping[str, Distribution], cross_covariances: Mapping[tuple[str, str], Any]
) -> MultivariateNormal:
    """Returns the normal distribution of several data sets that share errors, one after the other in one vector.

    A joint fit samples it, a staged one uses it with `conditional_normal`. In a NumPyro model:

        joint = joint_normal({"near": near(theta), "far": far(theta)}, {("near", "far"): cross_covariance})
        numpyro.sample("y", joint, obs=jnp.concatenate([near.observed, far.observed]))

    Args:
        normals: the distribution of each data set alone, by name. It is normal over a vector: what an
            EmulatorLikelihood returns, a MultivariateNormal, or `Normal(mean, sigma).to_event(1)`.
        cross_covariances: {(name, other name): (..., m, n) covariance of the m values of the first data set (rows)
            with the n values of the second (columns)}. Pairs that are left out are uncorrelated. Shared
            errors belong to the covariances of the data sets too.

    Raises:
        TypeError: a distribution is not normal over a vector.
        ValueError: unknown or repeated names, a wrong shape, or a joint covariance that is not positive definite. In
            traced code the latter cannot be checked; log densities are NaN there.
    """
    parts = {name: _moments(name, normal) for name, normal in normals.items()}
    ends = np.cumsum([0, *(mean.shape[-1] for mean, _ in parts.values())]).tolist()
    places = {name: slice(*place) for name, place in zip(parts, pairwise(ends), strict=True)}
    crosses = _checked_crosses(cross_covariances, {name: place.stop - place.start for name, place in places.items()})
    batches = [mean.shape[:-1] for mean, _ in parts.values()] + [cross.shape[:-2] for cross in crosses.values()]
    batch = jnp.broadcast_shapes(*batches)
    loc = jnp.concatenate([jnp.broadcast_to(mean, (*batch, mean.shape[-1])) for mean, _ in parts.values()], axis=-1)
    covariance = jnp.zeros((*batch, ends[-1], ends[-1]), loc.dtype)
    for name, (_, own) in parts.items():
        covariance = covariance.at[..., places[name], places[name]].set(own)
    for (name, other), cross in crosses.items():
        covariance = covariance.at[..., places[name], places[other]].set(cross)
        covariance = covariance.at[..., places[other], places[name]].set(jnp.swapaxes(cross, -1, -2))
    _require_positive_definite(covariance, tuple(parts))
    return MultivariateNormal(loc, covariance)


@precise
def conditional_normal(joint: MultivariateNormal, observed: Any) -> MultivariateNormal:
    """Returns the distribution of the other values of a joint normal distribution, given its first ones.

    It is the likelihood of a second data set that shares errors with a first one, whose likelihood is already in the
    prior:

        numpyro.sample("far", conditional_normal(joint, near.observed), obs=far.observed)

    Its log density is that of all values minus that of the first ones alone.

    Args:
        joint: normal distribution over N values, as `joint_normal` returns it.
        observed: (..., k) the first k of them, 1 <= k < N. For three data sets these are the values of the first two.

    Raises:
        TypeError: `joint` is not a MultivariateNormal.
        ValueError: the number of values is not between 1 and N - 1.
    """
    if not isinstance(joint, MultivariateNormal):
        raise TypeError(f"conditional_normal: joint: expected what joint_normal returns; got {type(joint).__name__}.")
    first, (n,) = jnp.asarray(copied(observed)), joint.event_shape
    if jnp.ndim(first) == 0 or not 1 <= jnp.shape(first)[-1] < n:
        raise ValueError(
            f"conditional_normal: observed: expected between 1 and {n - 1} of the {n} values of the joint "
            f"distribution, on the last axis; got shape {jnp.shape(first)}. Pass the values of all data sets but the "
            "last, one after the other."
        )
    loc, scale_tril = _conditional(joint.loc, joint.scale_tril, first)
    return MultivariateNormal(loc, scale_tril=scale_tril)


def is_normal(distribution: Any) -> bool:
    """Returns whether a distribution is a normal one of known mean and covariance, expanded or reshaped."""
    return isinstance(_base(distribution), _NORMALS)


def _rest(loc: jax.Array, scale_tril: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean (N - k,) and Cholesky factor (N - k, N - k) of the other values at one point."""
    k = len(first)
    white = solve_triangular(scale_tril[:k, :k], first - loc[:k], lower=True)
    return loc[k:] + scale_tril[k:, :k] @ white, scale_tril[k:, k:]


_conditional = jnp.vectorize(_rest, signature="(n),(n,n),(k)->(m),(m,m)")


def _base(distribution: Any) -> Any:
    while isinstance(distribution, ExpandedDistribution | Independent):
        distribution = distribution.base_dist
    return distribution


def _moments(name: str, normal: Any) -> tuple[jax.Array, jax.Array]:
    """Returns mean (..., n) and covariance (..., n, n)."""
    if not is_normal(normal) or normal.event_dim != 1:
        raise TypeError(
            f"joint_normal: {name!r}: expected a normal distribution over a vector, such as "
            f"Normal(mean, sigma).to_event(1) or what an EmulatorLikelihood returns; got {type(normal).__name__} with "
            f"event shape {getattr(normal, 'event_shape', ())}."
        )
    base, mean = _base(normal), jnp.asarray(normal.mean)
    if isinstance(base, Normal):
        return mean, normal.variance[..., None] * jnp.eye(mean.shape[-1], dtype=mean.dtype)
    return mean, jnp.asarray(base.covariance_matrix)


def _checked_crosses(crosses: Any, sizes: Mapping[str, int]) -> dict[tuple[str, str], jax.Array]:
    """Returns the cross-covariances as arrays of the right shape, in the current float type."""
    checked: dict[tuple[str, str], jax.Array] = {}
    for pair, values in crosses.items():
        known = isinstance(pair, tuple) and len(pair) == 2 and pair[0] != pair[1] and set(pair) <= set(sizes)
        if not known or pair[::-1] in checked:
            raise ValueError(
                f"joint_normal: cross_covariances: expected pairs of different names among {shorten(sizes, 20)}, each "
                f"pair once; got {pair!r}."
            )
        cross, expected = jnp.asarray(copied(values)), (sizes[pair[0]], sizes[pair[1]])
        subject = f"joint_normal: cross-covariance of {pair[0]!r} (rows) with {pair[1]!r} (columns)"
        if jnp.shape(cross)[-2:] != expected:
            turned = jnp.shape(cross)[-2:] == expected[::-1]
            advice = "Transpose it." if turned else "It has no rows and columns for values that were not measured."
            raise ValueError(f"{subject}: expected shape {expected}; got {jnp.shape(cross)}. {advice}")
        if not isinstance(cross, jax.core.Tracer) and not np.isfinite(cross).all():
            raise ValueError(f"{subject}: expected finite numbers; got NaN or infinity. Pass 0 for no correlation.")
        checked[pair] = cross
    return checked


def _require_positive_definite(covariance: jax.Array, names: tuple[str, ...]) -> None:
    """Raises ValueError if a known joint covariance (..., N, N) of data sets is not positive definite."""
    if isinstance(covariance, jax.core.Tracer):
        return
    values = np.asarray(covariance)
    scale = np.sqrt(np.diagonal(values, axis1=-2, axis2=-1))
    smallest = float(np.linalg.eigvalsh(values / (scale[..., :, None] * scale[..., None, :])).min())
    if smallest <= values.shape[-1] * float(np.finfo(values.dtype).eps):
        raise ValueError(
            f"joint_normal: expected a positive definite joint covariance of {shorten(names, 20)}; the smallest "
            f"eigenvalue of its correlation matrix is {smallest:.3g}. A shared error must be in the covariances of the "
            "data sets too, and these need errors of their own: check the sizes and units of the cross-covariances."
        )
