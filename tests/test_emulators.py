"""GPEmulator against scikit-learn assembled by hand, its files, its precision and its complaints."""

import pickle
import sys
import warnings
from dataclasses import fields
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.preprocessing import StandardScaler

from numpyro_flowprior._util.storage import FileFormatError, load_file, save_file
from numpyro_flowprior.chains.parameters import ParameterSpace
from numpyro_flowprior.emulators import gaussian_process, marginal_likelihood
from numpyro_flowprior.emulators.emulator import GPEmulator
from numpyro_flowprior.emulators.kernel_trees import from_sklearn_kernel, kernel_from_json, kernel_to_json
from numpyro_flowprior.emulators.kernels import KINDS, RBF, Matern12, Matern32, Matern52
from numpyro_flowprior.emulators.low_rank_normal import LowRankNormal, factor_fixed
from numpyro_flowprior.emulators.validation import EmulatorValidation

SPACE = ParameterSpace(["a", "b", "c"], [-1.0, 0.0, 10.0], [1.0, 2.0, 40.0])
LOWER, UPPER = SPACE.bounds.T
NAMES = ("yield", "v2", "pT", "v3", "v4")

C, W, R, M = kernels.ConstantKernel, kernels.WhiteKernel, kernels.RBF, kernels.Matern
KERNELS = {
    "rbf": C(1.3) * R([0.7, 0.4, 1.5]) + W(1e-4),
    "rbf isotropic": R(0.6) + W(1e-3),
    "matern 1/2": C(2.0) * M([0.9, 2.0, 1.1], nu=0.5) + W(1e-3),
    "matern 3/2": M([0.9, 0.5, 1.1], nu=1.5) + W(1e-3),
    "matern 5/2": C(0.4) * M(0.8, nu=2.5) + W(1e-2),
    "matern infinity": M([0.9, 0.5, 1.1], nu=np.inf) + W(1e-3),
    "sum of signals": R(1.2) * M([1.0, 0.7, 0.9], nu=1.5) + C(0.3) * R([2.0, 2.0, 0.4]) + C(0.5) + W(1e-3),
    "noise in a product": (C(0.5) + W(0.1)) * (R(1.0) + W(0.2)),
    "least noise": C(1.0) * R([0.8, 1.0, 0.9]) + W(1e-6),  # the lower end of the default range
}


def model(X):
    """Five outputs of very different sizes; smooth and nonlinear in all three parameters."""
    a, b, c = ((X - LOWER) / (UPPER - LOWER)).T
    return np.stack(
        [500 * np.exp(a + 0.3 * b), 0.1 * np.sin(3 * b) + 0.02 * c, 0.5 + a * b * c, 0.03 * c**2 - 0.01 * a, a + c],
        axis=-1,
    )


def design(n, seed=0):
    return np.random.default_rng(seed).uniform(LOWER, UPPER, (n, 3))


X, POINTS = design(40), design(7, seed=1)
Y = model(X) * (1 + 0.01 * np.random.default_rng(2).standard_normal((40, 5)))


def fit(**options):
    return GPEmulator.fit(X, Y, SPACE, **{"output_names": NAMES, "progress": False, **options})


@pytest.fixture(scope="module")
def emulator():
    return fit(n_components=3)


def by_hand(kernel, n_components, *, X=X, Y=Y, Y_error=None):
    """Returns a function theta -> (mean, covariance) made of scikit-learn's parts alone."""
    scaler = StandardScaler().fit(Y)
    pca = PCA(n_components, whiten=True, svd_solver="full").fit(scaler.transform(Y))
    full = PCA(svd_solver="full").fit(scaler.transform(Y))
    scores = pca.transform(scaler.transform(Y))
    noise = np.zeros_like(Y) if Y_error is None else Y_error
    noise_in_scores = (noise / scaler.scale_) ** 2 @ (pca.components_.T**2 / pca.explained_variance_)
    models = [
        GaussianProcessRegressor(kernel, alpha=1e-10 + noise_in_scores[:, k], random_state=k).fit(
            (X - LOWER) / (UPPER - LOWER), scores[:, k]
        )
        for k in range(pca.n_components_)
    ]
    rest = full.components_[pca.n_components_ :]
    truncation = rest.T @ np.diag(full.explained_variance_[pca.n_components_ :]) @ rest

    def predict(theta):
        moments = [m.predict((theta - LOWER) / (UPPER - LOWER), return_std=True) for m in models]
        mean = scaler.inverse_transform(pca.inverse_transform(np.stack([mean for mean, _ in moments], -1)))
        loadings = np.sqrt(pca.explained_variance_)[:, None] * pca.components_
        standard = [loadings.T @ np.diag(v) @ loadings + truncation for v in np.stack([s for _, s in moments], -1) ** 2]
        return mean, np.stack(standard) * np.outer(scaler.scale_, scaler.scale_)

    return predict


