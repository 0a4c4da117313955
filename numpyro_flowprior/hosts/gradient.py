"""The gradient of a NumpyPrior's log density, in NumPy and float64, for the hosts whose samplers need it.

Reverse mode through the formulas of numpy_flow.py and numpy_support.py. The derivatives of a spline in one bin are
taken with a complex step (Squire and Trapp 1998, SIAM Review 40, 110), which is exact to rounding; those of its inverse
follow from the implicit function theorem.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, softmax

from .._util.checks import ArrayLike, FloatArray
from ..flows.bounds import EDGE, LOG_ROOT_TWO_PI, columns_by_kind
from ..flows.config import MIN_BIN, FlowConfig
from ..flows.layout import MAX_BASE_LOG_SCALE, SPLINE_REACH, Params, is_ensemble
from ..flows.numpy_flow import (
    _MIN_SLOPE,
    NumpyFlow,
    _base_log_prob,
    _bounded,
    _replaced,
    _Spline,
    _spline,
    _unit_lower,
    standard_log_prob,
)
from ..flows.numpy_support import to_line
from ..priors.numpy_prior import NumpyPrior

_CHUNK = 2_000  # points per evaluation
_STEP = 1e-30  # imaginary; its square vanishes beside any number of order one

Pair = tuple[FloatArray, FloatArray]


def log_prob_gradient(prior: NumpyPrior, theta: ArrayLike) -> FloatArray:
    """Returns d log q / d theta (..., d) of the normalised log density at points (..., d); zero outside the support.

    Within 1e-15 of the range from a bound the density is held constant, and the gradient is zero.

    Raises:
        TypeError: `theta` does not hold real numbers.
        ValueError: its last axis does not have d values.
        NotImplementedError: the prior has a kind of support that is not an interval, half line or line.
    """
    theta = prior._checked(theta, "log_prob_gradient: theta")
    points = theta.reshape(-1, prior.space.dim)
    found = np.zeros(points.shape)
    inside = np.flatnonzero(prior.space.contains(points) & np.isfinite(points).all(axis=1))
    for start in range(0, len(inside), _CHUNK):
        rows = inside[start : start + _CHUNK]
        found[rows] = _gradient(prior, points[rows])
    return found.reshape(theta.shape)


def _gradient(prior: NumpyPrior, theta: FloatArray) -> FloatArray:
    z, _ = to_line(theta, prior.space, prior._scale)
    slope, bend = _slope_to_line(prior, theta, z)
    x = (z - prior._loc) @ prior._inverse_tril.T
    return (_of_members(prior, x) @ prior._inverse_tril) * slope + bend


def _slope_to_line(prior: NumpyPrior, theta: FloatArray, z: FloatArray) -> Pair:
    """Returns dz / dtheta and d log |dz / dtheta| / dtheta, (n, d) each."""
    slope, bend = np.ones_like(theta), np.zeros_like(theta)
    lower, upper = prior.space.bounds.T
    for kind, j in columns_by_kind(prior.space).items():
        inverse_normal = np.exp(0.5 * z[:, j] ** 2 + LOG_ROOT_TWO_PI)
        if kind == "interval":
            width = upper[j] - lower[j]
            free = np.minimum(theta[:, j] - lower[j], upper[j] - theta[:, j]) > EDGE * width
            slope[:, j] = np.where(free, inverse_normal / width, 0.0)
            bend[:, j] = z[:, j] * slope[:, j]
        elif kind in ("above", "below"):
            sign, scale = (1.0, prior._scale[j]) if kind == "above" else (-1.0, prior._scale[j])
            x = (theta[:, j] - lower[j] if kind == "above" else upper[j] - theta[:, j]) / scale
            free = x > EDGE
            slope[:, j] = np.where(free, inverse_normal / (scale * (1.0 + x) ** 2), 0.0)
            bend[:, j] = z[:, j] * slope[:, j] - np.where(free, sign * 2.0 / (scale * (1.0 + x)), 0.0)
        elif kind != "line":
            raise NotImplementedError(f"log_prob_gradient: no gradient for parameters whose support is {kind!r}.")
    return slope, bend


def _of_members(prior: NumpyPrior, x: FloatArray) -> FloatArray:
    values, gradients = zip(*(_of_flow(member, x) for member in prior._members), strict=True)
    if not is_ensemble(prior.config):
        return gradients[0]
    parts = np.stack([*values, standard_log_prob(x)], axis=1)
    shares = softmax(parts + prior._log_weights, axis=1)
    return sum(share[:, None] * part for share, part in zip(shares.T, [*gradients, -x], strict=True))


def _of_flow(flow: NumpyFlow, x: FloatArray) -> Pair:
    """Returns the log density (n,) of one flow at points (n, d), and its gradient (n, d)."""
    config, final = flow.config, flow.params["final"]
    x = (x - final["shift"]) * np.exp(-final["log_scale"])
    log_det, done = np.full(len(x), -final["log_scale"].sum()), []
    for mask, weights in zip(flow.masks[::-1], flow.params["couplings"][::-1], strict=True):
        coupling = _Coupling(config, mask, weights)
        x, added = coupling.inverse(x)
        log_det += added
        done.append(coupling)
    value = _base_log_prob(config, flow.params["base"], x) + log_det
    gradient = _of_base(config, flow.params["base"], x)
    for coupling in reversed(done):
        gradient = coupling.pull_back(gradient)
    return value, gradient * np.exp(-final["log_scale"])


def _of_base(config: FlowConfig, base: Params, x: FloatArray) -> FloatArray:
    if config.base == "normal":
        return -x
    log_scale = _bounded(base["log_scale"], MAX_BASE_LOG_SCALE[config.base])
    standard = (x[:, None] - base["mean"]) * np.exp(-log_scale)
    force = -standard
    if config.base == "full_mixture":
        shear = _unit_lower(base["shear"])
        standard = np.einsum("nki,kij->nkj", standard, shear)
        force = -np.einsum("nkj,kij->nki", standard, shear)
    shares = softmax(standard_log_prob(standard) - log_scale.sum(axis=1) + log_softmax(base["logits"]), axis=1)
    return np.sum(shares[..., None] * force * np.exp(-log_scale), axis=1)


class _Coupling:
    """One coupling at some points: `inverse` keeps what `pull_back` needs. The formulas are those of `_conditioned`."""

    def __init__(self, config: FlowConfig, mask: np.ndarray, weights: Any):
        self.config, self.mask, self.weights = config, mask, weights
        self.raw: FloatArray | None = None

    def inverse(self, x: FloatArray) -> Pair:
        """Returns the points (n, d) on the side of the base, and log |det| (n,)."""
        config, passed = self.config, x[:, self.mask]
        if config.conditioner == "roch_shen":
            self.networks = [_Network(part, passed, _tanh) for part in (self.weights[:2], self.weights[2:])]
            self.log_scale, shift = (network.out for network in self.networks)
        else:
            self.squashed = np.tanh(passed / config.hull)
            self.networks = [_Network(self.weights, config.hull * self.squashed, _silu)]
            each = 2 if config.transformer == "affine" else 3 + 3 * config.bins
            out = self.networks[0].out
            free = out.shape[1] // each
            self.log_scale, shift = _bounded(out[:, :free], config.max_log_scale), out[:, free : 2 * free]
            if config.transformer == "spline":
                self.raw = _bounded(out[:, 2 * free :].reshape(len(out), free, -1), SPLINE_REACH * config.max_log_scale)
        self.y = changed = (x[:, ~self.mask] - shift) * np.exp(-self.log_scale)
        log_det = -self.log_scale.sum(axis=1)
        if self.raw is not None:
            self.spline = _spline(self.raw, config.hull, config.bins)
            changed, added = self.spline.inverse(self.y)
            self.x = changed
            log_det = log_det + added.sum(axis=1)
        return _replaced(x, self.mask, changed), log_det

    def pull_back(self, gradient: FloatArray) -> FloatArray:
        """Returns the gradient (n, d) at the points that `inverse` took, of a density with one where they went."""
        config, changed = self.config, gradient[:, ~self.mask]
        parts = []
        if self.raw is not None:
            changed, of_raw = _pull_back_spline(self.spline, self.raw, self.x, self.y, changed)
            limit = SPLINE_REACH * config.max_log_scale
            parts.append((of_raw * (1.0 - (self.raw / limit) ** 2)).reshape(len(of_raw), -1))
        moved = changed * np.exp(-self.log_scale)
        of_scale = -changed * self.y - 1.0
        if config.conditioner == "roch_shen":
            passed = self.networks[0].pull_back(of_scale) + self.networks[1].pull_back(-moved)
        else:
            of_scale *= 1.0 - (self.log_scale / config.max_log_scale) ** 2
            passed = self.networks[0].pull_back(np.concatenate([of_scale, -moved, *parts], axis=1))
            passed = passed * (1.0 - self.squashed**2)
        out = gradient.copy()
        out[:, ~self.mask] = moved
        out[:, self.mask] += passed
        return out


class _Network:
    """A perceptron at some inputs."""

    def __init__(self, layers: Any, x: FloatArray, activation: Any):
        self.layers, self.slopes = layers, []
        for layer in layers[:-1]:
            x, slope = activation(x @ layer["weight"] + layer["bias"])
            self.slopes.append(slope)
        self.out = x @ layers[-1]["weight"] + layers[-1]["bias"]

    def pull_back(self, gradient: FloatArray) -> FloatArray:
        gradient = gradient @ self.layers[-1]["weight"].T
        for layer, slope in zip(self.layers[-2::-1], self.slopes[::-1], strict=True):
            gradient = (gradient * slope) @ layer["weight"].T
        return gradient


def _tanh(x: FloatArray) -> Pair:
    value = np.tanh(x)
    return value, 1.0 - value * value


def _silu(x: FloatArray) -> Pair:
    share = expit(x)
    return x * share, share * (1.0 + x * (1.0 - share))


def _pull_back_spline(spline: _Spline, raw: FloatArray, x: FloatArray, y: FloatArray, gradient: FloatArray) -> Pair:
    """Returns the gradients at y (n, free) and raw (n, free, 3 bins + 1) of a density plus log |dx / dy|.

    With y = F(x; p): dx = (dy - F_p dp) / F' and d log |dx / dy| = -(log F')_x dx - (log F')_p dp.
    """
    number = np.sum(y[..., None] >= spline.y[..., 1:-1], axis=-1, keepdims=True)
    ends = [
        np.take_along_axis(values, number + step, axis=-1)[..., 0]
        for values in (spline.x, spline.y, spline.slope)
        for step in (0, 1)
    ]
    inside = np.abs(y) < spline.hull
    at: list[Any] = [np.where(inside, x, ends[0]), *ends]
    _, log_slope = _curve(*at)
    of_value, of_log_slope = [], []
    for j, part in enumerate(at):
        value, change = _curve(*[*at[:j], part + 1j * _STEP, *at[j + 1 :]])
        of_value.append(np.imag(value) / _STEP)
        of_log_slope.append(np.imag(change) / _STEP)
    at_y = (gradient - of_log_slope[0]) * np.exp(-log_slope)
    of_ends = [
        np.where(inside, -at_y * value - change, 0.0)
        for value, change in zip(of_value[1:], of_log_slope[1:], strict=True)
    ]
    of_knots = []
    for first, last in zip(of_ends[::2], of_ends[1::2], strict=True):
        found = np.zeros(spline.x.shape)
        np.put_along_axis(found, number, first[..., None], axis=-1)
        np.put_along_axis(found, number + 1, last[..., None], axis=-1)
        found[..., [0, -1]] = 0.0  # fixed
        of_knots.append(found)
    bins = spline.x.shape[-1] - 1
    shift = np.log(np.expm1(1.0 - _MIN_SLOPE))
    parts = [
        _pull_back_knots(of_knots[0], raw[..., :bins], spline.hull),
        _pull_back_knots(of_knots[1], raw[..., bins : 2 * bins], spline.hull),
        of_knots[2] * expit(raw[..., 2 * bins :] + shift),
    ]
    return np.where(inside, at_y, gradient), np.concatenate(parts, axis=-1)


def _curve(x: Any, left: Any, right: Any, bottom: Any, top: Any, first: Any, last: Any) -> tuple[Any, Any]:
    """Returns F(x) and log F'(x) of a rational quadratic between two knots (Durkan et al. 2019, equations 4 and 5)."""
    width, height = right - left, top - bottom
    steep, t = height / width, (x - left) / width
    between = t * (1.0 - t)
    below = steep + (last + first - 2.0 * steep) * between
    value = bottom + height * (steep * t * t + first * between) / below
    rise = last * t * t + 2.0 * steep * between + first * (1.0 - t) * (1.0 - t)
    return value, 2.0 * np.log(steep) + np.log(rise) - 2.0 * np.log(below)


def _pull_back_knots(gradient: FloatArray, raw: FloatArray, hull: float) -> FloatArray:
    """Returns the gradient at the raw widths (..., bins) from the gradient at the knots (..., bins + 1)."""
    bins = raw.shape[-1]
    of_sizes = np.zeros(raw.shape)
    of_sizes[..., :-1] = np.cumsum(gradient[..., -2:0:-1], axis=-1)[..., ::-1]
    of_shares = of_sizes * (2.0 * hull - bins * MIN_BIN)
    shares = softmax(raw, axis=-1)
    return shares * (of_shares - np.sum(shares * of_shares, axis=-1, keepdims=True))
