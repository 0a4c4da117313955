"""ModelDensity: any model as functions of a vector, against numpyro.infer.util.log_density and closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density
from scipy import stats
from toys import make_prior

from numpyro_flowprior import (
    Chain,
    FlowConfig,
    ModelDensity,
    ParameterSpace,
    UniformPrior,
    from_arviz,
    read_chain,
    to_arviz,
)
from numpyro_flowprior._util.leaves import forgetting

KEY = jax.random.key(0)
Y = np.random.default_rng(0).normal(1.0, 2.0, 30)
PRIOR = make_prior([(0.0, 1.0), (-np.inf, np.inf), (2.0, np.inf)], FlowConfig(layers=2, hidden=(8,)))


def scalars(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def with_prior(y):
    theta = numpyro.sample("theta", PRIOR)
    extra = numpyro.sample("extra", dist.Uniform(-1.0, 2.0))
    numpyro.sample("y", dist.Normal(theta[0] + extra, theta[2]).expand([len(y)]).to_event(1), obs=y)


def arrays_factors_and_scales(y):
    with numpyro.plate("groups", 3):
        a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
    b = numpyro.sample("b", dist.Uniform(jnp.zeros((2, 2)), jnp.ones((2, 2))).to_event(2))
    numpyro.factor("penalty", -jnp.sum(b**2))
    with numpyro.handlers.scale(scale=0.5):
        numpyro.sample("y", dist.Normal(a.sum(), 1.0), obs=y[0])
    with numpyro.handlers.mask(mask=np.array([True, False])):
        numpyro.sample("z", dist.Normal(b[0], 1.0), obs=y[1:3])


def box_model(y):
    theta = numpyro.sample("theta", UniformPrior(ParameterSpace(["u", "v"], [0.0, -1.0], [2.0, 1.0])))
    numpyro.sample("y", dist.Normal(theta[0] * theta[1], 1.0), obs=y[0])


def plates_and_events(y):
    """A learned prior in a plate, nested plates over an event, a simplex per group, a masked group, a factor."""
    with numpyro.plate("groups", 2):
        theta = numpyro.sample("theta", PRIOR)
        shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
        with numpyro.plate("times", 3):
            noise = numpyro.sample("noise", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.deterministic("level", theta[:, 0] * shares[:, 1])
    numpyro.factor("smooth", -jnp.sum(jnp.diff(noise, axis=0) ** 2))
    with numpyro.plate("rows", 6), numpyro.handlers.mask(mask=np.arange(6) < 4):
        numpyro.sample("y", dist.Normal(theta[0, 1] + noise.sum(), theta[1, 2]), obs=y[:6])


SEEN = np.arange(30) % 5 > 0


def half_observed(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("copies", 1, dim=-2), numpyro.plate("rows", len(y), dim=-1):  # the former expands a mask
        whole = numpyro.sample("y", dist.Normal(mu, 2.0), obs=y, obs_mask=SEEN)
    numpyro.sample("mean", dist.Normal(whole.mean(), 0.1), obs=0.9)


MODELS = [scalars, with_prior, arrays_factors_and_scales, box_model, plates_and_events, half_observed]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
def test_prior_plus_likelihood_is_log_density(model):
    density = ModelDensity(model, Y)
    x = density.sample_prior(KEY, 40)
    assert x.dtype == np.float64
    assert x.shape == (40, density.dim)
    with jax.enable_x64(True):
        sites = density.constrain(x)
        expected = np.asarray(jax.jit(jax.vmap(lambda values: log_density(model, (Y,), {}, values)[0]))(sites))
        for site in density.unconstrained_sites:  # all simplexes here
            weights = sites[site]
            to_weights = dist.biject_to(dist.constraints.simplex)
            expected = expected + to_weights.log_abs_det_jacobian(to_weights.inv(weights), weights).sum(axis=-1)
    np.testing.assert_allclose(density.log_prior(x) + density.log_likelihood(x), expected, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(density.log_posterior(x), expected, rtol=1e-11, atol=1e-10)
    prior, likelihood = density.log_prior_and_likelihood(x)
    np.testing.assert_allclose(prior, density.log_prior(x), rtol=1e-14)  # another program: the last bit may differ
    np.testing.assert_allclose(sum(density.log_likelihood_by_site(x).values()), likelihood, rtol=1e-12)


def test_missing_entries_are_latents_and_observed_ones_the_likelihood():
    y = np.where(SEEN, Y, np.nan)  # what stands at missing entries is nobody's
    density = ModelDensity(half_observed, y)
    missing = np.flatnonzero(~SEEN)
    assert density.names == ("mu", *(f"y_unobserved[0,{j}]" for j in missing))
    assert density.imputed_sites == ("y_unobserved",)
    x = density.sample_prior(KEY, 20)
    mu, imputed = x[:, :1], x[:, 1:]
    prior = stats.norm(0.0, 3.0).logpdf(mu[:, 0]) + stats.norm(mu, 2.0).logpdf(imputed).sum(axis=1)
    np.testing.assert_allclose(density.log_prior(x), prior, rtol=1e-12)
    by_site = density.log_likelihood_by_site(x)
    np.testing.assert_allclose(by_site["y_observed"], stats.norm(mu, 2.0).logpdf(Y[SEEN]).sum(axis=1), rtol=1e-12)
    whole = density.deterministics(x)["y"][:, 0]
    np.testing.assert_array_equal(whole[:, missing], imputed)
    np.testing.assert_array_equal(whole[:, SEEN], np.broadcast_to(Y[SEEN], (20, SEEN.sum())))
    np.testing.assert_allclose(by_site["mean"], stats.norm(whole.mean(axis=1), 0.1).logpdf(0.9), rtol=1e-9)
    np.testing.assert_array_equal(density.vector(density.constrain(x)), x)
    spread = density.sample_prior(KEY, 4000)[:, 1]
    assert stats.kstest(spread, stats.norm(0.0, np.sqrt(13.0)).cdf).pvalue > 1e-4


def test_missing_vectors_and_nothing_missing():
    def vectors(y, seen):
        with numpyro.plate("rows", 3):
            numpyro.sample("y", dist.Normal(jnp.zeros(2), 1.0).to_event(1), obs=y, obs_mask=seen)
        with numpyro.plate("others", 3):
            numpyro.sample("w", dist.Dirichlet(jnp.ones(3)), obs=jnp.ones((3, 3)) / 3, obs_mask=seen)
        numpyro.sample("x", dist.Normal(0.0, 1.0))

    density = ModelDensity(vectors, np.zeros((3, 2)), np.array([True, False, True]))
    of_w = ("w_unobserved_unconstrained[1,0]", "w_unobserved_unconstrained[1,1]")
    assert density.names == ("y_unobserved[1,0]", "y_unobserved[1,1]", *of_w, "x")
    x = density.sample_prior(KEY, 9)
    w = density.constrain(x)["w_unobserved"][:, 1]
    to_weights = dist.biject_to(dist.constraints.simplex)
    with jax.enable_x64(True):
        slope = np.asarray(to_weights.log_abs_det_jacobian(x[:, 2:4], w))
    expected = stats.norm.logpdf(x[:, [0, 1, 4]]).sum(axis=1) + np.log(2.0) + slope
    np.testing.assert_allclose(density.log_prior(x), expected, rtol=1e-10)
    np.testing.assert_allclose(density.vector(density.constrain(x)), x, rtol=1e-9)
    assert ModelDensity(vectors, np.zeros((3, 2)), np.ones(3, bool)).names == ("x",)


def test_split_against_scipy():
    density = ModelDensity(scalars, Y)
    x = np.array([[0.5, 1.5], [-2.0, 0.3]])
    prior = stats.norm.logpdf(x[:, 0], 0, 3) + stats.halfcauchy.logpdf(x[:, 1], scale=2)
    likelihood = stats.norm.logpdf(Y[None], x[:, :1], x[:, 1:]).sum(axis=1)
    np.testing.assert_allclose(density.log_prior(x), prior, rtol=1e-12)
    np.testing.assert_allclose(density.log_likelihood(x), likelihood, rtol=1e-12)


def test_names_bounds_and_observed():
    density = ModelDensity(with_prior, y=Y)
    assert density.names == ("p0", "p1", "p2", "extra")
    np.testing.assert_array_equal(density.bounds, [[0, 1], [-np.inf, np.inf], [2, np.inf], [-1, 2]])
    assert list(density.observed) == ["y"]
    assert ModelDensity(arrays_factors_and_scales, Y).names == (
        "a[0]", "a[1]", "a[2]", "b[0,0]", "b[0,1]", "b[1,0]", "b[1,1]",
    )  # fmt: skip
    assert ModelDensity(box_model, Y).names == ("u", "v")
    assert "observed: y" in repr(density)


def test_float64_whatever_the_callers_flag_and_flag_unchanged():
    density = ModelDensity(scalars, Y)
    x = density.sample_prior(KEY, 5)
    assert not jax.config.jax_enable_x64
    outside = density.log_posterior(x)
    assert jnp.ones(1).dtype == jnp.float32
    with jax.enable_x64(True):
        np.testing.assert_array_equal(density.log_posterior(x), outside)


def test_no_recompilation_for_new_batch_sizes():
    """Sizes are padded to powers of two; the model is traced once for each of them and no more."""
    traces = []

    def counted(y):
        traces.append(1)
        scalars(y)

    density = ModelDensity(counted, Y)
    x = density.sample_prior(KEY, 5000)
    values = density.log_posterior(x)
    done = len(traces)
    for n in (1025, 1500, 2047, 2048, 4096, 4097 + 2047):
        np.testing.assert_array_equal(density.log_posterior(x[:n]), values[:n])
    for n in (1, 3, 7, 8, 9, 16, 17, 100, 128, 1000):
        np.testing.assert_allclose(density.log_posterior(x[:n]), values[:n], rtol=1e-12)
    assert len(traces) - done <= 8  # 8, 16, 32, 128, 1024 and none for the rest
    assert density.log_posterior(x[:0]).shape == (0,)


def test_edges_and_outside():
    density = ModelDensity(with_prior, Y)
    x = density.sample_prior(KEY, 4)
    assert (x > density.bounds[:, 0]).all()
    assert (x < density.bounds[:, 1]).all()
    x[0, 0], x[1, 0], x[2, 2] = -1e-9, 1.0, 1.0
    prior, likelihood = density.log_prior(x), density.log_likelihood(x)
    np.testing.assert_array_equal(np.isneginf(prior), [True, False, True, False])
    np.testing.assert_array_equal(np.isneginf(likelihood), [True, False, True, False])


def test_prior_draws_stay_finite_in_a_samplers_own_probit():
    """Half of the mass sits within a rounding of the upper bound: (x - low) / (high - low) must not round to one."""
    space = ParameterSpace(["x"], 1e-4, 0.28)

    prior = make_prior([(1e-4, 0.28)], FlowConfig(layers=0, base="normal"), strength=0.0)
    prior.params["whitening"]["tril"] = np.array([[20.0]])  # standard deviation in probit space

    def piled():
        numpyro.sample("theta", prior)
        numpyro.factor("flat", 0.0)

    x = ModelDensity(piled).sample_prior(KEY, 2000)
    fraction = (x - space.lower) / (space.bounds[:, 1] - space.lower)
    assert np.isfinite(stats.norm.ppf(fraction)).all()
    assert (np.abs(stats.norm.ppf(fraction)) > 7).any()


def test_nan_counts_as_minus_infinity_and_is_told():
    def broken():
        x = numpyro.sample("x", dist.Uniform(-1.0, 1.0))
        numpyro.factor("f", jnp.sqrt(x))

    density = ModelDensity(broken)
    with pytest.warns(UserWarning, match="NaN"):
        values = density.log_likelihood(np.array([[0.25], [-0.5]]))
    np.testing.assert_array_equal(values, [0.5, -np.inf])
    assert density.nan_count == 1


def discrete():
    numpyro.sample("k", dist.Poisson(3.0))


def sphere():
    numpyro.sample("w", dist.ProjectedNormal(jnp.ones(3)))


def dependent():
    a = numpyro.sample("a", dist.Uniform(0.0, 1.0))
    numpyro.sample("b", dist.Uniform(0.0, a))


def clash():
    numpyro.sample("theta", PRIOR)
    numpyro.sample("p1", dist.Normal())


def param():
    numpyro.sample("x", dist.Normal(numpyro.param("m", 0.0), 1.0))


def nothing():
    numpyro.sample("y", dist.Normal(), obs=0.0)


def subsampled():
    with numpyro.plate("rows", 10, subsample_size=5):
        numpyro.sample("x", dist.Normal())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (discrete, "'k' is discrete"),
        (sphere, "latent site 'w' has support .*no bijection"),
        (dependent, "support of site 'b' depends"),
        (clash, "'p1' has two priors, at sites 'theta' and 'p1'"),
        (param, "'m' is a numpyro.param"),
        (nothing, "at least one latent"),
        (subsampled, "plate 'rows' subsamples"),
    ],
)
def test_models_that_no_bridge_can_hold_are_refused_by_name(model, message):
    with pytest.raises(ValueError, match=message):
        ModelDensity(model)


def test_points_of_the_wrong_shape_are_refused():
    density = ModelDensity(scalars, Y)
    with pytest.raises(ValueError, match=r"expected shape \(n, 2\) for mu, sigma; got \(2,\)"):
        density.log_prior(np.zeros(2))
    with pytest.raises(ValueError, match="expected shape"):
        density.log_likelihood(np.zeros((3, 5)))


def test_only_wrappers_that_keep_the_coordinates_are_looked_through():
    """A transformed prior is no longer over the prior's named parameters."""
    base = UniformPrior(ParameterSpace(["u", "v"], 0.0, 1.0))

    def shifted():
        numpyro.sample("theta", dist.TransformedDistribution(base, dist.transforms.AffineTransform(5.0, 2.0)))
        numpyro.factor("flat", 0.0)

    assert ModelDensity(shifted).names == ("theta[0]", "theta[1]")


