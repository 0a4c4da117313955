"""coordinates="latent": samplers in a learned prior's latent coordinates, and chains back in the model's own."""

from __future__ import annotations

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from toys import make_prior

from numpyro_flowprior import (
    FlowConfig,
    ModelDensity,
    robustify,
    sample_blackjax,
    sample_emcee,
    sample_nuts,
    sample_pocomc,
    temper,
)
from numpyro_flowprior.sampling.coordinates import parameters_of, sampled_in

KEY = jax.random.key(4)
BOUNDS = [(0.0, 1.0), (-1.0, np.inf)]
ONE = make_prior(BOUNDS, FlowConfig(layers=2, hidden=(8,), base="normal"))
SEVERAL = make_prior(BOUNDS, FlowConfig(layers=1, hidden=(8,), members=3, background=True))  # as the default
BOXED = make_prior([(0.0, 1.0), (-1.0, 2.0)], FlowConfig(layers=2, hidden=(8,), base="normal"))
PRIORS = {
    "one flow": lambda: ONE,
    "mixture": lambda: SEVERAL,
    "tempered": lambda: temper(BOXED, 0.8),
    "robust": lambda: robustify(BOXED, 0.2),
}


def model(prior, y):
    theta = numpyro.sample("theta", prior)
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("sum", theta.sum())
    numpyro.sample("y", dist.Normal(theta.sum(), 0.3 + scale), obs=y)


def in_plate(y):
    with numpyro.plate("groups", 2):
        theta = numpyro.sample("theta", ONE)
    numpyro.sample("w", dist.Dirichlet(np.ones(3)))
    numpyro.sample("y", dist.Normal(theta.sum(), 1.0), obs=y)


