"""Is there a mode of the posterior where a stage has next to no draws?

What the posterior's draws say of the learned prior is blind to what they miss: a mode that the prior all but forgot.
The rows of the stage before were there before anything was learnt. Where they stand in the basin of such a mode, the
exact joint density, uphill from them, leads to it, however low their own density is.
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

_FEWEST, _MOST = 10, 4000  # draws of the posterior for each parameter, and in all
_CORE = 0.75  # of the posterior: its most likely draws
_NEAR = 500  # draws of which the nearest counts as near: the 6th of 3000, so that a few strays make no mode
_STRAYS = 1e-3  # of the draws: their distances to the draws near them may be larger than
_FAR = 1.5  # times this distance, from which on a point is where there are next to none
_ROWS, _NEIGHBOURS = 10_000, 32  # rows that are looked at; of how many the likeliest is where climbs begin
_CLIMBS, _STEPS = 32, 200  # at most
_FINE = 1e-4  # standard deviations of the core: the step of numerical derivatives
_EDGE = 1e-6  # of them, by which climbs stay inside the bounds, where the density may be zero
_NOWHERE = -1e10  # log density, where it is -inf: line searches subtract
_ROUNDS, _DRAWS, _COUNTED = 8, 1024, 4096  # of the importance sampling that learns a mode, and then weighs it
_CLIPPED, _HEAVY = 0.05, 5.0  # share of the highest weights that are levelled to adapt it; freedom of its t density
_NEAREST = 0.2  # of the draws, around the likeliest, that tell the density's constant

LogDensity = Callable[[FloatArray], FloatArray]  # (n,) at points (n, d)
Region = Callable[[FloatArray], np.ndarray]  # whether points (n, d) are in it


@dataclass(frozen=True)
class Overlooked:
    """A mode of a stage's posterior where it has next to no draws.

    Attributes:
        climbs: how many places the search began at; none if all rows lead to where the draws are.
        share: of the posterior in such modes, more than its own draws have there; 0 if none was found.
        example: parameters of the most massive one's highest point; None if there is none.
        share_error: standard error of the share, of the sampling alone, to first order.
    """

    climbs: int
    share: float
    example: dict[str, float] | None
    share_error: float = 0.0

    @property
    def loss(self) -> float:
        """Nats that a posterior loses which lacks these modes, -log(1 - share)."""
        return float(-np.log1p(-self.share)) if self.share < 1.0 else np.inf


def overlooked(
    key: jax.Array, density: ModelDensity, chain: Chain, before: Chain, exact: ExactDensity
) -> Overlooked | None:
    """Returns what a stage's posterior overlooked.

    None if it has too few independent draws to tell, or if no row of the stage before has a density.

    Climbs begin at the rows that are the likeliest among their neighbours, and end where the posterior has draws, or at
    a maximum, whose mass importance sampling finds. Ten to sixty thousand evaluations of the exact density.

    Args:
        key: JAX random key.
        density: the stage's model.
        chain: its posterior.
        before: the chain that the prior was learnt from, rows of low weight included; parameters that the stage has
            besides are taken from the posterior's draws.
        exact: the model's prior with the exact posterior of the stage before.
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
    own = beyond - float(far(z).mean())  # draws in these modes
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
        log_mass: log of its mass.
        error: standard error of that.
        far: whether points (m, d) are outside of it.
    """

    top: FloatArray
    log_mass: float
    error: float
    far: Region


def _share_of(modes: list[_Mode], log_rest: float, rest_error: float) -> tuple[float, float]:
    """Returns the share of the modes' mass in the whole, and its standard error, to first order."""
    log_masses = np.array([mode.log_mass for mode in modes])
    log_total = logsumexp(log_masses)
    share = float(expit(log_total - log_rest))
    if share == 0.0:
        return 0.0, 0.0
    errors = np.exp(log_masses - log_total) * [mode.error for mode in modes]
    return share, share * (1.0 - share) * float(np.hypot(np.linalg.norm(errors), rest_error))


