"""The learned prior as a vector of random variables in PyMC, with the gradient that NUTS needs. PyMC is imported here.

The density and its gradient are NumPy (`NumpyPrior`, gradient.py); PyMC's other backends (JAX, Numba) cannot compile
them, and samplers that need these are refused by PyTensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._util.checks import FloatArray, optional_import
from ..flows.bounds import EDGE, LARGEST_LOG, LOG_ROOT_TWO_PI, interior_bounds
from ..priors.numpy_prior import NumpyPrior
from .gradient import log_prob_gradient
from .opened import PriorOrPath, opened

_HERE = "numpyro_flowprior.hosts.pymc"
_pm = optional_import("pymc", "pymc", _HERE)
_pt = optional_import("pytensor.tensor", "pymc", _HERE)
_Apply: Any = optional_import("pytensor.graph.basic", "pymc", _HERE).Apply
_Op: Any = optional_import("pytensor.graph.op", "pymc", _HERE).Op
_log_normal_cdf: Any = optional_import("pymc.distributions.dist_math", "pymc", _HERE).normal_lcdf
_Transform: Any = optional_import("pymc.logprob.transforms", "pymc", _HERE).Transform

_ROOT_HALF = float(np.sqrt(0.5))


def pymc_prior(name: str, prior: PriorOrPath, **options: Any) -> Any:
    """Returns a random vector (d,) of the current PyMC model, whose density is the learned one.

        with pymc.Model():
            theta = pymc_prior("theta", "prior.safetensors")
            pymc.Normal("y", theta[0] + theta[1], 0.5, observed=0.7)

    Samplers work in the unconstrained, whitened coordinates in which the flow was trained (`Unconstrained`). The
    coordinate "theta_dim" has the names of the parameters, unless the model has such a coordinate already.

    Args:
        name: name of the random vector.
        prior: a path or a NumpyPrior.
        **options: for `pymc.CustomDist`, e.g. `dims`, `initval` or `transform`.

    Raises:
        TypeError: no model is on PyMC's stack, or `prior` is neither a path nor a NumpyPrior.
    """
    loaded = opened(prior, "pymc_prior")
    lower, upper = loaded.space.bounds.T
    density = LogDensity(loaded)
    model = _pm.modelcontext(None)
    if "dims" not in options:
        options["dims"] = f"{name}_dim"
        if options["dims"] not in model.coords:
            model.add_coord(options["dims"], loaded.names)

    def log_prob(value: Any, low: Any, high: Any) -> Any:
        return density(value)

    def draw(low: FloatArray, high: FloatArray, rng: np.random.Generator, size: Any = None) -> FloatArray:
        shape = () if size is None else tuple(size)
        shape = low.shape[:-1] if shape == () else shape
        return loaded.sample(rng, int(np.prod(shape, dtype=int))).reshape(*shape, loaded.space.dim)

    def start(variable: Any, size: Any, low: Any, high: Any) -> Any:
        return _pt.zeros_like(variable) + np.median(loaded.sample(0, 1_000), axis=0)

    options = {"transform": Unconstrained(loaded), "support_point": start, **options}
    return _pm.CustomDist(
        name, lower, upper, logp=log_prob, random=draw, signature="(d),(d)->(d)", class_name="FlowPrior", **options
    )


class LogDensity(_Op):
    """A PyTensor operation: the normalised log density (...,) at points (..., d), with a gradient."""

    __props__ = ()

    def __init__(self, prior: NumpyPrior):
        self.prior = prior

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.prior is other.prior

    def __hash__(self) -> int:
        return hash((type(self), id(self.prior)))

    def make_node(self, theta: Any) -> Any:
        """Returns the node of the graph."""
        theta = _pt.as_tensor_variable(theta).astype("float64")
        return _Apply(self, [theta], [self._output(theta)])

    def _output(self, theta: Any) -> Any:
        return _pt.tensor(dtype="float64", shape=theta.type.shape[:-1])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Stores the value."""
        outputs[0][0] = np.asarray(self.prior.log_prob(inputs[0]))

    def L_op(self, inputs: Any, outputs: Any, gradients: Any) -> Any:
        """Returns the gradient at the input, given that at the output."""
        return [_pt.shape_padright(gradients[0]) * LogDensityGradient(self.prior)(inputs[0])]

    def infer_shape(self, graph: Any, node: Any, shapes: Any) -> Any:
        """Returns the shape of the output."""
        return [shapes[0][:-1]]


