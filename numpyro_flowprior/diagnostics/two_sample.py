"""Two-sample tests in many dimensions: can a classifier tell rows of a chain from draws of a prior?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from .._util.checks import FloatArray

_FOLDS = 5
_REPEATS = 50  # permutations of the labels for the null
_RIDGE = 1e-3  # of the features' variance, which is one: keeps dependent features solvable
_FARTHEST = 6.0  # standard deviations at which coordinates are cut, so that no single row decides
_ROWS_PER_FEATURE = 10  # with fewer, the products of different coordinates are left out: they would only overfit


@dataclass(frozen=True)
class ClassifierTest:
    """How well a classifier tells two samples apart on rows that it was not trained on.

    Attributes:
        auc: area under the ROC curve, averaged over the folds: the probability that a row of the first sample scores
            higher than one of the second; 1/2 if they cannot be told apart.
        null_mean, null_std: the same with permuted labels.
        p_value: of an area as large, under equal densities.
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

    The classifier is the linear least-squares one on all coordinates, their squares, cubes and products, fitted to
    four fifths of the rows and judged on the last, in turn. It is blind to what leaves the first two moments of all
    pairs and the third of each coordinate alone; histograms of the marginals see much of that. Its merit is an exact
    null: with the features fixed, permuted labels cost one matrix product.

    Args:
        generator: of the folds and the permutations.
        first: (n, d) rows, in coordinates with about zero mean and unit covariance.
        second: (m, d) rows in the same coordinates.

    Source: Lopez-Paz and Oquab (2017), with the area under the curve in place of the accuracy.
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
    """Returns the area under the ROC curve of each column, (k,), by the rank sum (Mann and Whitney 1947).

    Args:
        scores: (n, k) larger where a row is taken for positive.
        labels: (n, k) of bool; at least one of each kind in every column, or the area is 1/2.
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