@pytest.mark.parametrize("name", PRIORS)
def test_the_latent_density_is_the_plain_one_with_the_jacobian(name):
    """log |det dtheta / domega| by autodiff of the prior's map."""
    prior = PRIORS[name]()
    density = ModelDensity(model, prior, 0.7)
    inner = density.in_latent_space()
    assert inner.names == ("theta_latent[0]", "theta_latent[1]", "scale")
    assert density.names == ("p0", "p1", "scale")
    omega = inner.sample_prior(KEY, 16)
    with jax.enable_x64(True):
        slopes = jax.jit(jax.vmap(jax.jacobian(prior.from_latent)))(omega[:, :2])
        theta = np.asarray(prior.from_latent(omega[:, :2]))
    x = np.column_stack([theta, omega[:, 2]])
    log_det = np.linalg.slogdet(np.asarray(slopes))[1]
    np.testing.assert_allclose(inner.log_prior(omega), density.log_prior(x) + log_det, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(inner.log_likelihood(omega), density.log_likelihood(x), rtol=1e-9)
    np.testing.assert_allclose(inner.deterministics(omega)["theta"], theta, rtol=1e-9)
    np.testing.assert_allclose(parameters_of(density, inner, omega), x, rtol=1e-9)


def test_plates_and_other_supports_come_back_too():
    density = ModelDensity(in_plate, 0.7)
    inner, to_chain = sampled_in(density, "latent")
    omega = inner.sample_prior(KEY, 10)
    log_prior, log_likelihood = inner.log_prior_and_likelihood(omega)
    chain = to_chain(omega, log_prior=log_prior, log_likelihood=log_likelihood, weights=np.ones(10), log_evidence=0.3)
    assert chain.names == density.names
    np.testing.assert_allclose(chain.log_likelihood, density.log_likelihood(chain.samples), rtol=1e-9)
    np.testing.assert_allclose(chain.log_prob, density.log_posterior(chain.samples), rtol=1e-9)
    np.testing.assert_allclose(chain.samples[:, -2:], omega[:, -2:], atol=1e-7)
    assert chain.log_evidence == 0.3


def test_emcee_finds_the_posterior_in_latent_space():
    """Against 50,000 importance-weighted prior draws; 4.5 standard errors are a false alarm in 40,000 seeds."""
    density = ModelDensity(model, ONE, 0.7)
    chain = sample_emcee(KEY, density, coordinates="latent", n_walkers=32, max_steps=6000, progress=False)
    assert chain.info["converged"]
    assert chain.info["coordinates"] == "latent"
    assert chain.names == density.names
    draws = density.sample_prior(jax.random.key(5), 50_000)
    weights = np.exp(density.log_likelihood(draws))
    weights /= weights.sum()
    mean, deviation = weights @ draws, np.sqrt(weights @ (draws - weights @ draws) ** 2)
    error = deviation * np.sqrt(1 / chain.effective_size + np.sum(weights**2))
    assert (np.abs(chain.mean() - mean) < 4.5 * error).all()
    np.testing.assert_allclose(chain.log_prior, density.log_prior(chain.samples))
    np.testing.assert_allclose(chain.log_likelihood, density.log_likelihood(chain.samples), rtol=1e-7)
    for j in range(density.dim):
        order = np.argsort(draws[:, j])
        at = np.searchsorted(draws[order, j], np.sort(chain.samples[:, j]))
        exact = np.append(np.cumsum(weights[order]), 1.0)[at]
        distance = np.abs(exact - (np.arange(chain.n) + 0.5) / chain.n).max()
        size = int(1 / (1 / chain.effective_size + np.sum(weights**2)))
        assert stats.kstwo.sf(distance, size) > 1e-4


@pytest.mark.filterwarnings("ignore:sample_emcee. stopped at max_steps")
def test_proposals_and_checkpoints_know_the_space(tmp_path):
    density, path = ModelDensity(model, ONE, 0.7), tmp_path / "run.h5"
    options = {"n_walkers": 8, "max_steps": 200, "progress": False}
    first = sample_emcee(KEY, density, coordinates="latent", proposal="prior", checkpoint=path, **options)
    again = sample_emcee(KEY, density, coordinates="latent", proposal="prior", checkpoint=path, **options)
    np.testing.assert_array_equal(again.samples, first.samples)
    with pytest.raises(ValueError, match="the same 'coordinates', 'names'"):
        sample_emcee(KEY, density, proposal="prior", checkpoint=path, **options)
    with pytest.raises(ValueError, match="expected 'prior' with coordinates='latent'; got a density over parameters"):
        sample_emcee(KEY, density, coordinates="latent", proposal=ONE, **options)


@pytest.mark.parametrize("sampler", [sample_blackjax, sample_emcee, sample_nuts, sample_pocomc])
def test_without_a_learned_prior_all_coordinates_are_the_parameters(sampler):
    def plain(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    density = ModelDensity(plain, 0.3)
    for coordinates in ("auto", "parameters", "latent"):
        with pytest.raises(Sampled, match="parameters"):
            sampler(KEY, density, coordinates=coordinates, progress=False)
    with pytest.raises(ValueError, match=f"{sampler.__name__}: coordinates: expected one of 'auto', 'parameters', 'la"):
        sampler(KEY, density, coordinates="white", progress=False)


@pytest.mark.parametrize(
    ("sampler", "auto"),
    [(sample_blackjax, "latent"), (sample_emcee, "parameters"), (sample_nuts, "latent"), (sample_pocomc, "parameters")],
)
def test_coordinates_of_a_learned_prior_are_as_asked_for(sampler, auto):
    for coordinates in ("auto", "parameters", "latent"):
        with pytest.raises(Sampled, match=auto if coordinates == "auto" else coordinates):
            sampler(KEY, ModelDensity(model, ONE, 0.3), coordinates=coordinates, progress=False)


class Sampled(Exception):
    """Says in which coordinates a sampler was about to sample."""


@pytest.fixture(autouse=True)
def stopped_before_it_samples(request, monkeypatch):
    """Makes samplers stop where they have chosen their coordinates, in the tests of what they choose."""
    if "coordinates" not in request.node.name:
        return

    def stop(density, coordinates):
        raise Sampled(coordinates)

    for name in ("blackjax", "emcee", "nuts", "pocomc"):
        monkeypatch.setattr(f"numpyro_flowprior.sampling.{name}.sampled_in", stop)
