"""Preconditioner: a bijection with its determinant and normalised draws, trained on a few hundred particles."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from numpyro_flowprior.sampling import preconditioner
from numpyro_flowprior.sampling.particle_run import evidence_of
from numpyro_flowprior.sampling.preconditioner import Preconditioner


def banana(rng, n):
    """Draws of x ~ N(0, 1), y ~ N(x^2, 0.3), and the log density."""
    x = rng.normal(size=n)
    u = np.column_stack([x, x**2 + 0.3 * rng.normal(size=n)])
    return u, log_banana(u)


def log_banana(u):
    return -0.5 * u[:, 0] ** 2 - 0.5 * ((u[:, 1] - u[:, 0] ** 2) / 0.3) ** 2 - np.log(2 * np.pi * 0.3)


@pytest.fixture(scope="module")
def trained():
    """A flow trained twice, as in a run: particles of a Gaussian weighted to a softer banana, then to the banana."""
    rng = np.random.default_rng(0)
    wide = multivariate_normal([0.0, 1.0], [[2.0, 0.0], [0.0, 4.0]])
    u = wide.rvs(2000, random_state=rng)
    flow = Preconditioner(2, seed=3, rows=64)
    for beta in (0.3, 1.0):
        log_p = beta * log_banana(u) + (1 - beta) * wide.logpdf(u)
        weights = np.exp(log_p - wide.logpdf(u))
        flow.fit(u, weights / weights.sum(), log_p + 12.3)
    assert 200 < weights.sum() ** 2 / np.sum(weights**2) < 500  # what it had
    return flow


def log_density(flow, u):
    theta, log_det = flow.to_latent(u)
    return multivariate_normal(np.zeros(u.shape[1])).logpdf(theta) + log_det


@pytest.fixture
def short(monkeypatch):
    """Trainings of a few steps, where how good the flow is is not the point."""
    monkeypatch.setattr(preconditioner, "_FIRST_STEPS", 200)
    monkeypatch.setattr(preconditioner, "_STEPS", 100)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("dim", [1, 3])
def test_the_map_is_a_bijection_with_its_determinant(dim):
    rng = np.random.default_rng(1)
    u = rng.normal(size=(300, dim)) @ rng.normal(size=(dim, dim)) + 2.0
    flow = Preconditioner(dim, seed=0, rows=128)
    flow.fit(u, np.full(300, 1 / 300), -0.5 * np.sum(u**2, axis=1))
    for points in (u, 30.0 * u):  # far outside too
        theta, log_det = flow.to_latent(points)
        back, log_det_back = flow.from_latent(theta)
        np.testing.assert_allclose(back, points, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(log_det_back, -log_det, atol=1e-9)
    steps = 1e-5 * np.eye(dim)
    for point, expected in zip(u[:3], flow.to_latent(u[:3])[1], strict=True):
        up, down = flow.to_latent(point + steps)[0], flow.to_latent(point - steps)[0]
        assert np.linalg.slogdet((up - down) / 2e-5)[1] == pytest.approx(expected, abs=1e-5)


def test_few_weighted_particles_and_their_log_density_are_enough(trained):
    """KL to the banana on unseen draws: above 0.5 nats for the Gaussian of its moments, below 0.05 here."""
    u, log_p = banana(np.random.default_rng(5), 4000)
    gauss = multivariate_normal(u.mean(axis=0), np.cov(u.T)).logpdf(u)
    assert np.mean(log_p - gauss) > 0.5
    assert np.mean(log_p - log_density(trained, u)) < 0.05


def test_draws_have_the_density_that_is_said(trained):
    """The mean of p / q over draws is one within four of its errors, and weighted draws have the banana's moments."""
    u, log_q = trained.sample(20_000)
    found = evidence_of(log_banana(u) - log_q)
    assert abs(found.log_evidence) < 4 * found.error
    assert found.error < 0.01
    weights = np.exp(log_banana(u) - log_q)
    assert np.average(u[:, 1], weights=weights) == pytest.approx(1.0, abs=0.08)
    np.testing.assert_array_equal(trained.sample(20_000)[0], u)


@pytest.mark.usefixtures("short")
def test_training_goes_on_from_what_was_stored(trained):
    other = Preconditioner(2, seed=3, rows=64)
    other.restore({name: np.array(array) for name, array in trained.arrays().items()})
    u, log_p = banana(np.random.default_rng(6), 500)
    np.testing.assert_array_equal(other.to_latent(u)[0], trained.to_latent(u)[0])
    again = Preconditioner(2, seed=3, rows=64)
    again.restore(trained.arrays())
    itself = copy.deepcopy(trained)
    for flow in (other, again, itself):
        flow.fit(u, np.full(500, 1 / 500), log_p)
    np.testing.assert_array_equal(other.to_latent(u)[0], itself.to_latent(u)[0])
    np.testing.assert_array_equal(other.to_latent(u)[0], again.to_latent(u)[0])


@pytest.mark.usefixtures("short")
def test_nothing_is_compiled_for_other_numbers_of_particles():
    flow, rng, seen = Preconditioner(2, seed=3, rows=64), np.random.default_rng(7), []
    for n in (300, 700, 1000):
        u, log_p = banana(rng, n)
        flow.fit(u, np.full(n, 1 / n), log_p)
        flow.from_latent(flow.to_latent(u)[0])
        seen.append(_compiled())
    assert seen[0] == seen[1] == seen[2]


def _compiled():
    from numpyro_flowprior.training import steps

    jitted = (preconditioner._to_latent, preconditioner._from_latent, steps.run_between, steps.validation_loss)
    return [function._cache_size() for function in jitted]


def test_the_evidence_counts_draws_of_weight_zero():
    rng = np.random.default_rng(0)
    log_weights = rng.normal(-0.125, 0.5, size=40_000)  # of mean one
    log_weights[::4] = -np.inf
    found = evidence_of(log_weights)
    assert found.log_evidence == pytest.approx(np.log(0.75), abs=5 * found.error)
    assert found.error == pytest.approx(np.sqrt(0.75 * np.exp(0.25) - 0.75**2) / 0.75 / 200, rel=0.05)
    assert found.pareto_k < 0.5
    assert found.largest < 0.01
    assert evidence_of(np.full(10, -np.inf)).log_evidence == -np.inf
