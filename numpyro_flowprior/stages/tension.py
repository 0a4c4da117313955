"""Does the posterior move, when data are added, farther than data in agreement would make it?

Between a posterior and the same with more data the means differ by Delta; if both are Gaussian and the data agree, its
covariance is C_before - C_after, since means of Gaussian updates are martingales. Along the directions v with
C_before v = lambda C_after v, v C_after v = 1, in which the new data tell something, Q = sum (v Delta)^2 / (lambda - 1)
is chi-square distributed. Source: Raveri and Hu (2019), Phys. Rev. D 99, 043506, and Raveri and Doux (2021),
arXiv:2105.03324, the update difference in mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.special import ndtri
from scipy.stats import chi2, norm

from .._util.checks import FloatArray, shorten
from ..chains.chain import Chain

_TELLS = 0.2  # lambda - 1 from which on the new data tell something of a direction: below, both sides are noise
_SAME = 0.05  # by which a width must shrink for its shift to have a scale
_FEWEST = 2.0  # independent rows for each parameter, for a covariance that means anything
_FEW = "fewer than two independent rows for each parameter, in this stage or the one before"
_NO_UPDATE = (
    "the posterior is not narrower than the one before in any direction. It is no update of that one, or the new data "
    "say next to nothing"
)


@dataclass(frozen=True)
class Tension:
    """Shifts from one posterior to the next.

    Attributes:
        names: parameters of both.
        shift: (d,) of the means, in standard deviations of the earlier posterior.
        pull: (d,) the same over what agreeing data would scatter, sqrt(sigma_before^2 - sigma_after^2), in normal
            scores of the earlier posterior; NaN where the width hardly shrinks, and without a test.
        q, freedom: the chi-square of all parameters together, and its degrees of freedom.
        p_value: of a Q as large, if both posteriors are Gaussian in normal scores and the data agree; NaN if there is
            no degree of freedom, and so no test.
        reason: why there is no test; empty if there is one.
    """

    names: tuple[str, ...]
    shift: FloatArray
    pull: FloatArray
    q: float
    freedom: int
    p_value: float
    reason: str = ""

    @property
    def sigma(self) -> float:
        """The p-value in standard deviations of a normal variable, two-sided; NaN without a test."""
        return float(norm.isf(max(self.p_value, 1e-300) / 2.0))


def tension(before: Chain, after: Chain) -> Tension:
    """Returns the shifts from one posterior to the next, of the parameters that both have.

    The statistic is computed in normal scores, the normal quantiles of the earlier posterior's ranks: in them its
    marginals are Gaussian, bounds or not. What lies beyond its outermost row counts as at that row, so that shifts into
    its far tail are understated. Two posteriors of which the later one is not narrower in any direction cannot be
    tested, whatever their shifts: `reason` says so. So it does of chains of hardly any independent rows.

    Raises:
        ValueError: no shared parameter, or one that takes a single value in either chain (named).
    """
    names = tuple(name for name in before.names if name in after.names)
    if not names:
        raise ValueError(
            f"tension: expected chains that share parameters; got {shorten(before.names, 40)} and "
            f"{shorten(after.names, 40)}."
        )
    constant = [name for name in names if name in {*before.constant_columns, *after.constant_columns}]
    if constant:
        raise ValueError(
            f"tension: expected parameters that vary in both chains; {shorten(constant, 40)} takes a single value. "
            "Leave it out with select."
        )
    before, after = before.select(names), after.select(names)
    shift = mean_shift(before, after)
    if min(before.effective_size, after.effective_size) <= _FEWEST * len(names):
        return _untested(names, shift, _FEW)
    (mean, covariance), (mean_after, covariance_after) = (
        _moments(normal_scores(chain.samples, before), chain.probabilities) for chain in (before, after)
    )
    ratios, directions = eigh(covariance, covariance_after)
    told = (ratios - 1.0 > _TELLS) & (_narrowing(before, after) - 1.0 > _TELLS)
    if not told.any():
        return _untested(names, shift, _NO_UPDATE)
    delta, width, width_after = mean_after - mean, np.diagonal(covariance), np.diagonal(covariance_after)
    with np.errstate(invalid="ignore", divide="ignore"):
        pull = np.where(width_after < (1 - _SAME) ** 2 * width, delta / np.sqrt(width - width_after), np.nan)
    q = float(np.sum((directions.T @ delta)[told] ** 2 / (ratios[told] - 1.0)))
    freedom = int(told.sum())
    return Tension(names, shift, pull, q, freedom, float(chi2.sf(q, freedom)))


def _untested(names: tuple[str, ...], shift: FloatArray, reason: str) -> Tension:
    return Tension(names, shift, np.full(len(names), np.nan), 0.0, 0, np.nan, reason)


def _narrowing(before: Chain, after: Chain) -> float:
    """Returns the largest ratio of variances, earlier to later, of any direction of the parameters themselves.

    Normal scores saturate beyond the earlier rows: there any posterior seems narrower.
    """
    scale = np.sqrt(np.diagonal(before.covariance()))
    scales = np.outer(scale, scale)
    return float(eigh(before.covariance() / scales, after.covariance() / scales, eigvals_only=True)[-1])


def mean_shift(before: Chain, after: Chain) -> FloatArray:
    """Returns the shift (d,) of the means of the same parameters, in standard deviations of the earlier posterior."""
    return (after.mean() - before.mean()) / np.sqrt(np.diagonal(before.covariance()))


def normal_scores(samples: FloatArray, reference: Chain) -> FloatArray:
    """Returns the normal quantiles (n, d) of the samples' ranks among a reference chain's rows, by its weights."""
    columns = []
    for column, known in zip(samples.T, reference.samples.T, strict=True):
        order = np.argsort(known)
        weights = reference.probabilities[order]
        ends = np.cumsum(weights)
        places = np.interp(column, known[order], ends - 0.5 * weights)
        half = 0.5 / max(reference.effective_size, 1.0)
        columns.append(ndtri(np.clip(places, half, 1.0 - half)))
    return np.stack(columns, axis=1)


def _moments(z: FloatArray, probabilities: FloatArray) -> tuple[FloatArray, FloatArray]:
    mean = probabilities @ z
    centred = z - mean
    return mean, (centred * probabilities[:, None]).T @ centred
