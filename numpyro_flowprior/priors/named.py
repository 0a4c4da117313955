"""A normalised density of named parameters: one of this package, a NumPyro distribution, or a dictionary."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from .._util.batches import in_float64
from .._util.checks import FloatArray, shorten
from ..chains.effective import kish
from ..chains.parameters import ParameterSpace, require_space
from .box import BroadPrior, UniformPrior

_DRAWS, _OWN, _BEYOND = 20_000, 0.01, 10.0  # of a learned prior: draws, their share below the level of `Divisor`, and
# effective draws of the posterior below it
_ACCEPTED = (
    "a distribution of named parameters (UniformPrior, FlowPrior, ...), a NumPyro distribution with one value per "
    "parameter, or a dictionary {name: NumPyro distribution of one number}"
)


def log_prob_anywhere(density: Any, theta: Any) -> jax.Array:
    """Returns the log density (...,) of one of our priors, -inf outside, without NumPyro's warning of points there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Out-of-support")
        found: jax.Array = density.log_prob(theta)
    return found


def log_ratio(new: Any, old: Divisor, theta: Any) -> jax.Array:
    """Returns log new / old (...,) of two densities at points (..., d); -inf where either is zero."""
    log_old = old.log_prob(theta)
    known = log_old > -jnp.inf
    return jnp.where(known, log_prob_anywhere(new, theta) - jnp.where(known, log_old, 0.0), -jnp.inf)


class Divisor:
    """A prior by which a learned posterior is divided.

    A learned prior ends in a tail of its own making, and so does the learned posterior. Where neither has draws, their
    ratio is arbitrary, and may be huge: beyond a curved edge, for example. Below a level, log pi is therefore mirrored
    at this level, so that the ratio falls. Next to no draws lie there: 1 % of those of the prior, or ten effective
    draws of the posterior, whichever is lower. A prior that is known exactly is left as it is. So are ratios at rows,
    and of exact densities, which are not arbitrary: use the prior itself for these.

    Args:
        prior: the prior.
        draws: (n, d) draws of the posterior.
        weights: (n,) their weights, which sum to one; None for equal weights.
    """

    def __init__(self, prior: NamedPrior, draws: Any, weights: FloatArray | None = None):
        self.prior, self.level = prior, -np.inf
        if prior.learned:
            own = prior.sample(jax.random.key(0), (_DRAWS,))
            p = np.full(len(draws), 1.0 / len(draws)) if weights is None else weights
            self.level = min(
                _level(in_float64(prior.log_prob, own), np.full(_DRAWS, 1.0 / _DRAWS), _OWN),
                _level(in_float64(prior.log_prob, draws), p, min(_BEYOND / kish(p), 0.5)),
            )

    def log_prob(self, theta: Any) -> jax.Array:
        """Returns the log density (...,) at points (..., d), mirrored below the level; -inf outside of the support."""
        found = self.prior.log_prob(theta)
        if self.level == -np.inf:
            return found
        known = found > -jnp.inf
        return jnp.where(known, self.level + jnp.abs(jnp.where(known, found, 0.0) - self.level), -jnp.inf)

    def beyond(self, theta: Any) -> np.ndarray:
        """Returns whether points (n, d) are where a learned prior has next to no draws, or an exact one is zero."""
        found: np.ndarray = in_float64(self.prior.log_prob, theta)
        return ~((found > -np.inf) & (found >= self.level))


def _level(log_prob: FloatArray, p: FloatArray, share: float) -> float:
    """Returns the log density below which this share of draws with weights p lies."""
    log_prob = np.where(np.isnan(log_prob), -np.inf, log_prob)
    order = np.argsort(log_prob)
    return float(log_prob[order][min(int(np.searchsorted(np.cumsum(p[order]), share)), len(p) - 1)])


