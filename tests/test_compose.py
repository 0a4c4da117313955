"""Priors made from a prior: tempered, robust, conditional, marginal, in latent space; against exact densities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import reparam, seed, trace
from numpyro.infer import MCMC, NUTS
from scipy import stats
from toys import INF, PRIOR_ROWS, make_prior, mixture_prior

from numpyro_flowprior import (
    BroadPrior,
    FlowConfig,
    FlowPrior,
    LatentReparam,
    ModelDensity,
    ParameterSpace,
    TrainConfig,
    UniformPrior,
    fit_marginal,
    robustify,
    temper,
)
from numpyro_flowprior.training.fit import FlowFit

KEY = jax.random.key(0)
CONDITIONED = ["2-D mixed", "2-D spline"]
GAUSSIAN = [(1.0, 0.5, [1.0, 0.6])]  # one component: a Gaussian of these standard deviations
SD = np.array([1.0, 0.6])
MIXED = make_prior([(0.0, 1.0), (0.0, INF), (-INF, INF)], FlowConfig(layers=1, hidden=(8,), members=2, background=True))


def composed() -> dict:
    box = make_prior([(0.0, 1.0), (1e-4, 0.28)], FlowConfig(layers=1, hidden=(8,), members=2), strength=0.1)
    return {
        "tempered": temper(box, 0.7),
        "robust": robustify(box, 0.1),
        "conditional": MIXED.condition(p1=0.7),
        "broad": BroadPrior(MIXED.space, np.ones(3), np.zeros(3), np.ones(3)),
    }


COMPOSED = composed()


@pytest.fixture(params=list(COMPOSED))
def density(request):
    return COMPOSED[request.param]


def model(prior):
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(theta.sum(), 0.5), obs=1.0)


def test_composed_densities_are_normalised_and_match_their_draws(density):
    """Importance sampling of the density's integral from a broad proposal; 5 standard errors. The draws' mean log
    density against the same integral of -p log p. One run in 10^6 fails by chance."""
    space = density.space
    with jax.enable_x64(True):
        loc = 0.5 * np.ones(space.dim)
        proposal = BroadPrior(space, np.ones(space.dim), loc, 2.0 * np.ones(space.dim))
        theta = proposal.sample(jax.random.key(1), (30_000,))
        log_p, log_q = np.asarray(density.log_prob(theta)), np.asarray(proposal.log_prob(theta))
        drawn = np.asarray(density.log_prob(density.sample(jax.random.key(2), (4000,))))
    weights = np.exp(log_p - log_q)
    assert abs(weights.mean() - 1.0) < 5 * weights.std() / np.sqrt(len(weights))
    terms = weights * log_p
    error = np.hypot(terms.std() / np.sqrt(len(terms)), drawn.std() / np.sqrt(len(drawn)))
    assert abs(drawn.mean() - terms.mean()) < 5 * error


@pytest.mark.parametrize("power", [0.3, 2.0])
def test_a_tempered_gaussian_is_a_gaussian(power):
    tempered = temper(mixture_prior(2, GAUSSIAN), power)
    exact = np.sum(0.5 * (1 - power) * np.log(2 * np.pi * SD**2) - 0.5 * np.log(power))
    assert abs(tempered.log_normalizer - exact) < 5 * tempered.log_normalizer_error < 0.02
    draws = np.asarray(tempered.sample(KEY, (4000,)))
    for j in range(2):
        assert stats.kstest(draws[:, j], stats.norm(0.5, SD[j] / np.sqrt(power)).cdf).pvalue > 1e-4


def test_power_one_is_the_prior_itself():
    prior = mixture_prior(2, GAUSSIAN)
    tempered, theta = temper(prior, 1.0), prior.sample(KEY, (3,))
    np.testing.assert_array_equal(tempered.log_prob(theta), prior.log_prob(theta))
    assert tempered.sample(KEY).shape == (2,)


def test_powers_that_have_no_normaliser_are_refused():
    half_line = make_prior([(2.0, INF)], FlowConfig(layers=1, hidden=(8,)))
    message = r"0\.3 gives an effective sample size .* Pareto shape .* not integrable"
    with pytest.raises(ValueError, match=message):
        temper(half_line, 0.3)  # a tail of 1 / x^2, to the power of 0.3


@pytest.mark.filterwarnings("ignore:Out-of-support")  # newer versions of NumPyro say so
def test_robust_prior_is_the_mixture_and_tells_which_part_a_point_is_from():
    prior = make_prior([(0.0, 1.0)] * 2, FlowConfig(layers=1, hidden=(8,)))
    flat = UniformPrior(prior.space)
    robust, theta = robustify(prior, 0.2, flat), prior.sample(KEY, (50,))
    learned = 0.8 * np.exp(np.asarray(prior.log_prob(theta), float))
    np.testing.assert_allclose(np.exp(robust.log_prob(theta)), learned + 0.2, rtol=1e-4)
    np.testing.assert_allclose(robust.probability_broad(theta), 0.2 / (learned + 0.2), rtol=1e-4)
    chosen = robustify(prior, 0.2)  # flat on a box by itself
    np.testing.assert_allclose(chosen.log_prob(theta), robust.log_prob(theta), rtol=1e-4, atol=1e-5)
    unit = dist.Uniform(0.0, 1.0).expand([2]).to_event(1)
    np.testing.assert_allclose(robustify(prior, 0.2, unit).log_prob(theta), robust.log_prob(theta), rtol=1e-5)
    outside = jnp.array([0.5, 1.5])
    assert robustify(prior, 0.2, unit).log_prob(outside) == -jnp.inf


def test_a_robust_prior_finds_the_mode_that_stage_one_missed():
    prior = mixture_prior(1, [(1.0, 0.0, [0.3])])

    def shifted(prior):
        theta = numpyro.sample("theta", prior)
        numpyro.sample("y", dist.Normal(theta[0], 0.1), obs=4.0)

    robust = robustify(prior, 0.1)
    grid = np.linspace(-3.0, 6.0, 4001)[:, None]
    found = ModelDensity(shifted, robust).log_posterior(grid)
    weights = np.exp(found - found.max())
    assert abs((weights @ grid[:, 0]) / weights.sum() - 4.0) < 0.1
    assert (weights @ robust.probability_broad(grid)) / weights.sum() > 0.99


def test_broad_prior_against_scipy():
    space = ParameterSpace(["a", "b", "c", "d"], [0.0, 1.0, -INF, -INF], [2.0, INF, 3.0, INF])
    broad = BroadPrior(space, [1.0, 2.0, 0.5, 1.0], [0.0, 0.0, 0.0, -1.0], [1.0, 1.0, 1.0, 4.0])
    with jax.enable_x64(True):
        theta = np.asarray(broad.sample(KEY, (2000,)))
        log_prob = np.asarray(broad.log_prob(theta))
    loglogistic = stats.fisk(1.0)  # density 1 / (1 + x)^2
    expected = np.stack(
        [
            stats.uniform(0.0, 2.0).logpdf(theta[:, 0]),
            loglogistic.logpdf((theta[:, 1] - 1.0) / 2.0) - np.log(2.0),
            loglogistic.logpdf((3.0 - theta[:, 2]) / 0.5) - np.log(0.5),
            stats.t(3, -1.0, 4.0).logpdf(theta[:, 3]),
        ]
    ).sum(axis=0)
    np.testing.assert_allclose(log_prob, expected, atol=1e-10)
    assert stats.kstest((3.0 - theta[:, 2]) / 0.5, loglogistic.cdf).pvalue > 1e-4


def test_conditionals_of_a_gaussian_mixture_are_exact():
    parts = [(0.3, [1.0, -1.0, 0.0], [0.5, 0.4, 1.0]), (0.7, [-1.0, 0.5, 0.2], [0.3, 0.8, 0.6])]
    prior, fixed = mixture_prior(3, parts), {"p0": 0.6, "p2": 0.1}
    assert prior.names == ("p0", "p1", "p2")
    weights = np.array([w * stats.norm(m[0], s[0]).pdf(0.6) * stats.norm(m[2], s[2]).pdf(0.1) for w, m, s in parts])
    weights /= weights.sum()

    def exact(x, kind):
        return sum(w * getattr(stats.norm(m[1], s[1]), kind)(x) for w, (_, m, s) in zip(weights, parts, strict=True))

    conditional = prior.condition(**fixed)
    assert conditional.space.names == ("p1",)
    assert conditional.log_normalizer_error < 1e-9
    x = np.linspace(-3.0, 3.0, 50)
    np.testing.assert_allclose(np.exp(conditional.log_prob(x[:, None])), exact(x, "pdf"), rtol=1e-4)
    draws = np.asarray(conditional.sample(KEY, (4000,)))[:, 0]
    assert stats.kstest(draws, lambda x: exact(x, "cdf")).pvalue > 1e-4
    pair = prior.condition({"p2": 0.1})
    marginal = np.array([w * stats.norm(m[2], s[2]).pdf(0.1) for w, m, s in parts])
    points = np.asarray(pair.sample(KEY, (20,)))
    each = [stats.norm(m[0], s[0]).pdf(points[:, 0]) * stats.norm(m[1], s[1]).pdf(points[:, 1]) for _, m, s in parts]
    np.testing.assert_allclose(np.exp(pair.log_prob(points)), marginal / marginal.sum() @ np.array(each), rtol=1e-4)


@pytest.mark.parametrize("row", [PRIOR_ROWS[name] for name in CONDITIONED], ids=CONDITIONED)
def test_conditionals_integrate_to_one(row):
    """By Gauss-Legendre in logistic (interval) or hyperbolic (line) coordinates, not those of the package's grid."""
    prior = make_prior(row[1], row[2])
    nodes, weights = np.polynomial.legendre.leggauss(8)
    edges = np.linspace(-30.0, 30.0, 401)
    centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    t, w = (centre[:, None] + half[:, None] * nodes).ravel(), (half[:, None] * weights).ravel()
    with jax.enable_x64(True):
        conditional = prior.condition(p0=0.4)
        low, high = conditional.space.bounds[0]
        if np.isfinite(low):
            near = 1.0 / (1.0 + np.exp(np.abs(t)))
            x, jacobian = np.where(t < 0, low + near * (high - low), high - near * (high - low)), near * (1 - near)
            jacobian = jacobian * (high - low)
        else:
            x, jacobian = np.sinh(t), np.cosh(t)
        density = np.exp(np.asarray(conditional.log_prob(x[:, None])))
    assert abs(w @ (density * jacobian) - 1.0) < 1e-4


