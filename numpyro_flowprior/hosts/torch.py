"""The learned prior as a distribution of PyTorch, such as the prior of sbi. Only pocoMC's module imports torch too.

It is computed with NumPy on the CPU in float64; the results have the dtype and the device of the values.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np

from .._util.checks import optional_import, shorten
from .._util.messages import FlowPriorWarning
from ..flows.bounds import interior_bounds
from ..priors.numpy_prior import NumpyPrior
from .gradient import log_prob_gradient
from .opened import PriorOrPath, opened

_COARSEST = 0.1  # standard deviations between two numbers of a dtype
_HERE = "numpyro_flowprior.hosts.torch"
_torch: Any = optional_import("torch", "torch", _HERE)
_constraints: Any = optional_import("torch.distributions.constraints", "torch", _HERE)
_Distribution: Any = _torch.distributions.Distribution
_Function: Any = _torch.autograd.Function


class TorchFlowPrior(_Distribution):
    """The density in a prior file as a `torch.distributions.Distribution`, with event shape (d,) and no batch shape.

    Args:
        prior: a path or a NumpyPrior.
        dtype: dtype of draws; None for torch's default dtype.
        device: device of draws.
        validate_args: whether `log_prob` raises ValueError for points outside the support. False: it is -inf there.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, prior: PriorOrPath, *, dtype: Any = None, device: Any = "cpu", validate_args: bool = False):
        self.prior = opened(prior, "TorchFlowPrior")
        self.dtype = _torch.get_default_dtype() if dtype is None else dtype
        self.device = _torch.device(device)
        _require_resolution(self.prior, self.dtype)
        super().__init__(_torch.Size(), _torch.Size((self.prior.space.dim,)), validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The support as a torch constraint: intervals, half lines and lines."""
        parts = [_constraint(lower, upper) for lower, upper in self.prior.space.bounds.tolist()]
        return _constraints.independent(_constraints.stack(parts, dim=-1), 1)

    def sample(self, sample_shape: Any = ()) -> Any:
        """Returns draws (*sample_shape, d), strictly inside the support, from torch's global generator."""
        shape = tuple(sample_shape)
        seed = int(_torch.randint(2**63 - 1, (1,)))
        n = int(np.prod(shape, dtype=int))
        draws = self.prior.sample(seed, n) if n else np.zeros((0, self.prior.space.dim))
        values = _torch.as_tensor(draws).to(self.dtype)
        if self.dtype == _torch.float32:  # rounding must not move a draw to a bound
            values = _torch.as_tensor(np.clip(values.numpy(), *interior_bounds(self.prior.space, np.dtype(np.float32))))
        return values.to(self.device).reshape(*shape, self.prior.space.dim)

    def log_prob(self, value: Any) -> Any:
        """Returns the normalised log density (...,) at points (..., d); -inf outside the support. It can be
        differentiated once.

        Raises:
            TypeError: `value` is not a tensor.
            ValueError: its last axis does not have d values.
        """
        if not isinstance(value, _torch.Tensor):
            raise TypeError(f"TorchFlowPrior.log_prob: value: expected a tensor; got {type(value).__name__}.")
        if self._validate_args:
            self._validate_sample(value)
        return _LogDensity.apply(value, self.prior)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Returns the distribution itself for an empty batch shape; others are not supported."""
        if tuple(batch_shape) == ():
            return self
        raise NotImplementedError(
            f"TorchFlowPrior.expand: expected an empty batch shape; got {tuple(batch_shape)}. "
            "Draw with .sample(shape): log_prob takes points of any leading shape."
        )

    def __repr__(self) -> str:
        return f"TorchFlowPrior({self.prior!r})"


def _require_resolution(prior: NumpyPrior, dtype: Any) -> None:
    """Warns, naming them, if a dtype cannot resolve parameters: an epoch of 1187008882.43 +- 0.04 s."""
    draws = prior.sample(0, 1000)
    apart = _torch.finfo(dtype).eps * np.abs(np.median(draws, axis=0))
    low, high = np.quantile(draws, [0.16, 0.84], axis=0)
    coarse = [
        name for name, is_coarse in zip(prior.names, apart > _COARSEST * 0.5 * (high - low), strict=True) if is_coarse
    ]
    if coarse:
        warnings.warn(
            f"TorchFlowPrior: dtype: expected one that resolves {shorten(coarse)} to a tenth of a standard "
            f"deviation; got {dtype}. Draws and densities are "
            "rounded. Pass dtype=torch.float64 (and points in float64), or train with an offset subtracted.",
            FlowPriorWarning,
            stacklevel=3,
        )


class _LogDensity(_Function):
    @staticmethod
    def forward(context: Any, value: Any, prior: NumpyPrior) -> Any:
        points = value.detach().cpu().numpy().astype(np.float64)
        context.prior, context.points = prior, points
        return _torch.as_tensor(np.asarray(prior.log_prob(points)), dtype=_floating(value), device=value.device)

    @staticmethod
    @_torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: Any) -> Any:
        slope = log_prob_gradient(context.prior, context.points)
        slope = _torch.as_tensor(slope, dtype=gradient.dtype, device=gradient.device)
        return gradient[..., None] * slope, None


def _floating(value: Any) -> Any:
    return value.dtype if value.dtype.is_floating_point else _torch.get_default_dtype()


def _constraint(lower: float, upper: float) -> Any:
    if np.isfinite(lower) and np.isfinite(upper):
        return _constraints.interval(lower, upper)
    if np.isfinite(lower):
        return _constraints.greater_than(lower)
    return _constraints.less_than(upper) if np.isfinite(upper) else _constraints.real