def test_nan_observations_are_refused_unless_masked():
    y = np.array([1.0, np.nan])

    def masked(y):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0).mask(~np.isnan(y)), obs=y)

    def bare(y):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x, 1.0).expand([2]).to_event(1), obs=y)

    with pytest.raises(ValueError, match="observed site 'y': expected numbers; got NaN in 1 of 2"):
        ModelDensity(bare, y)
    assert ModelDensity(masked, y).log_likelihood(np.zeros((1, 1)))[0] == pytest.approx(stats.norm.logpdf(1.0))


def test_a_model_without_data_is_told():
    with pytest.warns(UserWarning, match="observes nothing"):
        ModelDensity(lambda: numpyro.sample("x", dist.Normal(0.0, 1.0)))


def test_arviz_finds_columns_by_name():
    density = ModelDensity(scalars, Y)
    x = density.sample_prior(KEY, 20)
    backwards = Chain(x[:, ::-1], density.space.select(density.names[::-1]))
    group = to_arviz(backwards, density).log_likelihood
    np.testing.assert_allclose(group["y"].values[0].sum(axis=-1), density.log_likelihood(x))
    with pytest.raises(ValueError, match="density: expected the chain's parameters"):
        to_arviz(backwards.select(["mu"]), density)


def test_a_prior_used_in_the_bridge_may_be_closed_over_by_a_float32_jit():
    """JAX lowered the prior's float64 arrays, seen first in the bridge's precision, as they were, not as float32."""
    density = ModelDensity(with_prior, Y)
    density.log_posterior(density.sample_prior(KEY, 10))
    assert jax.jit(lambda key: PRIOR.sample(key, (7,)))(KEY).dtype == np.float32


