"""The quality report: silent on right priors, and loud, in the right words, on priors that are wrong in known ways."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import betabinom, binom, kstest, mannwhitneyu, norm
from toys import make_prior, metropolis, mixture_prior, mixture_rows

from numpyro_flowprior import Chain, FlowConfig, FlowPrior, ParameterSpace, QualityReport, quality_report
from numpyro_flowprior.chains.autocorrelation import autocorrelation_time
from numpyro_flowprior.diagnostics.coverage import beta_binomial_tails, extrapolation, nearest_distances, uniformity
from numpyro_flowprior.diagnostics.independent import independent_rows
from numpyro_flowprior.diagnostics.two_sample import area_under_curve, classifier_test

NORMAL = [(1.0, 0.0, 1.0)]
WIDE_TAILS = [(0.95, 0.0, 1.0), (0.05, 0.0, 2.0)]


def two_modes(first: float = 0.5, bridge: float = 0.0):
    """Modes at -1.2 and 1.2 of the first parameter, three widths from each other's midpoint; the second is normal."""
    share = 1.0 - bridge
    modes = [(share * first, [-1.2, 0.0], [0.4, 1.0]), (share * (1.0 - first), [1.2, 0.0], [0.4, 1.0])]
    return [*modes, (bridge, [0.0, 0.0], [0.5, 1.0])] if bridge else modes


