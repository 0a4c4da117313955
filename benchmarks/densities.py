"""Exact densities in any number of parameters: draws and their normalised log density.

Each works on an even number of coordinates. `rotated` ones are turned by a fixed orthogonal matrix, so that no flow
finds the pairs by the order of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from numpyro_flowprior import Chain, ParameterSpace

Rng = np.random.Generator
Draw = Callable[[Rng, int, int], np.ndarray]
LogProb = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Density:
    """A density: `draw(rng, n, d)` gives points (n, d), `log_prob(x)` their normalised log density (n,)."""

    draw: Draw
    log_prob: LogProb
    rotated: bool = True
    bounds: tuple[float, float] = (-np.inf, np.inf)

    def chain(self, seed: int, n: int, dim: int) -> Chain:
        """Returns a chain of n independent draws with their log density."""
        x = self.draw(np.random.default_rng(seed), n, dim)
        log_p = self.log_prob(x)
        space = ParameterSpace([f"p{j}" for j in range(dim)], *(np.full(dim, bound) for bound in self.bounds))
        return Chain(x @ rotation(dim) if self.rotated else x, space, log_prob=log_p, rows="independent")


def rotation(dim: int) -> np.ndarray:
    """Returns a fixed orthogonal matrix (d, d)."""
    return stats.ortho_group.rvs(dim, random_state=dim)


def log_normal(z: np.ndarray) -> np.ndarray:
    """Returns the standard normal log density of each coordinate."""
    return -0.5 * z**2 - 0.5 * np.log(2 * np.pi)


def draw_bananas(rng: Rng, n: int, dim: int) -> np.ndarray:
    """Pairs (a, b): a is standard normal, b normal about a^2 / 2 with deviation 0.3."""
    a, b = rng.normal(size=(2, n, dim // 2))
    return np.concatenate([a, 0.5 * a**2 + 0.3 * b, rng.normal(size=(n, dim % 2))], axis=1)


def log_bananas(x: np.ndarray) -> np.ndarray:
    half = x.shape[1] // 2
    a, b, rest = x[:, :half], x[:, half : 2 * half], x[:, 2 * half :]
    return np.sum(log_normal(a) + log_normal((b - 0.5 * a**2) / 0.3) - np.log(0.3), axis=1) + log_normal(rest).sum(1)


def draw_funnel(rng: Rng, n: int, dim: int) -> np.ndarray:
    """The first coordinate v is standard normal; the others are normal with deviation exp(v / 2)."""
    v = rng.normal(size=(n, 1))
    return np.concatenate([v, np.exp(v / 2) * rng.normal(size=(n, dim - 1))], axis=1)


def log_funnel(x: np.ndarray) -> np.ndarray:
    v, rest = x[:, :1], x[:, 1:]
    return log_normal(v[:, 0]) + np.sum(log_normal(rest * np.exp(-v / 2)) - v / 2, axis=1)


def modes(
    number: int, apart: float
) -> tuple[Callable[[Rng, int, int], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Normal modes of unequal mass at random places, `apart` deviations from the origin, with random covariances."""

    def parts(dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(number)
        centres = rng.normal(size=(number, dim))
        centres *= apart / np.linalg.norm(centres, axis=1, keepdims=True)
        return np.arange(1, number + 1) / np.arange(1, number + 1).sum(), centres, rng.uniform(0.5, 1.2, (number, dim))

    def draw(rng: Rng, n: int, dim: int) -> np.ndarray:
        shares, centres, widths = parts(dim)
        k = rng.choice(number, n, p=shares)
        return centres[k] + widths[k] * rng.normal(size=(n, dim))

    def log_prob(x: np.ndarray) -> np.ndarray:
        shares, centres, widths = parts(x.shape[1])
        terms = log_normal((x[:, None] - centres) / widths) - np.log(widths)
        return special.logsumexp(terms.sum(axis=2) + np.log(shares), axis=1)

    return draw, log_prob


def draw_edges(rng: Rng, n: int, dim: int) -> np.ndarray:
    """In [0, 1]: a Gaussian copula of correlation one half; half of the marginals pile up at zero, as a^(-0.4)."""
    z = np.sqrt(0.5) * (rng.normal(size=(n, 1)) + rng.normal(size=(n, dim)))
    u = special.ndtr(z)
    u[:, ::2] = u[:, ::2] ** (1 / 0.6)
    return np.clip(u, 1e-15, 1 - 1e-15)


def log_edges(x: np.ndarray) -> np.ndarray:
    dim = x.shape[1]
    u, log_slope = x.copy(), np.zeros(len(x))
    u[:, ::2] = x[:, ::2] ** 0.6
    log_slope = np.sum(np.log(0.6) - 0.4 * np.log(x[:, ::2]), axis=1)
    z = special.ndtri(u)
    covariance = 0.5 * (np.eye(dim) + 1.0)
    return stats.multivariate_normal(np.zeros(dim), covariance).logpdf(z) - log_normal(z).sum(axis=1) + log_slope


def draw_tails(rng: Rng, n: int, dim: int) -> np.ndarray:
    """Student's t with four degrees of freedom in all coordinates together."""
    return rng.normal(size=(n, dim)) * np.sqrt(4.0 / rng.chisquare(4.0, size=(n, 1)))


def log_tails(x: np.ndarray) -> np.ndarray:
    return np.asarray(stats.multivariate_t(np.zeros(x.shape[1]), df=4.0).logpdf(x))


def draw_mixed(rng: Rng, n: int, dim: int) -> np.ndarray:
    """A third of the coordinates bananas, a third a funnel, the rest two modes."""
    first, second, third = thirds(dim)
    return np.concatenate([draw_bananas(rng, n, first), draw_funnel(rng, n, second), TWO[0](rng, n, third)], axis=1)


def log_mixed(x: np.ndarray) -> np.ndarray:
    first, second, _ = thirds(x.shape[1])
    return log_bananas(x[:, :first]) + log_funnel(x[:, first : first + second]) + TWO[1](x[:, first + second :])


def thirds(dim: int) -> tuple[int, int, int]:
    return dim // 3, dim // 3, dim - 2 * (dim // 3)


TWO = modes(2, 4.0)
DENSITIES = {
    "banana": Density(draw_bananas, log_bananas),
    "funnel": Density(draw_funnel, log_funnel),
    "two modes": Density(*TWO),
    "five modes": Density(*modes(5, 4.0)),
    "edges": Density(draw_edges, log_edges, rotated=False, bounds=(0.0, 1.0)),
    "heavy tails": Density(draw_tails, log_tails),
    "mixed": Density(draw_mixed, log_mixed),
}