DATA, OTHER = np.array([0.3, 0.7, 1.1]), np.array([0.3, 0.7, 1.1])


def closing(prior):
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(DATA - theta.sum(), 1.0), obs=0.0)


def passing(prior, data):
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(data - theta.sum(), 1.0), obs=0.0)


def nuts(model, *args):
    run = MCMC(NUTS(model), num_warmup=5, num_samples=5, progress_bar=False)
    run.run(jax.random.key(0), *args)
    return run


@pytest.mark.parametrize(("model", "data"), [(closing, ()), (passing, (OTHER,))])
def test_data_that_nuts_met_in_float32_are_seen_in_float64(model, data):
    """JAX remembers NumPy constants in the precision of the first trace: see _leaves.py."""
    prior = UniformPrior(ParameterSpace(["a", "b"], 0.0, 1.0))
    run = nuts(model, prior, *data)
    density = ModelDensity(model, prior, *data)
    theta = density.sample_prior(jax.random.key(0), 3)
    expected = stats.norm(DATA - theta.sum(axis=1, keepdims=True), 1.0).logpdf(0.0).sum(axis=1)
    np.testing.assert_allclose(density.log_likelihood(theta), expected, rtol=1e-12)
    assert read_chain(run).names == ("a", "b")
    if data:  # and the other way round
        assert nuts(model, prior, *data).get_samples()["theta"].shape == (5, 2)


