"""Whether a chain is fit for use: converged, and with enough independent draws. In numbers and in words."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chi2

from .._util.checks import FloatArray
from .autocorrelation import autocorrelation_time
from .chain import Chain

_FEWEST_ROWS = 100  # shorter chains are not judged
_WORST_R_HAT = 1.01  # Vehtari et al. (2021), section 4
_FALSE_ALARM = 1e-3  # how often converged chains are said to disagree
_SLOW = 1.5  # rows of autocorrelation time from which on it is what makes draws few
_FEWEST_DRAWS = 400.0  # effective draws that the same section asks of four chains


def check_convergence(chain: Chain, *, walkers: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Returns effective size, autocorrelation time and R-hat of a chain, and sentences on what makes it unfit.

    Args:
        chain: what was read.
        walkers: whether the chain ids are an ensemble's walkers: many, short and dependent, which R-hat does not judge.
    """
    ratios = None if walkers else chain.r_hat
    report: dict[str, Any] = {
        "effective_size": float(chain.effective_size),
        "autocorrelation_time": float(chain.autocorrelation_time),
    }
    if ratios is not None:
        report["r_hat"] = {name: float(value) for name, value in zip(chain.names, ratios, strict=True)}
    judged = chain.n >= _FEWEST_ROWS
    return report, _of_r_hat(chain, ratios) + _of_size(chain) if judged else []


def _of_r_hat(chain: Chain, ratios: FloatArray | None) -> list[str]:
    if ratios is None or not (ratios > _WORST_R_HAT).any():
        return []
    limits = np.maximum(_WORST_R_HAT, _r_hat_by_chance(chain))
    high = [f"{ratios[j]:.3f} for {chain.names[j]} (at most {limits[j]:.2f})" for j in np.flatnonzero(ratios > limits)]
    if not high:
        return []
    return [
        f"R-hat: got {'; '.join(high)}, the limit being that of converged chains of this length. "
        "The chains disagree: leave out the burn-in, or run them longer."
    ]


def _r_hat_by_chance(chain: Chain) -> FloatArray:
    """Returns the R-hat that converged chains exceed in one parameter of a thousandth of all readings, (d,).

    Means of k halves with n effective draws each scatter so that n (R-hat^2 - 1) is chi^2 / (k - 1), k - 1 degrees of
    freedom. The autocorrelation that gives n is that within chains: about their common mean it would hide the very
    disagreement.
    """
    ids = np.zeros(chain.n, dtype=int) if chain.chain_id is None else chain.chain_id
    labels, codes = np.unique(ids, return_inverse=True)
    means = np.stack([chain.samples[codes == code].mean(axis=0) for code in range(len(labels))])
    tau = autocorrelation_time(chain.samples - means[codes], ids)
    halves = 2 * len(labels)
    rows = chain.n if chain.weights is None else chain.effective_size * tau
    quantile = chi2.isf(_FALSE_ALARM / (2 * chain.dim), halves - 1) / (halves - 1)
    return np.sqrt(1.0 + quantile * tau * halves / rows)


def _of_size(chain: Chain) -> list[str]:
    size = chain.effective_size
    if size >= min(_FEWEST_DRAWS, chain.n / 2):
        return []
    cause = "rows repeat" if chain.weights is None else "the weights sit on few rows"
    if chain.family_id is not None:
        cause = "rows have common ancestors"
    if chain.rows == "sequence" and chain.autocorrelation_time > _SLOW:
        cause = f"autocorrelation time {chain.autocorrelation_time:.0f} rows"
    return [
        f"Effective size: expected {_FEWEST_DRAWS:.0f} independent draws or more; {chain.n} rows hold {size:.0f} "
        f"({cause}). What is learnt from them is noise beyond that: run the analysis longer."
    ]
