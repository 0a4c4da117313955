"""Draws weighted to a density between others: exact means, evidences and errors, and shares of modes."""

from __future__ import annotations

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from numpyro_flowprior import FlowConfig, ModelDensity, ParameterSpace, TrainConfig
from numpyro_flowprior.chains.effective import kish
from numpyro_flowprior.priors.named import NamedPrior
from numpyro_flowprior.sampling import weighted_draws as module
from numpyro_flowprior.sampling.weighted_draws import near_draws, weighted_draws

PLANE = ParameterSpace(["x", "y"])
LINE = ParameterSpace(["x"])
SHIFT, CONSTANT = 3.0, -7.25


def normal_at(x):
    return NamedPrior({"x": dist.Normal(x, 1.0), "y": dist.Normal(0.0, 1.0)}, PLANE, "test")


def between(theta):
    """A normal density of variance one half between two of variance one, times a constant."""
    return CONSTANT + multivariate_normal([SHIFT / 2, 0.0], 0.5 * np.eye(2)).logpdf(theta)


def test_means_and_evidences_are_exact_and_their_errors_right():
    pulls = []
    for seed in range(60):
        chain = weighted_draws(
            jax.random.key(seed), [normal_at(0.0), normal_at(SHIFT)], between, PLANE, draws=500, progress=False
        )
        assert chain.effective_size == pytest.approx(500, rel=0.2)
        np.testing.assert_allclose(chain.log_prob, between(chain.samples))
        mean, error = chain.mean_and_error(chain.samples)
        pulls.append([*(mean - [SHIFT / 2, 0.0]) / error, (chain.log_evidence - CONSTANT) / chain.log_evidence_error])
    assert (np.abs(np.std(pulls, axis=0) - 1) < 0.35).all(), np.std(pulls, axis=0)
    assert (np.abs(np.mean(pulls, axis=0)) < 0.5).all(), np.mean(pulls, axis=0)


MODES = np.array([-4.0, 4.0])


def log_modes(shares, x):
    return logsumexp(
        [np.log(share) + norm(at, 0.5).logpdf(x[:, 0]) for share, at in zip(shares, MODES, strict=True)], 0
    )


def modes_of(shares):
    parts = dist.Normal(MODES, 0.5)
    return NamedPrior({"x": dist.MixtureSameFamily(dist.Categorical(np.array(shares)), parts)}, LINE, "test")


def product(x):
    return log_modes((0.995, 0.005), x) + log_modes((0.01, 0.99), x)


def shares_of(chain):
    first = chain.samples[:, 0] < 0
    share, error = chain.mean_and_error(first[:, None].astype(float))
    return share[0], error[0]


EXACT = 0.995 * 0.01 / (0.995 * 0.01 + 0.005 * 0.99)


def test_modes_that_each_of_the_densities_nearly_lacks_have_the_right_shares():
    proposals = [modes_of((0.995, 0.005)), modes_of((0.01, 0.99))]
    pulls = []
    for seed in range(20):
        chain = weighted_draws(jax.random.key(seed), proposals, product, LINE, draws=400, progress=False)
        share, error = shares_of(chain)
        pulls.append((share - EXACT) / error)
    assert 0.6 < np.std(pulls) < 1.5
    assert abs(np.mean(pulls)) < 0.8


def test_a_flow_of_particles_is_the_next_proposal(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 12_000)
    monkeypatch.setattr(module, "_BLOCK", 1024)
    proposals = [normal_at(0.0), normal_at(7.0)]

    def far(theta):
        return CONSTANT + multivariate_normal([3.5, 0.0], 0.5 * np.eye(2)).logpdf(theta)

    assert weighted_draws(jax.random.key(0), proposals, far, PLANE, draws=1000, progress=False) is None

    def model():
        x, y = (numpyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("x", "y"))
        log_prior = dist.Normal(0.0, 1.0).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(y)
        numpyro.factor("ratio", CONSTANT - np.log(np.pi) - (x - 3.5) ** 2 - y**2 - log_prior)

    chain = near_draws(
        jax.random.key(1),
        proposals,
        far,
        lambda: ModelDensity(model),
        draws=1000,
        config=FlowConfig(layers=1, hidden=(8,), base="normal"),
        train=TrainConfig(loss="log_variance", max_steps=400),
        progress=False,
    )
    assert chain.info["sampler"] == "importance sampling"
    mean, error = chain.mean_and_error(chain.samples)
    assert (np.abs(mean - [3.5, 0.0]) < 5 * error).all()
    assert abs(chain.log_evidence - CONSTANT) < 5 * chain.log_evidence_error
    assert chain.log_evidence_error < 0.05


def test_a_density_that_is_zero_at_all_draws_gives_none():
    def nothing(theta):
        return np.full(len(theta), -np.inf)

    assert weighted_draws(jax.random.key(0), [normal_at(0.0)], nothing, PLANE, draws=100, progress=False) is None


@pytest.mark.parametrize("effective", [10, 60])
def test_thinning_keeps_expectations(effective):
    log_w = np.random.default_rng(0).normal(size=3000) * 1.5 + 800.0
    values = np.random.default_rng(1).normal(size=3000) + log_w
    w = np.exp(log_w - logsumexp(log_w))
    assert kish(w) > effective
    found, sizes = [], []
    for seed in range(400):
        rows, weights = module._thinned(np.random.default_rng(seed), log_w, effective)
        found.append([weights.sum(), weights @ values[rows]])
        sizes.append(kish(weights / weights.sum()))
    exact, error = np.array([1.0, w @ values]), np.std(found, axis=0) / 20
    assert (np.abs(np.mean(found, axis=0) - exact) < 4 * error).all()
    assert abs(np.mean(sizes) / effective - 1.0) < 0.15
    rows, weights = module._thinned(np.random.default_rng(0), log_w, 3000)
    assert len(rows) == 3000


def test_draws_where_all_densities_are_zero_do_no_harm():
    def log_density(theta):
        return np.where(theta[:, 0] > 1e-300, norm(1.0, 0.5).logpdf(theta[:, 0]), -np.inf)

    gamma = NamedPrior(
        {"x": dist.Gamma(0.01, 0.01)}, ParameterSpace(["x"], 0.0), "test"
    )  # many draws underflow to zero
    broad = NamedPrior({"x": dist.HalfNormal(2.0)}, ParameterSpace(["x"], 0.0), "test")
    chain = weighted_draws(
        jax.random.key(0), [gamma, broad], log_density, ParameterSpace(["x"], 0.0), draws=500, progress=False
    )
    assert abs(chain.log_evidence - norm(1.0, 0.5).logsf(0.0)) < 5 * chain.log_evidence_error


def test_particles_are_the_last_resort(monkeypatch):
    monkeypatch.setattr(module, "weighted_draws", lambda *args, **kwargs: None)

    def model():
        x, y = (numpyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("x", "y"))
        numpyro.factor("ratio", CONSTANT - 0.5 * (x - 1.0) ** 2 - 0.0 * y)

    def log_density(theta):
        return norm(0.0, 1.0).logpdf(theta).sum(axis=1) + CONSTANT - 0.5 * (theta[:, 0] - 1.0) ** 2

    small = {"config": FlowConfig(layers=1, hidden=(8,), base="normal"), "train": TrainConfig(max_steps=50)}
    options = {"draws": 500, "progress": False, **small}
    chain = near_draws(jax.random.key(0), [normal_at(0.0)], log_density, lambda: ModelDensity(model), **options)
    assert chain.info["sampler"] != module.IMPORTANCE
    np.testing.assert_allclose(chain.log_prob, log_density(chain.samples))
