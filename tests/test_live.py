"""A flow that asks the density itself: is it better, are its numbers exact, and does it go on after a kill?"""

from dataclasses import replace

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

import numpyro_flowprior as fp
from numpyro_flowprior import Chain, FlowConfig, FlowPriorWarning, LiveConfig, ModelDensity, ParameterSpace, TrainConfig
from numpyro_flowprior.diagnostics.importance import density_report
from numpyro_flowprior.training.live import _chances

KEY = jax.random.key(0)
CONFIG = FlowConfig(layers=3, hidden=(24,), components=4)
SMALL = CONFIG, TrainConfig("log_variance", 5e-3, batch_size=256, max_steps=600)
DRAWS_ALONE = CONFIG, TrainConfig("nll", 5e-3, batch_size=256, max_steps=600)
SPACE = ParameterSpace(["a", "b", "c"])
LOG_EVIDENCE = 1.5 * np.log(2 * np.pi) - 2 * np.log(3.0)  # of `banana`


def banana(x):
    """A curved density, unnormalised: (b, c) are normal about functions of a, with deviations of a third."""
    return -0.5 * (x[:, 0] ** 2 + 9 * (x[:, 1] - x[:, 0] ** 2) ** 2 + 9 * (x[:, 2] - np.sin(2 * x[:, 0])) ** 2)


def draws(n, seed=0):
    """Returns independent draws of `banana`."""
    a, b, c = np.random.default_rng(seed).normal(size=(3, n))
    return Chain(np.stack([a, a**2 + b / 3, np.sin(2 * a) + c / 3], axis=1), SPACE, rows="independent")


def kl_of(prior, seed=1, reach=np.inf):
    """Returns the KL from `banana` to a prior, at draws that it never saw, within `reach` deviations of a."""
    x = draws(20_000, seed).samples
    x = x[np.abs(x[:, 0]) < reach]
    return float(np.mean(banana(x) - LOG_EVIDENCE - np.asarray(prior.log_prob(x))))


@pytest.fixture(scope="module")
def fit():
    """A fit with the density, from few draws."""
    return fp.fit_flow(KEY, draws(600), *SMALL, density=banana, live=LiveConfig(0.97, 120_000), progress=False)


def test_the_density_makes_the_flow_better_than_the_draws(fit):
    without = fp.fit_flow(KEY, draws(600), *DRAWS_ALONE, progress=False).prior
    assert kl_of(fit.prior) < 0.3 * kl_of(without)
    efficiencies = [found["efficiency"] for found in fit.prior.info["live"]["rounds"]]
    assert max(efficiencies) > efficiencies[0]


def test_the_report_is_exact(fit):
    found = fit.density_report
    assert abs(found.log_evidence - LOG_EVIDENCE) < 4 * found.log_evidence_error + 1e-3
    # Farther out, the flow of a short training is too low by tens of nats, where neither has draws enough to say so.
    assert abs(found.kl_to_prior - kl_of(fit.prior, reach=3.0)) < 4 * found.kl_to_prior_error + 0.01
    assert "importance efficiency" in str(fit)
    recorded = fit.prior.info["live"]
    assert recorded["calls"] <= 120_000
    assert recorded["stopped_by"] in ("efficiency", "calls", "no gain")


@pytest.mark.parametrize("wide", [0, 500])
def test_the_report_agrees_with_closed_forms_over_many_seeds(wide):
    """p = N(0.2, 1.1^2), q = N(0, 1) in two parameters: both KL and the evidence are known."""
    mean, width, spread, pulls = 0.2, 1.1, 2.0, []
    to_prior = 2 * (0.5 * (width**2 + mean**2 - 1.0) - np.log(width))
    from_prior = 2 * (np.log(width) + 0.5 * (1.0 + mean**2) / width**2 - 0.5)
    for seed in range(40):
        x = np.random.default_rng(seed).normal(size=(4000, 2))
        x[4000 - wide :] *= spread
        log_q = -0.5 * np.sum(x**2, axis=1) - np.log(2 * np.pi)
        log_p = 3.0 - 0.5 * np.sum(((x - mean) / width) ** 2, axis=1) - np.log(2 * np.pi * width**2)
        log_wide = -0.5 * np.sum((x / spread) ** 2, axis=1) - np.log(2 * np.pi * spread**2)
        found = density_report(log_p, log_q, log_wide if wide else None, own=4000 - wide)
        pulls.append(
            (
                (found.kl_to_prior - to_prior) / found.kl_to_prior_error,
                (found.kl_from_prior - from_prior) / found.kl_from_prior_error,
                (found.log_evidence - 3.0) / found.log_evidence_error,
            )
        )
    assert (np.abs(np.mean(pulls, axis=0)) < 4 / np.sqrt(40)).all()
    assert (np.abs(np.std(pulls, axis=0) - 1.0) < 0.5).all()
    same = density_report(log_q + 2.0, log_q)
    assert same.efficiency == pytest.approx(1.0)
    assert same.kl_to_prior == pytest.approx(0.0, abs=1e-12)


