"""Published distances and their likelihoods in a flat universe whose dark energy has a constant w.

Baryon acoustic oscillations: Table 1 of DESI Collaboration (2024), arXiv:2404.03002, in units of the sound horizon r_d.
Supernovae: the 31 binned distance moduli of JLA with their covariance matrix, Tables F.1 and F.2 of Betoule et al.
(2014), A&A 568, A22.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_flowprior import ParameterSpace

LIGHT = 2997.92458  # c / (100 km/s/Mpc), in Mpc
JLA = Path(__file__).parent / "data" / "jla_distances.txt"

# redshift, D_M / r_d, error, D_H / r_d, error, correlation; or redshift, D_V / r_d, error
LOW = [(0.295, 7.93, 0.15), (0.510, 13.62, 0.25, 20.98, 0.61, -0.445), (0.706, 16.85, 0.32, 20.08, 0.60, -0.420)]
HIGH = [
    (0.930, 21.71, 0.28, 17.88, 0.35, -0.389),
    (1.317, 27.79, 0.69, 13.82, 0.42, -0.444),
    (1.491, 26.07, 0.67),
    (2.330, 39.71, 0.94, 8.52, 0.17, -0.477),
]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)

OSCILLATIONS = ParameterSpace(["Omega_m", "w", "h r_d"], [0.05, -3.0, 60.0], [0.8, 0.0, 150.0], units=["", "", "Mpc"])
SUPERNOVAE = ParameterSpace(["Omega_m", "w", "offset"], [0.05, -3.0, -1.0], [0.8, 0.0, 1.0], units=["", "", "mag"])


def expansion(z: Any, omega: Any, w: Any) -> Any:
    """Returns H(z) / H0."""
    return jnp.sqrt(omega * (1 + z) ** 3 + (1 - omega) * (1 + z) ** (3 * (1 + w)))


def comoving(z: Any, omega: Any, w: Any) -> Any:
    """Returns the comoving distance in units of c / H0 at redshifts of shape (...,)."""
    z = jnp.asarray(z)[..., None]
    return jnp.sum(0.5 * z * WEIGHTS / expansion(0.5 * z * (NODES + 1), omega, w), axis=-1)


def of_oscillations(theta: Any, distances: list[tuple[float, ...]]) -> jax.Array:
    """Returns the log likelihood (up to a constant) of distances in units of the sound horizon."""
    omega, w, scale = theta
    total = jnp.zeros(())
    for z, first, error, *second in distances:
        across, along = LIGHT / scale * comoving(z, omega, w), LIGHT / scale / expansion(z, omega, w)
        if not second:
            total -= 0.5 * (((z * across**2 * along) ** (1 / 3) - first) / error) ** 2
            continue
        other, other_error, correlation = second
        a, b = (across - first) / error, (along - other) / other_error
        total -= 0.5 * (a * a + b * b - 2 * correlation * a * b) / (1 - correlation**2)
    return total


@cache
def jla() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns redshifts (31,), distance moduli (31,), and the inverse of the Cholesky factor of their covariance."""
    lines = [line.split() for line in JLA.read_text().splitlines() if not line.startswith("#")]
    z, mu = np.array([line[:2] for line in lines], float).T
    lower = np.array([[float(value) for value in line[2:]] + [0.0] * (33 - len(line)) for line in lines])
    covariance = 1e-6 * (lower + np.tril(lower, -1).T)
    return z, mu, np.linalg.inv(np.linalg.cholesky(covariance))


def of_supernovae(theta: Any) -> jax.Array:
    """Returns the log likelihood (up to a constant) of distance moduli, with H0 = 70 km/s/Mpc and a free offset."""
    omega, w, offset = theta
    z, mu, whitening = jla()
    predicted = 5 * jnp.log10((1 + z) * LIGHT / 0.7 * comoving(z, omega, w)) + 25 + offset
    return -0.5 * jnp.sum((jnp.asarray(whitening) @ (predicted - mu)) ** 2)