def assert_predicts(emulator, oracle, theta):
    # 1e-8: the promise. Covariances are compared in units of the standard deviations, so that small ones count.
    prediction, (mean, covariance) = emulator.predict(theta), oracle(theta)
    deviation = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    scale = deviation[:, :, None] * deviation[:, None, :]
    np.testing.assert_allclose(prediction.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(prediction.covariance / scale, covariance / scale, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", KERNELS)
def test_prediction_equals_scikit_learn_for_every_kernel(name):
    kernel = clone(KERNELS[name])
    for parameter in kernel.hyperparameters:  # fixed, so that only the prediction is compared
        kernel.set_params(**{f"{parameter.name}_bounds": "fixed"})
    oracle = by_hand(kernel, 3)
    assert_predicts(fit(n_components=3, kernel=kernel), oracle, np.concatenate([POINTS, X[:3]]))


@pytest.mark.parametrize("n_components", [1, 2, 5, 0.9])
def test_fitted_emulator_equals_scikit_learn_fitted_the_same_way(n_components):
    kernel = C(1.0, (1e-2, 1e3)) * R(np.ones(3), (0.05, 100.0)) + W(1e-2, (1e-6, 1.0))
    error = 0.01 * np.abs(Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's own remarks on bounds
        oracle = by_hand(kernel, n_components, Y_error=error)
    assert_predicts(fit(n_components=n_components, kernel=kernel, Y_error=error), oracle, POINTS)


def test_fraction_keeps_the_fewest_components_that_reach_it():
    shares = [entry.explained for entry in fit(n_components=5, kernel=R(1.0, "fixed") + W(0.1, "fixed")).report]
    assert np.isclose(sum(shares), 1)
    kept = fit(n_components=float(sum(shares[:2]) - 1e-6), kernel=R(1.0, "fixed") + W(0.1, "fixed")).n_components
    more = fit(n_components=float(sum(shares[:2]) + 1e-6), kernel=R(1.0, "fixed") + W(0.1, "fixed")).n_components
    assert (kept, more) == (2, 3)


def test_all_components_reproduce_the_design_covariance_exactly(emulator):
    basis = emulator.state.outputs
    total = basis.loadings @ basis.loadings.T + basis.truncation
    np.testing.assert_allclose(total, np.cov(Y.T), rtol=1e-10)


def test_unbounded_parameters_are_scaled_by_the_design():
    open_space = ParameterSpace(SPACE.names, [-1.0, -np.inf, 10.0], [1.0, 2.0, np.inf])
    inputs = GPEmulator.fit(X, Y, open_space, n_components=1, progress=False).state.inputs
    np.testing.assert_allclose(inputs.offset, [-1.0, X[:, 1].mean(), X[:, 2].mean()])
    np.testing.assert_allclose(inputs.matrix, np.diag(1 / np.array([2.0, X[:, 1].std(), X[:, 2].std()])))


def test_repeated_design_points_and_seeded_restarts():
    repeated = np.concatenate([X, X[:10]]), np.concatenate([Y, model(X[:10])])
    first, second = (
        GPEmulator.fit(*repeated, SPACE, n_components=1, restarts=1, key=jax.random.key(3), progress=False)
        for _ in range(2)
    )
    assert np.array_equal(first.predict(POINTS).mean, second.predict(POINTS).mean)


def test_numbers_are_float64_whatever_the_setting_and_traces_agree(emulator):
    expected = emulator.predict(POINTS)
    assert isinstance(expected.mean, np.ndarray)
    assert expected.covariance.dtype == np.float64
    assert jnp.result_type(float) == jnp.float32
    assert np.array_equal(emulator.predict(POINTS[0]).mean.shape, (5,))
    assert emulator.predict(POINTS.reshape(7, 1, 3)).covariance.shape == (7, 1, 5, 5)
    with jax.enable_x64(True):
        traced = [jax.jit(emulator.predict)(POINTS), jax.vmap(emulator.predict)(POINTS)]
    for prediction in traced:
        np.testing.assert_allclose(prediction.mean, expected.mean, rtol=1e-11)
        np.testing.assert_allclose(prediction.covariance, expected.covariance, rtol=1e-8, atol=1e-12)


def test_nothing_is_compiled_for_a_new_batch_size(emulator):
    emulator.predict(POINTS)
    before = gaussian_process.prediction._cache_size()
    for n in range(1, 8):
        emulator.predict(POINTS[:n])
    emulator.predict(POINTS[:6].reshape(2, 3, 3))
    assert gaussian_process.prediction._cache_size() == before
    many = emulator.predict(design(2100))
    assert many.mean.shape == (2100, 5)
    np.testing.assert_allclose(many.mean[2047:2050], emulator.predict(design(2100)[2047:2050]).mean, rtol=1e-9)
    with jax.enable_x64(True):  # a trace goes through many points in parts
        np.testing.assert_allclose(jax.jit(emulator.predict)(design(2100)).mean, many.mean, rtol=1e-9)


def test_numbers_inside_somebody_elses_trace(emulator):
    def shifted(x):
        return x + emulator.predict(POINTS[0]).mean[0]

    np.testing.assert_allclose(jax.jit(shifted)(1.0), 1 + emulator.predict(POINTS[0]).mean[0], rtol=1e-6)


def test_float32_is_refused_unless_accepted(emulator):
    with pytest.raises(ValueError, match=r"64-bit numbers.*enable_x64"):
        jax.jit(emulator.predict)(POINTS)
    rough = jax.jit(lambda theta: emulator.predict(theta, allow_float32=True))(POINTS)
    assert rough.mean.dtype == jnp.float32
    np.testing.assert_allclose(rough.mean, emulator.predict(POINTS).mean, rtol=1e-2)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5, np.inf])
def test_gradients_are_right(nu):
    emulator = fit(n_components=2, kernel=M([0.9, 0.5, 1.1], "fixed", nu=nu) + W(1e-3, "fixed"))

    def total(theta):
        prediction = emulator.predict(theta)
        return jnp.sum(prediction.mean / Y.std(0)) + jnp.sum(prediction.covariance / np.cov(Y.T))

    with jax.enable_x64(True):
        step = 1e-5 * (UPPER - LOWER)
        numeric = [(total(POINTS[0] + e) - total(POINTS[0] - e)) / (2 * e.sum()) for e in np.diag(step)]
        # central differences: round-off 1e-16 / 1e-5 and curvature (1e-5)^2, each times values of order ten
        np.testing.assert_allclose(jax.grad(total)(POINTS[0]), numeric, rtol=1e-6, atol=1e-7)


def test_kernels_differ_in_structure_so_that_jit_tells_emulators_apart():
    structures = [jax.tree.structure(kind(*[1.0] * len(fields(kind)))) for kind in KINDS.values()]
    assert len(structures) == 12
    assert not any(first == second for first, second in combinations(structures, 2))
    assert all(first == jax.tree.structure(jax.tree.unflatten(first, [2.0] * first.num_leaves)) for first in structures)


@pytest.mark.parametrize("kind", [RBF, Matern12, Matern32, Matern52])
def test_kernel_gradient_where_points_coincide_is_zero_not_nan(kind):
    points = jnp.asarray(design(4) / UPPER)
    slopes = jax.jacobian(kind(jnp.ones(3)).cross)(points[0], points)
    assert (slopes[0] == 0).all()
    assert np.isfinite(slopes[1:]).all()
    assert (slopes[1:] != 0).all()


@pytest.mark.parametrize("kernel", ["rbf", "matern32", "matern52", "rational", "periodic"])
def test_second_derivatives_are_right_at_the_runs_too(kernel):
    """Where points coincide a clipped or rooted distance would lose the curvature, by thousands of times."""
    named = {"rational": kernels.RationalQuadratic(0.8, 1.5), "periodic": kernels.ExpSineSquared(1.0, 3.0)}
    emulator = fit(n_components=2, kernel=named[kernel] + W(0.05) if kernel in named else kernel)

    def slope(theta):
        return jax.grad(lambda theta: jnp.sum(emulator.predict(theta).mean / Y.std(0)))(theta)

    with jax.enable_x64(True):
        step = 1e-4 * (UPPER - LOWER)
        for point in (X[3], X[20], POINTS[0]):
            numeric = np.stack([(slope(point + e) - slope(point - e)) / (2 * e.sum()) for e in np.diag(step)])
            scale = np.outer(1 / (UPPER - LOWER), 1 / (UPPER - LOWER)) * np.abs(numeric).max() * 100
            found = jax.jacfwd(slope)(point)
            np.testing.assert_allclose(found / scale, numeric / scale, atol=2e-4)


def test_columns_of_a_data_frame_are_found_by_name():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])[["c", "a", "b"]].assign(more=1.0)
    options = {"n_components": 1, "progress": False}
    named = GPEmulator.fit(frame, pandas.DataFrame(Y, columns=NAMES), SPACE, **options)
    assert named.output_names == NAMES
    expected = fit(n_components=1).predict(POINTS).mean
    np.testing.assert_array_equal(named.predict(POINTS).mean, expected)
    assert GPEmulator.fit(pandas.DataFrame(X), pandas.DataFrame(Y), SPACE, **options).output_names[0] == "y0"
    with pytest.raises(ValueError, match="X: expected columns 'a', 'b', 'c'; missing: 'b'. Rename them"):
        GPEmulator.fit(frame.rename(columns={"b": "q"}), Y, SPACE, **options)