class NamedPrior:
    """A normalised density over the parameters of a space, in its order.

    Args:
        given: a density with a `space`, whose parameters may be in another order; a UniformPrior may have more of them.
            A NumPyro distribution with event shape (d,), in the order of `space`. Or a dictionary of independent
            distributions by name, which may have more names.
        space: the parameters.
        subject: the subject of error messages.

    Raises:
        TypeError: `given` is nothing of this.
        ValueError: parameters are missing (named), or shapes do not fit.
    """

    def __init__(self, given: Any, space: ParameterSpace, subject: str):
        require_space(space, f"{subject}: space")
        self.space, self._subject = space, subject
        if isinstance(given, Mapping):
            self._require_names(given)
            self._parts: Any = [_of_one_number(given[name], f"{subject}: {name!r}") for name in space.names]
            return
        if isinstance(given, UniformPrior):
            self._require_names(given.space.names)
            given = UniformPrior(given.space.select(space.names))
        self._parts = given
        if isinstance(getattr(given, "space", None), ParameterSpace):
            self._require_names(given.space.names)
            further = [name for name in given.space.names if name not in space.names]
            if further:
                raise ValueError(
                    f"{subject}: expected a density of {shorten(space.names, 40)}; got one that also has "
                    f"{shorten(further, 40)}. Its marginal is not known: train a prior on a chain without them."
                )
            self._columns = np.array([space.index(name) for name in given.space.names])
        elif isinstance(given, Distribution) and space.dim == 1 and not given.batch_shape and not given.event_shape:
            self._parts = [given]
        elif isinstance(given, Distribution):
            if given.batch_shape or given.event_shape != (space.dim,):
                raise ValueError(
                    f"{subject}: expected event shape ({space.dim},) for {shorten(space.names, 40)}; got batch shape "
                    f"{given.batch_shape} and event shape {given.event_shape}. Use a dictionary by name."
                )
            self._columns = np.arange(space.dim)
        else:
            raise TypeError(f"{subject}: expected {_ACCEPTED}; got {type(given).__name__}.")

    def _require_names(self, names: Any) -> None:
        missing = [name for name in self.space.names if name not in names]
        if missing:
            raise ValueError(
                f"{self._subject}: expected a density of {shorten(self.space.names, 40)}; got none for "
                f"{shorten(missing, 40)}."
            )

    @property
    def learned(self) -> bool:
        """Whether it is known by draws only, and not by a formula."""
        return isinstance(getattr(self._parts, "space", None), ParameterSpace) and not isinstance(
            self._parts, UniformPrior | BroadPrior
        )

    def log_prob(self, theta: Any) -> jax.Array:
        """Returns the normalised log density (...,) at points (..., d); -inf outside of its support."""
        if isinstance(self._parts, list):
            theta = jnp.asarray(theta)
            found = [_inside(part, theta[..., j]) for j, part in enumerate(self._parts)]
            return jnp.sum(jnp.stack(found, axis=-1), axis=-1)
        ordered = theta[..., self._columns]
        if isinstance(getattr(self._parts, "space", None), ParameterSpace):
            return log_prob_anywhere(self._parts, ordered)
        return _inside(self._parts, jnp.asarray(ordered))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Returns draws (*sample_shape, d)."""
        if isinstance(self._parts, list):
            keys = jax.random.split(key, len(self._parts))
            drawn = [part.sample(one, sample_shape) for part, one in zip(self._parts, keys, strict=True)]
            return jnp.stack(drawn, axis=-1)
        return self._parts.sample(key, sample_shape)[..., np.argsort(self._columns)]


def _of_one_number(given: Any, subject: str) -> Distribution:
    if not isinstance(given, Distribution):
        raise TypeError(f"{subject}: expected a NumPyro distribution of one number; got {type(given).__name__}.")
    if given.batch_shape or given.event_shape:
        raise ValueError(
            f"{subject}: expected a distribution of one number; got batch shape {given.batch_shape} and event shape "
            f"{given.event_shape}."
        )
    return given


def _inside(part: Distribution, value: jax.Array) -> jax.Array:
    """Returns the log density; -inf outside of the support, where NumPyro's may be anything, and not NaN."""
    inside = part.support(value)
    safe = jnp.where(_as_event(inside, part), value, part.sample(jax.random.key(0)))
    return jnp.where(inside, part.log_prob(safe), -jnp.inf)


def _as_event(inside: jax.Array, part: Distribution) -> jax.Array:
    return inside[..., None] if part.event_shape else inside
