"""QualityReport: is a prior faithful to a chain that its training did not see?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import FloatArray, shorten
from ..chains.chain import Chain
from ..chains.edges import off_the_edges
from ..prior import FlowPrior
from .comparison import Comparison, compare

_ROWS_PER_BATCH = 16384
_FEW = 200  # independent held-out rows below which a report can only warn
_COUNTS = 1e-3  # share of the mean weight below which a row does not count among the worst
_EXCESS = 0.05  # nats of average marginal divergence above the noise floor that call for a warning
_BROKEN = 0.5  # ... and that fail
_SHIFTED, _MOVED = 0.1, 0.4  # standard deviations between the means that call for a warning, and that fail
_DRAWS, _MOST_DRAWS = 4, 200_000  # draws from the prior, per effective held-out row and at most
_PER_CELL = 10  # effective rows per cell of the two-dimensional histograms


@dataclass(frozen=True)
class QualityReport:
    """A prior judged on held-out draws.

    Attributes:
        rows: number of held-out rows.
        effective_size: of the held-out rows.
        log_density: weighted mean of log q over them, nats, in the parameters' own units.
        log_density_error: its standard error.
        gain: mean of log q minus log density of the Gaussian with the training chain's moments in the same
            unconstrained space, nats; positive if the flow is better than that Gaussian.
        gain_error: its standard error (paired).
        worst: lowest log q - log Gaussian of any held-out row that counts (weight above a thousandth of the mean: a
            tempered particle of next to no weight may rightly be far below a Gaussian), nats.
        comparison: held-out rows against draws from the prior, four times as many as their effective size; the
            histograms have few enough bins that a pair's cells hold ten rows on average.
        verdict: "pass", "warn" or "fail".
        reasons: what led to the verdict, in words.
    """

    rows: int
    effective_size: float
    log_density: float
    log_density_error: float
    gain: float
    gain_error: float
    worst: float
    comparison: Comparison
    verdict: str
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready record; NaN and infinity, which JSON lacks, become null."""
        numbers = ("effective_size", "log_density", "log_density_error", "gain", "gain_error", "worst")
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "rows": self.rows,
            **{name: _json_number(getattr(self, name)) for name in numbers},
            "comparison": self.comparison.to_json(),
        }

    def __str__(self) -> str:
        lines = [
            f"verdict: {self.verdict.upper()}" + (f" ({'; '.join(self.reasons)})" if self.reasons else ""),
            f"held-out rows: {self.rows} (effective size {self.effective_size:.0f})",
            f"held-out log density: {self.log_density:.4f} +- {self.log_density_error:.4f} nats",
            f"gain over a Gaussian: {self.gain:.4f} +- {self.gain_error:.4f} nats (worst row {self.worst:.1f})",
            f"marginals: {self.comparison}",
        ]
        return "\n".join(lines)


def _json_number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def quality_report(key: jax.Array, prior: FlowPrior, chain: Chain) -> QualityReport:
    """Returns how faithful the prior is to a chain that its training did not see.

    Args:
        key: JAX random key for the prior's draws.
        prior: the prior to judge.
        chain: held-out draws; its columns are found by name.

    Raises:
        ValueError: the chain lacks a parameter of the prior, or its bounds reach beyond the prior's support.
    """
    chain = _matching(prior, chain)
    log_q, log_gauss = held_out_log_densities(prior, chain)
    draws = Chain(_draws(key, prior, int(np.clip(_DRAWS * chain.effective_size, 1000, _MOST_DRAWS))), prior.space)
    bins = int(np.clip(np.sqrt(chain.effective_size / _PER_CELL), 5, 75))
    comparison = compare(chain, draws, bins=bins)
    mean, error = _mean_and_error(log_q, chain)
    gain, gain_error = _mean_and_error(log_q - log_gauss, chain)
    numbers = {
        "rows": chain.n,
        "effective_size": chain.effective_size,
        "log_density": mean,
        "log_density_error": error,
        "gain": gain,
        "gain_error": gain_error,
        "worst": float((log_q - log_gauss)[chain.probabilities * chain.n > _COUNTS].min()),
    }
    verdict, reasons = _judge(numbers, comparison, int((~np.isfinite(log_q)).sum()))
    return QualityReport(**numbers, comparison=comparison, verdict=verdict, reasons=reasons)  # type: ignore[arg-type]


