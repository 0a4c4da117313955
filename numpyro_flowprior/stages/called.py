"""Exact posteriors in a combination: analyses whose log density can be called.

A flow continues beyond its rows as it happens to. Where the product of posteriors lies there, the rows cannot tell how
wrong this is, but the density can. It is called at the draws of the product, which are then weighted.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy.special import softmax

from .._util.batches import in_float64
from .._util.checks import FloatArray, shorten
from .._util.messages import FlowPriorWarning
from ..chains.chain import Chain
from ..chains.parameters import ParameterSpace
from ..diagnostics.importance import DensityReport, density_report
from ..priors.moments import draws_of
from ..priors.named import NamedPrior
from ..priors.protocol import ParameterPrior
from ..sampling.reweight import reweight
from ..training.called import CalledDensity

_DRAWS = 4000  # draws of the learned posterior that normalise the exact one


@dataclass(frozen=True)
class CalledPosterior:
    """The exact posterior of an analysis, normalised.

    Attributes:
        density: its log density, up to a constant.
        report: agreement with the learned posterior, at draws of the latter; its log evidence is the constant.
        theta: (n, d) these draws.
        log_prob: (n,) exact log density at them, normalised.
        probabilities: (n,) their weights, which sum to one.
    """

    density: CalledDensity
    report: DensityReport
    theta: FloatArray
    log_prob: FloatArray
    probabilities: FloatArray

    def __call__(self, theta: FloatArray) -> FloatArray:
        """Returns the normalised log density (n,) at points (n, d); -inf where it is zero."""
        return self.density(theta) - self.report.log_evidence


def called_posteriors(
    densities: Mapping[str, Any], learned: Mapping[str, ParameterPrior], shared: ParameterSpace
) -> dict[str, CalledPosterior]:
    """Returns exact posteriors, normalised by importance sampling from the learned ones.

    Raises:
        TypeError, ValueError: a density that is none, has other parameters, or is zero at all draws of the posterior.
    """
    return {name: _called(name, density, learned[name], shared) for name, density in densities.items()}


def _called(name: str, density: Any, learned: ParameterPrior, shared: ParameterSpace) -> CalledPosterior:
    subject = f"combine: densities: {name!r}"
    theta = draws_of(learned, jax.random.key(0), _DRAWS)
    log_q = in_float64(learned.log_prob, theta)
    theta = theta[:, [learned.space.index(each) for each in shared.names]]
    if hasattr(density, "log_prob") and not hasattr(density, "log_posterior"):
        density = partial(in_float64, NamedPrior(density, shared, subject).log_prob)
    try:
        called = CalledDensity(density, shared)
        log_p = called(theta)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{subject}: {error}") from error
    report = density_report(log_p, log_q)
    if report.outside == 1.0:
        raise ValueError(
            f"{subject}: expected the log density of this analysis; got one that is zero at all {_DRAWS} draws of its "
            f"posterior. Is the order of the parameters {shorten(shared.names)}?"
        )
    return CalledPosterior(called, report, theta, log_p - report.log_evidence, softmax(log_p - log_q))


def weighted_to_exact(chain: Chain, log_ratio: FloatArray, called: Mapping[str, CalledPosterior]) -> Chain:
    """Returns draws of a product of learned densities, weighted to the product with exact ones.

    Args:
        chain: the draws, with the log density of the learned product.
        log_ratio: (n,) log of the exact product over the learned one.
        called: the exact posteriors. The errors of their constants are part of that of the log evidence.
    """
    possible = np.isfinite(log_ratio)
    if not possible.any():
        raise ValueError(
            "combine: densities: expected a product above zero; the densities are zero at all of its draws."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlowPriorWarning)  # a guard says it
        made = reweight(chain, np.where(possible, log_ratio, -np.inf))
    error = made.log_evidence_error
    if error is not None:
        reports = [each.report for each in called.values()]
        known = all(report.reliable for report in reports)
        error = float(np.linalg.norm([error, *(report.log_evidence_error for report in reports)])) if known else np.nan
    return made.replace(log_evidence_error=error)