def correlated(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.multivariate_normal([0.0, 0.0], [[1.0, 0.4], [0.4, 1.0]], size=n)


def bent(rng: np.random.Generator, n: int) -> np.ndarray:
    """Uncorrelated, and of unit variances, but the second parameter follows the square of the first."""
    z = rng.normal(size=(n, 2))
    return np.column_stack([z[:, 0], 0.8 * z[:, 1] + 0.6 * (z[:, 0] ** 2 - 1.0) / np.sqrt(2.0)])


def report_of(prior: FlowPrior, rows: np.ndarray, seed: int = 0, **parts) -> QualityReport:
    return quality_report(jax.random.key(seed), prior, Chain(rows, prior.space, **parts))


def test_a_right_prior_is_left_alone_and_its_p_values_are_uniform():
    """40 reports on right priors: at the stated rate, one warning in a thousand, two have a chance of 0.1 %.

    Each p-value is below 0.1 in a tenth of the reports; the bounds hold with probability 0.9999 each.
    """
    prior = mixture_prior(2, two_modes())
    reports = [
        report_of(prior, mixture_rows(np.random.default_rng(seed), 400, 2, two_modes()), seed) for seed in range(40)
    ]
    assert sum(report.verdict != "pass" for report in reports) <= 1
    low, high = binom.ppf([0.00005, 0.99995], len(reports), 0.1)
    for p_values in (
        [report.classifier.p_value for report in reports],
        [report.density_ranks.p_value for report in reports],
        [report.ranks["p0"].p_value for report in reports],
        [report.comparison.chances().one_d[0] for report in reports],
        [report.comparison.chances().two_d[0] for report in reports],
    ):
        assert low <= np.sum(np.array(p_values) < 0.1) <= high
    discrete = [report.extrapolation.p_value for report in reports], [report.tails[0].p_value for report in reports]
    for p_values in discrete:  # counts of rows: at most as often below
        assert np.sum(np.array(p_values) < 0.1) <= high


DEFECTS = {
    "mode weights": (two_modes(0.6), two_modes(), "warn", "cumulative distribution of 'p0'"),
    "bridge between modes": (two_modes(bridge=0.1), two_modes(), "warn", "marginal of 'p0' differs"),
    "missing correlation": (NORMAL, correlated, "warn", "'p0' and 'p1' together differ"),
    "bent, uncorrelated": (NORMAL, bent, "warn", "'p0' and 'p1' together differ"),
    "tails too heavy": (WIDE_TAILS, NORMAL, "warn", "of lowest density: this tail is too heavy"),
    "tails too thin": (NORMAL, WIDE_TAILS, "warn", "of lowest density: this tail is too thin"),
    "too wide": ([(1.0, 0.0, 1.15)], NORMAL, "warn", "too wide (held-out rows are where its density is high)"),
    "too narrow": ([(1.0, 0.0, 0.85)], NORMAL, "warn", "too narrow (held-out rows are where its density is low)"),
    "shifted": ([(1.0, [0.25, 0.0], 1.0)], NORMAL, "warn", "means differ by up to 0.2"),
    "far off": ([(1.0, [0.8, 0.0], 1.0)], NORMAL, "fail", "a classifier distinguishes prior draws from held-out rows"),
    "missing mode": (
        NORMAL,
        [(0.96, 0.0, 1.0), (0.04, [4.5, 0.0], 0.3)],
        "fail",
        "upper end of 'p0': this tail is too thin",
    ),
    "spurious mode": (
        [(0.95, 0.0, 1.0), (0.05, [5.0, 0.0], 0.3)],
        NORMAL,
        "warn",
        "of the prior draws are beyond the chain",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_found_and_named(defect):
    assumed, truth, verdict, reason = DEFECTS[defect]
    rng = np.random.default_rng(1)
    rows = truth(rng, 5000) if callable(truth) else mixture_rows(rng, 5000, 2, truth)
    report = report_of(mixture_prior(2, assumed), rows)
    assert reason in "; ".join(report.reasons)
    assert report.verdict == verdict
    assert reason in str(report)


def test_weights_are_respected():
    """Rows of a wider density, with the weights that make them standard normal."""
    rows = 1.3 * np.random.default_rng(0).normal(size=(6000, 2))
    weights = np.exp(np.sum(norm.logpdf(rows) - norm.logpdf(rows, scale=1.3), axis=1))
    prior = mixture_prior(2, NORMAL)
    weighted = report_of(prior, rows, weights=weights)
    assert weighted.verdict == "pass"
    assert weighted.independent_rows <= weighted.effective_size < 6000
    assert report_of(prior, rows).verdict == "fail"


def test_copies_of_rows_do_not_count_as_evidence():
    """80 distinct rows, each thirty times in a row, as in a chain that seldom moves."""
    rows = np.repeat(np.random.default_rng(0).normal(size=(80, 2)), 30, axis=0)
    report = report_of(mixture_prior(2, NORMAL), rows)
    assert report.independent_rows <= 80
    assert report.verdict == "warn"
    assert len(report.reasons) == 1
    assert "coarse" in report.reasons[0]


@pytest.mark.parametrize("n", [12, 60])
def test_tiny_chains_are_judged_without_a_fuss(n):
    report = report_of(mixture_prior(2, NORMAL), np.random.default_rng(3).normal(size=(n, 2)))
    assert report.verdict == "warn"
    assert "coarse" in report.reasons[-1]


@pytest.mark.parametrize("dim", [1, 30])
def test_one_and_thirty_parameters(dim):
    prior = mixture_prior(dim, NORMAL)
    rows = np.random.default_rng(0).normal(size=(1500, dim))
    right = report_of(prior, rows)
    assert right.verdict == "pass"
    assert len(right.comparison.kl.two_d) == dim * (dim - 1) // 2
    assert len(json.dumps(right.to_json(), allow_nan=False)) < 40_000
    rows[:, dim // 2] *= 1.5
    wrong = report_of(prior, rows)
    assert wrong.verdict != "pass"
    assert f"'p{dim // 2}'" in "; ".join(wrong.reasons)


def test_a_single_row_far_off_does_not_blind_the_tests():
    rows = np.random.default_rng(0).normal(size=(4000, 2))
    rows[0] = 1e6
    report = report_of(mixture_prior(2, [(1.0, [0.5, 0.0], 1.0)]), rows)
    assert "'p0'" in "; ".join(report.reasons)
    assert report.classifier.p_value < 1e-6


def test_the_report_travels_in_the_file(tmp_path):
    prior = mixture_prior(3, NORMAL)
    report = report_of(prior, np.random.default_rng(0).normal(size=(800, 3)) * 1.2)
    prior.info = {"report": report.to_json()}
    back = QualityReport.from_json(FlowPrior.load(prior.save(tmp_path / "p.safetensors")).info["report"])
    assert (back.verdict, back.reasons, back.rows) == (report.verdict, report.reasons, report.rows)
    assert back.log_density == report.log_density
    assert back.ranks["p1"].counts == report.ranks["p1"].counts
    assert [tail.side for tail in back.tails] == [tail.side for tail in report.tails]
    for part in ("kl", "floor_mean", "floor_std"):
        for each in ("one_d", "two_d"):
            found = (getattr(getattr(r.comparison, part), each) for r in (back, report))
            np.testing.assert_allclose(*found, rtol=1e-3)  # kept to four digits
    assert str(back).splitlines()[0] == str(report).splitlines()[0]


def test_a_record_of_an_earlier_version_is_refused():
    with pytest.raises(ValueError, match="another version of the package"):
        QualityReport.from_json({"verdict": "pass", "reasons": [], "rows": 10})


def test_an_ensemble_on_a_box_is_judged_like_any_prior():
    prior = make_prior([(0.0, 1.0), (0.0, np.inf)], FlowConfig(layers=1, hidden=(8,), members=3, background=True))
    with jax.enable_x64(True):
        rows = np.asarray(prior.sample(jax.random.key(5), (4096,)))  # the report's own shape: compiled once
    assert report_of(prior, rows).verdict == "pass"
    wrong = rows.copy()
    wrong[:, 0] = 1.0 - wrong[:, 0]
    assert report_of(prior, wrong).verdict == "fail"


def test_classifier_finds_the_area_of_two_normals():
    """The best area between N(0, 1) and N(0.5, 1) is Phi(0.5 / sqrt 2); its standard error here is 0.005."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5000, 3))
    first[:, 0] += 0.5
    test = classifier_test(rng, first, second)
    assert test.auc == pytest.approx(norm.cdf(0.5 / np.sqrt(2.0)), abs=0.02)
    assert test.null_mean == pytest.approx(0.5, abs=0.005)
    assert test.null_std == pytest.approx(np.sqrt(1.0 / (6 * 5000)), rel=0.5)  # about that of one rank sum
    assert test.p_value < 1e-12


def test_area_under_the_curve_is_that_of_the_rank_sum_test():
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(60, 2)).round(1), rng.random((60, 2)) < 0.4
    expected = [
        mannwhitneyu(s[label], s[~label]).statistic / (label.sum() * (~label).sum())
        for s, label in zip(scores.T, labels.T, strict=True)
    ]
    np.testing.assert_allclose(area_under_curve(scores, labels), expected)
    assert area_under_curve(scores[:, :1], np.ones((60, 1), bool))[0] == 0.5


@pytest.mark.parametrize(("count", "n", "a", "b"), [(0, 50, 1, 99), (7, 400, 5, 495), (400, 400, 5, 495)])
def test_beta_binomial_tails_are_those_of_scipy(count, n, a, b):
    lower, upper = beta_binomial_tails(count, n, a, b)
    assert lower == pytest.approx(betabinom.cdf(count, n, a, b), rel=1e-8)
    assert upper == pytest.approx(betabinom.sf(count - 1, n, a, b), rel=1e-6, abs=1e-14)


def test_nearest_distances_are_those_of_a_tree():
    points, cloud = np.random.default_rng(0).normal(size=(2, 700, 4))
    np.testing.assert_allclose(nearest_distances(points, cloud), cKDTree(cloud).query(points)[0], rtol=1e-6)


def test_extrapolation_counts_what_is_far_from_every_row():
    """A tenth of the draws is ten widths away, and the rows cover an eighth of the box."""
    rng = np.random.default_rng(0)
    rows, draws = rng.uniform(0.0, 1.0, (2, 4000, 1))
    draws[:400] += 10.0
    found = extrapolation(rng, rows, draws, rng.uniform(0.0, 8.0, (4000, 1)))
    assert found.share == pytest.approx(0.1 + 0.9 * found.expected, abs=5 * found.error)
    assert found.box == pytest.approx(7 / 8, abs=5 * np.sqrt(7 / 64 / 4000) + found.expected)


def test_ranks_count_every_row_once():
    values = np.random.default_rng(0).normal(size=500)
    found = uniformity(values, values)
    assert found.counts == (25,) * 20
    assert found.distance == 0.0


def test_independent_rows_of_a_correlated_chain_are_not_correlated():
    """An autoregression of autocorrelation time (1 + 0.9) / (1 - 0.9) = 19, in two walkers that alternate."""
    rng = np.random.default_rng(0)
    x = np.zeros((20_000, 2))
    for t in range(1, len(x)):
        x[t] = 0.9 * x[t - 1] + np.sqrt(1 - 0.81) * rng.normal(size=2)
    chain = Chain(x.reshape(-1, 1), ParameterSpace(["x"]), chain_id=np.tile([0, 1], len(x)))
    rows = independent_rows(jax.random.key(0), chain, chain.samples[:, 0] ** 2, 20_000)
    assert 40_000 / 19 * 0.5 < len(rows) < 40_000 / 19
    assert autocorrelation_time(chain.samples[rows])[0] < 1.2
    assert len(independent_rows(jax.random.key(0), chain, chain.samples[:, 0], 100)) == 100


def test_independent_rows_of_a_weighted_chain_are_seldom_copies():
    rng = np.random.default_rng(0)
    space = ParameterSpace(["x"])
    even = Chain(rng.normal(size=(1000, 1)), space, weights=np.ones(1000))
    assert len(np.unique(independent_rows(jax.random.key(0), even, even.samples[:, 0], 5000))) == 1000
    uneven = even.replace(weights=rng.lognormal(size=1000))
    rows = independent_rows(jax.random.key(0), uneven, even.samples[:, 0], 5000)
    assert 50 < len(rows) < uneven.effective_size
    assert len(np.unique(rows)) > 0.95 * len(rows)


def test_rows_of_a_chain_with_multiplicities_that_are_taken_as_independent_are():
    """Kolmogorov-Smirnov at one in a thousand, 40 seeds of a slow Metropolis chain: two alarms in 0.1 % of tests."""
    alarms = 0
    for seed in range(40):
        rows, counts = metropolis(10_000, 0.8, seed)
        chain = Chain(rows, ParameterSpace(["x", "y"]), weights=counts)
        chosen = independent_rows(jax.random.key(seed), chain, np.empty((chain.n, 0)), 20_000)
        assert 100 < len(chosen) < chain.effective_size
        alarms += min(kstest(chain.samples[chosen, j], norm.cdf).pvalue for j in range(2)) < 5e-4
    assert alarms < 2


def test_a_report_says_how_far_out_it_was_tested():
    prior = mixture_prior(2, NORMAL)
    for n, sigma in ((1000, 2.58), (10_000, 3.29)):  # a hundredth, a thousandth of the mass beyond, on both sides
        drawn = Chain(np.random.default_rng(0).normal(size=(n, 2)), prior.space, rows="independent")
        report = quality_report(jax.random.key(0), prior, drawn)
        assert report.tested_to == (10 / n, pytest.approx(sigma, abs=0.01))
        assert f"{sigma:.1f} sigma: 10 held-out rows" in str(report)


def test_heavy_tails_raise_no_alarm_of_means():
    """Rows of a log-normal density with a deviation of two: its mean is made by a few of them."""
    prior = make_prior([(0.0, np.inf), (-np.inf, np.inf)], FlowConfig(base="normal", layers=1, hidden=(8,)))
    for seed in range(10):
        omega = np.random.default_rng(seed).normal(size=(2000, 2))
        with jax.enable_x64(True):
            rows = np.asarray(prior.from_latent(omega))
        report = quality_report(jax.random.key(seed), prior, Chain(rows, prior.space, rows="independent"))
        assert report.verdict == "pass", report.reasons
