"""What the genealogy of a particle system says of its own errors: particles with one ancestor are one draw.

Source: A. Lee, N. Whiteley, "Variance estimation in the particle filter", Biometrika 105 (2018) 609, arXiv:1509.00394.
"""

from __future__ import annotations

import numpy as np

from .._util.checks import FloatArray


def evidence_error(weights: FloatArray, ancestor: np.ndarray) -> float:
    """Returns the standard error of the log evidence, from the last weights before they reach the full likelihood.

    The evidence is the mean of what the families of the n first particles contribute, in proportion to their shares s
    of the weight: its relative variance is (n sum s^2 - 1) / (n - 1), the sample variance of the families over n. Lee
    and Whiteley's eq. (7) has (n / (n - 1))^t besides, the noise of t multinomial resamplings; systematic resampling
    has next to none, and with one step the two are the same.

    Args:
        weights: (n,) weights of the particles, in any normalisation.
        ancestor: (n,) which of the first particles each descends from.
    """
    n = len(weights)
    shares = np.bincount(ancestor, weights, minlength=n) / weights.sum()
    return float(np.sqrt(max((n * np.sum(shares**2) - 1.0) / (n - 1.0), 0.0)))
