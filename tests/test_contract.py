"""What every prior must stand: one table of densities, every use that a NumPyro distribution is put to.

That their values are right is shown elsewhere: flows in test_prior.py, what is made of them in test_compose.py.
"""

from __future__ import annotations

import copy
import io
import pickle

import cloudpickle
import jax
import jax.numpy as jnp
import joblib
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import condition, reparam, seed, substitute, trace
from numpyro.infer import SVI, Predictive, Trace_ELBO, autoguide
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density
from toys import INF, PRIOR_ROWS, make_prior

from numpyro_flowprior import BroadPrior, FlowConfig, ModelDensity, ParameterSpace, UniformPrior, robustify, temper

KEY = jax.random.key(0)
MIXED_BOUNDS = [(0.0, 1.0), (0.0, INF), (-INF, INF)]
MIXED_SPACE = ParameterSpace(["p0", "p1", "p2"], *np.array(MIXED_BOUNDS).T)
SMALL = FlowConfig(layers=1, hidden=(8,), members=2, background=True)


def flow(bounds, **changes):
    return make_prior(bounds, FlowConfig(layers=1, hidden=(8,), **changes), strength=0.1)


# One flow of each architecture, and what is made of flows on each kind of support. The values of all flows, on all
# supports, are seen in test_prior.py.
FLOWS = ["1-D half line", "2-D mixed", "2-D ensemble", "2-D spline", "3-D paper", "16-D mixed"]
DENSITIES = {name: (lambda row=PRIOR_ROWS[name]: make_prior(*row[1:])) for name in FLOWS} | {
    "tempered, mixed": lambda: temper(flow(MIXED_BOUNDS, members=2), 0.8),
    "robust, mixed": lambda: robustify(flow([(1e-4, 0.28), (0.0, INF), (-INF, INF)], base="normal"), 0.1),
    "conditional, half line": lambda: make_prior(MIXED_BOUNDS, SMALL).condition(p0=0.3, p2=0.1),
    "conditional, mixed pair": lambda: make_prior(MIXED_BOUNDS, SMALL).condition(p1=0.7),
    "broad, mixed": lambda: BroadPrior(MIXED_SPACE, np.ones(3), np.zeros(3), np.ones(3)),
    "uniform": lambda: UniformPrior(ParameterSpace(["p0", "p1"], [0.0, -2.0], [2.0, 3.0])),
}
# One of each class, where a use asks for what a class is and not for its numbers.
CLASSES = ["2-D ensemble", "tempered, mixed", "robust, mixed", "conditional, half line", "broad, mixed", "uniform"]
MADE: dict = {}


@pytest.fixture(params=DENSITIES)
def made(request):
    """Makes a prior and its draws once: every shape that a test asks for is a compilation."""
    if request.param not in MADE:
        prior = DENSITIES[request.param]()
        MADE[request.param] = prior, np.asarray(prior.sample(KEY, (500, 3)))
    return MADE[request.param]


@pytest.fixture
def prior(made):
    return made[0]


@pytest.fixture
def theta(made):
    return jnp.asarray(made[1][0])


def changed(prior):
    """Returns a prior of the same structure whose numbers differ."""
    return jax.tree.map(lambda a: 0.97 * a, prior)


def model(prior, y=None):
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(theta.sum(), 0.5), obs=y)


def test_shapes_support_strict_interior_and_keys(made):
    prior, draws = made
    assert draws.shape == (500, 3, prior.space.dim) == prior.shape((500, 3))
    assert prior.event_shape == (prior.space.dim,) == jax.eval_shape(prior.sample, KEY).shape
    assert prior.batch_shape == ()
    assert jax.eval_shape(prior.log_prob, draws).shape == (500, 3)
    assert jax.jit(lambda theta: prior.support(theta))(draws).all()
    low, high = prior.space.bounds.T
    assert (np.asarray(draws, np.float64) > low).all()
    assert (np.asarray(draws, np.float64) < high).all()
    np.testing.assert_array_equal(prior.sample(KEY, (500, 3)), draws)
    assert (prior.sample(jax.random.key(1), (500, 3)) != draws).all(axis=-1).mean() > 0.99


def test_jit_takes_the_prior_as_an_argument_and_does_not_retrace(prior, theta):
    traces = []

    @jax.jit
    def log_prob(prior, theta):
        traces.append(1)
        return prior.log_prob(theta)

    expected = prior.log_prob(theta)
    np.testing.assert_allclose(log_prob(prior, theta), expected, rtol=2e-5, atol=1e-4)
    if jax.tree.leaves(prior):  # a uniform prior is its space
        assert (log_prob(changed(prior), theta) != expected).all()
    assert len(traces) == 1