CONDITION_ERRORS = [
    ({"nobody": 0.1}, "no parameter named 'nobody'"),
    ({"p0": 1.5, "p1": 1.0}, r"condition: p0: expected a number in \[0, 1\]; got 1.5"),
    ({"p0": 0.1, "p1": 1.0, "p2": 0.0}, "expected one or two free parameters.*got 0"),
    ({}, "expected one or two free parameters.*got 3.*More are not supported"),
]


@pytest.mark.parametrize(("values", "message"), CONDITION_ERRORS)
def test_conditionals_that_are_not_offered_say_so(values, message):
    with pytest.raises(ValueError, match=message):
        MIXED.condition(values)


def test_summary_against_a_gaussian():
    """Moments within 5 standard errors of the exact ones."""
    prior = mixture_prior(2, GAUSSIAN)
    found = prior.summary(jax.random.key(3), draws=20_000)
    normal = stats.norm(0.5, SD)
    for name, exact in (("mean", 0.5), ("variance", SD**2), ("entropy", normal.entropy().sum())):
        assert (np.abs(getattr(found, name) - exact) < 5 * getattr(found, f"{name}_error")).all()
    exact = np.array([normal.ppf(level) for level in found.levels])
    assert (np.abs(found.quantiles - exact) < 5 * found.quantiles_error).all()
    np.testing.assert_allclose(found.variance_error, SD**2 * np.sqrt(2 / 20_000), rtol=0.1)
    assert "p0" in str(found)
    assert "entropy" in str(found)
    np.testing.assert_allclose(prior.mean, 0.5, atol=0.02)
    np.testing.assert_allclose(prior.variance, SD**2, rtol=0.05)
    np.testing.assert_allclose(prior.entropy(), normal.entropy().sum(), atol=0.02)


