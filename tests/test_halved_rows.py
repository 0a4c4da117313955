"""Errors of a product that include the rows of its factors, against samples of known size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal, t

from numpyro_flowprior import Chain, ParameterSpace
from numpyro_flowprior.stages.halved_rows import HalvedRows, with_rows

DRAWS = 2000


def normal_of(rows):
    return multivariate_normal(rows.mean(axis=0), np.cov(rows.T, ddof=0))


def learned_from(rng, n, dim, splits=1):
    """A normal density that was fitted to n standard normal rows, and those of the halves of the rows, at its draws."""
    rows = rng.normal(size=(n, dim))
    whole, orders = normal_of(rows), [rng.permutation(n) for _ in range(splits)]
    theta = whole.rvs(DRAWS, random_state=rng).reshape(DRAWS, dim)
    product = Chain(theta, ParameterSpace([f"p{j}" for j in range(dim)]), rows="independent")
    halves = [[normal_of(rows[order[: n // 2]]), normal_of(rows[order[n // 2 :]])] for order in orders]
    log_whole = whole.logpdf(theta)
    ratios = np.array([[half.logpdf(theta) - log_whole for half in pair] for pair in halves])
    return HalvedRows(product, ratios, rows.mean(axis=0), np.cov(rows.T, ddof=0).reshape(dim, dim))


@pytest.mark.parametrize(("dim", "splits"), [(1, 1), (2, 1), (5, 1), (2, 3)])
def test_errors_include_the_rows(dim, splits):
    """200 samples of 400 rows, fitted by normal densities. Their halves differ in all directions."""
    rng = np.random.default_rng(dim)
    pulls, limited, of_draws = [], [], []
    for _ in range(200):
        halved = learned_from(rng, 400, dim, splits)
        mean, error = halved.product.mean_and_error(halved.product.samples)
        pulls.append(mean / with_rows(error, [halved], halved.product.samples))
        limited.append(mean / with_rows(error, [replace(halved, effective_rows=400)], halved.product.samples))
        of_draws.append(mean / error)
    assert 0.92 < np.mean(np.abs(pulls) < 1.96) < 0.99
    assert 0.92 < np.mean(np.abs(limited) < 1.96) < 0.99
    assert 0.75 < np.std(limited) < 1.1
    assert np.mean(np.abs(of_draws) < 1.96) < 0.75


def test_rows_are_as_good_as_as_many_draws():
    """The mean of 100 estimates of 1 / N with 2 d degrees of freedom each is known to 5 % in four parameters."""
    rng = np.random.default_rng(0)
    found = [learned_from(rng, 400, 4).per_row for _ in range(100)]
    assert np.mean(found) * 400 == pytest.approx(1.0, abs=0.2)


def test_errors_of_two_analyses_and_of_the_draws_add_in_quadrature():
    rng = np.random.default_rng(1)
    halved = [learned_from(rng, 400, 2), learned_from(rng, 400, 2)]
    values = halved[0].product.samples
    parts = [one.squared_errors(values) for one in halved]
    _, error = halved[0].product.mean_and_error(values)
    np.testing.assert_allclose(with_rows(error, halved, values), np.sqrt(error**2 + sum(parts)))
    np.testing.assert_allclose(with_rows(error, [], values), error)


def test_a_share_that_few_rows_determine_has_an_error_of_its_own():
    """The halves differ in the share of a mode and in nothing else; in ten parameters nine know nothing of it."""
    rng = np.random.default_rng(2)
    upper = rng.random(DRAWS) < 0.3
    theta = rng.normal(size=(DRAWS, 10))
    theta[:, 0] += 20.0 * upper
    product = Chain(theta, ParameterSpace([f"p{j}" for j in range(10)]), rows="independent")
    noise = 0.02 * rng.normal(size=(1, 2, DRAWS))
    planted = np.stack([np.where(upper, 0.3, 0.0), np.where(upper, -0.3, 0.0)])[None]
    errors = [
        np.sqrt(
            HalvedRows(product, ratios, theta.mean(axis=0), np.cov(theta.T)).squared_errors(
                upper[:, None].astype(float)
            )[0]
        )
        for ratios in (noise, noise + planted)
    ]
    assert errors[0] < 0.002
    enlarged = t(2).ppf(0.975) / 1.96
    assert errors[1] == pytest.approx(0.3 * 0.21 * enlarged, rel=0.1)  # of log odds, times the variance of the share


def test_errors_are_not_enlarged_beyond_those_of_the_weighted_rows():
    rng = np.random.default_rng(6)
    halved = learned_from(rng, 400, 1)
    values = halved.product.samples
    variance = float(halved.product.covariance()[0, 0])
    (enlarged,) = halved.squared_errors(values)
    for rows, expected in ((400, variance / 400), (1e9, halved.per_row * variance), (2, enlarged)):
        (limited,) = replace(halved, effective_rows=rows).squared_errors(values)
        assert limited == pytest.approx(expected, rel=0.05)
    assert enlarged == pytest.approx(halved.per_row * variance * (t(2).ppf(0.975) / 1.96) ** 2, rel=0.1)


def test_equal_halves_have_no_error():
    rng = np.random.default_rng(3)
    product = Chain(rng.normal(size=(DRAWS, 2)), ParameterSpace(["a", "b"]), rows="independent")
    halved = HalvedRows(product, np.zeros((1, 2, DRAWS)), np.zeros(2), np.eye(2))
    assert halved.per_row < 1e-30
    assert halved.error_of_log_evidence < 1e-12
    _, error = product.mean_and_error(product.samples)
    np.testing.assert_allclose(with_rows(error, [halved], product.samples), error)


@pytest.mark.parametrize("ratios", [np.full(DRAWS, -np.inf), 30.0 * np.arange(DRAWS)], ids=["zero", "out of reach"])
def test_a_half_that_the_draws_do_not_reach_makes_the_error_undefined(ratios):
    rng = np.random.default_rng(4)
    product = Chain(rng.normal(size=(DRAWS, 2)), ParameterSpace(["a", "b"]), rows="independent")
    halved = HalvedRows(product, np.stack([ratios, ratios])[None], np.zeros(2), np.eye(2))
    assert np.isnan(with_rows(np.full(2, 0.1), [halved], product.samples)).all()
    assert np.isnan(halved.shifts).all()
    assert np.isnan(halved.error_of_log_evidence)


def test_one_draw_at_which_a_half_is_zero_does_not_matter():
    halved = learned_from(np.random.default_rng(7), 400, 2)
    ratios = halved.log_ratios.copy()
    ratios[0, 0, 5] = -np.inf
    other = replace(halved, log_ratios=ratios)
    assert other.error_of_log_evidence == pytest.approx(halved.error_of_log_evidence, rel=0.05)
    np.testing.assert_allclose(
        other.squared_errors(other.product.samples), halved.squared_errors(other.product.samples), rtol=0.1
    )


def pulls_of(rng, dim, splits, analyses, other):
    """Mean of a product with exact mean zero in its errors, (d,), for (number of rows, mean, deviations) by analysis.

    `other` is the precision of all else that is in the product, and known.
    """
    samples = [at + width * rng.normal(size=(n, dim)) for n, at, width in analyses]
    precisions = [np.linalg.inv(np.cov(rows.T)) for rows in samples]
    covariance = np.linalg.inv(sum(precisions) + np.diag(other))
    mean = covariance @ sum(each @ rows.mean(axis=0) for each, rows in zip(precisions, samples, strict=True))
    theta, halved = rng.multivariate_normal(mean, covariance, DRAWS), []
    product = Chain(theta, ParameterSpace([f"p{j}" for j in range(dim)]), rows="independent")
    for rows in samples:
        log_whole, ratios = normal_of(rows).logpdf(theta), []
        for _ in range(splits):
            parts = np.array_split(rng.permutation(rows), 2)
            ratios.append([normal_of(part).logpdf(theta) - log_whole for part in parts])
        halved.append(HalvedRows(product, np.array(ratios), rows.mean(axis=0), np.cov(rows.T)))
    values, error = product.mean_and_error(theta)
    return values / with_rows(error, halved, theta)


def first(value, others, dim):
    return np.array([value, *[others] * (dim - 1)])


CASES = {
    "each constrains other parameters": lambda d: (
        [(300, 0.0, first(1.0, 30.0, d)), (30_000, 0.0, first(30.0, 1.0, d))],
        np.zeros(d),
    ),
    "three standard deviations apart": lambda d: (
        [(400, first(-2.1, 0.0, d), np.ones(d)), (400, first(2.1, 0.0, d), np.ones(d))],
        np.zeros(d),
    ),
    "wider than the posterior": lambda d: ([(1000, 0.0, np.ones(d))], first(-0.75, 0.0, d)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dim", "splits"), [(3, 1), (7, 1), (7, 3)])
def test_errors_of_products_of_unequal_posteriors(case, dim, splits):
    """100 products: fewer than 88 within have a probability of 0.4 %, were it 95 % for each."""
    rng = np.random.default_rng(dim)
    within = np.mean([np.abs(pulls_of(rng, dim, splits, *CASES[case](dim))) < 1.96 for _ in range(100)], axis=0)
    assert within[0] >= 0.88
    assert within[1:].mean() > 0.92


def test_fewer_draws_than_parameters_are_not_an_error():
    rng = np.random.default_rng(8)
    product = Chain(rng.normal(size=(20, 30)), ParameterSpace([f"p{j}" for j in range(30)]), rows="independent")
    halved = HalvedRows(product, 0.01 * rng.normal(size=(1, 2, 20)), np.zeros(30), np.eye(30))
    assert np.isfinite(halved.squared_errors(product.samples)).all()
