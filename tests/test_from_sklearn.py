"""Emulators trained by scikit-learn give scikit-learn's predictions; what can't be taken over is refused by name."""

import warnings

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.linear_model import LinearRegression
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, RobustScaler, StandardScaler

from numpyro_flowprior import GPEmulator, ParameterSpace
from numpyro_flowprior.emulators.kernel_trees import from_sklearn_kernel, kernel_from_json, kernel_to_json
from numpyro_flowprior.emulators.kernels import gram
from numpyro_flowprior.emulators.marginal_likelihood import GPData, log_marginal_likelihood

SPACE = ParameterSpace(["a", "b", "c"], [-1.0, 0.0, 10.0], [1.0, 2.0, 40.0])
C, W, R, M = kernels.ConstantKernel, kernels.WhiteKernel, kernels.RBF, kernels.Matern
NOISY = R([0.9, 1.4, 12.0]) + W(0.01)
LOWER, UPPER = SPACE.bounds.T
RNG = np.random.default_rng(0)
X, POINTS = RNG.uniform(*SPACE.bounds.T, (30, 3)), RNG.uniform(*SPACE.bounds.T, (6, 3))
Y = np.stack([np.exp(X[:, 0]), 100 + X[:, 1] * X[:, 2], np.sin(X[:, 1]) + X[:, 0], 0.1 * X[:, 2]], axis=-1)


def trained(kernel=NOISY, y=Y[:, 1], **options):
    return GaussianProcessRegressor(kernel, optimizer=None, **options).fit(X, y)


def assert_same(emulator, mean, variance, theta=POINTS, scale=1.0):
    """To 1e-9 of the outputs' spread, of which the variance is the small difference of two large numbers."""
    found = emulator.predict(theta)
    np.testing.assert_allclose(found.mean / scale, mean.reshape(found.mean.shape) / scale, rtol=1e-9, atol=1e-9)
    diagonal = np.diagonal(found.covariance, axis1=-2, axis2=-1) / scale**2
    np.testing.assert_allclose(diagonal, variance.reshape(diagonal.shape) / scale**2, rtol=1e-9, atol=1e-9)


positive = st.floats(0.3, 3.0)
LEAVES = st.one_of(
    st.builds(R, st.one_of(positive, st.lists(positive, min_size=3, max_size=3))),
    st.builds(M, st.lists(positive, min_size=3, max_size=3), nu=st.sampled_from([0.5, 1.5, 2.5, np.inf])),
    st.builds(kernels.RationalQuadratic, positive, positive),
    st.builds(kernels.ExpSineSquared, positive, st.floats(1.0, 4.0)),
    st.builds(kernels.DotProduct, positive),
    st.builds(C, positive),
    st.builds(W, st.floats(0.01, 1.0)),
)
TREES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.builds(kernels.Sum, parts, parts),
        st.builds(kernels.Product, parts, parts),
        st.builds(kernels.Exponentiation, parts, st.sampled_from([2, 3])),
    ),
    max_leaves=4,
)


def regular(tree, z):
    """A periodic kernel is no covariance in three dimensions, and powers amplify: what has no inverse has no oracle."""
    values = np.linalg.eigvalsh(tree(z) + 0.05 * np.eye(len(z)))
    return values[0] > 1e-3 and values[-1] < 1e6 * values[0]


