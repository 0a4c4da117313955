"""Are a sampler's draws those of a reference? What the benchmarks of samplers share."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from scipy.stats import kstwo

import numpyro_flowprior as fp

ENOUGH = 200  # effective draws below which no test has power
ALARM = 1e-3  # of all marginals of a run together, by chance


class Marginals(NamedTuple):
    """Each marginal of a chain beside the reference's, (d,) each, at the effective sizes that both report.

    Attributes:
        p_values: of the Kolmogorov-Smirnov test.
        pulls: differences of the means in standard errors.
        widths: ratios of the standard deviations.
    """

    p_values: np.ndarray
    pulls: np.ndarray
    widths: np.ndarray

    @property
    def agree(self) -> bool:
        """Whether no marginal is off."""
        return bool(self.p_values.min() > ALARM / len(self.p_values))

    def worst(self, names: tuple[str, ...]) -> tuple[str, str, str, str]:
        """Returns the smallest p-value, whose it is, the largest pull and the oddest width."""
        least, pull = int(np.argmin(self.p_values)), self.pulls[int(np.argmax(np.abs(self.pulls)))]
        wide = self.widths[int(np.argmax(np.abs(np.log(self.widths))))]
        return f"{self.p_values[least]:.1e}", names[least], f"{pull:+.1f}", f"{wide:.2f}"


def ran(sampler: Callable[..., fp.Chain], density: fp.ModelDensity) -> tuple[fp.Chain, float, str]:
    """Returns a sampler's chain, the seconds it took, and whether it says itself that it did not converge.

    A chain with fewer effective draws than its weights show (`info` of dynesty) is resampled to as many.
    """
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain = sampler(jax.random.key(1), density, progress=False)
    says = "not converged" if any("not converged" in str(warning.message) for warning in caught) else ""
    seconds, size = time.perf_counter() - start, float(chain.info.get("effective_size", np.inf))
    return chain.resample(jax.random.key(2), int(size)) if size < chain.effective_size else chain, seconds, says


def beside(chain: fp.Chain, draws: np.ndarray, size: float) -> Marginals:
    """Returns the marginals of a chain, at its effective size, beside those of so many independent draws (n, d)."""
    both = 1 / (1 / chain.effective_size + 1 / size)
    deviation = draws.std(axis=0)
    return Marginals(
        np.array([_p_value(chain, draws[:, j], j, both) for j in range(chain.dim)]),
        (chain.mean() - draws.mean(axis=0)) / deviation * np.sqrt(both),
        np.sqrt(np.diag(chain.covariance())) / deviation,
    )


def verdict(chain: fp.Chain, right: bool) -> str:
    """Returns what a table says of a run: right, wrong, or without enough draws to tell."""
    return "too few draws" if chain.effective_size < ENOUGH else "yes" if right else "**no**"


def _p_value(chain: fp.Chain, exact: np.ndarray, j: int, size: float) -> float:
    """Returns the Kolmogorov-Smirnov p-value of a weighted marginal, at an effective size."""
    order = np.argsort(chain.samples[:, j])
    values, weights = chain.samples[order, j], chain.probabilities[order]
    below = np.searchsorted(np.sort(exact), values) / len(exact)
    above = np.cumsum(weights)
    distance = max(np.abs(above - below).max(), np.abs(above - weights - below).max())
    return float(kstwo.sf(distance, max(2, int(size))))
