"""Coverage of a prior: probability integral transforms, tails, and prior mass beyond the chain.

The classical test of a flow is whether held-out rows are normal in its latent space. A learned base is not normal,
however, and a mixture of flows has no single latent space. Ranks of the density give the same test for every
architecture. The rank of log q at a row, among its values at prior draws, is uniform if the row has the density q.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, gammaln
from scipy.stats import ks_2samp

from .._util.checks import FloatArray

BINS = 20  # number of bins in the histograms of ranks
DENSITY_TAILS = (0.05, 0.01, 0.001)  # shares of the prior mass outside its highest-density regions
MARGINAL_TAIL = 0.01  # share of the prior mass in each of the two tails of each parameter
_FAR = 0.01  # share of the held-out rows beyond the distance that is called far from the cloud
_MOST_NEIGHBOURS = 4000  # rows in the cloud, and rows compared with it, at most
_CHUNK = 512


@dataclass(frozen=True)
class Uniformity:
    """Ranks of held-out values among values at prior draws; they are uniform if both have the same distribution.

    Attributes:
        distance: Kolmogorov-Smirnov distance between the two samples, in [0, 1].
        p_value: probability of a distance at least this large, under equal distributions.
        counts: (20,) held-out values between adjacent quantiles of the prior; a twentieth is expected in each.
    """

    distance: float
    p_value: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Tail:
    """The share of held-out rows in one tail of the prior.

    Attributes:
        subject: name of a parameter, or "density" for the region outside the highest-density region.
        side: "lower", "upper", or "outer" for the density.
        expected: prior mass in the tail.
        found: share of the held-out rows in the tail.
        error: standard error of `found` if the prior is correct.
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
    """How much of the prior, and of the declared box, lies beyond the rows of the chain.

    Half of the held-out rows form a cloud. A point is beyond the chain if its distance to the nearest row of the cloud,
    in whitened coordinates, exceeds that of 99 % of the other half.

    Attributes:
        share: share of the prior draws beyond the chain.
        expected: value of `share` for a correct prior: 0.01, or the nearest value that few rows allow.
        error: standard error of `share` if the prior is correct.
        p_value: probability of a share at least this large, exact for independent rows and draws.
        box: share of the volume of the declared box beyond the chain. For parameters without bounds the box ends at the
            extreme rows. A large share is not a defect of the prior: its density is extrapolated there.
    """

    share: float
    expected: float
    error: float
    p_value: float
    box: float


def uniformity(values: FloatArray, draws: FloatArray) -> Uniformity:
    """Returns a test of whether values (n,) at held-out rows rank uniformly among those of the prior draws (m,).

    If the value is log q, this tests the coverage of all highest-density regions at once.

    Source: Hyndman (1996), "Computing and graphing highest density regions"; Talts et al. (2018).
    """
    test = ks_2samp(values, draws, method="asymp")
    ranks = np.searchsorted(np.sort(draws), values) / len(draws)
    counts = np.bincount(np.minimum((ranks * BINS).astype(int), BINS - 1), minlength=BINS)
    return Uniformity(float(test.statistic), float(test.pvalue), tuple(counts.tolist()))


def density_tails(log_q: FloatArray, log_q_draws: FloatArray) -> tuple[Tail, ...]:
    """Returns the shares of held-out rows in the 5, 1 and 0.1 % of the prior mass with the lowest density."""
    return tuple(_tail("density", "outer", log_q, log_q_draws, share) for share in DENSITY_TAILS)


def marginal_tails(names: tuple[str, ...], rows: FloatArray, draws: FloatArray) -> tuple[Tail, ...]:
    """Returns the shares of held-out rows (n, d) in the lower and upper 1 % of the prior draws (m, d)."""
    tails = []
    for name, row, draw in zip(names, rows.T, draws.T, strict=True):
        tails += [_tail(name, "lower", row, draw, MARGINAL_TAIL), _tail(name, "upper", -row, -draw, MARGINAL_TAIL)]
    return tuple(tails)


def _tail(subject: str, side: str, values: FloatArray, reference: FloatArray, share: float) -> Tail:
    """Returns the share of the values below the quantile `share` of the reference."""
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

    K is the number of n draws below the a-th smallest of a + b - 1 other draws of the same density. Its distribution
    does not depend on the density.
    """
    k = np.arange(n + 1)
    log_choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    mass = np.exp(log_choose + betaln(k + a, n - k + b) - betaln(a, b))
    return min(1.0, float(mass[: count + 1].sum())), min(1.0, float(mass[count:].sum()))


def extrapolation(
    generator: np.random.Generator, rows: FloatArray, draws: FloatArray, box: FloatArray
) -> Extrapolation:
    """Returns the shares of draws (m, d) and of points of the box (k, d) that are beyond the held-out rows (n, d).

    Half of the rows form the cloud. Given the cloud, the distances of the other half and of the draws to it are
    independent. They have the same distribution if the prior is correct.

    Args:
        generator: source of the random halves.
        rows: held-out rows in whitened coordinates; copies of a row go to the same half.
        draws: draws of the prior, in the same coordinates.
        box: uniform points in the declared box, in the same coordinates.
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
    """Returns the distances (n,) of points (n, d) to the nearest point of the cloud (m, d)."""
    squares = np.sum(cloud**2, axis=1)
    nearest = [
        np.min(squares - 2.0 * part @ cloud.T, axis=1) + np.sum(part**2, axis=1)
        for part in np.split(points, range(_CHUNK, len(points), _CHUNK))
    ]
    return np.sqrt(np.maximum(np.concatenate(nearest), 0.0))
