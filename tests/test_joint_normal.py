"""joint_normal and conditional_normal against SciPy and closed forms, with emulators too; and what they refuse."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal
from toys import coarse_products

from numpyro_flowprior import (
    EmulatorLikelihood,
    GPEmulator,
    ModelDensity,
    ParameterSpace,
    Stage,
    UniformPrior,
    conditional_normal,
    joint_normal,
    measurement_covariance,
)
from numpyro_flowprior.stages.correlated import StageData, given_earlier_data

RNG = np.random.default_rng(5)
DIM, PRIOR_WIDTH = 3, 2.0
SIZES = {"x": 4, "y": 3, "z": 2}
DESIGN = {name: RNG.normal(size=(n, DIM)) for name, n in SIZES.items()}
SHARED = {name: RNG.normal(size=n) for name, n in SIZES.items()}  # size of the common normalisation error
OWN = {name: np.diag(RNG.uniform(0.2, 0.5, n) ** 2) for name, n in SIZES.items()}
DATA = {name: RNG.normal(size=n) for name, n in SIZES.items()}
COVARIANCE = {name: OWN[name] + np.outer(SHARED[name], SHARED[name]) for name in SIZES}
PAIRS = [("x", "y"), ("x", "z"), ("y", "z")]
CROSS = {(a, b): np.outer(SHARED[a], SHARED[b]) for a, b in PAIRS}


def closed_form(order):
    """Mean, covariance and log evidence of the posterior given all data sets together, in NumPy."""
    design, y, shared = (np.concatenate([part[name] for name in order]) for part in (DESIGN, DATA, SHARED))
    noise = block_diag(*(OWN[name] for name in order)) + np.outer(shared, shared)
    precision = np.eye(DIM) / PRIOR_WIDTH**2 + design.T @ np.linalg.solve(noise, design)
    covariance = np.linalg.inv(precision)
    predicted = noise + PRIOR_WIDTH**2 * design @ design.T
    mean = covariance @ design.T @ np.linalg.solve(noise, y)
    return mean, covariance, multivariate_normal(cov=predicted).logpdf(y)


def staged_model(mean, covariance, earlier, name):
    """The last stage of the data sets `earlier` and `name`, with the exact posterior of `earlier` as its prior."""
    theta = numpyro.sample("theta", dist.MultivariateNormal(mean, covariance))
    normals = {each: dist.MultivariateNormal(DESIGN[each] @ theta, COVARIANCE[each]) for each in (*earlier, name)}
    crosses = {pair: cross for pair, cross in CROSS.items() if set(pair) <= set(normals)}
    seen = jnp.concatenate([DATA[each] for each in earlier])
    numpyro.sample(name, conditional_normal(joint_normal(normals, crosses), seen), obs=DATA[name])


def gaussian_of(density):
    """Mean, covariance and log evidence of a density whose logarithm is quadratic, by autodiff."""

    def log_joint(x):
        return sum(density.traced_log_densities(x))

    with jax.enable_x64(True):
        x = jnp.zeros(density.dim)
        slope, curvature = jax.jit(lambda x: (jax.grad(log_joint)(x), jax.hessian(log_joint)(x)))(x)
        covariance = np.linalg.inv(-np.asarray(curvature))
        mean = covariance @ np.asarray(slope)
        volume = 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
        return mean, covariance, float(log_joint(jnp.asarray(mean))) + volume


@pytest.mark.parametrize("order", ["xy", "yx", "xyz", "yzx", "zyx"])
def test_stages_with_exact_priors_are_the_joint_fit(order):
    mean, covariance, log_evidence = closed_form(order[:1])
    for number in range(1, len(order)):
        density = ModelDensity(staged_model, mean, covariance, order[:number], order[number])
        mean, covariance, change = gaussian_of(density)
        log_evidence += change
    exact = closed_form(order)
    np.testing.assert_allclose(mean, exact[0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(covariance, exact[1], rtol=0, atol=1e-8)
    assert log_evidence == pytest.approx(exact[2], abs=1e-8)
    alone = sum(closed_form((name,))[2] for name in order)
    assert abs(log_evidence - alone) > 0.1  # the correlations matter here


NORMALS = {
    "Normal": lambda: dist.Normal(np.array([0.3, -0.2]), np.array([0.5, 0.7])).to_event(1),
    "Normal, expanded": lambda: dist.Normal(0.1, 0.6).expand([2]).to_event(1),
    "MultivariateNormal": lambda: dist.MultivariateNormal(np.array([0.3, -0.2]), np.array([[0.5, 0.1], [0.1, 0.4]])),
    "LowRankMultivariateNormal": lambda: dist.LowRankMultivariateNormal(
        np.array([0.3, -0.2]), np.array([[0.2], [0.1]]), np.array([0.3, 0.4])
    ),
    "expanded": lambda: dist.MultivariateNormal(np.array([0.3, -0.2]), 0.5 * np.eye(2)).expand([3]),
}


@pytest.mark.parametrize("kind", NORMALS)
def test_every_normal_distribution_can_be_a_part(kind):
    cross, y = np.array([[0.1, 0.0, 0.2], [0.0, 0.15, 0.1]]), np.array([0.2, 0.4, 0.9, 1.3, 0.8])
    with jax.enable_x64(True):
        part, other = NORMALS[kind](), dist.MultivariateNormal(np.ones(3), 0.8 * np.eye(3))
        joint = joint_normal({"one": part, "other": other}, {("other", "one"): cross.T})
        np.testing.assert_allclose(joint.mean[..., :2], np.broadcast_to(part.mean, (*joint.batch_shape, 2)))
        np.testing.assert_allclose(joint.variance[..., :2], np.broadcast_to(part.variance, (*joint.batch_shape, 2)))
        np.testing.assert_allclose(joint.covariance_matrix[..., :2, 2:] - cross, 0.0, atol=1e-12)
        assert joint.batch_shape == part.batch_shape
        found, expected = conditional_normal(joint, y[:2]), joint.log_prob(y) - part.log_prob(y[:2])
        np.testing.assert_allclose(found.log_prob(y[2:]), expected, rtol=0, atol=1e-12)


SPACE = ParameterSpace(["a", "b"], [-1.0, 0.0], [1.0, 2.0])
OTHER = ParameterSpace(["b", "c"], [0.0, 5.0], [2.0, 6.0])
POINTS = np.random.default_rng(9).uniform([-1, 0, 5], [1, 2, 6], (6, 3))


def near_model(X):
    a, b = X.T
    return np.stack([100 * np.exp(a), np.sin(b) + 3.0, a * b + 5.0, a - b + 4.0], axis=-1)


def far_model(X):
    b, c = X.T
    return np.stack([b + c, np.cos(b - c) + 2.0, 30.0 + b * c], axis=-1)


@pytest.fixture(scope="module")
def emulated():
    """Two emulator likelihoods with 4 % of a common normalisation error, and their cross-covariance."""
    parts = []
    for model, space, truth in ((near_model, SPACE, [0.2, 1.3]), (far_model, OTHER, [1.3, 5.4])):
        X = np.random.default_rng(1).uniform(*space.bounds.T, (12, 2))  # few runs: the emulators are uncertain
        y = model(np.array([truth]))[0]
        covariance = measurement_covariance(0.03 * y, 0.04 * y)
        parts.append(
            EmulatorLikelihood(GPEmulator.fit(X, model(X), space, n_components=2, progress=False), y, covariance)
        )
    near, far = parts
    return near, far, 0.04**2 * np.outer(near.observed, far.observed)


def moments(likelihood, theta):
    """Mean and covariance in NumPy, from the emulator and the errors that it was given."""
    (emulator,) = likelihood.emulators
    predicted, y = emulator.predict(theta), likelihood.observed
    return predicted.mean, predicted.covariance + measurement_covariance(0.03 * y, 0.04 * y)


def conditional_log_prob(near, far, cross, theta, **options):
    joint = joint_normal({"near": near(theta, **options), "far": far(theta)}, {("near", "far"): cross})
    return conditional_normal(joint, near.observed).log_prob(far.observed)


def test_with_emulators_the_conditional_density_is_the_joint_minus_the_marginal(emulated):
    """Nonlinear means and covariances that depend on the parameters; one by one, in a batch, compiled and mapped."""
    near, far, cross = emulated
    expected, variances = [], []
    for point in POINTS:
        (m1, c1), (m2, c2) = moments(near, point[:2]), moments(far, point[1:])
        joint = multivariate_normal(np.append(m1, m2), np.block([[c1, cross], [cross.T, c2]]))
        marginal = multivariate_normal(m1, c1)
        expected.append(joint.logpdf(np.append(near.observed, far.observed)) - marginal.logpdf(near.observed))
        variances.append(np.diag(c1))
    assert np.ptp(variances, axis=0).max() > 1e-3  # the emulators' own errors do depend on the parameters
    named = dict(zip("abc", POINTS.T, strict=True))
    with jax.enable_x64(True):
        for found in (
            conditional_log_prob(near, far, cross, named),
            jax.jit(lambda theta: conditional_log_prob(near, far, cross, theta))(named),
            jax.vmap(lambda theta: conditional_log_prob(near, far, cross, theta))(named),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
        with_error = near(named, discrepancy=0.1)
        joint = joint_normal({"near": with_error, "far": far(named)}, {("near", "far"): cross})
        marginal = with_error.log_prob(near.observed)
        found = conditional_log_prob(near, far, cross, named, discrepancy=0.1)
        whole = joint.log_prob(np.append(near.observed, far.observed))
        np.testing.assert_allclose(found, whole - marginal, rtol=1e-9, atol=1e-9)


def test_gradients_equal_finite_differences(emulated):
    near, far, cross = emulated

    def log_prob(theta):
        return conditional_log_prob(near, far, cross, dict(zip("abc", theta, strict=True)))

    with jax.enable_x64(True):
        value, gradient = jax.jit(log_prob), jax.jit(jax.grad(log_prob))
        for theta in POINTS[:3]:
            step = 1e-5
            numeric = np.array([(value(theta + e) - value(theta - e)) / (2 * step) for e in step * np.eye(3)])
            assert np.linalg.norm(gradient(theta) - numeric) < 1e-4 * np.linalg.norm(numeric)  # as in test_likelihood


def test_without_a_correlation_nothing_changes(emulated):
    near, far, cross = emulated
    named = dict(zip("abc", POINTS.T, strict=True))
    with jax.enable_x64(True):
        alone = far(named).log_prob(far.observed)
        np.testing.assert_allclose(conditional_log_prob(near, far, 0.0 * cross, named), alone, rtol=1e-9, atol=1e-9)


def test_a_cross_covariance_may_depend_on_the_parameters_and_on_the_batch():
    """Errors proportional to predictions: one matrix for each point."""
    sizes = np.array([0.1, 0.2, 0.3])[:, None, None]
    one, other = (dist.Normal(np.zeros((3, n)), 1.0).to_event(1) for n in (2, 4))
    joint = jax.jit(lambda sizes: joint_normal({"one": one, "other": other}, {("one", "other"): sizes}))(
        sizes * np.ones((2, 4))
    )
    np.testing.assert_allclose(joint.covariance_matrix[:, :2, 2:], sizes * np.ones((3, 2, 4)), atol=1e-6)
    assert conditional_normal(joint, np.zeros(2)).batch_shape == (3,)
    assert conditional_normal(joint, np.zeros((3, 2))).batch_shape == (3,)


def test_products_have_all_digits_in_float32_too():
    one, other = (dist.Normal(np.zeros(n, np.float32), 1.0).to_event(1) for n in (2, 3))

    def moments(cross):
        found = conditional_normal(joint_normal({"one": one, "other": other}, {("one", "other"): cross}), np.ones(2))
        return found.loc, found.scale_tril

    products, coarse = coarse_products(moments, np.full((2, 3), 0.2, np.float32))
    assert products > 0
    assert coarse == []


GOOD = dist.Normal(np.zeros(3), 1.0).to_event(1)
TWO = {"one": GOOD, "other": dist.Normal(np.zeros(2), 1.0).to_event(1)}


@pytest.mark.parametrize(
    ("normals", "crosses", "words"),
    [
        (
            TWO,
            {("one", "other"): np.zeros((2, 3))},
            r"'one' \(rows\) .*expected shape \(3, 2\); got \(2, 3\). Transpose",
        ),
        (
            TWO,
            {("one", "other"): np.zeros((4, 2))},
            r"expected shape \(3, 2\); got \(4, 2\)\. It has no rows .*not meas",
        ),
        (TWO, {("one", "other"): 0.1}, r"expected shape \(3, 2\); got \(\)"),
        (
            TWO,
            {("one", "third"): np.zeros((3, 2))},
            r"different names among 'one', 'other', each pair once; got \('one', 't",
        ),
        (TWO, {"one": np.zeros((3, 2))}, "pairs of different names among 'one', 'other'"),
        (TWO, {("one", "one"): np.zeros((3, 3))}, "pairs of different names"),
        (TWO, {("one", "other"): np.zeros((3, 2)), ("other", "one"): np.zeros((2, 3))}, "each pair once"),
        (TWO, {("one", "other"): np.full((3, 2), np.nan)}, "expected finite numbers; got NaN or infinity. Pass 0"),
        (
            TWO,
            {("one", "other"): np.full((3, 2), 0.5)},
            "positive definite joint covariance of 'one', 'other'; the smal",
        ),
    ],
)
def test_cross_covariances_that_cannot_be_are_refused(normals, crosses, words):
    with pytest.raises(ValueError, match=words):
        joint_normal(normals, crosses)


@pytest.mark.parametrize(
    "part", [dist.Normal(np.zeros(3), 1.0), dist.StudentT(3.0, np.zeros(3)).to_event(1), GOOD.mask(False), "normal"]
)
def test_what_is_not_a_normal_distribution_over_a_vector_is_refused(part):
    with pytest.raises(TypeError, match="'one': expected a normal distribution over a vector, such as Normal"):
        joint_normal({"one": part, "other": GOOD}, {})


@pytest.mark.parametrize("observed", [np.zeros(0), np.zeros(5), np.zeros((2, 6)), 0.0])
def test_a_wrong_number_of_given_values_is_refused(observed):
    joint = joint_normal(TWO, {})
    with pytest.raises(ValueError, match="observed: expected between 1 and 4 of the 5 values .* all data sets but"):
        conditional_normal(joint, observed)
    with pytest.raises(TypeError, match="joint: expected what joint_normal returns; got Independent"):
        conditional_normal(GOOD, observed)


def test_in_traced_code_a_covariance_that_cannot_be_gives_nan():
    def log_prob(size):
        joint = joint_normal(TWO, {("one", "other"): size * jnp.ones((3, 2))})
        return conditional_normal(joint, np.zeros(3)).log_prob(np.zeros(2))

    with numpyro.validation_enabled(False):
        assert np.isnan(jax.jit(log_prob)(0.5))
        assert np.isfinite(jax.jit(log_prob)(0.3))


def emulated_stage(prior, likelihood, name):
    theta = numpyro.sample("theta", prior)
    numpyro.sample(name, likelihood(prior.space.as_dict(theta)), obs=likelihood.observed)


def test_a_stage_with_emulators_has_the_same_density(emulated):
    near, far, cross = emulated
    prior = UniformPrior(ParameterSpace(["c", "a", "b"], [5.0, -1.0, 0.0], [6.0, 1.0, 2.0]))
    stages = [
        Stage("near", emulated_stage, (near, "near")),
        Stage("far", emulated_stage, (far, "far"), correlated_with={"near": cross}),
    ]
    data = [StageData(stage, ModelDensity(stage.model, prior, *stage.args)) for stage in stages]
    density = ModelDensity(given_earlier_data(data[1], data[:1], stages).model, prior, far, "far")
    with jax.enable_x64(True):
        expected = conditional_log_prob(near, far, cross, dict(zip("abc", POINTS.T, strict=True)))
    for one in (density, pickle.loads(pickle.dumps(density))):
        np.testing.assert_allclose(one.log_likelihood(POINTS[:, [2, 0, 1]]), expected, rtol=1e-9, atol=1e-9)
