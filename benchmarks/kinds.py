"""Normal rows as people have them: independent, autocorrelated, with multiplicities or weights, sorted, in turn.

Every maker takes a generator and the number of parameters and returns standard normal rows (n, d) of its kind, and what
`Chain` has to know of them. Transformed row by row they are chains of any density with a latent space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.signal import lfilter

Rows = tuple[np.ndarray, dict[str, Any]]
Maker = Callable[[np.random.Generator, int], Rows]


def autoregression(rng: np.random.Generator, n: int, rho: float, chains: int, dim: int) -> np.ndarray:
    """Returns stationary first-order autoregressions of unit variance, (chains * n, dim), chain by chain."""
    noise = rng.normal(size=(chains, n, dim))
    noise[:, 1:] *= np.sqrt(1.0 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=1).reshape(-1, dim)


def independent(n: int) -> Maker:
    return lambda rng, dim: (rng.normal(size=(n, dim)), {})


def correlated(rho: float, chains: int, n: int) -> Maker:
    ids = np.repeat(np.arange(chains), n // chains)
    return lambda rng, dim: (autoregression(rng, n // chains, rho, chains, dim), {"chain_id": ids})


def in_turn(rho: float, walkers: int, n: int) -> Maker:
    def make(rng: np.random.Generator, dim: int) -> Rows:
        rows = autoregression(rng, n // walkers, rho, walkers, dim).reshape(walkers, -1, dim)
        return np.swapaxes(rows, 0, 1).reshape(-1, dim), {}

    return make


def counted(step: float, n: int) -> Maker:
    """A Metropolis chain of n steps, as its distinct rows and how long it stayed at each."""

    def make(rng: np.random.Generator, dim: int) -> Rows:
        state, rows, counts = rng.normal(size=dim), [], []
        for move, level in zip(step * rng.normal(size=(n, dim)), np.log(rng.random(n)), strict=True):
            new = state + move
            if not rows or level < 0.5 * (state @ state - new @ new):
                state = new if rows else state
                rows.append(state)
                counts.append(1)
            else:
                counts[-1] += 1
        return np.array(rows), {"weights": np.array(counts)}

    return make


def weighted(width: float, n: int) -> Maker:
    """Draws of a density so many times as wide, with importance weights."""

    def make(rng: np.random.Generator, dim: int) -> Rows:
        z = width * rng.normal(size=(n, dim))
        return z, {"weights": np.exp(-0.5 * (1.0 - width**-2) * np.sum(z**2, axis=1))}

    return make


def related(correlation: float, families: int, n: int) -> Maker:
    """Particles with common ancestors, of families of unlike size; any two of a family have this correlation."""

    def make(rng: np.random.Generator, dim: int) -> Rows:
        family = np.sort(rng.choice(families, n, p=rng.dirichlet(np.full(families, 2.0))))
        shared, own = rng.normal(size=(families, dim))[family], rng.normal(size=(n, dim))
        return np.sqrt(correlation) * shared + np.sqrt(1.0 - correlation) * own, {"family_id": family}

    return make


def sorted_rows(n: int) -> Maker:
    """Independent rows in the order of their density, which is not beside them."""

    def make(rng: np.random.Generator, dim: int) -> Rows:
        z = rng.normal(size=(n, dim))
        return z[np.argsort(-np.sum(z**2, axis=1))], {}

    return make


USUAL: dict[str, Maker] = {
    "independent, 2,000 rows": independent(2000),
    "AR(1), rho 0.9, 20,000 rows in 1": correlated(0.9, 1, 20_000),
    "AR(1), rho 0.9, 20,000 rows in 2": correlated(0.9, 2, 20_000),
    "AR(1), rho 0.9, 20,000 rows in 4": correlated(0.9, 4, 20_000),
    "AR(1), rho 0.98, 20,000 rows in 1": correlated(0.98, 1, 20_000),
    "multiplicities, 20,000 steps": counted(1.2, 20_000),
    "multiplicities, short steps": counted(0.3, 20_000),
    "importance weights, 5,000 rows": weighted(1.6, 5000),
    "sorted by density, 2,000 rows": sorted_rows(2000),
    "five walkers in turn, 20,000 rows": in_turn(0.9, 5, 20_000),
    "particles of 1,000 families, 5,000 rows": related(0.9, 1000, 5000),
}
