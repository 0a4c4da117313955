"""What the genealogy of a particle system says of its own errors: particles with one ancestor are one draw.

Source: A. Lee, N. Whiteley, "Variance estimation in the particle filter", Biometrika 105 (2018) 609, arXiv:1509.00394.
"""

from __future__ import annotations

import numpy as np

from .._checks import FloatArray


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


def effective_size(samples: FloatArray, ancestor: np.ndarray) -> float:
    """Returns how many independent draws particles of equal weight are worth: the least of any coordinate's.

    The variance of a mean is the sum over families of their (sum of deviations)^2 over n^2; n for one particle each.

    Args:
        samples: (n, d).
        ancestor: (n,) which of the first particles each descends from.
    """
    count = len(np.unique(ancestor))
    if count < 2:  # one family's spread is unknown
        return 1.0
    deviations = samples - samples.mean(axis=0)
    families = np.zeros_like(samples)
    np.add.at(families, ancestor, deviations)
    spread = np.sum(families**2, axis=0) * count / (count - 1.0)  # its mean is the families' own
    varies = spread > 0
    sizes = len(samples) * np.sum(deviations[:, varies] ** 2, axis=0) / spread[varies]
    return float(np.min(sizes, initial=len(samples)))
