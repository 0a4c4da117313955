"""Gaussian mixtures by expectation maximisation: where the training of a base with full covariances begins.

The fit is in whitened coordinates, on the rows that a member is trained on, repeated by their weights.
Source: Dempster, Laird, Rubin (1977), JRSS B 39, 1; the ridge as in scikit-learn's GaussianMixture.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from scipy.cluster.vq import ClusterError, kmeans2
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from .._util.checks import FloatArray
from .._util.keys import seed_from_key
from ..flows.bounds import LOG_ROOT_TWO_PI
from ..flows.build import init_trained
from ..flows.config import FlowConfig
from ..flows.layout import MAX_BASE_LOG_SCALE, Params
from .problem import Problem

_MOST = 10_000  # rows, at equal distances; more hardly change a mixture
_STEPS, _SETTLED = 100, 1e-3  # iterations at most, and the gain in nats per row below which they end
_RIDGE = 1e-4  # is added to the variances: whitened ones are about one
_STARTS = 2  # of which the best is kept
_NUMBERS = (2, 3, 4, 5, 6, 8, 12, 16)  # of components
_FEWEST = 5  # rows per parameter and component


class Gaussians(NamedTuple):
    """A mixture: log weights (K,), means (K, d), and lower Cholesky factors (K, d, d) of the covariances."""

    log_weights: FloatArray
    mean: FloatArray
    tril: FloatArray

    def parts(self, x: FloatArray) -> FloatArray:
        """Returns the log weight times density of each component (K, n) at points (n, d)."""
        found = []
        for log_weight, mean, tril in zip(*self, strict=True):
            standard = solve_triangular(tril, (x - mean).T, lower=True, check_finite=False)
            log_det = np.log(np.diagonal(tril)).sum() + x.shape[1] * LOG_ROOT_TWO_PI
            found.append(log_weight - 0.5 * np.sum(standard**2, axis=0) - log_det)
        return np.array(found)

    def log_prob(self, x: FloatArray) -> FloatArray:
        """Returns the log density (n,) at points (n, d)."""
        return logsumexp(self.parts(x), axis=0)

    def base(self) -> Params:
        """Returns the parameters of the base "full_mixture" (layout.py)."""
        scales, shears = [], []
        for tril in self.tril:
            inverse = solve_triangular(tril, np.eye(len(tril)), lower=True)
            factor = np.linalg.cholesky(inverse.T @ inverse)  # of the inverse covariance
            scales.append(1.0 / np.diagonal(factor))
            shears.append(np.tril(factor * scales[-1][:, None], -1))
        most = MAX_BASE_LOG_SCALE["full_mixture"]
        raw = most * np.arctanh(np.clip(np.log(scales) / most, -0.99, 0.99))
        base = {"logits": self.log_weights, "mean": self.mean, "log_scale": raw, "shear": np.array(shears)}
        return {name: np.asarray(part, np.float32) for name, part in base.items()}


def fit_gaussians(key: jax.Array, x: FloatArray, number: int, starts: int = _STARTS) -> Gaussians | None:
    """Returns the likeliest mixture of so many Gaussians at rows (n, d), of several starts; None if there is none."""
    x = x[:: len(x) // _MOST + 1]
    generator = np.random.default_rng(seed_from_key(key))
    best, highest = None, -np.inf
    for _ in range(starts):
        found, likelihood = _maximised(generator, x, number)
        if found is not None and likelihood > highest:
            best, highest = found, likelihood
    return best


def number_of_gaussians(key: jax.Array, problem: Problem) -> tuple[int, float]:
    """Returns the number of Gaussians that is likeliest at validation rows, and their mean log density there.

    Numbers rise until two in succession are worse.
    """
    rows, (held, _) = rows_of(problem), problem.held_draws.counted
    best, highest, worse = 1, _score(key, rows, held, 1), 0
    for number in _NUMBERS:
        if len(rows) < _FEWEST * number * (problem.dim + 1) or worse == 2:
            break
        score = _score(key, rows, held, number)
        if score > highest:
            best, highest, worse = number, score, 0
        else:
            worse += 1
    return best, highest


def first_weights(key: jax.Array, config: FlowConfig, problem: Problem) -> Params:
    """Returns the weights from which a member begins; a base with full covariances is fitted to its rows."""
    trained = init_trained(key, config, problem.dim)
    if config.base == "full_mixture":
        found = fit_gaussians(key, rows_of(problem), config.components)
        if found is not None:
            trained["base"] = found.base()
    return trained


def rows_of(problem: Problem) -> FloatArray:
    """Returns the rows that a member is trained on (n, d), repeated by weight."""
    return np.asarray(problem.data.rows.x, np.float64)[problem.data.taught.counted]


def _score(key: jax.Array, rows: FloatArray, held: FloatArray, number: int) -> float:
    found = fit_gaussians(key, rows, number, starts=1)
    return -np.inf if found is None else float(found.log_prob(held).mean())


def _maximised(generator: np.random.Generator, x: FloatArray, number: int) -> tuple[Gaussians | None, float]:
    """Returns a local maximum of the likelihood from a start by k-means, and its mean log density."""
    if len(x) < number * (x.shape[1] + 1) or not np.ptp(x, axis=0).any():
        return None, -np.inf
    try:
        _, label = kmeans2(x, number, minit="++", rng=generator, missing="raise")
    except ClusterError:
        return None, -np.inf
    shares = (label == np.arange(number)[:, None]).astype(np.float64)
    before = -np.inf
    found = None
    for _ in range(_STEPS):
        step = _moments(x, shares)
        if step is None:
            return None, -np.inf
        found = step
        parts = found.parts(x)
        total = logsumexp(parts, axis=0)
        likelihood = float(total.mean())
        if likelihood - before < _SETTLED:
            break
        shares, before = np.exp(parts - total), likelihood
    return found, likelihood


def _moments(x: FloatArray, shares: FloatArray) -> Gaussians | None:
    """Returns the mixture with the moments of rows (n, d) shared (K, n) among components; None if one is empty."""
    counts = shares.sum(axis=1)
    if (counts < x.shape[1] + 1).any():
        return None
    mean = shares @ x / counts[:, None]
    ridge = _RIDGE * np.eye(x.shape[1])
    spread = [(share * (x - centre).T) @ (x - centre) for share, centre in zip(shares, mean, strict=True)]
    covariance = np.array(spread) / counts[:, None, None] + ridge
    return Gaussians(np.log(counts / counts.sum()), mean, np.linalg.cholesky(covariance))
