"""combine: products of posteriors against Gaussian closed forms, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal
from toys import make_prior

import numpyro_flowprior as fp
from numpyro_flowprior import Chain, FlowConfig, ParameterSpace, TrainConfig, UniformPrior, combine
from numpyro_flowprior.stages.factors import of_answer, of_halves

INF = np.inf
KEY = jax.random.key(0)
EXACT = FlowConfig(base="normal", layers=0)
QUIET = {"progress": False}
SMALL = {
    "config": FlowConfig(layers=1, hidden=(8,), base="normal"),
    "train": TrainConfig(max_steps=400),
    "progress": False,
}


def gaussian(dim, seed):
    """A prior that is a normal distribution exactly, its mean and covariance."""
    prior = make_prior([(-INF, INF)] * dim, EXACT, seed=seed)
    with jax.enable_x64(True):
        mean = np.asarray(prior.from_latent(np.zeros(dim)))
        jacobian = np.asarray(jax.jacobian(prior.from_latent)(jnp.zeros(dim)))
    return prior, mean, jacobian @ jacobian.T


def product_of(parts, prior_variance):
    """Mean, covariance and log R of the product of normal posteriors over a centred normal prior."""
    dim = len(parts[0][0])
    precision = -(len(parts) - 1) * np.eye(dim) / prior_variance + sum(np.linalg.inv(c) for _, c in parts)
    covariance = np.linalg.inv(precision)
    mean = covariance @ sum(np.linalg.solve(c, m) for m, c in parts)
    log_r = sum(multivariate_normal(m, c).logpdf(mean) for m, c in parts)
    log_r -= (len(parts) - 1) * multivariate_normal(np.zeros(dim), prior_variance * np.eye(dim)).logpdf(mean)
    return mean, covariance, log_r - multivariate_normal(mean, covariance).logpdf(mean)


def prior_of(dim):
    return dist.Normal(0.0, 4.0).expand([dim]).to_event(1)


@pytest.mark.parametrize(("dim", "count"), [(2, 2), (3, 3), (12, 2)])
def test_the_product_of_normal_posteriors_is_exact(dim, count):
    found = [gaussian(dim, seed) for seed in range(count)]
    mean, covariance, log_r = product_of([part[1:] for part in found], 16.0)
    made = combine(KEY, {f"analysis {j}": part[0] for j, part in enumerate(found)}, prior=prior_of(dim), **QUIET)
    chain, size = made.chain, made.chain.effective_size
    deviation = np.sqrt(np.diag(covariance))
    assert (np.abs(chain.mean() - mean) / deviation < 5 / np.sqrt(size)).all()
    assert (np.abs(np.sqrt(np.diag(chain.covariance())) / deviation - 1) < 5 / np.sqrt(2 * size)).all()
    assert abs(made.log_bayes_factor - log_r) < 5 * made.log_bayes_factor_error + 1e-3
    points = chain.samples[:100]
    exact = multivariate_normal(mean, covariance).logpdf(points) + log_r
    np.testing.assert_allclose(made.log_prob(points) + made.log_bayes_factor, exact, atol=1e-4)
    np.testing.assert_allclose(chain.log_prob[:100], exact, atol=1e-4)
    np.testing.assert_allclose(chain.log_prior + chain.log_likelihood, chain.log_prob, atol=1e-9)


def test_the_order_of_the_analyses_does_not_matter():
    a, b = gaussian(2, 0)[0], gaussian(2, 1)[0]
    one, other = (combine(KEY, parts, prior=prior_of(2), **QUIET) for parts in ({"a": a, "b": b}, {"b": b, "a": a}))
    points = one.chain.samples[:50]
    difference = one.log_prob(points) + one.log_bayes_factor - other.log_prob(points) - other.log_bayes_factor
    assert np.abs(difference).max() < 1e-9
    np.testing.assert_array_equal(one.chain.samples, other.chain.samples)


def test_the_order_of_chains_does_not_matter():
    chains = {name: rows_of(k, 600, [0.5 * k, 0.0], np.eye(2)) for k, name in enumerate(("a", "b"))}
    one, other = (
        combine(KEY, {name: chains[name] for name in order}, prior=prior_of(2), splits=0, **SMALL)
        for order in (("a", "b"), ("b", "a"))
    )
    np.testing.assert_allclose(one.log_prob(one.chain.samples), other.log_prob(one.chain.samples), atol=1e-9)
    np.testing.assert_array_equal(one.chain.samples, other.chain.samples)
    assert one.log_bayes_factor == other.log_bayes_factor


def test_columns_in_another_order_and_samplers_without_evidence_give_the_same():
    (a, *rest), (b, *others) = gaussian(2, 0), gaussian(2, 1)
    mean, covariance, log_r = product_of([rest, others], 16.0)
    turned = fp.FlowPrior(b.config, ParameterSpace(["p1", "p0"]), b.params)  # its first column is p1
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    mean_t, covariance_t, log_r_t = product_of([rest, (swap @ others[0], swap @ others[1] @ swap)], 16.0)
    few = {"sampler": fp.sample_nuts, "n_samples": 500, "n_warmup": 300, **SMALL}
    for parts, exact in (({"a": a, "b": b}, (mean, covariance, log_r)), ({"b": turned, "a": a}, None)):
        found = combine(KEY, parts, prior={"p0": dist.Normal(0.0, 4.0), "p1": dist.Normal(0.0, 4.0)}, **few)
        if exact is None:
            assert found.chain.names == ("p1", "p0")
            exact = swap @ mean_t, swap @ covariance_t @ swap, log_r_t
        deviation = np.sqrt(np.diag(exact[1]))
        assert (np.abs(found.chain.mean() - exact[0]) / deviation < 5 / np.sqrt(found.chain.effective_size)).all()
        assert found.log_bayes_factor == pytest.approx(exact[2], abs=5 * found.log_bayes_factor_error + 0.02)
    with pytest.raises(ValueError, match="prior of 'a': expected names, because its parameters are in another order"):
        combine(KEY, {"b": turned, "a": a}, prior=prior_of(2), priors={"a": prior_of(2)}, **QUIET)


def test_there_is_no_test_of_agreement_if_the_result_has_another_prior():
    """The analyses agree; only the new prior is far from both."""
    a, mean, covariance = gaussian(2, 0)
    far = dist.Normal(mean + 3 * np.sqrt(np.diag(covariance)), 0.1).to_event(1)
    found = combine(KEY, {"a": a, "b": a}, prior=far, priors={"a": prior_of(2), "b": prior_of(2)}, **SMALL)
    assert np.isnan(found.suspiciousness.p_value)
    assert "different priors" in str(found)


def test_suspiciousness_of_normal_posteriors_is_exact():
    """log S = (d - chi^2) / 2, chi^2 = (m_a - m_b) (C_a + C_b)^-1 (m_a - m_b) for a wide prior."""
    (a, mean_a, cov_a), (b, mean_b, cov_b) = gaussian(2, 0), gaussian(2, 1)
    chi2 = (mean_a - mean_b) @ np.linalg.solve(cov_a + cov_b, mean_a - mean_b)
    wide = dist.Normal(0.0, 300.0).expand([2]).to_event(1)
    found = combine(KEY, {"a": a, "b": b}, prior=wide, **QUIET)
    assert found.suspiciousness.log_suspiciousness == pytest.approx((2 - chi2) / 2, abs=0.06)
    assert found.suspiciousness.freedom == pytest.approx(2.0, abs=0.15)
    wider = combine(KEY, {"a": a, "b": b}, prior=dist.Normal(0.0, 3000.0).expand([2]).to_event(1), **QUIET)
    assert wider.log_bayes_factor - found.log_bayes_factor == pytest.approx(2 * np.log(10), abs=0.05)
    difference = wider.suspiciousness.log_suspiciousness - found.suspiciousness.log_suspiciousness
    assert abs(difference) < 0.06


def rows_of(seed, n, mean, covariance, names=("x", "y"), **fields):
    rows = np.random.default_rng(seed).multivariate_normal(mean, covariance, n)
    return Chain(rows, ParameterSpace(names), **fields)


def test_chains_are_marginalised_to_what_they_share_and_keep_their_other_columns():
    first = rows_of(0, 6000, [0.0, 0.0, 3.0], [[1.0, 0.3, 0.8], [0.3, 1.0, 0.0], [0.8, 0.0, 1.0]], ("x", "y", "h"))
    second = rows_of(1, 6000, [1.0, 0.5, 0.0], [[1.0, -0.4, 0.0], [-0.4, 1.0, 0.0], [0.0, 0.0, 1.0]], ("y", "x", "n"))
    found = combine(KEY, {"first": first, "second": second}, prior=prior_of(2), **SMALL)
    assert found.chain.names == ("x", "y")
    swap = np.array([[1.0, -0.4], [-0.4, 1.0]])
    mean, covariance, _ = product_of(
        [(np.zeros(2), np.array([[1.0, 0.3], [0.3, 1.0]])), (np.array([0.5, 1.0]), swap)], 16.0
    )
    deviation = np.sqrt(np.diag(covariance))
    assert (np.abs(found.chain.mean() - mean) / deviation < 0.12).all()
    assert (np.abs(np.sqrt(np.diag(found.chain.covariance())) / deviation - 1) < 0.08).all()
    rows = found.reweighted["first"]
    assert rows.names == ("x", "y", "h")
    assert rows.mean()[2] == pytest.approx(3.0 + 0.8 / 0.91 * (mean[0] - 0.3 * mean[1]), abs=0.1)  # h given x and y
    assert found.verdict == "pass", str(found)


def test_analyses_that_hardly_overlap_are_noticed():
    """Six standard deviations apart: a handful of rows of either carry the product."""
    first = rows_of(0, 3000, [0.0, 0.0], np.eye(2))
    second = rows_of(1, 3000, [6.0, 0.0], np.eye(2))
    found = combine(KEY, {"first": first, "second": second}, prior=prior_of(2), **SMALL)
    assert found.verdict == "fail"
    assert "rows of first that carry the product" in str(found)
    assert found.suspiciousness.sigma > 3
    assert not found.reweighted


def test_half_of_the_rows_show_how_wrong_a_tail_may_be():
    """The density of few rows in its tail is uncertain, and the error of the product says so."""
    errors = {}
    for n in (300, 10_000):
        first, second = rows_of(0, n, [0.0, 0.0], np.eye(2)), rows_of(1, 10_000, [2.5, 0.0], np.eye(2))
        found = combine(KEY, {"first": first, "second": second}, prior=prior_of(2), **SMALL)
        errors[n] = found.guards.numbers["first: shift by half of the rows"]
    assert errors[10_000] < 0.1 < 3 * errors[300]
    assert errors[300] > errors[10_000]


SPACE = ParameterSpace(["x", "y"], units=["GeV", ""])


@pytest.mark.parametrize(
    ("posteriors", "options", "error", "match"),
    [
        ({"a": gaussian(2, 0)[0]}, {}, ValueError, "expected two or more analyses; got 1"),
        ([gaussian(2, 0)[0]] * 2, {}, TypeError, "expected a dictionary"),
        ({"a": gaussian(2, 0)[0], "b": 3.0}, {}, TypeError, "'b': expected a Chain, or a FlowPrior"),
        (
            {"a": gaussian(2, 0)[0], "b": rows_of(0, 100, [0.0, 0.0], np.eye(2))},
            {},
            ValueError,
            "share parameters, by name; got none .a: 'p0', 'p1'; b: 'x', 'y'",
        ),
        (
            {
                "a": Chain(np.arange(18.0).reshape(9, 2), SPACE),
                "b": Chain(np.arange(18.0).reshape(9, 2), ParameterSpace(["x", "y"], units=["MeV", ""])),
            },
            {},
            ValueError,
            "'x': expected one unit; got 'GeV' in a, 'MeV' in b",
        ),
        (
            {
                "a": make_prior([(0.0, 1.0), (-INF, INF)], EXACT),
                "b": make_prior([(2.0, 3.0), (-INF, INF)], EXACT),
            },
            {},
            ValueError,
            r"'p0': expected bounds that overlap; got \(0, 1\) in a, \(2, 3\) in b",
        ),
        (
            {"a": gaussian(2, 0)[0], "b": gaussian(2, 1)[0]},
            {"priors": {"c": 1}},
            ValueError,
            "expected names of the an",
        ),
        (
            {"a": gaussian(2, 0)[0], "b": gaussian(2, 1)[0]},
            {"prior": UniformPrior(ParameterSpace(["p0", "p1"], 900.0, 901.0))},
            ValueError,
            "zero at all 2000 draws",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused(posteriors, options, error, match):
    with pytest.raises(error, match=match):
        combine(KEY, posteriors, **{"prior": prior_of(2), **QUIET, **options})


def other_than_learned(dim, seed, shift=0.3, wider=1.2):
    """A learned posterior, and the exact one from which it differs: mean, covariance, log density plus a constant."""
    prior, mean, covariance = gaussian(dim, seed)
    exact = mean + shift * np.sqrt(np.diag(covariance)), wider * covariance
    return prior, *exact, lambda theta: 5.0 + multivariate_normal(*exact).logpdf(theta)


def test_exact_densities_take_the_place_of_learned_ones():
    (a, *rest, density_a), (b, *others, density_b) = other_than_learned(3, 0), other_than_learned(3, 1)
    mean, covariance, log_r = product_of([rest, others], 16.0)
    options = {"prior": prior_of(3), **QUIET}
    made = combine(KEY, {"a": a, "b": b}, densities={"a": density_a, "b": density_b}, **options)
    chain, deviation = made.chain, np.sqrt(np.diag(covariance))
    assert (np.abs(chain.mean() - mean) / deviation < 5 / np.sqrt(chain.effective_size)).all()
    assert abs(made.log_bayes_factor - log_r) < 5 * made.log_bayes_factor_error
    exact = multivariate_normal(mean, covariance).logpdf(chain.samples) + log_r
    np.testing.assert_allclose(chain.log_prob, exact, atol=0.05)  # the constants are known from 4,000 draws
    assert "weighted to the exact density of a, b" in str(made.guards)
    assert "rows of a" not in str(made.guards)
    without = combine(KEY, {"a": a, "b": b}, **options)
    assert (np.abs(without.chain.mean() - mean) / deviation).max() > 10 / np.sqrt(without.chain.effective_size)
    one = combine(KEY, {"a": a, "b": b}, densities={"b": density_b}, **options)
    mean, covariance, log_r = product_of([gaussian(3, 0)[1:], others], 16.0)
    assert (np.abs(one.chain.mean() - mean) / deviation < 5 / np.sqrt(one.chain.effective_size)).all()
    assert abs(one.log_bayes_factor - log_r) < 5 * one.log_bayes_factor_error
    assert "draws of a that carry" in str(one.guards)


def test_a_product_far_from_the_learned_one_is_taught_by_exact_densities(monkeypatch):
    """Learned products that are far off leave few effective draws; flows taught by the exact density replace them."""
    apart = (1.0, 0.7)
    parts = [other_than_learned(3, seed, *apart) for seed in (0, 1)]
    (a, *rest, density_a), (b, *others, density_b) = parts
    mean, covariance, log_r = product_of([rest, others], 16.0)
    options = {"prior": prior_of(3), "densities": {"a": density_a, "b": density_b}, **SMALL}
    made = combine(KEY, {"a": a, "b": b}, **options)
    monkeypatch.setattr("numpyro_flowprior.stages.called._ROUNDS", 0)
    untaught = combine(KEY, {"a": a, "b": b}, **options)
    assert untaught.chain.effective_size < 500 < 1000 < made.chain.effective_size
    deviation = np.sqrt(np.diag(covariance))
    assert (np.abs(made.chain.mean() - mean) / deviation < 5 / np.sqrt(made.chain.effective_size)).all()
    assert abs(made.log_bayes_factor - log_r) < 5 * made.log_bayes_factor_error
    exact = multivariate_normal(mean, covariance).logpdf(made.chain.samples) + log_r
    assert np.ptp(made.chain.log_prob - exact) < 1e-6


def test_densities_may_be_distributions_and_their_calls_are_counted():
    (a, *rest), (b, *others) = gaussian(2, 0), gaussian(2, 1)
    mean, covariance, log_r = product_of([rest, others], 16.0)
    exact = {"a": a, "b": dist.MultivariateNormal(others[0], others[1])}
    made = combine(KEY, {"a": a, "b": b}, densities=exact, prior=prior_of(2), **QUIET)
    assert (np.abs(made.chain.mean() - mean) / np.sqrt(np.diag(covariance)) < 5 / np.sqrt(4096)).all()
    assert abs(made.log_bayes_factor - log_r) < 5 * made.log_bayes_factor_error + 1e-3
    assert made.chain.info["calls"] == {"a": 4000 + made.chain.n, "b": 4000 + made.chain.n}
    one = combine(KEY, {"a": a, "b": b}, densities={"b": exact["b"]}, prior=prior_of(2), **QUIET)
    assert one.chain.info["calls"] == {"b": 4000 + one.chain.n + 20_000}  # the draws of a, which the guards weight


@pytest.mark.parametrize("mistake", ["place", "width"])
def test_exact_densities_of_something_else_are_noticed(mistake):
    (a, *rest), (b, _, _) = gaussian(2, 0), gaussian(2, 1)
    far = rest[0] + 1.5 * np.sqrt(np.diag(rest[1]))
    normal = multivariate_normal(far, rest[1]) if mistake == "place" else multivariate_normal(rest[0], 9.0 * rest[1])
    made = combine(KEY, {"a": a, "b": b}, densities={"a": normal.logpdf}, prior=prior_of(2), **QUIET)
    assert made.verdict in ("warn", "fail")
    assert "exact density of a, compared with the learned posterior" in str(made.guards)
    if mistake == "width":  # the constant is not known
        assert np.isnan(made.log_bayes_factor_error)
        assert np.isnan(made.suspiciousness.p_value)


def test_suspiciousness_has_the_exact_densities():
    (a, *rest, density_a), (b, *others, density_b) = other_than_learned(2, 0), other_than_learned(2, 1)
    wide = dist.Normal(0.0, 300.0).expand([2]).to_event(1)
    made = combine(KEY, {"a": a, "b": b}, densities={"a": density_a, "b": density_b}, prior=wide, **QUIET)
    chi2 = (rest[0] - others[0]) @ np.linalg.solve(rest[1] + others[1], rest[0] - others[0])
    assert made.suspiciousness.log_suspiciousness == pytest.approx((2 - chi2) / 2, abs=0.1)


def test_particles_are_noticed_and_options_of_fits_do_not_stop_other_samplers(monkeypatch):
    parts = {"a": gaussian(2, 0)[0], "b": gaussian(2, 1)[0]}
    train = TrainConfig(loss="log_variance", max_steps=200)
    few = {"sampler": fp.sample_nuts, "n_samples": 300, "n_warmup": 200, "config": SMALL["config"], "train": train}
    found = combine(KEY, parts, prior=prior_of(2), **few, **QUIET)
    assert np.isfinite(found.log_bayes_factor)
    assert "a run of pocoMC alone" not in str(found.guards)
    monkeypatch.setattr("numpyro_flowprior.sampling.weighted_draws.weighted_draws", lambda *args, **kwargs: None)
    found = combine(KEY, parts, prior=prior_of(2), draws=500, **SMALL)
    assert found.verdict == "warn"
    assert "a run of pocoMC alone" in str(found.guards)


def test_densities_that_are_none_are_refused():
    parts, options = {"a": gaussian(2, 0)[0], "b": gaussian(2, 1)[0]}, {"prior": prior_of(2), **QUIET}
    with pytest.raises(ValueError, match="densities: 'a': expected the log density of this analysis; got one that is"):
        combine(KEY, parts, densities={"a": lambda theta: np.full(len(theta), -np.inf)}, **options)
    with pytest.raises(TypeError, match="densities: 'b': density: expected a ModelDensity"):
        combine(KEY, parts, densities={"b": 3.0}, **options)
    with pytest.raises(ValueError, match="densities: expected names of the analyses"):
        combine(KEY, parts, densities={"c": abs}, **options)
    with pytest.raises(ValueError, match="densities: 'a': density: expected shape"):
        combine(KEY, parts, densities={"a": lambda theta: theta}, **options)
    with pytest.raises(TypeError, match="combine: 'n_total': expected options only together with the sampler"):
        combine(KEY, parts, n_total=100, **options)


def test_a_combination_becomes_a_prior():
    found = combine(KEY, {"a": gaussian(2, 0)[0], "b": gaussian(2, 1)[0]}, prior=prior_of(2), **QUIET)
    fit = found.fit(KEY, **SMALL)
    assert fit.density_report.kl_to_prior < 0.01
    assert isinstance(fit.prior, fp.FlowPrior)


@pytest.mark.parametrize("dim", [1, 6])
def test_exact_densities_out_of_reach_end_in_a_failed_guard(dim):
    """So far and so narrow that hardly any draw has weight: nothing can be taught, and the guards say so."""
    (a, *rest), (b, *_) = gaussian(dim, 0), gaussian(dim, 1)
    deviation = np.sqrt(np.diag(rest[1]))
    narrow = multivariate_normal(rest[0] + 3.0 * deviation, np.diag((0.1 * deviation) ** 2))
    made = combine(KEY, {"a": a, "b": b}, densities={"a": narrow.logpdf}, prior=prior_of(dim), **SMALL)
    assert made.verdict == "fail"
    assert made.chain.n > 0


def test_a_product_with_another_width_than_the_weighted_rows_is_noticed():
    """A flow with too much mass in its tail makes a product too wide, with next to the same mean."""
    verdicts = {
        wider: [
            of_answer(
                "first", rows_of(2 * n, 8000, [0.0, 0.0], np.eye(2), info={"psis": {"pareto_k": 0.0}}), made
            ).verdict
            for n in range(50)
            for made in [rows_of(2 * n + 1, 4000, [0.0, 0.0], np.diag([1.0, wider**2]))]
        ]
        for wider in (1.0, 1.12)
    }
    assert verdicts[1.0] == ["pass"] * 50
    assert verdicts[1.12] == ["warn"] * 50


def test_widths_that_depend_on_the_rows_are_noticed():
    for widths, verdict in (
        ([0.0, 0.0, 0.0], "pass"),
        ([0.2, -0.1, 0.1], "warn"),
        ([0.5, -0.4, 0.2], "fail"),
        ([np.nan, np.nan, np.nan], "fail"),
    ):
        halves = SimpleNamespace(
            shifts=np.zeros((1, 3)),
            widths=np.array([widths]),
            scatter=0.1,
            product=SimpleNamespace(names=("a", "b", "c")),
        )
        assert of_halves("first", halves).verdict == verdict


def test_errors_of_means_include_the_rows_of_chains():
    """Ten pairs of 500 rows: the draws alone would be within 1.96 errors in less than two thirds of the means."""
    pulls, of_draws = [], []
    for seed in range(10):
        chains = {name: rows_of(2 * seed + k, 500, [0.5 * k, 0.0], np.eye(2)) for k, name in enumerate(("a", "b"))}
        mean, *_ = product_of([([0.5 * k, 0.0], np.eye(2)) for k in range(2)], 16.0)
        found = combine(jax.random.key(seed), chains, prior=prior_of(2), **SMALL)
        values, errors = found.mean_and_error()
        pulls.append((values - mean) / errors)
        of_draws.append((values - mean) / found.chain.mean_and_error(found.chain.samples)[1])
    assert np.mean(np.abs(pulls) < 1.96) >= 0.8  # of 20; fewer have a probability of 0.3 %
    assert np.mean(np.abs(of_draws) < 1.96) < 0.75
    share, error = found.mean_and_error((found.chain.samples[:, 0] > 0.2).astype(float))
    assert 0.0 < share < 1.0
    assert 0.0 < error < 0.1
    assert "and of rows of a, b" in str(found)


def test_without_splits_errors_are_those_of_the_draws():
    parts = {name: rows_of(k, 600, [0.0, 0.0], np.eye(2)) for k, name in enumerate(("a", "b"))}
    found = combine(KEY, parts, prior=prior_of(2), splits=0, **SMALL)
    np.testing.assert_allclose(found.mean_and_error(), found.chain.mean_and_error(found.chain.samples))
    with pytest.raises(
        ValueError, match=r"values: expected shape \(\d+, k\) or \(\d+,\), one value per row; got \(3,\)"
    ):
        found.mean_and_error(np.zeros(3))
    with pytest.raises(ValueError, match="combine: splits: expected an integer >= 0; got -1"):
        combine(KEY, parts, prior=prior_of(2), splits=-1, **SMALL)
