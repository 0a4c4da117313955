"""Covariance functions (kernels) as small trees, in JAX.

A kernel computes the covariance of one point x (d,) with many points y (N, d). Its parameters are the leaves of a JAX
pytree. Kernels of p components with the same structure can therefore be stacked into one tree with leaves (p, ...).
The fit is in `marginal_likelihood`; conversions of the trees are in `kernel_trees`.

Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), chapter 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np


class Kernel(ABC):
    """A covariance function k(x, y), and the variance k(x, x), which includes the noise of White kernels."""

    @abstractmethod
    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the covariance of the point x (d,) with each *other* point of y (N, d), as (N,)."""

    @abstractmethod
    def variance(self, x: jax.Array) -> jax.Array:
        """Returns k(x, x) at the point x (d,), a scalar."""

    def __str__(self) -> str:
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(map(_text, values))})"


def _text(value: Any) -> str:
    """Returns a number, or a list of numbers, with four significant digits."""
    return f"[{', '.join(map(_text, value))}]" if np.ndim(value) else f"{float(value):.4g}"


KINDS: dict[str, type[Kernel]] = {}
_K = TypeVar("_K", bound=Kernel)


@dataclass_transform(frozen_default=True, eq_default=False)
def _kernel(cls: type[_K]) -> type[_K]:
    """Makes the class a frozen dataclass and a JAX pytree, and adds it to `KINDS` under its name.

    `jax.tree_util.register_dataclass` is not used, because of a bug (jaxlib 0.10.2): two such classes with the same
    field names have structures that compare equal. `jit` can then run the code compiled for the other kernel.
    """
    node: type[_K] = dataclass(frozen=True, eq=False)(cls)
    names = [field.name for field in fields(node)]  # type: ignore[arg-type]

    def flatten(kernel: _K) -> tuple[tuple[jax.Array, ...], None]:
        return tuple(getattr(kernel, name) for name in names), None

    jax.tree_util.register_pytree_node(node, flatten, lambda _, children: node(*children))
    KINDS[node.__name__] = node
    return node


@dataclass(frozen=True, eq=False)
class Stationary(Kernel):
    """A kernel of unit variance that depends on r^2 = sum_j ((x_j - y_j) / length_scale_j)^2.

    Args:
        length_scale: (d,), or a scalar for all inputs; > 0, in units of the scaled inputs.
    """

    length_scale: jax.Array

    @abstractmethod
    def correlation(self, squared: jax.Array) -> jax.Array:
        """Returns the correlation at the squared scaled distance r^2."""

    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the correlation of x (d,) with each point of y (N, d), as (N,)."""
        centre = jnp.mean(y, axis=0)
        return self.correlation(squared_distance((x - centre) / self.length_scale, (y - centre) / self.length_scale))

    def variance(self, x: jax.Array) -> jax.Array:
        """Returns one."""
        return jnp.ones((), x.dtype)


def squared_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns |x - y_i|^2 for x (d,) and each point y_i of y (N, d), as (N,), from |x|^2 + |y|^2 - 2 x.y.

    For a batch of points this is a matrix product, several times faster than differences. Its round-off is 1e-16 of the
    squared distances from the origin, so the result can be slightly negative. A kernel that is smooth in r^2 has an
    error of the same size.
    """
    return jnp.sum(x**2) + jnp.sum(y**2, axis=-1) - 2.0 * (y @ x)


def _root(squared: jax.Array) -> jax.Array:
    """Returns the square root; where points coincide (zero, or less by round-off), value and gradient are zero."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


# These functions are smooth in r^2 but written in terms of r. Their derivatives with respect to r^2 are written out, so
# that second derivatives are also correct where points coincide.


@jax.custom_jvp
def _matern32(squared: jax.Array) -> jax.Array:
    s = _root(3.0 * squared)
    return (1.0 + s) * jnp.exp(-s)


_matern32.defjvps(lambda tangent, _, squared: -1.5 * jnp.exp(-_root(3.0 * squared)) * tangent)


@jax.custom_jvp
def _matern52(squared: jax.Array) -> jax.Array:
    s = _root(5.0 * squared)
    return (1.0 + s + s**2 / 3.0) * jnp.exp(-s)


def _matern52_tangent(tangent: jax.Array, _: jax.Array, squared: jax.Array) -> jax.Array:
    s = _root(5.0 * squared)
    return -(5.0 / 6.0) * (1.0 + s) * jnp.exp(-s) * tangent


_matern52.defjvps(_matern52_tangent)


@jax.custom_jvp
def _sine_squared(squared: jax.Array) -> jax.Array:
    """Returns sin^2(pi r) at r^2; its derivative is pi^2 sin(2 pi r) / (2 pi r)."""
    return jnp.sin(jnp.pi * _root(squared)) ** 2


_sine_squared.defjvps(lambda tangent, _, squared: jnp.pi**2 * jnp.sinc(2.0 * _root(squared)) * tangent)


@_kernel
class RBF(Stationary):
    """exp(-r^2 / 2): infinitely differentiable."""

    def correlation(self, squared: jax.Array) -> jax.Array:
        """Returns exp(-r^2 / 2)."""
        return jnp.exp(-0.5 * squared)


@_kernel
class Matern12(Stationary):
    """exp(-r): continuous. It is linear in r near zero, so r is computed from differences, without cancellation."""

    def correlation(self, squared: jax.Array) -> jax.Array:
        """Returns exp(-r)."""
        return jnp.exp(-_root(squared))

    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the correlation of x (d,) with each point of y (N, d), as (N,)."""
        return self.correlation(jnp.sum(((x - y) / self.length_scale) ** 2, axis=-1))


