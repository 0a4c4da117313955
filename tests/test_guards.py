"""Guards of a stage: their statistics against exact ones, their alarms, and the quiet of right stages."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import kstest, multivariate_normal, norm
from toys import correlated_chain

from numpyro_flowprior import Chain, Guards, ModelDensity, ParameterSpace, check_stage, psis_reweight, tension
from numpyro_flowprior.diagnostics.coverage import Extrapolation
from numpyro_flowprior.diagnostics.posterior_divergence import posterior_divergence
from numpyro_flowprior.sampling.broad_start import WeightedPrior
from numpyro_flowprior.stages import findings as say
from numpyro_flowprior.stages import guards as guards_module
from numpyro_flowprior.stages.exact import ExactDensity, PriorError, prior_error
from numpyro_flowprior.stages.findings import Finding
from numpyro_flowprior.stages.folder import write_json
from numpyro_flowprior.stages.guards import _uncorrected
from numpyro_flowprior.stages.overlooked import Overlooked, overlooked
from numpyro_flowprior.stages.predictive import PredictiveCheck, predictive_check
from numpyro_flowprior.stages.resting import Resting, beyond_rows, rows_rested_on
from numpyro_flowprior.stages.steps import guarded
from numpyro_flowprior.stages.tension import normal_scores

DESIGN = np.array([[1.0, 0.3], [-0.5, 1.0], [0.7, 0.7]])
SIGMA = 0.8
SPACE = ParameterSpace(["a", "b"])


def model(y):
    theta = numpyro.sample("theta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(DESIGN @ theta, SIGMA), obs=y)


PREDICTIVE = multivariate_normal(cov=DESIGN @ DESIGN.T + SIGMA**2 * np.eye(3))


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_predictive_check_finds_the_analytic_evidences_and_rank(scale):
    y = scale * np.array([0.9, -0.6, 1.0])
    found = predictive_check(jax.random.key(0), ModelDensity(model, y))
    log_evidences = PREDICTIVE.logpdf(PREDICTIVE.rvs(200_000, random_state=1))
    assert found.observed == pytest.approx(PREDICTIVE.logpdf(y), abs=0.15 if scale == 1.0 else 1.0)
    assert found.mean == pytest.approx(log_evidences.mean(), abs=4 * log_evidences.std() / np.sqrt(999))
    assert found.std == pytest.approx(log_evidences.std(), rel=0.15)
    exact = np.mean(log_evidences <= PREDICTIVE.logpdf(y))
    assert found.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 999) + 2e-3)


def factored(y):
    numpyro.factor("y", -((numpyro.sample("theta", dist.Normal()) - y) ** 2))


def half_observed(y):
    mask = np.array([True, False])
    numpyro.sample("y", dist.Normal(numpyro.sample("theta", dist.Normal()), 1.0).expand([2]), obs=y, obs_mask=mask)


def scaled(y):
    with numpyro.handlers.scale(scale=0.5):
        numpyro.sample("y", dist.Normal(numpyro.sample("theta", dist.Normal()), 1.0), obs=y)


@pytest.mark.parametrize(("which", "y"), [(factored, 0.1), (half_observed, np.array([0.1, 0.0])), (scaled, 0.1)])
def test_data_that_a_model_cannot_predict_are_not_checked(which, y):
    assert predictive_check(jax.random.key(0), ModelDensity(which, y)) is None


def gaussian(rng, mean, covariance, n=4000):
    return Chain(rng.multivariate_normal(mean, covariance, n), SPACE, rows="independent")


def test_the_p_values_of_agreeing_stages_are_uniform():
    """Linear data and Gaussian posteriors, where the statistic is exact but for the chains' own noise."""
    rng, p_values = np.random.default_rng(2), []
    first = np.eye(2)
    second = np.linalg.inv(np.eye(2) + DESIGN.T @ DESIGN / SIGMA**2)
    for _ in range(200):
        theta = rng.multivariate_normal(np.zeros(2), first)
        y = DESIGN @ theta + SIGMA * rng.normal(size=3)
        before, after = gaussian(rng, [0, 0], first), gaussian(rng, second @ DESIGN.T @ y / SIGMA**2, second)
        found = tension(before, after)
        assert found.freedom == 2
        p_values.append(found.p_value)
    assert kstest(p_values, "uniform").pvalue > 1e-3  # the false-alarm rate of this test
    assert np.mean(np.array(p_values) < 0.05) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 200)


