"""EmulatorLikelihood against SciPy's multivariate normal, in NumPyro models, and its complaints."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro.infer import MCMC, NUTS, Predictive
from numpyro.infer.util import log_density
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal
from toys import coarse_products

from numpyro_flowprior.chains.parameters import ParameterSpace
from numpyro_flowprior.emulators.emulator import GPEmulator
from numpyro_flowprior.emulators.inflated_normal import InflatedNormal, factor_inflated
from numpyro_flowprior.emulators.likelihood import EmulatorLikelihood
from numpyro_flowprior.emulators.measurement import measurement_covariance

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
    assert np.abs(single - exact).max() < 2 * rough.float32_error(near)
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
    "no variance": (np.zeros(5), np.diag([1.0, 0, 1, 1, 1]), "positive variances.*got zero or negative ones for 'y1'"),
    "measurements": (np.zeros(4), ONE, r"y_obs: expected shape \(5\); got \(4,\)"),
    "nothing measured": (np.full(5, np.nan), ONE, "y_obs: expected measured values; all are NaN"),
    "infinite": (np.full(5, np.inf), ONE, "y_obs: expected finite"),
}


@pytest.mark.parametrize("name", BAD_LIKELIHOODS)
def test_bad_measurements_are_refused_by_name(name, emulators):
    y_obs, cov_obs, message = BAD_LIKELIHOODS[name]
    with pytest.raises(ValueError, match=message):
        EmulatorLikelihood(emulators[0], y_obs, cov_obs)


def test_bad_emulators_and_points_are_refused(joint, emulators):
    for wrong in ("emulator", [emulators[0], "emulator"], 3):
        with pytest.raises(TypeError, match="emulators: expected a GPEmulator, or a sequence or mapping"):
            EmulatorLikelihood(wrong, np.zeros(5), ONE)
    with pytest.raises(ValueError, match="at least one GPEmulator"):
        EmulatorLikelihood([], np.zeros(5), ONE)
    likelihood, _ = joint
    with jax.enable_x64(True):
        with pytest.raises(ValueError, match=r"expected shape \(..., 3\) for the parameters 'a', 'b', 'c'; got \(2,\)"):
            likelihood(np.zeros(2))
        with pytest.raises(ValueError, match="missing: 'c'"):
            likelihood({"a": 0.0, "b": 1.0})


# --- what was not measured, blocks with names


def test_missing_measurements_are_left_out_by_name(emulators):
    values, covariance = measurement((first_model, [TRUTH["a"], TRUTH["b"]]), (second_model, [TRUTH["b"], TRUTH["c"]]))
    values[[1, 6]] = np.nan
    covariance[1] = covariance[:, 6] = np.nan
    blocks = {"AuAu": emulators[0], "PbPb": emulators[1]}
    with pytest.warns(
        UserWarning, match="2 of 8 observables are NaN in y_obs and are left out: 'AuAu: y1', 'PbPb: y1'"
    ):
        likelihood = EmulatorLikelihood(blocks, values, covariance)
    kept = [0, 2, 3, 4, 5, 7]
    assert likelihood.dropped == ("AuAu: y1", "PbPb: y1")
    assert likelihood.output_names == ("AuAu: y0", "AuAu: y2", "AuAu: y3", "AuAu: y4", "PbPb: y0", "PbPb: y2")
    predictions = [emulators[0].predict(POINTS[0, :2]), emulators[1].predict(POINTS[0, 1:])]
    mean = np.concatenate([one.mean for one in predictions])[kept]
    total = (block_diag(*(one.covariance for one in predictions)) + covariance)[np.ix_(kept, kept)]
    with jax.enable_x64(True):
        found = likelihood(POINTS[0]).log_prob(likelihood.observed)
    np.testing.assert_allclose(found, multivariate_normal(mean, total).logpdf(values[kept]), rtol=1e-9)


def test_errors_may_be_missing_where_values_are_and_masks_are_seen(emulators):
    values, _ = measurement((first_model, [TRUTH["a"], TRUTH["b"]]))
    missing = np.where(np.arange(5) == 2, np.nan, values)
    covariance = measurement_covariance(0.1 * np.abs(missing), 0.05 * np.abs(missing))
    with pytest.warns(UserWarning, match="'y2'") as caught:
        likelihood = EmulatorLikelihood(emulators[0], missing, covariance, discrepancy_scale=0.1 * np.abs(missing))
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="'y2'"):
        masked = EmulatorLikelihood(emulators[0], np.ma.masked_invalid(missing), np.diag(values**2))
    assert likelihood.dropped == masked.dropped == ("y2",)
    with jax.enable_x64(True):
        assert np.isfinite(likelihood(POINTS[0, :2], discrepancy=0.3).log_prob(likelihood.observed))


def test_a_discrepancy_has_one_size_for_each_point(emulators, logged):
    likelihood = EmulatorLikelihood(emulators[0], *measurement((first_model, [TRUTH["a"], TRUTH["b"]])))
    with jax.enable_x64(True):
        for points, size in (
            (POINTS[0, :2], np.full(5, 0.2)),
            (POINTS[:, :2], np.ones(5)),
            (POINTS[:1, :2], np.ones(3)),
        ):
            with pytest.raises(ValueError, match="discrepancy: expected one size for each point"):
                likelihood(points, discrepancy=size)
        grid = likelihood(POINTS[:, None, :2], discrepancy=np.ones((6, 1))).log_prob(likelihood.observed)
        assert grid.shape == (6, 1)
        dense = EmulatorLikelihood(logged, np.full(4, 2.0), np.diag(np.full(4, 9.0e2)), log_scale=False)
        sizes = dense(POINTS[:, :2], discrepancy=np.linspace(0.1, 0.6, 6)).log_prob(dense.observed)
        one = dense(POINTS[3, :2], discrepancy=0.4).log_prob(dense.observed)
        np.testing.assert_allclose(sizes[3], one, rtol=1e-9)


def test_blocks_have_names_of_their_own(emulators):
    with pytest.raises(ValueError, match="expected unique names of blocks; '1'"):
        EmulatorLikelihood({1: emulators[0], "1": emulators[1]}, np.zeros(8), np.eye(8))


def test_an_indefinite_block_is_named(emulators):
    covariance = np.eye(8)
    covariance[5:, 5:] += 0.9 * (np.eye(3, k=1) + np.eye(3, k=-1))
    with pytest.raises(ValueError, match="it is not in block 'PbPb': the smallest eigenvalue"):
        EmulatorLikelihood({"AuAu": emulators[0], "PbPb": emulators[1]}, np.zeros(8), covariance)
    between = np.eye(8)
    between[0, 7] = between[7, 0] = 1.2
    with pytest.raises(ValueError, match="correlations between blocks are the cause"):
        EmulatorLikelihood(list(emulators), np.zeros(8), between)


def test_measurements_out_of_the_runs_reach_are_told(emulators):
    values, covariance = measurement((first_model, [TRUTH["a"], TRUTH["b"]]))
    values[0] *= 1000
    with pytest.warns(UserWarning, match="y_obs of 'y0' lies more than 10 standard deviations.*units"):
        EmulatorLikelihood(emulators[0], values, covariance)


# --- a model error of unknown size


@pytest.fixture(scope="module")
def doubtful(emulators):
    values, covariance = measurement((first_model, [TRUTH["a"], TRUTH["b"]]), (second_model, [TRUTH["b"], TRUTH["c"]]))
    return EmulatorLikelihood(list(emulators), values, covariance), covariance


@pytest.mark.parametrize("size", [0.0, 0.03, 20.0])
def test_discrepancy_equals_scipy(doubtful, size):
    likelihood, covariance = doubtful
    more = covariance + np.diag((size * likelihood.observed) ** 2)
    expected = [expected_log_prob(likelihood, more, theta) for theta in POINTS]
    with jax.enable_x64(True):
        found = likelihood(POINTS, discrepancy=size).log_prob(likelihood.observed)
        each = likelihood(POINTS, discrepancy=np.full(6, size)).log_prob(likelihood.observed)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found, each, rtol=1e-12)


def test_discrepancy_has_sizes_of_its_own_and_a_gradient(emulators):
    values, covariance = measurement((first_model, [TRUTH["a"], TRUTH["b"]]))
    sizes = np.array([3.0, 0.0, 0.2, 0.1, 0.5])
    likelihood = EmulatorLikelihood(emulators[0], values, covariance, discrepancy_scale=sizes)
    expected = expected_log_prob(likelihood, covariance + np.diag((0.7 * sizes) ** 2), POINTS[0, :2])

    def log_prob(size):
        return likelihood(POINTS[0, :2], discrepancy=size).log_prob(likelihood.observed)

    with jax.enable_x64(True):
        np.testing.assert_allclose(log_prob(0.7), expected, rtol=1e-9)
        numeric = (log_prob(0.7 + 1e-5) - log_prob(0.7 - 1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(log_prob)(0.7), numeric, rtol=1e-6)
    for wrong in (np.ones(4), -np.ones(5), np.full(5, np.nan)):
        with pytest.raises(ValueError, match="discrepancy_scale: expected"):
            EmulatorLikelihood(emulators[0], values, covariance, discrepancy_scale=wrong)


@pytest.mark.parametrize(("m", "p"), [(6, 2), (3, 3), (5, 1)])
def test_inflated_normal_equals_scipy_and_its_draws_scatter_so(m, p):
    rng = np.random.default_rng(m)
    root, other, loadings = rng.normal(size=(m, 2 * m)), rng.normal(size=(m, 2)), rng.normal(size=(m, p))
    fixed, inflation, loc = root @ root.T, other @ other.T, rng.normal(size=(3, m))
    variances, sizes = np.array([np.full(p, 1e-12), np.ones(p), np.full(p, 1e6)]), np.array([0.0, 1.0, 100.0])
    covariance = fixed + sizes[:, None, None] ** 2 * inflation
    covariance += np.einsum("ik,nk,jk->nij", loadings, variances, loadings)
    values = loc + rng.normal(size=(4, 1, m))
    oracle = np.stack([multivariate_normal(loc[n], covariance[n]).logpdf(values[:, n]) for n in range(3)], axis=-1)
    with jax.enable_x64(True):
        normal = InflatedNormal(loc, variances, sizes, factor_inflated(fixed, inflation, loadings))
        with pytest.raises(ValueError, match=f"InflatedNormal: value: expected a last axis of {m}"):
            normal.log_prob(values[..., :1])
        np.testing.assert_allclose(normal.log_prob(values), oracle, rtol=1e-8)
        scale = np.sqrt(np.einsum("ni,nj->nij", *[np.diagonal(covariance, axis1=1, axis2=2)] * 2))
        np.testing.assert_allclose(normal.covariance_matrix / scale, covariance / scale, atol=1e-9)
        draws = jax.jit(lambda dist, key: dist.sample(key, (40_000,)))(normal, jax.random.key(0))
    found = np.stack([np.cov(draws[:, n].T) for n in range(3)])
    # standard error of a covariance 1/sqrt(40000) = 0.005 to 0.007 of the deviations; five of them over 108 numbers
    assert (np.abs(found - covariance) < 0.036 * scale).all()


# --- outputs by their logarithm


def positive_model(X):
    a, b = X.T
    return np.stack([np.exp(3 * a), 50 + b, np.exp(a - b), 2 + a], axis=-1)


@pytest.fixture(scope="module")
def logged():
    X = np.random.default_rng(1).uniform(*SPACE.bounds.T, (30, 2))
    names = ["w", "x", "y", "z"]
    return GPEmulator.fit(
        X, positive_model(X), SPACE, n_components=3, log_outputs=["y", "w"], output_names=names, progress=False
    )


def _lognormal(mean, covariance, mask):
    """The moments by Gauss-Hermite quadrature of each pair, exact for exponentials to rounding."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / weights.sum()
    m = len(mean)
    first, second = np.empty(m), np.empty((m, m))
    for i in range(m):
        for j in range(m):
            pair = covariance[np.ix_([i, j], [i, j])] if i != j else covariance[i, i] * np.ones((2, 2))
            values, vectors = np.linalg.eigh(pair)
            root = vectors * np.sqrt(np.maximum(values, 0))
            z = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1) @ root.T + mean[[i, j]]
            u = np.where(mask[[i, j]], np.exp(z), z)
            both = np.outer(weights, weights)
            first[i] = np.sum(both * u[..., 0])
            second[i, j] = np.sum(
                both * (u[..., 0] - np.sum(both * u[..., 0])) * (u[..., 1] - np.sum(both * u[..., 1]))
            )
    return first, second