def test_other_errors_are_not_tried_again():
    calls = []

    def failing():
        calls.append(1)
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        forgetting(failing)
    assert len(calls) == 1


def derived_model(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("groups", 3):
        b = numpyro.sample("b", dist.HalfNormal(1.0))
    numpyro.deterministic("ab", a * b)
    numpyro.deterministic("total", a + b.sum())
    numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def test_deterministic_sites_are_recorded_for_every_draw():
    density = ModelDensity(derived_model, 0.5)
    x = density.sample_prior(jax.random.key(0), 37)
    found = density.deterministics(x)
    np.testing.assert_allclose(found["ab"], x[:, :1] * x[:, 1:], rtol=1e-12)
    np.testing.assert_allclose(found["total"], x.sum(axis=1), rtol=1e-12)
    assert density.deterministics(x[:0])["ab"].shape == (0, 3)
    assert (
        ModelDensity(lambda: numpyro.factor("f", -(numpyro.sample("a", dist.Normal()) ** 2))).deterministics(x[:, :1])
        == {}
    )
    np.testing.assert_allclose(density.vector(density.constrain(x)), x)


def test_deterministic_sites_are_in_arviz_and_are_no_parameters():
    density = ModelDensity(derived_model, 0.5)
    x = density.sample_prior(jax.random.key(0), 40)
    chain = Chain(x, density.space, chain_id=np.repeat([0, 1], 20))
    data = to_arviz(chain, density)
    assert data.posterior["ab"].shape == (2, 20, 3)
    np.testing.assert_allclose(data.posterior["total"].values.ravel(), x.sum(axis=1))
    again = from_arviz(data)
    assert again.names == chain.names
    np.testing.assert_array_equal(again.samples, chain.samples)


def with_constants():
    slope = numpyro.sample("slope", dist.Delta(2.0))
    with numpyro.plate("rows", 3):
        offset = numpyro.sample("offset", dist.Delta(0.5))
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(slope * x + offset, 1.0), obs=jnp.ones(3))


