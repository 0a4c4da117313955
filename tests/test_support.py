"""The support bijector against SciPy's distributions and at its edges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to
from scipy import stats

from numpyro_flowprior.chains.parameters import ParameterSpace
from numpyro_flowprior.flows.bounds import interior_bounds, representable_bounds
from numpyro_flowprior.flows.support import Support, inside
from numpyro_flowprior.priors.box import Box

MIXED = ParameterSpace(list("abcd"), [0.1, 2.0, -np.inf, -np.inf], [0.28, np.inf, 1.0, np.inf])
SCALE = np.array([1.0, 3.0, 0.5, 1.0])
Z = np.random.default_rng(0).normal(size=(200, 4)) * 2.0


def test_interval_is_the_normal_quantile_function():
    with jax.enable_x64(True):
        theta = np.asarray(Support(MIXED, SCALE).forward(Z))
    np.testing.assert_allclose(theta[:, 0], 0.1 + 0.18 * stats.norm.cdf(Z[:, 0]), rtol=1e-13)
    odds = stats.norm.cdf(Z[:, 1]) / stats.norm.sf(Z[:, 1])
    np.testing.assert_allclose(theta[:, 1], 2.0 + 3.0 * odds, rtol=1e-12)
    np.testing.assert_array_equal(theta[:, 3], Z[:, 3])


def test_log_determinants_against_autodiff_both_ways():
    with jax.enable_x64(True):
        support = Support(MIXED, SCALE)
        theta, log_det = support.forward_and_log_det(jnp.asarray(Z))
        back, log_det_back = support.inverse_and_log_det(theta)
        expected = jnp.linalg.slogdet(jax.vmap(jax.jacfwd(support.forward))(Z))[1]
        expected_back = jnp.linalg.slogdet(jax.vmap(jax.jacfwd(support.inverse))(theta))[1]
    np.testing.assert_allclose(back, Z, atol=1e-9)
    np.testing.assert_allclose(log_det, expected, atol=1e-9)
    np.testing.assert_allclose(log_det_back, expected_back, atol=1e-9)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-8)


def test_flat_interval_is_exactly_normal_in_both_precisions():
    """-log det = log phi(z): a flat density becomes standard normal, at 1e-9 of the range from either edge too."""
    space = ParameterSpace(["x"], -1.0, 3.0)
    fraction = np.array([1e-9, 1e-4, 0.5, 1 - 1e-4])[:, None]
    with jax.enable_x64(True):
        z, log_det = Support(space, np.ones(1)).inverse_and_log_det(jnp.asarray(-1.0 + 4.0 * fraction))
    np.testing.assert_allclose(z, stats.norm.ppf(fraction), rtol=1e-7)
    np.testing.assert_allclose(log_det, -np.log(4.0) - stats.norm.logpdf(stats.norm.ppf(fraction[:, 0])), rtol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("low", "high"), [(0.0001, 0.28), (0.1, 1.2), (-1e6, 1e-6)])
def test_interior_and_representable_bounds(dtype, low, high):
    space = ParameterSpace(["x"], low, high)
    inner_low, inner_high = (b[0] for b in interior_bounds(space, np.dtype(dtype)))
    assert low < float(inner_low) < float(inner_high) < high
    edge_low, edge_high = (b[0] for b in representable_bounds(space, np.dtype(dtype)))
    assert low <= float(edge_low) <= float(inner_low)
    assert float(inner_high) <= float(edge_high) <= high


def test_numpyro_finds_the_transform_of_the_constraint():
    box = Box(MIXED)
    transform = biject_to(box)
    with jax.enable_x64(True):
        theta = transform(jnp.asarray(5.0 * Z))
        assert box(theta).all()
        assert not box(theta.at[0, 0].set(0.05))[0]
        np.testing.assert_allclose(transform._inverse(transform(jnp.asarray(Z))), Z, atol=1e-8)
        jacobian = jax.vmap(jax.jacfwd(transform))(jnp.asarray(Z))
        expected = jnp.linalg.slogdet(jacobian)[1]
        np.testing.assert_allclose(transform.log_abs_det_jacobian(jnp.asarray(Z), None), expected, atol=1e-9)
    assert box == Box(MIXED) != Box(MIXED.select(["a", "b"]))
    assert box(box.feasible_like(np.zeros((3, 4)))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_next_to_a_bound_at_zero_are_not_flushed_onto_it(dtype):
    space = ParameterSpace(["up", "down"], [0.0, -1.0], [1.0, 0.0])
    low, high = interior_bounds(space, np.dtype(dtype))
    with jax.enable_x64(True):
        doubled = np.asarray(jax.jit(lambda x: 2.0 * x)(np.array([low[0], high[1]], dtype)))
    assert doubled[0] > 0.0 > doubled[1]


def test_integer_points_are_judged_as_numbers():
    space = ParameterSpace(["a", "b"], [0.5, -np.inf], [1.5, np.inf])
    np.testing.assert_array_equal(inside(jnp.array([[1, 7], [2, 7]]), space), [True, False])
