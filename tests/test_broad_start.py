"""Samplers that begin at a broad prior: the same posterior and evidence, and the mode that prior draws would miss."""

from __future__ import annotations

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm
from toys import PRIOR_ROWS, make_prior, mixture_prior, run_stages

from numpyro_flowprior import (
    Chain,
    FlowConfig,
    ModelDensity,
    Stage,
    StageOptions,
    TrainConfig,
    UniformPrior,
    robustify,
    sample_blackjax,
    sample_emcee,
    sample_nuts,
    sample_pocomc,
    temper,
)
from numpyro_flowprior.sampling import broad_start
from numpyro_flowprior.sampling.broad_start import BroadStart, starts_broad, through_broad, weighted_prior
from numpyro_flowprior.stages import steps
from numpyro_flowprior.stages.folder import StageFolder

KEY = jax.random.key(0)


def model(prior, y):
    theta = numpyro.sample("theta", prior)
    shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(theta.sum(-1) + shift, 0.5), obs=y)


BOX = make_prior(*PRIOR_ROWS["2-D box"][1:])


@pytest.mark.parametrize(
    "prior",
    [make_prior(*PRIOR_ROWS["2-D mixed"][1:]), robustify(BOX, 0.2), temper(BOX, 0.8)],
    ids=["half line and box", "robust", "tempered"],
)
def test_the_posterior_is_the_same(prior):
    density = ModelDensity(model, prior, 0.7)
    inner = density.reparametrised({"theta": BroadStart()})
    assert set(inner.names) == set(density.names)
    x = density.sample_prior(KEY, 50)
    order = [density.names.index(name) for name in inner.names]
    np.testing.assert_allclose(inner.log_posterior(x[:, order]), density.log_posterior(x), rtol=1e-9)
    drawn = inner.sample_prior(KEY, 50)
    assert inner.space.contains(drawn).all()
    assert np.isfinite(inner.log_likelihood(drawn)).all()


MODES = [(0.999, -3.0, 0.5), (0.001, 3.0, 0.5)]  # weights, means and widths of the learned prior


def measured(prior, y):
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(theta[0], 0.5), obs=y)


def weighted(density, draws=40_000):
    x = density.sample_prior(jax.random.key(5), draws)
    log_prior, log_likelihood = density.log_prior_and_likelihood(x)
    weights = np.exp(log_likelihood - log_likelihood.max())
    evidence = float(np.log(weights.mean()) + log_likelihood.max())
    return Chain(x, density.space, log_prior=log_prior, weights=weights, log_evidence=evidence, info={"n": draws})


def test_a_chain_through_broad_priors_is_that_of_the_density():
    """One parameter; the data are in the prior's rare mode."""
    density = ModelDensity(measured, mixture_prior(1, MODES), 2.5)
    exact = np.logaddexp(*(np.log(w) + norm.logpdf(2.5, mean, np.hypot(width, 0.5)) for w, mean, width in MODES))
    chain = through_broad(density, weighted)
    assert chain.names == density.names
    np.testing.assert_array_equal(chain.log_prior, density.log_prior(chain.samples))
    np.testing.assert_array_equal(chain.log_likelihood, density.log_likelihood(chain.samples))
    assert chain.info == {"n": 40_000, "start": "broad"}
    assert chain.log_evidence == pytest.approx(exact, abs=4 / np.sqrt(chain.effective_size))
    assert chain.mean()[0] == pytest.approx(2.75, abs=4 * 0.36 / np.sqrt(chain.effective_size))


@pytest.mark.parametrize(("y", "broad"), [(-3.0, False), (2.5, True)])
def test_auto_looks_at_how_many_prior_draws_the_posterior_rests_on(y, broad):
    density = ModelDensity(measured, mixture_prior(1, MODES), y)
    assert starts_broad(KEY, density, "auto") is broad
    assert starts_broad(KEY, density, "broad")
    assert not starts_broad(KEY, density, "prior")
    with pytest.raises(ValueError, match="expected one of 'auto', 'prior', 'broad'; got 'here'"):
        starts_broad(KEY, density, "here")


