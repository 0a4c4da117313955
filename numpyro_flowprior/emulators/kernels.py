"""Covariance functions as small trees, in JAX.

A kernel is written for one point x (d,) against many points y (N, d). Its parameters are the leaves of a JAX pytree,
so the kernels of several components that share one structure stack into one tree with leaves (p, ...). Fitting the
parameters, and other forms of the tree, are no matter of this module.

Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), chapter 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TypeVar, dataclass_transform

import jax
import jax.numpy as jnp


class Kernel(ABC):
    """A covariance function k(x, y) and the variance k(x, x), which includes the noise of White kernels."""

    @abstractmethod
    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the covariance of the point x (d,) with each *other* point of y (N, d), as (N,)."""

    @abstractmethod
    def variance(self, x: jax.Array) -> jax.Array:
        """Returns k(x, x) at the point x (d,), a scalar."""


KINDS: dict[str, type[Kernel]] = {}
_K = TypeVar("_K", bound=Kernel)


@dataclass_transform(frozen_default=True, eq_default=False)
def _kernel(cls: type[_K]) -> type[_K]:
    """Makes the class a frozen dataclass and a JAX pytree, and lists it under its name.

    Not with `jax.tree_util.register_dataclass`: the structures of two such classes with fields of the same names
    compare equal (jaxlib 0.10.2), and `jit` then runs, at times, what it compiled for the other kernel.
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
    """A kernel of unit variance in r^2 = sum_j ((x_j - y_j) / length_scale_j)^2.

    Args:
        length_scale: (d,), or a scalar that serves all inputs; > 0, in units of the scaled inputs.
    """

    length_scale: jax.Array

    @staticmethod
    @abstractmethod
    def correlation(squared: jax.Array) -> jax.Array:
        """Returns the correlation at the squared scaled distance r^2."""

    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the correlation of x (d,) with each point of y (N, d), as (N,)."""
        difference = x / self.length_scale - y / self.length_scale
        return self.correlation(jnp.sum(difference**2, axis=-1))

    def variance(self, x: jax.Array) -> jax.Array:
        """Returns one."""
        return jnp.ones((), x.dtype)


def _root(squared: jax.Array) -> jax.Array:
    """Returns the square root with gradient zero, not infinity, at zero: there the points coincide."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


@_kernel
class RBF(Stationary):
    """exp(-r^2 / 2): infinitely differentiable."""

    @staticmethod
    def correlation(squared: jax.Array) -> jax.Array:
        """Returns exp(-r^2 / 2)."""
        return jnp.exp(-0.5 * squared)


@_kernel
class Matern12(Stationary):
    """exp(-r): continuous."""

    @staticmethod
    def correlation(squared: jax.Array) -> jax.Array:
        """Returns exp(-r)."""
        return jnp.exp(-_root(squared))


@_kernel
class Matern32(Stationary):
    """(1 + s) exp(-s), s = sqrt(3) r: once differentiable."""

    @staticmethod
    def correlation(squared: jax.Array) -> jax.Array:
        """Returns (1 + s) exp(-s) with s = sqrt(3) r."""
        s = _root(3.0 * squared)
        return (1.0 + s) * jnp.exp(-s)


@_kernel
class Matern52(Stationary):
    """(1 + s + s^2 / 3) exp(-s), s = sqrt(5) r: twice differentiable."""

    @staticmethod
    def correlation(squared: jax.Array) -> jax.Array:
        """Returns (1 + s + s^2 / 3) exp(-s) with s = sqrt(5) r."""
        s = _root(5.0 * squared)
        return (1.0 + s + s**2 / 3.0) * jnp.exp(-s)


@_kernel
class Constant(Kernel):
    """The same covariance everywhere: the signal's variance when it multiplies, an offset when it adds."""

    value: jax.Array

    def cross(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """Returns the value for each point of y (N, d), as (N,)."""
        return jnp.broadcast_to(self.value, y.shape[:1])

    def variance(self, x: jax.Array) -> jax.Array:
        """Returns the value."""
        return jnp.asarray(self.value)


@_kernel
class White(Kernel):
    """Independent noise: a variance at each point, no covariance between points, even coinciding ones."""

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
