"""Checks of a chain, as numbers and as text: has it converged, and does it have enough independent draws?"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import chi2

from .._util.checks import FloatArray
from .autocorrelation import autocorrelation_time
from .chain import Chain

FEWEST_ROWS = 100  # shorter chains are not checked
_WORST_R_HAT = 1.01  # Vehtari et al. (2021), section 4
_FALSE_ALARM = 1e-3  # probability that converged chains are reported to disagree
_SLOW = 1.5  # autocorrelation time, in rows, above which it is named as the cause of few draws
_FEWEST_DRAWS = 400.0  # effective draws that the same section recommends for four chains


def check_convergence(chain: Chain, *, walkers: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Returns effective size, autocorrelation time and R-hat of a chain, and a message for each failed check.

    Args:
        chain: the chain that was read.
        walkers: whether the chain ids are the walkers of an ensemble. These are many, short and dependent, so R-hat is
            not computed.
    """
    ratios = None if walkers else chain.r_hat
    report: dict[str, Any] = {
        "effective_size": float(chain.effective_size),
        "autocorrelation_time": float(chain.autocorrelation_time),
    }
    if ratios is not None:
        report["r_hat"] = {name: float(value) for name, value in zip(chain.names, ratios, strict=True)}
    judged = chain.n >= FEWEST_ROWS
    return report, _of_r_hat(chain, ratios) + _of_size(chain) if judged else []


def _of_r_hat(chain: Chain, ratios: FloatArray | None) -> list[str]:
    if ratios is None or not (ratios > _WORST_R_HAT).any():
        return []
    limits = np.maximum(_WORST_R_HAT, _r_hat_by_chance(chain))
    high = [f"{ratios[j]:.3f} for {chain.names[j]} (at most {limits[j]:.2f})" for j in np.flatnonzero(ratios > limits)]
    if not high:
        return []
    return [
        f"R-hat: got {'; '.join(high)}. Converged chains of this length rarely exceed the limit. "
        "The chains disagree: leave out the burn-in, or run them longer."
    ]


def _r_hat_by_chance(chain: Chain) -> FloatArray:
    """Returns the R-hat of each parameter, (d,), that converged chains exceed in any of them with probability 0.001.

    For the means of k halves with n effective draws each, n (R-hat^2 - 1) is distributed as chi^2 / (k - 1), with k - 1
    degrees of freedom. The autocorrelation time that gives n is taken about the mean of each chain. If it were taken
    about the common mean, it would hide the disagreement.
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
    cause = "rows repeat" if chain.weights is None else "few rows have most of the weight"
    if chain.family_id is not None:
        cause = "rows have common ancestors"
    if chain.rows == "sequence" and chain.autocorrelation_time > _SLOW:
        cause = f"autocorrelation time {chain.autocorrelation_time:.0f} rows"
    return [
        f"Effective size: expected at least {_FEWEST_DRAWS:.0f} independent draws; {chain.n} rows hold {size:.0f} "
        f"({cause}). A density learnt from so few draws is noisy: run the analysis longer."
    ]
