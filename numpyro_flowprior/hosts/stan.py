"""A Gaussian mixture in place of the learned prior, as Stan code. scikit-learn is imported only here.

Stan cannot evaluate a flow. A mixture of Gaussians in unconstrained coordinates is fitted to draws of the prior. What
is lost is measured: the divergence from the flow to the mixture, in nats, on other draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from .._util.checks import ArrayLike, FloatArray, float_array, optional_import, positive_int, printable
from .._util.version import __version__
from ..chains.parameters import ParameterSpace
from ..flows.bounds import LOG_ROOT_TWO_PI
from ..flows.numpy_support import to_line
from .opened import PriorOrPath, opened

_COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # numbers that are tried


@dataclass(frozen=True, eq=False)
class StanMixture:
    """A mixture of Gaussians in unconstrained coordinates z(theta), made by `fit_mixture`.

    Attributes:
        space: names and bounds of the parameters.
        scale: (d,) scales of the map on half lines.
        weights: (K,) weights, which sum to one.
        mean: (K, d) means.
        tril: (K, d, d) lower Cholesky factors of the covariances.
        loss: KL from the flow to the mixture in nats, >= 0 but for its error.
        loss_error: its standard error.
    """

    space: ParameterSpace
    scale: FloatArray
    weights: FloatArray
    mean: FloatArray
    tril: FloatArray
    loss: float = np.nan
    loss_error: float = np.nan

    def log_prob(self, theta: ArrayLike) -> FloatArray:
        """Returns the normalised log density (n,) at points (n, d); -inf outside the support. Stan's is the same."""
        points = float_array(theta, "StanMixture.log_prob: theta", shape=(None, self.space.dim))
        found = np.full(len(points), -np.inf)
        inside = np.flatnonzero(self.space.contains(points) & np.isfinite(points).all(axis=1))
        if len(inside):
            z, log_det = to_line(points[inside], self.space, self.scale)
            found[inside] = self._on_line(z) + log_det
        return found

    def _on_line(self, z: FloatArray) -> FloatArray:
        parts = []
        for weight, mean, tril in zip(self.weights, self.mean, self.tril, strict=True):
            standard = solve_triangular(tril, (z - mean).T, lower=True)
            parts.append(np.log(weight) - 0.5 * np.sum(standard**2, axis=0) - np.log(np.diagonal(tril)).sum())
        return logsumexp(parts, axis=0) - LOG_ROOT_TWO_PI * z.shape[1]

    def code(self) -> str:
        """Returns a complete Stan program: the block `functions` and a model that is the prior alone."""
        return _PROGRAM.format(
            version=__version__,
            names=", ".join(printable(name) for name in self.space.names),
            loss=f"{self.loss:.4f} +- {self.loss_error:.4f}",
            components=len(self.weights),
            dim=self.space.dim,
            lower=_vector(self.space.lower),
            upper=_vector(self.space.upper),
            scale=_vector(self.scale),
            log_weights=_vector(np.log(self.weights)),
            mean=_array(self.mean, _vector),
            tril=_array(self.tril, lambda rows: "[" + ", ".join(_row(row) for row in rows) + "]"),
        )

    def __str__(self) -> str:
        return (
            f"{len(self.weights)} Gaussians for {', '.join(self.space.names)}; "
            f"KL from the flow: {self.loss:.4f} +- {self.loss_error:.4f} nats"
        )


