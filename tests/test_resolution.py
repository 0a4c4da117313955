"""Parameters that float32 cannot hold: densities, draws and latent maps in full resolution, or a word of it."""

from __future__ import annotations

import pickle
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from scipy.stats import kstest, norm
from toys import coarse_products, make_prior, operations

import numpyro_flowprior as fp
from numpyro_flowprior.diagnostics import quality
from numpyro_flowprior.flows.build import in_two_parts
from numpyro_flowprior.priors import resolution

INF = np.inf
GAUSSIAN = fp.FlowConfig(layers=0, base="normal"), fp.TrainConfig(max_steps=1, eval_every=1)
CASES = {  # mean, standard deviation, bounds
    "epoch": (1187008882.43, 1e-3, (-INF, INF)),
    "epoch in narrow bounds": (1187008882.43, 1e-3, (1187008882.33, 1187008882.53)),
    "barycentric Julian date": (2458849.5, 30.0 / 86400.0, (-INF, INF)),
    "period": (3.52474859, 3.8e-7, (-INF, INF)),
    "positive period": (3.52474859, 3.8e-7, (0.0, INF)),
    "energy": (1e52, 1e51, (-INF, INF)),
    "strain": (1e-40, 1e-41, (-INF, INF)),
    "far below a bound": (-3.52474859, 3.8e-7, (-INF, 0.0)),
}
USUAL = {"of order one": (1.0, 0.1, (-INF, INF)), "a hundred": (100.0, 1.0, (0.0, INF)), "box": (0.5, 0.1, (0.0, 1.0))}
N = 4000


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(resolution, "_told", set())


def chain_of(mean: float, deviation: float, bounds: tuple[float, float]) -> fp.Chain:
    z = norm.ppf((np.arange(N) + 0.5) / N)  # its moments are those asked for
    rows = mean + deviation * np.random.default_rng(0).permutation(z)[:, None]
    return fp.Chain(rows, fp.ParameterSpace(["t"], *bounds), rows="independent")


@pytest.fixture(scope="module")
def priors():
    return {
        name: fp.fit_flow(jax.random.key(0), chain_of(*case), *GAUSSIAN, progress=False)
        for name, case in {**CASES, **USUAL}.items()
    }


def exact(prior: fp.FlowPrior, theta: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(prior.log_prob(jnp.asarray(theta, jnp.float64)))


@pytest.mark.parametrize("name", CASES)
def test_outside_of_traces_nothing_is_lost(priors, name):
    prior, (mean, deviation, bounds) = priors[name].prior, CASES[name]
    assert prior.held.coarse == ("t",)
    draws = prior.sample(jax.random.key(1), (N,))
    assert (type(draws), draws.dtype, draws.shape) == (np.ndarray, np.float64, (N, 1))
    assert len(np.unique(draws)) > 0.8 * N  # float64 has 4,200 numbers in a standard deviation of the first epoch
    assert kstest((draws[:, 0] - mean) / deviation, "norm").pvalue > 1e-3
    assert ((draws > bounds[0]) & (draws < bounds[1])).all()
    rows = chain_of(*CASES[name]).samples
    for points in (rows, draws, rows[0]):
        found = prior.log_prob(points)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact(prior, points), rtol=1e-6)
    reference = norm.logpdf(rows[:, 0], mean, deviation)
    middle = np.abs(rows[:, 0] - mean) < 2 * deviation
    np.testing.assert_allclose(np.asarray(prior.log_prob(rows))[middle], reference[middle], atol=0.25)
    assert priors[name].report.verdict == "pass"


@pytest.mark.parametrize("name", CASES)
def test_latent_coordinates_are_a_standard_normal(priors, name):
    prior = priors[name].prior
    omega = np.linspace(-3.0, 3.0, 301)[:, None]
    theta = prior.from_latent(omega)
    assert len(np.unique(theta)) == 301
    np.testing.assert_allclose(prior.to_latent(theta), omega, atol=5e-4)  # 2.4e-7 s in 1e-3 s
    np.testing.assert_allclose(prior.latent_log_prob(omega), norm.logpdf(omega[:, 0]), atol=1e-5)