def test_a_shift_that_agreeing_data_would_not_make_is_seen():
    rng = np.random.default_rng(3)
    before, after = gaussian(rng, [0, 0], np.eye(2), 50_000), gaussian(rng, [2.0, 0.0], np.diag([0.75, 0.75]), 50_000)
    found = tension(before, after)
    assert found.pull[0] == pytest.approx(4.0, rel=0.05)
    assert found.shift[0] == pytest.approx(2.0, abs=0.05)
    assert found.sigma > 3.0
    assert found.reason == ""
    assert found.p_value == pytest.approx(2 * norm.sf(found.sigma), rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 2.0, 5.0, 50.0])
def test_a_posterior_that_is_not_narrower_in_any_direction_has_no_test(shift):
    """Data that say nothing; and two posteriors of which neither is an update of the other, however far apart."""
    rng = np.random.default_rng(4)
    found = tension(gaussian(rng, [0, 0], np.eye(2)), gaussian(rng, [shift, 0], np.eye(2)))
    assert found.freedom == 0
    assert np.isnan([found.p_value, found.sigma, *found.pull]).all()
    assert "not narrower than the previous one in any direction" in found.reason
    assert say.of_tension(found) == Finding("shifts of the parameters", "info", f"no test: {found.reason}")
    few = tension(gaussian(rng, [0, 0], np.eye(2), 4), gaussian(rng, [0, 0], 0.1 * np.eye(2), 2))
    assert "fewer than two independent rows" in few.reason


def test_chains_that_cannot_be_compared_are_refused():
    rng = np.random.default_rng(4)
    moving, other = gaussian(rng, [0, 0], np.eye(2)), Chain(rng.normal(size=(50, 1)), ParameterSpace(["c"]))
    with pytest.warns(UserWarning, match="b"):
        stuck = Chain(moving.samples * [1.0, 0.0], SPACE)
    for pair in ((moving, stuck), (stuck, moving)):
        with pytest.raises(ValueError, match="expected parameters that vary in both chains; 'b' takes a single value"):
            tension(*pair)
    with pytest.raises(ValueError, match="expected chains that share parameters; got 'a', 'b' and 'c'"):
        tension(moving, other)


def test_normal_scores_are_standard_normal_with_weights_too():
    chain = correlated_chain(20_000)
    weights = np.random.default_rng(0).uniform(size=chain.n)
    scores = normal_scores(chain.samples, chain.replace(weights=weights))
    probabilities = weights / weights.sum()
    np.testing.assert_allclose(probabilities @ scores, 0.0, atol=2e-3)
    np.testing.assert_allclose(probabilities @ scores**2, 1.0, atol=1e-2)


