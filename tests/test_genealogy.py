"""Errors from the genealogy of particles, against what they are where it is known."""

from __future__ import annotations

import numpy as np
import pytest

from numpyro_flowprior.sampling.genealogy import evidence_error


def test_without_resampling_the_error_is_that_of_a_mean():
    """One family per particle: the standard error of a mean of weights, over that mean."""
    weights = np.random.default_rng(0).gamma(2.0, size=500)
    expected = weights.std(ddof=1) / weights.mean() / np.sqrt(500)
    assert evidence_error(weights, np.arange(500)) == pytest.approx(expected, rel=1e-3)
    assert evidence_error(np.full(500, 3.0), np.arange(500)) == 0.0