def test_predictions_are_the_lognormal_moments(logged):
    mask = np.array([True, False, True, False])
    for theta in POINTS[:3, :2]:
        on_log = logged.predict(theta, log_scale=True)
        mean, covariance = _lognormal(on_log.mean, on_log.covariance, mask)
        found = logged.predict(theta)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-10)
        deviation = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(
            found.covariance / np.outer(deviation, deviation), covariance / np.outer(deviation, deviation), atol=1e-8
        )
        with jax.enable_x64(True):
            # 1e-8: K of noiseless runs amplifies the rounding of another batch size
            np.testing.assert_allclose(jax.jit(logged.predict)(theta).mean, found.mean, rtol=1e-8)
    np.testing.assert_allclose(logged.predict(POINTS[:, :2]).mean, positive_model(POINTS[:, :2]), rtol=0.05)


def test_likelihood_on_the_log_scale_and_in_units(logged):
    values = positive_model(np.array([[TRUTH["a"], TRUTH["b"]]]))[0]
    mask = np.array([True, False, True, False])
    logs, error = np.where(mask, np.log(values), values), np.where(mask, 0.05, 0.05 * values)
    theta = np.array([0.1, 1.2])
    on_log = EmulatorLikelihood(logged, logs, np.diag(error**2))
    prediction = logged.predict(theta, log_scale=True)
    expected = multivariate_normal(prediction.mean, prediction.covariance + np.diag(error**2)).logpdf(logs)
    in_units = EmulatorLikelihood(logged, values, np.diag((0.05 * values) ** 2), log_scale=False)
    prediction = logged.predict(theta)
    total = prediction.covariance + np.diag((0.05 * values) ** 2)
    with jax.enable_x64(True):
        np.testing.assert_allclose(on_log(theta).log_prob(on_log.observed), expected, rtol=1e-9)
        found = in_units(theta).log_prob(values)
        np.testing.assert_allclose(found, multivariate_normal(prediction.mean, total).logpdf(values), rtol=1e-9)
        more = in_units(theta, discrepancy=0.1).log_prob(values)
        total = total + np.diag((0.1 * values) ** 2)
        np.testing.assert_allclose(more, multivariate_normal(prediction.mean, total).logpdf(values), rtol=1e-9)
        draws = on_log(theta).sample(jax.random.key(0), (5,))
        np.testing.assert_allclose(on_log.in_units(draws), np.where(mask, np.exp(draws), draws))
        assert in_units.in_units(draws) is draws


