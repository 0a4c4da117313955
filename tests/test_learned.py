"""LearnedLikelihood and reweight, against Gaussian closed forms and quadrature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal, norm
from toys import make_prior

import numpyro_flowprior as fp
from numpyro_flowprior import Chain, FlowConfig, LearnedLikelihood, ModelDensity, ParameterSpace, UniformPrior

INF = np.inf
PLANE = ParameterSpace(["a", "b"])
BOX = ParameterSpace(["a", "b"], -1.0, 2.0)


def learned(names=("p0", "p1")):
    return make_prior([(-INF, INF)] * len(names), FlowConfig(layers=1, hidden=(8,), members=2))


PRIORS = {
    "vector": (dist.Normal(np.array([0.1, -0.2]), np.array([2.0, 3.0])).to_event(1), norm([0.1, -0.2], [2.0, 3.0])),
    "dictionary": (
        {"p1": dist.Normal(-0.2, 3.0), "other": dist.Normal(0.0, 1.0), "p0": dist.Normal(0.1, 2.0)},
        norm([0.1, -0.2], [2.0, 3.0]),
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_the_likelihood_is_posterior_over_prior(name):
    given, exact = PRIORS[name]
    posterior = learned()
    likelihood = LearnedLikelihood(posterior, given, log_evidence=-3.0)
    with jax.enable_x64(True):
        theta = np.asarray(posterior.sample(jax.random.key(1), (200,)))
        expected = np.asarray(posterior.log_prob(theta)) - exact.logpdf(theta).sum(axis=1) - 3.0
        np.testing.assert_allclose(likelihood.log_likelihood(theta), expected, rtol=1e-10, atol=1e-10)


def test_a_prior_of_ours_is_matched_by_name_and_may_have_more_parameters_if_it_is_a_box():
    posterior = make_prior([(-1.0, 2.0), (0.0, 5.0)], FlowConfig(layers=1, hidden=(8,)))
    wide = UniformPrior(ParameterSpace(["p1", "c", "p0"], [-1.0, 0.0, -2.0], [6.0, 1.0, 3.0]))
    likelihood = LearnedLikelihood(posterior, wide)
    theta = posterior.sample(jax.random.key(0), (50,))
    np.testing.assert_allclose(likelihood.log_likelihood(theta), posterior.log_prob(theta) + np.log(7 * 5), rtol=1e-5)
    permuted = make_prior([(0.0, 5.0), (-1.0, 2.0)], FlowConfig(layers=1, hidden=(8,)), seed=3)
    renamed = fp.FlowPrior(permuted.config, ParameterSpace(["p1", "p0"], [0.0, -1.0], [5.0, 2.0]), permuted.params)
    found = LearnedLikelihood(posterior, renamed)
    expected = posterior.log_prob(theta) - renamed.log_prob(theta[:, ::-1])
    np.testing.assert_allclose(found.log_likelihood(theta), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        found.prior.sample(jax.random.key(2), (9,))[:, ::-1], renamed.sample(jax.random.key(2), (9,))
    )


def test_it_is_zero_where_the_prior_is_and_its_gradient_is_finite():
    posterior = learned()
    inside = {"p0": dist.Uniform(-20.0, 20.0), "p1": dist.HalfNormal(50.0)}
    with pytest.warns(UserWarning, match=r"the prior is zero at \d+ % of the draws of the posterior"):
        likelihood = LearnedLikelihood(posterior, inside)
    theta = jnp.array([[0.1, 0.2], [0.1, -0.2], [30.0, 0.2]])
    assert np.isfinite(likelihood.log_likelihood(theta)).tolist() == [True, False, False]
    for point in theta:
        assert np.isfinite(jax.grad(lambda x: jnp.where(x[1] > 0, likelihood.log_likelihood(x), 0.0))(point)).all()


def test_a_model_with_a_learned_likelihood_has_the_posterior_of_both():
    """Two normal posteriors under a normal prior: the joint is known."""
    config = FlowConfig(base="normal", layers=0)
    first = make_prior([(-INF, INF)] * 2, config, seed=1)
    mean, tril = np.asarray(first.params["whitening"]["loc"]), np.asarray(first.params["whitening"]["tril"])
    with jax.enable_x64(True):
        draws = np.asarray(first.sample(jax.random.key(0), (400_000,)))
    assert np.abs(draws.mean(axis=0) - mean).max() < 0.3 + np.abs(tril).max()  # a shift and a scale follow it
    covariance, centre = np.cov(draws.T), draws.mean(axis=0)
    likelihood = LearnedLikelihood(first, dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    y = np.array([0.4, -0.3])

    def model():
        theta = {name: numpyro.sample(name, dist.Normal(0.0, 5.0)) for name in ("p1", "p0")}
        likelihood.factor("first", theta)
        numpyro.sample("y", dist.Normal(jnp.stack([theta["p0"], theta["p1"]]), 0.5).to_event(1), obs=y)

    density = ModelDensity(model)
    points = centre + 0.3 * np.random.default_rng(0).normal(size=(50, 2))
    columns = [density.names.index(name) for name in ("p0", "p1")]
    found = density.log_posterior(points[:, np.argsort(columns)])
    exact = multivariate_normal(centre, covariance).logpdf(points) + norm(y, 0.5).logpdf(points).sum(axis=1)
    assert np.abs(found - exact).max() < 0.02  # centre and covariance are those of draws


@pytest.mark.parametrize(
    ("posterior", "prior", "error", "match"),
    [
        (object(), UniformPrior(BOX), TypeError, "expected a FlowPrior or another density"),
        (learned(), UniformPrior(BOX), ValueError, "got none for 'p0', 'p1'"),
        (learned(), dist.Normal(0.0, 1.0), ValueError, r"expected event shape \(2,\)"),
        (learned(), {"p0": dist.Normal(0.0, 1.0)}, ValueError, "got none for 'p1'"),
        (
            learned(),
            {"p0": 1.0, "p1": 2.0},
            TypeError,
            "'p0': expected a NumPyro distribution of one number; got float",
        ),
        (learned(), {"p0": dist.Normal(jnp.zeros(2), 1.0), "p1": dist.Normal()}, ValueError, "'p0'.*of one number"),
        (learned(), "flat", TypeError, "expected a distribution of named parameters"),
        (learned(("p0",)), learned(), ValueError, "also has 'p1'.*marginal is not known"),
        (learned(), {"p0": dist.Uniform(900.0, 901.0), "p1": dist.Normal()}, ValueError, "zero at all 2000 draws"),
    ],
)
def test_what_does_not_fit_is_refused(posterior, prior, error, match):
    with pytest.raises(error, match=match):
        LearnedLikelihood(posterior, prior)


def test_a_model_without_all_parameters_is_refused():
    likelihood = LearnedLikelihood(learned(), PRIORS["vector"][0])
    with pytest.raises(ValueError, match="expected values for 'p0', 'p1'; got none for 'p1'"):
        likelihood.factor("x", {"p0": 1.0})
    with pytest.raises(ValueError, match="expected a last axis of 2 values"):
        likelihood.factor("x", jnp.zeros(3))


def gaussian_chain(seed=0, n=20_000):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 2))
    return Chain(rows, PLANE, log_prob=norm.logpdf(rows).sum(axis=1), log_evidence=1.5, log_evidence_error=0.1)


def test_reweight_gives_the_new_density_and_evidence():
    """Times a normal likelihood: closed form; the pulls of mean and evidence over 100 seeds have unit width."""
    pulls = []
    for seed in range(100):
        chain = gaussian_chain(seed, 4000)
        new = fp.reweight(chain, norm.logpdf(chain.samples[:, 0], 0.5, 1.0))
        mean, error = new.mean_and_error(new.samples[:, 0])
        change, change_error = (new.info["psis"][name] for name in ("log_evidence_change", "log_evidence_change_error"))
        pulls.append([(mean - 0.25) / error, (change - norm.logpdf(0.5, 0.0, np.sqrt(2.0))) / change_error])
    assert (np.abs(np.std(pulls, axis=0) - 1) < 4 / np.sqrt(200)).all()
    assert (np.abs(np.mean(pulls, axis=0)) < 0.4).all()
    assert new.log_evidence == pytest.approx(1.5 + change)
    np.testing.assert_allclose(new.log_prob, norm.logpdf(new.samples).sum(axis=1) + norm.logpdf(new.samples[:, 0], 0.5))
    assert new.log_prior is None


def test_reweight_says_when_it_cannot():
    chain = gaussian_chain()
    with pytest.warns(UserWarning, match="reweight: Pareto k is .*Sample it"):
        fp.reweight(chain, norm.logpdf(chain.samples[:, 0], 6.0, 0.05))
    for wrong, match in ((np.nan, "got NaN or .inf at 20000"), (-np.inf, "zero at all of them")):
        with pytest.raises(ValueError, match=f"reweight: log_weights: .*{match}"):
            fp.reweight(chain, np.full(chain.n, wrong))
    with pytest.raises(ValueError, match="shape"):
        fp.reweight(chain, np.zeros(3))
    cut = fp.reweight(chain, np.where(chain.samples[:, 0] > 0, 0.0, -np.inf))
    assert (cut.samples[:, 0] > 0).all()
    assert cut.info["psis"]["log_evidence_change"] == pytest.approx(np.log(0.5), abs=0.03)