def _matching(prior: FlowPrior, chain: Chain) -> Chain:
    missing = [name for name in prior.names if name not in chain.names]
    if missing:
        raise ValueError(f"chain: expected the prior's parameters; {shorten(missing, 40)} missing from {chain.names}.")
    chain = chain.select(prior.names)
    outside = ~prior.space.contains(chain.samples)
    if outside.any():
        raise ValueError(
            f"chain: {int(outside.sum())} of {chain.n} rows are outside the prior's support, where its density is "
            "zero. The prior was trained for other bounds."
        )
    return off_the_edges(chain.replace(space=prior.space))


def held_out_log_densities(prior: FlowPrior, chain: Chain) -> tuple[FloatArray, FloatArray]:
    """Returns log q and the log density of the Gaussian baseline at a chain's rows, (n,) each, in float64."""

    def both(theta: jax.Array) -> tuple[jax.Array, jax.Array]:
        flow = prior._flow(theta.dtype)
        x, log_det = flow.bijector.inverse_and_log_det(theta)
        log_normal = -0.5 * jnp.sum(x * x + jnp.log(2 * jnp.pi), axis=-1)
        return prior.log_prob(theta), log_normal + log_det

    return _in_batches(both, chain.samples)


def _in_batches(function: Any, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    size = min(_ROWS_PER_BATCH, len(rows))
    parts = []
    with jax.enable_x64(True):
        compiled = jax.jit(function)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            parts.append([np.asarray(values)[: len(part)] for values in compiled(padded)])
    first, second = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second


def _draws(key: jax.Array, prior: FlowPrior, n: int) -> FloatArray:
    with jax.enable_x64(True):
        return np.asarray(jax.jit(lambda k: prior.sample(k, (n,)))(key))


def _mean_and_error(values: FloatArray, chain: Chain) -> tuple[float, float]:
    probabilities = chain.probabilities
    mean = float(probabilities @ values)
    if not np.isfinite(mean):
        return mean, float("nan")
    variance = float(probabilities @ (values - mean) ** 2)
    return mean, float(np.sqrt(variance / chain.effective_size))


def _judge(numbers: dict[str, Any], comparison: Comparison, infinite: int) -> tuple[str, tuple[str, ...]]:
    failures, warnings = [], []
    if infinite:
        failures.append(f"the density is zero or undefined at {infinite} held-out rows")
    elif numbers["gain"] < -3.0 * numbers["gain_error"]:
        failures.append(f"worse than a Gaussian by {-numbers['gain']:.3f} nats")
    noise = 3.0 * comparison.excess_error
    if comparison.excess > _BROKEN + noise:
        failures.append(f"marginals differ by {comparison.excess:.2f} nats above the noise floor")
    elif comparison.excess > _EXCESS + noise:
        warnings.append(f"marginals differ by {comparison.excess:.3f} nats above the noise floor")
    far = np.abs(comparison.shift) - 3.0 / np.sqrt(numbers["effective_size"])
    for limit, found in ((_MOVED, failures), (_SHIFTED, [] if far.max() > _MOVED else warnings)):
        names = [name for name, excess in zip(comparison.kl.names, far, strict=True) if excess > limit]
        if names:
            found.append(f"means differ by up to {np.abs(comparison.shift).max():.2f} sigma ({shorten(names)})")
    if numbers["effective_size"] < _FEW:
        warnings.append(f"only {numbers['effective_size']:.0f} effective held-out rows: a coarse check")
    verdict = "fail" if failures else "warn" if warnings else "pass"
    return verdict, (*failures, *warnings)