def test_log_outputs_are_named_positive_and_kept_in_files(logged, tmp_path):
    again = GPEmulator.load(logged.save(tmp_path / "e.safetensors"))
    assert again.log_outputs == ("w", "y")
    np.testing.assert_array_equal(again.predict(POINTS[:, :2]).covariance, logged.predict(POINTS[:, :2]).covariance)
    X = np.random.default_rng(1).uniform(*SPACE.bounds.T, (30, 2))
    for log_outputs, error, message in (
        (["q"], ValueError, "log_outputs: expected some of 'y0'.*got 'q'"),
        ("y0", TypeError, "expected True, False, or names"),
        (True, ValueError, "expected positive values.*got zero or negative ones for .*'y3'"),
    ):
        with pytest.raises(error, match=message):
            GPEmulator.fit(X, first_model(X), SPACE, log_outputs=log_outputs, progress=False)


def test_predictive_draws_in_a_model(logged):
    values = positive_model(np.array([[TRUTH["a"], TRUTH["b"]]]))[0]
    logs = np.where([True, False, True, False], np.log(values), values)
    likelihood = EmulatorLikelihood(logged, logs, np.diag(np.full(4, 0.01)))

    def unobserved(likelihood):
        theta = {"a": numpyro.sample("a", dist.Uniform(-1, 1)), "b": numpyro.sample("b", dist.Uniform(0, 2))}
        numpyro.sample("y", likelihood(theta, discrepancy=numpyro.sample("s", dist.HalfNormal(0.1))))

    with jax.enable_x64(True):
        draws = Predictive(unobserved, num_samples=300)(jax.random.key(0), likelihood)["y"]
    assert draws.shape == (300, 4)
    assert np.isfinite(likelihood.in_units(draws)).all()
    assert (likelihood.in_units(draws)[:, [0, 2]] > 0).all()


