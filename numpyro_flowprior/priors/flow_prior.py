"""FlowPrior: a trained flow as a NumPyro distribution. The file format is in prior_file.py.

A FlowPrior is a plain pytree: parameter arrays are data, configuration and space are static. Distrax objects are built
inside traced code and never stored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._util.checks import ArrayLike, FloatArray, plain_json, shorten
from .._util.display import Displayed, columns_of_text
from .._util.leaves import as_jax
from .._util.validation import validated
from ..chains.parameters import ParameterSpace, require_space
from ..flows.build import build_flow, build_latent_map, build_outer, in_two_parts, latent_log_prob
from ..flows.config import FlowConfig
from ..flows.layout import flatten_params, param_shapes
from ..flows.numpy_support import from_line
from ..flows.support import inside
from ..flows.unit_cube import from_unit_cube, to_unit_cube
from .box import OverParameters, keep_inside, points_of, points_of_cube
from .conditional import ConditionalPrior, condition_on
from .moments import MonteCarloMoments
from .prior_file import read_prior, require_same_masks, write_prior
from .resolution import Held, held_by_float32, in_full_resolution


class FlowPrior(Displayed, MonteCarloMoments, OverParameters):
    """Density learned from a chain, as a NumPyro distribution over a vector of named parameters.

    The density integrates to exactly one on the declared support of `space`, because it is a bijection of a normalised
    base density. `fit_flow` and `FlowPrior.load` make one.

    Args:
        config: architecture.
        space: names and bounds of the parameters, in the order of the event's columns.
        params: nested arrays as laid out in `flows.build`.
        info: free-form record of the origin of the prior (training, report, metadata). It is stored in the file, but
            not in the pytree: a copy that passed through `jit` has none.

    Raises:
        TypeError: `config` or `space` has the wrong type.
        ValueError: an array of `params` is missing or has the wrong shape (the message names it), or `space` has bounds
            and `config` has support=False.

    Source: Roch and Shen (2025), section II; Dinh, Sohl-Dickstein and Bengio (2017).
    """

    pytree_data_fields = ("params", "_loc_rest", "_scale_rest")
    pytree_aux_fields = ("config", "space", "held")
    info: Mapping[str, Any] = {}
    _loc_rest: Any  # remainder of params["whitening"]["loc"] after rounding to float32
    _scale_rest: Any  # the same for params["support"]["scale"], which sets the location on half lines

    def __init__(
        self,
        config: FlowConfig,
        space: ParameterSpace,
        params: Any,
        *,
        info: Mapping[str, Any] | None = None,
        validate_args: bool | None = None,
    ):
        if not isinstance(config, FlowConfig):
            raise TypeError(f"FlowPrior.config: expected a FlowConfig; got {type(config).__name__}.")
        require_space(space, "FlowPrior.space")
        if not config.support and space != space.unbounded():
            raise ValueError(
                "FlowPrior.space: expected no bounds, because FlowConfig has support=False; got bounds. "
                "Pass space.unbounded()."
            )
        _require_shapes(params, param_shapes(config, space.dim))
        self.config, self.space, self.params = config, space, params
        self._hold()
        self.info = dict(info or {})
        super().__init__(batch_shape=(), event_shape=(space.dim,), validate_args=validate_args)

    def _hold(self) -> None:
        _, self._loc_rest = in_two_parts(self.params["whitening"]["loc"])
        _, self._scale_rest = in_two_parts(self.params["support"]["scale"])
        self.held = _held(self.space, self.params)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the event's columns."""
        return self.space.names

    @in_full_resolution(points=False)
    @validated
    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> jax.Array:
        """Returns the normalised log density (...,) at points (..., d); -inf outside the support.

        The precision is that of `value`, float64 only if JAX has it enabled. Outside of traces, the computation is in
        float64 if float32 cannot resolve a parameter (see `held`). It takes one pass through the flow.
        """
        return _log_prob(self._arrays(), self._points(value, "value"), **self._static())

    @in_full_resolution(points=True)
    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Returns draws (*sample_shape, d), strictly inside the support.

        They are NumPy float64 arrays if float32 cannot resolve a parameter (see `held`) and nothing is traced.
        """
        shape = tuple(sample_shape)
        return _sample(self._arrays(), key, shape=shape, dtype=_working_dtype(), **self._static())

    @in_full_resolution(points=True)
    def to_latent(self, theta: ArrayLike) -> Any:
        """Returns the latent coordinates (..., d) of points, in which the prior has the base density of the flow.

        With several members the map is that of the first member. The prior is then close to its base density in these
        coordinates, but not equal to it.
        """
        return _to_latent(self._arrays(), self._points(theta, "theta"), **self._static())

    @in_full_resolution(points=True)
    def from_latent(self, omega: ArrayLike) -> Any:
        """Returns the points (..., d), strictly inside the support, for latent coordinates (..., d)."""
        return _from_latent(self._arrays(), self._points(omega, "omega"), **self._static())

    @in_full_resolution(points=False)
    def latent_log_prob(self, omega: ArrayLike) -> jax.Array:
        """Returns the normalised log density (...,) of the prior in latent coordinates (..., d)."""
        return _latent_log_prob(self._arrays(), self._points(omega, "omega"), **self._static())

    @in_full_resolution(points=False)
    def latent_log_det(self, omega: ArrayLike) -> jax.Array:
        """Returns log |det d theta / d omega| (...,) of `from_latent` at latent coordinates (..., d)."""
        return _latent_log_det(self._arrays(), self._points(omega, "omega"), **self._static())

    @in_full_resolution(points=True)
    def from_unit_cube(self, u: ArrayLike) -> Any:
        """Returns points (..., d), strictly inside the support, for points u (..., d) of the unit cube.

        Uniform points become draws of the prior, exactly. It is the prior transform that nested samplers ask for. The
        quantiles of a mixture base are found numerically; derivatives are exact.

        If the prior is a mixture of flows, the first coordinate also chooses the flow: each has a stripe of the cube
        with the width of its weight. Within a stripe the map is smooth, and it jumps from one to the next, so that a
        posterior has as many modes as there are flows. `sample_dynesty` and `sample_nautilus` avoid the jumps. A prior
        with one flow (`FlowConfig(members=1, background=False)`) has none.

        The precision is that of `u`: in float32 nothing lies beyond 5.4 standard deviations at the upper end.
        """
        return _from_unit_cube(self._arrays(), points_of_cube(u, self.space, "FlowPrior: u"), **self._static())

    @in_full_resolution(points=True)
    def to_unit_cube(self, theta: ArrayLike) -> Any:
        """Returns points (..., d) of the unit cube that `from_unit_cube` maps to points theta (..., d).

        Each flow of a mixture has one. It is that of the flow with the largest share of the density there.
        """
        return _to_unit_cube(self._arrays(), self._points(theta, "theta"), **self._static())

    def condition(self, values: Mapping[str, float] | None = None, /, **named: float) -> ConditionalPrior:
        """Returns the distribution of one or two parameters, given values of all the others.

        It is normalised numerically in float64. `ConditionalPrior.log_normalizer_error` gives the error.

            prior.condition(a=0.3, b=1.2)      prior.condition({"theta[0]": 0.3})

        Raises:
            ValueError: an unknown name, a value outside the support, or not one or two free parameters.
        """
        fixed = self.params["whitening"]
        width = np.sqrt(np.sum(np.asarray(fixed["tril"], float) ** 2, axis=1))
        scale, loc = self.support_scale, self.whitened_at
        return condition_on(self, {**(values or {}), **named}, scale=scale, loc=loc, width=width)

    @property
    def whitened_at(self) -> FloatArray:
        """The location (d,) of the whitening, in float64 even if the arrays were converted to float32."""
        return _joined(self.params["whitening"]["loc"], self._loc_rest)

    @property
    def support_scale(self) -> FloatArray:
        """The scales (d,) of the map on half lines, in float64 even if the arrays were converted to float32."""
        return _joined(self.params["support"]["scale"], self._scale_rest)

    def _static(self) -> dict[str, Any]:
        """Returns the static arguments of compiled functions, without names: priors that differ in names share them."""
        return {"config": self.config, "space": self.space.nameless()}

    def _arrays(self) -> Any:
        """Returns the parameters, with the location of the whitening in two parts."""
        self._require_range()
        arrays = as_jax({**self.params, "whitening": {**self.params["whitening"], "loc_rest": self._loc_rest}})
        if self.held.coarse:
            parts = in_two_parts(arrays["support"]["scale"])[0], as_jax(self._scale_rest)
            scale = sum(part.astype(_working_dtype()) for part in parts)  # float32 in a converted copy
            arrays = {**arrays, "support": {"scale": scale}}
        return arrays

    def _require_range(self) -> None:
        """Raises ValueError if a copy in float32 lost values that are beyond the range of float32."""
        scales = (self.params["whitening"]["loc"], self.params["whitening"]["tril"], self.params["support"]["scale"])
        if self.held.beyond and any(array.dtype == np.float32 for array in scales):
            raise ValueError(
                "FlowPrior: expected arrays in float64; this copy was converted to float32, which cannot represent "
                f"{shorten(self.held.beyond)}. Copy with float64 enabled (jax.enable_x64(True)), or use the original."
            )

    def _points(self, value: Any, subject: str) -> jax.Array:
        return points_of(value, self.space, f"FlowPrior: {subject}")

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None) -> Path:
        """Writes the prior to a safetensors file and returns its path.

        Args:
            path: where to write, usually `*.safetensors`; an existing file is replaced atomically.
            metadata: JSON-ready remarks (title, citation, licence) that are stored in the file.

        Raises:
            FileNotFoundError: the folder does not exist.
            TypeError, ValueError: `metadata` is not JSON-ready; the message names the key.
        """
        if not isinstance(metadata, Mapping | None):
            raise TypeError(f"metadata: expected a dict; got {type(metadata).__name__}.")
        added = {"metadata": plain_json(metadata, "metadata")} if metadata else {}
        params = jax.tree.map(np.asarray, self.params)
        self._require_range()
        whitening = {**params["whitening"], "loc": self.whitened_at}
        params = {**params, "whitening": whitening, "support": {"scale": self.support_scale}}
        return write_prior(path, self.config, self.space, params, {**self.info, **added})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FlowPrior:
        """Returns the prior stored in a file of this or an older version. The file is checked, and no code is executed.

        Raises:
            FileNotFoundError: there is no such file.
            FileFormatError: the file is damaged, of another kind, or newer than this package.
        """
        stored = read_prior(path)
        require_same_masks(path, stored.masks, stored.config, stored.space.dim)
        return cls(stored.config, stored.space, stored.params, info=stored.info)

    def _headline(self) -> str:
        config, names = self.config, self.space.names
        flows = f"{config.members} flows" if config.members > 1 else "one flow"
        units = " x ".join(map(str, config.hidden))
        pairs = f"{config.layers} pair{'s' * (config.layers != 1)} of {config.transformer} couplings"
        return f"{len(names)} parameters: {shorten(names)}; {flows} of {pairs}, {units} units each"

    def __str__(self) -> str:
        space, report = self.space, self.info.get("report")
        bounds = zip(space.names, space.bounds, space.units, strict=True)
        rows = [[name, f"{lower:.6g}", f"{upper:.6g}", unit] for name, (lower, upper), unit in bounds]
        found = report.get("verdict") if isinstance(report, Mapping) else None  # a file may have anything here
        verdict = found if found in ("pass", "warn", "fail") else "none"
        table = columns_of_text([["parameter", "lower", "upper", "unit"], *rows])
        return f"{self!r}\n{table}\nreport: {verdict}"


def _joined(array: Any, rest: Any) -> FloatArray:
    """Returns an array in float64, restored with the remainder if the array was rounded to float32."""
    nearest, _ = in_two_parts(np.asarray(array))
    return nearest.astype(np.float64) + np.asarray(rest, np.float64)


def _held(space: ParameterSpace, params: Any) -> Held:
    """Returns the parameters that float32 cannot resolve; none if arrays are traced, for example under `vmap`."""
    fixed = [params["whitening"]["loc"], params["whitening"]["tril"], params["support"]["scale"]]
    if any(isinstance(array, jax.core.Tracer) for array in fixed):
        return Held()
    loc, tril, scale = (np.asarray(array, np.float64) for array in fixed)
    width = np.sqrt(np.sum(tril**2, axis=1))
    low, middle, high = (from_line((loc + step * width)[None], space, scale)[0] for step in (-1.0, 0.0, 1.0))
    return held_by_float32(space, middle, 0.5 * (high - low))


def _working_dtype() -> np.dtype:
    return jnp.result_type(float)


# Compiled once per configuration and shape, so that calls outside of jit do not run operation by operation.
_compiled = partial(jax.jit, static_argnames=("config", "space"))


@_compiled
def _log_prob(params: Any, theta: jax.Array, *, config: FlowConfig, space: ParameterSpace) -> jax.Array:
    log_prob = build_flow(config, space, params, theta.dtype).log_prob(theta)
    return jnp.where(inside(theta, space), log_prob, -jnp.inf)


@partial(jax.jit, static_argnames=("config", "space", "shape", "dtype"))
def _sample(params: Any, key: jax.Array, *, config: FlowConfig, space: ParameterSpace, shape: Any, dtype: Any) -> Any:
    return keep_inside(build_flow(config, space, params, dtype).sample(seed=key, sample_shape=shape), space)


@_compiled
def _to_latent(params: Any, theta: jax.Array, *, config: FlowConfig, space: ParameterSpace) -> jax.Array:
    return build_latent_map(config, space, params, theta.dtype).inverse(theta)


@_compiled
def _from_latent(params: Any, omega: jax.Array, *, config: FlowConfig, space: ParameterSpace) -> jax.Array:
    return keep_inside(build_latent_map(config, space, params, omega.dtype).forward(omega), space)


@_compiled
def _latent_log_prob(params: Any, omega: jax.Array, *, config: FlowConfig, space: ParameterSpace) -> jax.Array:
    return latent_log_prob(config, space.dim, params, omega)


@_compiled
def _latent_log_det(params: Any, omega: jax.Array, *, config: FlowConfig, space: ParameterSpace) -> jax.Array:
    return build_latent_map(config, space, params, omega.dtype).forward_log_det_jacobian(omega)


@_compiled
def _from_unit_cube(params: Any, u: jax.Array, *, config: FlowConfig, space: ParameterSpace) -> jax.Array:
    x = from_unit_cube(config, space.dim, params, u)
    return keep_inside(build_outer(space, params, u.dtype).forward(x), space)


@_compiled
def _to_unit_cube(params: Any, theta: jax.Array, *, config: FlowConfig, space: ParameterSpace) -> jax.Array:
    return to_unit_cube(config, space.dim, params, build_outer(space, params, theta.dtype).inverse(theta))


def _require_shapes(params: Any, shapes: Any) -> None:
    expected, actual = flatten_params(shapes), flatten_params(params)
    wrong = sorted(expected.keys() ^ actual.keys())
    if wrong:
        raise ValueError(
            f"FlowPrior.params: expected exactly the arrays of the configuration; missing or unknown: {wrong[:5]}."
        )
    for name, shape in expected.items():
        if jnp.shape(actual[name]) != tuple(shape):
            raise ValueError(f"FlowPrior.params[{name!r}]: expected shape {shape}; got {jnp.shape(actual[name])}.")