@pytest.mark.parametrize("made", CLASSES, indirect=True)
def test_a_jitted_function_may_close_over_the_prior_in_either_precision(prior):
    def draw(key):
        theta = prior.sample(key, (3,))
        return theta, prior.log_prob(theta)

    for x64 in (False, True):
        with jax.enable_x64(x64):
            theta, value = jax.jit(draw)(jax.random.key(0))
            assert theta.dtype == value.dtype == (np.float64 if x64 else np.float32)
            np.testing.assert_allclose(value, prior.log_prob(theta), atol=1e-8 if x64 else 1e-3)


def edge_points(prior, draws) -> tuple[np.ndarray, np.ndarray]:
    """Returns ten draws in float32 and copies with one coordinate 1e-9 of the range inside an edge, and beyond it."""
    draws = np.asarray(draws[:10, 0], np.float32)
    low, high = prior.space.bounds.T
    span = np.where(np.isfinite(high - low), high - low, 1.0)
    inside, outside = [draws], [np.full_like(draws[:1], np.nan)]
    for j in range(prior.space.dim):
        for edge, inwards in ((low[j], 1.0), (high[j], -1.0)):
            if np.isfinite(edge):
                for points, step in ((inside, 1e-9), (outside, -0.1)):
                    points.append(draws.copy() if points is inside else draws[:1].copy())
                    points[-1][:, j] = np.float32(edge + inwards * step * span[j])
    return np.concatenate(inside), np.concatenate(outside)


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_single_and_double_precision_agree_up_to_the_edges_and_beyond(made):
    """To 1e-4 at the same float32 points; where rounding put a point outside, both must say so."""
    prior, (near, outside) = made[0], edge_points(*made)
    theta = jnp.asarray(np.concatenate([near, outside]))
    single = np.asarray(prior.log_prob(theta))
    gradient = jax.jit(jax.vmap(jax.grad(prior.log_prob)))(theta)
    with jax.enable_x64(True):
        double = np.asarray(prior.log_prob(jnp.asarray(theta, jnp.float64)))
    assert not np.isnan(single).any()
    np.testing.assert_allclose(single, double, atol=1e-4, rtol=2e-6)
    assert (single[len(near) :] == -np.inf).all()  # NaN is nowhere, too
    assert np.isfinite(gradient[np.isfinite(theta).all(axis=1)]).all()


def test_gradient_against_finite_differences_up_to_the_edges(prior, theta):
    """Each difference in steps that are small against the distance to the nearest edge.

    What a difference cannot know is the rounding of the densities over the step: 1e-4 and more next to an edge.
    """
    with jax.enable_x64(True):
        theta = np.asarray(theta, np.float64)
        low, high = prior.space.bounds.T
        near = np.where(np.isfinite(low), low + 1e-6, np.where(np.isfinite(high), high - 1e-6, theta[0]))
        theta = np.concatenate([theta, near[None]])
        log_prob = jax.jit(prior.log_prob)
        gradient = jax.jit(jax.vmap(jax.grad(prior.log_prob)))(theta)
        step = 1e-5 * np.minimum(np.minimum(np.abs(theta), 1.0), np.minimum(theta - low, high - theta))
        for j in range(prior.space.dim):
            shift = np.zeros_like(theta)
            shift[:, j] = step[:, j]
            moved = (theta + shift) - (theta - shift)
            numeric = (log_prob(theta + shift) - log_prob(theta - shift)) / moved[:, j]
            rounding = 4 * np.finfo(float).eps * (1.0 + np.abs(log_prob(theta))) / step[:, j]
            assert (np.abs(gradient[:, j] - numeric) <= 1e-4 * (1.0 + np.abs(numeric)) + rounding).all()


