"""The trained part of a flow in NumPy and float64: the flow of build.py without JAX and Distrax.

Points are whitened and unconstrained, (n, d). The transport and its parameters are described in build.py and layout.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import expit, log_softmax, logsumexp, ndtr, ndtri, softmax

from .._util.checks import FloatArray
from .bounds import LOG_ROOT_TWO_PI
from .config import MIN_BIN, FlowConfig
from .layout import MAX_BASE_LOG_SCALE, SPLINE_REACH, Params

_MOST_STEPS, _ROUNDING = 100, 8.0 * float(np.finfo(np.float64).eps)  # of a root search, as in unit_cube.py
_MIN_SLOPE = 1e-4  # minimum slope of a spline at a knot, as in Distrax

Pair = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, eq=False)
class NumpyFlow:
    """One flow: base, couplings, final scale and shift.

    Attributes:
        config: architecture.
        masks: boolean mask (d,) of each coupling, True where a coordinate passes through.
        params: trained parameters of this flow only, nested as in layout.py.
    """

    config: FlowConfig
    masks: Sequence[np.ndarray]
    params: Params

    def log_prob(self, x: FloatArray) -> FloatArray:
        """Returns the normalised log density (n,) at points (n, d)."""
        omega, log_det = self._latent(x)
        return _base_log_prob(self.config, self.params["base"], omega) + log_det

    def _latent(self, x: FloatArray) -> Pair:
        """Returns latent points (n, d), and the log determinant of the map to them (n,), for points (n, d)."""
        final = self.params["final"]
        x = (x - final["shift"]) * np.exp(-final["log_scale"])
        log_det = np.full(len(x), -final["log_scale"].sum())
        for mask, weights in zip(self.masks[::-1], self.params["couplings"][::-1], strict=True):
            log_scale, shift, spline = _conditioned(self.config, x[:, mask], weights)
            changed = (x[:, ~mask] - shift) * np.exp(-log_scale)
            log_det -= log_scale.sum(axis=1)
            if spline is not None:
                changed, spline_log_det = spline.inverse(changed)
                log_det += spline_log_det.sum(axis=1)
            x = _replaced(x, mask, changed)
        return x, log_det

    def sample(self, generator: np.random.Generator, n: int) -> FloatArray:
        """Returns draws (n, d)."""
        shape = n, len(self.params["final"]["shift"])
        return self._moved(_base_sample(self.config, self.params["base"], generator, shape))

    def from_unit_cube(self, u: FloatArray) -> FloatArray:
        """Returns points (n, d) for points u (n, d) of the open unit cube: uniform ones become draws."""
        if self.config.base == "normal":
            return self._moved(ndtri(u))
        return self._moved(_one_after_another(self.config, self.params["base"], u, mixture_quantile))

    def to_unit_cube(self, x: FloatArray) -> FloatArray:
        """Returns points (n, d) of the unit cube for points x (n, d), the inverse of `from_unit_cube`."""
        omega, _ = self._latent(x)
        if self.config.base == "normal":
            return ndtr(omega)
        return _one_after_another(self.config, self.params["base"], omega, None)

    def _moved(self, x: FloatArray) -> FloatArray:
        """Returns points (n, d) for latent points (n, d)."""
        final = self.params["final"]
        for mask, weights in zip(self.masks, self.params["couplings"], strict=True):
            log_scale, shift, spline = _conditioned(self.config, x[:, mask], weights)
            changed = x[:, ~mask] if spline is None else spline.forward(x[:, ~mask])
            x = _replaced(x, mask, changed * np.exp(log_scale) + shift)
        return x * np.exp(final["log_scale"]) + final["shift"]


def standard_log_prob(x: FloatArray) -> FloatArray:
    """Returns the log density (n,) of the standard normal at points (n, d)."""
    return -0.5 * np.sum(x * x, axis=-1) - LOG_ROOT_TWO_PI * x.shape[-1]


def _replaced(x: FloatArray, mask: np.ndarray, changed: FloatArray) -> FloatArray:
    out = x.copy()
    out[:, ~mask] = changed
    return out


def _base_log_prob(config: FlowConfig, base: Params, x: FloatArray) -> FloatArray:
    if config.base == "normal":
        return standard_log_prob(x)
    log_scale = _bounded(base["log_scale"], MAX_BASE_LOG_SCALE[config.base])
    standard = (x[:, None] - base["mean"]) * np.exp(-log_scale)
    if config.base == "full_mixture":
        standard = np.einsum("nki,kij->nkj", standard, _unit_lower(base["shear"]))
    return logsumexp(standard_log_prob(standard) - log_scale.sum(axis=1) + log_softmax(base["logits"]), axis=1)


def _base_sample(
    config: FlowConfig, base: Params, generator: np.random.Generator, shape: tuple[int, int]
) -> FloatArray:
    standard = generator.standard_normal(shape)
    if config.base == "normal":
        return standard
    chosen = generator.choice(len(base["logits"]), shape[0], p=softmax(base["logits"]))
    scale = np.exp(_bounded(base["log_scale"], MAX_BASE_LOG_SCALE[config.base]))
    if config.base == "full_mixture":
        for k, shear in enumerate(_unit_lower(base["shear"])):
            standard[chosen == k] = solve_triangular(shear, standard[chosen == k].T, lower=True, trans="T").T
    return base["mean"][chosen] + scale[chosen] * standard


def _one_after_another(config: FlowConfig, base: Params, values: FloatArray, quantile: Any) -> FloatArray:
    """Returns latent points (n, d) for those of the unit cube, or the reverse if `quantile` is None.

    The coordinates follow each other from the last to the first, as in unit_cube.py.
    """
    mean, scale = base["mean"], np.exp(_bounded(base["log_scale"], MAX_BASE_LOG_SCALE[config.base]))
    shear = np.tril(base["shear"], -1) if config.base == "full_mixture" else None
    n, (components, dim) = len(values), mean.shape
    log_weights = np.broadcast_to(log_softmax(base["logits"]), (n, components))
    standard, results = np.zeros((n, components, dim)), np.empty((n, dim))
    for j in reversed(range(dim)):
        here, width = mean[:, j], scale[:, j]
        if shear is not None:
            here = here - width * np.einsum("nki,ki->nk", standard, shear[:, :, j])
        if quantile is None:
            coordinate = values[:, j]
            results[:, j] = np.sum(np.exp(log_weights) * ndtr((coordinate[:, None] - here) / width), axis=1)
        else:
            coordinate = results[:, j] = quantile(values[:, j], log_weights, here, width)
        log_weights = log_weights - 0.5 * ((coordinate[:, None] - here) / width) ** 2 - np.log(width)
        log_weights = log_weights - logsumexp(log_weights, axis=1, keepdims=True)
        standard[..., j] = (coordinate[:, None] - mean[:, j]) / width
    return results


def mixture_quantile(u: FloatArray, log_weights: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    """Returns x (n,) at which mixtures of normal distributions have the probabilities u (n,) below it.

    The method is that of unit_cube.py. `log_weights` is (n, K) and normalised; mean and scale are (n, K) or (K,).
    """
    sign = np.where(u > 0.5, -1.0, 1.0)
    weights, mean, scale = np.exp(log_weights), sign[:, None] * mean, np.broadcast_to(scale, log_weights.shape)
    z = ndtri(np.minimum(u, 1.0 - u))
    each = mean + scale * z[:, None]
    low, high, x, left = each.min(axis=1), each.max(axis=1), np.sum(weights * each, axis=1), np.arange(len(u))
    with np.errstate(all="ignore"):  # far from the root a density may vanish: its step is not taken
        for _ in range(_MOST_STEPS):
            standard = (x[left, None] - mean[left]) / scale[left]
            here = ndtri(np.sum(weights[left] * ndtr(standard), axis=1))
            density = np.sum(weights[left] * np.exp(-0.5 * standard**2) / scale[left], axis=1)
            below = here < z[left]
            low[left], high[left] = np.where(below, x[left], low[left]), np.where(below, high[left], x[left])
            new = x[left] - (here - z[left]) * np.exp(-0.5 * here**2) / density
            new = np.where((new > low[left]) & (new < high[left]), new, 0.5 * (low[left] + high[left]))
            new = np.where(np.abs(here - z[left]) <= _ROUNDING * np.maximum(np.abs(here), 1.0), x[left], new)
            found = np.abs(new - x[left]) <= _ROUNDING * np.maximum(np.abs(new), scale[left].min(axis=1))
            x[left] = new
            left = left[~found]
            if not len(left):
                break
    return sign * x


def _unit_lower(shear: FloatArray) -> FloatArray:
    """Returns 1 + S (K, d, d), with what is below the diagonal of S."""
    return np.eye(shear.shape[-1]) + np.tril(shear, -1)


def _conditioned(config: FlowConfig, passed: FloatArray, weights: Any) -> tuple[FloatArray, FloatArray, _Spline | None]:
    """Returns log-scale (n, free), shift (n, free) and spline of a coupling from the half that passes, (n, d - free).

    The formulas are those of couplings.py.
    """
    if config.conditioner == "roch_shen":
        return _mlp(weights[:2], passed, np.tanh), _mlp(weights[2:], passed, np.tanh), None
    out = _mlp(weights, _bounded(passed, config.hull), _silu)
    each = 2 if config.transformer == "affine" else 3 + 3 * config.bins
    free = out.shape[1] // each
    log_scale, shift = _bounded(out[:, :free], config.max_log_scale), out[:, free : 2 * free]
    if config.transformer == "affine":
        return log_scale, shift, None
    raw = out[:, 2 * free :].reshape(len(out), free, 3 * config.bins + 1)
    return log_scale, shift, _spline(_bounded(raw, SPLINE_REACH * config.max_log_scale), config.hull, config.bins)


def _mlp(layers: Any, x: FloatArray, activation: Callable[[FloatArray], FloatArray]) -> FloatArray:
    for layer in layers[:-1]:
        x = activation(x @ layer["weight"] + layer["bias"])
    return x @ layers[-1]["weight"] + layers[-1]["bias"]


def _silu(x: FloatArray) -> FloatArray:
    return x * expit(x)


def _bounded(raw: FloatArray, limit: float) -> FloatArray:
    return limit * np.tanh(raw / limit)


@dataclass(frozen=True, eq=False)
class _Spline:
    """Monotonic rational-quadratic splines on [-hull, hull], one for each point and coordinate; the identity beyond.

    Attributes:
        hull: half the range.
        x, y, slope: (n, free, bins + 1) knots and the slopes there.

    Source: Durkan et al. (2019), equations 4 to 8; the same knots as Distrax's RationalQuadraticSpline.
    """

    hull: float
    x: FloatArray
    y: FloatArray
    slope: FloatArray

    def forward(self, x: FloatArray) -> FloatArray:
        """Returns y (n, free) for x (n, free)."""
        left, width, bottom, height, first, last = self._bin(x, self.x)
        steep = height / width
        t = np.clip((x - left) / width, 0.0, 1.0)
        between = t * (1.0 - t)
        y = bottom + height * (steep * t * t + first * between) / (steep + (last + first - 2.0 * steep) * between)
        return np.where(np.abs(x) < self.hull, y, x)

    def inverse(self, y: FloatArray) -> Pair:
        """Returns x (n, free) and log |dx / dy| (n, free) for y (n, free)."""
        left, width, bottom, height, first, last = self._bin(y, self.y)
        steep = height / width
        w = np.clip((y - bottom) / height, 0.0, 1.0)
        bend = last + first - 2.0 * steep
        t = _root(steep, first - bend * w, w)
        between = t * (1.0 - t)
        log_slope = np.log(last * t * t + 2.0 * steep * between + first * (1.0 - t) ** 2)
        log_det = 2.0 * (np.log(steep + bend * between) - np.log(steep)) - log_slope
        inside = np.abs(y) < self.hull
        return np.where(inside, left + width * t, y), np.where(inside, log_det, 0.0)

    def _bin(self, at: FloatArray, knots: FloatArray) -> tuple[FloatArray, ...]:
        """Returns left edge, width, bottom, height and the slopes at both ends of the bin that contains each value."""
        number = np.sum(at[..., None] >= knots[..., 1:-1], axis=-1, keepdims=True)

        def ends(values: FloatArray) -> Pair:
            start, end = (np.take_along_axis(values, number + step, axis=-1)[..., 0] for step in (0, 1))
            return start, end

        (left, right), (bottom, top) = ends(self.x), ends(self.y)
        return left, right - left, bottom, top - bottom, *ends(self.slope)


def _root(steep: FloatArray, b: FloatArray, w: FloatArray) -> FloatArray:
    """Returns t in [0, 1] with (steep - b) t^2 + b t - steep w = 0, by the formula without cancellation."""
    root = np.sqrt(np.maximum(b * b + 4.0 * (steep - b) * steep * w, 0.0))
    above, below = np.where(b >= 0, 2.0 * steep * w, root - b), np.where(b >= 0, b + root, 2.0 * (steep - b))
    return np.clip(above / below, 0.0, 1.0)


def _spline(raw: FloatArray, hull: float, bins: int) -> _Spline:
    """Returns the splines of raw parameters (n, free, 3 bins + 1): widths, heights, slopes. All zeros: the identity."""
    widths, heights = softmax(raw[..., :bins], axis=-1), softmax(raw[..., bins : 2 * bins], axis=-1)
    shift = np.log(np.expm1(1.0 - _MIN_SLOPE))
    slope = np.logaddexp(raw[..., 2 * bins :] + shift, 0.0) + _MIN_SLOPE
    slope[..., [0, -1]] = 1.0
    return _Spline(hull, _knots(widths, hull), _knots(heights, hull), slope)


def _knots(shares: FloatArray, hull: float) -> FloatArray:
    sizes = shares * (2.0 * hull - shares.shape[-1] * MIN_BIN) + MIN_BIN
    knots = np.empty((*shares.shape[:-1], shares.shape[-1] + 1))
    knots[..., 0], knots[..., -1] = -hull, hull
    knots[..., 1:-1] = -hull + np.cumsum(sizes[..., :-1], axis=-1)
    return knots
