"""Moments of densities without closed forms, by seeded Monte Carlo, each with its standard error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from .._util.checks import FloatArray, positive_int, real_in
from ..chains.parameters import ParameterSpace
from .protocol import ParameterPrior
from .resolution import in_full_resolution

LEVELS = (0.05, 0.16, 0.5, 0.84, 0.95)
_DRAWS = 65_536  # the error of a mean is then 0.4 % of a standard deviation
_BATCH = 8192  # draws per batch, so that memory does not grow with the number of draws


@dataclass(frozen=True)
class MonteCarloSummary:
    """Moments, quantiles and entropy of a density, estimated from its draws. Every `*_error` is one standard error.

    Attributes:
        names: (d,) parameters.
        draws: number of independent draws.
        mean, mean_error, variance, variance_error: (d,).
        levels: (k,) probabilities of the quantiles.
        quantiles, quantiles_error: (k, d).
        entropy, entropy_error: -E log p, in nats.
    """

    names: tuple[str, ...]
    draws: int
    mean: FloatArray
    mean_error: FloatArray
    variance: FloatArray
    variance_error: FloatArray
    levels: tuple[float, ...]
    quantiles: FloatArray
    quantiles_error: FloatArray
    entropy: float
    entropy_error: float

    def __str__(self) -> str:
        width = max(9, *(len(name) for name in self.names))
        head = [f"{'':{width}}", f"{'mean':>12}{'+-':>10}", f"{'sd':>12}{'+-':>10}"]
        rows = ["".join([*head, *(f"{f'{100 * level:g} %':>12}{'+-':>10}" for level in self.levels)])]
        for j, name in enumerate(self.names):
            sd = np.sqrt(self.variance[j])
            pairs = [(self.mean[j], self.mean_error[j]), (sd, 0.5 * self.variance_error[j] / sd)]
            pairs += list(zip(self.quantiles[:, j], self.quantiles_error[:, j], strict=True))
            rows.append(f"{name:{width}}" + "".join(f"{value:12.5g}{error:10.2g}" for value, error in pairs))
        rows.append(f"entropy {self.entropy:.4f} +- {self.entropy_error:.4f} nats; {self.draws} draws")
        return "\n".join(rows)


def draws_of(density: ParameterPrior | Distribution, key: jax.Array, n: int) -> FloatArray:
    """Returns n draws (n, d) of a density in float64, made in batches to limit memory."""
    with jax.enable_x64(True):
        keys = jax.random.split(key, -(-n // _BATCH))
        return np.concatenate([np.asarray(density.sample(each, (_BATCH,))) for each in keys])[:n]


class MonteCarloMoments:
    """Mean, variance, entropy and quantiles of a NumPyro distribution over named parameters, from its own draws.

    This mixin is for classes with `space`, `sample` and `log_prob`. `mean`, `variance` and `entropy` are named as in
    NumPyro. They use a fixed seed, so that they do not change from call to call. `summary` gives the errors.
    """

    space: ParameterSpace

    @property
    @in_full_resolution(points=True)
    def mean(self) -> Any:
        """The mean (d,) of 65,536 draws with a fixed seed. `summary` gives its error."""
        return jnp.mean(self._seeded_draws(), axis=0)

    @property
    @in_full_resolution(points=True)
    def variance(self) -> Any:
        """The variance (d,) of the same draws."""
        return jnp.var(self._seeded_draws(), axis=0)

    @in_full_resolution(points=False)
    def entropy(self) -> jax.Array:
        """Returns -E log p in nats, from the same draws."""
        draws = self._seeded_draws().reshape(-1, _BATCH, self.space.dim)
        return -jnp.mean(jax.lax.map(self.log_prob, draws))  # type: ignore[attr-defined]

    def _seeded_draws(self) -> jax.Array:
        keys = jax.random.split(jax.random.key(0), _DRAWS // _BATCH)
        sample = self.sample  # type: ignore[attr-defined]
        return jax.lax.map(lambda key: sample(key, (_BATCH,)), keys).reshape(_DRAWS, self.space.dim)

    def summary(
        self, key: jax.Array | None = None, *, draws: int = _DRAWS, levels: Sequence[float] = LEVELS
    ) -> MonteCarloSummary:
        """Returns Monte Carlo estimates of mean, variance, quantiles and entropy in float64, with standard errors.

        The draws are independent. The error is sd / sqrt(n) for the mean and the entropy, and follows from the fourth
        moment for the variance. For a quantile it is half the distance between the order statistics one standard error
        of the rank below and above.

        Args:
            key: seeds the draws; None for a fixed seed.
            draws: number of draws, >= 100.
            levels: probabilities of the quantiles, in (0, 1).
        """
        draws = positive_int(draws, "summary: draws", minimum=100)
        chosen = tuple(real_in(level, "summary: levels", 0.0, 1.0, open_low=True, open_high=True) for level in levels)
        with jax.enable_x64(True):
            theta, log_prob = self._draws_in_batches(jax.random.key(0) if key is None else key, draws)
        centred = theta - theta.mean(axis=0)
        variance = np.mean(centred**2, axis=0)
        quantiles, quantiles_error = _quantiles(theta, chosen)
        return MonteCarloSummary(
            names=self.space.names,
            draws=draws,
            mean=theta.mean(axis=0),
            mean_error=np.sqrt(variance / draws),
            variance=variance,
            variance_error=np.sqrt(np.maximum(np.mean(centred**4, axis=0) - variance**2, 0.0) / draws),
            levels=chosen,
            quantiles=quantiles,
            quantiles_error=quantiles_error,
            entropy=-float(log_prob.mean()),
            entropy_error=float(log_prob.std() / np.sqrt(draws)),
        )

    def _draws_in_batches(self, key: jax.Array, draws: int) -> tuple[FloatArray, FloatArray]:
        parts = [_some_draws(self, each) for each in jax.random.split(key, -(-draws // _BATCH))]
        theta, log_prob = (np.concatenate([np.asarray(part[j]) for part in parts])[:draws] for j in (0, 1))
        return theta, log_prob


@jax.jit
def _some_draws(distribution: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    theta = distribution.sample(key, (_BATCH,))
    return theta, distribution.log_prob(theta)


def _quantiles(theta: FloatArray, levels: tuple[float, ...]) -> tuple[FloatArray, FloatArray]:
    ordered, n = np.sort(theta, axis=0), len(theta)
    rank, spread = np.array(levels) * (n - 1), np.sqrt(n * np.array(levels) * (1.0 - np.array(levels)))
    low, middle, high = (np.clip(np.rint(r), 0, n - 1).astype(int) for r in (rank - spread, rank, rank + spread))
    return ordered[middle], 0.5 * (ordered[high] - ordered[low])