@pytest.mark.parametrize("name", USUAL)
def test_where_float32_holds_everything_nothing_changes(priors, name):
    prior = priors[name].prior
    assert prior.held == resolution.Held()
    draws = prior.sample(jax.random.key(1), (N,))
    assert isinstance(draws, jax.Array)
    assert draws.dtype == jnp.float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(jax.jit(prior.log_prob)(draws), exact(prior, draws), atol=1e-4)


@pytest.mark.parametrize("name", ["epoch", "barycentric Julian date", "period"])
def test_in_a_trace_of_float32_the_density_is_right_at_the_values_there_are(priors, name):
    """As an argument of a compiled function, too, where JAX rounds every array to float32."""
    prior, (mean, deviation, _) = priors[name].prior, CASES[name]
    steps = np.float32(mean) + np.arange(-2, 3) * np.spacing(np.float32(mean))
    near = steps[np.abs(steps - mean) < 40 * deviation].astype(np.float32)[:, None]
    near = near if len(near) else np.float32([[mean]])
    with pytest.warns(UserWarning, match="float32 cannot resolve 't' to a fraction"):
        found = jax.jit(lambda prior, x: prior.log_prob(x))(prior, near)
    np.testing.assert_allclose(found, exact(prior, near.astype(np.float64)), rtol=2e-4)