@settings(max_examples=25, deadline=None)
@given(TREES, st.booleans(), st.booleans())
def test_random_kernels_predict_as_scikit_learn_does(tree, normalize_y, noisy_rows):
    z, points = (X - LOWER) / (UPPER - LOWER), (POINTS - LOWER) / (UPPER - LOWER)
    assume(regular(tree, z))
    alpha = np.random.default_rng(1).uniform(0.1, 0.3, len(X)) if noisy_rows else 0.05
    model = GaussianProcessRegressor(tree, alpha=alpha, normalize_y=normalize_y, optimizer=None).fit(z, Y[:, 1] / 30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn sets variances that rounding made negative to zero
        mean, deviation = model.predict(points, return_std=True)
        _, covariance = model.predict(points, return_cov=True)
    unit = ParameterSpace(SPACE.names, [0.0] * 3, [1.0] * 3)
    emulator = GPEmulator.from_sklearn(model, unit)
    found = emulator.predict(points)
    prior = np.diag(tree(points)) * model._y_train_std**2
    np.testing.assert_allclose(found.mean[:, 0], mean, rtol=1e-9, atol=1e-9 * np.abs(mean).max())
    np.testing.assert_allclose(found.covariance[:, 0, 0], deviation**2, rtol=1e-9, atol=1e-9 * prior.max())
    between = emulator.covariance_between(points)[..., 0]
    np.testing.assert_allclose(between, covariance, rtol=1e-9, atol=1e-9 * prior.max())


@settings(max_examples=25, deadline=None)
@given(TREES)
def test_marginal_likelihood_and_its_gradient_are_scikit_learns(tree):
    z = (X - LOWER) / (UPPER - LOWER)
    assume(regular(tree, z))
    model = GaussianProcessRegressor(tree, alpha=0.05, optimizer=None).fit(z, Y[:, 2])
    expected, gradient = model.log_marginal_likelihood(model.kernel_.theta, eval_gradient=True)
    kernel = from_sklearn_kernel(tree)
    value, slope = log_marginal_likelihood(kernel, GPData(z, Y[:, 2], np.full(len(z), 0.05 - 1e-10)))
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    sizes = {k: np.sum(np.asarray(a) * b) for k, (a, b) in enumerate(_pairs(slope, kernel))}
    if "Exponentiation" not in str(type(tree)) and "**" not in str(tree):  # whose exponent is no parameter there
        np.testing.assert_allclose(sum(sizes.values()), gradient.sum(), rtol=1e-6, atol=1e-6 * np.abs(gradient).sum())


def _pairs(slope, kernel):
    return zip(jax.tree.leaves(slope), jax.tree.leaves(kernel), strict=True)


@settings(max_examples=25, deadline=None)
@given(TREES)
def test_random_kernels_survive_json_and_have_a_text(tree):
    kernel = from_sklearn_kernel(tree)
    again = kernel_from_json(kernel_to_json(kernel))
    assert jax.tree.structure(again) == jax.tree.structure(kernel)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(kernel)))
    assert str(again) == str(kernel)
    with jax.enable_x64(True):
        np.testing.assert_allclose(gram(again, POINTS), tree(POINTS), rtol=1e-9, atol=1e-9 * np.abs(tree(POINTS)).max())


def test_kernels_read_as_they_are_written():
    kernel = from_sklearn_kernel((C(1.5) + W(0.1)) * R([0.5, 1.0, 2.0]) + kernels.DotProduct(2.0) ** 2)
    assert str(kernel) == "(1.5 + White(0.1)) * RBF([0.5, 1, 2]) + (DotProduct(2))^2"


def test_several_outputs_of_one_process():
    model = trained(y=Y, normalize_y=True)
    mean, deviation = model.predict(POINTS, return_std=True)
    emulator = GPEmulator.from_sklearn(model, SPACE, output_names=["w", "x", "y", "z"])
    assert_same(emulator, mean, deviation**2, scale=Y.std(axis=0))
    assert emulator.state.components.inverse_cholesky.shape == (1, 30, 30)
    assert emulator.report[0].log_likelihood == pytest.approx(model.log_marginal_likelihood_value_)
    _, covariance = model.predict(POINTS, return_cov=True)
    np.testing.assert_allclose(emulator.covariance_between(POINTS), covariance, rtol=1e-9, atol=1e-9 * Y.var(0).max())


@pytest.mark.parametrize("n", [127, 128, 129, 300])
def test_designs_of_any_size(n):
    """Triangular products go by blocks of 128 rows."""
    z = np.random.default_rng(n).uniform(*SPACE.bounds.T, (n, 3))
    model = GaussianProcessRegressor(NOISY, optimizer=None).fit(z, np.exp(z[:, :2]))
    mean, deviation = model.predict(POINTS, return_std=True)
    assert_same(GPEmulator.from_sklearn(model, SPACE), mean, deviation**2)