@_kernel
class Matern32(Stationary):
    """(1 + s) exp(-s), s = sqrt(3) r: once differentiable."""

    def correlation(self, squared: jax.Array) -> jax.Array:
        """Returns (1 + s) exp(-s) with s = sqrt(3) r."""
        return _matern32(squared)


@_kernel
class Matern52(Stationary):
    """(1 + s + s^2 / 3) exp(-s), s = sqrt(5) r: twice differentiable."""

    def correlation(self, squared: jax.Array) -> jax.Array:
        """Returns (1 + s + s^2 / 3) exp(-s) with s = sqrt(5) r."""
        return _matern52(squared)


@_kernel
class RationalQuadratic(Stationary):
    """(1 + r^2 / (2 alpha))^-alpha: a mixture of squared exponentials with many length scales.

    Args:
        length_scale: as in `Stationary`.
        alpha: scalar > 0; the larger alpha is, the narrower is the mixture of length scales.
    """

    alpha: jax.Array

    def correlation(self, squared: jax.Array) -> jax.Array:
        """Returns (1 + r^2 / (2 alpha))^-alpha."""
        return jnp.exp(-self.alpha * jnp.log1p(squared / (2.0 * self.alpha)))


@_kernel
class ExpSineSquared(Stationary):
    """exp(-2 sin^2(pi |x - y| / periodicity) / length_scale^2): periodic in the distance.

    Args:
        length_scale: scalar > 0, relative to the sine.
        periodicity: scalar > 0, in units of the scaled inputs.
    """

    periodicity: jax.Array

    def correlation(self, squared: jax.Array) -> jax.Array:
        """Returns the correlation, with |x - y|^2 = r^2 length_scale^2."""
        turns = squared * (self.length_scale / self.periodicity) ** 2
        return jnp.exp(-2.0 * _sine_squared(turns) / self.length_scale**2)


@_kernel
class DotProduct(Kernel):
    """sigma_0^2 + x . y: linear functions of the scaled inputs."""

    sigma_0: jax.Array

    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns sigma_0^2 + y x, (N,)."""
        return self.sigma_0**2 + y @ x

    def variance(self, x: jax.Array) -> jax.Array:
        """Returns sigma_0^2 + |x|^2."""
        return self.sigma_0**2 + jnp.sum(x**2)


@_kernel
class Constant(Kernel):
    """The same covariance everywhere: a signal variance as a factor, an offset as a term of a sum."""

    value: jax.Array

    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the value for each point of y (N, d), as (N,)."""
        return jnp.broadcast_to(self.value, y.shape[:1])

    def variance(self, x: jax.Array) -> jax.Array:
        """Returns the value."""
        return jnp.asarray(self.value)

    def __str__(self) -> str:
        return _text(self.value)


@_kernel
class White(Kernel):
    """Independent noise: a variance at each point, and no covariance between points, even if they coincide."""

    noise: jax.Array

    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns zeros (N,)."""
        return jnp.zeros(y.shape[:1], x.dtype)

    def variance(self, x: jax.Array) -> jax.Array:
        """Returns the noise variance."""
        return jnp.asarray(self.noise)


@_kernel
class Sum(Kernel):
    """left + right."""

    left: Kernel
    right: Kernel

    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the sum of both covariances, (N,)."""
        return self.left.cross(x, y) + self.right.cross(x, y)

    def variance(self, x: jax.Array) -> jax.Array:
        """Returns the sum of both variances."""
        return self.left.variance(x) + self.right.variance(x)

    def __str__(self) -> str:
        return f"{self.left} + {self.right}"


@_kernel
class Product(Kernel):
    """left * right."""

    left: Kernel
    right: Kernel

    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the product of both covariances, (N,)."""
        return self.left.cross(x, y) * self.right.cross(x, y)

    def variance(self, x: jax.Array) -> jax.Array:
        """Returns the product of both variances."""
        return self.left.variance(x) * self.right.variance(x)

    def __str__(self) -> str:
        return " * ".join(f"({part})" if isinstance(part, Sum) else str(part) for part in (self.left, self.right))


@_kernel
class Power(Kernel):
    """base ** exponent: each covariance is raised to a power."""

    base: Kernel
    exponent: jax.Array

    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the covariances of the base raised to the exponent, (N,)."""
        return self.base.cross(x, y) ** self.exponent

    def variance(self, x: jax.Array) -> jax.Array:
        """Returns the variance of the base raised to the exponent."""
        return self.base.variance(x) ** self.exponent

    def __str__(self) -> str:
        return f"({self.base})^{_text(self.exponent)}"


def gram(kernel: Kernel, points: jax.Array) -> jax.Array:
    """Returns the covariance matrix (n, n) of separate runs at points (n, d), with noise only on the diagonal."""
    across = jax.vmap(kernel.cross, (0, None))(points, points)
    return jnp.where(jnp.eye(len(points), dtype=bool), jax.vmap(kernel.variance)(points)[:, None], across)