def test_float32_error_is_what_the_precision_costs(joint):
    likelihood, _ = joint
    near = np.array([[TRUTH["a"], TRUTH["b"], TRUTH["c"]]]) + 0.01 * np.random.default_rng(0).normal(size=(8, 3))
    error = likelihood.float32_error(near)
    assert 1e-7 < error < 1.0
    assert likelihood.allow_float32 is False


# --- covariances of measurements


def test_measurement_covariance_is_its_formula():
    rng = np.random.default_rng(0)
    stat, sys, x = rng.uniform(0.1, 1, 7), rng.uniform(0.1, 1, 7), rng.uniform(0, 60, 7)
    groups = ["yield"] * 4 + ["v2"] * 3
    found = measurement_covariance(stat, sys, positions=x, correlation_length=20.0, groups=groups, between_groups=0.5)
    for i in range(7):
        for j in range(7):
            shared = 1.0 if groups[i] == groups[j] else 0.5
            expected = shared * np.exp(-((x[i] - x[j]) ** 2) / 800) * sys[i] * sys[j] + (i == j) * stat[i] ** 2
            assert found[i, j] == pytest.approx(expected, rel=1e-12)
    assert np.linalg.eigvalsh(found)[0] > 0
    np.testing.assert_allclose(measurement_covariance(stat), np.diag(stat**2))
    np.testing.assert_allclose(measurement_covariance(stat, sys), np.diag(stat**2) + np.outer(sys, sys))