def test_one_process_per_output():
    each = MultiOutputRegressor(GaussianProcessRegressor(NOISY, optimizer=None, normalize_y=True)).fit(X, Y)
    both = [estimator.predict(POINTS, return_std=True) for estimator in each.estimators_]
    mean, deviation = (np.stack([one[j] for one in both], axis=-1) for j in (0, 1))
    for model in (each, each.estimators_, tuple(each.estimators_)):
        assert_same(GPEmulator.from_sklearn(model, SPACE), mean, deviation**2, scale=Y.std(axis=0))


@pytest.mark.parametrize("scaler", [StandardScaler(), StandardScaler(with_mean=False), MinMaxScaler((-1, 2))])
@pytest.mark.parametrize("whiten", [False, True])
def test_pipelines_of_inputs(scaler, whiten):
    kernel = R(1.1) + W(0.01)
    model = make_pipeline(
        scaler, "passthrough", PCA(3, whiten=whiten), GaussianProcessRegressor(kernel, optimizer=None)
    )
    model.fit(X, Y[:, 1] / 30)
    mean, deviation = model.predict(POINTS, return_std=True)
    assert_same(GPEmulator.from_sklearn(model, SPACE), mean, deviation**2)


def test_fewer_principal_components_of_the_inputs():
    model = make_pipeline(StandardScaler(), PCA(2), GaussianProcessRegressor(R(1.1) + W(0.01), optimizer=None))
    model.fit(X, Y[:, 1] / 30)
    mean, deviation = model.predict(POINTS, return_std=True)
    assert_same(GPEmulator.from_sklearn(model, SPACE), mean, deviation**2)


@pytest.mark.parametrize("whiten", [False, True])
def test_principal_components_of_the_outputs(whiten):
    """The usual emulator of heavy-ion physics: standardise, take components, one process for each."""
    outputs = Pipeline([("scale", StandardScaler()), ("pca", PCA(2, whiten=whiten))]).fit(Y)
    scores = outputs.transform(Y)
    models = [trained(C(2.0) * NOISY, scores[:, k]) for k in range(2)]
    both = [model.predict(POINTS, return_std=True) for model in models]
    mean = outputs.inverse_transform(np.stack([one[0] for one in both], axis=-1))
    scaler, pca = outputs[0], outputs[1]
    back = pca.components_ * (np.sqrt(pca.explained_variance_)[:, None] if whiten else 1) * scaler.scale_
    covariance = np.einsum("kn,ki,kj->nij", np.stack([one[1] ** 2 for one in both]), back, back)
    emulator = GPEmulator.from_sklearn(models, SPACE, outputs=outputs)
    scale = np.sqrt(np.outer(Y.var(0), Y.var(0)))
    np.testing.assert_allclose(emulator.predict(POINTS).mean, mean, rtol=1e-9)
    np.testing.assert_allclose(emulator.predict(POINTS).covariance / scale, covariance / scale, rtol=1e-9, atol=1e-9)
    with_rest = GPEmulator.from_sklearn(models, SPACE, outputs=outputs, truncation=np.eye(4))
    difference = with_rest.predict(POINTS).covariance - emulator.predict(POINTS).covariance
    np.testing.assert_allclose(difference, np.broadcast_to(np.eye(4), (6, 4, 4)), atol=1e-9)


def test_inputs_scaled_by_hand():
    """As published codes do: the box to the unit cube, then a list of processes."""
    z = (X - LOWER) / (UPPER - LOWER)
    models = [GaussianProcessRegressor(R(0.8) + W(0.01), optimizer=None).fit(z, Y[:, j]) for j in (0, 2)]
    both = [model.predict((POINTS - LOWER) / (UPPER - LOWER), return_std=True) for model in models]
    mean, deviation = (np.stack([one[j] for one in both], axis=-1) for j in (0, 1))
    emulator = GPEmulator.from_sklearn(models, SPACE, inputs=MinMaxScaler().fit(SPACE.bounds.T))
    assert_same(emulator, mean, deviation**2)