def test_the_report_of_a_density_that_is_zero_at_some_draws_or_all():
    log_q = np.zeros(1000)
    half = density_report(np.where(np.arange(1000) < 500, 0.0, -np.inf), log_q)
    assert half.outside == 0.5
    assert half.efficiency == pytest.approx(0.5)
    assert half.kl_from_prior == np.inf
    assert half.kl_to_prior == pytest.approx(np.log(2.0))
    assert half.log_evidence == pytest.approx(-np.log(2.0))
    nowhere = density_report(np.full(1000, -np.inf), log_q)
    assert not nowhere.reliable
    assert nowhere.efficiency == 0.0
    assert nowhere.to_json()["log_evidence"] is None


def test_draws_of_a_wider_density_add_no_noise_where_the_prior_is_the_density():
    """The weights of such draws differ, but their mean under the prior is known."""
    rng, d, own = np.random.default_rng(1), 20, 3584
    x = rng.normal(size=(4096, d))
    x[own:] *= 1.4
    log_q, log_wide = norm.logpdf(x).sum(axis=1), norm.logpdf(x, scale=1.4).sum(axis=1)
    same = density_report(log_q + 3.0, log_q, log_wide, own=own)
    assert same.kl_to_prior == pytest.approx(0.0, abs=1e-12)
    assert same.log_evidence == pytest.approx(3.0, abs=1e-12)
    assert max(same.kl_to_prior_error, same.log_evidence_error, same.kl_from_prior_error) < 1e-12
    near = density_report(norm.logpdf(x, scale=1.01).sum(axis=1), log_q, log_wide, own=own)
    kl = d * (np.log(1 / 1.01) + 1.01**2 / 2 - 0.5)
    assert near.kl_to_prior == pytest.approx(kl, abs=4 * near.kl_to_prior_error)
    assert near.kl_to_prior_error < 0.1 * kl


def test_the_report_of_a_density_that_is_far_away_is_made_without_a_warning():
    """As for a flow that has learnt nothing: log weights that differ by thousands."""
    log_p = -np.random.default_rng(0).exponential(5000.0, size=4000)
    found = density_report(log_p, np.zeros(4000))
    assert not found.reliable
    assert found.efficiency < 0.01


def test_a_killed_run_goes_on_and_ends_where_it_would_have(tmp_path):
    file = tmp_path / "live.checkpoint"
    options = {"live": LiveConfig(0.999, 80_000), "progress": False}
    whole = fp.fit_flow(KEY, draws(600), *SMALL, density=banana, **options)

    class Killed(Exception):
        pass

    def dies(x):
        dies.calls += len(x)
        if dies.calls > 60_000:
            raise Killed
        return banana(x)

    dies.calls = 0
    with pytest.raises(Killed):
        fp.fit_flow(KEY, draws(600), *SMALL, density=dies, checkpoint=file, **options)
    counted = []
    again = fp.fit_flow(
        KEY, draws(600), *SMALL, density=lambda x: counted.append(len(x)) or banana(x), checkpoint=file, **options
    )
    x = draws(100, 5).samples
    np.testing.assert_allclose(again.prior.log_prob(x), whole.prior.log_prob(x), rtol=1e-5, atol=1e-5)
    assert sum(counted) < whole.prior.info["live"]["calls"]
    assert len(again.prior.info["live"]["rounds"]) == len(whole.prior.info["live"]["rounds"])
    with pytest.raises(ValueError, match="expected a run with the same 'chain'"):
        fp.fit_flow(KEY, draws(600, 9), *SMALL, density=banana, checkpoint=file, **options)
    with pytest.raises(ValueError, match="expected a run with this density"):
        fp.fit_flow(KEY, draws(600), *SMALL, density=lambda x: 2.0 * banana(x), checkpoint=file, **options)


