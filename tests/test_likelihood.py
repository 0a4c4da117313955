"""EmulatorLikelihood against SciPy's multivariate normal, in NumPyro models, and its complaints."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal

from numpyro_flowprior.chains.parameters import ParameterSpace
from numpyro_flowprior.emulators.emulator import GPEmulator
from numpyro_flowprior.emulators.likelihood import EmulatorLikelihood

SPACE = ParameterSpace(["a", "b"], [-1.0, 0.0], [1.0, 2.0])
OTHER = ParameterSpace(["b", "c"], [0.0, 5.0], [2.0, 6.0])
TRUTH = {"a": 0.2, "b": 1.3, "c": 5.4}
POINTS = np.random.default_rng(9).uniform([-1, 0, 5], [1, 2, 6], (6, 3))


def first_model(X):
    a, b = X.T
    return np.stack([100 * np.exp(a), np.sin(b) + 0.3 * a, a * b, a - b, a + 0.1 * b**2], axis=-1)


def second_model(X):
    b, c = X.T
    return np.stack([b + c, 0.01 * b * c, np.cos(b - c)], axis=-1)


def emulate(model, space, seed):
    X = np.random.default_rng(seed).uniform(*space.bounds.T, (30, 2))
    return GPEmulator.fit(X, model(X), space, n_components=2, progress=False)


@pytest.fixture(scope="module")
def emulators():
    return emulate(first_model, SPACE, 1), emulate(second_model, OTHER, 2)


def measurement(*models_and_points):
    """Returns values at the truth and a covariance with correlated errors, about 5 % of each value."""
    values = np.concatenate([model(np.array([point]))[0] for model, point in models_and_points])
    root = np.random.default_rng(4).normal(size=(len(values), 2 * len(values))) / np.sqrt(2 * len(values))
    return values, root @ root.T * np.outer(0.05 * values, 0.05 * values)


@pytest.fixture(scope="module")
def likelihood(emulators):
    return EmulatorLikelihood(emulators[0], *measurement((first_model, [TRUTH["a"], TRUTH["b"]])))


@pytest.fixture(scope="module")
def joint(emulators):
    values, covariance = measurement((first_model, [TRUTH["a"], TRUTH["b"]]), (second_model, [TRUTH["b"], TRUTH["c"]]))
    return EmulatorLikelihood(list(emulators), values, covariance), covariance


def expected_log_prob(likelihood, covariance, theta):
    """Eq. 10 through SciPy: covariance = block-diagonal emulator + experiment."""
    parts = [
        emulator.predict(theta[[likelihood.names.index(name) for name in emulator.space.names]])
        for emulator in likelihood.emulators
    ]
    mean = np.concatenate([part.mean for part in parts])
    total = block_diag(*(part.covariance for part in parts)) + covariance
    return multivariate_normal(mean, total).logpdf(likelihood.observed)


def test_one_block_equals_scipy(likelihood):
    _, covariance = measurement((first_model, [TRUTH["a"], TRUTH["b"]]))
    expected = [expected_log_prob(likelihood, covariance, theta) for theta in POINTS[:, :2]]
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            likelihood(POINTS[:, :2]).log_prob(likelihood.observed), expected, rtol=1e-9, atol=1e-9
        )


def test_two_blocks_share_parameters_by_name_and_keep_experimental_correlations(joint):
    likelihood, covariance = joint
    assert likelihood.names == ("a", "b", "c")
    assert likelihood.output_names == ("y0", "y1", "y2", "y3", "y4", "y0", "y1", "y2")
    assert np.abs(covariance[:5, 5:]).max() > 0
    expected = [expected_log_prob(likelihood, covariance, theta) for theta in POINTS]
    with jax.enable_x64(True):
        np.testing.assert_allclose(likelihood(POINTS).log_prob(likelihood.observed), expected, rtol=1e-9, atol=1e-9)
        assert likelihood(POINTS).covariance_matrix.shape == (6, 8, 8)


def test_arrays_mappings_batches_vmap_and_jit_agree(joint):
    likelihood, _ = joint

    def log_prob(theta):
        return likelihood(theta).log_prob(likelihood.observed)

    with jax.enable_x64(True):
        point = jax.jit(log_prob)
        one_by_one = jnp.stack([point(theta) for theta in POINTS])
        named = dict(zip("abc", POINTS.T, strict=True)) | {"another": np.zeros(2)}
        others = {
            "batch": log_prob(POINTS),
            "shaped": log_prob(POINTS.reshape(2, 3, 3)).reshape(6),
            "vmap": jax.vmap(log_prob)(POINTS),
            "jit of vmap": jax.jit(jax.vmap(log_prob))(POINTS),
            "mapping": log_prob(named),
            "jit of mapping": jax.jit(log_prob)(named),
        }
        assert one_by_one.dtype == jnp.float64
        for name, values in others.items():
            np.testing.assert_allclose(values, one_by_one, rtol=1e-9, err_msg=name)
        broadcast = log_prob({"a": POINTS[:, 0], "b": 1.0, "c": 5.5})
        assert broadcast.shape == (6,)


def test_gradient_equals_finite_differences(joint):
    likelihood, _ = joint

    def log_prob(theta):
        return likelihood(theta).log_prob(likelihood.observed)

    with jax.enable_x64(True):
        value, gradient = jax.jit(log_prob), jax.jit(jax.grad(log_prob))
        for theta in POINTS[:3]:
            step = 1e-5
            numeric = [(value(theta + e) - value(theta - e)) / (2 * step) for e in step * np.eye(3)]
            # of the difference: round-off 1e-9 / 1e-5 (values of 1e3 from an ill-conditioned K), curvature (1e-5)^2
            error = np.linalg.norm(gradient(theta) - np.array(numeric))
            assert error < 1e-4 * np.linalg.norm(numeric)


def test_float32_is_refused_unless_accepted(likelihood, emulators):
    for theta in (POINTS[0, :2], {"a": 0.1, "b": 1.0}):
        with pytest.raises(ValueError, match=r"EmulatorLikelihood: expected 64-bit numbers.*allow_float32"):
            likelihood(theta)
    with pytest.raises(ValueError, match="EmulatorLikelihood: expected 64-bit"):
        jax.jit(lambda theta: likelihood(theta).mean)(POINTS[0, :2])
    rough = EmulatorLikelihood(emulators[0], *measurement((first_model, [TRUTH["a"], TRUTH["b"]])), allow_float32=True)
    at_truth = np.array([TRUTH["a"], TRUTH["b"]])
    with jax.enable_x64(True):
        exact = float(likelihood(at_truth).log_prob(likelihood.observed))
    value = jax.jit(lambda theta: rough(theta).log_prob(rough.observed))(jnp.asarray(at_truth))
    assert value.dtype == jnp.float32
    assert abs(float(value) - exact) < 0.1


def test_both_precisions_in_one_process(emulators):
    rough = EmulatorLikelihood(emulators[0], *measurement((first_model, [TRUTH["a"], TRUTH["b"]])), allow_float32=True)

    def log_prob(theta):
        return rough(theta).log_prob(rough.observed)

    # A trace in one mode must leave nothing behind for the other; see precision.native. Warnings are errors.
    near = np.array([[TRUTH["a"], TRUTH["b"]], [TRUTH["a"] + 0.01, TRUTH["b"]]])
    with jax.enable_x64(True):
        exact = np.stack([jax.jit(log_prob)(theta) for theta in near])
    single = np.asarray(jax.jit(jax.vmap(log_prob))(near))
    with jax.enable_x64(True):
        again = np.asarray(jax.jit(jax.vmap(log_prob))(near))
    assert (exact.dtype, single.dtype, again.dtype) == (np.float64, np.float32, np.float64)
    np.testing.assert_allclose(again, exact, rtol=1e-9)
    np.testing.assert_allclose(single, exact, atol=0.1)
    assert np.isfinite(rough(near).log_prob(rough.observed)).all()


def model(likelihood):
    a = numpyro.sample("a", dist.Uniform(-1, 1))
    b = numpyro.sample("b", dist.Uniform(0, 2))
    nuisance = numpyro.sample("nuisance", dist.Normal(0, 1))
    theta = {"a": a, "b": b, "nuisance": nuisance}
    numpyro.sample("y", likelihood(theta), obs=likelihood.observed)


def test_log_density_of_a_numpyro_model(likelihood):
    values = {"a": 0.1, "b": 1.2, "nuisance": 0.0}
    with jax.enable_x64(True):
        total, trace = log_density(model, (likelihood,), {}, values)
        total = float(total)
        expected = float(likelihood(np.array([0.1, 1.2])).log_prob(likelihood.observed))
    assert trace["y"]["fn"].event_shape == (5,)
    prior = -np.log(2) - np.log(2) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(total, expected + prior, rtol=1e-9)


def test_nuts_finds_the_truth(likelihood):
    with jax.enable_x64(True):
        mcmc = MCMC(NUTS(model), num_warmup=100, num_samples=100, progress_bar=False)
        mcmc.run(jax.random.key(0), likelihood)
        draws = {name: np.asarray(values) for name, values in mcmc.get_samples().items()}
    for name in ("a", "b"):
        assert draws[name].dtype == np.float64
        # about 100 independent draws: the mean is within 0.1 deviations, and the truth within five of the mean
        assert abs(draws[name].mean() - TRUTH[name]) < 5 * draws[name].std()
    assert draws["a"].std() < 0.1


def test_predictive_draws_scatter_as_the_covariance(likelihood):
    with jax.enable_x64(True):
        distribution = likelihood(np.array([TRUTH["a"], TRUTH["b"]]))
        draws = distribution.sample(jax.random.key(3), (20_000,))
        deviation = jnp.sqrt(distribution.variance)
        # standard error 1/sqrt(20000) = 0.007 of a deviation for the mean, 0.01 for a variance; five of them
        assert (jnp.abs(draws.mean(0) - distribution.mean) < 0.036 * deviation).all()
        error = jnp.abs(jnp.cov(draws.T) - distribution.covariance_matrix)
        assert (error < 0.05 * jnp.outer(deviation, deviation)).all()


ONE = np.eye(5)
SKEWED = np.eye(5) + np.eye(5, k=1)
INDEFINITE = np.eye(5) + 0.9 * (np.eye(5, k=1) + np.eye(5, k=-1))
BAD_LIKELIHOODS = {
    "deviations": (np.zeros(5), np.ones(5), r"cov_obs: .*\(5, 5\); got shape \(5,\).*np.diag\(sigma\*\*2\)"),
    "shape": (np.zeros(5), np.eye(4), r"cov_obs: expected shape \(5, 5\); got \(4, 4\)"),
    "NaN": (np.zeros(5), ONE * np.nan, "cov_obs: expected finite"),
    "not symmetric": (np.zeros(5), SKEWED, "cov_obs: expected a symmetric"),
    "indefinite": (np.zeros(5), INDEFINITE, "smallest eigenvalue.* is -0.559"),
    "singular": (np.zeros(5), np.ones((5, 5)), "cov_obs: expected a positive definite"),
    "no variance": (np.zeros(5), np.diag([1.0, 0, 1, 1, 1]), "positive variances.*'y1'"),
    "measurements": (np.zeros(4), ONE, r"y_obs: expected shape \(5\); got \(4,\)"),
    "measured NaN": (np.full(5, np.nan), ONE, "y_obs: expected finite"),
}


@pytest.mark.parametrize("name", BAD_LIKELIHOODS)
def test_bad_measurements_are_refused_by_name(name, emulators):
    y_obs, cov_obs, message = BAD_LIKELIHOODS[name]
    with pytest.raises(ValueError, match=message):
        EmulatorLikelihood(emulators[0], y_obs, cov_obs)


def test_bad_emulators_and_points_are_refused(joint, emulators):
    for wrong in ("emulator", [emulators[0], "emulator"], 3):
        with pytest.raises(TypeError, match="emulators: expected a GPEmulator or a sequence"):
            EmulatorLikelihood(wrong, np.zeros(5), ONE)
    with pytest.raises(ValueError, match="at least one GPEmulator"):
        EmulatorLikelihood([], np.zeros(5), ONE)
    likelihood, _ = joint
    with jax.enable_x64(True):
        with pytest.raises(ValueError, match=r"expected shape \(..., 3\) for the parameters 'a', 'b', 'c'; got \(2,\)"):
            likelihood(np.zeros(2))
        with pytest.raises(ValueError, match="missing: 'c'"):
            likelihood({"a": 0.0, "b": 1.0})
