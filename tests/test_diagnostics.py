"""Divergences, comparisons and reports against closed forms and against priors that are wrong on purpose."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats
from toys import autoregression, make_prior, metropolis

from numpyro_flowprior import Chain, Comparison, FlowConfig, ParameterSpace, compare, marginal_kl, quality_report
from numpyro_flowprior.diagnostics.posterior_divergence import posterior_divergence

LINE = ParameterSpace(["x", "y"], -8.0, 8.0)


def normal_chain(n: int, shift: float = 0.0, sigma: float = 1.0, seed: int = 0, **parts) -> Chain:
    samples = np.random.default_rng(seed).normal(shift, sigma, size=(n, 2)).clip(-7.9, 7.9)
    return Chain(samples, LINE, **parts)


def test_marginal_kl_of_two_normals_is_the_closed_form():
    """KL(N(0,1) || N(0.5,1.2)) = ln 1.2 + (1 + 0.25) / (2 1.44) - 1/2; independent pairs have twice as much."""
    exact = np.log(1.2) + 1.25 / (2 * 1.44) - 0.5
    found = marginal_kl(normal_chain(2_000_000), normal_chain(2_000_000, 0.5, 1.2, seed=1))
    np.testing.assert_allclose(found.one_d, exact, rtol=0.03)  # bins of 0.21 lose a little
    np.testing.assert_allclose(found.two_d, 2 * exact, rtol=0.05)
    assert found.average == pytest.approx(0.5 * (found.one_d.mean() + found.two_d.mean()))


def test_weights_count_like_repetitions():
    counts = np.random.default_rng(2).integers(0, 4, 3000)
    base, other = normal_chain(3000), normal_chain(3000, seed=5)
    weighted = marginal_kl(base.replace(weights=counts), other, "declared")
    repeated = marginal_kl(Chain(np.repeat(base.samples, counts, axis=0), LINE), other, "declared")
    np.testing.assert_allclose(weighted.one_d, repeated.one_d)
    np.testing.assert_allclose(weighted.two_d, repeated.two_d)


def test_excess_over_the_floor_is_zero_for_equal_densities_and_positive_for_others():
    """False-alarm rate: the excess of equal densities is within 4 standard deviations of its floor (1 in 16,000)."""
    for bounds, misleading in ((None, 0.03), ("declared", 0.1)):
        same = compare(normal_chain(5000), normal_chain(5000, seed=3), bounds=bounds)
        assert abs(same.excess) < 4 * same.excess_error
        assert same.kl.average > misleading  # the value alone would mislead
        shifted = compare(normal_chain(5000), normal_chain(5000, 0.4, seed=3), bounds=bounds)
        assert shifted.excess > 4 * shifted.excess_error
    np.testing.assert_allclose(shifted.shift, 0.4, atol=0.1)


def test_excess_of_weighted_draws_of_equal_densities_is_zero():
    """Rows of equal weight that repeat are noisier than the floor knows: here by 5.5 of its errors, not 3."""
    weights = np.random.default_rng(0).uniform(size=(5, 8000))
    a = normal_chain(6000)
    found = [
        compare(a, normal_chain(8000, seed=3 + j, weights=row), bins=300, modes={}, classify=False)
        for j, row in enumerate(weights)
    ]
    means = np.array([np.average(normal_chain(8000, seed=3 + j).samples, axis=0, weights=weights[j]) for j in range(5)])
    shifts = (means - a.mean()) / np.sqrt(np.diagonal(a.covariance()))  # of all rows, as they are weighted
    np.testing.assert_allclose([each.shift for each in found], shifts, rtol=1e-9)
    error = np.sqrt(np.mean([each.excess_error**2 for each in found]))  # they share a
    assert abs(np.mean([each.excess for each in found])) < 3 * error


def test_floor_of_correlated_walkers_is_higher():
    """Each walker sits in its own place: dealing rows one by one would call two such ensembles different."""

    def ensemble(seed: int) -> Chain:
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(40, 1, 2))
        samples = (centres + 0.1 * rng.normal(size=(40, 100, 2))).reshape(-1, 2)
        return Chain(samples, LINE, chain_id=np.repeat(np.arange(40), 100))

    def compared(**rows) -> Comparison:
        a, b = (Chain(ensemble(seed).samples, LINE, **rows) for seed in (0, 1))
        return compare(a, b, bounds="declared", modes={}, classify=False)

    by_row, by_walker = compared(rows="independent"), compared(chain_id=ensemble(0).chain_id)
    assert by_walker.floor.mean() > by_row.floor.mean() + 10 * by_row.floor.std()
    assert abs(by_walker.excess) < 4 * by_walker.excess_error


def test_comparison_is_by_name():
    a = normal_chain(1000)
    b = Chain(a.samples[:, ::-1], LINE.select(["y", "x"]))
    assert compare(a, b).kl.average == 0.0
    with pytest.raises(ValueError, match="no parameter named 'x'"):
        compare(a, Chain(a.samples, ParameterSpace(["u", "y"])))
    with pytest.raises(ValueError, match="same parameters"):
        marginal_kl(a, b)


def test_a_right_prior_passes_and_a_wrong_one_fails():
    prior = make_prior([(0.0, 1.0), (0.0, 1.0)], FlowConfig(layers=2, hidden=(8,)))
    with jax.enable_x64(True):
        draws = np.asarray(prior.sample(jax.random.key(1), (4000,)))
    own = Chain(draws, prior.space)
    right = quality_report(jax.random.key(0), prior, own)
    assert right.verdict == "pass"
    other = make_prior([(0.0, 1.0), (0.0, 1.0)], FlowConfig(layers=2, hidden=(8,)), seed=7)
    wrong = quality_report(jax.random.key(0), other, own)
    assert wrong.verdict != "pass"
    assert "noise floor" in wrong.reasons[0] or "Gaussian" in wrong.reasons[0]
    assert right.log_density > wrong.log_density
    assert "held-out" in str(right)


def test_report_finds_columns_by_name_and_refuses_misfits():
    prior = make_prior([(0.0, 1.0), (0.0, 2.0)], FlowConfig(layers=1, hidden=(8,)))
    samples = np.asarray(prior.sample(jax.random.key(1), (500,)), np.float64)
    straight = quality_report(jax.random.key(0), prior, Chain(samples, prior.space))
    swapped = quality_report(jax.random.key(0), prior, Chain(samples[:, ::-1], prior.space.select(["p1", "p0"])))
    assert straight.log_density == pytest.approx(swapped.log_density)
    with pytest.raises(ValueError, match="'p1' missing"):
        quality_report(jax.random.key(0), prior, Chain(samples[:, :1], prior.space.select(["p0"])))
    wide = Chain(samples + np.array([0.0, 1.0]), ParameterSpace(["p0", "p1"], 0.0, 3.0))
    with pytest.raises(ValueError, match=r"expected rows inside the prior's support; got \d+ of 500 outside, where"):
        quality_report(jax.random.key(0), prior, wide)


def test_few_rows_only_warn():
    prior = make_prior([(0.0, 1.0)], FlowConfig(layers=0))
    draws = Chain(np.asarray(prior.sample(jax.random.key(1), (100,)), np.float64), prior.space)
    report = quality_report(jax.random.key(0), prior, draws)
    assert report.verdict == "warn"
    assert "coarse" in report.reasons[-1]


def test_one_wild_draw_does_not_hide_a_difference():
    line = ParameterSpace(["x", "y"])
    p, q = (normal_chain(5000, shift, seed=j).replace(space=line) for j, shift in enumerate((0.0, 2.0)))
    samples = p.samples.copy()
    samples[0] = 1e6
    for bounds in (None, "declared"):
        assert compare(p.replace(samples=samples), q, bounds=bounds).excess > 0.5


def test_what_a_posterior_loses_to_another_prior_is_the_closed_form():
    """Normal prior p, stand-in q and likelihood: J and J_q are normal; five standard errors, also with weights."""
    p, q, error, y = stats.norm(0.0, 1.0), stats.norm(0.15, 1.2), 0.7, 1.5

    def posterior(prior):
        precision = 1.0 / prior.var() + 1.0 / error**2
        return stats.norm((prior.mean() / prior.var() + y / error**2) / precision, precision**-0.5)

    joint, other = posterior(p), posterior(q)
    apart = (joint.mean() - other.mean()) ** 2
    exact = np.log(other.std() / joint.std()) + (joint.var() + apart) / (2 * other.var()) - 0.5
    x = p.rvs(size=200_000, random_state=0)
    for draws, weights in ((joint.rvs(size=50_000, random_state=1), np.ones(50_000)), (x, stats.norm.pdf(y, x, error))):
        log_ratio = q.logpdf(draws) - p.logpdf(draws) + 77.0
        value, scatter = posterior_divergence(log_ratio, weights / weights.sum())
        assert abs(value - exact) < 5 * scatter
        assert scatter < 0.05 * exact


def test_a_density_far_too_high_at_a_draw_of_next_to_no_weight_is_no_overflow():
    log_ratio, probabilities = np.array([0.0, 0.0, 1500.0]), np.array([0.5, 0.5, 1e-300])
    value, error = posterior_divergence(log_ratio, probabilities)
    assert value == pytest.approx(1500.0 + np.log(1e-300), rel=1e-9)  # the third draw has all of J_q
    assert error == pytest.approx(np.sqrt(1.0 + 0.5**2 + 0.5**2), rel=1e-9)


def test_bins_follow_the_draws_and_not_the_declared_bounds():
    """A parameter far narrower than its bounds: between them all draws are in one bin, and nothing is compared."""
    wide = ParameterSpace(["x", "y"], [0.5, -8.0], [10.0, 8.0])
    rng = np.random.default_rng(0)
    a, b = (Chain(np.column_stack([1.0 + s * rng.random(4000), rng.normal(size=4000)]), wide) for s in (3e-4, 6e-4))
    found = compare(a, b, modes={}, classify=False)
    assert found.kl.one_d[0] == pytest.approx(np.log(2.0), rel=0.1)
    assert abs(found.kl.one_d[1] - found.floor_mean.one_d[1]) < 4 * found.floor_std.one_d[1]
    with pytest.raises(ValueError, match=r"more than one bin; those of 'x' are all in one. Leave bounds out"):
        compare(a, b, bounds="declared")
    with pytest.raises(ValueError, match=r"'x' are all in one"):
        marginal_kl(a, b, "declared", 20)
    apart = Chain(a.samples + np.array([2.0, 0.0]), wide)  # each in one bin, but not the same
    assert marginal_kl(a, apart, "declared", 20).one_d[0] > 10.0


@pytest.mark.filterwarnings("ignore:chain. 'x' takes a single value")
def test_a_parameter_that_does_not_vary_is_refused():
    constant = Chain(np.column_stack([np.zeros(500), np.arange(500.0)]), ParameterSpace(["x", "y"]))
    with pytest.raises(ValueError, match="vary in both chains; 'x' takes a single value. Leave it out"):
        compare(constant, constant, modes={}, classify=False)


def ids(chains: int, n: int = 4000) -> np.ndarray:
    return np.arange(n) * chains // n


@pytest.mark.parametrize("chains", [1, 2, 4])
def test_a_difference_is_seen_whatever_the_number_of_chain_ids(chains):
    """N(0, 1) against N(1, 1.5), 0.525 nats on average: dealt chain by chain, the difference would be in the floor."""
    exact = 1.5 * (np.log(1.5) + 2.0 / (2.0 * 1.5**2) - 0.5)
    a, b = (normal_chain(4000, *p, seed=j).replace(chain_id=ids(chains)) for j, p in enumerate(((0, 1), (1, 1.5))))
    found = compare(a, b, modes={}, classify=False)
    assert found.excess == pytest.approx(exact, rel=0.1)
    assert abs(found.excess - exact) < 4 * found.excess_error < 0.2


def kinds(seed: int, shift: float = 0.0, sigma: float = 1.0) -> dict[str, Chain]:
    """Returns chains of one density, of each kind that people have."""
    rng = np.random.default_rng(seed)
    rows, counts = metropolis(6000, 1.5, seed)
    wide = 2.0 * rng.normal(size=(6000, 2))
    line = ParameterSpace(["x", "y"])
    return {
        "one autoregression": Chain(shift + sigma * autoregression(4000, 0.9, seed=seed), line),
        "four": Chain(shift + sigma * autoregression(1000, 0.9, seed=seed, n_chains=4), line, chain_id=ids(4)),
        "counts": Chain(shift + sigma * rows, line, weights=counts),
        "weights": Chain(shift + sigma * wide, line, weights=np.exp(-0.375 * np.sum(wide**2, axis=1))),
    }


@pytest.mark.parametrize("kind", list(kinds(0)))
def test_the_excess_is_calibrated_for_rows_of_every_kind(kind):
    """Of 40 pairs of equal densities some 38 are within two errors; 32 or fewer in one of 4,000 tests.

    The benchmark calibration_of_compare has 200, and more kinds. And a real difference is seen as it is.
    """
    found = [
        compare(kinds(2 * seed)[kind], kinds(2 * seed + 1)[kind], modes={}, classify=False, key=jax.random.key(seed))
        for seed in range(40)
    ]
    assert sum(abs(each.excess) < 2 * each.excess_error for each in found) > 32
    exact = 1.5 * (np.log(1.5) + 2.0 / (2.0 * 1.5**2) - 0.5)
    different = [
        compare(kinds(2 * seed)[kind], kinds(2 * seed + 1, 1.0, 1.5)[kind], modes={}, classify=False).excess
        for seed in range(6)
    ]
    assert np.mean(different) == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("sizes", [(400, 20_000), (20_000, 400)])
def test_the_excess_is_calibrated_for_chains_of_other_sizes_and_kinds(sizes):
    """A slow chain and independent rows, forty pairs: 32 or fewer within two errors in one of 4,000 tests."""
    within = 0
    for seed in range(40):
        slow = Chain(autoregression(10 * min(sizes), 0.9, seed=seed), ParameterSpace(["x", "y"]))
        many = normal_chain(max(sizes), seed=1000 + seed).replace(space=slow.space)
        pair = (slow, many) if sizes[0] < sizes[1] else (many, slow)
        found = compare(*pair, modes={}, classify=False, key=jax.random.key(seed))
        within += abs(found.excess) < 2 * found.excess_error
    assert within > 32


def test_chains_too_short_to_tell_noise_from_difference_are_refused():
    slow = Chain(autoregression(1000, 0.999, seed=0), ParameterSpace(["x", "y"]))
    with pytest.raises(
        ValueError, match=r"expected chains of at least 8 autocorrelation times; got 1000 rows, which are"
    ):
        compare(slow, slow, modes={}, classify=False)


@pytest.mark.parametrize("bounds", [[[0, 1], [1, 0]], [[0, np.inf], [0, 1]], [[0, 1]], "everything"])
def test_bad_histogram_bounds_are_refused(bounds):
    for function in (marginal_kl, compare):
        with pytest.raises(ValueError, match="bounds: expected"):
            function(normal_chain(50), normal_chain(50), bounds=bounds)