def fit_mixture(
    prior: PriorOrPath, *, n: int = 20_000, max_components: int = 16, seed: int | np.random.Generator = 0
) -> StanMixture:
    """Returns the mixture of Gaussians, in unconstrained coordinates, with the lowest BIC at draws of a prior.

    The loss is measured on n further draws.

    Args:
        prior: a path or a NumpyPrior.
        n: number of draws for the fit, and for the loss, >= 100.
        max_components: largest number of Gaussians.
        seed: an integer or a NumPy generator.

    Raises:
        ImportError: scikit-learn is not installed.

    Source: Schwarz (1978), Annals of Statistics 6, 461, for the BIC.
    """
    loaded = opened(prior, "fit_mixture")
    n = positive_int(n, "fit_mixture: n", minimum=100)
    most = positive_int(max_components, "fit_mixture: max_components")
    fit: Any = optional_import("sklearn.mixture", "emulators", "fit_mixture").GaussianMixture
    generator = np.random.default_rng(seed)
    z, _ = to_line(loaded.sample(generator, n), loaded.space, loaded._scale)
    loc, width = z.mean(axis=0), z.std(axis=0)
    rows, lowest, worse = (z - loc) / width, np.inf, 0
    best: Any = None
    for number in [number for number in _COMPONENTS if number <= most]:
        found = fit(number, n_init=2, reg_covar=1e-6, random_state=int(generator.integers(2**31))).fit(rows)
        score = found.bic(rows)
        best, lowest, worse = (found, score, 0) if score < lowest else (best, lowest, worse + 1)
        if worse == 2:
            break
    tril = np.linalg.cholesky(best.covariances_) * width[:, None]
    weights = best.weights_ / best.weights_.sum()
    parts = (loaded.space, loaded._scale, weights, best.means_ * width + loc, tril)
    fresh = loaded.sample(generator, n)
    ratio = loaded.log_prob(fresh) - StanMixture(*parts).log_prob(fresh)
    return StanMixture(*parts, float(ratio.mean()), float(ratio.std() / np.sqrt(n)))


def stan_code(prior: PriorOrPath, **options: Any) -> str:
    """Returns a Stan program whose function `flowprior_lpdf` is a mixture in place of a prior; see `fit_mixture`.

    The loss is in its first comment. Copy the blocks `functions`, `transformed data` and `parameters` into a model, and
    add its data and likelihood.
    """
    return fit_mixture(prior, **options).code()


def _number(value: float) -> str:
    if np.isinf(value):
        return "positive_infinity()" if value > 0 else "negative_infinity()"
    return repr(float(value))


def _row(values: Any) -> str:
    return "[" + ", ".join(_number(value) for value in values) + "]"


def _vector(values: Any) -> str:
    return _row(values) + "'"


def _array(values: Any, one: Any) -> str:
    return "{\n      " + ",\n      ".join(one(value) for value in values) + "\n    }"


_PROGRAM = """\
// A prior over {names}, in place of a normalizing flow that Stan cannot evaluate.
// Written by numpyro-flowprior {version}.
// {components} Gaussians in unconstrained coordinates. KL from the flow to them: {loss} nats, on fresh draws.
functions {{
  // Standard normal quantile of the distance from the nearest bound, relative to the range, and log |dz / dtheta|.
  vector flowprior_to_line(real theta, real low, real high, real scale) {{
    real z;
    real log_slope = 0;
    if (is_inf(low) && is_inf(high)) {{
      return [theta, 0]';
    }}
    if (!is_inf(low) && !is_inf(high)) {{
      real near = fmin(theta - low, high - theta) / (high - low);
      z = inv_Phi(fmin(fmax(near, 1e-15), 0.5));
      if (theta - low > high - theta) z = -z;
      log_slope = -log(high - low);
    }} else {{
      real x = fmax((is_inf(high) ? theta - low : high - theta) / scale, 1e-15);
      z = x <= 1 ? inv_Phi(x / (1 + x)) : -inv_Phi(1 / (1 + x));
      if (is_inf(low)) z = -z;
      log_slope = -2 * log1p(x) - log(scale);
    }}
    return [z, log_slope + 0.5 * square(z) + 0.5 * log(2 * pi())]';
  }}

  // Normalised log density of theta on the declared support.
  real flowprior_lpdf(vector theta) {{
    int D = {dim};
    int K = {components};
    vector[D] low = {lower};
    vector[D] high = {upper};
    vector[D] scale = {scale};
    vector[K] log_weights = {log_weights};
    array[K] vector[D] means = {mean};
    array[K] matrix[D, D] trils = {tril};
    vector[D] z;
    vector[K] parts;
    real log_det = 0;
    for (d in 1:D) {{
      vector[2] found = flowprior_to_line(theta[d], low[d], high[d], scale[d]);
      z[d] = found[1];
      log_det += found[2];
    }}
    for (k in 1:K) {{
      parts[k] = log_weights[k] + multi_normal_cholesky_lpdf(z | means[k], trils[k]);
    }}
    return log_sum_exp(parts) + log_det;
  }}
}}
transformed data {{
  int D = {dim};
  vector[D] low = {lower};
  vector[D] high = {upper};
}}
parameters {{
  vector<lower=low, upper=high>[D] theta; // {names}
}}
model {{
  target += flowprior_lpdf(theta | );
}}
"""
