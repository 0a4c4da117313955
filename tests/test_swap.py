"""swap_prior: closed forms, and a mode that weighted rows miss."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal, norm

from numpyro_flowprior import Chain, FlowConfig, ParameterSpace, TrainConfig, UniformPrior, fit_flow, swap_prior

KEY = jax.random.key(0)
PLANE = ParameterSpace(["x", "y"])
SMALL = {"config": FlowConfig(layers=1, hidden=(8,), base="normal"), "train": TrainConfig(max_steps=400)}
MEASURED = np.array([1.0, -0.5])  # with unit errors


def posterior(seed, old_variance, n=8000, **fields):
    """A normal posterior for two measurements under a normal prior: its rows."""
    variance = old_variance / (1 + old_variance)
    rows = variance * MEASURED + np.sqrt(variance) * np.random.default_rng(seed).normal(size=(n, 2))
    return Chain(rows, PLANE, **fields)


def normal(variance):
    return dist.Normal(0.0, float(np.sqrt(variance))).expand([2]).to_event(1)


def log_evidence(variance):
    return norm(0.0, np.sqrt(1 + variance)).logpdf(MEASURED).sum()


@pytest.mark.parametrize(
    ("new_variance", "method"), [(6.0, "reweight"), (0.25, "reweight"), (0.01, "learned likelihood")]
)
def test_the_new_posterior_is_exact(new_variance, method):
    chain = posterior(0, 9.0, log_evidence=log_evidence(9.0), log_evidence_error=0.0)
    if method != "reweight":
        chain = chain.take(slice(0, 4000))
    expected = nullcontext() if method == "reweight" else pytest.warns(UserWarning, match="a Pareto k of")
    with expected:
        found = swap_prior(KEY, chain, normal(9.0), normal(new_variance), **SMALL, progress=False)
    assert found.info["swap_prior"]["method"] == method, found.info["swap_prior"]
    variance = new_variance / (1 + new_variance)
    size = min(found.effective_size, found.info["swap_prior"]["effective_rows"])
    assert (np.abs(found.mean() - variance * MEASURED) / np.sqrt(variance) < 5 / np.sqrt(size)).all()
    assert (np.abs(np.sqrt(np.diag(found.covariance()) / variance) - 1) < 5 / np.sqrt(2 * size)).all()
    assert abs(found.log_evidence - log_evidence(new_variance)) < 5 * found.log_evidence_error + 0.1


def test_the_pulls_of_reweighted_means_and_evidences_are_right():
    pulls = []
    for seed in range(100):
        chain = posterior(seed, 9.0, 2000, log_evidence=log_evidence(9.0), log_evidence_error=0.0)
        found = swap_prior(KEY, chain, normal(9.0), normal(4.0), method="reweight")
        mean, error = found.mean_and_error(found.samples[:, 0])
        pulls.append(
            [(mean - 0.8 * MEASURED[0]) / error, (found.log_evidence - log_evidence(4.0)) / found.log_evidence_error]
        )
    assert (np.abs(np.std(pulls, axis=0) - 1) < 0.3).all()
    assert (np.abs(np.mean(pulls, axis=0)) < 0.4).all()


def test_weights_keep_the_log_densities():
    chain = posterior(0, 9.0)
    log_prior, log_likelihood = (
        multivariate_normal(np.zeros(2), 9.0 * np.eye(2)).logpdf(chain.samples),
        np.zeros(chain.n),
    )
    chain = chain.replace(log_prior=log_prior, log_likelihood=log_likelihood, log_prob=log_prior + log_likelihood)
    found = swap_prior(KEY, chain, normal(9.0), normal(6.0), progress=False)
    exact = multivariate_normal(np.zeros(2), 6.0 * np.eye(2)).logpdf(found.samples)
    np.testing.assert_allclose(found.log_prior, exact, atol=1e-5)
    np.testing.assert_allclose(found.log_prob, exact, atol=1e-5)


def two_modes(seed, n, share):
    """A flat prior on (-10, 10), and modes at -4 and 5 with the given share of the second."""
    rng = np.random.default_rng(seed)
    second = rng.uniform(size=n) < share
    return Chain(
        np.where(second, 5.0, -4.0)[:, None] + 0.5 * rng.normal(size=(n, 1)), ParameterSpace(["x"], -10.0, 10.0)
    )


def test_a_mode_with_too_few_rows_is_noticed():
    """The new prior lifts a mode that holds 0.1 % of the old posterior to a half."""
    chain = two_modes(0, 4000, 0.0006)
    box, new = UniformPrior(chain.space), {"x": dist.Normal(5.0, 2.0)}
    with pytest.warns(UserWarning, match="effective rows of the chain carry the new posterior"):
        found = swap_prior(KEY, chain, box, new, config=FlowConfig(layers=1, hidden=(8,), members=1), progress=False)
    assert found.info["swap_prior"]["method"] == "learned likelihood"


@pytest.mark.slow  # the default fit
def test_the_log_density_of_few_rows_gives_a_mode_its_share():
    """Six of 2,000 rows are in the mode that the new prior lifts. Their weights are noise; their log density is not."""
    rng, share = np.random.default_rng(1), 0.003
    space = ParameterSpace(["x"], -10.0, 10.0)
    rows = np.where(rng.uniform(size=2000) < share, rng.normal(5.0, 0.7, 2000), rng.normal(-4.0, 1.0, 2000))
    grid = np.linspace(-10.0, 10.0, 20_001)

    def log_density(x):
        return np.logaddexp(np.log(1 - share) + norm(-4.0, 1.0).logpdf(x), np.log(share) + norm(5.0, 0.7).logpdf(x))

    new = norm(6.0, 4.0)
    exact = np.exp(log_density(grid)) * new.pdf(grid)
    exact = exact[grid > 0].sum() / exact.sum()
    chain = Chain(rows[:, None], space, log_prob=log_density(rows))
    assert 0.05 < exact < 0.5
    cut = {"x": dist.TruncatedNormal(6.0, 4.0, low=-10.0, high=10.0)}
    found = swap_prior(KEY, chain, UniformPrior(space), cut, method="learned likelihood", progress=False)
    assert found.probabilities @ (found.samples[:, 0] > 0) == pytest.approx(exact, rel=0.2)


def test_a_learned_prior_with_a_curved_edge_does_not_let_the_posterior_out(monkeypatch):
    """Two flows that end at one edge in tails of their own: beyond it, their ratio is arbitrary."""
    rng = np.random.default_rng(0)
    box = rng.uniform(-1.0, 1.0, (60_000, 2))
    draws = box[(box**2).sum(1) < 1.0]
    likelihood = multivariate_normal([0.8, 0.5], 0.09 * np.eye(2))
    rows = draws[rng.uniform(size=len(draws)) < likelihood.pdf(draws) / likelihood.pdf([0.8, 0.5])][:4000]
    train = {"config": FlowConfig(layers=2, hidden=(16,), base="normal"), "train": TrainConfig(max_steps=3000)}
    old = fit_flow(KEY, Chain(draws[:20_000], PLANE), **train, progress=False).prior
    new = {"x": dist.Normal(-0.2, 0.2), "y": dist.Normal(1.0, 0.2)}  # half of it is outside of the disk
    options = {"method": "learned likelihood", **train, "progress": False}
    told = "new prior lies where the old one, which is learned|effective rows of the chain"
    with pytest.warns(UserWarning, match=told):
        found = swap_prior(KEY, Chain(rows, PLANE), old, new, **options)
    weights = likelihood.pdf(draws) * multivariate_normal([-0.2, 1.0], 0.04 * np.eye(2)).pdf(draws)
    mean = weights @ draws / weights.sum()
    deviation = np.sqrt(weights @ (draws - mean) ** 2 / weights.sum())
    leaked = found.probabilities @ ((found.samples**2).sum(1) > 1.0)
    monkeypatch.setattr("numpyro_flowprior.priors.named._level", lambda *args: -np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = swap_prior(KEY, Chain(rows, PLANE), old, new, **options)
    without = plain.probabilities @ ((plain.samples**2).sum(1) > 1.0)
    assert leaked < 0.15
    assert without > 2 * leaked  # 8 % instead of 61 %
    assert (np.abs(found.mean() - mean) / deviation < 0.5).all()


def test_a_prior_that_is_zero_where_the_chain_is_and_one_that_reaches_beyond_are_told():
    chain = posterior(0, 9.0)
    narrow = UniformPrior(ParameterSpace(["x", "y"], -1.0, 1.0))
    with pytest.raises(ValueError, match=r"swap_prior: old: expected the prior .* zero at \d+ of 8000 rows"):
        swap_prior(KEY, chain, narrow, normal(1.0))
    with pytest.raises(ValueError, match="expected one of"):
        swap_prior(KEY, chain, normal(9.0), normal(1.0), method="magic")
    boxed = two_modes(0, 4000, 0.5)
    wide = {"x": dist.Normal(0.0, 30.0)}
    with pytest.warns(UserWarning, match="% of the new prior lies where the old one is zero"):
        found = swap_prior(KEY, boxed, UniformPrior(boxed.space), wide, progress=False)
    assert found.info["swap_prior"]["method"] == "reweight"
    far = UniformPrior(ParameterSpace(["x", "y"], 50.0, 51.0))
    with pytest.raises(ValueError, match="above zero at some rows"):
        swap_prior(KEY, chain, normal(9.0), far, method="reweight")


def test_a_posterior_in_another_order_is_matched_by_name():
    """A very different pair of parameters, and a new prior that tells them apart."""
    chain = Chain(np.random.default_rng(0).normal([0.0, 3.0], [1.0, 0.2], size=(4000, 2)), PLANE)
    turned = fit_flow(KEY, chain.select(["y", "x"]), **SMALL, progress=False).prior
    assert turned.names == ("y", "x")
    old = dist.Normal(np.array([0.0, 3.0]), np.array([30.0, 30.0])).to_event(1)
    new = dist.Normal(np.array([1.0, 3.0]), np.array([0.5, 30.0])).to_event(1)
    found = swap_prior(KEY, chain, old, new, method="learned likelihood", posterior=turned, progress=False)
    assert found.names == ("x", "y")
    np.testing.assert_allclose(found.mean(), [0.8, 3.0], atol=0.06)
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance())), [np.sqrt(0.2), 0.2], rtol=0.08)
    three = Chain(np.random.default_rng(1).normal(size=(900, 3)), ParameterSpace(["x", "y", "p"]))
    further = fit_flow(KEY, three, **SMALL, progress=False).prior
    with pytest.raises(ValueError, match="also has 'p'"):
        swap_prior(KEY, chain, old, new, method="learned likelihood", posterior=further, progress=False)


def test_a_learned_posterior_that_leaks_beyond_its_prior_is_cut():
    rows = np.abs(np.random.default_rng(0).normal(size=(4000, 2)))  # read without its bound
    chain = Chain(rows, PLANE)
    half = {name: dist.HalfNormal(30.0) for name in ("x", "y")}
    wide = {name: dist.Normal(1.0, 0.4) for name in ("x", "y")}
    with pytest.warns(UserWarning, match="prior is zero at|new prior lies where"):
        found = swap_prior(KEY, chain, half, wide, method="learned likelihood", **SMALL, progress=False)
    assert (found.samples > 0).all()
    assert np.isfinite(found.log_prob).all()


def test_rows_with_reliable_weights_are_the_result_where_nothing_teaches_the_flow(monkeypatch):
    """A flow that is far off, without log densities: the rows win, and a warning says so. With them, the flow does."""
    chain = posterior(0, 9.0)
    wrong = fit_flow(KEY, posterior(1, 2.0), **SMALL, progress=False).prior
    options = {"posterior": wrong, "progress": False}
    monkeypatch.setattr("numpyro_flowprior.stages.swap._is_mild", lambda *args: False)
    with pytest.warns(UserWarning, match="weighted rows and learned likelihood disagree: the weighted rows give"):
        found = swap_prior(KEY, chain, normal(9.0), normal(1.0), **options)
    assert found.info["swap_prior"]["method"] == "reweight"
    np.testing.assert_allclose(found.mean(), MEASURED / 2, atol=0.05)
    known = chain.replace(log_prob=multivariate_normal(0.9 * MEASURED, 0.9 * np.eye(2)).logpdf(chain.samples))
    with pytest.warns(UserWarning, match="The rows are the result, because the flow was not taught"):
        found = swap_prior(KEY, known, normal(9.0), normal(1.0), **options)  # by others: the flow has not seen it
    assert found.info["swap_prior"]["method"] == "reweight"
    monkeypatch.setattr("numpyro_flowprior.stages.swap._is_taught", lambda posterior: True)
    with pytest.warns(UserWarning, match="The draws of the learned likelihood are the result"):
        found = swap_prior(KEY, known, normal(9.0), normal(1.0), **options)
    assert found.info["swap_prior"]["method"] == "learned likelihood"


@pytest.mark.parametrize(("place", "width"), [(0.0, 1.3), (2.5, 0.4), (-2.5, 0.3)])
def test_a_learned_prior_without_edges_divides_as_its_formula_does(place, width):
    """A flow without layers is a normal density; its tails are exact, and rows there must not be mistrusted."""
    rows = np.random.default_rng(0).normal(size=(20_000, 1))
    space = ParameterSpace(["x"])
    affine = {"config": FlowConfig(layers=0, base="normal"), "train": TrainConfig(max_steps=1)}
    learned = fit_flow(KEY, Chain(rows[:2000], space), **affine, progress=False).prior
    center, edge = (float(learned.from_latent(np.array([z]))[0]) for z in (0.0, 1.0))
    new = {"x": dist.Normal(center + place * (edge - center), width * (edge - center))}
    chain = Chain(rows, space, rows="independent")
    formula = {"x": dist.Normal(center, edge - center)}
    found, exact = (swap_prior(KEY, chain, old, new, method="reweight", progress=False) for old in (learned, formula))
    np.testing.assert_allclose(found.mean(), exact.mean(), atol=1e-4)
    np.testing.assert_allclose(found.info["psis"]["pareto_k"], exact.info["psis"]["pareto_k"], atol=1e-3)
    flow = {"method": "learned likelihood", "posterior": learned, "progress": False}
    drawn = swap_prior(KEY, chain, learned, new, **flow)  # posterior and old prior are the same: the new prior
    size = drawn.effective_size
    assert abs(drawn.mean()[0] - center - place * (edge - center)) < 5 * width * (edge - center) / np.sqrt(size) + 0.01
