"""Tension: does the posterior shift farther with new data than expected if all data agree?

Delta is the difference between the means of a posterior and of its update with more data. If both are Gaussian and the
data agree, the covariance of Delta is C_before - C_after, because the means of Gaussian updates are martingales. Take
the directions v with C_before v = lambda C_after v and v C_after v = 1. Over those in which the new data are
informative, Q = sum (v Delta)^2 / (lambda - 1) is chi-square distributed. Source: Raveri and Hu (2019), Phys. Rev. D
99, 043506, and Raveri and Doux (2021), arXiv:2105.03324, the update difference in mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.special import ndtri
from scipy.stats import chi2, norm

from .._util.checks import FloatArray, shorten
from ..chains.chain import Chain

_TELLS = 0.2  # smallest lambda - 1 at which new data count as informative; below, (v Delta)^2 and lambda - 1 are noise
_SAME = 0.05  # smallest relative decrease of a width for which the pull is defined
_FEWEST = 2.0  # independent rows per parameter needed to estimate a covariance
_FEW = "fewer than two independent rows for each parameter, in this stage or the previous one"
_NO_UPDATE = (
    "the posterior is not narrower than the previous one in any direction. It is not an update of that posterior, or "
    "the new data are hardly informative"
)


@dataclass(frozen=True)
class Tension:
    """Shifts of the parameters from one posterior to the next.

    Attributes:
        names: the shared parameters.
        shift: (d,) shifts of the means, in standard deviations of the earlier posterior.
        pull: (d,) shifts of the means divided by the scatter expected if the data agree, sqrt(sigma_before^2 -
            sigma_after^2), both in normal scores of the earlier posterior. NaN where the width hardly shrinks, and if
            there is no test.
        q, freedom: chi-square of all parameters together, and its degrees of freedom.
        p_value: probability of a Q at least this large if both posteriors are Gaussian in normal scores and the data
            agree. NaN if there is no test.
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
        """The p-value as two-sided standard deviations of a normal variable; NaN if there is no test."""
        return float(norm.isf(max(self.p_value, 1e-300) / 2.0))


def tension(before: Chain, after: Chain) -> Tension:
    """Returns the shifts from one posterior to the next, for the parameters that both have.

    The statistic is computed in normal scores, which are the normal quantiles of the ranks in the earlier posterior.
    Its marginals are Gaussian in these scores, with or without bounds. Values beyond the outermost row count as that
    row, so shifts into the far tail are underestimated. There is no test if the later posterior is not narrower in any
    direction, or if a chain has too few independent rows; `reason` gives the cause.

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
    """Returns the largest ratio of variances, earlier to later, in any direction of parameter space.

    It is not computed in normal scores. These saturate beyond the earlier rows, where any posterior seems narrower.
    """
    scale = np.sqrt(np.diagonal(before.covariance()))
    scales = np.outer(scale, scale)
    return float(eigh(before.covariance() / scales, after.covariance() / scales, eigvals_only=True)[-1])


def mean_shift(before: Chain, after: Chain) -> FloatArray:
    """Returns the shift (d,) of the means of the same parameters, in standard deviations of the earlier posterior."""
    return (after.mean() - before.mean()) / np.sqrt(np.diagonal(before.covariance()))


def normal_scores(samples: FloatArray, reference: Chain) -> FloatArray:
    """Returns the normal quantiles (n, d) of the weighted ranks of samples among the rows of a reference chain."""
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
