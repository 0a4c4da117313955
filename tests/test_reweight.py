"""Reweighting to the exact prior: closed forms, ArviZ's smoothing, and when it can't be trusted."""

import arviz
import numpy as np
import pytest
from scipy.stats import norm
from toys import autoregression

from numpyro_flowprior import Chain, ParameterSpace, psis_reweight
from numpyro_flowprior.diagnostics.importance import pareto_smoothed

SPACE = ParameterSpace(["x"])
N = 20_000


def posterior(mean, deviation, *, evidence=True, n=N, seed=0):
    """Exact draws and evidence of a normal prior times Normal(1.0 | x, 0.5)."""
    precision = 1 / deviation**2 + 4
    centre = (mean / deviation**2 + 4) / precision
    x = np.random.default_rng(seed).normal(centre, precision**-0.5, n)
    parts = {"log_prior": norm(mean, deviation).logpdf(x), "log_likelihood": norm(x, 0.5).logpdf(1.0)}
    log_evidence = norm(mean, np.hypot(deviation, 0.5)).logpdf(1.0) if evidence else None
    extra = {"log_evidence": log_evidence, "log_evidence_error": 0.01} if evidence else {}
    return Chain(x[:, None], SPACE, log_prob=sum(parts.values()), **parts, **extra)


def exact_prior(theta):
    return norm(0.3, 0.8).logpdf(theta[:, 0])


def test_moments_and_evidence_become_those_of_the_exact_prior():
    moved = psis_reweight(posterior(0.0, 1.0), exact_prior)
    expected = posterior(0.3, 0.8, n=10)
    precision = 1 / 0.64 + 4
    error = 5 / np.sqrt(moved.info["psis"]["effective_size"])  # five standard errors
    assert moved.mean()[0] == pytest.approx((0.3 / 0.64 + 4) / precision, abs=error * precision**-0.5)
    assert moved.covariance()[0, 0] == pytest.approx(1 / precision, rel=error * np.sqrt(2))
    record = moved.info["psis"]
    assert moved.log_evidence == pytest.approx(expected.log_evidence, abs=5 * record["log_evidence_change_error"])
    assert moved.log_evidence_error == pytest.approx(np.hypot(0.01, record["log_evidence_change_error"]))
    assert record["pareto_k"] < 0.5
    np.testing.assert_allclose(moved.log_prior, exact_prior(moved.samples))
    np.testing.assert_allclose(moved.log_prob, moved.log_prior + moved.log_likelihood)


def test_its_error_is_that_of_repetitions():
    changes = [psis_reweight(posterior(0.0, 1.0, n=2000, seed=s), exact_prior).info["psis"] for s in range(200)]
    found = np.std([one["log_evidence_change"] for one in changes])
    stated = np.mean([one["log_evidence_change_error"] for one in changes])
    assert stated == pytest.approx(found, rel=0.25)  # of 200: standard error 5 %; to first order in the weights


def draws_of_kind(kind: str, seed: int) -> Chain:
    """Returns draws of the standard normal learned prior itself, with weights or autocorrelated."""
    rng = np.random.default_rng(seed)
    if kind == "weighted":
        x, weights = 1.5 * rng.normal(size=2000), None
        weights = np.exp(norm(0.0, 1.0).logpdf(x) - norm(0.0, 1.5).logpdf(x))
    else:
        x, weights = autoregression(4000, 0.9, 1, seed)[:, 0], None
    return Chain(x[:, None], SPACE, weights=weights, log_prior=norm.logpdf(x), log_evidence=0.0)


@pytest.mark.parametrize("kind", ["weighted", "autocorrelated"])
def test_the_error_of_the_evidence_is_that_of_repetitions_for_weights_and_sequences_too(kind):
    """150 repetitions: their scatter is known to 6 %. Where nothing changes the error is zero, whatever the weights."""
    changes = [psis_reweight(draws_of_kind(kind, seed), exact_prior).info["psis"] for seed in range(150)]
    found = np.std([one["log_evidence_change"] for one in changes])
    stated = np.mean([one["log_evidence_change_error"] for one in changes])
    assert stated == pytest.approx(found, rel=0.3)
    same = psis_reweight(draws_of_kind(kind, 0), lambda theta: norm.logpdf(theta[:, 0])).info["psis"]
    assert same["log_evidence_change"] == pytest.approx(0.0, abs=1e-12)
    assert same["log_evidence_change_error"] < 1e-12