def test_a_marginal_is_refitted_with_a_report():
    prior = mixture_prior(3, [(1.0, [0.0, 1.0, -1.0], [1.0, 0.5, 2.0])])
    config, train = FlowConfig(layers=1, hidden=(8,), components=1), TrainConfig(max_steps=200)
    fit = fit_marginal(KEY, prior, ["p2", "p0"], draws=4000, config=config, train=train, progress=False)
    assert isinstance(fit, FlowFit)
    assert fit.prior.names == ("p2", "p0")
    assert fit.report.verdict in ("pass", "warn")
    theta = np.array([[-1.0, 0.0], [1.0, 1.0]])
    exact = stats.norm([-1.0, 0.0], [2.0, 1.0]).logpdf(theta).sum(axis=1)
    np.testing.assert_allclose(fit.prior.log_prob(theta), exact, atol=0.25)


WITH_LATENT_SPACE = {
    "flow": lambda: MIXED,
    "tempered": lambda: temper(MIXED, 0.9, draws=2000),
    "robust": lambda: robustify(MIXED, 0.1),
}


@pytest.mark.parametrize("make", WITH_LATENT_SPACE.values(), ids=WITH_LATENT_SPACE)
def test_latent_density_is_that_of_the_change_of_variables(make):
    prior = make()
    with jax.enable_x64(True):
        omega = jax.random.normal(KEY, (4, 3))
        jacobian = jax.vmap(lambda point: jnp.linalg.slogdet(jax.jacobian(prior.from_latent)(point))[1])(omega)
        expected = prior.log_prob(prior.from_latent(omega)) + jacobian
        np.testing.assert_allclose(prior.latent_log_prob(omega), expected, atol=1e-9)
    density = ModelDensity(reparam(model, config={"theta": LatentReparam()}), prior)
    np.testing.assert_allclose(density.log_prior(np.asarray(omega)), expected, atol=1e-9)