def test_a_model_is_found_by_names_and_a_prior_is_not_trained_twice(fit):
    def model():
        c = numpyro.sample("c", dist.Normal(0.0, 1.0))
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("b", dist.Normal(a**2, 0.5))
        numpyro.sample("y", dist.Normal(c, 1e3), obs=0.0)

    a, b, c = np.random.default_rng(0).normal(size=(3, 600))
    chain = Chain(np.stack([a, a**2 + 0.5 * b, c], axis=1), SPACE, rows="independent")
    first = fp.fit_flow(KEY, chain, *DRAWS_ALONE, progress=False)
    found = fp.fit_flow(
        KEY, chain, *SMALL, density=ModelDensity(model), start=first.prior, live=LiveConfig(0.9, 60_000), progress=False
    )
    assert abs(found.density_report.log_evidence + np.log(1e3 * np.sqrt(2 * np.pi))) < 0.02
    assert found.density_report.efficiency > 0.9
    with pytest.raises(ValueError, match="expected a prior over the chain's parameters"):
        fp.fit_flow(KEY, chain.select(["a", "b"]), *SMALL, density=banana, start=first.prior)


def test_no_mode_is_lost():
    """Two modes far apart, 9 to 1, both in the chain: the rounds keep them, with their masses."""
    rng = np.random.default_rng(0)
    far = rng.random(3000) < 0.1
    x = rng.normal(size=(3000, 2)) * 0.5 + np.where(far, 4.0, -1.0)[:, None]
    chain = Chain(x, ParameterSpace(["a", "b"]), rows="independent")

    def two(x):
        near, away = (-2.0 * np.sum((x - centre) ** 2, axis=1) for centre in (-1.0, 4.0))
        return np.logaddexp(np.log(0.9) + near, np.log(0.1) + away)

    found = fp.fit_flow(KEY, chain, *SMALL, density=two, live=LiveConfig(0.995, 150_000), progress=False)
    drawn = np.asarray(found.prior.sample(jax.random.key(1), (20_000,)))
    assert np.mean(drawn[:, 0] > 1.5) == pytest.approx(0.1, abs=0.015)
    assert found.density_report.kl_to_prior < 0.05


def test_no_weight_steers():
    weights = np.append(np.full(999, 0.5), 500.0)
    chances = _chances(weights)
    assert chances.max() == 1.0
    assert chances[:999] == pytest.approx(0.05)  # cut at ten times the mean, not at 500
    assert not _chances(np.zeros(4)).any()


def test_points_of_density_zero_are_used_and_counted():
    """Half of a normal density is cut away, and no bound is declared."""
    x = np.abs(np.random.default_rng(0).normal(size=(2000, 2)))
    chain = Chain(x, ParameterSpace(["a", "b"]), rows="independent")

    def cut(x):
        return np.where((x > 0).all(axis=1), -0.5 * np.sum(x**2, axis=1), -np.inf)

    found = fp.fit_flow(KEY, chain, *SMALL, density=cut, live=LiveConfig(0.99, 150_000), progress=False)
    assert found.density_report.efficiency > found.prior.info["live"]["rounds"][0]["efficiency"] + 0.02
    outside = np.mean((np.asarray(found.prior.sample(KEY, (20_000,))) < 0).any(axis=1))
    assert found.density_report.outside == pytest.approx(outside, abs=0.005)
    assert abs(found.density_report.log_evidence - np.log(np.pi / 2)) < 0.02


@pytest.mark.filterwarnings("ignore:density. NaN")
def test_bad_densities_are_refused_with_a_reason():
    def other():
        numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal()), 1.0), obs=0.0)

    chain = draws(300)
    fit = {"config": SMALL[0], "train": SMALL[1], "progress": False}
    with pytest.raises(TypeError, match="expected a ModelDensity, or a function"):
        fp.fit_flow(KEY, chain, density=3.0, **fit)
    with pytest.raises(ValueError, match="only training on a density uses it"):
        fp.fit_flow(KEY, chain, live=LiveConfig(), **fit)
    with pytest.raises(ValueError, match=r"density: expected shape \(271\); got \(271, 1\)"):
        fp.fit_flow(KEY, chain, density=lambda x: banana(x)[:, None], **fit)
    with pytest.raises(ValueError, match="got \\+inf at 271 of 271"):
        fp.fit_flow(KEY, chain, density=lambda x: np.full(len(x), np.inf), **fit)
    with pytest.raises(ValueError, match="zero or undefined at 271 of 271"):
        fp.fit_flow(KEY, chain, density=lambda x: np.full(len(x), np.nan), **fit)
    with pytest.raises(ValueError, match="expected the chain's parameters"):
        fp.fit_flow(KEY, chain, density=ModelDensity(other), **fit)
    with pytest.raises(ValueError, match=r"LiveConfig.efficiency"):
        LiveConfig(efficiency=1.0)
    with pytest.raises(ValueError, match=r"LiveConfig.max_calls"):
        LiveConfig(max_calls=100)