def test_weights_of_the_chain_count():
    """Draws of another density, weighted to the learned posterior, then to the exact one."""
    chain = posterior(0.0, 1.0)
    x = np.random.default_rng(5).normal(0.8, 0.8, N)
    target = norm(chain.mean()[0], np.sqrt(chain.covariance()[0, 0]))
    weights = np.exp(target.logpdf(x) - norm(0.8, 0.8).logpdf(x))
    parts = {"log_prior": norm(0, 1).logpdf(x), "log_likelihood": norm(x, 0.5).logpdf(1.0)}
    moved = psis_reweight(Chain(x[:, None], SPACE, weights=weights, **parts), exact_prior)
    precision = 1 / 0.64 + 4
    error = 5 / np.sqrt(moved.info["psis"]["effective_size"]) + 0.01
    assert moved.mean()[0] == pytest.approx((0.3 / 0.64 + 4) / precision, abs=error * precision**-0.5)
    assert moved.log_evidence is None


@pytest.mark.parametrize("shape", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("n", [200, 4900])  # of 5,000 versions of ArviZ disagree: 212 rows or 213 in the tail
def test_smoothing_is_arvizs(shape, n):
    raw = np.log(np.random.default_rng(1).pareto(1 / shape, n) + 1)
    if arviz.__version__.startswith("0."):
        expected, k = arviz.psislw(raw.copy())
    else:
        from arviz_stats.base import array_stats

        expected, k = array_stats.psislw(-raw)  # of log likelihoods that are left out
    found, ours = pareto_smoothed(raw)
    np.testing.assert_allclose(ours, float(k), rtol=1e-6)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_equal_and_few_weights_are_left_alone():
    found, k = pareto_smoothed(np.zeros(1000))
    np.testing.assert_allclose(found, -np.log(1000))
    assert k == -np.inf
    assert pareto_smoothed(np.arange(8.0))[1] == np.inf
    few = np.full(1000, -1e4)  # of all draws only three count
    few[:3] = 0.0
    assert pareto_smoothed(few)[1] == np.inf


def test_priors_too_far_apart_say_so():
    with pytest.warns(UserWarning, match=r"Pareto k is .*, above 0.7. The learned prior is too far"):
        psis_reweight(posterior(0.0, 0.3), lambda theta: norm(4.0, 0.3).logpdf(theta[:, 0]))


def test_draws_that_the_exact_prior_excludes_are_left_out():
    def upper_half(theta):
        return np.where(theta[:, 0] > 0.8, norm(0, 1).logpdf(theta[:, 0]) + np.log(1 / norm.sf(0.8)), -np.inf)

    chain = posterior(0.0, 1.0)
    moved = psis_reweight(chain, upper_half)
    assert (moved.samples > 0.8).all()
    assert moved.n == (chain.samples > 0.8).sum()
    share = np.log(np.mean(chain.samples > 0.8) / norm.sf(0.8))
    assert moved.info["psis"]["log_evidence_change"] == pytest.approx(share, abs=1e-9)
    assert np.isfinite(moved.log_prob).all()


def test_bad_input_is_refused():
    chain = posterior(0.0, 1.0)
    with pytest.raises(ValueError, match="expected a chain with log_prior per draw"):
        psis_reweight(Chain(chain.samples, SPACE), exact_prior)
    for wrong, message in (
        (lambda theta: np.full(len(theta), np.nan), "got NaN or \\+inf at 20000 of 20000"),
        (lambda theta: np.full(len(theta), -np.inf), "it is zero at all of them"),
        (lambda theta: np.zeros(3), r"log_prior_exact: expected shape \(20000\)"),
    ):
        with pytest.raises(ValueError, match=message):
            psis_reweight(chain, wrong)
