"""The site of an external likelihood in a NumPyro model, and its evaluation for many points at once.

In traced code the site is a callback: JAX sends it all points of a mapped program together. Where the points are known
outside of traced code (ModelDensity), the site is asked for its inputs first, the function is called, and its values
are put into the site. Scales, masks and plates of NumPyro act on the site as on any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Unit
from numpyro.distributions.distribution import Distribution
from numpyro.primitives import Messenger

from ..models.unusual import unwrapped

_NO_GRADIENT = (
    "the ExternalLikelihood has no gradient, which NUTS and other gradient-based samplers need. Use sample_pocomc, "
    "sample_emcee or sample_blackjax; or let its function return {'log_likelihood': ..., 'gradient': ...}, with "
    "ExternalLikelihood(..., gradient=True)."
)


class ExternalFactor(Unit):
    """NumPyro's distribution of a factor, whose log density is an external log likelihood at `inputs` (..., m)."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    pytree_data_fields = ("inputs", "value")
    pytree_aux_fields = ("external", "site")

    def __init__(self, external: Any, site: str, inputs: jax.Array):
        self.external, self.site, self.inputs = external, site, inputs
        self.value: Any = None  # the log likelihood, if it is known already
        Distribution.__init__(self, jnp.shape(inputs)[:-1], (0,), validate_args=False)

    def log_prob(self, value: Any) -> jax.Array:
        """Returns the log likelihood, (...)."""
        del value
        found = called(self.external, self.site, self.inputs) if self.value is None else self.value
        return jnp.broadcast_to(found, self.batch_shape)


class ExternalSites(Messenger):
    """Asks the external sites of a model for their inputs, or gives them their values.

    Args:
        model: the model.
        values: {site: log likelihood}; None to find the inputs only, with log likelihoods of zero.

    Attributes:
        inputs: {site: (..., m)} as met in the last run.
    """

    def __init__(self, model: Any, values: Mapping[str, Any] | None = None):
        self._values, self.inputs = values, dict[str, Any]()
        super().__init__(model)

    def process_message(self, msg: dict[str, Any]) -> None:
        """Notes the inputs of a site, and sets its value."""
        function = unwrapped(msg.get("fn"))
        if msg["type"] == "sample" and isinstance(function, ExternalFactor):
            self.inputs[msg["name"]] = function.inputs
            function.value = jnp.zeros(()) if self._values is None else self._values[msg["name"]]


def external_sites(model_trace: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {site: its external likelihood} of a trace."""
    found = {name: unwrapped(site["fn"]) for name, site in model_trace.items() if site["type"] == "sample"}
    return {name: function.external for name, function in found.items() if isinstance(function, ExternalFactor)}


def require_gradients(sampler: str, external: Mapping[str, Any]) -> None:
    """Raises TypeError for external likelihoods, {site: likelihood}, that have no gradient."""
    for site, likelihood in external.items():
        if not likelihood.gradient:
            raise TypeError(f"{sampler}: site {site!r}: {_NO_GRADIENT}")


@contextmanager
def own_failures(external: Mapping[str, Any]) -> Iterator[None]:
    """Raises the failure of an external likelihood itself where JAX raises its own error about a callback."""
    for likelihood in external.values():
        likelihood.failure = None
    try:
        yield
    except jax.errors.JaxRuntimeError:
        for likelihood in external.values():
            if likelihood.failure is not None:
                raise likelihood.failure from None
        raise


def called(external: Any, site: str, inputs: jax.Array) -> jax.Array:
    """Returns the log likelihoods (...) at inputs (..., m) in traced code; differentiable if the function is."""

    @jax.custom_jvp
    def value(x: jax.Array) -> jax.Array:
        return _call_back(partial(_values, external), x, [x.shape[:-1]])[0]

    @value.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (x,), (along,) = primals, tangents
        if not external.gradient:
            raise TypeError(f"site {site!r}: {_NO_GRADIENT}")
        found, slope = _call_back(partial(_values_and_gradients, external), x, [x.shape[:-1], x.shape])
        return found, jnp.where(slope == 0.0, 0.0, slope * along).sum(axis=-1)

    return value(jnp.asarray(inputs))


def _call_back(function: Any, x: jax.Array, shapes: list[tuple[int, ...]]) -> list[jax.Array]:
    """Returns arrays of some shapes from a NumPy function of points (..., m), in the dtype of the points.

    Numbers cross as 32-bit words. JAX runs callbacks in a thread of its own, in which `enable_x64` is off, so that
    float64 would be rounded to float32.
    """
    words = x.dtype.itemsize // 4

    def host(bits: Any) -> list[np.ndarray]:
        points = np.ascontiguousarray(np.asarray(bits)).view(x.dtype)[..., 0]
        flat = points.reshape(-1, points.shape[-1]).astype(np.float64)
        inside = np.isfinite(flat).all(axis=1)  # a diverging trajectory may leave the numbers
        found = []
        for part in function(flat[inside]):
            whole = np.full((len(flat), *part.shape[1:]), np.nan, x.dtype)
            whole[inside] = part
            found.append(whole.reshape((*points.shape[:-1], *part.shape[1:]))[..., None].view(np.uint32))
        return found

    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits = bits.reshape(*x.shape, words)
    given = [jax.ShapeDtypeStruct((*shape, words), jnp.uint32) for shape in shapes]
    answers = jax.pure_callback(host, given, bits, vmap_method="broadcast_all")
    return [jax.lax.bitcast_convert_type(answer if words > 1 else answer[..., 0], x.dtype) for answer in answers]


def _values(external: Any, points: np.ndarray) -> list[np.ndarray]:
    return [external.log_likelihood(points)]


def _values_and_gradients(external: Any, points: np.ndarray) -> list[np.ndarray]:
    return list(external.log_likelihood_and_gradient(points))