class LogDensityGradient(LogDensity):
    """A PyTensor operation: the gradient (..., d) of the log density at points (..., d). It has no gradient itself."""

    def _output(self, theta: Any) -> Any:
        return theta.type()

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        """Stores the value."""
        outputs[0][0] = log_prob_gradient(self.prior, inputs[0])

    def L_op(self, inputs: Any, outputs: Any, gradients: Any) -> Any:
        """Raises NotImplementedError."""
        raise NotImplementedError("numpyro_flowprior.hosts.pymc: the log density has no second derivatives.")

    def infer_shape(self, graph: Any, node: Any, shapes: Any) -> Any:
        """Returns the shape of the output."""
        return [shapes[0]]


class Unconstrained(_Transform):
    """PyMC's transform of the vector to the coordinates in which the flow was trained: the real line, whitened.

    These are theta -> L^-1 (z(theta) - mu), with z as in flows/support.py. The chain that the prior was learned from
    has zero mean and unit covariance there.

    Args:
        prior: the prior.
    """

    name = "flowprior"
    ndim_supp = 1

    def __init__(self, prior: NumpyPrior):
        lower, upper = prior.space.bounds.T
        has_lower, has_upper = np.isfinite(lower), np.isfinite(upper)
        self.interval, self.above, self.below = has_lower & has_upper, has_lower & ~has_upper, ~has_lower & has_upper
        self.low, self.high = np.where(has_lower, lower, 0.0), np.where(has_upper, upper, 1.0)
        self.width, self.scale = np.where(self.interval, self.high - self.low, 1.0), prior._scale
        self.loc, self.tril, self.inverse = prior._loc, prior._tril, prior._inverse_tril
        self.log_det = float(np.log(np.diagonal(self.tril)).sum())
        self.inner = interior_bounds(prior.space, np.dtype(np.float64))

    def forward(self, value: Any, *inputs: Any) -> Any:
        """Returns unconstrained coordinates (..., d) of points (..., d)."""
        from_low, from_high = value - self.low, self.high - value
        share = _pt.minimum(from_low, from_high) / self.width
        signed = _pt.switch(from_low <= from_high, 1.0, -1.0)
        interval = signed * _probit(_pt.switch(self.interval, _pt.maximum(share, EDGE), 0.5))
        x = _pt.switch(self.above, from_low, _pt.switch(self.below, from_high, 1.0)) / self.scale
        half = _pt.switch(x <= 1.0, 1.0, -1.0) * _probit(
            _pt.minimum(_pt.maximum(x, EDGE), 1.0 / x) / (1.0 + _pt.minimum(x, 1.0 / x))
        )
        half = _pt.switch(self.above, half, -half)
        z = _pt.switch(self.interval, interval, _pt.switch(self.above | self.below, half, value))
        return _pt.dot(z - self.loc, self.inverse.T)

    def backward(self, value: Any, *inputs: Any) -> Any:
        """Returns the points (..., d), strictly inside the support, at unconstrained coordinates (..., d)."""
        z = self._line(value)
        step = 0.5 * self.width * _pt.erfc(_pt.abs(z) * _ROOT_HALF)  # from the nearest bound
        interval = _pt.switch(z <= 0, self.low + step, self.high - step)
        away = self.scale * _pt.exp(self._log_distance(z))
        half = _pt.switch(self.above, self.low + away, self.high - away)
        theta = _pt.switch(self.interval, interval, _pt.switch(self.above | self.below, half, z))
        return _pt.clip(theta, *self.inner)

    def log_jac_det(self, value: Any, *inputs: Any) -> Any:
        """Returns log |det d theta / d value| (...,)."""
        z = self._line(value)
        normal = -0.5 * z**2 - LOG_ROOT_TWO_PI
        half = np.log(self.scale) + 2.0 * _pt.softplus(self._log_distance(z)) + normal
        each = _pt.switch(self.interval, np.log(self.width) + normal, _pt.switch(self.above | self.below, half, 0.0))
        return _pt.sum(each, axis=-1) + self.log_det

    def _line(self, value: Any) -> Any:
        return self.loc + _pt.dot(value, self.tril.T)

    def _log_distance(self, z: Any) -> Any:
        """Returns log Phi(w) - log Phi(-w), where w is z above a bound, -z below one, and 0 elsewhere."""
        w = _pt.switch(self.above, z, _pt.switch(self.below, -z, 0.0))
        return _pt.minimum(_log_normal_cdf(0.0, 1.0, w) - _log_normal_cdf(0.0, 1.0, -w), LARGEST_LOG)


def _probit(share: Any) -> Any:
    """Returns the standard normal quantile of a share in (0, 1/2]."""
    return -_pt.erfcinv(2.0 * share) / _ROOT_HALF