def test_a_trace_is_warned_of_once_and_refused_where_float32_ends(priors):
    sample = jax.jit(lambda prior, key: prior.sample(key))
    with pytest.warns(UserWarning, match=r"float32 cannot resolve 't'.*numpyro\.enable_x64"):
        sample(priors["epoch"].prior, jax.random.key(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(lambda prior, x: prior.log_prob(x))(priors["epoch"].prior, jnp.zeros(1))
    for name in ("energy", "strain"):
        with pytest.raises(ValueError, match="this trace is in float32, which cannot represent 't'"):
            sample(priors[name].prior, jax.random.key(0))


def model(prior):
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(theta[0] - CASES["epoch"][0], 1e-3), obs=1e-3)


def test_nuts_finds_the_epoch_in_float64_and_is_told_of_float32(priors):
    prior = priors["epoch"].prior
    nuts = MCMC(NUTS(model), num_warmup=200, num_samples=1000, progress_bar=False)
    with jax.enable_x64(True):
        nuts.run(jax.random.key(0), prior)
        draws = np.asarray(nuts.get_samples()["theta"])
    assert (draws.mean() - CASES["epoch"][0]) / 1e-3 == pytest.approx(0.5, abs=0.15)  # of a thousand draws, correlated
    assert draws.std() / 1e-3 == pytest.approx(np.sqrt(0.5), rel=0.2)
    with pytest.warns(UserWarning, match="cannot resolve 't'"):
        MCMC(NUTS(model), num_warmup=2, num_samples=2, progress_bar=False).run(jax.random.key(0), prior)
    chain = fp.sample_nuts(jax.random.key(0), fp.ModelDensity(model, prior), n_samples=1500, n_chains=2, progress=False)
    assert chain.samples.std() / 1e-3 == pytest.approx(np.sqrt(0.5), rel=0.2)


def test_priors_of_a_prior_have_its_resolution(priors):
    prior, (mean, deviation, bounds) = priors["epoch"].prior, CASES["epoch"]
    space = fp.ParameterSpace(["t"], mean - 0.1, mean + 0.1)
    weaker, robust = fp.temper(prior, 0.25), fp.robustify(prior, 0.5)
    for density, spread in ((weaker, 2 * deviation), (fp.UniformPrior(space), 0.1 / np.sqrt(3)), (robust, None)):
        draws = density.sample(jax.random.key(0), (2000,))
        assert len(np.unique(draws)) > 1000
        assert np.isfinite(density.log_prob(draws)).all()
        if spread:
            assert draws.std() == pytest.approx(spread, rel=0.1)
    assert np.ptp(robust.probability_broad(chain_of(mean, deviation, bounds).samples)) > 0.01
    assert float(prior.mean[0] - mean) == pytest.approx(0.0, abs=1e-4)
    assert float(prior.variance[0]) == pytest.approx(deviation**2, rel=0.1)
    assert float(prior.entropy()) == pytest.approx(norm.entropy(scale=deviation), abs=0.05)


def test_files_pickles_and_pytrees_keep_the_location(priors, tmp_path):
    prior, rows = priors["epoch"].prior, chain_of(*CASES["epoch"]).samples
    expected = prior.log_prob(rows)
    leaves, tree = jax.tree.flatten(prior)
    copies = [
        fp.FlowPrior.load(prior.save(tmp_path / "p.safetensors")),
        pickle.loads(pickle.dumps(prior)),
        jax.tree.unflatten(tree, leaves),
    ]
    for copy in copies:
        np.testing.assert_array_equal(copy.log_prob(rows), expected)
    loaded = fp.load_numpy(tmp_path / "p.safetensors")
    np.testing.assert_allclose(loaded.log_prob(rows), expected, rtol=1e-6)
    assert prior.held.coarse == copies[2].held.coarse == ("t",)


def test_constants_of_a_trace_keep_their_resolution(priors):
    prior, rows = priors["epoch"].prior, chain_of(*CASES["epoch"]).samples[:3]
    narrow = fp.UniformPrior(fp.ParameterSpace(["t"], *CASES["epoch in narrow bounds"][2]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(jax.jit(lambda x: x + prior.log_prob(rows))(0.0), exact(prior, rows), rtol=1e-6)
        assert np.isfinite(jax.jit(lambda x: x + narrow.log_prob(rows))(0.0)).all()
        assert np.isfinite(jax.jit(lambda x: x - prior.mean)(0.0)).all()


def test_priors_that_were_pickled_before_know_how_float32_holds_them(priors):
    for prior in (priors["epoch"].prior, fp.UniformPrior(fp.ParameterSpace(["t"], 0.0, 1e-3))):
        old = pickle.loads(pickle.dumps(prior))
        state = {name: part for name, part in vars(old).items() if name not in ("held", "_loc_rest")}
        again = type(prior).__new__(type(prior))
        again.__setstate__(state)
        assert again.held == prior.held
        assert jax.tree.structure(again) == jax.tree.structure(prior)


def test_copies_that_went_through_float32_are_saved_with_their_location(priors, tmp_path):
    prior, rows = priors["epoch"].prior, chain_of(*CASES["epoch"]).samples
    rounded = jax.tree.map(jnp.asarray, prior)
    loaded = fp.FlowPrior.load(rounded.save(tmp_path / "p.safetensors"))
    np.testing.assert_allclose(loaded.log_prob(rows), prior.log_prob(rows), atol=1e-4)
    for copy in (rounded, loaded):
        np.testing.assert_allclose(copy.whitened_at, prior.whitened_at, rtol=1e-15)
        assert fp.robustify(copy, 0.5).broad.loc == pytest.approx(prior.whitened_at, rel=1e-15)
    np.testing.assert_array_equal(prior.whitened_at, prior.params["whitening"]["loc"])


def test_keys_of_either_kind_and_names_of_arguments(priors):
    prior = priors["epoch"].prior
    for key in (jax.random.key(0), jax.random.PRNGKey(0), np.asarray(jax.random.PRNGKey(0))):
        np.testing.assert_array_equal(prior.sample(key, (3,)), prior.sample(key=key, sample_shape=(3,)))
    single = chain_of(*CASES["epoch"]).samples[:2].astype(np.float32)
    np.testing.assert_array_equal(prior.log_prob(value=single), prior.log_prob(single))


def test_wide_boxes_are_held(priors):
    assert fp.UniformPrior(fp.ParameterSpace(["L"], 0.0, 2e36)).held == resolution.Held()
    assert fp.UniformPrior(fp.ParameterSpace(["L"], 0.0, 1e40)).held.beyond == ("L",)


def test_a_report_fails_a_prior_whose_draws_repeat(priors, monkeypatch):
    """As draws in float32 do: the report's own are of float64."""
    prior, chain = priors["period"].prior, chain_of(*CASES["period"])
    monkeypatch.setattr(quality, "draws_of", lambda prior, key, n: in_float32(prior, key, n))
    report = fp.quality_report(jax.random.key(0), prior, chain)
    assert report.verdict == "fail"
    assert any(
        re.fullmatch(r"the prior draws of 't' take only \d+ distinct values", reason) for reason in report.reasons
    )
    assert fp.QualityReport.from_json(report.to_json()).repeated == report.repeated
    epoch = priors["epoch"].prior
    with pytest.raises(
        ValueError, match="expected draws of 't' that differ; got 1187008896 for all. The prior is not a"
    ):
        fp.quality_report(jax.random.key(0), epoch, chain_of(*CASES["epoch"]))


def in_float32(prior: fp.FlowPrior, key: jax.Array, n: int) -> np.ndarray:
    draws = prior.sample(key, (n,))
    return np.asarray(draws, np.float32).astype(np.float64)


@pytest.mark.parametrize("transformer", ["affine", "spline"])
@pytest.mark.parametrize("members", [1, 2])
def test_flows_multiply_in_full_precision_on_every_device(transformer, members):
    """H100, as JAX multiplies float32 matrices there: log densities off by up to 0.018 nats, round trips by 0.4 %."""
    config = fp.FlowConfig(layers=2, hidden=(4,), transformer=transformer, members=members)
    prior = make_prior([(0.0, 1.0), (-np.inf, np.inf), (0.0, np.inf)], config)
    points = prior.sample(jax.random.key(0), (4,))
    functions = {
        "log_prob": prior.log_prob,
        "gradient": lambda x: jax.vmap(jax.grad(prior.log_prob))(x),
        "to_latent": prior.to_latent,
        "from_latent": prior.from_latent,
        "latent_log_prob": prior.latent_log_prob,
        "latent_log_det": prior.latent_log_det,
        "sample": lambda x: prior.sample(jax.random.key(0), (4,)) + x,
        "parameters": lambda x: jax.grad(lambda q: q.log_prob(x).sum())(prior).params,
    }
    for name, function in functions.items():
        count, coarse = coarse_products(function, points)
        assert count > 0 or name == "latent_log_prob", name  # of a single flow it is the base's
        assert not coarse, name
    count, coarse = coarse_products(lambda x: x @ x.T, points)  # what the test would find
    assert (count, len(coarse)) == (1, 1)


def test_the_parts_of_a_location_are_rounded_where_conversions_are_not():
    """XLA takes a conversion to float32 and back for nothing, which made twice the location of 1e52 on a GPU."""
    with jax.enable_x64(True):
        names = [found.primitive.name for found in operations(in_two_parts, jnp.array([1.0, 1e52]))]
        assert "reduce_precision" in names
        for loc in ([1187008882.43, 1e52, -1e-40, 0.0, 3.5247485912345, -1e38],):
            parts = jax.jit(in_two_parts)(jnp.array(loc))
            for found, expected in zip(parts, in_two_parts(np.array(loc)), strict=True):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("mean", "deviation"), [(1187008882.43, 1e-3), (3.52474859, 3.8e-8)])
def test_half_lines_keep_their_location_through_float32(mean, deviation, tmp_path):
    chain = chain_of(mean, deviation, (0.0, np.inf))
    prior = fp.fit_flow(jax.random.key(0), chain, *GAUSSIAN, progress=False).prior
    rows = chain.samples
    expected = prior.log_prob(rows)
    rounded = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), prior)
    for copy in (rounded, fp.FlowPrior.load(rounded.save(tmp_path / "p.safetensors"))):
        np.testing.assert_allclose(copy.log_prob(rows), expected, atol=0.02)
        draws = np.asarray(copy.sample(jax.random.key(0), (4000,)))
        assert abs(draws.mean() - mean) < 0.1 * deviation
        assert copy.support(draws).all()


@pytest.mark.parametrize(("mean", "deviation"), [(1e52, 1e51), (1e-40, 1e-41)])
def test_copies_that_float32_cannot_hold_are_refused(mean, deviation, tmp_path):
    chain = chain_of(mean, deviation, (-np.inf, np.inf))
    prior = fp.fit_flow(jax.random.key(0), chain, *GAUSSIAN, progress=False).prior
    with np.errstate(over="ignore"):
        copy = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), prior)
    for use in (
        lambda: copy.log_prob(np.full(1, mean)),
        lambda: copy.sample(jax.random.key(0)),
        lambda: copy.save(tmp_path / "p.safetensors"),
    ):
        with pytest.raises(ValueError, match="this copy was converted to float32, which cannot represent 't'"):
            use()
    assert prior.support(prior.sample(jax.random.key(0), (100,))).all()
