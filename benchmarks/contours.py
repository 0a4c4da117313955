"""Densities and contours of plot_corner compared with exact densities, and with GetDist's from the same draws."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.signal import find_peaks
from scipy.stats import beta, expon, multivariate_normal, norm, t, uniform
from tables import origin, publish, table

from numpyro_flowprior.plots.corner import CONTOUR_MASSES
from numpyro_flowprior.plots.smooth import smooth_joint, smooth_marginal

DRAWS, NEW, SEEDS = 5000, 20_000, 3
PROMINENCE = 0.02  # of a peak, relative to the highest density


class Pair(NamedTuple):
    """Draws of two parameters, their exact density, and the bounds that are declared."""

    draw: Callable[[np.random.Generator, int], np.ndarray]
    density: Callable[[np.ndarray], np.ndarray]
    bounds: tuple[tuple[float, float], tuple[float, float]]


FREE = ((-np.inf, np.inf),) * 2
CORRELATED = multivariate_normal([0, 0], [[1.0, 0.8], [0.8, 1.0]])


def _banana(rng: np.random.Generator, n: int) -> np.ndarray:
    x = rng.normal(size=n)
    return np.column_stack([x, x**2 + 0.3 * rng.normal(size=n)])


def _line(rng: np.random.Generator, n: int) -> np.ndarray:
    x = rng.uniform(size=n)
    return np.column_stack([x, 1.0 - x + 0.01 * rng.normal(size=n)])


def _modes(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random((n, 1)) < 0.3, -1.0, 1.0) + 0.2 * rng.normal(size=(n, 2))


def _half(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.abs(rng.normal(size=(n, 2)))


PAIRS = {
    "correlated normal": Pair(lambda rng, n: rng.multivariate_normal([0, 0], CORRELATED.cov, n), CORRELATED.pdf, FREE),
    "banana": Pair(_banana, lambda x: norm.pdf(x[:, 0]) * norm.pdf(x[:, 1], x[:, 0] ** 2, 0.3), FREE),
    "narrow line across a box": Pair(
        _line, lambda x: norm.pdf(x[:, 1], 1.0 - x[:, 0], 0.01), ((0.0, 1.0), (-np.inf, np.inf))
    ),
    "two modes": Pair(
        _modes,
        lambda x: 0.3 * norm.pdf(x, -1, 0.2).prod(axis=1) + 0.7 * norm.pdf(x, 1, 0.2).prod(axis=1),
        FREE,
    ),
    "half normals, bounds declared": Pair(_half, lambda x: 4 * norm.pdf(x).prod(axis=1), ((0.0, np.inf),) * 2),
    "half normals, bounds not declared": Pair(_half, lambda x: 4 * norm.pdf(x).prod(axis=1), FREE),
    "flat": Pair(lambda rng, n: rng.uniform(size=(n, 2)), lambda x: np.ones(len(x)), ((0.0, 1.0),) * 2),
    "piled on two bounds": Pair(
        lambda rng, n: rng.beta(0.7, 2.0, (n, 2)), lambda x: beta.pdf(x, 0.7, 2.0).prod(axis=1), ((0.0, 1.0),) * 2
    ),
}


class Single(NamedTuple):
    """Draws of one parameter, its exact density, and the bounds that are declared."""

    draw: Callable[[np.random.Generator, int], np.ndarray]
    density: Callable[[np.ndarray], np.ndarray]
    bounds: tuple[float, float]


def _plateau(rng: np.random.Generator, n: int) -> np.ndarray:
    draws = rng.uniform(-0.2, 0.8, 2 * n) + rng.normal(0.0, 0.04, 2 * n)
    return draws[draws > 0.0][:n]


def _spike(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.93, rng.normal(0.02, 0.003, n), 0.02 + rng.exponential(0.08, n))


def _narrow_and_wide(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.where(rng.random(n) < 0.3, rng.normal(-2.0, 0.1, n), rng.normal(2.0, 1.0, n))


NO_BOUNDS = (-np.inf, np.inf)
SINGLES = {
    "normal": Single(lambda rng, n: rng.normal(size=n), norm.pdf, NO_BOUNDS),
    "flat": Single(lambda rng, n: rng.uniform(size=n), uniform.pdf, (0.0, 1.0)),
    "exponential": Single(lambda rng, n: rng.exponential(size=n), expon.pdf, (0.0, np.inf)),
    "plateau with a soft end": Single(
        _plateau, lambda x: (norm.cdf((x + 0.2) / 0.04) - norm.cdf((x - 0.8) / 0.04)) / 0.8 * (x >= 0), (0.0, np.inf)
    ),
    "spike and far tail": Single(
        _spike, lambda x: 0.93 * norm.pdf(x, 0.02, 0.003) + 0.07 * expon.pdf(x, 0.02, 0.08), NO_BOUNDS
    ),
    "narrow and wide mode": Single(
        _narrow_and_wide, lambda x: 0.3 * norm.pdf(x, -2.0, 0.1) + 0.7 * norm.pdf(x, 2.0, 1.0), NO_BOUNDS
    ),
    "Student's t, 3 degrees of freedom": Single(lambda rng, n: rng.standard_t(3, n), t(3).pdf, NO_BOUNDS),
    "piled on a bound": Single(lambda rng, n: rng.beta(0.5, 2.0, n), beta(0.5, 2.0).pdf, (0.0, 1.0)),
}


def our_single(draws: np.ndarray, bounds: tuple[float, float]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a density."""
    return smooth_marginal(draws, np.full(len(draws), 1.0 / len(draws)), float(len(draws)), bounds).at