def test_transformed_targets():
    inner = make_pipeline(MinMaxScaler(), GaussianProcessRegressor(R(0.7) + W(0.01), optimizer=None))
    model = TransformedTargetRegressor(inner, transformer=make_pipeline(StandardScaler(), PCA(4))).fit(X, Y)
    emulator = GPEmulator.from_sklearn(model, SPACE)
    np.testing.assert_allclose(emulator.predict(POINTS).mean, model.predict(POINTS), rtol=1e-9)
    plain = TransformedTargetRegressor(trained()).fit(X, Y[:, 0])
    np.testing.assert_allclose(GPEmulator.from_sklearn(plain, SPACE).predict(POINTS).mean[:, 0], plain.predict(POINTS))


def test_files_keep_a_shared_process_and_rotated_inputs(tmp_path):
    model = make_pipeline(StandardScaler(), PCA(2), GaussianProcessRegressor(R(1.1) + W(0.01), optimizer=None))
    emulator = GPEmulator.from_sklearn(model.fit(X, Y), SPACE)
    again = GPEmulator.load(emulator.save(tmp_path / "e.safetensors"))
    for before, after in zip(emulator.predict(POINTS), again.predict(POINTS), strict=True):
        np.testing.assert_array_equal(before, after)
    assert again.report == emulator.report


def _changed(model):
    model.alpha_ = model.alpha_ * 1.01
    return model


class Odd(R):
    """A subclass, which may differ in its maths."""