def test_no_points_and_points_as_a_list(emulator):
    assert emulator.predict(np.empty((0, 3))).covariance.shape == (0, 5, 5)
    expected = emulator.predict(POINTS[0]).mean
    with jax.enable_x64(True):
        found = jax.jit(lambda a, b, c: emulator.predict([a, b, c]).mean)(*POINTS[0])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_known_errors_of_validation_runs_count():
    """The fit's Y_error is no part of a prediction: noisy runs are judged with theirs."""
    X_fit, X_new = design(80, seed=3), design(300, seed=4)
    error = 0.1 * model(X_fit).std(0) * np.ones((380, 5))
    noise = error * np.random.default_rng(5).standard_normal((380, 5))
    emulator = GPEmulator.fit(
        X_fit, model(X_fit) + noise[:80], SPACE, n_components=5, Y_error=error[:80], progress=False
    )
    runs = model(X_new) + noise[80:]
    assert emulator.validate(X_new, runs).verdict == "fail"
    found = emulator.validate(X_new, runs, Y_error=error[80:])
    assert found.verdict == "pass"
    # 300 runs of five independent noises: standard error 0.006
    assert abs(found.coverage_95.mean() - 0.95) < 0.04
    with pytest.raises(ValueError, match="Y_error: expected standard errors >= 0"):
        emulator.validate(X_new, runs, Y_error=-error[80:])