def test_priors_say_what_they_are_also_inside_of_jit():
    conditional = MIXED.condition(p0=jnp.array(0.25), p2=np.float32(-1.0))
    assert repr(conditional) == "ConditionalPrior(ParameterSpace[p1 (0, inf)] | p0=0.25, p2=-1.0)"
    robust, space = COMPOSED["robust"], COMPOSED["robust"].space
    assert repr(robust) == f"RobustPrior({space!r}, BroadPrior({space!r}), weight=0.1)"
    assert repr(COMPOSED["tempered"]) == f"TemperedPrior({space!r}, power=0.7)"
    seen = []
    for prior in (conditional, robust, COMPOSED["tempered"]):
        jax.jit(lambda p: seen.append(repr(p)))(prior)
    assert len(seen) == 3


def test_latent_reparam_gives_nuts_the_same_posterior():
    """Means by NUTS in latent space against importance sampling from the prior; 5 standard errors of each."""
    prior = make_prior([(0.0, 1.0), (0.0, INF)], FlowConfig(layers=1, hidden=(8,), members=2), strength=0.1)
    latent = reparam(model, config={"theta": LatentReparam()})
    mcmc = MCMC(NUTS(latent), num_warmup=300, num_samples=2000, progress_bar=False)
    mcmc.run(jax.random.PRNGKey(1), prior)
    found = np.log(np.asarray(mcmc.get_samples()["theta"]))
    draws = np.log(np.asarray(prior.sample(KEY, (100_000,))))
    weights = np.exp(np.asarray(dist.Normal(np.exp(draws).sum(axis=1), 0.5).log_prob(1.0)))
    weights /= weights.sum()
    expected = weights @ draws
    sigma = np.sqrt(weights @ (draws - expected) ** 2)
    np.testing.assert_allclose(found.mean(axis=0), expected, atol=5 * sigma.max() / np.sqrt(200))


