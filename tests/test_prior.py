"""FlowPrior: its density against quadrature and autodiff, its latent space, its file (contract: test_contract.py)."""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from scipy.integrate import quad
from toys import PRIOR_IDS, PRIOR_ROWS, PRIOR_TABLE, make_prior

from numpyro_flowprior import FlowConfig, FlowPrior, ParameterSpace, UniformPrior
from numpyro_flowprior.flows.build import build_whitened_flow
from numpyro_flowprior.flows.layout import FIXED, is_ensemble

KEY = jax.random.key(0)


@pytest.fixture(params=PRIOR_TABLE, ids=PRIOR_IDS)
def prior(request) -> FlowPrior:
    return make_prior(request.param[1], request.param[2])


DRAWN: dict = {}


@pytest.fixture
def draws(request, prior) -> np.ndarray:
    """20,000 draws in float64, made once a prior: every shape that a test asks for is a compilation."""
    name = request.node.callspec.id
    if name not in DRAWN:
        with jax.enable_x64(True):
            DRAWN[name] = np.asarray(prior.sample(KEY, (20_000,)))
    return DRAWN[name]


def grid_integral(prior: FlowPrior, panels: int = 800) -> float:
    """Integrates a 2-D density by Gauss-Legendre in tan-transformed coordinates that end on the declared bounds."""
    points = []
    for low, high in zip(prior.space.lower, prior.space.upper, strict=True):
        nodes, weights = np.polynomial.legendre.leggauss(8)
        edges = np.linspace(-36.0, 36.0, panels // 8 + 1)
        centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
        t = (centre[:, None] + half[:, None] * nodes).ravel()
        w = (half[:, None] * weights).ravel()
        if np.isfinite(low) and np.isfinite(high):  # logistic in t
            near = 1.0 / (1.0 + np.exp(np.abs(t)))
            x = np.where(t < 0, low + (high - low) * near, high - (high - low) * near)
            jacobian = (high - low) * near * (1 - near)
        elif np.isfinite(low) or np.isfinite(high):
            x, jacobian = (low + np.exp(t), np.exp(t)) if np.isfinite(low) else (high - np.exp(t), np.exp(t))
        else:
            x, jacobian = np.sinh(t), np.cosh(t)
        points.append((x, w * jacobian))
    (x, wx), (y, wy) = points
    mesh = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    with jax.enable_x64(True):
        density = np.exp(np.asarray(jax.jit(jax.vmap(prior.log_prob))(mesh)))
    return float(wx @ density @ wy)


def rows_of(dim: int) -> dict:
    chosen = [row for row in PRIOR_TABLE if len(row[1]) == dim]
    return {"argvalues": chosen, "ids": [row[0] for row in chosen]}


@pytest.mark.parametrize("row", **rows_of(1))
def test_one_dimensional_density_is_normalised(row):
    prior = make_prior(row[1], row[2])
    low, high = prior.space.bounds[0]
    with jax.enable_x64(True):
        log_prob = jax.jit(prior.log_prob)
        middle = float(np.median(prior.sample(KEY, (999,))))

        def density(x):
            return float(jnp.exp(log_prob(jnp.array([x]))))

        total = sum(quad(density, *piece, limit=200)[0] for piece in ((low, middle), (middle, high)))
    assert total == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("row", **rows_of(2))
def test_two_dimensional_density_is_normalised(row):
    assert grid_integral(make_prior(row[1], row[2])) == pytest.approx(1.0, abs=1e-4)


def test_samples_follow_the_density(prior, draws):
    """Importance estimate of the normalisation by draws: E_q[uniform-like weight / q] = 1 for any reference density.

    The reference is the base density pushed through the support alone; 5 standard errors, false alarms 6e-7.
    """
    reference = make_prior(prior.space.bounds, FlowConfig(layers=0, base="normal"), strength=0.0)
    reference.params["whitening"] = {k: v * (0.5 if k == "tril" else 1.0) for k, v in prior.params["whitening"].items()}
    with jax.enable_x64(True):
        inner = FlowPrior(reference.config, prior.space, {**reference.params, "support": prior.params["support"]})
        log_ratio = np.asarray(inner.log_prob(draws) - prior.log_prob(draws))
    ratio = np.exp(log_ratio)
    if prior.space.dim <= 2:  # in more dimensions the weights are too uneven to say anything
        assert ratio.mean() == pytest.approx(1.0, abs=5 * ratio.std() / np.sqrt(len(ratio)))
    assert np.isfinite(log_ratio).all()


def members_of(prior: FlowPrior) -> list[FlowPrior]:
    """Returns the flows that a prior mixes, each as a prior."""
    if not is_ensemble(prior.config):
        return [prior]
    config = replace(prior.config, members=1, background=False)
    fixed = {name: prior.params[name] for name in ("support", "whitening")}
    trained = {name: part for name, part in prior.params.items() if name not in FIXED}
    picked = [jax.tree.map(itemgetter(k), trained) for k in range(prior.config.members)]
    return [FlowPrior(config, prior.space, {**fixed, **one}) for one in picked]


def test_ensembles_are_the_mixture_of_their_members_and_a_gaussian(prior, draws):
    members = members_of(prior)
    weights = prior.params["mixture"]["weights"] if len(members) > 1 else np.array([1.0, 0.0])
    with jax.enable_x64(True):
        theta = jnp.asarray(draws[:50])
        gaussian = make_prior(prior.space.bounds, FlowConfig(layers=0, base="normal"), strength=0.0)
        fixed = {name: prior.params[name] for name in ("support", "whitening")}
        gaussian = FlowPrior(gaussian.config, prior.space, {**gaussian.params, **fixed})
        parts = [np.exp(part.log_prob(theta)) for part in (*members, gaussian)]
        density = np.sum(weights[:, None] * np.array(parts), axis=0)
        np.testing.assert_allclose(prior.log_prob(theta), np.log(density), rtol=1e-9, atol=1e-9)


def test_density_matches_autodiff_change_of_variables(prior, draws):
    prior = members_of(prior)[0]
    with jax.enable_x64(True):
        theta = jnp.asarray(draws[:5])
        base = build_whitened_flow(prior.config, prior.space.dim, prior.params, theta.dtype).distribution
        jacobian = jax.vmap(jax.jacfwd(prior.to_latent))(theta)
        expected = base.log_prob(prior.to_latent(theta)) + jnp.linalg.slogdet(jacobian)[1]
        np.testing.assert_allclose(prior.log_prob(theta), expected, rtol=1e-9, atol=1e-9)


def test_latent_round_trip(prior):
    with jax.enable_x64(True):
        omega = 0.5 * jax.random.normal(KEY, (100, prior.space.dim))
        np.testing.assert_allclose(prior.to_latent(prior.from_latent(omega)), omega, atol=1e-7)


def test_closed_over_and_passed_as_an_argument_in_both_precisions():
    """JAX remembers the NumPy arrays that a trace meets as constants: none of the prior's own may be among them."""
    prior = make_prior([(0.0, 1.0), (0.0, np.inf)], FlowConfig(layers=1, hidden=(8,), members=2, background=True))
    theta = np.asarray(prior.sample(KEY))
    closed = jax.jit(lambda t: prior.log_prob(t))
    for x64 in (False, True, False, True, False):
        with jax.enable_x64(x64):
            value = jax.jit(lambda p, t: p.log_prob(t))(prior, jnp.asarray(theta))
            np.testing.assert_allclose(closed(jnp.asarray(theta)), value, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_outside_the_support_the_density_is_zero_and_its_gradient_finite():
    prior = make_prior([(0.0, 1.0), (2.0, np.inf)], FlowConfig(layers=2, hidden=(8,)))
    outside = jnp.array([[-0.1, 3.0], [0.5, 1.9], [1.5, 1.0], [jnp.nan, 3.0]])
    assert (prior.log_prob(outside) == -jnp.inf).all()
    assert np.isfinite(jax.vmap(jax.grad(prior.log_prob))(outside[:3])).all()
    assert np.isfinite(prior.log_prob(jnp.array([0.0, 2.0])))  # the edge itself: finite, no spike


def model(prior, y=None):
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(theta.sum(), 0.5), obs=y)


def test_nuts_with_the_prior_as_a_model_argument():
    """Posterior mean by NUTS against importance sampling from the prior; 5 standard errors of each."""
    prior = make_prior(*PRIOR_ROWS["2-D mixed"][1:])
    mcmc = MCMC(NUTS(model), num_warmup=300, num_samples=2000, progress_bar=False)
    mcmc.run(jax.random.PRNGKey(1), prior, y=1.0)
    found = np.asarray(mcmc.get_samples()["theta"])
    draws = np.asarray(prior.sample(KEY, (100_000,)))
    weights = np.exp(np.asarray(dist.Normal(draws.sum(axis=1), 0.5).log_prob(1.0)))
    weights /= weights.sum()
    expected = weights @ draws
    sigma = np.sqrt(weights @ (draws - expected) ** 2)
    effective = min(200.0, 1.0 / (weights**2).sum())  # a cautious count of NUTS's independent draws
    np.testing.assert_allclose(found.mean(axis=0), expected, atol=5 * sigma.max() / np.sqrt(effective))


def test_file_round_trip_is_bit_exact(prior, tmp_path):
    prior.info = {"report": {"verdict": "pass"}}
    path = prior.save(tmp_path / "p.safetensors", metadata={"title": "a test"})
    back = FlowPrior.load(path)
    theta = prior.sample(KEY, (5,))
    np.testing.assert_array_equal(back.log_prob(theta), prior.log_prob(theta))
    np.testing.assert_array_equal(back.sample(KEY, (5,)), theta)
    assert (back.config, back.space) == (prior.config, prior.space)
    assert back.info["metadata"] == {"title": "a test"}
    assert back.info["report"] == {"verdict": "pass"}
    assert "jax" in back.info["versions"]


def test_bad_arguments_are_refused():
    good = make_prior(*PRIOR_ROWS["2-D box"][1:])
    with pytest.raises(TypeError, match="expected a FlowConfig"):
        FlowPrior({}, good.space, good.params)
    with pytest.raises(ValueError, match="expected shape"):
        FlowPrior(good.config, good.space, {**good.params, "final": {"shift": np.zeros(3), "log_scale": np.zeros(2)}})
    with pytest.raises(ValueError, match="expected exactly the arrays"):
        FlowPrior(good.config, good.space, {})
    with pytest.raises(ValueError, match=r"last axis of 2 values for p0, p1; got shape \(3,\)"):
        good.log_prob(jnp.zeros(3))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        good.save("/nowhere/at/all/p.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file"):
        FlowPrior.load("nothing.safetensors")
    with pytest.raises(ValueError, match="'affine', 'spline'; got 'cubic'"):
        FlowConfig(transformer="cubic")
    with pytest.raises(ValueError, match='conditioner="roch_shen": expected transformer="affine"'):
        FlowConfig(transformer="spline", conditioner="roch_shen")
    with pytest.raises(ValueError, match="FlowConfig.max_log_scale"):
        FlowConfig(max_log_scale=0.0)


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_uniform_prior_against_scipy():
    space = ParameterSpace(["a", "b"], [0.0, -2.0], [2.0, 3.0])
    uniform = UniformPrior(space)
    draws = uniform.sample(KEY, (2000,))
    assert uniform.support(draws).all()
    np.testing.assert_allclose(uniform.log_prob(draws), -np.log(10.0), rtol=1e-6)
    assert uniform.log_prob(jnp.array([3.0, 0.0])) == -jnp.inf
    np.testing.assert_allclose(draws.mean(axis=0), [1.0, 0.5], atol=0.2)
    with pytest.raises(ValueError, match="expected finite bounds; got infinite ones for 'c'"):
        UniformPrior(ParameterSpace(["c"], 0.0))


def test_scales_of_half_lines_keep_their_digits_in_a_copy_of_float32():
    prior = make_prior([(0.0, np.inf), (-np.inf, 2.0)], FlowConfig(layers=1, hidden=(4,)))
    scales = np.array([1 / 3, 0.7])
    prior = FlowPrior(prior.config, prior.space, {**prior.params, "support": {"scale": scales}})
    np.testing.assert_array_equal(prior.support_scale, scales)
    np.testing.assert_allclose(jax.tree.map(jnp.asarray, prior).support_scale, scales, rtol=1e-12)


def test_a_members_program_knows_nothing_of_the_mixture():
    config = FlowConfig(layers=2, members=5, background=True, support=False, whitening="diagonal")
    assert config.of_one_member() == FlowConfig(layers=2)