def single_of_getdist(draws: np.ndarray, bounds: tuple[float, float]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns GetDist's density, with its defaults for independent draws."""
    found = _samples(draws[:, None], (bounds,)).get1DDensityGridData(0)
    density = found.P / (found.P.sum() * (found.x[1] - found.x[0]))
    return lambda x: np.interp(x, found.x, density, left=0.0, right=0.0)


def measured_single(method: Callable, single: Single, seed: int) -> tuple[float, int, float]:
    """Returns the integrated absolute error, the number of peaks, and the seconds that it took."""
    draws = single.draw(np.random.default_rng(seed), DRAWS)
    new = single.draw(np.random.default_rng(1000 + seed), NEW)
    start = time.perf_counter()
    density = method(draws, single.bounds)
    seconds = time.perf_counter() - start
    return float(np.mean(np.abs(density(new) / single.density(new) - 1.0))), _peaks(density, draws), seconds


def _peaks(density: Callable[[np.ndarray], np.ndarray], draws: np.ndarray) -> int:
    """Returns how many peaks a density has where the draws are."""
    found = density(np.linspace(*np.quantile(draws, [0.001, 0.999]), 1000))
    return len(find_peaks([0.0, *(found / found.max()), 0.0], prominence=PROMINENCE)[0])


def _samples(draws: np.ndarray, bounds: Any) -> Any:
    from getdist import MCSamples, chains

    chains.print_load_details = False
    names = list("ab")[: draws.shape[1]]
    ranges = {name: [b if np.isfinite(b) else None for b in pair] for name, pair in zip(names, bounds, strict=True)}
    return MCSamples(samples=draws, names=names, ranges=ranges, sampler="uncorrelated", settings={"ignore_rows": 0})


def ours(draws: np.ndarray, bounds: tuple) -> tuple[Callable[[np.ndarray], np.ndarray], list[float]]:
    """Returns a density and the levels of its contours."""
    weights = np.full(len(draws), 1.0 / len(draws))
    marginals = [smooth_marginal(x, weights, float(len(x)), limits) for x, limits in zip(draws.T, bounds, strict=True)]
    joint = smooth_joint(*marginals, weights, float(len(draws)))
    joint.on_grid(*(np.linspace(part.edges[0], part.edges[-1], 120) for part in marginals))  # what a picture costs
    return lambda x: joint.at(*x.T), joint.levels(CONTOUR_MASSES)


def getdist(draws: np.ndarray, bounds: tuple) -> tuple[Callable[[np.ndarray], np.ndarray], list[float]]:
    """Returns the same of GetDist, with its defaults for independent draws."""
    samples = _samples(draws, bounds)
    found = samples.get2DDensityGridData(0, 1, num_plot_contours=3)
    density = found.P.T / (found.P.sum() * (found.x[1] - found.x[0]) * (found.y[1] - found.y[0]))
    levels = np.asarray(found.getContourLevels(CONTOUR_MASSES)) * density.max() / found.P.max()
    between = RegularGridInterpolator((found.x, found.y), density, bounds_error=False, fill_value=0.0)
    return between, sorted(levels, reverse=True)


def measured(method: Callable, pair: Pair, seed: int) -> tuple[float, float, float]:
    """Returns the integrated absolute error, the largest error of a contour's mass, and the seconds that it took."""
    draws = pair.draw(np.random.default_rng(seed), DRAWS)
    new = pair.draw(np.random.default_rng(1000 + seed), NEW)
    start = time.perf_counter()
    density, levels = method(draws, pair.bounds)
    seconds = time.perf_counter() - start
    found = density(new)
    inside = [np.mean(found > level) for level in levels]
    return (
        float(np.mean(np.abs(found / pair.density(new) - 1.0))),
        float(np.max(np.abs(np.subtract(inside, CONTOUR_MASSES)))),
        seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)

    rows = []
    for name, pair in PAIRS.items():
        both = [np.mean([measured(method, pair, seed) for seed in range(SEEDS)], axis=0) for method in (ours, getdist)]
        (error, mass, seconds), (their_error, their_mass, their_seconds) = both
        rows.append(
            [
                name,
                f"{error:.3f}",
                f"{their_error:.3f}",
                f"{mass:.3f}",
                f"{their_mass:.3f}",
                f"{seconds / their_seconds:.1f}",
            ]
        )
    singles = []
    for name, single in SINGLES.items():
        both = [
            np.mean([measured_single(method, single, seed) for seed in range(3 * SEEDS)], axis=0)
            for method in (our_single, single_of_getdist)
        ]
        (error, peaks, seconds), (their_error, their_peaks, their_seconds) = both
        modes = _peaks(single.density, single.draw(np.random.default_rng(0), NEW))
        singles.append(
            [
                name,
                f"{error:.3f}",
                f"{their_error:.3f}",
                modes,
                f"{peaks:.1f}",
                f"{their_peaks:.1f}",
                f"{seconds / their_seconds:.1f}",
            ]
        )
    head_of_singles = (
        "density | error | error, GetDist | peaks, exact | peaks | peaks, GetDist | time relative to GetDist"
    )
    head = "density | error | error, GetDist | mass error | mass error, GetDist | time relative to GetDist"
    text = [
        "# Contours\n",
        origin("python benchmarks/contours.py", "getdist"),
        f"Means over {SEEDS} sets of {DRAWS:,} draws. Error: integral of |estimate - exact density|, at new draws. "
        "Mass error: largest difference between the share of new draws inside a contour and its nominal share (39.3, "
        "86.5, 98.9 %).\n",
        "## Pairs\n",
        table(head, rows),
        "## One parameter\n",
        f"Means over {3 * SEEDS} sets of draws. Peaks rise by at least {PROMINENCE:.0%} of the highest density.\n",
        table(head_of_singles, singles),
    ]
    publish(text, options.output)


if __name__ == "__main__":
    main()