def test_latent_reparam_in_plates_and_where_it_does_not_belong():
    prior = make_prior([(0.0, 1.0)] * 2, FlowConfig(layers=1, hidden=(8,)))

    def plated(prior):
        with numpyro.plate("systems", 3):
            return numpyro.sample("theta", prior)

    sites = trace(seed(reparam(plated, config={"theta": LatentReparam()}), 0)).get_trace(prior)
    assert sites["theta_latent"]["value"].shape == (3, 2)
    assert prior.support(sites["theta"]["value"]).all()
    density = ModelDensity(reparam(model, config={"theta": LatentReparam()}), prior)
    omega = np.array([[0.3, -0.2]])
    np.testing.assert_allclose(density.log_prior(omega), prior.latent_log_prob(omega), rtol=1e-5)
    with pytest.raises(ValueError, match="'y' is observed"):
        trace(seed(reparam(model, config={"y": LatentReparam()}), 0)).get_trace(prior)
    wrong = "expected a FlowPrior, TemperedPrior or RobustPrior at site 'theta'; got Normal"
    with pytest.raises(TypeError, match=wrong):
        trace(seed(reparam(plated, config={"theta": LatentReparam()}), 0)).get_trace(dist.Normal())


COMPOSE_ERRORS = [
    (lambda p: temper(p, 0.0), ValueError, r"temper: power: expected a number in \(0, inf\)"),
    (lambda p: temper(p, "half"), TypeError, "temper: power"),
    (lambda p: temper(dist.Normal(), 0.5), TypeError, "temper: expected a FlowPrior; got Normal"),
    (lambda p: robustify(p, 1.0), ValueError, r"robustify: weight: expected a number in \(0, 1\)"),
    (lambda p: robustify(p, 0.1, "flat"), TypeError, "robustify: broad: expected a NumPyro distribution"),
    (lambda p: robustify(p, 0.1, dist.Normal()), ValueError, r"expected event shape \(2,\)"),
    (lambda p: robustify(p, 0.1, dist.Normal().expand([2]).to_event(1)), ValueError, "draws are outside"),
    (lambda p: p.summary(draws=3), ValueError, "summary: draws"),
    (lambda p: p.summary(levels=[2.0]), ValueError, "summary: levels"),
    (lambda p: p.condition(p0=0.5).log_prob(np.zeros(2)), ValueError, "expected a last axis of 1 values for p1"),
    (lambda p: BroadPrior(p.space, *np.ones((3, 2))).log_prob(np.ones(1)), ValueError, "expected a last axis of 2"),
    (lambda p: BroadPrior(p.space, *np.zeros((3, 2))), ValueError, "BroadPrior: scale: expected positive numbers"),
    (lambda p: BroadPrior(p.space, *np.ones((3, 1))), ValueError, r"BroadPrior: loc: expected shape \(2\)"),
    (lambda p: fit_marginal(KEY, p, ["nobody"]), ValueError, "no parameter named 'nobody'"),
    (lambda p: fit_marginal(KEY, p, ["p0"], draws=10), ValueError, "fit_marginal: draws"),
]


@pytest.mark.parametrize(("make", "error", "message"), COMPOSE_ERRORS)
def test_bad_arguments_are_refused(make, error, message):
    prior: FlowPrior = make_prior([(0.0, 1.0)] * 2, FlowConfig(layers=1, hidden=(8,)))
    with pytest.raises(error, match=message):
        make(prior)