def test_the_prior_error_is_the_divergence_of_the_posteriors():
    """q is 30 % too wide in one of two Gaussian directions: KL(J || J_q) in closed form, from draws of J_q."""
    rng, precision = np.random.default_rng(5), DESIGN.T @ DESIGN / SIGMA**2
    right, wrong = np.eye(2), np.diag([1.3**2, 1.0])
    y = np.array([0.9, -0.6, 1.0])

    def posterior(prior):
        covariance = np.linalg.inv(np.linalg.inv(prior) + precision)
        return covariance @ DESIGN.T @ y / SIGMA**2, covariance

    (mean, covariance), (mean_q, covariance_q) = posterior(right), posterior(wrong)
    inverse = np.linalg.inv(covariance_q)
    exact = 0.5 * (
        np.trace(inverse @ covariance)
        - 2
        + (mean_q - mean) @ inverse @ (mean_q - mean)
        + np.log(np.linalg.det(covariance_q) / np.linalg.det(covariance))
    )
    samples = rng.multivariate_normal(mean_q, covariance_q, 50_000)
    log_q, log_p = (multivariate_normal.logpdf(samples, cov=prior) for prior in (wrong, right))
    chain = Chain(samples, SPACE, log_prior=log_q)
    found = prior_error(chain, ExactDensity(SPACE.names, lambda x: multivariate_normal.logpdf(x, cov=right), True))
    assert found.loss == pytest.approx(exact, abs=4 * found.loss_error)
    assert found.loss_error < 0.1 * exact
    assert found.pareto_k < 0.7
    own = posterior_divergence(log_q - log_p, np.full(50_000, 1 / 50_000))  # of the wrong direction, for contrast
    assert own[0] != pytest.approx(found.loss, abs=4 * found.loss_error)


def test_draws_where_the_exact_prior_is_next_to_nothing_do_not_hide_the_error():
    """A learned prior with a third of its mass 900 nats too high: its posterior loses log 3/2, and says so."""
    rng = np.random.default_rng(8)
    samples = rng.normal(size=(6000, 2))
    log_q = multivariate_normal.logpdf(samples, cov=np.eye(2))
    chain = Chain(samples, SPACE, log_prior=log_q)

    def log_p(depth):
        return ExactDensity(SPACE.names, lambda x: log_q - np.where(np.arange(len(x)) % 3 == 0, depth, 0.0), True)

    for depth in (900.0, np.inf):
        found = prior_error(chain, log_p(depth))
        assert found.loss == pytest.approx(np.log(1.5), rel=1e-6)
        assert found.loss_error == pytest.approx(np.sqrt(0.5 / 6000), rel=0.1)
        assert say.of_error(found, 0.0, corrected=False).verdict == "fail"
    nowhere = prior_error(chain, ExactDensity(SPACE.names, lambda x: np.full(len(x), -np.inf), True))
    assert {say.of_error(nowhere, 0.0, corrected=corrected).verdict for corrected in (False, True)} == {"fail"}


ENDS = np.array([[-2.0, -2.0], [2.0, 2.0]])


