"""Moments of outputs whose logarithms are normal, some of them or all: exact, not to first order.

With z ~ Normal(mu, S) and y_i = exp(z_i) for the outputs L, y_i = z_i for the others,

    E y_i = exp(mu_i + S_ii / 2) for i in L;    Cov(y_i, y_j) = a_i a_j (exp(S_ij) - 1 if i, j in L, else S_ij)

with a_i = E y_i in L and 1 elsewhere (Stein's lemma for the mixed pairs).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from .gaussian_process import Prediction


def lognormal_moments(prediction: Prediction, mask: np.ndarray) -> Prediction:
    """Returns the outputs' moments, given those with the outputs of the mask (m,) by their logarithm.

    NumPy in, NumPy out; traced arrays give traced arrays.
    """
    xp: Any = np if isinstance(prediction.mean, np.ndarray) else jnp
    mean, covariance = prediction
    half = xp.diagonal(covariance, axis1=-2, axis2=-1) / 2
    size = xp.where(mask, xp.exp(xp.where(mask, mean + half, 0.0)), 1.0)
    both = mask[:, None] & mask
    inner = xp.where(both, xp.expm1(xp.where(both, covariance, 0.0)), covariance)
    return Prediction(xp.where(mask, size, mean), size[..., :, None] * size[..., None, :] * inner)
