"""Search for a mode of the posterior that the draws of a stage miss.

The posterior draws cannot reveal a mode that they miss because the learned prior has almost no mass there. The rows of
the previous stage do not depend on the learned prior. If some of them lie in the basin of such a mode, climbing the
exact joint density from them leads to it, however low the density at these rows is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from scipy.optimize import Bounds, OptimizeResult, minimize
from scipy.spatial import cKDTree
from scipy.special import expit, logsumexp
from scipy.stats import chi2, multivariate_normal, multivariate_t

from .._util.checks import FloatArray
from .._util.keys import seed_from_key
from ..chains.chain import Chain
from ..diagnostics.independent import independent_rows
from ..diagnostics.whitening import whitening
from ..sampling.density import ModelDensity
from .exact import ExactDensity

_FEWEST, _MOST = 10, 4000  # posterior draws used: at least this many per parameter, at most this many in all
_CORE = 0.75  # share of the posterior draws, those of highest density, that define the region with draws
_NEAR = 500  # distance to neighbour n / 500, the 6th of 3000, so that a few stray draws do not form a mode
_STRAYS = 1e-3  # share of the draws whose distance to that neighbour may exceed the reference distance
_FAR = 1.5  # a point farther than this many reference distances counts as far from the draws
_ROWS, _NEIGHBOURS = 10_000, 32  # rows used, at most; neighbours among which a starting point has the highest density
_CLIMBS, _STEPS = 32, 200  # climbs, and steps of each climb, at most
_FINE = 1e-4  # step of numerical derivatives, in standard deviations of the draws
_EDGE = 1e-6  # distance that climbs keep from the bounds, in the same units: the density may be zero at a bound
_NOWHERE = -1e10  # replaces a log density of -inf, as line searches take differences
_ROUNDS, _DRAWS, _COUNTED = 8, 1024, 4096  # rounds, and draws per round, to adapt a proposal; draws for the mass
_CLIPPED, _HEAVY = 0.05, 5.0  # share of weights levelled in the adaptation; degrees of freedom of the proposal
_NEAREST = 0.2  # share of the draws, around the one of highest density, that estimate the normalisation

LogDensity = Callable[[FloatArray], FloatArray]  # (n,) at points (n, d)
Region = Callable[[FloatArray], np.ndarray]  # function from points (n, d) to whether they are in the region, (n,)


@dataclass(frozen=True)
class Overlooked:
    """Modes of a stage's posterior in which it has hardly any draws.

    Attributes:
        climbs: number of starting points; 0 if no candidate row is far from the draws.
        share: posterior mass in such modes minus the share of the draws there; 0 if no mode was found.
        example: parameters at the highest point of the mode with the largest mass; None if no mode was found.
        share_error: standard error of the share from sampling alone, to first order.
    """

    climbs: int
    share: float
    example: dict[str, float] | None
    share_error: float = 0.0

    @property
    def loss(self) -> float:
        """KL in nats from the posterior without these modes to the whole posterior, -log(1 - share)."""
        return float(-np.log1p(-self.share)) if self.share < 1.0 else np.inf


def overlooked(
    key: jax.Array, density: ModelDensity, chain: Chain, before: Chain, exact: ExactDensity
) -> Overlooked | None:
    """Returns the modes that the draws of a stage's posterior miss.

    Climbs start at rows that have the highest density among their neighbours. A climb ends where the posterior has
    draws, or at a maximum. The mass of the mode around a maximum is estimated by importance sampling. The search needs
    ten to sixty thousand evaluations of the exact density. Returns None if the posterior has too few independent draws,
    or if the density is zero at all rows of the previous stage.

    Args:
        key: JAX random key.
        density: the stage's model.
        chain: its posterior.
        before: the chain that the prior was learnt from, including rows of low weight. Parameters that it does not have
            are taken from the posterior draws.
        exact: the prior of the model with the learned prior replaced by the exact posterior of the previous stage.
    """
    generator = np.random.default_rng(seed_from_key(key))
    draws = chain.select(density.names)
    draws = draws.take(independent_rows(key, draws, np.zeros(draws.n), _MOST))
    if draws.n < _FEWEST * draws.dim:
        return None
    scale = draws.samples.std(axis=0)
    scale = np.where(scale > 0.0, scale, 1.0)

    def log_joint(z: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):
            values = exact.log_density(z * scale) + density.log_likelihood(z * scale)
        return np.where(np.isnan(values), -np.inf, values)

    z = draws.samples / scale
    log_draws = log_joint(z)
    far = _far_from(z[log_draws >= np.quantile(log_draws, 1.0 - _CORE)])
    low, high = (density.bounds / scale[:, None] + [_EDGE, -_EDGE]).T
    rows = np.clip(_completed(generator, before, draws) / scale, low, high)
    log_rows = log_joint(rows)
    if not np.isfinite(log_rows).any():
        return None
    starts = _summits(rows, log_rows)
    starts = starts[far(rows[starts])][:_CLIMBS]
    beyond, found = float(far(z).mean()), []
    for start in rows[starts]:
        top, width = _climb(log_joint, start, low, high, far)
        if far(top[None])[0]:
            mode = _mode(generator, log_joint, top, width, far)
            far = _both(far, mode.far)
            found.append(mode)
    if not found:
        return Overlooked(len(starts), 0.0, None)
    share, error = _share_of(found, *_log_mass(z, log_draws))
    own = beyond - float(far(z).mean())  # share of the posterior draws in these modes
    share, error = max(share - own, 0.0), float(np.hypot(error, np.sqrt(own * (1.0 - own) / len(z))))
    if share == 0.0:
        return Overlooked(len(starts), 0.0, None)
    highest = max(found, key=lambda mode: mode.log_mass).top * scale
    return Overlooked(len(starts), share, dict(zip(density.names, highest.tolist(), strict=True)), error)


@dataclass(frozen=True)
class _Mode:
    """A mode.

    Attributes:
        top: (d,) the highest point found.
        log_mass: log of the mass of the mode.
        error: standard error of log_mass.
        far: function from points (m, d) to whether they are outside the mode.
    """

    top: FloatArray
    log_mass: float
    error: float
    far: Region


def _share_of(modes: list[_Mode], log_rest: float, rest_error: float) -> tuple[float, float]:
    """Returns the share of the modes in the total mass, and its standard error, to first order."""
    log_masses = np.array([mode.log_mass for mode in modes])
    log_total = logsumexp(log_masses)
    share = float(expit(log_total - log_rest))
    if share == 0.0:
        return 0.0, 0.0
    errors = np.exp(log_masses - log_total) * [mode.error for mode in modes]
    return share, share * (1.0 - share) * float(np.hypot(np.linalg.norm(errors), rest_error))


def _completed(generator: np.random.Generator, before: Chain, draws: Chain) -> FloatArray:
    """Returns distinct rows of the previous chain, evenly spaced, with the parameters in the order of the draws.

    Up to half of them have weight zero: tempered particles, which are where draws are not.
    """
    drawn = before.probabilities > 0.0
    without = _spaced(np.flatnonzero(~drawn), _ROWS // 2)
    samples = before.samples[np.sort(np.concatenate([without, _spaced(np.flatnonzero(drawn), _ROWS - len(without))]))]
    samples = samples[np.sort(np.unique(samples, axis=0, return_index=True)[1])]
    own = draws.samples[generator.integers(draws.n, size=len(samples))]
    for j, name in enumerate(draws.names):
        if name in before.names:
            own[:, j] = samples[:, before.names.index(name)]
    return own


def _spaced(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))] if len(rows) else rows


def _far_from(points: FloatArray) -> Region:
    """Returns a function that says whether points (m, d) are far from the given ones (n, d)."""
    white, near = whitening(points), max(1, len(points) // _NEAR)
    tree = cKDTree(white(points))
    reach = _FAR * np.quantile(tree.query(tree.data, k=[near + 1])[0], 1.0 - _STRAYS)
    return lambda others: tree.query(white(others), k=[near])[0][:, 0] > reach


def _both(first: Region, second: Region) -> Region:
    return lambda points: first(points) & second(points)


def _summits(rows: FloatArray, log_prob: FloatArray) -> np.ndarray:
    """Returns the numbers of the rows that have the highest density among their neighbours, highest density first."""
    white = whitening(rows)(rows)
    neighbours = cKDTree(white).query(white, k=min(_NEIGHBOURS, len(rows)))[1].reshape(len(rows), -1)
    summits = np.flatnonzero((log_prob >= log_prob[neighbours].max(axis=1)) & np.isfinite(log_prob))
    return summits[np.argsort(-log_prob[summits], kind="stable")]


def _climb(
    log_prob: LogDensity,
    start: FloatArray,
    low: FloatArray,
    high: FloatArray,
    far: Region,
) -> tuple[FloatArray, FloatArray]:
    """Returns a maximum of the density, found by climbing from a point, and its width in each direction, (d,) each.

    The climb ends early at the first point that is not far.
    """

    def downhill(z: FloatArray) -> tuple[float, FloatArray]:
        value, slope, _ = _differences(log_prob, z, low, high)
        return -value, -slope

    def arrived(intermediate_result: OptimizeResult) -> None:
        if not far(intermediate_result.x[None])[0]:
            raise StopIteration

    options, bounds = {"maxiter": _STEPS}, Bounds(low, high)
    top = minimize(downhill, start, jac=True, method="L-BFGS-B", bounds=bounds, callback=arrived, options=options).x
    _, slope, curvature = _differences(log_prob, top, low, high)
    return top, 1.0 / np.maximum(np.sqrt(np.maximum(curvature, 1.0)), np.abs(slope))  # at a bound: from slope


def _differences(
    log_prob: LogDensity, z: FloatArray, low: FloatArray, high: FloatArray
) -> tuple[float, FloatArray, FloatArray]:
    """Returns a log density at a point (d,), its slopes and its negative curvatures (0 at a bound), (d,) each."""
    d = len(z)
    up, down = np.minimum(z + _FINE, high), np.maximum(z - _FINE, low)
    points = np.tile(z, (2 * d + 1, 1))
    points[np.arange(d), np.arange(d)], points[np.arange(d, 2 * d), np.arange(d)] = up, down
    values = np.maximum(log_prob(points), _NOWHERE)
    above, below, value, step = values[:d], values[d:-1], values[-1], up - down
    curvature = np.where(step > 1.5 * _FINE, 2.0 * value - above - below, 0.0) / _FINE**2
    return value, (above - below) / np.maximum(step, _FINE), curvature


def _mode(
    generator: np.random.Generator,
    log_prob: LogDensity,
    top: FloatArray,
    width: FloatArray,
    far: Region,
) -> _Mode:
    """Returns the mode around a maximum, found by adaptive importance sampling. Only points that are far belong to it.

    The mass is that of the far points inside the region of the mode. The proposal is a t distribution. It is adapted to
    the mean and covariance of the weighted draws, after the highest weights have been levelled.

    Source: Cappe et al. (2004), "Population Monte Carlo"; Koblents and Miguez (2015) for the levelling.
    """
    mean, covariance = top, np.diag(width**2)
    for _ in range(_ROUNDS):
        z, log_weights = _weighted(generator, log_prob, mean, covariance, far, _DRAWS)
        possible = np.isfinite(log_weights)
        if possible.sum() > len(top) + 1:
            level = max(np.sort(log_weights)[-int(_CLIPPED * _DRAWS)], log_weights[possible].min())
            weights = np.exp(np.minimum(log_weights, level) - level)
            mean = np.average(z, axis=0, weights=weights)
            covariance = np.cov(z.T, aweights=weights).reshape(len(top), -1)
    around = multivariate_normal(mean, covariance, allow_singular=True).rvs(_DRAWS, random_state=generator)
    outside = _far_from(around.reshape(_DRAWS, -1))
    inside = _both(far, lambda points: ~outside(points))
    log_weights = _weighted(generator, log_prob, mean, covariance, inside, _COUNTED)[1]
    return _Mode(top, *_log_mean(log_weights), outside)


def _log_mean(log_terms: FloatArray) -> tuple[float, float]:
    """Returns the log of the mean of terms (n,) and its standard error, to first order; -inf and 0 if all are zero."""
    n, total = len(log_terms), float(logsumexp(log_terms))
    if total == -np.inf:
        return -np.inf, 0.0
    shares = np.exp(log_terms - total)
    return total - float(np.log(n)), float(np.sqrt(max(np.sum(shares**2) - 1.0 / n, 0.0)))


def _weighted(
    generator: np.random.Generator,
    log_prob: LogDensity,
    mean: FloatArray,
    covariance: FloatArray,
    counted: Region,
    n: int,
) -> tuple[FloatArray, FloatArray]:
    """Returns draws (n, d) of a t distribution and their log weights (n,), -inf outside the region `counted`."""
    proposal = multivariate_t(mean, covariance, df=_HEAVY, allow_singular=True)
    z = proposal.rvs(n, random_state=generator).reshape(n, -1)
    log_weights = log_prob(z) - proposal.logpdf(z)  # at all points: each new number of points is compiled again
    return z, np.where(counted(z), log_weights, -np.inf)


def _log_mass(z: FloatArray, log_prob: FloatArray) -> tuple[float, float]:
    """Returns the log of the integral of a density, from its log values (n,) at draws (n, d), and its standard error.

    The integral is the inverse of the mean of g / p over draws from p. Here g is a normal density fitted to the draws
    around the one of highest density, truncated to its central half of the mass.

    Source: Gelfand and Dey (1994), "Bayesian model choice"; the choice of g is from Robert and Wraith (2009).
    """
    white = whitening(z)(z)
    distance = np.linalg.norm(white - white[np.argmax(log_prob)], axis=1)
    nearest = z[np.argsort(distance, kind="stable")[: max(int(_NEAREST * len(z)), z.shape[1] + 2)]]
    g = multivariate_normal(nearest.mean(axis=0), np.cov(nearest.T), allow_singular=True)
    log_g = g.logpdf(z)
    half = g.logpdf(g.mean) - 0.5 * chi2.median(z.shape[1])  # log density of the contour around half of the mass
    inside = (log_g >= half) & np.isfinite(log_prob)
    log_mean, error = _log_mean(np.where(inside, log_g, -np.inf) - np.where(inside, log_prob, 0.0))
    return -log_mean - float(np.log(2.0)), error