BAD_MODELS = {
    "not fitted": (lambda: GaussianProcessRegressor(), "GaussianProcessRegressor is not fitted"),
    "not fitted within": (
        lambda: MultiOutputRegressor(GaussianProcessRegressor()),
        "MultiOutputRegressor is not fitted",
    ),
    "another regressor": (lambda: LinearRegression().fit(X, Y), "LinearRegression is not supported; expected Gaussian"),
    "another within": (lambda: [trained(), LinearRegression().fit(X, Y)], "got LinearRegression in it"),
    "another scaler": (
        lambda: make_pipeline(RobustScaler(), GaussianProcessRegressor()).fit(X, Y),
        "RobustScaler is not supported; expected StandardScaler, MinMaxScaler, PCA",
    ),
    "clipped": (
        lambda: make_pipeline(MinMaxScaler(clip=True), GaussianProcessRegressor()).fit(X, Y),
        "clip=True is not affine",
    ),
    "a function": (
        lambda: TransformedTargetRegressor(trained(), func=np.log, inverse_func=np.exp).fit(X, Y[:, 0]),
        "FunctionTransformer is not supported",
    ),
    "a kernel": (lambda: trained(kernels.PairwiseKernel() + W(0.1)), "PairwiseKernel is not supported"),
    "a subclass": (lambda: trained(Odd(1.0) + W(0.1)), "Odd is not supported"),
    "other rows": (
        lambda: [trained(), GaussianProcessRegressor(NOISY, optimizer=None).fit(X[:20], Y[:20, 0])],
        "trained at the same points",
    ),
    "several each": (
        lambda: [trained(y=Y), trained(y=Y)],
        "one output each, or one process with several outputs; got neither",
    ),
    "changed": (lambda: _changed(trained()), "differ from scikit-learn's by up to"),
    "inputs": (
        lambda: GaussianProcessRegressor(R(1.0) + W(0.1)).fit(X[:, :2], Y),
        "got 3, which lead to 3",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_can_not_be_taken_over_is_refused_by_name(name):
    make, message = BAD_MODELS[name]
    if name == "changed":
        model = make()
        model.predict = trained().predict
    else:
        model = make()
    with pytest.raises(ValueError, match=message):
        GPEmulator.from_sklearn(model, SPACE)


def test_parts_fitted_in_float32_are_taken_over_in_float64(tmp_path):
    half, outputs = X.astype(np.float32), Y.astype(np.float32)
    scaler, pca = MinMaxScaler().fit(half), PCA(2, whiten=True).fit(outputs)
    models = [GaussianProcessRegressor(NOISY, optimizer=None).fit(half, pca.transform(outputs)[:, j]) for j in (0, 1)]
    for inputs in (scaler, StandardScaler().fit(half), PCA(3).fit(half)):
        fitted = [GaussianProcessRegressor(R(0.8) + W(0.01), optimizer=None).fit(inputs.transform(half), Y[:, 0])]
        GPEmulator.load(GPEmulator.from_sklearn(fitted, SPACE, inputs=inputs).save(tmp_path / "e.safetensors"))
    emulator = GPEmulator.from_sklearn(models, SPACE, outputs=pca)
    mean = pca.inverse_transform(np.stack([model.predict(POINTS) for model in models], axis=-1).astype(np.float64))
    np.testing.assert_allclose(emulator.predict(POINTS).mean, mean, rtol=1e-6)  # theirs is in float32 in part


def test_columns_of_the_fit_are_compared_with_the_space():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["b", "a", "c"])
    model = GaussianProcessRegressor(NOISY, optimizer=None).fit(frame, Y[:, 1])
    with pytest.raises(ValueError, match="GaussianProcessRegressor was fitted to.*'b', 'a', 'c'; got 'a', 'b', 'c'"):
        GPEmulator.from_sklearn(model, SPACE)
    right = ParameterSpace(["b", "a", "c"], *SPACE.bounds.T)
    np.testing.assert_allclose(
        GPEmulator.from_sklearn(model, right).predict(POINTS).mean[:, 0], trained().predict(POINTS)
    )


def test_wrong_arguments_are_refused_by_name():
    for wrong in (np.full((4, 4), np.nan), -np.eye(4), np.eye(4) + np.eye(4, k=1)):
        with pytest.raises(ValueError, match="truncation: expected"):
            GPEmulator.from_sklearn(trained(y=Y), SPACE, truncation=wrong)
    with pytest.raises(ValueError, match="FunctionTransformer is not supported"):
        GPEmulator.from_sklearn(trained(y=Y), SPACE, outputs=FunctionTransformer(inverse_func=np.exp).fit(Y))

    for wrong in ("model", 3, np.ones(3), object()):
        with pytest.raises(TypeError, match="is not supported; expected GaussianProcessRegressor"):
            GPEmulator.from_sklearn(wrong, SPACE)
    with pytest.raises(TypeError, match="space: expected a ParameterSpace"):
        GPEmulator.from_sklearn(trained(), SPACE.names)
    with pytest.raises(ValueError, match="outputs: expected transformers to 4 targets; got transformers to 3"):
        GPEmulator.from_sklearn(trained(y=Y), SPACE, outputs=PCA(3).fit(Y))
    with pytest.raises(ValueError, match="truncation: expected shape"):
        GPEmulator.from_sklearn(trained(), SPACE, truncation=np.eye(2))
    with pytest.raises(ValueError, match="StandardScaler gives 4 columns, and PCA takes 3"):
        GPEmulator.from_sklearn(trained(y=Y), SPACE, outputs=[StandardScaler().fit(Y), PCA(3).fit(Y[:, :3])])
    four = np.hstack([X, X[:, :1]])
    scaled = make_pipeline(StandardScaler(), GaussianProcessRegressor(R(1.0) + W(0.1), optimizer=None)).fit(four, Y)
    with pytest.raises(ValueError, match="expected the 4 parameters that lead to the 4 inputs of the model; got 3"):
        GPEmulator.from_sklearn(scaled, SPACE)
    with pytest.raises(ValueError, match="PCA is not fitted"):
        GPEmulator.from_sklearn(trained(y=Y), SPACE, outputs=PCA(3))
