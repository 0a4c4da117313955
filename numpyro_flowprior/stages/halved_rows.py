"""How much a product of learned posteriors depends on the rows of each analysis.

The rows of one analysis are a sample. With other rows its flow would be another one, and the product would have another
mean. Flows of two halves of the rows show how far: half of the difference between the two products has the standard
error that is due to all rows, if this falls as one over the root of their number.

One difference is a single draw of a normal variable, from which the error of one mean is hardly known. So the
differences of many functions are taken together, with the ratios that they have for normal distributions. In
coordinates in which the product has unit variances, let the posterior of the analysis have the variances 1 / f and a
mean that is Delta away. If its mean and covariance come from N draws, the mean and the variances of the product have
the errors

    Cov(mean) = (diag(f) (1 + g Delta) + g g^T) / N,  g = f Delta        Var(variance) = 2 f^2 / N

The share f is one where only this analysis constrains the product, and zero where only the others do. The differences
of the d means and the d variances give 1 / N.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from scipy.linalg import eigh
from scipy.special import logsumexp, softmax
from scipy.stats import f as f_distribution
from scipy.stats import norm, t

from .._util.batches import in_float64
from .._util.checks import FloatArray
from ..chains.chain import Chain
from ..priors.protocol import ParameterPrior
from ..training.fit import fit_flow, uninterrupted

_FEWEST = 10.0  # effective draws of the product with the flow of one half, below which it is out of their reach
_FLAT = 1e-9  # variance added to posterior and product, relative, so that fewer draws than parameters are not an error
_OF_SCATTER = 0.5**0.5  # least error of the log evidence, from flows of rows of normal distributions
_LEAST_FREEDOM = 2.0  # of a function with an error of its own; with one, it would be multiplied by 6.5
_OWN = 0.9  # quantile of F; a function whose difference is larger has an error of its own


@dataclass(frozen=True)
class HalvedRows:
    """A product with flows of the halves of the rows of one analysis, in one or more random splits.

    Attributes:
        product: draws of the product; only those with positive weight.
        log_ratios: log density of the flow of each half, relative to that of all rows, (splits, 2, n), nats.
        mean, covariance: of the posterior of the analysis, (d,) and (d, d).
        effective_rows: effective number of rows of the analysis, weighted to the product; 0 if that is not reliable.
    """

    product: Chain
    log_ratios: FloatArray
    mean: FloatArray
    covariance: FloatArray
    effective_rows: float = 0.0

    @cached_property
    def _log_weights(self) -> FloatArray:
        return np.log(self.product.probabilities) + self.log_ratios

    @cached_property
    def _weights(self) -> FloatArray:
        """Probabilities of the draws with each half, (splits, 2, n); not a number if hardly a draw counts."""
        with np.errstate(invalid="ignore"):  # no draw counts
            weights = np.asarray(softmax(self._log_weights, axis=-1))
        return np.where(np.sum(weights**2, axis=-1, keepdims=True) < 1.0 / _FEWEST, weights, np.nan)

    @cached_property
    def _centred(self) -> FloatArray:
        return self.product.samples - self.product.mean()

    def differences(self, values: FloatArray) -> FloatArray:
        """Returns half of the difference of the means of functions (n, k) with the two halves, (splits, k)."""
        return 0.5 * (self._weights[:, 0] - self._weights[:, 1]) @ values

    @cached_property
    def shifts(self) -> FloatArray:
        """`differences` of the parameters, in their standard deviations, (splits, d)."""
        return self.differences(self._centred) / np.sqrt(np.diag(self.product.covariance()))

    @cached_property
    def widths(self) -> FloatArray:
        """Half of the difference of the standard deviations with the two halves, relative, (splits, d)."""
        variances = self._weights @ self._centred**2 - (self._weights @ self._centred) ** 2
        first, second = np.moveaxis(np.sqrt(variances / np.diag(self.product.covariance())), 1, 0)
        return 0.5 * (first - second)

    @cached_property
    def scatter(self) -> float:
        """Standard deviation over the product of half the difference of the log densities, nats.

        Draws at which the density of a half is zero do not count.
        """
        half = 0.5 * np.subtract(*np.moveaxis(np.where(np.isfinite(self.log_ratios), self.log_ratios, np.nan), 1, 0))
        p = np.where(np.isnan(half), 0.0, self.product.probabilities)
        with np.errstate(invalid="ignore"):  # no draw counts
            half, p = np.nan_to_num(half), p / p.sum(axis=-1, keepdims=True)
        deviation = half - np.sum(p * half, axis=-1, keepdims=True)
        return float(np.sqrt(np.mean(np.sum(p * deviation**2, axis=-1))))

    @property
    def error_of_log_evidence(self) -> float:
        """Error of the log of the integral of the product; not a number if a half is out of the reach of the draws.

        Half of the difference may be small by luck, so the error is at least the scatter / sqrt(2).
        """
        if np.isnan(self._weights).any():
            return np.nan
        first, second = logsumexp(self._log_weights, axis=-1).T
        found = float(np.sqrt(np.mean((0.5 * (first - second)) ** 2)))
        return max(found, self.scatter * _OF_SCATTER)

    @cached_property
    def _normal(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Coordinates (n, d) without correlations in product and posterior; N Cov(mean) and N Var(variance) / 2."""
        scale = np.sqrt(np.diag(self.product.covariance()))
        scale = np.where(scale > 0.0, scale, 1.0)
        product, posterior = (
            matrix / np.outer(scale, scale) + _FLAT * np.eye(len(scale))
            for matrix in (self.product.covariance(), self.covariance)
        )
        ratios, axes = eigh(posterior, product)
        share, away = 1.0 / ratios, (self.mean - self.product.mean()) / scale @ axes
        pull = share * away
        return self._centred / scale @ axes, np.diag(share * (1.0 + pull @ away)) + np.outer(pull, pull), share**2

    @cached_property
    def per_row(self) -> float:
        """1 / N, if the posterior of the analysis is as well known as from N independent draws."""
        z, of_mean, of_variance = self._normal
        p = self.product.probabilities
        squares = z**2 - p @ z**2
        squares = squares / np.sqrt(np.maximum(p @ squares**2, np.finfo(float).tiny))
        found = np.mean(self.differences(np.concatenate([z, squares], axis=1)) ** 2, axis=0)
        return float(found.sum() / (np.trace(of_mean) + of_variance.sum()))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of `per_row` (Satterthwaite)."""
        _, of_mean, of_variance = self._normal
        total = np.trace(of_mean) + of_variance.sum()
        return float(total**2 / (np.sum(of_mean**2) + np.sum(of_variance**2))) * len(self.log_ratios)

    def _common(self, centred: FloatArray) -> FloatArray:
        """Returns the squared errors (k,) that `per_row` gives for functions (n, k) of mean zero.

        The part of a function that is not linear gets the largest error of all directions.
        """
        z, of_mean, _ = self._normal
        p = self.product.probabilities
        linear = (z * p[:, None]).T @ centred  # (d, k) covariances with coordinates of unit variance
        rest = np.maximum(p @ centred**2 - np.sum(linear**2, axis=0), 0.0)
        largest = np.linalg.norm(of_mean, 2)
        return np.asarray(self.per_row * (np.sum(linear * (of_mean @ linear), axis=0) + largest * rest))

    def squared_errors(self, values: FloatArray) -> FloatArray:
        """Returns the squared standard errors (k,), due to the rows, of the means of functions (n, k).

        The error of a function whose own difference is significantly larger than those of the others is its own. The
        share of a mode that few rows determine is such a function.

        All errors are known with few degrees of freedom. They are multiplied by the quantile of Student's t, relative
        to that of a normal distribution, so that an interval of 1.96 errors has a probability of 95 %. They are not
        enlarged beyond the error of the weighted rows themselves, which a flow of these rows rarely exceeds.
        """
        p, splits = self.product.probabilities, len(self.log_ratios)
        centred = values - p @ values
        common, own = self._common(centred), np.mean(self.differences(centred) ** 2, axis=0)
        usual = own <= f_distribution(splits, self.freedom).ppf(_OWN) * common
        found = np.where(usual, common, own)
        freedom = np.where(usual, self.freedom, max(splits, _LEAST_FREEDOM))
        enlarged = found * (t(freedom).ppf(0.975) / norm.ppf(0.975)) ** 2
        of_rows = p @ centred**2 / self.effective_rows if self.effective_rows else np.inf
        return np.maximum(found, np.minimum(enlarged, of_rows))


def halved_rows(
    key: jax.Array,
    chain: Chain,
    posterior: ParameterPrior,
    product: Chain,
    settings: Mapping[str, Any],
    *,
    splits: int,
    effective_rows: float,
) -> HalvedRows:
    """Trains flows on the halves of the rows of an analysis, and evaluates them at draws of the product.

    Args:
        key: JAX random key.
        chain: the rows.
        posterior: the flow of all rows, on the shared parameters.
        product: draws of the product.
        settings: of `fit_flow`.
        splits: number of random splits into halves.
        effective_rows: as in `HalvedRows`.
    """
    rows, product = chain.select(posterior.space.names), product.take(np.flatnonzero(product.probabilities > 0.0))
    log_whole = in_float64(posterior.log_prob, product.samples)
    log_ratios = []
    for one in jax.random.split(key, splits):
        key_split, *keys = jax.random.split(one, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = rows.split(key_split, 0.5)
            flows = [uninterrupted(fit_flow(each, part, **settings)) for each, part in zip(keys, parts, strict=True)]
        log_ratios.append([in_float64(flow.log_prob, product.samples) - log_whole for flow in flows])
    return HalvedRows(product, np.array(log_ratios), rows.mean(), rows.covariance(), effective_rows)


def with_rows(errors: FloatArray, halved: Iterable[HalvedRows], values: FloatArray) -> FloatArray:
    """Returns standard errors (k,) of means of functions that include the rows of the analyses.

    Args:
        errors: of the draws of the product, (k,).
        halved: the product with flows of the halves of the rows of each analysis.
        values: functions of the draws with positive weight, (n, k).
    """
    return np.asarray(np.sqrt(sum((one.squared_errors(values) for one in halved), start=errors**2)))
