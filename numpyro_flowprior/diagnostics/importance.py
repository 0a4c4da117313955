"""Importance weights: how closely a proposal follows a density that can be evaluated, and where its weights end.

Source of the smoothing: A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, "Pareto smoothed importance sampling",
JMLR 25 (2024) 72. The fit is that of J. Zhang, M. A. Stephens, Technometrics 51 (2009) 316.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from .._util.checks import FloatArray
from .._util.display import Displayed
from .._util.json_numbers import rounded
from ..chains.chain import Chain
from ..chains.effective import error_of_sum

RELIABLE = 0.7  # Pareto k above which the mean of the weights converges too slowly to be useful
_NEGLIGIBLE = 0.01  # share of the mean of the weights in the tail
_FEWEST_TAIL = 5  # smallest number of weights in a tail that can be fitted
_PRIOR_K, _PRIOR_COUNT = 0.5, 10  # the shape is shrunk towards one half, which counts as ten tail values


@dataclass(frozen=True, repr=False)
class DensityReport(Displayed):
    """The agreement of a prior q with a density p that can be evaluated, from independent draws.

    All numbers follow from importance weights. They do not see regions where no draw is: if the prior is too low by
    tens of nats in a far tail, the KL to it is larger than they say.

    Attributes:
        efficiency: effective number of draws per draw, (sum w)^2 / (n sum w^2); 1 if q equals p.
        kl_to_prior: KL(p || q), nats; infinite or NaN if p is zero at all draws.
        kl_to_prior_error: its standard error.
        kl_from_prior: KL(q || p), nats; infinite if p is zero at any draw.
        kl_from_prior_error: its standard error.
        pareto_k: tail shape of the weights; above 0.7 the numbers are not reliable.
        log_evidence: log of the integral of the density.
        log_evidence_error: its standard error.
        outside: share of the draws at which the density is zero.
        draws: number of draws.
        tail_share: share of the mean of the weights that is above the beginning of their tail, as a Pareto distribution
            is fitted to it; infinite if k is one or more.
    """

    efficiency: float
    kl_to_prior: float
    kl_to_prior_error: float
    kl_from_prior: float
    kl_from_prior_error: float
    pareto_k: float
    log_evidence: float
    log_evidence_error: float
    outside: float
    draws: int
    tail_share: float = float("inf")  # which older files lack

    @property
    def reliable(self) -> bool:
        """Whether the weights have a tail that is short enough for these numbers."""
        return bool(np.isfinite(self.log_evidence)) and self.pareto_k <= RELIABLE

    @property
    def evidence_is_reliable(self) -> bool:
        """Whether the log evidence is: a longer tail does not matter to it if it carries next to nothing."""
        return self.reliable or (bool(np.isfinite(self.log_evidence)) and self.tail_share <= _NEGLIGIBLE)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready record; the log evidence is not rounded."""
        numbers = {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(self).items()}
        return {**numbers, "log_evidence": self.log_evidence if np.isfinite(self.log_evidence) else None}

    def _headline(self) -> str:
        return f"efficiency {100 * self.efficiency:.1f} %, KL to the prior {self.kl_to_prior:.2g} nats"

    def __str__(self) -> str:
        lines = [
            f"importance efficiency: {100 * self.efficiency:.1f} % (Pareto k {self.pareto_k:.2f}, {self.draws} draws)",
            f"KL from the density to the prior: {self.kl_to_prior:.4f} +- {self.kl_to_prior_error:.4f} nats",
            f"KL from the prior to the density: {self.kl_from_prior:.4f} +- {self.kl_from_prior_error:.4f} nats",
            f"log evidence: {self.log_evidence:.4f} +- {self.log_evidence_error:.4f}",
        ]
        if self.outside:
            lines.append(f"the density is zero at {100 * self.outside:.2g} % of the draws")
        return "\n".join(lines)


