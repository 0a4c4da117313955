"""The log marginal likelihood of one Gaussian process, its gradient, and the kernel that maximises it.

    log p(s) = -(s^T K^-1 s + log det K + n log 2 pi) / 2,    K = k(z, z) + diag(noise)
    d log p  = tr(W dK),    W = (a a^T - K^-1) / 2,    a = K^-1 s

(Rasmussen and Williams 2006, Eqs. 5.8-5.9). JAX computes K and the derivative of the trace. Reverse-mode
differentiation gives it for all parameters at the cost of a few evaluations. LAPACK computes the factor and inverse of
K, outside XLA.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs, dtrtri
from scipy.optimize import minimize

from .._util.checks import FloatArray
from .kernel_trees import KernelRange
from .kernels import Kernel, gram

JITTER = 1e-10  # added to the diagonal of K, as in scikit-learn, so that K is invertible without noise in the kernel
_ROUNDING = 1e-3  # nats; a restart of the optimiser that gains less had already converged, up to round-off in K


class GPData(NamedTuple):
    """Data of one Gaussian process: `design` (n, q), `scores` (n,), and known `noise` variances of the scores (n,)."""

    design: FloatArray
    scores: FloatArray
    noise: FloatArray


class Maximum(NamedTuple):
    """Result of one optimisation: the kernel, its log marginal likelihood, and why it stopped early (or None)."""

    kernel: Kernel
    log_likelihood: float
    failure: str | None


@jax.jit
def _covariance(kernel: Kernel, design: jax.Array, noise: jax.Array) -> jax.Array:
    return gram(kernel, design) + jnp.diag(noise)


@jax.jit
def _slope(kernel: Kernel, design: jax.Array, solution: jax.Array, inverse: jax.Array) -> Kernel:
    """Returns tr(W dK) for each kernel parameter; only the upper triangle of the symmetric K^-1 is read."""
    weights = jnp.outer(solution, solution) / 2 - jnp.triu(inverse) + jnp.diag(jnp.diag(inverse)) / 2
    return jax.grad(lambda kernel: jnp.sum(weights * gram(kernel, design)))(kernel)


def inverse_of(factor: FloatArray) -> FloatArray:
    """Returns the inverse (n, n) of a lower triangular factor, with zeros above the diagonal."""
    return np.tril(dtrtri(factor, lower=1)[0])


def cholesky(kernel: Kernel, data: GPData) -> FloatArray | None:
    """Returns the lower Cholesky factor of K (n, n) in Fortran order, zeros above; None if not positive definite."""
    with jax.enable_x64(True):
        covariance = np.asarray(_covariance(kernel, data.design, data.noise + JITTER))
    factor, info = dpotrf(
        covariance.T, lower=1, clean=1
    )  # K is symmetric, and its transpose is already in Fortran order
    return factor if info == 0 else None


def log_marginal_likelihood(kernel: Kernel, data: GPData) -> tuple[float, Kernel | None]:
    """Returns log p(s) and its derivatives with respect to the kernel parameters; -inf and None if K is singular."""
    factor = cholesky(kernel, data)
    value, solution = _value(factor, data)
    if factor is None:
        return value, None
    inverse, _ = dpotri(factor, lower=1, overwrite_c=1)
    with jax.enable_x64(True):
        return value, jax.tree.map(np.asarray, _slope(kernel, data.design, solution, inverse.T))


def best_start(search: KernelRange, data: GPData) -> Kernel:
    """Returns the start with the highest marginal likelihood."""
    if len(search.starts) == 1:
        return search.starts[0]
    return max(search.starts, key=lambda kernel: value_alone(kernel, data))


def value_alone(kernel: Kernel, data: GPData) -> float:
    """Returns log p(s), or -inf if K is singular, at a third of the cost of `log_marginal_likelihood`."""
    return _value(cholesky(kernel, data), data)[0]


def _value(factor: FloatArray | None, data: GPData) -> tuple[float, FloatArray]:
    """Returns log p(s) and K^-1 s from the factor of K; -inf and zeros without a factor."""
    n = len(data.scores)
    if factor is None:
        return -np.inf, np.zeros(n)
    solution, _ = dpotrs(factor, data.scores, lower=1)
    log_det = 2 * np.log(np.diag(factor)).sum()
    return float(-0.5 * (data.scores @ solution + log_det + n * np.log(2 * np.pi))), solution


def maximise(search: KernelRange, start: Kernel, data: GPData) -> Maximum:
    """Returns the maximum that L-BFGS-B finds from `start`, in the logarithms of the free parameters."""
    lower, upper = (_flat(tree) for tree in (search.lower, search.upper))
    free = lower < upper
    point, unravel = np.clip(_flat(start), lower, upper), _unraveller(start)
    if not free.any():
        return Maximum(start, value_alone(start, data), None)

    def kernel_at(logs: FloatArray) -> Kernel:
        values = point.copy()
        values[free] = np.exp(logs)
        return unravel(values)

    def objective(logs: FloatArray) -> tuple[float, FloatArray]:
        value, slope = log_marginal_likelihood(kernel_at(logs), data)
        return -value, -_flat(slope)[free] * np.exp(logs) if slope is not None else np.zeros(len(logs))

    bounds = np.log(np.stack([lower[free], upper[free]], axis=-1))
    climb = partial(minimize, objective, jac=True, bounds=bounds, method="L-BFGS-B")
    found: Any = climb(np.log(point[free]))
    failure = None if found.success else str(found.message)
    if failure:  # at the maximum, a line search can fail by round-off; a restart then gains nothing
        again = climb(found.x)
        failure = None if again.success or found.fun - again.fun < _ROUNDING else failure
        found = min(found, again, key=lambda result: result.fun)
    ends = np.clip(np.exp(found.x), lower[free], upper[free])
    return Maximum(kernel_at(np.log(ends)), -float(found.fun), failure)


def random_start(search: KernelRange, rng: np.random.Generator) -> Kernel:
    """Returns a kernel with every free parameter drawn within its bounds, uniformly in the logarithm."""
    lower, upper = (_flat(tree) for tree in (search.lower, search.upper))
    return _unraveller(search.lower)(lower * (upper / lower) ** rng.uniform(size=len(lower)))


def _flat(kernel: Kernel) -> FloatArray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(kernel)]).astype(np.float64)


def _unraveller(like: Kernel) -> Any:
    """Returns the inverse of `_flat`. The one in jax.flatten_util converts to the current float type of JAX."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])

    def unravel(values: FloatArray) -> Kernel:
        parts = np.split(values, ends[:-1])
        shaped = [part.reshape(np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)

    return unravel