def test_save_and_load_give_the_same_bits(emulator, tmp_path):
    loaded = GPEmulator.load(emulator.save(tmp_path / "emulator.safetensors"))
    for emulated in (loaded, pickle.loads(pickle.dumps(emulator))):
        for before, after in zip(emulator.predict(POINTS), emulated.predict(POINTS), strict=True):
            assert np.array_equal(before, after)
        assert (emulated.space, emulated.output_names, emulated.report) == (SPACE, NAMES, emulator.report)


def _tampered(path, change):
    stored = load_file(path, "gp_emulator", newest_schema=3)
    change(stored.record, stored.arrays)
    save_file(path, "gp_emulator", 3, stored.record, stored.arrays)


TAMPERING = {
    "a component lost": (lambda r, a: r["kernels"].pop(), "'weights': expected shape"),
    "no kernels": (lambda r, a: r["kernels"].clear(), "does not describe an emulator"),
    "unknown kernel": (lambda r, a: r["kernels"][0].update(kind="Periodic"), "Periodic"),
    "negative scale": (lambda r, a: r["kernels"][0]["right"].update(noise=-1.0), "positive"),
    "wrong design": (lambda r, a: a.update(design=a["design"][:-1]), "expected shape"),
    "missing array": (lambda r, a: a.pop("design"), "missing: 'design'"),
    "float32": (lambda r, a: a.update(weights=a["weights"].astype(np.float32)), "float64"),
    "another scale": (lambda r, a: a.update(input_matrix=a["input_matrix"][0]), "input_matrix"),
    "logarithms of what": (lambda r, a: r.update(log_outputs=["energy"]), "log_outputs"),
    "no names": (lambda r, a: r.update(output_names=[1, 2]), "output_names"),
    "no space": (lambda r, a: r.pop("space"), "does not describe an emulator"),
    "a report of something else": (lambda r, a: r.update(report=[{"notes": []}]), "does not describe an emulator"),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_damaged_files_are_refused(name, emulator, tmp_path):
    change, message = TAMPERING[name]
    path = emulator.save(tmp_path / "emulator.safetensors")
    _tampered(path, change)
    with pytest.raises(FileFormatError, match=message):
        GPEmulator.load(path)


def test_validation_on_held_out_runs_is_honest():
    X_fit, X_new = design(80, seed=3), design(200, seed=4)
    noise = np.random.default_rng(5).standard_normal((280, 5)) * 0.05 * model(X_fit).std(0)
    emulator = GPEmulator.fit(X_fit, model(X_fit) + noise[:80], SPACE, n_components=5, progress=False)
    checked = emulator.validate(X_new, model(X_new) + noise[80:])
    assert checked.r2.shape == checked.coverage_68.shape == (5,)
    assert (checked.r2 > 0.98).all()
    # 200 runs: standard error 0.033 at 68 % and 0.015 at 95 % for one output; four of them, and some for the fit
    assert (np.abs(checked.coverage_68 - 0.68) < 0.15).all()
    assert (np.abs(checked.coverage_95 - 0.95) < 0.07).all()
    prediction = emulator.predict(X_new)
    deviation = np.sqrt(np.diagonal(prediction.covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(checked.residuals, (prediction.mean - model(X_new) - noise[80:]) / deviation, rtol=1e-8)
    assert all(text in checked.summary() for text in ("pass: 200 runs", "R^2", "coverage at 95%"))
    shuffled = emulator.validate(X_new, model(X_new[::-1]))
    assert (shuffled.r2 < 0).all()
    assert (shuffled.coverage_95 < 0.5).all()


@pytest.mark.parametrize("n_components", [2, 5])
def test_leave_one_out_is_what_the_other_rows_predict(n_components):
    """Against scikit-learn, refitted without each row in turn; kernel and components stay those of all rows."""
    kernel = C(1.5, "fixed") * R([0.7, 0.6, 1.2], "fixed") + W(0.02, "fixed")
    emulator = fit(n_components=n_components, kernel=kernel)
    found = emulator.leave_one_out(Y)
    z, basis = emulator.state.inputs.apply(X), emulator.state.outputs
    scaler = StandardScaler().fit(Y)
    pca = PCA(n_components, whiten=True, svd_solver="full").fit(scaler.transform(Y))
    scores = pca.transform(scaler.transform(Y))
    for i in (0, 17, 39):
        others = np.delete(np.arange(40), i)
        model = GaussianProcessRegressor(kernel, optimizer=None).fit(z[others], scores[others])
        mean, deviation = model.predict(z[[i]], return_std=True)
        predicted = scaler.inverse_transform(pca.inverse_transform(mean))[0]
        np.testing.assert_allclose(found.predicted[i], predicted, rtol=1e-8)
        variance = deviation[0] ** 2 @ basis.loadings.T**2 + np.diag(basis.truncation)
        np.testing.assert_allclose(found.deviation[i] ** 2, variance, rtol=1e-8)
    np.testing.assert_array_equal(found.observed, Y)


def test_leave_one_out_wants_the_outputs_of_the_fit(emulator):
    assert emulator.leave_one_out(Y).r2.min() > 0.5
    for other in (Y[::-1], Y * 1.001, Y + np.eye(40, 5) * Y.std(0)):
        with pytest.raises(ValueError, match="expected the outputs that the emulator was fitted to"):
            emulator.leave_one_out(other)
    with pytest.raises(ValueError, match=r"Y: expected shape \(40, 5\)"):
        emulator.leave_one_out(Y[:10])


def _validation(residuals, spread=10.0):
    """Residuals in sigma, around runs that vary by `spread` sigma."""
    runs = spread * np.random.default_rng(9).normal(size=residuals.shape)
    names = tuple(f"y{j}" for j in range(residuals.shape[1]))
    return EmulatorValidation(names, runs + residuals, np.ones_like(runs), runs)


def test_verdicts_of_right_wrong_and_useless_emulators():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(200, 6))
    assert _validation(normal).verdict == "pass"
    cases = {
        "too small: 8": (1.3 * normal, "warn"),
        "too small: 6": (2.2 * normal, "fail"),
        "too small for 'y2'": (normal * np.where(np.arange(6) == 2, 2.5, 1.0), "warn"),
        "too large: rms residual of 0.29 sigma": (0.3 * normal, "warn"),
        "rows 7: rms residual up to": (normal + np.where(np.arange(200) == 7, 8.0, 0.0)[:, None], "warn"),
    }
    for message, (residuals, verdict) in cases.items():
        found = _validation(residuals)
        assert any(message in reason for _, reason in found.reasons), (message, found.reasons)
        assert found.verdict == verdict
        assert found.summary().startswith(f"{verdict}: 200 runs, 6 outputs\n  {verdict}: ")
    useless = _validation(normal, spread=1.1)
    assert "R^2 below 0.5 for 'y0'" in useless.reasons[0][1]
    assert repr(useless).startswith("EmulatorValidation\nwarn")


def test_right_emulators_seldom_raise_an_alarm():
    """300 validations on correlated outputs of right uncertainties."""
    rng = np.random.default_rng(1)
    root = np.linalg.cholesky(0.9 + 0.1 * np.eye(8))
    verdicts = [_validation(rng.normal(size=(50, 8)) @ root.T).verdict for _ in range(300)]
    assert verdicts.count("fail") == 0
    assert verdicts.count("warn") <= 9  # three per cent: binomial tests of eight outputs and of all, at three errors


def test_fits_are_reproducible_and_more_starts_are_never_worse():
    first, again, more = (fit(n_components=2, restarts=restarts, key=jax.random.key(5)) for restarts in (1, 1, 4))
    for before, after in zip(first.predict(POINTS), again.predict(POINTS), strict=True):
        assert np.array_equal(before, after)
    alone = fit(n_components=2)
    for one, other in ((first, alone), (more, first)):
        gains = [a.log_likelihood - b.log_likelihood for a, b in zip(one.report, other.report, strict=True)]
        assert min(gains) >= -1e-9


def test_the_default_start_does_not_end_where_all_is_noise():
    """From one fixed start, ours and scikit-learn's optimiser leap to the shortest length scales: no signal left."""
    rng = np.random.default_rng(0)
    z = rng.uniform(size=(100, 8))
    y = (np.sin(6 * z[:, 0]) + z[:, 1] * z[:, 2] + rng.normal(size=100))[:, None]
    space = ParameterSpace([f"p{j}" for j in range(8)], 0.0, 1.0)
    fixed = C(1.0, (1e-2, 1e3)) * R(np.full(8, 2.0), (5e-2, 1e2)) + W(1e-2, (1e-6, 1.0))
    found = {
        name: GPEmulator.fit(z, y, space, progress=False, **options).report[0].log_likelihood
        for name, options in {"default": {}, "fixed": {"kernel": fixed}, "many": {"restarts": 4}}.items()
    }
    only_noise = -50 * np.log(2 * np.pi * np.e)
    assert found["fixed"] < only_noise + 2  # the trap exists
    assert found["default"] > only_noise + 15
    assert found["default"] > found["many"] - 1e-2


def test_a_fit_without_scikit_learn_and_what_its_report_says(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    report = GPEmulator.fit(X, model(X)[:, [4]], SPACE, kernel="matern52", progress=False).report[0]
    assert report.kernel.startswith(tuple("0123456789"))
    assert " * Matern52([" in report.kernel
    assert " + White(" in report.kernel
    # a + c, noiseless: 'b' does not matter
    assert "Matern52.length_scale of 'b' is at the upper end of its range, 100" in report.notes
    assert "White.noise is at the lower end of its range, 1e-06" in report.notes


def test_a_summary_has_a_line_for_each_component(emulator):
    lines = emulator.summary().splitlines()
    assert lines[0] == repr(emulator)
    for k, entry in enumerate(emulator.report):
        assert f"{k}: {entry.explained:.2%} of the variance, log marginal likelihood" in emulator.summary()
        assert entry.kernel in emulator.summary()
    assert len(lines) == 1 + 3 + sum(len(entry.notes) for entry in emulator.report)


def _with(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


BAD_FITS = {
    "columns of X": (dict(X=X[:, :2]), ValueError, r"X: expected shape \(n, 3\) for the parameters 'a', 'b', 'c'"),
    "NaN in X": (dict(X=_with(X, (3, 1), np.nan)), ValueError, "X: expected finite.*'b': 1"),
    "outside": (dict(X=_with(X, (slice(4), 2), 41.0)), ValueError, r"4 of 40 are not \(rows per parameter: 'c': 4\)"),
    "rows": (dict(X=X[:3], Y=Y[:3]), ValueError, "at least 4 rows for 3 parameters; got 3"),
    "rows of Y": (dict(Y=Y[:-1]), ValueError, r"Y: expected shape \(40, 5\); got \(39, 5\)"),
    "one output": (dict(Y=Y[:, 0]), ValueError, r"Y: expected shape \(n, m\); got \(40,\). One output is Y\[:, None\]"),
    "bounds reversed": (dict(kernel=R(3.0, (10.0, 2.0))), ValueError, r"expected bounds \(lower, upper\)"),
    "infinite bounds": (dict(kernel=R(3.0, (0.1, np.inf))), ValueError, "RBF.length_scale: expected positive, finite"),
    "NaN in Y": (dict(Y=_with(Y, (3, 1), np.inf)), ValueError, "Y: expected finite.*'v2': 1"),
    "constant": (dict(Y=_with(Y, (slice(None), 2), 0.1)), ValueError, "'pT' do not"),
    "constant zero": (dict(Y=_with(Y, (slice(None), 3), 0.0)), ValueError, "'v3' do not"),
    "text": (dict(Y=Y.astype(str)), TypeError, "Y: expected an array of real numbers"),
    "output names": (dict(output_names=NAMES[:4]), ValueError, "expected 5 names.*got 4"),
    "repeated names": (dict(output_names=("a",) * 5), ValueError, "unique names; 'a'"),
    "too many components": (dict(n_components=6), ValueError, "n_components: expected at most 5.*got 6"),
    "rank": (dict(Y=np.hstack([Y, Y]), output_names=None, n_components=6), ValueError, "at most 5, the rank"),
    "fraction": (dict(n_components=1.0), ValueError, r"n_components: expected a number in \(0, 1\)"),
    "no components": (dict(n_components=0), ValueError, "n_components: expected an integer >= 1"),
    "boolean": (dict(n_components=True), TypeError, "n_components"),
    "word": (dict(kernel="cubic"), ValueError, "kernel: expected one of 'rbf'.*got 'cubic'"),
    "not a kernel": (dict(kernel=3), TypeError, "expected a scikit-learn kernel; got int"),
    "unsupported": (
        dict(kernel=C(1.0) * kernels.PairwiseKernel()),
        ValueError,
        "PairwiseKernel is not supported; build it from RBF",
    ),
    "nu": (dict(kernel=M(1.0, nu=2.0)), ValueError, "nu 0.5, 1.5, 2.5 or inf; got nu=2"),
    "length scales": (dict(kernel=R([1.0, 2.0])), ValueError, r"RBF.length_scale: expected shape .*got \(2,\)"),
    "errors": (dict(Y_error=-Y), ValueError, "Y_error: expected standard errors >= 0.*'yield'"),
    "shape of errors": (dict(Y_error=Y[0]), ValueError, "Y_error: expected shape"),
    "space": (dict(space=SPACE.names), TypeError, "space: expected a ParameterSpace; got tuple"),
    "restarts": (dict(restarts=-1), ValueError, "restarts"),
    "keyword": (dict(restart=2), TypeError, "restart"),
    "singular": (
        dict(X=X[[0] * 40], kernel=C(1e9, "fixed") * R(1.0, "fixed")),
        ValueError,
        "component 0: .*not positive definite. Add a WhiteKernel",
    ),
}


@pytest.mark.parametrize("name", BAD_FITS)
def test_bad_fits_are_refused_by_name(name):
    options, error, message = BAD_FITS[name]
    given = {"X": X, "Y": Y, "space": SPACE, "output_names": NAMES, "progress": False, **options}
    with pytest.raises(error, match=message):
        GPEmulator.fit(given.pop("X"), given.pop("Y"), given.pop("space"), **given)


BAD_USES = {
    "size of theta": (lambda e: e.predict(POINTS[:, :2]), r"theta: expected shape \(..., 3\).*got \(7, 2\)"),
    "NaN": (lambda e: e.predict(POINTS * np.nan), "theta: expected finite"),
    "one run": (lambda e: e.validate(X[:1], Y[:1]), "at least 2 held-out runs"),
    "columns": (lambda e: e.validate(X, Y[:, :4]), r"Y: expected shape \(40, 5\)"),
    "runs that do not vary": (lambda e: e.validate(X[:5], np.ones((5, 5))), "vary; 'yield'"),
}


@pytest.mark.parametrize("name", BAD_USES)
def test_bad_uses_are_refused_by_name(name, emulator):
    use, message = BAD_USES[name]
    with pytest.raises(ValueError, match=message):
        use(emulator)


def test_unfinished_fit_warns_once_with_the_components(monkeypatch):
    def stops_early(*arguments, **options):
        return minimize(*arguments, **options, options={"maxiter": 1})

    monkeypatch.setattr(marginal_likelihood, "minimize", stops_early)
    with pytest.warns(UserWarning, match="did not converge for component 0, 1;") as record:
        emulator = fit(n_components=2)
    assert len(record) == 1
    assert "failed to converge" in emulator.report[1].notes[0]


def test_kernel_json_round_trip_and_its_refusals():
    kernel = from_sklearn_kernel(KERNELS["sum of signals"])
    again = kernel_from_json(kernel_to_json(kernel))
    assert jax.tree.structure(again) == jax.tree.structure(kernel)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(kernel)))
    for record in ("RBF", {"kind": "RBF"}, {"kind": "RBF", "length_scale": 1.0, "nu": 2}, {"kind": "Kernel"}):
        with pytest.raises(ValueError, match="expected a record of one of RBF"):
            kernel_from_json(record)


@pytest.mark.parametrize(("m", "p"), [(6, 2), (4, 4), (5, 1)])
def test_low_rank_normal_equals_scipy_in_any_units(m, p):
    rng = np.random.default_rng(m)
    root, loadings, loc = rng.normal(size=(m, 2 * m)), rng.normal(size=(m, p)), rng.normal(size=(3, m))
    fixed, variances = root @ root.T, np.array([np.zeros(p), np.ones(p), np.full(p, 1e4)])
    covariance = fixed + np.einsum("ik,nk,jk->nij", loadings, variances, loadings)
    values = loc + rng.normal(size=(4, 1, m))
    oracle = np.stack([multivariate_normal(loc[n], covariance[n]).logpdf(values[:, n]) for n in range(3)], axis=-1)
    units = 10.0 ** np.linspace(-4, 4, m)
    with jax.enable_x64(True):
        normal = LowRankNormal(loc, variances, factor_fixed(fixed, loadings))
        rescaled = factor_fixed(fixed * np.outer(units, units), loadings * units[:, None])
        in_units = LowRankNormal(loc * units, variances, rescaled).log_prob(values * units) + np.log(units).sum()
        np.testing.assert_allclose(normal.covariance_matrix, covariance, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(normal.log_prob(values), oracle, rtol=1e-9)
        np.testing.assert_allclose(in_units, oracle, rtol=1e-9)


def test_low_rank_normal_samples_have_its_moments_and_it_survives_jit():
    rng = np.random.default_rng(1)
    root, loadings = rng.normal(size=(4, 4)), rng.normal(size=(4, 2))
    normal = LowRankNormal(
        rng.normal(size=(2, 4)), np.array([[0.5, 2.0], [0.0, 1.0]]), factor_fixed(root @ root.T, loadings)
    )
    draws = jax.jit(lambda dist, key: dist.sample(key, (40_000,)))(normal, jax.random.key(0))
    assert draws.shape == (40_000, 2, 4)
    for n in range(2):
        covariance = np.asarray(normal.covariance_matrix)[n]
        deviation = np.sqrt(np.diag(covariance))
        # standard errors 1/sqrt(40000) = 0.005 and, for a variance, 0.007; five of them over 28 numbers: 2e-5
        assert (np.abs(draws[:, n].mean(0) - normal.mean[n]) < 0.025 * deviation).all()
        assert (np.abs(np.cov(draws[:, n].T) - covariance) < 0.035 * np.outer(deviation, deviation)).all()
    assert np.array_equal(normal.variance, np.diagonal(normal.covariance_matrix, axis1=1, axis2=2))


def test_outputs_are_made_of_the_moments_of_components(emulator):
    moments, outputs = emulator.component_moments(POINTS), emulator.state.outputs
    expected = np.einsum("mp,np,kp->nmk", outputs.loadings, moments.variance, outputs.loadings) + outputs.truncation
    np.testing.assert_allclose(emulator.predict(POINTS).covariance, expected, rtol=1e-9)