def density_report(
    log_p: FloatArray, log_q: FloatArray, log_wide: FloatArray | None = None, *, own: int = 0
) -> DensityReport:
    """Returns the agreement of a prior with a density.

    Draws of the prior alone do not show tails of the density in which the prior is far too low. Some of the points may
    therefore be draws of a wider density. Together they are draws of the mixture of the two, whose log density is used
    in the weights (Owen and Zhou 2000, "Safe and effective importance sampling"). Efficiency, Pareto k and the KL from
    the prior use the draws of the prior alone.

    Args:
        log_p: (n,) log density, up to a constant; -inf where it is zero.
        log_q: (n,) normalised log density of the prior.
        log_wide: (n,) normalised log density of the wider proposal; None if all points are draws of the prior.
        own: number of draws of the prior, which come first; not used without `log_wide`.
    """
    n = len(log_p)
    own = n if log_wide is None else own
    log_drawn = log_q if log_wide is None else log_mixture(log_q, log_wide, own)
    log_weights = log_p - log_drawn
    of_prior = np.exp(log_q - log_drawn)  # of mean one; if the prior is the density, it takes all noise away
    log_z = float(logsumexp(log_weights)) - float(np.log(of_prior.sum()))
    log_ratio = log_p - log_q
    ratio = log_ratio[:own]
    possible = np.isfinite(ratio)
    outside = 1.0 - float(possible.mean())
    if not possible.any():
        nan = float("nan")
        return DensityReport(0.0, np.inf, nan, np.inf, nan, np.inf, -np.inf, nan, outside, own)
    tail = _tail(ratio - ratio.max())
    weights = np.exp(log_weights - log_z)  # mean one
    terms = weights * np.where(weights > 0.0, log_ratio - log_z, 0.0)
    to_prior = float(np.mean(terms))
    relative = np.exp(ratio - ratio.max())
    of_z = (weights - of_prior) / n  # what each point adds to the error of log z, to first order
    of_kl = terms / n - (to_prior + 1.0) * of_z
    of_reverse = of_z.copy()
    of_reverse[:own] -= np.where(possible, ratio, 0.0) / own
    return DensityReport(
        efficiency=float(np.mean(relative) ** 2 / np.mean(relative**2)),
        kl_to_prior=to_prior,
        kl_to_prior_error=_error_of_parts(of_kl, own),
        kl_from_prior=np.inf if outside else log_z - float(np.mean(ratio)),
        kl_from_prior_error=float("nan") if outside else _error_of_parts(of_reverse, own),
        pareto_k=tail.k,
        log_evidence=log_z,
        log_evidence_error=_error_of_parts(of_z, own),
        outside=outside,
        draws=own,
        tail_share=tail.share / float(np.mean(relative)),
    )


def _error_of_parts(terms: FloatArray, own: int) -> float:
    """Returns the standard error of a sum over independent points, the first `own` of them from one density."""
    parts = terms[:own], terms[own:]
    return float(np.sqrt(sum(len(part) * np.var(part) for part in parts if len(part))))


def log_mixture(log_q: FloatArray, log_wide: FloatArray, own: int) -> FloatArray:
    """Returns the log density (n,) of the mixture of which `own` draws of q and n - own wider draws are a sample."""
    share = own / len(log_q)
    mixed: FloatArray = np.logaddexp(np.log(share) + log_q, np.log1p(-share) + log_wide)
    return mixed


def log_mean_ratio(log_shares: FloatArray, chain: Chain) -> tuple[float, float]:
    """Returns the log of the mean of a ratio of densities over a chain's draws, and its standard error.

    Args:
        log_shares: (n,) log of the ratio times the draw's probability; -inf where either is zero.
        chain: the draws.
    """
    mean = float(logsumexp(log_shares))
    shares = np.exp(log_shares - mean)  # of each draw in the mean; their relative error is the error of the log
    return mean, error_of_sum(shares - chain.probabilities, chain.probabilities, chain.dependence)