def _completed(generator: np.random.Generator, before: Chain, draws: Chain) -> FloatArray:
    """Returns different rows of the chain before, spread over it, in the order of the draws' parameters."""
    samples = before.samples[np.unique(np.linspace(0, before.n - 1, _ROWS).astype(int))]
    samples = samples[np.sort(np.unique(samples, axis=0, return_index=True)[1])]
    own = draws.samples[generator.integers(draws.n, size=len(samples))]
    for j, name in enumerate(draws.names):
        if name in before.names:
            own[:, j] = samples[:, before.names.index(name)]
    return own


def _far_from(points: FloatArray) -> Region:
    """Returns whether points (m, d) are where given ones (n, d) leave next to nothing, as a function."""
    white, near = whitening(points), max(1, len(points) // _NEAR)
    tree = cKDTree(white(points))
    reach = _FAR * np.quantile(tree.query(tree.data, k=[near + 1])[0], 1.0 - _STRAYS)
    return lambda others: tree.query(white(others), k=[near])[0][:, 0] > reach


def _both(first: Region, second: Region) -> Region:
    return lambda points: first(points) & second(points)


def _summits(rows: FloatArray, log_prob: FloatArray) -> np.ndarray:
    """Returns numbers of the rows that are the likeliest among their neighbours, the likeliest first."""
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
    """Returns a maximum of the density uphill from a point, and its width in each direction, (d,) each.

    Or the first point on the way that is not far.
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
    return top, 1.0 / np.maximum(np.sqrt(np.maximum(curvature, 1.0)), np.abs(slope))  # at a bound: the slope's


def _differences(
    log_prob: LogDensity, z: FloatArray, low: FloatArray, high: FloatArray
) -> tuple[float, FloatArray, FloatArray]:
    """Returns a log density at a point (d,), its slopes and, downwards, its curvatures (0 at a bound), (d,) each."""
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
    """Returns the mode around a maximum, by adaptive importance sampling; what is not far is not of it.

    Its mass is that of the region in which draws count as its own. The proposal, a t distribution, takes mean and
    covariance of the weighted draws, the highest weights levelled.

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
    """Returns the log of the mean of terms (n,), and its standard error, to first order; -inf and 0 if all are 0."""
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
    """Returns draws (n, d) of a t distribution and their log weights (n,), -inf where they do not count."""
    proposal = multivariate_t(mean, covariance, df=_HEAVY, allow_singular=True)
    z = proposal.rvs(n, random_state=generator).reshape(n, -1)
    log_weights = log_prob(z) - proposal.logpdf(z)  # of all: each other number of points would be compiled anew
    return z, np.where(counted(z), log_weights, -np.inf)


def _log_mass(z: FloatArray, log_prob: FloatArray) -> tuple[float, float]:
    """Returns the log of the integral of a density (n,) known at draws (n, d) from it, and its error.

    The mean of g / p over draws of p, for a normal density g of the draws around the likeliest, cut off at its middle.

    Source: Gelfand and Dey (1994), "Bayesian model choice"; the choice of g is Robert and Wraith's (2009).
    """
    white = whitening(z)(z)
    distance = np.linalg.norm(white - white[np.argmax(log_prob)], axis=1)
    nearest = z[np.argsort(distance, kind="stable")[: max(int(_NEAREST * len(z)), z.shape[1] + 2)]]
    g = multivariate_normal(nearest.mean(axis=0), np.cov(nearest.T), allow_singular=True)
    log_g = g.logpdf(z)
    half = g.logpdf(g.mean) - 0.5 * chi2.median(z.shape[1])  # the density above which half of the mass is
    inside = (log_g >= half) & np.isfinite(log_prob)
    log_mean, error = _log_mean(np.where(inside, log_g, -np.inf) - np.where(inside, log_prob, 0.0))
    return -log_mean - float(np.log(2.0)), error
