"""Is the emulator right: its predictions against held-out runs of the model."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .._checks import FloatArray, shorten

_LEVELS = (0.68, 0.95)


@dataclass(frozen=True, eq=False)
class EmulatorValidation:
    """Predictions compared with n held-out runs.

    Attributes:
        output_names: (m,) names.
        r2: (m,) 1 - (mean squared error) / (variance of the held-out outputs); 1 is perfect.
        residuals: (n, m) (predicted mean - held-out value) / predicted standard deviation; standard normal if the
            predicted uncertainties are right.
        coverage_68: (m,) fraction of held-out values inside the central 68 % interval.
        coverage_95: (m,) the same for 95 %.
    """

    output_names: tuple[str, ...]
    r2: FloatArray
    residuals: FloatArray
    coverage_68: FloatArray
    coverage_95: FloatArray

    def summary(self) -> str:
        """Returns the numbers as a text of a few lines."""
        n = len(self.residuals)
        worst = np.argsort(self.r2)[:3]
        named = ", ".join(f"{self.output_names[j]} {self.r2[j]:.3f}" for j in worst)
        lines = [
            f"{n} held-out runs, {len(self.r2)} outputs",
            f"R^2: median {np.median(self.r2):.4f}; lowest: {named}",
            f"standardised residuals: mean {self.residuals.mean():+.3f}, deviation {self.residuals.std():.3f}",
        ]
        for level, coverage in zip(_LEVELS, (self.coverage_68, self.coverage_95), strict=True):
            noise = np.sqrt(level * (1 - level) / n)
            lines.append(
                f"coverage at {level:.0%}: {coverage.mean():.3f} over all outputs, from {coverage.min():.2f} to "
                f"{coverage.max():.2f} (+-{noise:.2f} expected for one output)"
            )
        return "\n".join(lines)


def compare_with_runs(
    mean: FloatArray, deviation: FloatArray, Y: FloatArray, names: tuple[str, ...]
) -> EmulatorValidation:
    """Returns the comparison of predicted means and standard deviations with held-out outputs, all (n, m).

    Raises:
        ValueError: fewer than two runs, or an output that is the same in all of them (R^2 is undefined).
    """
    if len(Y) < 2:
        raise ValueError(f"Y: expected at least 2 held-out runs; got {len(Y)}.")
    spread = Y.var(axis=0)
    constant = [names[j] for j in np.flatnonzero(spread == 0)]
    if constant:
        raise ValueError(f"Y: expected held-out outputs that vary; {shorten(constant)} do not. Add runs.")
    residuals = (mean - Y) / deviation
    coverages = [np.mean(np.abs(residuals) < NormalDist().inv_cdf(0.5 + level / 2), axis=0) for level in _LEVELS]
    return EmulatorValidation(names, 1 - np.mean((mean - Y) ** 2, axis=0) / spread, residuals, *coverages)
