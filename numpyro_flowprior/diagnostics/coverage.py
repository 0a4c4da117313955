"""Is the prior as wide as the chain, everywhere: probability integral transforms, tails, and mass beyond the chain.

The latent space of a flow would be the classical place to look (is it normal?), but a learned base is not normal, and
a mixture of flows has no single latent space. Ranks of the density itself ask the same question of every architecture:
among draws of the prior, the rank of log q at a draw of the same density is uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, gammaln
from scipy.stats import ks_2samp

from .._util.checks import FloatArray

BINS = 20  # of the histograms of ranks
DENSITY_TAILS = (0.05, 0.01, 0.001)  # shares of the prior's mass outside of its highest-density regions
MARGINAL_TAIL = 0.01  # share of the prior's mass beyond each end of each parameter
_FAR = 0.01  # share of the held-out rows that are farther from the cloud than the distance called far
_MOST_NEIGHBOURS = 4000  # rows in the cloud, and judged against it
_CHUNK = 512


@dataclass(frozen=True)
class Uniformity:
    """Ranks of held-out values among those of the prior's draws, uniform if both have one distribution.

    Attributes:
        distance: Kolmogorov-Smirnov distance between the two samples, in [0, 1].
        p_value: of a distance as large, under equal distributions.
        counts: (20,) held-out values between neighbouring quantiles of the prior, each expected to hold a twentieth.
    """

    distance: float
    p_value: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Tail:
    """A tail of the prior: the share of held-out rows in it.

    Attributes:
        subject: a parameter, or "density" for the outside of the highest-density region.
        side: "lower", "upper", or "outer" for the density.
        expected: the prior's own mass there.
        found: share of the held-out rows there.
        error: standard error of `found` if the prior is right.
        p_value: two-sided, exact for independent rows and draws.
    """

    subject: str
    side: str
    expected: float
    found: float
    error: float
    p_value: float


@dataclass(frozen=True)
class Extrapolation:
    """How much of the prior, and of the declared box, is where the chain has no rows.

    A place is called beyond the chain if it is farther, in whitened coordinates, from the nearest of half of the
    held-out rows than 99 % of the other half are.

    Attributes:
        share: of the prior's draws beyond the chain.
        expected: the same of a right prior: 0.01, or what few rows allow.
        error: standard error of `share` if the prior is right.
        p_value: of a share as large, exact for independent rows and draws.
        box: share of the declared box (by volume; between the extreme rows of parameters without bounds) beyond the
            chain. No fault of the prior: it tells where its density is extrapolated.
    """

    share: float
    expected: float
    error: float
    p_value: float
    box: float


def uniformity(values: FloatArray, draws: FloatArray) -> Uniformity:
    """Returns whether values (n,) rank uniformly among the prior's draws (m,).

    With log q as the value this is the coverage of all highest-density regions at once.

    Source: Hyndman (1996), "Computing and graphing highest density regions"; Talts et al. (2018).
    """
    test = ks_2samp(values, draws, method="asymp")
    ranks = np.searchsorted(np.sort(draws), values) / len(draws)
    counts = np.bincount(np.minimum((ranks * BINS).astype(int), BINS - 1), minlength=BINS)
    return Uniformity(float(test.statistic), float(test.pvalue), tuple(counts.tolist()))


def density_tails(log_q: FloatArray, log_q_draws: FloatArray) -> tuple[Tail, ...]:
    """Returns how many held-out rows are where the prior puts its 5, 1 and 0.1 % of lowest density."""
    return tuple(_tail("density", "outer", log_q, log_q_draws, share) for share in DENSITY_TAILS)


def marginal_tails(names: tuple[str, ...], rows: FloatArray, draws: FloatArray) -> tuple[Tail, ...]:
    """Returns how many held-out rows (n, d) are in the outermost per cent of the draws (m, d), side by side."""
    tails = []
    for name, row, draw in zip(names, rows.T, draws.T, strict=True):
        tails += [_tail(name, "lower", row, draw, MARGINAL_TAIL), _tail(name, "upper", -row, -draw, MARGINAL_TAIL)]
    return tuple(tails)


def _tail(subject: str, side: str, values: FloatArray, reference: FloatArray, share: float) -> Tail:
    """Returns how many of the values are below the reference's quantile."""
    n, m = len(values), len(reference)
    order = max(round(share * (m + 1)), 1)
    threshold = np.partition(reference, order - 1)[order - 1]
    count = int(np.sum(values < threshold))
    expected = order / (m + 1)
    lower, upper = beta_binomial_tails(count, n, order, m + 1 - order)
    error = float(np.sqrt(expected * (1.0 - expected) * (1.0 / n + 1.0 / m)))
    return Tail(subject, side, expected, count / n, error, min(1.0, 2.0 * min(lower, upper)))


def beta_binomial_tails(count: int, n: int, a: float, b: float) -> tuple[float, float]:
    """Returns P(K <= count) and P(K >= count) of the beta-binomial distribution.

    Of n draws, as many fall below the a-th smallest of a + b - 1 others of the same density, whatever it is.
    """
    k = np.arange(n + 1)
    log_choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    mass = np.exp(log_choose + betaln(k + a, n - k + b) - betaln(a, b))
    return min(1.0, float(mass[: count + 1].sum())), min(1.0, float(mass[count:].sum()))


def extrapolation(
    generator: np.random.Generator, rows: FloatArray, draws: FloatArray, box: FloatArray
) -> Extrapolation:
    """Returns the shares of draws (m, d) and of points of the box (k, d) that are beyond the held-out rows (n, d).

    Half of the rows are the cloud; the distances to it of the other half and of the draws are then independent, and of
    one distribution if the prior is right.

    Args:
        generator: of the halves.
        rows: held-out rows in whitened coordinates; copies of a row go to one half.
        draws: draws of the prior, likewise.
        box: points uniform in the declared box, likewise.
    """
    group = np.unique(rows, axis=0, return_inverse=True)[1].ravel()
    in_cloud = (generator.permutation(group.max() + 1) % 2 == 0)[group]
    cloud, others = (rows[part][:_MOST_NEIGHBOURS] for part in (in_cloud, ~in_cloud))
    if len(others) == 0:
        return Extrapolation(0.0, 0.0, 1.0, 1.0, float("nan"))
    own, far, outside = (nearest_distances(points, cloud) for points in (others, draws[: 2 * _MOST_NEIGHBOURS], box))
    tail = _tail("", "", -far, -own, _FAR)
    order = max(round(_FAR * (len(own) + 1)), 1)
    upper = beta_binomial_tails(round(tail.found * len(far)), len(far), order, len(own) + 1 - order)[1]
    limit = -np.partition(-own, order - 1)[order - 1]
    return Extrapolation(tail.found, tail.expected, tail.error, upper, float(np.mean(outside > limit)))


def nearest_distances(points: FloatArray, cloud: FloatArray) -> FloatArray:
    """Returns each point's (n, d) distance to the nearest of the cloud (m, d), (n,)."""
    squares = np.sum(cloud**2, axis=1)
    nearest = [
        np.min(squares - 2.0 * part @ cloud.T, axis=1) + np.sum(part**2, axis=1)
        for part in np.split(points, range(_CHUNK, len(points), _CHUNK))
    ]
    return np.sqrt(np.maximum(np.concatenate(nearest), 0.0))
