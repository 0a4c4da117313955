"""Draws of mixtures: of flows in an ensemble, of Gaussians in a base."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from numpyro_flowprior.flows.base import FullMixture, NormalMixture
from numpyro_flowprior.flows.ensemble import Ensemble, blocks_of

CENTRES = np.array([[-90.0, 10.0], [-30.0, 20.0], [30.0, 30.0], [90.0, 40.0]], np.float32)
WIDTHS = np.array([[1.0, 2.0], [3.0, 0.5], [0.1, 1.0], [2.0, 2.0]], np.float32)
WEIGHTS = np.array([0.5, 0.01, 0.2, 0.29])


def ensemble() -> Ensemble:
    """Returns three members and a background, so far apart that each draw tells whose it is."""
    members = {"loc": jnp.asarray(CENTRES[:3]), "scale": jnp.asarray(WIDTHS[:3])}
    background = distrax.MultivariateNormalDiag(jnp.asarray(CENTRES[3]), jnp.asarray(WIDTHS[3]))
    return Ensemble(
        lambda one: distrax.MultivariateNormalDiag(one["loc"], one["scale"]), members, jnp.asarray(WEIGHTS), background
    )


def base() -> NormalMixture:
    """Returns the same four Gaussians as a mixture base."""
    parts = distrax.MultivariateNormalDiag(jnp.asarray(CENTRES), jnp.asarray(WIDTHS))
    return NormalMixture(distrax.Categorical(logits=jnp.log(WEIGHTS) + 3.0), parts)


def full() -> FullMixture:
    """Returns the same four Gaussians as a mixture with full covariances, which are diagonal."""
    return FullMixture(jnp.log(WEIGHTS) + 3.0, jnp.asarray(CENTRES), jnp.asarray(WIDTHS), jnp.zeros((4, 2, 2)))


@pytest.mark.parametrize("mixture", [ensemble, base, full])
def test_draws_come_from_every_part_as_often_as_its_weight_and_with_its_distribution(mixture):
    """Chi-squared for the counts, Kolmogorov-Smirnov for what is drawn: nine p-values, each above 1e-4.

    The order of the draws must say nothing either: the first and the second half have the same counts.
    """
    draws = np.asarray(mixture().sample(seed=jax.random.key(0), sample_shape=(40_000,)), float)
    part = np.argmin(np.abs(draws[:, :1] - CENTRES[:, 0]), axis=1)
    counts = np.bincount(part, minlength=4)
    assert stats.chisquare(counts, 40_000 * WEIGHTS).pvalue > 1e-4
    halves = [np.bincount(half, minlength=4) for half in np.split(part, 2)]
    assert stats.chi2_contingency(halves).pvalue > 1e-4
    z = (draws - CENTRES[part]) / WIDTHS[part]
    for k in range(4):
        for column in z[part == k].T:
            assert stats.kstest(column, "norm").pvalue > 1e-4
    neighbours = stats.pearsonr(z[:-1].ravel(), z[1:].ravel())  # no block repeats another's draws
    assert neighbours.pvalue > 1e-4
    assert len(np.unique(draws, axis=0)) > 39_900


@pytest.mark.parametrize("n", [0, 1, 2, 7, 1024, 5000])
def test_every_draw_has_a_place_of_its_own_in_a_block_of_its_member(n):
    """The last of 0 ... 3 is the background, which has no block; all draws of one member fit too."""
    for chosen in (jax.random.choice(jax.random.key(n), 4, (n,)), jnp.zeros(n, int), jnp.full(n, 2)):
        blocks = blocks_of(chosen, 3, n)
        choice = np.asarray(chosen)
        place = np.asarray(blocks.place)[choice < 3]
        assert len(np.unique(place)) == len(place)
        assert (place >= 0).all()
        assert (place < len(blocks.member) * blocks.size).all()
        np.testing.assert_array_equal(np.asarray(blocks.member)[place // blocks.size], choice[choice < 3])
        assert len(blocks.member) * blocks.size <= n + 3 * blocks.size


def test_a_mixture_with_full_covariances_is_that_of_scipy():
    rng = np.random.default_rng(0)
    logits, mean, scale = rng.normal(size=3), rng.normal(size=(3, 4)), rng.uniform(0.5, 2.0, size=(3, 4))
    shear = rng.normal(size=(3, 4, 4))  # what is on and above the diagonal does not count
    with jax.enable_x64(True):
        mixture = FullMixture(*map(jnp.asarray, (logits, mean, scale, shear)))
        draws = np.asarray(mixture.sample(seed=jax.random.key(1), sample_shape=(50_000,)))
        found = np.asarray(mixture.log_prob(jnp.asarray(draws[:500].reshape(5, 100, 4)))).ravel()
    factors = [np.diag(1.0 / s) @ (np.eye(4) + np.tril(h, -1)) for s, h in zip(scale, shear, strict=True)]
    covariances = [np.linalg.inv(factor @ factor.T) for factor in factors]
    weights = np.exp(logits) / np.exp(logits).sum()
    parts = [stats.multivariate_normal(m, c).pdf(draws[:500]) for m, c in zip(mean, covariances, strict=True)]
    np.testing.assert_allclose(found, np.log(weights @ np.array(parts)))
    centre = weights @ mean
    spread = sum(w * (c + np.outer(m - centre, m - centre)) for w, c, m in zip(weights, covariances, mean, strict=True))
    np.testing.assert_allclose(draws.mean(axis=0), centre, atol=4 * np.sqrt(np.diag(spread) / 50_000).max())
    np.testing.assert_allclose(np.cov(draws.T), spread, atol=0.05 * np.abs(spread).max())
