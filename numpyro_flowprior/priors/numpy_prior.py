"""NumpyPrior: density and draws of a stored prior with only NumPy and SciPy, in float64.

It is for users of a file without JAX or Distrax, and for forked workers. This module does not train or write priors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp, ndtr, ndtri

from .._util.checks import ArrayLike, FloatArray, float_array, positive_int
from ..chains.parameters import ParameterSpace
from ..flows.bounds import interior_bounds
from ..flows.config import FlowConfig
from ..flows.layout import FIXED, Params, is_ensemble, map_params
from ..flows.numpy_flow import NumpyFlow, standard_log_prob
from ..flows.numpy_support import from_line, to_line
from ..flows.stripes import chosen, joined
from .prior_file import read_prior

_OPEN = float(np.finfo(np.float64).tiny), 1.0 - float(np.finfo(np.float64).epsneg)  # limits of the open unit cube
_CHUNK = 10_000  # points per evaluation, so that the hidden layers of the networks stay in the cache


def load_numpy(path: str | os.PathLike[str]) -> NumpyPrior:
    """Returns the prior stored in a file, for use without JAX. The file is checked as in `FlowPrior.load`.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is damaged, of another kind, or newer than this package.
    """
    stored = read_prior(path)
    return NumpyPrior(stored.config, stored.space, stored.masks, stored.params, stored.info)


@dataclass(frozen=True, eq=False, repr=False)
class NumpyPrior:
    """Density learned from a chain, evaluated with NumPy in float64. `load_numpy` makes one.

    It is the density of the `FlowPrior` in the same file, normalised on the declared support.

    Attributes:
        config: architecture.
        space: names and bounds of the parameters, in the order of the columns.
        masks: boolean mask (d,) of each coupling, as stored.
        params: nested arrays as laid out in `flows.layout`.
        info: origin of the prior (metadata, chain, training, report, versions).
    """

    config: FlowConfig
    space: ParameterSpace
    masks: Sequence[np.ndarray]
    params: Params
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the columns."""
        return self.space.names

    def log_prob(self, theta: ArrayLike) -> Any:
        """Returns the normalised log density (...,) in float64 at points (..., d); -inf outside the support.

        Raises:
            TypeError: `theta` does not hold real numbers.
            ValueError: its last axis does not have d values.
        """
        theta = self._checked(theta, "log_prob: theta")
        points = theta.reshape(-1, self.space.dim)
        log_prob = np.full(len(points), -np.inf)
        inside = np.flatnonzero(self.space.contains(points) & np.isfinite(points).all(axis=1))
        for start in range(0, len(inside), _CHUNK):
            rows = inside[start : start + _CHUNK]
            log_prob[rows] = self._log_prob(points[rows])
        return log_prob.reshape(theta.shape[:-1])[()]

    def sample(self, seed: int | np.random.Generator, n: int) -> FloatArray:
        """Returns draws (n, d), strictly inside the support.

        Args:
            seed: an integer, or a generator, which this call advances.
            n: number of draws, >= 1.
        """
        generator, n = np.random.default_rng(seed), positive_int(n, "NumpyPrior.sample: n")
        sizes = [min(_CHUNK, n - start) for start in range(0, n, _CHUNK)]
        return self._theta(np.concatenate([self._whitened(generator, size) for size in sizes]))

    def from_unit_cube(self, u: ArrayLike) -> FloatArray:
        """Returns points (..., d) for points u (..., d) of the unit cube: uniform ones become draws of the prior.

        It is the prior transform that nested samplers ask for. If the prior is a mixture of flows, the first coordinate
        also chooses the flow, and the map has a jump between two flows (`FlowPrior.from_unit_cube`).

        Raises:
            TypeError: `u` does not hold real numbers.
            ValueError: its last axis does not have d values, or a value is not in [0, 1].
        """
        u = self._checked(u, "from_unit_cube: u")
        if not ((u >= 0.0) & (u <= 1.0)).all():
            raise ValueError("NumpyPrior.from_unit_cube: u: expected values in [0, 1]; got others, or NaN.")
        flat = np.clip(u.reshape(-1, self.space.dim), *_OPEN)
        parts = [self._from_unit_cube(flat[start : start + _CHUNK]) for start in range(0, len(flat), _CHUNK)]
        return np.concatenate([*parts, flat[:0]]).reshape(u.shape)

    def to_unit_cube(self, theta: ArrayLike) -> FloatArray:
        """Returns points (..., d) of the unit cube that `from_unit_cube` maps to points theta (..., d).

        Each flow of a mixture has one. It is that of the flow with the largest share of the density there.

        Raises:
            TypeError: `theta` does not hold real numbers.
            ValueError: its last axis does not have d values, or a point is outside the support.
        """
        theta = self._checked(theta, "to_unit_cube: theta")
        if not (self.space.contains(theta) & np.isfinite(theta).all(axis=-1)).all():
            raise ValueError(
                f"NumpyPrior.to_unit_cube: theta: expected points inside the support {self.space}; got others."
            )
        flat = theta.reshape(-1, self.space.dim)
        parts = [self._to_unit_cube(flat[start : start + _CHUNK]) for start in range(0, len(flat), _CHUNK)]
        return np.concatenate([*parts, flat[:0]]).reshape(theta.shape)

    def _checked(self, points: ArrayLike, subject: str) -> FloatArray:
        points = float_array(points, f"NumpyPrior.{subject}")
        if points.shape[-1:] != (self.space.dim,):
            raise ValueError(
                f"NumpyPrior.{subject}: expected a last axis of {self.space.dim} values for "
                f"{', '.join(self.names)}; got shape {points.shape}."
            )
        return points

    def _from_unit_cube(self, u: FloatArray) -> FloatArray:
        if not is_ensemble(self.config):
            return self._theta(self._members[0].from_unit_cube(u))
        label, v = chosen(u, self._weights)
        v = np.clip(v, *_OPEN)
        x = ndtri(v)  # the background; members replace most
        for k in set(label.tolist()) - {self.config.members}:
            x[label == k] = self._members[k].from_unit_cube(v[label == k])
        return self._theta(x)

    def _to_unit_cube(self, theta: FloatArray) -> FloatArray:
        x, _ = self._x(theta)
        if not is_ensemble(self.config):
            return self._members[0].to_unit_cube(x)
        label = np.argmax(self._parts(x), axis=1)
        v = ndtr(x)
        for k in set(label.tolist()) - {self.config.members}:
            v[label == k] = self._members[k].to_unit_cube(x[label == k])
        return joined(label, v, self._weights)

    def _theta(self, x: FloatArray) -> FloatArray:
        """Returns points (n, d) strictly inside the support for whitened points (n, d)."""
        theta = from_line(self._loc + x @ self._tril.T, self.space, self._scale)
        return np.clip(theta, *interior_bounds(self.space, theta.dtype))

    def _x(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Returns whitened points (n, d) and the log determinant of the map to them (n,)."""
        z, log_det = to_line(theta, self.space, self._scale)
        return (z - self._loc) @ self._inverse_tril.T, log_det - np.log(np.diagonal(self._tril)).sum()

    def _parts(self, x: FloatArray) -> FloatArray:
        """Returns the log densities (n, members + 1) of members and background with their weights."""
        each = [*(member.log_prob(x) for member in self._members), standard_log_prob(x)]
        return np.stack(each, axis=1) + self._log_weights

    def _log_prob(self, theta: FloatArray) -> FloatArray:
        x, log_det = self._x(theta)
        if not is_ensemble(self.config):
            return self._members[0].log_prob(x) + log_det
        return logsumexp(self._parts(x), axis=1) + log_det

    def _whitened(self, generator: np.random.Generator, n: int) -> FloatArray:
        if not is_ensemble(self.config):
            return self._members[0].sample(generator, n)
        x = generator.standard_normal((n, self.space.dim))  # draws of the background; draws of the members replace most
        chosen = generator.choice(len(self._weights), n, p=self._weights / self._weights.sum())
        for k, member in enumerate(self._members):
            x[chosen == k] = member.sample(generator, int(np.sum(chosen == k)))
        return x

    @cached_property
    def _members(self) -> tuple[NumpyFlow, ...]:
        trained = map_params(_double, {name: part for name, part in self.params.items() if name not in FIXED})
        if not is_ensemble(self.config):
            return (NumpyFlow(self.config, self.masks, trained),)
        each = (map_params(itemgetter(k), trained) for k in range(self.config.members))
        return tuple(NumpyFlow(self.config, self.masks, member) for member in each)

    @cached_property
    def _weights(self) -> FloatArray:
        return _double(self.params["mixture"]["weights"])

    @cached_property
    def _log_weights(self) -> FloatArray:
        with np.errstate(divide="ignore"):  # a weight may be zero
            return np.log(self._weights)

    @cached_property
    def _scale(self) -> FloatArray:
        return _double(self.params["support"]["scale"])

    @cached_property
    def _loc(self) -> FloatArray:
        return _double(self.params["whitening"]["loc"])

    @cached_property
    def _tril(self) -> FloatArray:
        return _double(self.params["whitening"]["tril"])

    @cached_property
    def _inverse_tril(self) -> FloatArray:
        return solve_triangular(self._tril, np.eye(self.space.dim), lower=True)

    def __repr__(self) -> str:
        return f"NumpyPrior({self.space!r}, {self.config!r})"


def _double(array: Any) -> FloatArray:
    return np.asarray(array, dtype=np.float64)
