"""Builds a Distrax distribution from (config, space, params). Each traced function builds it again.

    theta = Support( Whitening( ScaleShift( Coupling_2N( ... Coupling_1(omega) ) ) ) ),   omega ~ base

The nested dictionary `params` is described in layout.py.
"""

from __future__ import annotations

from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from ..chains.parameters import ParameterSpace
from .base import build_base, init_base
from .config import FlowConfig
from .couplings import build_coupling, init_couplings
from .ensemble import Ensemble
from .layout import FIXED, Params, coupling_masks, is_ensemble
from .network import matmul
from .support import Support


class Whitening(distrax.Bijector):
    """The map from x to loc + rest + tril x, with its inverse as one matrix product.

    The location has two parts, so that float32 keeps the distance of a point from it.
    """

    def __init__(self, loc: jax.Array, tril: jax.Array, rest: jax.Array | float = 0.0):
        super().__init__(event_ndims_in=1, event_ndims_out=1, is_constant_jacobian=True)
        self._loc, self._rest, self._tril = loc, rest, tril
        self._log_det = jnp.sum(jnp.log(jnp.diagonal(tril)))

    def forward_and_log_det(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns loc + rest + tril x (..., d) and its log determinant (...,)."""
        return self._loc + (self._rest + matmul(x, self._tril.T)), jnp.broadcast_to(self._log_det, x.shape[:-1])

    def inverse_and_log_det(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns tril^-1 (z - loc - rest) (..., d) and its log determinant (...,)."""
        inverse = solve_triangular(self._tril, jnp.eye(self._tril.shape[0], dtype=self._tril.dtype), lower=True)
        from_loc = jax.lax.optimization_barrier(z - self._loc) - self._rest  # prevents XLA from adding two constants
        return matmul(from_loc, inverse.T), jnp.broadcast_to(-self._log_det, z.shape[:-1])


def in_two_parts(loc: Any) -> tuple[Any, Any]:
    """Returns a NumPy or JAX location (d,) as the nearest float32 numbers and the remainder, both in its own dtype.

    Outside the normal range of float32 the first part is zero.
    """
    arrays = jnp if isinstance(loc, jax.Array) else np
    if arrays is jnp:  # XLA may drop a conversion to float32 and back; on GPUs it does
        single = jax.lax.reduce_precision(loc, exponent_bits=8, mantissa_bits=23)
    else:
        with np.errstate(over="ignore"):
            single = loc.astype(np.float32).astype(loc.dtype)
    held = arrays.isfinite(single) & (arrays.abs(single) >= float(np.finfo(np.float32).smallest_normal))
    nearest = arrays.where(held, single, 0.0)
    return nearest, loc - nearest


def init_trained(key: jax.Array, config: FlowConfig, dim: int) -> Params:
    """Returns initial values of the trained parameters in float32, with which the transport is the identity."""
    key_couplings, key_base = jax.random.split(key)
    return {
        "couplings": init_couplings(key_couplings, config, dim),
        "final": {name: np.zeros(dim, np.float32) for name in ("log_scale", "shift")},
        "base": init_base(key_base, config, dim),
    }


def stack_members(members: list[Params]) -> Params:
    """Returns the trained parameters of several members, stacked along a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *members)


def build_whitened_flow(
    config: FlowConfig, dim: int, params: Params, dtype: Any, spread: float | jax.Array = 1.0
) -> distrax.Transformed:
    """Returns the trained part: a distribution over whitened, unconstrained points (d,).

    `spread` multiplies the standard deviations of the base. Proposals for a power of the flow need it.
    """
    cast = jax.tree.map(lambda array: jnp.asarray(array, dtype), {k: v for k, v in params.items() if k not in FIXED})
    couplings = [
        build_coupling(config, mask, weights)
        for mask, weights in zip(coupling_masks(config, dim), cast["couplings"], strict=True)
    ]
    final = distrax.Block(distrax.ScalarAffine(cast["final"]["shift"], log_scale=cast["final"]["log_scale"]), 1)
    transport = distrax.Chain([final, *reversed(couplings)])  # Distrax applies the last one first
    return distrax.Transformed(build_base(config, dim, cast["base"], dtype, spread), transport)


def build_inner(
    config: FlowConfig, dim: int, params: Params, dtype: Any, spread: float | jax.Array = 1.0
) -> distrax.Distribution:
    """Returns the distribution over whitened points (d,): one flow, or a mixture of flows and background.

    `spread` acts as in `build_whitened_flow`, and also on the background.
    """
    if not is_ensemble(config):
        return build_whitened_flow(config, dim, params, dtype, spread)
    return Ensemble(
        lambda member: build_whitened_flow(config, dim, member, dtype, spread),
        {name: part for name, part in params.items() if name not in FIXED},
        jnp.asarray(params["mixture"]["weights"], dtype),
        distrax.MultivariateNormalDiag(jnp.zeros(dim, dtype), jnp.full(dim, spread, dtype)),
    )


def build_flow(config: FlowConfig, space: ParameterSpace, params: Params, dtype: Any) -> distrax.Transformed:
    """Returns the whole flow: a distribution over theta (d,), normalised on the declared support.

    Its bijector is only the fixed part, whitening and then support. Its distribution is over whitened points.
    """
    return distrax.Transformed(build_inner(config, space.dim, params, dtype), build_outer(space, params, dtype))


def build_outer(space: ParameterSpace, params: Params, dtype: Any) -> distrax.Bijector:
    """Returns the fixed part of the flow, from whitened points (d,) to theta (d,)."""
    fixed = {name: jnp.asarray(array) for name, array in params["whitening"].items()}
    loc, rest = in_two_parts(fixed["loc"])
    whitening = Whitening(*(array.astype(dtype) for array in (loc, fixed["tril"], fixed.get("loc_rest", rest))))
    return distrax.Chain([Support(space, jnp.asarray(params["support"]["scale"], dtype)), whitening])


def build_latent_map(config: FlowConfig, space: ParameterSpace, params: Params, dtype: Any) -> distrax.Bijector:
    """Returns the map from latent points omega (d,) to theta (d,); with several members, that of the first."""
    first = first_member(config, space.dim, params, dtype)
    return distrax.Chain([build_outer(space, params, dtype), first.bijector])


def latent_log_prob(config: FlowConfig, dim: int, params: Params, omega: jax.Array) -> jax.Array:
    """Returns the normalised log density (...,) of the flow in the coordinates omega (..., d) of `build_latent_map`."""
    first = first_member(config, dim, params, omega.dtype)
    if not is_ensemble(config):
        return first.distribution.log_prob(omega)
    whitened, log_det = first.bijector.forward_and_log_det(omega)
    return build_inner(config, dim, params, omega.dtype).log_prob(whitened) + log_det


def first_member(config: FlowConfig, dim: int, params: Params, dtype: Any) -> distrax.Transformed:
    """Returns the flow of the first member, which has the largest weight: over whitened points (d,)."""
    if is_ensemble(config):
        params = {k: jax.tree.map(lambda leaf: leaf[0], part) for k, part in params.items() if k not in FIXED}
    return build_whitened_flow(config, dim, params, dtype)
