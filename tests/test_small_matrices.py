"""Small positive definite matrices against NumPy, and all their derivatives against JAX's of LAPACK's way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from numpyro_flowprior.emulators.small_matrices import log_det_and_inverse, log_det_and_squared


def matrices(p, n=5):
    rng = np.random.default_rng(p)
    root = rng.normal(size=(n, p, p + 3)) * 10.0 ** rng.uniform(-3, 3, (n, p, 1))
    return root @ root.swapaxes(1, 2), rng.normal(size=(n, p))


def by_inverse(covariance):
    log_det, inverse = log_det_and_inverse(covariance)
    return log_det + jnp.sum(jnp.sin(inverse))


def by_lapack(covariance):
    return jnp.linalg.slogdet(covariance)[1] + jnp.sum(jnp.sin(jnp.linalg.inv(covariance)))


def squared(covariance, residual):
    log_det, value = log_det_and_squared(covariance, residual)
    return jnp.sin(value) + log_det


def squared_by_lapack(covariance, residual):
    value = residual @ jnp.linalg.solve(covariance, residual)
    return jnp.sin(value) + jnp.linalg.slogdet(covariance)[1]


@pytest.mark.parametrize("p", [1, 2, 5, 12])
def test_values_are_numpys(p):
    covariance, residual = matrices(p)
    with jax.enable_x64(True):
        log_det, inverse = map(np.asarray, log_det_and_inverse(jnp.asarray(covariance)))
        same, value = map(np.asarray, log_det_and_squared(jnp.asarray(covariance), jnp.asarray(residual)))
        many = log_det_and_squared(jnp.asarray(covariance), jnp.asarray(np.stack([residual, 2 * residual])))[1]
    expected = np.linalg.slogdet(covariance)[1]
    np.testing.assert_allclose(log_det, expected, rtol=1e-10)
    np.testing.assert_allclose(same, expected, rtol=1e-10)
    deviation = np.sqrt(np.diagonal(np.linalg.inv(covariance), axis1=1, axis2=2))
    scale = deviation[:, :, None] * deviation[:, None, :]
    np.testing.assert_allclose(inverse / scale, np.linalg.inv(covariance) / scale, atol=1e-9)
    solved = np.einsum("np,np->n", residual, np.linalg.solve(covariance, residual[..., None])[..., 0])
    np.testing.assert_allclose(value, solved, rtol=1e-9)
    np.testing.assert_allclose(many, [solved, 4 * solved], rtol=1e-9)


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd, jax.hessian, lambda f: jax.jacfwd(jax.jacfwd(f))])
def test_derivatives_of_all_kinds(derivative):
    rng = np.random.default_rng(3)
    root, residual = rng.normal(size=(4, 7)), rng.normal(size=4)
    direction = rng.normal(size=(2, 4, 4))

    def along(function, *more):
        return lambda t: function(root @ root.T + jnp.einsum("k,kij,klj->il", t, direction, direction), *more)

    with jax.enable_x64(True):
        at = jnp.array([0.3, 0.8])
        for ours, theirs, more in ((by_inverse, by_lapack, ()), (squared, squared_by_lapack, (residual,))):
            found, expected = (derivative(along(function, *more))(at) for function in (ours, theirs))
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
        found, expected = (jax.hessian(f, argnums=1)(root @ root.T, residual) for f in (squared, squared_by_lapack))
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