def two_ends(share):
    theta = numpyro.sample("theta", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    parts = [
        np.log(w) + dist.Normal(end, 0.3).log_prob(theta).sum() for w, end in zip((share, 1 - share), ENDS, strict=True)
    ]
    numpyro.factor("ends", jax.numpy.logaddexp(*parts))


@pytest.mark.parametrize(
    ("share", "of_draws", "verdict"),
    [(0.5, 0.5, "pass"), (0.02, 0.02, "pass"), (0.3, 5e-4, "fail"), (0.06, 0.0, "warn"), (0.01, 0.0, "pass")],
)
def test_a_mode_that_the_posterior_missed_is_found_uphill_from_rows_of_the_stage_before(share, of_draws, verdict):
    """Rows that all are below both modes; a posterior that has both, or of the first a few strays at most."""
    rng, density = np.random.default_rng(9), ModelDensity(two_ends, share)
    exact = ExactDensity(density.names, density.log_prior, True)
    rows = density.sample_prior(jax.random.key(0), 20_000)
    before = Chain(rows[(np.linalg.norm(rows[:, None] - ENDS, axis=2) > 1.0).all(axis=1)], density.space)
    at = np.where(rng.random(8000) < of_draws, 0, 1)
    chain = Chain(ENDS[at] + 0.3 * rng.normal(size=(8000, 2)), density.space)
    found = overlooked(jax.random.key(1), density, chain, before, exact)
    assert found.climbs > 0
    assert say.of_overlooked(found).verdict == verdict
    if share > 2.0 * of_draws:  # some of its tail and of the other's is where there are next to no draws
        assert found.share == pytest.approx(share, abs=0.01 + 0.05 * share)
        assert found.loss == pytest.approx(-np.log1p(-found.share))
        np.testing.assert_allclose(list(found.example.values()), ENDS[0], atol=0.1)
        assert "% of the posterior, around theta[0] = -1." in say.of_overlooked(found).text
    else:
        assert found.share < 1e-3
    few = chain.take(np.arange(19))
    assert overlooked(jax.random.key(1), density, few, before, exact) is None
    assert "too few draws" in say.of_overlooked(None).text


def two_peaks(y):
    x = numpyro.sample("x", dist.Normal(0.0, 5.0))
    numpyro.factor("peaks", jax.numpy.logaddexp(-0.5 * ((x - y) / 0.1) ** 2, -0.5 * ((x + y) / 0.1) ** 2))


def test_a_missed_mode_of_one_parameter_is_half_of_the_posterior():
    rng, density = np.random.default_rng(11), ModelDensity(two_peaks, 2.0)
    exact = ExactDensity(density.names, density.log_prior, True)
    before, chain = (Chain(x[:, None], density.space) for x in (5 * rng.normal(size=5000), rng.normal(2.0, 0.1, 5000)))
    found = overlooked(jax.random.key(1), density, chain, before, exact)
    assert found.share == pytest.approx(0.5, abs=0.03)
    assert found.example["x"] == pytest.approx(-2.0, abs=0.05)


def edge(y):
    b = numpyro.sample("b", dist.Uniform(-1.0, 1.0))
    a = numpyro.sample("a", dist.Uniform(0.0, 1.0))
    numpyro.factor("edges", jax.numpy.logaddexp(-a / 0.02, y - (1.0 - a) / 0.02) - 0.5 * (b / 0.1) ** 2)


def test_a_missed_mode_at_a_bound_is_weighed_with_a_parameter_that_the_stage_before_had_not():
    """Two exponentials at the ends of a box, of masses 1 and e^y; the posterior has the first, the chain before `a`."""
    rng, density = np.random.default_rng(10), ModelDensity(edge, 0.5)
    exact = ExactDensity(density.names, density.log_prior, True)
    before = Chain(rng.uniform(0.2, 0.8, size=(5000, 1)), ParameterSpace(["a"], 0.0, 1.0))
    values = {"a": rng.exponential(0.02, 6000), "b": 0.1 * rng.normal(size=6000)}
    chain = Chain(np.stack([values[name] for name in density.names], axis=1), density.space)
    found = overlooked(jax.random.key(1), density, chain, before, exact)
    assert found.share == pytest.approx(1.0 / (1.0 + np.exp(-0.5)), abs=0.03)
    assert found.example["a"] == pytest.approx(1.0, abs=1e-3)


def test_rows_rested_on_are_the_effective_size_after_reweighting():
    rng = np.random.default_rng(6)
    before = gaussian(rng, [0, 0], np.eye(2), 20_000)
    y = np.array([1.9, -0.6, 1.0])
    log_likelihood = norm.logpdf(y, before.samples @ DESIGN.T, SIGMA).sum(axis=1)
    weights = np.exp(log_likelihood)
    kish = weights.sum() ** 2 / (weights**2).sum()
    after = before.replace(
        weights=weights,
        log_likelihood=log_likelihood,
        log_prior=np.zeros(before.n),
        log_evidence=float(np.log(weights.mean())),
    )
    assert rows_rested_on(after, before).rows == pytest.approx(kish * before.effective_size / before.n, rel=1e-6)
    assert rows_rested_on(after.replace(log_evidence=None), before) is None


def test_the_error_of_rows_rested_on_is_their_scatter():
    """Over 200 simulated chains whose likelihood is log-normal; the evidence's own error is added in quadrature."""
    rng = np.random.default_rng(7)
    before, found = gaussian(rng, [0, 0], np.eye(2), 500), []
    for _ in range(200):
        after = gaussian(rng, [0, 0], np.eye(2), 2000).replace(log_likelihood=rng.normal(0.0, 0.5, 2000))
        noise = rng.normal(0.0, 0.02)
        found.append(rows_rested_on(after.replace(log_evidence=noise - 2.0, log_evidence_error=0.02), before))
    scatter = np.std(np.log([each.rows for each in found]))
    told = np.mean([each.error / each.rows for each in found])
    assert told == pytest.approx(scatter, rel=4 / np.sqrt(2 * 200))  # four standard errors of a standard deviation


def test_a_share_beyond_few_rows_is_not_told():
    rng = np.random.default_rng(9)
    many, few = gaussian(rng, [0, 0], np.eye(2), 400), gaussian(rng, [0, 0], np.eye(2), 40)
    assert beyond_rows(jax.random.key(0), many, many).share < 0.05
    for pair in ((many, few), (few, many)):
        assert beyond_rows(jax.random.key(0), *pair) is None
    assert say.of_beyond(None, None, known=False).verdict == "info"


def test_guards_come_back_from_their_record():
    guards = Guards((Finding("one", "pass", "fine"), Finding("two", "warn", "odd", "look")), {"x": 1.0}, True)
    again = Guards.from_json(guards.to_json())
    assert again == guards
    assert again.verdict == "warn"
    assert "-> look" in str(again)
    with pytest.raises(ValueError, match="lacks an entry"):
        Guards.from_json({"findings": []})


def test_guards_that_could_judge_nothing_do_not_pass():
    assert Guards((Finding("one", "info", "not known"),), {}).verdict == "warn"


FINE = gaussian(np.random.default_rng(0), [0, 0], np.eye(2), 20).replace(log_evidence=12.34, log_evidence_error=0.02)
NOTHING_BEYOND, FAR_BEYOND = Extrapolation(0.0, 0.01, 0.002, 1.0, 0.0), Extrapolation(0.8, 0.01, 0.002, 1e-9, 0.0)
NO_ROWS, FEW_ROWS, MANY_ROWS = Resting(0.3, 0.1), Resting(12.3, 1.2), Resting(210.0, 12.0)
GOOD_PRIOR = PriorError(0.01, 0.002, 0.3)
NAN, INF = float("nan"), float("inf")
MANY, FEW, NONE = WeightedPrior(210.0, 12.3, 0.07), WeightedPrior(3.0, 12.3, 0.6), WeightedPrior(0.0, -INF, INF)


@pytest.mark.parametrize(
    ("finding", "verdict", "words"),
    [
        (say.of_error(GOOD_PRIOR, 0.0, corrected=False), "pass", "learned prior is 0.0100 +- 0.0020 nats (Pareto k"),
        (say.of_error(PriorError(0.3, 0.2, 0.3), 0.0, corrected=False), "warn", "the standard error is too large"),
        (say.of_error(PriorError(0.3, 0.01, 0.3), 0.3, corrected=False), "pass", "up to 0.3567 nats are due to the"),
        (
            say.of_error(PriorError(0.3, 0.01, 0.3), 0.9, corrected=False),
            "fail",
            "90 % of the posterior comes from the broad",
        ),
        (say.of_error(PriorError(0.3, 0.01, 0.3), 1.0, corrected=False), "fail", "100 % of the posterior"),
        (say.of_error(PriorError(INF, INF, INF), 0.0, corrected=False), "fail", "too far apart, or the draws too few"),
        (say.of_error(PriorError(NAN, NAN, 0.3), 0.0, corrected=True), "fail", "too far apart, or the draws too few"),
        (say.of_error(PriorError(0.0, 0.0, -INF), 0.0, corrected=False), "pass", "(equal weights)"),
        (say.of_rows(NO_ROWS, [], NOTHING_BEYOND, known=False), "fail", "although the draws lie among the rows"),
        (say.of_rows(NO_ROWS, [], FAR_BEYOND, known=False), "fail", "fewer than one; too few to train on"),
        (
            say.of_rows(NO_ROWS, [], NOTHING_BEYOND, known=True),
            "info",
            "judged in the first line, with the exact density",
        ),
        (say.of_rows(FEW_ROWS, [], None, known=False), "fail", "12 +- 1; too few to train on"),
        (say.of_rows(FEW_ROWS, ["c"], None, known=False), "info", "that this stage adds (c); this is a lower bound"),
        (say.of_rows(MANY_ROWS, ["c"], None, known=False), "pass", "210 +- 12, reduced by the parameters that this"),
        (say.of_beyond(NOTHING_BEYOND, MANY_ROWS, known=False), "pass", "0.0 +- 0.2 % (1.0 % by chance)"),
        (say.of_beyond(NOTHING_BEYOND, NO_ROWS, known=False), "info", "judged above, by their number"),
        (
            say.of_beyond(NOTHING_BEYOND, NO_ROWS, known=True),
            "info",
            "there are enough rows is judged in the first line",
        ),
        (say.of_beyond(FAR_BEYOND, NO_ROWS, known=False), "fail", "80.0 +- 0.2 %"),
        (say.of_beyond(FAR_BEYOND, NO_ROWS, known=True), "info", "judged in the first line, with the exact density"),
        (
            say.of_sampler(MANY, 32_768, FINE),
            "pass",
            "log evidence from the sampler 12.34 +- 0.02; from 32,768 prior draws (effective size 210) 12.30 +- 0.07",
        ),
        (say.of_sampler(WeightedPrior(210.0, 13.3, 0.07), 32_768, FINE), "fail", "the sampler missed a region"),
        (say.of_sampler(FEW, 32_768, FINE), "warn", "too few draws to compare"),
        (say.of_sampler(NONE, 32_768, FINE), "warn", "the likelihood is zero at all 32,768 prior draws"),
        (
            say.of_sampler(FEW, 32_768, FINE.replace(info={"start": "broad"})),
            "info",
            "the sampler started from a broad prior",
        ),
        (
            say.of_sampler(MANY, 9, FINE.replace(log_evidence_error=NAN)),
            "pass",
            "12.34 (error unknown)",
        ),
        (say.of_sampler(MANY, 9, FINE.replace(log_evidence=-INF)), "info", "not known"),
        (say.of_overlooked(Overlooked(0, 0.0, None)), "pass", "none, all rows lead to regions with draws"),
        (say.of_overlooked(Overlooked(3, 1.0, {"a": 1.0})), "fail", "100.0 +- 0.0 % of the posterior"),
        (say.of_overlooked(None, known=False), "info", "the exact density is unknown"),
        (say.of_prediction(PredictiveCheck(-3.2, -1.2, 1.5, 0.2), MANY), "pass", "2.0 nats below the mean of 999"),
        (say.of_prediction(PredictiveCheck(-3.2, -1.2, 1.5, 0.2), FEW), "info", "prior draws is too small for a test"),
        (
            say.of_prediction(PredictiveCheck(-INF, -1.2, 1.5, 1e-3), NONE),
            "warn",
            "the data is zero at all 4,096 prior draws",
        ),
        (say.of_prediction(PredictiveCheck(-INF, NAN, NAN, 1.0), NONE), "info", "not known"),
        (say.of_sensitivity({"a": {"prior": NAN, "likelihood": 0.1}}), "info", "no finite value"),
    ],
)
def test_findings_say_what_their_numbers_mean(finding, verdict, words):
    assert finding.verdict == verdict, finding
    assert words in finding.text
    assert not {"nan", "inf", "-inf", "+-inf"} & set(re.findall(r"[+-]*\w+", finding.text))
    assert bool(finding.advice) == (verdict in ("warn", "fail"))


def test_the_evidence_is_told_once(monkeypatch):
    """In the line of the sampler and the prior draws; that of the prediction has a difference from others."""
    density = ModelDensity(model, np.array([0.9, -0.6, 1.0]))
    x = density.sample_prior(jax.random.key(1), 4000)
    log_likelihood = density.log_likelihood(x)
    before = Chain(x, density.space)
    chain = before.replace(
        weights=np.exp(log_likelihood),
        log_likelihood=log_likelihood,
        log_prior=density.log_prior(x),
        log_evidence=float(np.log(np.exp(log_likelihood).mean())),
        log_evidence_error=0.02,
    )
    monkeypatch.setattr(guards_module, "power_sensitivity", lambda chain: None)
    prior = SimpleNamespace(space=density.space)
    found = check_stage(jax.random.key(2), density, prior, chain, before)
    lines = [each for each in found.findings if f"{chain.log_evidence:.2f}" in each.text]
    assert [each.subject for each in lines] == ["sampler compared with weighted prior draws"], found
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()


def test_a_reweighted_posterior_is_compared_as_it_was_sampled():
    """Weights exact / learned change the evidence; the learned prior's draws know the one before."""
    density = ModelDensity(model, np.array([0.9, -0.6, 1.0]))
    x = density.sample_prior(jax.random.key(1), 4000)
    sampled = Chain(x, density.space, log_prior=density.log_prior(x), log_evidence=-3.0, log_evidence_error=0.1)
    corrected = psis_reweight(sampled, lambda x: multivariate_normal.logpdf(x, [0.3, 0.0]) + 0.5)
    again = _uncorrected(density, corrected)
    assert abs(corrected.log_evidence + 2.5) < 0.1
    assert again.log_evidence == pytest.approx(-3.0)
    assert again.log_evidence_error == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("kept", "made"), [({"loss": 0.1}, 1), ({"loss": 0.1, "log_evidence_change": None}, 0), (None, 0)]
)
def test_guards_without_the_change_of_the_evidence_are_made_again(tmp_path, kept, made):
    """A folder of an earlier version: its total would lack the change."""
    file, calls = tmp_path / "guards.json", []
    write_json(file, Guards((), {"prior_error": kept}).to_json())
    files = SimpleNamespace(guards=lambda **_: file, made_from=lambda *_: True, begin_making=lambda *_: None)

    def make():
        calls.append(1)
        return Guards((), {"prior_error": {"log_evidence_change": 0.5}})

    guarded(make, files, {}, reweighted=False)
    guarded(make, files, {}, reweighted=False)
    assert len(calls) == made


