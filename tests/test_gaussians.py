"""Mixtures by expectation maximisation, with which a base begins: are they scikit-learn's, and when are they used?"""

import jax
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from numpyro_flowprior import Chain, FlowConfig, ParameterSpace, TrainConfig, fit_flow
from numpyro_flowprior.chains.effective import INDEPENDENT
from numpyro_flowprior.flows.base import build_base
from numpyro_flowprior.training import defaults
from numpyro_flowprior.training.defaults import Piloted, default_configs
from numpyro_flowprior.training.gaussians import first_weights, fit_gaussians, number_of_gaussians, rows_of
from numpyro_flowprior.training.prepare import prepare
from numpyro_flowprior.training.problem import pose

KEY = jax.random.key(3)


def modes(n, *, seed=0, number=3, dim=6, apart=3.0):
    """Returns draws from a mixture of Gaussians of random covariances."""
    rng = np.random.default_rng(100)
    centres = apart * rng.normal(size=(number, dim))
    turns = 0.5 * rng.normal(size=(number, dim, dim)) + np.eye(dim)
    rng = np.random.default_rng(seed)
    which = rng.integers(number, size=n)
    return centres[which] + np.einsum("nij,nj->ni", turns[which], rng.normal(size=(n, dim)))


def problem_of(x, **fields):
    chain = Chain(x, ParameterSpace([f"p{j}" for j in range(x.shape[1])]), rows="independent", **fields)
    (problem,) = pose(KEY, prepare(chain, "full"), None, 1, TrainConfig(max_steps=10))
    return problem


def test_the_mixture_is_that_of_scikit_learn():
    x = modes(4000)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    ours = fit_gaussians(KEY, x, 3)
    theirs = GaussianMixture(3, n_init=3, random_state=0, reg_covar=1e-4, tol=1e-4).fit(x)
    assert ours.log_prob(x).mean() == pytest.approx(theirs.score(x), abs=2e-3)
    order, other = np.argsort(ours.mean[:, 0]), np.argsort(theirs.means_[:, 0])
    np.testing.assert_allclose(np.exp(ours.log_weights[order]), theirs.weights_[other], atol=2e-3)
    np.testing.assert_allclose(ours.mean[order], theirs.means_[other], atol=1e-2)
    np.testing.assert_allclose((ours.tril @ ours.tril.mT)[order], theirs.covariances_[other], atol=1e-2)


def test_the_base_begins_as_the_mixture():
    problem = problem_of(modes(3000))
    config = FlowConfig(layers=2, hidden=(8,), base="full_mixture", components=3)
    rows = rows_of(problem)
    with jax.enable_x64(True):
        base = build_base(config, problem.dim, first_weights(KEY, config, problem)["base"], np.float64)
        found = np.asarray(base.log_prob(rows))
    np.testing.assert_allclose(found, fit_gaussians(KEY, rows, 3).log_prob(rows), atol=1e-3)


def test_weights_count():
    """Rows that are there twice are rows of twice the weight."""
    x = modes(1500)
    weights = np.where(x[:, 0] > np.median(x[:, 0]), 2.0, 1.0)
    once, twice = problem_of(x, weights=weights), problem_of(np.repeat(x, weights.astype(int), axis=0))
    unweighted = problem_of(x)
    fits = [fit_gaussians(KEY, rows_of(each), 3) for each in (once, twice, unweighted)]

    shares = [np.exp(fit.log_weights[np.argsort(fit.mean[:, 0])[-1]]) for fit in fits]
    assert shares[0] == pytest.approx(shares[1], abs=0.03)
    assert shares[0] > shares[2] + 0.08  # a third of the rows, most of them of twice the weight


@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_number_of_gaussians_is_found(number):
    assert number_of_gaussians(KEY, problem_of(modes(4000, number=number)))[0] == number


def test_rows_that_are_too_few_or_all_alike_give_no_mixture():
    assert fit_gaussians(KEY, np.zeros((50, 3)), 4) is None
    assert fit_gaussians(KEY, np.random.default_rng(0).normal(size=(8, 6)), 3) is None
    assert number_of_gaussians(KEY, problem_of(np.random.default_rng(0).normal(size=(60, 10))))[0] == 1


@pytest.mark.parametrize(
    ("number", "behind", "gain", "tried", "taken"),
    [
        (3, 0.5, 1.0, False, False),  # the mixture alone is far behind the pilot
        (3, 0.05, 0.01, True, False),
        (3, 0.05, 0.4, True, True),
        (1, -9.0, 0.4, False, False),  # one Gaussian is no mixture
    ],
)
def test_a_mixture_is_tried_where_it_is_close_and_taken_where_it_is_better(number, behind, gain, tried, taken):
    chain = Chain(np.random.default_rng(0).normal(size=(5000, 2)), ParameterSpace(["a", "b"]), rows="independent")
    bases = []

    def pilot(config, train):
        bases.append(config.base)
        return Piloted(np.full(400, gain if config.base == "full_mixture" else 0.0), np.zeros(400), INDEPENDENT)

    found = default_configs(chain, pilot, gaussians=lambda: (number, -behind))
    assert ("full_mixture" in bases) == tried
    assert (found.config.base == "full_mixture") == taken
    assert found.config.hidden == defaults.NARROW.hidden
    assert found.train == default_configs(chain, pilot).train


def test_separate_modes_are_learnt_as_well_as_by_a_mixture_of_gaussians():
    x, test = modes(2500, number=4, dim=8, apart=2.0), modes(4000, seed=1, number=4, dim=8, apart=2.0)
    space = ParameterSpace([f"p{j}" for j in range(8)])
    config = FlowConfig(layers=2, hidden=(16,), base="full_mixture", components=4, members=2, background=True)
    train = TrainConfig(batch_size=256, max_steps=200)
    prior = fit_flow(KEY, Chain(x, space, rows="independent"), config, train, progress=False).prior
    gain = np.asarray(prior.log_prob(test)) - GaussianMixture(4, n_init=3, random_state=0).fit(x).score_samples(test)
    assert gain.mean() > -0.04 - 3.0 * gain.std() / np.sqrt(len(gain))  # each member sees half of the rows
