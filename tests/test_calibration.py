"""The statistics of benchmarks/calibration.py on exact Gaussians, and a small run of the whole path."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from calibration import ALARM, by_weights, caught, needed, p_values, ranks, scores


def exact_ranks(n: int, stretch: float, seed: int = 0) -> np.ndarray:
    """Returns ranks (n, 5) of normal truths under a normal posterior that is too wide; the likelihood says nothing."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        truth, draws = rng.normal(size=3), stretch * rng.normal(size=(2000, 3))
        density = -0.5 * np.sum(np.vstack([truth, draws]) ** 2, axis=1)
        noise = rng.normal(size=2001)
        all_of = np.column_stack([np.vstack([truth, draws]), density, noise])
        found.append(ranks(all_of[1:], np.full(2000, 1 / 2000), all_of[0]))
    return np.array(found)


def test_the_exact_posterior_passes():
    """A false alarm in a hundred seeds, of which these are ten: none in nine out of ten such tests, two in 250."""
    assert sum(caught(exact_ranks(300, 1.0, seed)) for seed in range(10)) <= 1


def test_a_tenth_too_wide_is_caught():
    """By the test of the scale, at the power that its formula says; the plain ranks of the parameters see nothing."""
    wrong = exact_ranks(600, 1.1)
    tests = p_values(wrong)
    assert tests["scale"] < ALARM
    assert min(tests[f"parameter {j}"] for j in range(3)) > ALARM
    # of the sum of chi^2: the scores' mean is sqrt(3 / 2) (1 / 1.21 - 1), their width 1 / 1.21
    expected = ((3.14 + 1.28 / 1.21) / (np.sqrt(1.5) * (1 - 1 / 1.21))) ** 2
    assert needed(wrong) == pytest.approx(expected, rel=0.4)  # 20 % of noise, two sigma


def test_scores_are_standard_if_ranks_are_uniform():
    z = scores((np.arange(10_000) + 0.5) / 10_000, 3)
    assert z.mean() == pytest.approx(0.0, abs=1e-3)
    assert z.std() == pytest.approx(1.0, abs=1e-2)
    assert scores(np.array([chi2(3).sf(5.0)]), 3) == pytest.approx(2.0 / np.sqrt(6.0))  # a truth far out, low density


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_path_is_calibrated_and_a_stretched_flow_is_not():
    """200 data sets: a false alarm in a hundred. A fifth too wide is missed once in twenty; a tenth takes 800."""
    both = np.stack([by_weights(seed, stretch=1.2) for seed in range(200)])
    assert not caught(both[:, 0])
    assert caught(both[:, 1])
