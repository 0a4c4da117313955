"""Exact mean and covariance of outputs if the logarithms of some or all outputs are normal.

Let z ~ Normal(mu, S), with y_i = exp(z_i) for the outputs i in L, and y_i = z_i for the others. Then

    E y_i = exp(mu_i + S_ii / 2) for i in L;    Cov(y_i, y_j) = a_i a_j (exp(S_ij) - 1 if i, j in L, else S_ij)

with a_i = E y_i in L and 1 elsewhere (from Stein's lemma for the mixed pairs).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from .gaussian_process import Prediction


def lognormal_moments(prediction: Prediction, mask: np.ndarray) -> Prediction:
    """Returns mean and covariance of the outputs, from those with the outputs of the mask (m,) as logarithms.

    NumPy arrays give NumPy arrays, and traced arrays give traced arrays.
    """
    xp: Any = np if isinstance(prediction.mean, np.ndarray) else jnp
    mean, covariance = prediction
    half = xp.diagonal(covariance, axis1=-2, axis2=-1) / 2
    size = xp.where(mask, xp.exp(xp.where(mask, mean + half, 0.0)), 1.0)
    both = mask[:, None] & mask
    inner = xp.where(both, xp.expm1(xp.where(both, covariance, 0.0)), covariance)
    return Prediction(xp.where(mask, size, mean), size[..., :, None] * size[..., None, :] * inner)