def test_delta_sites_are_constants():
    density = ModelDensity(with_constants)
    assert density.names == ("x[0]", "x[1]", "x[2]")
    x = np.random.default_rng(0).normal(size=(5, 3))
    expected = stats.norm.logpdf(x).sum(axis=1) + stats.norm.logpdf(1.0, 2.0 * x + 0.5).sum(axis=1)
    np.testing.assert_allclose(density.log_posterior(x), expected)
    found = density.deterministics(x)
    np.testing.assert_array_equal(found["slope"], np.full(5, 2.0))
    np.testing.assert_array_equal(found["offset"], np.full((5, 3), 0.5))
    assert density.sample_prior(jax.random.key(0), 4).shape == (4, 3)


def improper():
    numpyro.sample("a", dist.ImproperUniform(dist.constraints.positive, (), ()))


def weighted_constant():
    numpyro.sample("b", dist.Delta(2.0, log_density=1.0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (improper, "site 'a' has an improper prior .*Give it a proper one"),
        (weighted_constant, "site 'b' is a Delta with a log density"),
        (lambda: numpyro.sample("b", dist.Delta(2.0)), "at least one latent sample site"),
    ],
)
def test_sites_without_draws_are_refused_by_name(model, message):
    with pytest.raises(ValueError, match=message):
        ModelDensity(model)


def test_one_point_inside_a_trace_is_what_many_are_outside():
    density = ModelDensity(scalars, Y)
    x = density.sample_prior(KEY, 3)
    with jax.enable_x64(True):
        traced = np.stack(jax.jit(jax.vmap(density.traced_log_densities))(x))
        values = jax.jit(jax.vmap(density.site_values))(x)
    np.testing.assert_allclose(traced, density.log_prior_and_likelihood(x), rtol=1e-12)
    for site, expected in density.constrain(x).items():
        np.testing.assert_array_equal(values[site], expected)
