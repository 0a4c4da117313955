"""NUTS through the bridge: exact posteriors, learned priors in their latent space, and what it says of a run."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import kstest, norm
from toys import make_prior

from numpyro_flowprior import FlowConfig, ModelDensity, UniformPrior, sample_nuts, to_arviz
from numpyro_flowprior.chains.parameters import ParameterSpace
from numpyro_flowprior.sampling import nuts

KEY = jax.random.key(1)
Y = np.array([2.5])
POSTERIOR_MEAN, POSTERIOR_SD = (1.0 / 4 + 2.5) / (1 + 1 / 4), np.sqrt(1 / (1 + 1 / 4))
FEW = {"n_samples": 500, "n_warmup": 300, "progress": False}


def conjugate(y):
    """Normal mean with a normal prior, a flat one on a box, and a plate of scales that the data leave alone."""
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    numpyro.sample("flat", UniformPrior(ParameterSpace(["a", "b"], [0.0, -1.0], [2.0, 1.0])))
    with numpyro.plate("groups", 3):
        numpyro.sample("scale", dist.HalfNormal(2.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.fixture(scope="module")
def density():
    return ModelDensity(conjugate, Y)


@pytest.fixture(scope="module")
def chain(density):
    return sample_nuts(KEY, density, **FEW)


def test_draws_are_the_exact_posteriors(density, chain):
    """Kolmogorov-Smirnov of each marginal at a tenth of the draws, which are nearly independent."""
    assert chain.names == ("mu", "a", "b", "scale[0]", "scale[1]", "scale[2]")
    exact = [norm(POSTERIOR_MEAN, POSTERIOR_SD).cdf, lambda x: x / 2, lambda x: (x + 1) / 2]
    exact += [lambda x: 2 * norm.cdf(x / 2) - 1] * 3
    for column, cdf in zip(chain.samples[::10].T, exact, strict=True):
        assert kstest(column, cdf).pvalue > 1e-4  # six tests: a false alarm in 1700 seeds
    assert chain.info["converged"]
    assert chain.info["coordinates"] == "parameters"  # there is no learned prior
    assert chain.info["divergences"] <= 4
    assert 0.6 < chain.info["acceptance"] < 1.0
    assert chain.samples.dtype == np.float64
    np.testing.assert_allclose(chain.log_prior, density.log_prior(chain.samples))
    np.testing.assert_array_equal(np.unique(chain.chain_id, return_counts=True)[1], [500] * 4)
    assert to_arviz(chain, density).posterior.sizes["chain"] == 4


def test_a_learned_prior_comes_back_where_nothing_is_observed_of_it():
    prior = make_prior([(0.0, 1.0), (0.0, np.inf)], FlowConfig(layers=1, hidden=(8,), base="normal"))

    def model(y):
        theta = numpyro.sample("theta", prior)
        numpyro.sample("y", dist.Normal(0.0 * theta[0], 1.0), obs=y)

    density = ModelDensity(model, 0.3)
    assert density.learned_sites == ("theta",)
    found = sample_nuts(KEY, density, **FEW)
    assert found.info["coordinates"] == "latent"
    drawn = np.asarray(prior.sample(jax.random.key(5), (20_000,)))
    for j in range(2):
        # thinned to independence; a false alarm in 5000 seeds
        assert kstest(found.samples[::10, j], drawn[:, j]).pvalue > 1e-4
    assert prior.space.contains(found.samples).all()


def test_a_posterior_of_a_learned_prior_is_that_of_importance_weights():
    """In the parameters themselves; the test before is of the prior's latent space."""
    prior = make_prior([(0.0, 1.0), (-1.0, 2.0)], FlowConfig(layers=1, hidden=(8,), base="normal"))

    def model(y):
        theta = numpyro.sample("theta", prior)
        numpyro.sample("y", dist.Normal(theta[0] + theta[1], 0.3), obs=y)

    found = sample_nuts(KEY, ModelDensity(model, 0.9), coordinates="parameters", **{**FEW, "n_samples": 1000})
    draws = np.asarray(prior.sample(jax.random.key(5), (200_000,)), float)
    weights = norm(draws.sum(axis=1), 0.3).pdf(0.9)
    mean = weights @ draws / weights.sum()
    error = found.samples.std(0) / np.sqrt(found.effective_size)
    assert (np.abs(found.mean() - mean) < 4.5 * error).all()