def test_vmap_over_points_and_over_stacked_priors(prior, theta):
    each = prior.log_prob(theta)
    np.testing.assert_allclose(jax.vmap(prior.log_prob)(theta), each, rtol=1e-5, atol=1e-4)
    other = changed(prior)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), prior, other)
    both = jax.vmap(lambda p, t: p.log_prob(t), axis_size=2)(stacked, theta[:2])
    np.testing.assert_allclose(both, [each[0], other.log_prob(theta)[1]], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("made", CLASSES, indirect=True)
def test_predictive(prior):
    found = Predictive(model, num_samples=7)(jax.random.PRNGKey(0), prior)
    assert found["theta"].shape == (7, prior.space.dim)
    assert found["y"].shape == (7,)
    assert prior.support(found["theta"]).all()


@pytest.mark.parametrize("made", CLASSES, indirect=True)
def test_svi_with_a_guide(prior):
    svi = SVI(model, autoguide.AutoNormal(model), numpyro.optim.Adam(0.01), Trace_ELBO())
    state = svi.init(jax.random.PRNGKey(0), prior, y=1.0)
    state, loss = svi.update(state, prior, y=1.0)
    assert np.isfinite(loss)
    assert prior.support(svi.guide.median(svi.get_params(state))["theta"])


def test_expand_event_and_mask(prior, theta):
    each = prior.log_prob(theta)
    expanded = prior.expand([3])
    np.testing.assert_allclose(expanded.log_prob(theta), each, rtol=1e-5, atol=1e-4)
    assert jax.eval_shape(lambda key: expanded.sample(key, (2,)), KEY).shape == (2, 3, prior.space.dim)
    np.testing.assert_allclose(expanded.to_event(1).log_prob(theta), each.sum(), rtol=1e-5, atol=1e-3)
    masked = prior.mask(jnp.array([True, False, True])).log_prob(theta)
    np.testing.assert_allclose(masked, [each[0], 0.0, each[2]], rtol=1e-5, atol=1e-4)


def test_plates_condition_and_substitute(prior, theta):
    def plated(prior):
        with numpyro.plate("systems", 3):
            numpyro.sample("theta", prior)

    assert Predictive(plated, num_samples=2)(KEY, prior)["theta"].shape == (2, 3, prior.space.dim)
    np.testing.assert_allclose(
        log_density(plated, (prior,), {}, {"theta": theta})[0], prior.log_prob(theta).sum(), rtol=1e-5, atol=1e-3
    )
    observed = trace(seed(condition(model, {"theta": theta[0]}), 0)).get_trace(prior)["theta"]
    assert observed["is_observed"]
    replaced = trace(seed(substitute(model, {"theta": theta[0]}), 0)).get_trace(prior)["theta"]
    np.testing.assert_array_equal(replaced["value"], theta[0])
    assert not replaced["is_observed"]


@pytest.mark.parametrize("made", CLASSES, indirect=True)
def test_transform_reparam_moves_an_affine_image_of_the_prior(prior):
    """y = 2 theta + 1 as a TransformedDistribution, sampled through its base: the density of y is not in the trace."""
    affine = dist.transforms.AffineTransform(1.0, 2.0)

    def moved(prior):
        numpyro.sample("y", dist.TransformedDistribution(prior, affine))

    sites = trace(seed(reparam(moved, config={"y": TransformReparam()}), 0)).get_trace(prior)
    np.testing.assert_allclose(sites["y"]["value"], 2 * sites["y_base"]["value"] + 1, rtol=1e-6)
    y, theta = sites["y"]["value"], sites["y_base"]["value"]
    expected = prior.log_prob(theta) - prior.space.dim * np.log(2.0)
    found = dist.TransformedDistribution(prior, affine).log_prob(y)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)  # theta is rounded on its way through y


def test_copies_and_pickles_by_users_tools_are_the_same_density(prior, theta):
    """pickle, and what dask and joblib ship functions with: cloudpickle, and joblib's own dump."""
    expected = prior.log_prob(theta)
    dumped = io.BytesIO()
    joblib.dump(prior, dumped)
    dumped.seek(0)
    copies = {
        "copy": copy.copy(prior),
        "deepcopy": copy.deepcopy(prior),
        "pickle": pickle.loads(pickle.dumps(prior)),
        "joblib": joblib.load(dumped),
    }
    for tool, other in copies.items():
        np.testing.assert_array_equal(other.log_prob(theta), expected, err_msg=tool)
        assert other.space == prior.space
    shipped = cloudpickle.loads(cloudpickle.dumps(lambda x: prior.log_prob(x)))
    np.testing.assert_array_equal(shipped(theta), expected)


@pytest.mark.parametrize("made", CLASSES, indirect=True)
def test_the_bridge_takes_it_and_asks_for_its_density(prior, theta):
    theta = np.asarray(theta, np.float64)
    bridged = ModelDensity(model, prior, y=1.0)
    assert bridged.space == prior.space
    with jax.enable_x64(True):
        np.testing.assert_allclose(bridged.log_prior(theta), prior.log_prob(theta), rtol=1e-9, atol=1e-9)


def test_wrong_points_are_refused(prior):
    dim = prior.space.dim
    with pytest.raises(ValueError, match=f"last axis of {dim} values for p"):
        prior.log_prob(np.full(dim + 1, 0.5))
    if dim > 1:  # one value is not spread over the parameters
        with pytest.raises(ValueError, match=f"last axis of {dim} values for p"):
            prior.log_prob(np.full(1, 0.5))
    with pytest.raises(TypeError, match="value: expected an array .* of numbers; got 'here'"):
        prior.log_prob("here")
