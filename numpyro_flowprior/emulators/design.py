"""Design points at which to run the model: space-filling designs, and further points around a posterior.

Sources: M. E. Johnson, L. M. Moore, D. Ylvisaker, J. Stat. Plan. Inference 26 (1990) 131 (maximin); M. D. Morris,
T. J. Mitchell, ibid. 43 (1995) 381 (exchanges within Latin hypercubes); I. M. Sobol (1967), scrambled by Owen.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import qmc

from .._util.checks import ArrayLike, FloatArray, one_of, positive_int, shorten
from .._util.keys import seed_from_key
from ..chains.chain import Chain
from ..chains.parameters import ParameterSpace, require_space
from .runs import checked_inputs

_EXCHANGES = 20  # attempted exchanges per point
_BEYOND = 0.5  # how far a candidate may lie beyond a draw or its neighbour, as a fraction of their distance
_CANDIDATES = 20  # candidates drawn from the posterior for each point to choose


def design_points(
    key: jax.Array,
    space: ParameterSpace,
    n: int,
    *,
    method: str = "maximin",
    chain: Chain | None = None,
    existing: ArrayLike | None = None,
) -> FloatArray:
    """Returns n points (n, d) at which to run the model.

    Args:
        key: JAX random key.
        space: the parameters. All bounds must be finite, unless `chain` is given.
        n: number of points, >= 2. About ten per parameter is a common first choice.
        method: "maximin" for a Latin hypercube with its closest points moved apart by exchanges, so that the values
            of every parameter are evenly spread; or "sobol" for a scrambled Sobol sequence, best for n a power of two.
        chain: posterior of these parameters, for the next round of training. Candidates lie on lines through
            neighbouring draws, so a short chain is enough. The points chosen are as far from each other as possible, in
            units of the posterior standard deviations. Draws outside the bounds are ignored, and so is `method`.
        existing: (k, d) points where the model has already been run. New points stay away from them. Only with `chain`.

    Raises:
        TypeError: values of the wrong type.
        ValueError: infinite bounds (named), a chain without one of the parameters, too few points, an unknown method.
    """
    require_space(space)
    n = positive_int(n, "n", minimum=2)
    one_of(method, "method", ("maximin", "sobol"))
    rng = np.random.default_rng(seed_from_key(key))
    if chain is not None:
        return _around(space, n, rng, chain, existing)
    if existing is not None:
        raise ValueError(
            "existing: expected a chain as well; got none. Pass chain, or leave out existing to fill the box."
        )
    lower, upper = space.bounds.T
    unbounded = [space.names[j] for j in np.flatnonzero(~(np.isfinite(lower) & np.isfinite(upper)))]
    if unbounded:
        raise ValueError(f"space: expected finite bounds; got infinite ones for {shorten(unbounded)}. Declare a range.")
    unit = _maximin(n, space.dim, rng) if method == "maximin" else _sobol(n, space.dim, rng)
    return np.clip(lower + unit * (upper - lower), lower, upper)


def _sobol(n: int, d: int, rng: np.random.Generator) -> FloatArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about n that is not a power of two; see `design_points`
        return np.asarray(qmc.Sobol(d, rng=rng).random(n))


def _maximin(n: int, d: int, rng: np.random.Generator) -> FloatArray:
    """Returns a Latin hypercube in the unit box with its closest points moved apart.

    Each step takes the point closest to another one and exchanges one coordinate with a random row. The result is still
    a Latin hypercube. The exchange is kept if it increases the smallest distance of these two rows to any other point.
    """
    points = np.asarray(qmc.LatinHypercube(d, rng=rng).random(n))
    distance = cdist(points, points, "sqeuclidean")
    np.fill_diagonal(distance, np.inf)
    nearest = distance.min(axis=1)
    for _ in range(_EXCHANGES * n):
        row = int(np.argmin(nearest))
        column, pair = int(rng.integers(d)), np.array([row, (row + int(rng.integers(1, n))) % n])
        points[pair, column] = points[pair[::-1], column]
        moved = cdist(points[pair], points, "sqeuclidean")
        moved[[0, 1], pair] = np.inf
        if moved.min() > nearest[pair].min():
            distance[pair], distance[:, pair] = moved, moved.T
            nearest = distance.min(axis=1)
        else:
            points[pair, column] = points[pair[::-1], column]
    return points


def _around(space: ParameterSpace, n: int, rng: np.random.Generator, chain: Chain, existing: Any) -> FloatArray:
    if not isinstance(chain, Chain):
        raise TypeError(f"chain: expected a Chain; got {type(chain).__name__}. See read_chain.")
    chain = chain.select(space.names)
    inside = space.contains(chain.samples) & (chain.probabilities > 0)
    if inside.sum() < 2:
        raise ValueError(f"chain: expected draws inside the space's bounds; {inside.sum()} of {chain.n} are. {space}")
    chain = chain.take(np.flatnonzero(inside))
    scale = np.sqrt(np.diag(chain.covariance()))
    rows = rng.choice(chain.n, size=_CANDIDATES * n, p=chain.probabilities)
    candidates = _between(chain.samples[rows], scale, rng)
    candidates = np.where(space.contains(candidates)[:, None], candidates, chain.samples[rows])
    taken = np.empty((0, space.dim))
    if existing is not None:
        taken = checked_inputs(existing, space, "existing")
    return _far_apart(candidates / scale, n, taken / scale) * scale


def _between(draws: FloatArray, scale: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Returns one point for each draw, on the line through the draw and one of its neighbours, or slightly beyond them.

    Unlike smoothing with a kernel, this follows a curved or multimodal posterior without any tuning.
    """
    places = np.unique(draws, axis=0)
    if len(places) == 1:
        return draws
    count = min(2 * draws.shape[1], len(places) - 1)
    _, near = cKDTree(places / scale).query(draws / scale, k=count + 1)
    other = places[near[np.arange(len(draws)), rng.integers(1, count + 1, len(draws))]]
    return np.asarray(draws + rng.uniform(-_BEYOND, 1.0 + _BEYOND, (len(draws), 1)) * (other - draws))


def _far_apart(candidates: FloatArray, n: int, taken: FloatArray) -> FloatArray:
    """Returns n candidates, each the farthest from `taken` and from those already chosen; without any, the first."""
    nearest = cdist(candidates, taken, "sqeuclidean").min(axis=1) if len(taken) else np.full(len(candidates), np.inf)
    chosen = []
    for _ in range(n):
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, cdist(candidates[chosen[-1:]], candidates, "sqeuclidean")[0])
    return candidates[chosen]
