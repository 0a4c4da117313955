"""Errors from the genealogy of particles, against what they are where it is known."""

from __future__ import annotations

import numpy as np
import pytest

from numpyro_flowprior.sampling.genealogy import effective_size, evidence_error


def test_without_resampling_the_error_is_that_of_a_mean():
    """One family per particle: the standard error of a mean of weights, over that mean."""
    weights = np.random.default_rng(0).gamma(2.0, size=500)
    expected = weights.std(ddof=1) / weights.mean() / np.sqrt(500)
    assert evidence_error(weights, np.arange(500)) == pytest.approx(expected, rel=1e-3)
    assert evidence_error(np.full(500, 3.0), np.arange(500)) == 0.0


def test_families_are_one_draw_each():
    rng = np.random.default_rng(0)
    ancestor = np.repeat(np.arange(500), 4)
    copies = rng.normal(size=(500, 2))[ancestor]
    assert effective_size(copies, ancestor) == pytest.approx(500, rel=3e-3)
    independent = rng.normal(size=(2000, 2))
    assert effective_size(independent, ancestor) == pytest.approx(2000, rel=0.2)  # 500 squares: 6 % each, 3 sigma
    assert effective_size(independent, np.arange(2000)) == pytest.approx(2000, rel=1e-3)
    assert effective_size(independent, np.zeros(2000, dtype=int)) == 1.0


def test_a_constant_coordinate_does_not_count():
    samples = np.column_stack([np.arange(10.0), np.ones(10)])
    assert effective_size(samples, np.arange(10)) == pytest.approx(10, rel=0.11)
    assert effective_size(samples[:, 1:], np.arange(10)) == 10