def test_missing_entries_are_drawn_and_observed_ones_do_not_wander():
    """mu from the three values that are there, and the missing one from its predictive distribution."""
    y, seen = np.array([2.0, np.nan, 1.0, 3.0]), np.array([True, False, True, True])

    def half_observed(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", 4):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=seen)

    found = sample_nuts(KEY, ModelDensity(half_observed, y), **FEW)
    assert found.info["converged"]
    assert found.names == ("mu", "y_unobserved[1]")
    for column, deviation in zip(found.samples[::10].T, (0.5, np.sqrt(1.25)), strict=True):
        assert kstest(column, norm(1.5, deviation).cdf).pvalue > 1e-4  # two tests: a false alarm in 5000 seeds


def test_what_did_not_converge_and_what_diverged_says_so():
    """Two modes, which no chain goes between, and a wall, at which a step ends."""

    def model(y):
        x = numpyro.sample("x", dist.Normal(0.0, 10.0))
        v = numpyro.sample("v", dist.Normal(0.0, 1.0))
        numpyro.factor("wall", jnp.where(v < 0.5, 0.0, -1e4))
        numpyro.factor("modes", jnp.logaddexp(-50 * (x - y) ** 2, -50 * (x + y) ** 2))

    with pytest.warns(UserWarning, match="sample_nuts: not converged. R-hat.* steps diverged: raise target_accept_p"):
        found = sample_nuts(KEY, ModelDensity(model, 8.0), n_samples=300, n_warmup=200, progress=False)
    assert not found.info["converged"]
    assert found.info["r_hat"]["x"] > 1.1
    assert found.info["divergences"] > 0


@pytest.mark.filterwarnings("ignore:sample_nuts. not converged")
def test_blocks_of_steps_share_one_program(monkeypatch):
    """NumPyro's MCMC compiles at every run, and takes minutes for a model that it samples in a second."""
    traced = []

    def model(y):
        traced.append(1)
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal()), 1.0), obs=y)

    counts, density = {}, ModelDensity(model, Y)
    for blocks in (2, 10):
        monkeypatch.setattr(nuts, "_BLOCKS", blocks)
        before = len(traced)
        sample_nuts(KEY, density, n_samples=100, n_warmup=100, progress=False)
        counts[blocks] = len(traced) - before
    assert counts[10] <= counts[2]  # the first run compiles the density too


def clock(monkeypatch, looks):
    """Makes time be up after that many looks at it."""
    times = itertools.chain(itertools.repeat(0.0, looks), itertools.repeat(np.inf))
    monkeypatch.setattr(nuts, "time", SimpleNamespace(perf_counter=lambda: next(times)))


@pytest.mark.filterwarnings("ignore:sample_nuts. not converged")
def test_a_time_limit_returns_the_first_draws_of_that_key_quietly(density, chain, capsys, monkeypatch):
    clock(monkeypatch, 10)  # in the warm-up; that is over then, and a tenth of the draws is made in any case
    with pytest.warns(UserWarning, match="stopped by the time limit after 50 draws of each chain"):
        found = sample_nuts(KEY, density, **{**FEW, "max_seconds": 600.0})
    assert found.n == 200
    assert found.info["stopped_by"] == "the time limit"
    assert not found.info["converged"]
    np.testing.assert_array_equal(found.samples.reshape(4, 50, -1), chain.samples.reshape(4, 500, -1)[:, :50])
    assert jnp.result_type(float) == jnp.float32  # the caller's
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("n_samples", "looks", "done"), [(500, 9, 270), (5000, 1, 30)])
def test_time_that_ends_in_the_warm_up_is_an_error(density, monkeypatch, n_samples, looks, done):
    """Its steps are not draws of the posterior. It is looked at ten times at least, however many draws are wanted."""
    clock(monkeypatch, looks)
    words = f"max_seconds: time was up after {done} of 300 steps of the warm-up.*Allow more time, or lower n_warmup"
    with pytest.raises(TimeoutError, match=words):
        sample_nuts(KEY, density, **{**FEW, "n_samples": n_samples, "max_seconds": 600.0})
    with pytest.raises(TimeoutError, match="after 0 of 300 steps"):
        sample_nuts(KEY, density, **{**FEW, "max_seconds": 0.0})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"n_samples": 0}, ValueError),
        ({"n_chains": 1.5}, TypeError),
        ({"max_seconds": -1}, ValueError),
        ({"coordinates": "white"}, ValueError),
    ],
)
def test_bad_settings_are_refused(density, options, error):
    with pytest.raises(error, match=f"sample_nuts: {next(iter(options))}"):
        sample_nuts(KEY, density, **options)


@pytest.mark.filterwarnings("ignore:sample_nuts. not converged")
def test_a_second_run_of_a_density_compiles_nothing(chain, density, compiled):
    other = sample_nuts(jax.random.key(7), density, **FEW)
    compiled()
    again = sample_nuts(KEY, density, **FEW)
    assert compiled() <= 1  # NumPyro's own, where it looks for the first point
    np.testing.assert_array_equal(again.samples, chain.samples)
    assert not np.array_equal(other.samples, chain.samples)


@pytest.mark.filterwarnings("ignore:sample_nuts. not converged")
def test_options_make_programs_of_their_own(density):
    """The second of two runs is that of its own options, whether they can be kept (a number) or not (a list)."""
    for options in ({"max_tree_depth": 1}, {"dense_mass": [("mu",)], "max_tree_depth": 1}):
        sample_nuts(KEY, density, n_samples=50, n_warmup=50, progress=False)
        short = sample_nuts(KEY, density, n_samples=50, n_warmup=50, progress=False, **options)
        assert short.info["calls"] == 4 * (50 + 50)  # one step each, the warm-up's too
