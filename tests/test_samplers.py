"""pocoMC and emcee through the bridge, against exact posteriors and evidences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from toys import make_prior

from numpyro_flowprior import (
    FileFormatError,
    FlowConfig,
    ModelDensity,
    read_chain,
    sample_blackjax,
    sample_emcee,
    sample_nuts,
    sample_pocomc,
    to_arviz,
)
from numpyro_flowprior.sampling.state_file import StateFile

KEY = jax.random.key(1)
FAST = {"n_effective": 256, "n_active": 128, "n_total": 1000, "n_evidence": 1000, "progress": False}
FAST |= {"flow": "maf3", "train_config": {"epochs": 30}}


def conjugate(y):
    """Normal mean with a normal prior, and a second parameter that the data leave alone."""
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    numpyro.sample("free", dist.Uniform(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def conjugate_of(y, sigma):
    """The same with another error of the measurement."""
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    numpyro.sample("free", dist.Uniform(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


Y = np.array([2.5])
POSTERIOR_MEAN, POSTERIOR_SD = (1.0 / 4 + 2.5) / (1 + 1 / 4), np.sqrt(1 / (1 + 1 / 4))
LOG_EVIDENCE = -0.5 * np.log(2 * np.pi * 5.0) - 0.5 * (2.5 - 1.0) ** 2 / 5.0


def check_posterior(chain):
    """Means and widths within 5 standard errors at the reported effective size (false alarms under 1e-5)."""
    error = POSTERIOR_SD / np.sqrt(chain.effective_size)
    assert chain.mean()[0] == pytest.approx(POSTERIOR_MEAN, abs=5 * error)
    assert np.sqrt(chain.covariance()[0, 0]) == pytest.approx(POSTERIOR_SD, abs=5 * error)
    assert chain.mean()[1] == pytest.approx(0.5, abs=5 * 0.289 / np.sqrt(chain.effective_size))
    np.testing.assert_allclose(chain.log_prob, chain.log_prior + chain.log_likelihood)


@pytest.fixture(scope="module")
def density():
    return ModelDensity(conjugate, Y)


@pytest.fixture(scope="module")
def pocomc_chain(density):
    return sample_pocomc(KEY, density, **FAST)


def test_pocomc_posterior_and_evidence(density, pocomc_chain):
    check_posterior(pocomc_chain)
    error = np.hypot(5 * pocomc_chain.log_evidence_error, 0.02)
    assert pocomc_chain.log_evidence == pytest.approx(LOG_EVIDENCE, abs=error)
    np.testing.assert_allclose(pocomc_chain.log_likelihood, density.log_likelihood(pocomc_chain.samples))
    assert pocomc_chain.weights is not None
    assert pocomc_chain.info["sampler"] == "pocomc"
    assert pocomc_chain.info["calls"] > 0


def test_pocomc_bar_is_short(density, capsys):
    """pocoMC redraws at every move, thousands of times; in a log file that is megabytes."""
    sample_pocomc(KEY, density, n_effective=256, n_active=128, n_total=1000, precondition=False)
    shown = capsys.readouterr().err
    assert "beta=1" in shown
    assert shown.count("\r") < 50


def test_pocomc_with_a_constant_likelihood_gives_log_evidence_zero():
    """A prior that leaks out of its box, or that is truncated without being renormalised, would not."""
    prior = make_prior([(0.02, 1.2), (1e-4, 0.28), (0.0, 1.5)], FlowConfig(layers=2, hidden=(16,)))

    def flat():
        numpyro.sample("theta", prior)
        numpyro.factor("nothing", jnp.zeros(()))

    chain = sample_pocomc(KEY, ModelDensity(flat), **FAST)
    assert abs(chain.log_evidence) < 4 * chain.log_evidence_error + 1e-6
    assert chain.log_evidence_error < 0.1
    assert prior.space.contains(chain.samples).all()


def test_emcee_posterior(density):
    chain = sample_emcee(KEY, density, n_walkers=32, max_steps=4000, progress=False)
    assert chain.info["converged"]
    assert 0.2 < chain.info["acceptance"] < 0.9
    check_posterior(chain)
    assert len(np.unique(chain.chain_id)) == 32
    data = to_arviz(chain, density)
    assert data.posterior.sizes["chain"] == 32
    np.testing.assert_allclose(data.log_likelihood["y"].values.ravel(), chain.log_likelihood)
    np.testing.assert_array_equal(data.observed_data["y"].values, Y)


@pytest.mark.filterwarnings("ignore:sample_emcee. stopped at max_steps")
def test_same_key_same_chain_quietly_and_global_generators_untouched(density, pocomc_chain, capsys):
    import torch

    np.random.seed(3)
    torch.manual_seed(3)
    expected = np.random.normal(), float(torch.randn(()))
    np.random.seed(3)
    torch.manual_seed(3)
    again = sample_pocomc(KEY, density, **FAST)
    sampled = sample_emcee(KEY, density, n_walkers=8, max_steps=300, progress=False)
    assert (np.random.normal(), float(torch.randn(()))) == expected
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(again.samples, pocomc_chain.samples)
    np.testing.assert_array_equal(
        sample_emcee(KEY, density, n_walkers=8, max_steps=300, progress=False).samples, sampled.samples
    )


@pytest.mark.parametrize("sampler", [sample_emcee, sample_nuts, sample_pocomc, sample_blackjax])
def test_options_that_nobody_knows_are_refused_by_name(density, sampler):
    for name, words in (("colour", "'colour' is no setting of it"), ("space", "It is called coordinates")):
        with pytest.raises(TypeError, match=f"{sampler.__name__}: .*{words}"):
            sampler(KEY, density, **{name: "latent"})


SHORT_NUTS = {"n_samples": 40, "n_warmup": 40, "n_chains": 2, "progress": False}
SHORT_BLACKJAX = {"n_particles": 200, "n_steps": 5, "progress": False}


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.filterwarnings("ignore:sample_(nuts|blackjax).")
@pytest.mark.parametrize(("sampler", "options"), [(sample_nuts, SHORT_NUTS), (sample_blackjax, SHORT_BLACKJAX)])
def test_a_killed_run_goes_on_to_the_same_draws(density, sampler, options, tmp_path, monkeypatch):
    file, write = tmp_path / "run.checkpoint", StateFile.write
    undisturbed = sampler(KEY, density, **options)
    written = []

    def dying(self, *args):
        if len(written) in (1, 7):
            written.append("killed")
            raise Killed
        write(self, *args)
        written.append("written")

    monkeypatch.setattr(StateFile, "write", dying)
    for _ in range(3):
        try:
            found = sampler(KEY, density, checkpoint=file, **options)
        except Killed:
            continue
        break
    assert written.count("killed") >= 1
    np.testing.assert_array_equal(found.samples, undisturbed.samples)
    assert found.info["calls"] == undisturbed.info["calls"]
    assert found.log_evidence == undisturbed.log_evidence
    written.clear()
    again = sampler(KEY, density, checkpoint=file, **options)
    assert not written  # nothing was left to do
    np.testing.assert_array_equal(again.samples, undisturbed.samples)


@pytest.mark.filterwarnings("ignore:sample_(nuts|blackjax).")
@pytest.mark.parametrize(("sampler", "options"), [(sample_nuts, SHORT_NUTS), (sample_blackjax, SHORT_BLACKJAX)])
def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(density, sampler, options, tmp_path):
    file = tmp_path / "run.checkpoint"
    sampler(KEY, density, checkpoint=file, **options)
    with pytest.raises(ValueError, match="the same 'seed'"):
        sampler(jax.random.key(2), density, checkpoint=file, **options)
    name = "n_warmup" if sampler is sample_nuts else "n_steps"
    with pytest.raises(ValueError, match=f"the same '{name}'"):
        sampler(KEY, density, checkpoint=file, **{**options, name: 7})
    with pytest.raises(ValueError, match="the same 'observed'"):
        sampler(KEY, ModelDensity(conjugate, Y + 0.5), checkpoint=file, **options)
    with pytest.raises(ValueError, match="this model and data; its log densities differ"):
        sampler(KEY, ModelDensity(lambda y: conjugate_of(y, 1.5), Y), checkpoint=file, **options)
    other, others = (sample_nuts, SHORT_NUTS) if sampler is sample_blackjax else (sample_blackjax, SHORT_BLACKJAX)
    with pytest.raises(ValueError, match="the same 'sampler'; got another"):
        other(KEY, density, checkpoint=file, **others)
    with pytest.raises(ValueError, match="expected a run of sample_emcee; got one of another sampler"):
        read_chain(file)
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match="damaged"):
        sampler(KEY, density, checkpoint=file, **options)
    with pytest.raises(FileNotFoundError, match="Make it first"):
        sampler(KEY, density, checkpoint=tmp_path / "none" / "run", **options)


@pytest.mark.filterwarnings("ignore:sample_nuts. not converged")
def test_more_draws_of_nuts_are_added_to_those_in_its_checkpoint(density, tmp_path):
    file = tmp_path / "run.checkpoint"
    first = sample_nuts(KEY, density, checkpoint=file, **SHORT_NUTS)
    more = sample_nuts(KEY, density, checkpoint=file, **{**SHORT_NUTS, "n_samples": 100})
    fewer = sample_nuts(KEY, density, checkpoint=file, **{**SHORT_NUTS, "n_samples": 30})
    whole = more.samples.reshape(2, 100, -1)
    np.testing.assert_array_equal(first.samples.reshape(2, 40, -1), whole[:, :40])
    np.testing.assert_array_equal(fewer.samples.reshape(2, 30, -1), whole[:, :30])
    at_once = sample_nuts(KEY, density, **{**SHORT_NUTS, "n_samples": 100})
    np.testing.assert_allclose(more.samples, at_once.samples, rtol=1e-6)
    assert more.info["calls"] > first.info["calls"]


def test_a_few_draws_of_nuts_are_not_called_converged(density):
    assert sample_nuts(KEY, density, n_samples=2, n_warmup=5, n_chains=1, progress=False).info["converged"] is None


def test_time_that_ends_in_the_warm_up_is_not_lost_with_a_checkpoint(density, tmp_path):
    with pytest.raises(TimeoutError, match=r"The same call goes on from .*run\.checkpoint"):
        sample_nuts(KEY, density, checkpoint=tmp_path / "run.checkpoint", max_seconds=0.0, **SHORT_NUTS)


def test_emcee_that_did_not_converge_says_so(density):
    with pytest.warns(UserWarning, match="not converged: raise max_steps"):
        chain = sample_emcee(KEY, density, n_walkers=8, max_steps=100, progress=False)
    assert not chain.info["converged"]


def test_emcee_never_starts_at_zero_density():
    def mostly_impossible():
        x = numpyro.sample("x", dist.Uniform(0.0, 1.0))
        numpyro.factor("half", jnp.where(x < 0.2, 0.0, -jnp.inf))

    chain = sample_emcee(KEY, ModelDensity(mostly_impossible), n_walkers=16, max_steps=2000, progress=False)
    assert (chain.samples < 0.2).all()

    def impossible():
        numpyro.sample("x", dist.Uniform(0.0, 1.0))
        numpyro.factor("none", -jnp.inf)

    with pytest.raises(ValueError, match="0 of 1600 prior draws have a finite posterior density"):
        sample_emcee(KEY, ModelDensity(impossible), n_walkers=16, progress=False)


def test_bad_settings_are_refused(density):
    with pytest.raises(ValueError, match="n_active <= n_effective"):
        sample_pocomc(KEY, density, n_effective=10, n_active=20)
    with pytest.raises(TypeError, match="n_total: expected an integer"):
        sample_pocomc(KEY, density, n_total=1e3)
    with pytest.raises(ValueError, match="n_walkers: expected an integer >= 4"):
        sample_emcee(KEY, density, n_walkers=2)
    with pytest.raises(TypeError, match="colour"):
        sample_pocomc(KEY, density, colour="red")


def half_nan():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.factor("log", jnp.log(x))


@pytest.mark.parametrize("sampler", [sample_pocomc, sample_emcee, sample_nuts])
def test_a_model_that_is_nan_at_many_draws_is_refused_with_an_example(sampler):
    with pytest.raises(ValueError, match=r"its log density is NaN at 1\d\d of 256 draws.*for example at x = -\d"):
        sampler(KEY, ModelDensity(half_nan), progress=False)


def test_a_few_nan_are_counted_and_allowed():
    def seldom():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("log", jnp.where(x > 2.5, jnp.nan, 0.0))

    density = ModelDensity(seldom)
    density.require_numbers(KEY)
    with pytest.warns(UserWarning, match="NaN at some points"):
        chain = sample_emcee(KEY, density, n_walkers=16, max_steps=2000, progress=False)
    assert chain.samples.max() <= 2.5
    assert chain.info["nan_log_densities"] > 0
