"""Validation of an emulator: its predictions compared with held-out runs, or with runs left out one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from .._util.checks import FloatArray, shorten
from .gaussian_process import EmulatorState, Moments
from .scaling import OutputBasis

_LEVELS = (0.68, 0.95)
_ERRORS = 3.0  # standard errors; chance does not explain a larger deviation of the coverage
_SHORT = {"fail": 0.15, "warn": 0.03}  # missing coverage of the 95 % interval
_WIDE = 0.5  # rms residual, in sigma; below it, uncertainties are too large and the data constrain too little
_FALSE_ALARM = 1e-3  # probability that chance alone flags any of the runs as outlying
_OUTLYING = 4.0  # lowest limit on the rms residual of a run over its outputs, in sigma
_USEFUL = 0.5  # an output with R^2 below this is poorly emulated
_SAME_RUNS = 1e-6  # accepted difference of the truncation covariance, relative to the variance of the outputs


@dataclass(frozen=True, eq=False)
class EmulatorValidation:
    """Comparison of predictions with n runs. Outputs that are emulated as logarithms are compared as logarithms.

    Attributes:
        output_names: (m,) names of the outputs.
        predicted: (n, m) predicted means.
        deviation: (n, m) predicted standard deviations.
        observed: (n, m) outputs of the runs.
        r2: (m,) 1 - (mean squared error) / (variance of the outputs of the runs); 1 is perfect.
        residuals: (n, m) (predicted mean - run) / predicted standard deviation; standard normal if the predicted
            uncertainties are correct.
        coverage_68: (m,) fraction of runs inside the central 68 % interval.
        coverage_95: (m,) fraction of runs inside the central 95 % interval.
    """

    output_names: tuple[str, ...]
    predicted: FloatArray
    deviation: FloatArray
    observed: FloatArray

    @property
    def r2(self) -> FloatArray:
        """1 - (mean squared error) / (variance of the outputs of the runs), (m,)."""
        return 1 - np.mean((self.predicted - self.observed) ** 2, axis=0) / self.observed.var(axis=0)

    @property
    def residuals(self) -> FloatArray:
        """(predicted mean - run) / predicted standard deviation, (n, m)."""
        return (self.predicted - self.observed) / self.deviation

    @property
    def coverage_68(self) -> FloatArray:
        """Fraction of runs inside the central 68 % interval, (m,)."""
        return self.coverage(0.68)

    @property
    def coverage_95(self) -> FloatArray:
        """Fraction of runs inside the central 95 % interval, (m,)."""
        return self.coverage(0.95)

    def coverage(self, level: float) -> FloatArray:
        """Returns the fraction of runs inside the central interval with probability `level` in (0, 1), (m,)."""
        return np.asarray(np.mean(np.abs(self.residuals) < NormalDist().inv_cdf(0.5 + level / 2), axis=0))

    @property
    def reasons(self) -> tuple[tuple[str, str], ...]:
        """The problems found, failures first, as pairs of "fail" or "warn" and a sentence."""
        found = [*self._narrow(), *self._wide(), *self._useless(), *self._outlying()]
        return tuple(sorted(found, key=lambda reason: reason[0]))

    @property
    def verdict(self) -> str:
        """`pass`, `warn` or `fail`: whether the predicted uncertainties can be trusted, and the outputs are emulated.

        Large but correct uncertainties are acceptable, because the likelihood includes them. Runs are treated as
        independent, but the correlated outputs of one run are not.
        """
        return self.reasons[0][0] if self.reasons else "pass"

    def _narrow(self) -> list[tuple[str, str]]:
        inside = np.abs(self.residuals) < NormalDist().inv_cdf(0.975)
        of_runs, outputs = inside.mean(axis=1), inside.mean(axis=0)
        error = np.sqrt(max(of_runs.var(ddof=1), 0.95 * 0.05 / inside.shape[1]) / len(inside))
        missing = 0.95 - of_runs.mean()
        # one output: binomial error, with a margin for the worst of many outputs; all outputs: scatter of the runs
        alone = np.sqrt(0.95 * 0.05 / len(inside)) * (_ERRORS + np.log10(inside.shape[1]))
        bad = [self.output_names[j] for j in np.flatnonzero(0.95 - outputs > max(alone, _SHORT["fail"]))]
        inner = f"{of_runs.mean():.1%} +- {error:.1%} of values inside the 95 % interval"
        levels = [level for level, most in _SHORT.items() if missing > max(most, _ERRORS * error)]
        found = [(level, f"uncertainties too small: {inner}") for level in levels[:1]]
        if bad:
            found.append(
                ("warn", f"uncertainties too small for {shorten(bad)}: less than 80 % of runs inside the 95 % interval")
            )
        return found

    def _wide(self) -> list[tuple[str, str]]:
        size = np.sqrt(np.mean(self.residuals**2))
        enough = len(self.residuals) >= 10
        return (
            [("warn", f"uncertainties too large: rms residual of {size:.2f} sigma")] if enough and size < _WIDE else []
        )

    def _useless(self) -> list[tuple[str, str]]:
        bad = [self.output_names[j] for j in np.flatnonzero(self.r2 < _USEFUL)]
        return [("warn", f"R^2 below {_USEFUL} for {shorten(bad)}: poorly emulated")] if bad else []

    def _outlying(self) -> list[tuple[str, str]]:
        size = np.sqrt(np.mean(self.residuals**2, axis=1))
        limit = max(_OUTLYING, NormalDist().inv_cdf(1 - _FALSE_ALARM / (2 * len(size))))
        rows = [int(j) for j in np.argsort(-size) if size[j] > limit]
        text = (
            f"rows {shorten(rows)}: rms residual up to {size.max():.1f} sigma over all outputs. Check for failed runs."
        )
        return [("warn", text)] if rows else []

    def summary(self) -> str:
        """Returns a text of a few lines with the verdict, its reasons, and the numbers."""
        n = len(self.residuals)
        r2, residuals = self.r2, self.residuals
        named = ", ".join(f"{self.output_names[j]} {r2[j]:.3f}" for j in np.argsort(r2)[:3])
        lines = [
            f"{self.verdict}: {n} runs, {len(r2)} outputs",
            *(f"  {level}: {reason}" for level, reason in self.reasons),
            f"R^2: median {np.median(r2):.4f}; lowest: {named}",
            f"standardised residuals: mean {residuals.mean():+.3f}, standard deviation {residuals.std():.3f}",
        ]
        for level in _LEVELS:
            coverage, noise = self.coverage(level), np.sqrt(level * (1 - level) / n)
            lines.append(
                f"coverage at {level:.0%}: {coverage.mean():.3f} over all outputs, from {coverage.min():.2f} to "
                f"{coverage.max():.2f} (+-{noise:.2f} expected for one output)"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"EmulatorValidation\n{self.summary()}"


def compare_with_runs(
    scores: Moments, basis: OutputBasis, Y: FloatArray, names: tuple[str, ...], *, error: Any = 0.0
) -> EmulatorValidation:
    """Returns the comparison of predicted scores (n, p) with runs Y (n, m) that have known standard errors `error`.

    Raises:
        ValueError: fewer than two runs, or an output that is the same in all of them (R^2 is undefined).
    """
    if len(Y) < 2:
        raise ValueError(f"Y: expected at least 2 held-out runs; got {len(Y)}.")
    constant = [names[j] for j in np.flatnonzero(Y.var(axis=0) == 0)]
    if constant:
        raise ValueError(f"Y: expected held-out outputs that vary; {shorten(constant)} do not. Add runs.")
    variance = scores.variance @ basis.loadings.T**2 + np.diag(basis.truncation) + error**2
    return EmulatorValidation(names, basis.mean + scores.mean @ basis.loadings.T, np.sqrt(variance), Y)


def left_out(state: EmulatorState, Y: FloatArray) -> Moments:
    """Returns the scores of each run predicted from all other runs: mean and variance, (n, p) each.

        mean_i = s_i - [K^-1 s]_i / [K^-1]_ii,    variance_i = 1 / [K^-1]_ii

    (Rasmussen and Williams 2006, Eqs. 5.10-5.12). The scores s = K (K^-1 s) are computed from the emulator.

    Raises:
        ValueError: Y (n, m) are not the outputs of the fit: their remainder outside the components has another
            covariance.
    """
    components, basis = state.components, state.outputs
    inverse = np.repeat(components.inverse_cholesky, components.sharing, axis=0)
    diagonal = np.sum(inverse**2, axis=1)
    scores = np.stack([_solved(lower, one) for lower, one in zip(inverse, components.weights, strict=True)])
    _require_same_runs(basis, Y - basis.mean - scores.T @ basis.loadings.T)
    return Moments((scores - components.weights / diagonal).T, 1 / diagonal.T)


def _solved(inverse: FloatArray, weights: FloatArray) -> FloatArray:
    """Returns K w, where K^-1 = inverse^T inverse."""
    return np.asarray(solve_triangular(inverse, solve_triangular(inverse.T, weights), lower=True))


def _require_same_runs(basis: OutputBasis, remainder: FloatArray) -> None:
    m, p = basis.loadings.shape
    if not np.any(basis.truncation) and p < m:
        return  # from scikit-learn, without the covariance of the truncated components
    scale = np.sqrt(np.sum(basis.loadings**2, axis=1) + np.diag(basis.truncation))
    found = remainder.T @ remainder / (len(remainder) - 1)
    if np.max(np.abs(found - basis.truncation) / np.outer(scale, scale)) > _SAME_RUNS:
        raise ValueError(
            "Y: expected the outputs that the emulator was fitted to, with rows in the same order; got outputs "
            "with a different remainder outside the components. For other runs, use `validate`."
        )
