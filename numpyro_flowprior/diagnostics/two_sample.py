"""Two-sample test in many dimensions: how well a classifier distinguishes two sets of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from .._util.checks import FloatArray

_FOLDS = 5
_REPEATS = 50  # number of permutations of the labels for the null distribution
_RIDGE = 1e-3  # relative to the variance of the features, which is one; needed for linearly dependent features
_FARTHEST = 6.0  # coordinates are clipped at this many standard deviations, so that no single row dominates
_ROWS_PER_FEATURE = 10  # with fewer, products of different coordinates are left out, because they would overfit


@dataclass(frozen=True)
class ClassifierTest:
    """How well a classifier distinguishes two samples, on rows not used in its training.

    Attributes:
        auc: area under the ROC curve, averaged over the folds. It is the probability that a row of the first sample has
            a higher score than one of the second; 1/2 if the samples cannot be distinguished.
        null_mean, null_std: mean and standard deviation of the area with permuted labels.
        p_value: probability of an area at least this large, under equal densities.
    """

    auc: float
    null_mean: float
    null_std: float
    p_value: float

    def __str__(self) -> str:
        return (
            f"area under the curve {self.auc:.4f}, by chance {self.null_mean:.4f} +- {self.null_std:.4f} "
            f"(p = {self.p_value:.2g})"
        )


def classifier_test(generator: np.random.Generator, first: FloatArray, second: FloatArray) -> ClassifierTest:
    """Returns the classifier two-sample test of two sets of independent rows.

    The classifier is linear least squares on all coordinates, their squares, cubes and products. It is trained on four
    fifths of the rows and evaluated on the last fifth, in turn. It does not detect differences that leave the first two
    moments of all pairs and the third moment of each coordinate unchanged. Histograms of the marginals detect many of
    these. The advantage is an exact null distribution: with fixed features, permuted labels need one matrix product.

    Args:
        generator: random generator for the folds and the permutations.
        first: (n, d) rows, in coordinates with approximately zero mean and unit covariance.
        second: (m, d) rows in the same coordinates.

    Source: Lopez-Paz and Oquab (2017), with the area under the curve instead of the accuracy.
    """
    features = _features(np.concatenate([first, second]))
    n = len(features)
    truth = np.arange(n) < len(first)
    labels = np.column_stack([truth, *(generator.permutation(truth) for _ in range(_REPEATS))])
    fold = generator.permutation(n) % _FOLDS
    rows = [np.flatnonzero(fold == k) for k in range(_FOLDS)]
    targets = labels - truth.mean()
    products = [features[part].T @ features[part] for part in rows]
    moments = [features[part].T @ targets[part] for part in rows]
    product, moment = sum(products), sum(moments)
    ridge = _RIDGE * n * np.eye(features.shape[1])
    areas = np.zeros(1 + _REPEATS)
    for k, part in enumerate(rows):
        slopes = np.linalg.solve(product - products[k] + ridge, moment - moments[k])
        areas += area_under_curve(features[part] @ slopes, labels[part]) / _FOLDS
    mean, std = float(areas[1:].mean()), float(areas[1:].std(ddof=1))
    z = (areas[0] - mean) / (std * np.sqrt(1.0 + 1.0 / _REPEATS))
    return ClassifierTest(float(areas[0]), mean, std, float(student.sf(z, _REPEATS - 1)))


def area_under_curve(scores: FloatArray, labels: np.ndarray) -> FloatArray:
    """Returns the area under the ROC curve of each column, (k,), from the rank sum (Mann and Whitney 1947).

    Args:
        scores: (n, k) larger for rows that are more likely positive.
        labels: (n, k) of bool; the area is 1/2 for columns without both kinds.
    """
    positive = labels.sum(axis=0)
    pairs = positive * (len(labels) - positive)
    rank_sum = np.sum(rankdata(scores, axis=0) * labels, axis=0)
    area = (rank_sum - 0.5 * positive * (positive + 1)) / np.maximum(pairs, 1)
    return np.where(pairs > 0, area, 0.5)


def _features(rows: FloatArray) -> FloatArray:
    x = np.clip(rows, -_FARTHEST, _FARTHEST)
    columns = [x, x * x, x**3]
    first, second = np.triu_indices(x.shape[1], k=1)
    if len(x) >= _ROWS_PER_FEATURE * (3 * x.shape[1] + len(first)):
        columns.append(x[:, first] * x[:, second])
    features = np.concatenate(columns, axis=1)
    features -= features.mean(axis=0)
    spread = features.std(axis=0)
    return features / np.where(spread > 0, spread, 1.0)