def test_a_log_density_of_something_else_is_replaced_with_a_warning():
    chain = draws(400)
    chain = chain.replace(log_prob=np.random.default_rng(0).normal(size=400))
    with pytest.warns(FlowPriorWarning, match="differ by .* with a scatter of"):
        fp.fit_flow(KEY, chain, *SMALL, density=banana, live=LiveConfig(0.5, 20_000), progress=False)


def test_an_interruption_keeps_the_best_flow():
    def interrupted(x):
        interrupted.calls += len(x)
        if interrupted.calls > 30_000:
            raise KeyboardInterrupt
        return banana(x)

    interrupted.calls = 0
    with pytest.warns(FlowPriorWarning, match="interrupted"):
        found = fp.fit_flow(KEY, draws(400), *SMALL, density=interrupted, live=LiveConfig(0.999), progress=False)
    assert found.prior.info["live"]["stopped_by"] == "interrupted"
    assert found.density_report.draws == 14_336  # of 16,384; the others are of the flow widened


def test_support_points_get_the_constant_of_the_density():
    """They come with another constant, and with a point at which the density is zero."""
    chain, points = draws(400), draws(200, 7)
    chain = chain.replace(log_prob=banana(chain.samples))
    outside = Chain([[50.0, 0.0, 0.0]], SPACE)
    points = Chain(np.concatenate([points.samples, outside.samples]), SPACE, rows="independent")

    def shifted(x):
        return np.where(x[:, 0] > 40.0, -np.inf, banana(x) + 100.0)

    options = {"live": LiveConfig(0.9, 60_000), "progress": False}
    known = points.take(np.arange(200)).replace(log_prob=banana(points.samples[:200]))
    for support in (points, known):
        found = fp.fit_flow(KEY, chain, *SMALL, density=shifted, support_points=support, **options)
        assert abs(found.density_report.log_evidence - 100.0 - LOG_EVIDENCE) < 0.05
        assert found.density_report.kl_to_prior < 0.2
    with pytest.raises(ValueError, match="support_points: expected a density above zero"):
        fp.fit_flow(KEY, chain, *SMALL, density=shifted, support_points=outside, **options)


def test_rows_of_weight_zero_other_losses_and_flows_without_bounds_are_taken():
    rows = draws(400)
    weights = np.where(np.arange(400) < 300, 1.0, 0.0)
    weighted = Chain(rows.samples, SPACE, weights=weights, rows="independent")
    options = {"density": banana, "live": LiveConfig(0.5, 30_000), "progress": False}
    assert fp.fit_flow(KEY, weighted, *SMALL, **options).density_report.efficiency > 0.1
    bounded = Chain(rows.samples, ParameterSpace(["a", "b", "c"], -20.0, 20.0), rows="independent")
    unbounded = replace(CONFIG, support=False)
    start = fp.fit_flow(KEY, bounded, unbounded, DRAWS_ALONE[1], progress=False).prior
    assert fp.fit_flow(KEY, bounded, unbounded, SMALL[1], start=start, **options).density_report.efficiency > 0.1
    known = rows.replace(log_prob=banana(rows.samples), log_evidence=LOG_EVIDENCE)
    jeffreys = TrainConfig("jeffreys", 5e-3, batch_size=256, max_steps=300, normalised=True)
    assert fp.fit_flow(KEY, known, CONFIG, jeffreys, **options).density_report.efficiency > 0.1


@pytest.mark.parametrize(("size", "carries_nothing"), [(1e-3, True), (1.0, False)])
def test_a_long_tail_that_carries_nothing_does_not_matter_to_the_evidence(size, carries_nothing):
    """Weights 1 + size * Pareto exceedances of shape 0.8, whose mean is exact; over seeds, so that k is above 0.7."""
    known, off = [], []
    for seed in range(40):
        u = np.random.default_rng(seed).uniform(size=4000)
        found = density_report(np.log1p(size * (u**-0.8 - 1.0) / 0.8), np.zeros(4000))
        if not found.reliable:
            known.append(found.evidence_is_reliable)
            off.append(abs(np.exp(found.log_evidence) / (1.0 + size / 0.2) - 1.0))
    assert len(known) > 10
    if carries_nothing:  # if the shape is near one, the tail is long
        assert np.mean(known) > 0.5
        assert np.max(np.array(off)[known]) < 0.01
    else:
        assert not any(known)
        assert np.mean(np.array(off) > 0.01) > 0.8
