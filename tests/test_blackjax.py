"""sample_blackjax against exact posteriors and evidences, and what it says of its own runs."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import beta, halfnorm, kstest, norm
from toys import make_prior

from numpyro_flowprior import FlowConfig, ModelDensity, sample_blackjax, to_arviz
from numpyro_flowprior.sampling import blackjax as module
from numpyro_flowprior.sampling.unconstrained import Unconstrained, half_line_scales

KEY = jax.random.key(1)
Y = np.array([2.5])
POSTERIOR_MEAN, POSTERIOR_SD = (1.0 / 4 + 2.5) / (1 + 1 / 4), np.sqrt(1 / (1 + 1 / 4))
LOG_EVIDENCE = norm(1.0, np.sqrt(5.0)).logpdf(2.5)


def conjugate(y):
    """Normal mean with a normal prior; a bounded and a positive parameter that the data leave alone."""
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    numpyro.sample("flat", dist.Uniform(0.0, 2.0))
    numpyro.sample("scale", dist.HalfNormal(200.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.fixture(scope="module")
def density():
    return ModelDensity(conjugate, Y)


@pytest.fixture(scope="module")
def chain(density):
    return sample_blackjax(KEY, density, progress=False)


def assert_marginals(chain, exact):
    """Kolmogorov-Smirnov of each marginal at the effective size; a false alarm in 10,000 / d seeds."""
    thin = int(np.ceil(chain.n / chain.info["effective_size"]))
    for column, cdf in zip(chain.samples[::thin].T, exact, strict=True):
        assert kstest(column, cdf).pvalue > 1e-4


def test_the_exact_posterior_and_evidence(density, chain):
    assert_marginals(chain, [norm(POSTERIOR_MEAN, POSTERIOR_SD).cdf, lambda x: x / 2, halfnorm(0, 200).cdf])
    assert 0 < chain.log_evidence_error < 0.1
    off = (chain.log_evidence - LOG_EVIDENCE) / chain.log_evidence_error
    assert abs(off) < 4  # a false alarm in 15,000 seeds
    assert chain.info["converged"]
    assert chain.info["temperatures"][-1] == 1.0
    assert len(chain.info["acceptance"]) == len(chain.info["moves"]) == len(chain.info["temperatures"])
    assert chain.info["calls"] == 2000 * (1 + sum(chain.info["moves"]))
    np.testing.assert_allclose(chain.log_prior, density.log_prior(chain.samples))
    np.testing.assert_allclose(chain.log_prob, chain.log_prior + chain.log_likelihood)
    assert to_arviz(chain, density).posterior.sizes["draw"] == 2000


def test_the_key_decides_and_the_callers_precision_stays(density, chain, capsys, monkeypatch):
    monkeypatch.setattr("numpyro_flowprior._util.progress.Lines._written", -np.inf)
    np.testing.assert_array_equal(sample_blackjax(KEY, density, progress=True).samples, chain.samples)
    assert "power=1," in capsys.readouterr().err
    other = sample_blackjax(jax.random.key(2), density, n_particles=2000, progress=False)
    assert not np.array_equal(other.samples, chain.samples)
    assert jnp.result_type(float) == jnp.float32
    assert capsys.readouterr().err == ""


def test_two_modes_have_their_weights():
    """0.3 and 0.7, 10 deviations apart, under a wide prior."""
    modes = [(0.3, -2.5, 0.5), (0.7, 2.5, 0.5)]

    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        parts = [jnp.log(w) + dist.Normal(m, s).log_prob(x).sum() for w, m, s in modes]
        numpyro.factor("modes", jnp.logaddexp(*parts) - dist.Normal(0.0, 3.0).log_prob(x).sum())

    found = sample_blackjax(KEY, ModelDensity(model), progress=False)
    assert found.info["converged"]
    error = np.sqrt(0.3 * 0.7 / found.info["effective_size"])
    assert (found.samples[:, 0] > 0).mean() == pytest.approx(0.7, abs=4.5 * error)  # a false alarm in 150,000 seeds
    assert abs(found.log_evidence) < 4 * found.log_evidence_error
    assert_marginals(found, [lambda x: sum(w * norm(m, s).cdf(x) for w, m, s in modes)] * 2)


def test_mass_at_the_bounds_stays_there():
    """Beta densities that are infinite at a bound, on a flat prior: no evidence beyond theirs, which is one."""
    shapes = np.array([[0.6, 2.0], [3.0, 0.7]])

    def model():
        x = numpyro.sample("x", dist.Uniform(0.0, 1.0).expand([2]).to_event(1))
        numpyro.factor("beta", dist.Beta(*shapes.T).log_prob(x).sum())

    found = sample_blackjax(KEY, ModelDensity(model), progress=False)
    assert_marginals(found, [beta(*shape).cdf for shape in shapes])
    assert ((found.samples > 0) & (found.samples < 1)).all()
    assert abs(found.log_evidence) < 4 * found.log_evidence_error


@pytest.mark.parametrize(("coordinates", "base"), [("latent", "mixture"), ("parameters", "normal")])
def test_the_posterior_of_a_learned_prior_is_that_of_importance_weights(coordinates, base):
    prior = make_prior([(0.0, 1.0), (0.0, np.inf)], FlowConfig(layers=2, hidden=(8,), base=base))

    def model(y):
        theta = numpyro.sample("theta", prior)
        numpyro.sample("y", dist.Normal(theta[0] + theta[1], 0.3), obs=y)

    found = sample_blackjax(KEY, ModelDensity(model, 0.9), coordinates=coordinates, progress=False)
    assert found.names == prior.names
    assert prior.space.contains(found.samples).all()
    draws = np.asarray(prior.sample(jax.random.key(5), (200_000,)), float)
    weights = norm(draws.sum(axis=1), 0.3).pdf(0.9)
    mean, error = weights @ draws / weights.sum(), found.samples.std(0) / np.sqrt(found.info["effective_size"])
    assert (np.abs(found.mean() - mean) < 4.5 * error).all()  # a false alarm in 70,000 seeds
    assert abs(found.log_evidence - np.log(weights.mean())) < 4 * found.log_evidence_error


def test_a_constant_likelihood_gives_the_prior_and_log_evidence_zero():
    prior = make_prior([(0.02, 1.2), (1e-4, 0.28)], FlowConfig(layers=2, hidden=(8,)))

    def flat():
        numpyro.sample("theta", prior)
        numpyro.factor("nothing", jnp.zeros(()))

    found = sample_blackjax(KEY, ModelDensity(flat), progress=False)
    assert found.log_evidence == pytest.approx(0.0, abs=1e-12)
    assert found.info["temperatures"] == [1.0]


def test_a_likelihood_that_is_zero_at_most_prior_draws():
    """A flat posterior on a tenth of the prior: no power of the likelihood is between, and no step of zero."""

    def tenth():
        x = numpyro.sample("x", dist.Uniform(0.0, 1.0))
        numpyro.factor("support", jnp.where(x < 0.1, 0.0, -jnp.inf))

    found = sample_blackjax(KEY, ModelDensity(tenth), progress=False)
    assert (found.samples < 0.1).all()
    assert abs(found.log_evidence - np.log(0.1)) < 4 * found.log_evidence_error

    def impossible():
        numpyro.sample("x", dist.Uniform(0.0, 1.0))
        numpyro.factor("none", -jnp.inf)

    with pytest.raises(ValueError, match="the likelihood is zero at all of 100 prior draws"):
        sample_blackjax(KEY, ModelDensity(impossible), n_particles=100, progress=False)


def narrow(y, error=0.01):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand(y.shape).to_event(1))
    numpyro.sample("y", dist.Normal(x, error), obs=y)


def test_too_few_moves_and_too_few_particles_say_so():
    density = ModelDensity(narrow, np.zeros(8))
    with pytest.warns(UserWarning, match=r"sample_blackjax: not converged\. Effective size: .* raise n_steps"):
        found = sample_blackjax(KEY, density, n_steps=1, progress=False)
    assert not found.info["converged"]
    assert found.info["effective_size"] == found.effective_size < 200
    with pytest.warns(UserWarning, match="not converged.*Ancestors: expected descendants of 50"):
        sample_blackjax(KEY, density, n_particles=100, progress=False)


def evidences(seeds):
    """The errors of log evidences of four narrow normals, in their stated deviations, of one compiled program."""
    density = ModelDensity(narrow, np.full(4, 0.3), 0.1)
    exact = norm(0.0, np.hypot(1.0, 0.1)).logpdf(0.3) * 4
    z = []
    with jax.enable_x64(True):
        programs = module.Programs(blackjax, Unconstrained(density, half_line_scales(KEY, density)), 0.5, 20)
        for seed in range(seeds):
            run, keys = module._Run(1000, module.StateFile(None, {})), jax.random.split(jax.random.key(seed))
            module._temper(run, programs, keys, np.inf, fixed=True, progress=False)
            z.append((run.log_evidence - exact) / run.error)
        assert programs.sweep.func._cache_size() == programs.rise.func._cache_size() == 1
    return np.array(z)


def test_one_program_serves_all_powers_and_seeds():
    assert np.abs(evidences(3)).max() < 4  # a false alarm in 5000 seeds


@pytest.mark.slow
def test_the_error_of_the_evidence_is_calibrated():
    """Over 60 seeds; normal z of unit width are outside of these bounds once in 2000 tests.

    Systematic resampling makes the error a conservative one: z may be narrower, and the lower bound leaves room.
    """
    z = evidences(60)
    assert abs(np.mean(z)) < 0.5
    assert 0.6 < np.sqrt(np.mean(np.square(z))) < 1.35


def test_a_time_limit_returns_what_there_is_and_that_it_is_not_the_posterior():
    with pytest.warns(UserWarning, match=r"not converged\. Stopped by the time limit at likelihood.*NOT from the post"):
        found = sample_blackjax(KEY, ModelDensity(narrow, np.zeros(8)), max_seconds=0.0, progress=False)
    assert found.info["temperatures"] == []  # it is looked at before the first move: these are draws from the prior
    assert found.info["calls"] == found.n
    assert found.log_evidence is None
    assert not found.info["converged"]


def test_a_time_limit_is_looked_at_between_sweeps(monkeypatch):
    times = itertools.chain(itertools.repeat(0.0, 2), itertools.repeat(np.inf))  # time is up in the first power's moves
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    with pytest.warns(UserWarning, match="Stopped by the time limit"):
        found = sample_blackjax(KEY, ModelDensity(narrow, np.zeros(8)), max_seconds=600.0, progress=False)
    assert 0.0 < found.info["temperatures"][-1] < 0.1
    assert found.info["moves"] == [10]
    assert not found.info["converged"]


def test_an_interruption_returns_what_there_is(density, monkeypatch):
    settle, calls = module._settle, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return settle(*args, **options)

    monkeypatch.setattr(module, "_settle", interrupted)
    with pytest.warns(UserWarning, match="Stopped by an interruption"):
        found = sample_blackjax(KEY, ModelDensity(narrow, np.zeros(8)), progress=False)
    assert len(found.info["temperatures"]) == 1
    np.testing.assert_allclose(found.probabilities, 1 / found.n)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"n_particles": 10}, ValueError),
        ({"target_ess": 1.0}, ValueError),
        ({"n_steps": 0.5}, TypeError),
        ({"coordinates": "box"}, ValueError),
        ({"max_seconds": -1}, ValueError),
    ],
)
def test_bad_settings_are_refused(density, options, error):
    with pytest.raises(error, match=f"sample_blackjax: {next(iter(options))}"):
        sample_blackjax(KEY, density, **options)


def test_a_second_run_of_a_density_compiles_nothing(compiled):
    density = ModelDensity(narrow, np.zeros(2))
    first = sample_blackjax(KEY, density, n_particles=500, progress=False)
    compiled()
    other = sample_blackjax(jax.random.key(5), density, n_particles=500, target_ess=0.6, progress=False)
    again = sample_blackjax(KEY, density, n_particles=500, progress=False)
    assert compiled() == 0
    np.testing.assert_array_equal(again.samples, first.samples)
    assert len(other.info["temperatures"]) > len(first.info["temperatures"])