def pareto_smoothed(log_weights: FloatArray, *, relative_efficiency: float = 1.0) -> tuple[FloatArray, float]:
    """Returns normalised log weights with the largest replaced by Pareto quantiles, and the shape k.

    The tail has min(n / 5, 3 sqrt(n / efficiency)) weights. Nothing is smoothed if they are equal (k is -inf), or if
    fewer than five of them stand out, so that they alone may make up the mean (k is +inf).
    """
    shifted = log_weights - log_weights.max()
    tail = _tail(shifted, relative_efficiency=relative_efficiency)
    if not len(tail.rows):
        return shifted - logsumexp(shifted), tail.k
    places = (np.arange(len(tail.rows)) + 0.5) / len(tail.rows)
    with np.errstate(over="ignore"):  # infinite quantiles, where k is huge, are cut as others are
        quantiles = (
            tail.sigma * np.expm1(-tail.k * np.log1p(-places)) / tail.k if tail.k else -tail.sigma * np.log1p(-places)
        )
    smoothed = shifted.copy()
    smoothed[tail.rows] = np.minimum(np.log(quantiles + tail.cutoff), 0.0)  # none above the largest raw weight
    return smoothed - logsumexp(smoothed), tail.k


class _Tail(NamedTuple):
    """A Pareto distribution of shape k and scale sigma, fitted to weights (`rows`, ascending) above a cut-off.

    `share` is the mean of its exceedances, times the share of the weights in the tail. There are no rows if no tail can
    be fitted; the shape is then minus infinity if all weights are equal, else infinity.
    """

    rows: np.ndarray
    cutoff: float
    k: float
    sigma: float
    share: float


def _tail(shifted: FloatArray, *, relative_efficiency: float = 1.0) -> _Tail:
    """Returns the tail of weights (n,), given by their logarithms, of which the largest is zero."""
    n = len(shifted)
    size = int(np.ceil(min(n / 5, 3 * np.sqrt(n / relative_efficiency))))
    order = np.argsort(shifted)
    none = np.empty(0, int)
    if size < _FEWEST_TAIL or n <= size:
        return _Tail(none, 0.0, np.inf, 0.0, np.inf)
    log_cutoff = max(shifted[order[-size - 1]], np.log(np.finfo(np.float64).tiny))
    rows = order[-size:]
    rows, cutoff = rows[shifted[rows] > log_cutoff], float(np.exp(log_cutoff))
    if len(rows) < _FEWEST_TAIL:
        return _Tail(none, cutoff, *((np.inf, 0.0, np.inf) if len(rows) else (-np.inf, 0.0, 0.0)))
    k, sigma = _pareto_fit(np.exp(shifted[rows]) - cutoff)
    share = len(rows) / n * sigma / (1.0 - k) if k < 1.0 else np.inf
    return _Tail(rows, cutoff, float(k), float(sigma), float(share))


def smoothed_ratios(
    log_before: FloatArray, log_ratios: FloatArray, *, relative_efficiency: float = 1.0
) -> tuple[FloatArray, float]:
    """Returns the smoothed log weights of weighted draws for another density, and the shape k.

    Rows of weight zero, -inf in `log_before` (n,), are no draws, and would make the tail longer. A ratio of -inf is
    that of a draw.
    """
    drawn = np.flatnonzero(np.isfinite(log_before))
    smoothed = np.full(len(log_before), -np.inf)
    smoothed[drawn], k = pareto_smoothed(log_before[drawn] + log_ratios[drawn], relative_efficiency=relative_efficiency)
    return smoothed, k


def _pareto_fit(exceedances: FloatArray) -> tuple[float, float]:
    """Returns the shape k and scale sigma of a generalised Pareto distribution, for exceedances in ascending order.

    This is the estimate of Zhang and Stephens, the mean over a profile posterior of b = -k / sigma. The shape is then
    shrunk slightly towards k = 1/2.
    """
    n = len(exceedances)
    points = 30 + int(np.sqrt(n))
    b = 1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))
    b = b / (3 * exceedances[int(n / 4 + 0.5) - 1]) + 1 / exceedances[-1]
    shapes = np.log1p(-b[:, None] * exceedances).mean(axis=1)
    profile = n * (np.log(-b / shapes) - shapes - 1)
    weights = np.exp(profile - logsumexp(profile))
    best = float(weights @ b)
    k = float(np.log1p(-best * exceedances).mean())
    sigma = -k / best
    return (n * k + _PRIOR_COUNT * _PRIOR_K) / (n + _PRIOR_COUNT), sigma