def test_auto_sees_a_small_region_with_most_of_the_posterior():
    """Two of ten thousand draws have 62 % of the posterior: 4,096 draws miss them with a probability of 44 %."""

    def rewarded(prior):
        theta = numpyro.sample("theta", prior)
        numpyro.factor("reward", 9.0 * (theta[0] > 0.0))

    density = ModelDensity(rewarded, mixture_prior(1, [(0.9998, -3.0, 0.5), (0.0002, 3.0, 0.5)]))
    assert all(starts_broad(jax.random.key(seed), density, "auto") for seed in range(10))


def test_a_slow_likelihood_is_not_called_for_a_second_look(monkeypatch):
    density, looked = ModelDensity(measured, mixture_prior(1, MODES), -3.0), []
    monkeypatch.setattr(ModelDensity, "seconds_per_call", 0.01)
    monkeypatch.setattr(broad_start, "weighted_prior", lambda *given: looked.append(given[2]) or weighted_prior(*given))
    assert not starts_broad(KEY, density, "auto")
    assert looked == [4096]


def test_a_checkpoint_goes_on_from_where_it_began(tmp_path, monkeypatch):
    """Whatever "auto" would say now, as that may depend on the speed of a likelihood."""
    density, files, options = (
        ModelDensity(measured, mixture_prior(1, MODES), 2.5),
        StageFolder(tmp_path),
        StageOptions(),
    )
    assert steps._starts_broad(KEY, density, files, {"prior": "one"}, options)
    monkeypatch.setattr(steps, "starts_broad", lambda *_: False)
    assert not steps._starts_broad(KEY, density, files, {"prior": "one"}, options)  # there is no checkpoint
    files.record(files.checkpoint, {"prior": "one", "start": "broad"})
    files.checkpoint.touch()
    assert steps._starts_broad(KEY, density, files, {"prior": "one"}, options)
    assert not steps._starts_broad(KEY, density, files, {"prior": "another"}, options)


def test_models_without_a_learned_prior_begin_at_theirs():
    density = ModelDensity(measured, UniformPrior(BOX.space), 50.0)
    assert not starts_broad(KEY, density, "auto")
    assert not starts_broad(KEY, density, "broad")


def test_weighted_prior_draws_have_the_evidence():
    density = ModelDensity(measured, mixture_prior(1, MODES), -2.8)
    found = weighted_prior(KEY, density, 20_000)
    exact = np.logaddexp(*(np.log(w) + norm.logpdf(-2.8, mean, np.hypot(width, 0.5)) for w, mean, width in MODES))
    assert found.log_evidence == pytest.approx(exact, abs=4 * found.log_evidence_error)
    assert found.log_evidence_error < 0.02

    def impossible(prior):
        numpyro.sample("theta", prior)
        numpyro.factor("no", -np.inf)

    nothing = weighted_prior(KEY, ModelDensity(impossible, mixture_prior(1, MODES)), 64)
    assert (nothing.effective_size, nothing.log_evidence) == (0.0, -np.inf)


TINY = {
    sample_nuts: {"n_samples": 40, "n_warmup": 60, "n_chains": 2, "max_tree_depth": 4},
    sample_blackjax: {"n_particles": 100, "n_steps": 1},
    sample_emcee: {"n_walkers": 8, "max_steps": 20},
    sample_pocomc: {"n_effective": 64, "n_active": 32, "n_total": 100, "n_evidence": 0, "precondition": False},
}
QUICK = {"config": FlowConfig(layers=0, base="normal"), "train": TrainConfig(max_steps=1, eval_every=1)}


def staged(sampler, **options):
    """The chain of a stage whose data are in the rare mode of a learned prior, where "auto" begins broad."""
    run = {"sampler": sampler, "sampler_options": {**TINY[sampler], **options}, "override": True, "progress": False}
    return run_stages(KEY, [Stage("y", measured, (2.5,))], mixture_prior(1, MODES), **run, **QUICK).posterior


@pytest.mark.filterwarnings("ignore:sample_")
@pytest.mark.parametrize("sampler", TINY)
def test_no_coordinates_keep_a_stage_from_beginning_broad(sampler):
    """A density through broad priors has no learned prior: there the latent coordinates are the parameters."""
    left_out = staged(sampler)
    assert left_out.info["start"] == "broad"
    for coordinates in ("auto", "latent"):
        written = staged(sampler, coordinates=coordinates)
        assert written.info["start"] == "broad"
        assert written.info["coordinates"] == "parameters"
        np.testing.assert_array_equal(written.samples, left_out.samples)
