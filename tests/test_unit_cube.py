"""The maps from the unit cube: uniform points become draws, exactly; back again; JAX and NumPy agree."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import kstest, norm
from test_numpy_prior import IDS, TABLE
from toys import make_prior, mixture_prior

from numpyro_flowprior import (
    BroadPrior,
    FlowConfig,
    FlowPrior,
    ModelDensity,
    ParameterSpace,
    UniformPrior,
    load_numpy,
    robustify,
    temper,
)
from numpyro_flowprior.flows import numpy_flow, unit_cube
from numpyro_flowprior.flows.stripes import chosen, joined
from numpyro_flowprior.sampling.unit_cube import UnitCube

INF = np.inf
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module", params=TABLE, ids=IDS)
def both(request, tmp_path_factory):
    prior = make_prior(request.param[1], request.param[2])
    return prior, load_numpy(prior.save(tmp_path_factory.mktemp("prior") / "p.safetensors"))


def in_x64(function, points):
    with jax.enable_x64(True):
        return np.asarray(function(points))


def spread_of(points):
    return np.subtract(*np.quantile(points, [0.84, 0.16], axis=0)) / 2


def test_jax_and_numpy_agree_and_both_come_back(both):
    prior, stored = both
    u = RNG.uniform(size=(400, prior.space.dim))
    u[:50] = np.where(
        RNG.random((50, prior.space.dim)) < 0.5, 10.0 ** RNG.uniform(-12, -1, (50, prior.space.dim)), u[:50]
    )
    theta = in_x64(prior.from_unit_cube, u)
    assert prior.space.contains(theta).all()
    scale = np.maximum(np.abs(theta), spread_of(theta))
    np.testing.assert_allclose(stored.from_unit_cube(u) / scale, theta / scale, rtol=0, atol=1e-9)
    v = stored.to_unit_cube(theta)
    np.testing.assert_allclose(in_x64(prior.to_unit_cube, theta), v, rtol=0, atol=1e-9)
    np.testing.assert_allclose(stored.from_unit_cube(v) / scale, theta / scale, rtol=0, atol=1e-6)


def test_uniform_points_become_draws(both):
    """The probability of being below a draw is uniform. A false alarm in 10,000 / d seeds."""
    prior, stored = both
    n = 2000
    theta = stored.from_unit_cube(np.random.default_rng(1).uniform(size=(n, prior.space.dim)))
    draws = stored.sample(2, n)
    for j in range(prior.space.dim):
        assert kstest(theta[:, j], draws[:, j]).pvalue > 1e-4
    far, drawn = stored.log_prob(theta), stored.log_prob(draws)
    assert kstest(far, drawn).pvalue > 1e-4  # the joint density, not the marginals alone


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row[2].members == 1 and not row[2].background], ids=lambda row: row[0]
)
def test_the_density_of_one_flow_is_the_inverse_jacobian(row):
    """The map is exact: |det dtheta / du| is 1 / p(theta), to rounding."""
    prior = make_prior(row[1], row[2])
    with jax.enable_x64(True):
        u = jnp.asarray(RNG.uniform(0.02, 0.98, size=(20, prior.space.dim)))
        jacobian = jax.vmap(jax.jacrev(prior.from_unit_cube))(u)
        found = -jnp.linalg.slogdet(jacobian)[1]
        theta = prior.from_unit_cube(u)
        rounding = np.max(np.spacing(np.abs(theta)) / spread_of(theta))  # of theta, in which log p is evaluated
        np.testing.assert_allclose(found, prior.log_prob(theta), rtol=0, atol=1e-9 + 100 * rounding)


def test_each_flow_of_a_mixture_has_a_stripe_of_its_weight():
    """In its stripe the map is that of the flow alone, so that the density is the sum that defines the mixture."""
    config = FlowConfig(layers=1, hidden=(8,), members=3, background=True)
    prior = make_prior([(0.0, 1.0), (0.0, INF)], config)
    weights = np.asarray(prior.params["mixture"]["weights"])
    v = np.random.default_rng(6).uniform(size=(200, 2))
    theta = in_x64(lambda key: prior.sample(key, (200,)), jax.random.key(0))
    densities = []
    for k in range(4):
        inside = in_x64(prior.from_unit_cube, joined(np.full(200, k), v, weights))
        one = {name: part for name, part in prior.params.items() if name in ("support", "whitening")}
        if k < 3:
            rest = {name: part for name, part in prior.params.items() if name in ("couplings", "final", "base")}
            alone = FlowPrior(
                replace(config, members=1, background=False),
                prior.space,
                one | jax.tree.map(lambda leaf, k=k: leaf[k], rest),
            )
        else:
            plain = FlowConfig(layers=0, base="normal")
            final = {"log_scale": np.zeros(2), "shift": np.zeros(2)}
            alone = FlowPrior(plain, prior.space, {**one, "couplings": [], "final": final, "base": {}})
        scale = 1 + np.abs(inside)
        np.testing.assert_allclose(in_x64(alone.from_unit_cube, v) / scale, inside / scale, rtol=0, atol=1e-9)
        densities.append(np.log(weights[k]) + in_x64(alone.log_prob, theta))
    np.testing.assert_allclose(logsumexp(densities, axis=0), in_x64(prior.log_prob, theta), rtol=0, atol=1e-9)


def test_quantiles_of_a_mixture_against_root_finding():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        k = rng.integers(1, 6)
        weights, mean, scale = rng.dirichlet(np.ones(k)), 5 * rng.normal(size=k), np.exp(2 * rng.normal(size=k))
        u = np.concatenate([10.0 ** rng.uniform(-14, 0, 8), 1 - 10.0 ** rng.uniform(-9, 0, 8)])
        arguments = np.broadcast_to(np.log(weights), (len(u), k)), np.broadcast_to(mean, (len(u), k)), scale
        found = numpy_flow.mixture_quantile(u, *arguments)
        np.testing.assert_allclose(
            in_x64(lambda u, a=arguments: unit_cube.mixture_quantile(u, *a), u),
            found,
            rtol=1e-9,
            atol=1e-9,
        )
        for probability, x in zip(u, found, strict=True):
            side = 1.0 if probability < 0.5 else -1.0  # from the nearer end
            tail = min(probability, 1 - probability)

            def off(x, side=side, tail=tail, m=mean, s=scale, w=weights):
                return logsumexp(np.log(w) + norm.logcdf(side * (x - m) / s)) - np.log(tail)

            exact = brentq(off, mean.min() - 12 * scale.max(), mean.max() + 12 * scale.max(), xtol=1e-13)
            assert abs(x - exact) < 1e-8 * max(1.0, abs(exact), scale.max())


def test_derivatives_of_quantiles_are_exact():
    with jax.enable_x64(True):
        parts = jnp.log(jnp.array([0.3, 0.7])), jnp.array([-1.0, 2.0]), jnp.array([0.5, 1.0])
        for u in (0.01, 0.3, 0.6, 0.99):
            for j in range(4):

                def at(h, j=j, u=u):
                    every = [jnp.asarray(u), *parts]
                    every[j] = every[j] + h
                    return unit_cube.mixture_quantile(*every)

                assert jax.grad(at)(0.0) == pytest.approx(float(at(1e-6) - at(-1e-6)) / 2e-6, rel=1e-6)


def test_stripes_keep_weights_and_come_back():
    weights = np.array([0.5, 0.0, 1e-12, 0.2, 0.3 - 1e-12])
    u = np.random.default_rng(3).uniform(size=(20_000, 2))
    label, v = chosen(u, weights)
    for k, weight in enumerate(weights):
        assert abs(np.mean(label == k) - weight) < 5 * np.sqrt(weight * (1 - weight) / len(u)) + 1e-9
    assert kstest(v[:, 0], "uniform").pvalue > 1e-4
    np.testing.assert_allclose(joined(label, v, weights), u, rtol=0, atol=1e-15)
    rare = np.array([[0.25e-12, 0.5]])  # a part of small weight is next to zero, where numbers are fine
    label, v = chosen(rare, weights)
    assert label[0] == 2
    assert v[0, 0] == pytest.approx(0.25, rel=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda prior: UniformPrior(ParameterSpace(["a", "b"], [0.0, -2.0], [1.0, 5.0])),
        lambda prior: BroadPrior(
            ParameterSpace(["a", "b", "c", "d"], [0.0, -INF, -INF, 1.0], [1.0, 2.0, INF, INF]), *np.ones((3, 4))
        ),
        lambda prior: robustify(prior, 0.3),
    ],
    ids=["uniform", "broad", "robust"],
)
def test_other_priors(make):
    prior = make(make_prior([(0.0, 1.0), (-INF, INF)], FlowConfig(layers=1, hidden=(8,), members=2)))
    u = np.random.default_rng(4).uniform(size=(2000, prior.space.dim))
    theta = in_x64(prior.from_unit_cube, u)
    back = in_x64(prior.from_unit_cube, in_x64(prior.to_unit_cube, theta))
    scale = np.maximum(np.abs(theta), 1.0)
    np.testing.assert_allclose(back / scale, theta / scale, rtol=0, atol=1e-6)
    draws = in_x64(lambda key: prior.sample(key, (2000,)), jax.random.key(5))
    for j in range(prior.space.dim):
        assert kstest(theta[:, j], draws[:, j]).pvalue > 1e-4
    assert np.array_equal(in_x64(prior.icdf, u), theta)  # what NumPyro's nested sampler calls


def test_a_prior_without_a_map_says_so():
    prior = temper(make_prior([(0.0, 1.0)], FlowConfig(base="normal", layers=1, hidden=(4,))), 0.9)
    with pytest.raises(NotImplementedError, match="TemperedPrior: expected a prior with a map from the unit cube"):
        prior.icdf(jnp.zeros(1))


def test_a_robust_prior_whose_broad_part_has_no_map_says_so_and_is_sampled_by_the_ratio():
    learned = make_prior([(0.0, 1.0), (0.0, 1.0)], FlowConfig(base="normal", layers=1, hidden=(4,)))
    prior = robustify(learned, 0.3, dist.Beta(2.0, 2.0).expand([2]).to_event(1))
    for method in (prior.from_unit_cube, prior.to_unit_cube):
        with pytest.raises(NotImplementedError, match="a BroadPrior or UniformPrior; got Independent"):
            method(jnp.full(2, 0.5))

    def model():
        numpyro.sample("theta", prior)
        numpyro.factor("none", 0.0)

    weights = np.exp(UnitCube(ModelDensity(model), jax.random.key(0)).evaluate(RNG.uniform(size=(20_000, 2))).target)
    assert abs(weights.mean() - 1.0) < 5 * weights.std() / np.sqrt(len(weights))


@pytest.mark.parametrize("wrong", [1.5, -0.1, np.nan])
def test_points_that_are_not_in_the_cube_are_refused_outside_of_traces(wrong):
    learned = make_prior([(0.0, 1.0), (-INF, INF)], FlowConfig(layers=1, hidden=(8,), members=2))
    space = ParameterSpace(["a", "b"], 0.0, 1.0)
    broad = BroadPrior(space, *np.ones((3, 2)))
    for prior in (learned, UniformPrior(space), broad, robustify(learned, 0.3)):
        with pytest.raises(ValueError, match=rf"{type(prior).__name__}: u: expected values in \[0, 1\]"):
            prior.from_unit_cube(np.array([0.5, wrong]))


def test_points_that_are_not_in_the_cube_or_the_support_are_refused(both):
    _, stored = both
    d = stored.space.dim
    with pytest.raises(ValueError, match=r"from_unit_cube: u: expected values in \[0, 1\]"):
        stored.from_unit_cube(np.full(d, 1.5))
    with pytest.raises(ValueError, match=r"from_unit_cube: u: expected values in \[0, 1\]"):
        stored.from_unit_cube(np.full(d, np.nan))
    with pytest.raises(ValueError, match=f"expected a last axis of {d} values"):
        stored.from_unit_cube(np.full(d + 1, 0.5))
    with pytest.raises(ValueError, match="to_unit_cube: theta: expected points inside the support"):
        stored.to_unit_cube(np.full(d, np.nan))
    assert np.isfinite(stored.from_unit_cube(np.array([np.zeros(d), np.ones(d)]))).all()
    assert stored.from_unit_cube(np.empty((0, d))).shape == (0, d)


LEARNED = mixture_prior(2, [(0.6, 0.0, 1.0), (0.4, 3.0, 0.5)])


def every_kind():
    """Sites with and without a map of their own, one that depends on another, plates, a scale and a mask."""
    numpyro.sample("theta", LEARNED)
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("t", dist.Normal(0.0, s))
    numpyro.sample("d", dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])))
    numpyro.sample("v", dist.VonMises(0.0, 2.0))
    with numpyro.plate("n", 2):
        numpyro.sample("w", dist.LogNormal(0.0, 0.5))
    with numpyro.handlers.scale(scale=0.5):
        numpyro.sample("z", dist.Normal(1.0, 2.0))
    numpyro.sample("m", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.5], [0.5, 2.0]])))
    numpyro.sample("b", dist.Beta(2.0, 3.0))
    numpyro.factor("none", 0.0)


def test_a_model_in_the_unit_cube_has_its_prior():
    """Moments of the vector by importance weights at uniform points, against prior draws; exact normalisation."""
    density = ModelDensity(every_kind)
    cube = UnitCube(density, jax.random.key(0))
    u = np.random.default_rng(0).uniform(size=(40_000, density.dim))
    found = cube.evaluate(u)
    x, weights = cube.points(u), np.exp(found.target)
    assert np.isfinite(x).all()
    root = np.sqrt(len(u))
    mean, error = weights.mean(), weights.std() / root
    exact = np.sqrt(np.sqrt(2 * np.pi) * 2.0) * np.sqrt(2.0)  # the integral of the square root of N(1, 2)
    assert abs(mean - exact) < 5 * error
    draws = density.sample_prior(jax.random.key(1), 40_000)
    for j, name in enumerate(density.names):
        centre, width = np.median(draws[:, j]), spread_of(draws[:, j])
        for moment in (
            lambda y, c=centre, w=width: np.tanh((y - c) / w),
            lambda y, c=centre, w=width: np.tanh((y - c) / w) ** 2,
        ):
            ours, theirs = moment(x[:, j]), moment(draws[:, j])
            estimate = np.sum(weights * ours) / np.sum(weights)
            noise = np.hypot(np.std(weights * (ours - estimate)) / weights.mean(), theirs.std()) / root
            if name != "z":  # whose scale widens it
                assert abs(estimate - theirs.mean()) < 5 * noise, name


def test_a_mixture_of_flows_goes_through_its_first_flow():
    prior = make_prior(
        [(0.0, 1.0), (0.0, INF)], FlowConfig(layers=1, hidden=(8,), members=3, background=True), strength=0.1
    )

    def model():
        numpyro.sample("theta", prior)
        numpyro.factor("none", 0.0)

    density = ModelDensity(model)
    cube = UnitCube(density, jax.random.key(0))
    u = np.random.default_rng(0).uniform(size=(40_000, 2))
    weights = np.exp(cube.evaluate(u).target)
    assert abs(weights.mean() - 1.0) < 5 * weights.std() / 200
    assert weights.std() > 1e-3  # so that there is something to correct
    line = np.stack([np.linspace(0.01, 0.99, 400), np.full(400, 0.4)], axis=1)
    jumps = np.abs(np.diff(cube.points(line)[:, 0]))
    assert jumps.max() < 20 * np.median(jumps)  # no stripes


def test_all_names_of_numpyro_with_a_quantile_are_what_they_say():
    """log p(F^-1(u)) + log d F^-1 / du = 0 for every family that value_at takes at its word."""
    families = [
        dist.Normal(1.0, 2.0), dist.Uniform(-1.0, 3.0), dist.LogNormal(0.3, 0.7), dist.HalfNormal(2.0),
        dist.Cauchy(1.0, 2.0), dist.HalfCauchy(2.0), dist.Exponential(3.0), dist.Beta(2.0, 3.0), dist.Gamma(2.0, 3.0),
        dist.InverseGamma(3.0, 2.0), dist.StudentT(4.0, 1.0, 2.0), dist.Laplace(1.0, 2.0), dist.Logistic(1.0, 2.0),
        dist.Gumbel(1.0, 2.0), dist.LogUniform(0.1, 10.0), dist.Pareto(1.0, 3.0),
        dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=2.0),
        dist.TruncatedNormal(0.0, 1.0, low=1.0), dist.TruncatedCauchy(0.0, 1.0, high=2.0), dist.Chi2(3.0),
        dist.Levy(0.0, 1.0),
    ]  # fmt: skip
    with jax.enable_x64(True):
        u = jnp.array([0.003, 0.2, 0.5001, 0.8, 0.997])
        for family in families:
            value, slope = jax.jvp(family.icdf, (u,), (jnp.ones(5),))
            off = family.log_prob(value) + jnp.log(jnp.abs(slope))
            np.testing.assert_allclose(off, 0.0, atol=1e-4, err_msg=type(family).__name__)