BAD_COVARIANCES = {
    "negative": (dict(statistical=[-1.0, 1.0]), ValueError, "statistical: expected standard errors >= 0"),
    "shape": (dict(statistical=np.eye(2)), ValueError, r"statistical: expected shape \(any\)"),
    "systematic shape": (dict(statistical=[1.0, 1.0], systematic=[1.0]), ValueError, "systematic: expected shape"),
    "infinite": (dict(statistical=[1.0, np.inf]), ValueError, "statistical: expected finite"),
    "text": (dict(statistical=["a"]), TypeError, "statistical"),
    "no length": (dict(statistical=[1.0], systematic=[1.0], positions=[0.0]), ValueError, "both or neither"),
    "length": (
        dict(statistical=[1.0], systematic=[1.0], positions=[0.0], correlation_length=0.0),
        ValueError,
        "correlation_length",
    ),
    "groups": (dict(statistical=[1.0], systematic=[1.0], groups=["a", "b"]), ValueError, "groups: expected 1 labels"),
    "between": (
        dict(statistical=[1.0], systematic=[1.0], groups=["a"], between_groups=1.5),
        ValueError,
        "between_groups",
    ),
    "between nothing": (
        dict(statistical=[1.0], systematic=[1.0], between_groups=0.5),
        ValueError,
        "between_groups: expected groups",
    ),
    "nothing to correlate": (dict(statistical=[1.0], groups=["a"]), ValueError, "systematic: expected"),
}


@pytest.mark.parametrize("name", BAD_COVARIANCES)
def test_bad_covariances_are_refused_by_name(name):
    options, error, message = BAD_COVARIANCES[name]
    with pytest.raises(error, match=message):
        measurement_covariance(**options)


def test_in_float32_products_are_taken_in_full_precision_on_every_device(emulators):
    measured = measurement((first_model, [TRUTH["a"], TRUTH["b"]]))
    rough = EmulatorLikelihood(emulators[0], *measured, allow_float32=True)

    def log_prob(theta):
        return rough(theta, discrepancy=theta[0]).log_prob(rough.observed) + rough(theta).log_prob(rough.observed)

    for function in (log_prob, jax.grad(log_prob), jax.jit(jax.grad(jax.jit(log_prob)))):
        count, coarse = coarse_products(function, jnp.array([TRUTH["a"], TRUTH["b"]], jnp.float32))
        assert count > 0
        assert not coarse