@pytest.mark.parametrize("correlated", [False, True])
def test_the_change_of_the_evidence_is_the_analytic_one(correlated):
    """Over 20 seeds: learned N(0, 1), exact N(0.2, 1.1), data 0.5 +- 1. If both priors are the same it is zero."""
    priors = norm(0.0, 1.0), norm(0.2, 1.1)
    learned, exact = (ExactDensity(("a",), lambda x, prior=prior: prior.logpdf(x[:, 0]), True) for prior in priors)
    analytic = norm(0.2, np.hypot(1.1, 1.0)).logpdf(0.5) - norm(0.0, np.hypot(1.0, 1.0)).logpdf(0.5)
    pulls = []
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=4000)
        for i in range(1, 4000) if correlated else ():
            x[i] = 0.9 * x[i - 1] + np.sqrt(1 - 0.81) * x[i]
        x = 0.25 + np.sqrt(0.5) * x[:, None]
        rows = "sequence" if correlated else "independent"
        chain = Chain(x, ParameterSpace(["a"]), log_prior=learned.log_density(x), rows=rows)
        error = prior_error(chain, exact)
        pulls.append((error.log_evidence_change - analytic) / error.log_evidence_change_error)
        assert prior_error(chain, learned).log_evidence_change == pytest.approx(0.0, abs=1e-12)
        assert prior_error(chain, replace(exact, normalised=False)).log_evidence_change is None
    assert abs(np.mean(pulls)) < 4 / np.sqrt(20)
    assert 0.5 < np.std(pulls) < 1.6
