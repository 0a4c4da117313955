"""The error of the log evidence from the genealogy of the particles: those with a common ancestor are one draw.

Source: A. Lee, N. Whiteley, "Variance estimation in the particle filter", Biometrika 105 (2018) 609, arXiv:1509.00394.
"""

from __future__ import annotations

import numpy as np

from .._util.checks import FloatArray


def evidence_error(weights: FloatArray, ancestor: np.ndarray) -> float:
    """Returns the standard error of the log evidence, from the weights of the last step to the full likelihood.

    Each of the n first particles has a family of descendants, with a share s of the total weight. The evidence is the
    mean of the contributions of these families, which are proportional to s. Its relative variance is
    (n sum s^2 - 1) / (n - 1), the sample variance of the contributions divided by n. Eq. (7) of Lee and Whiteley also
    has (n / (n - 1))^t, for the noise of t multinomial resamplings. Systematic resampling has almost no such noise.
    With one step the two formulas agree.

    Args:
        weights: (n,) weights of the particles, in any normalisation.
        ancestor: (n,) index of the first particle from which each descends.
    """
    n = len(weights)
    shares = np.bincount(ancestor, weights, minlength=n) / weights.sum()
    return float(np.sqrt(max((n * np.sum(shares**2) - 1.0) / (n - 1.0), 0.0)))
