"""Exact posteriors in a combination: analyses whose log density can be called.

A flow continues beyond its rows as it happens to. Where the product of posteriors lies there, the rows cannot tell how
wrong this is, but the density can. It is called at the draws of the product, which are then weighted. If the learned
product is too far from the exact one for this, a flow that is trained on these weighted draws, with the exact density
at them, is nearer. Its draws are weighted instead, and teach the next flow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
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
from ..chains.effective import kish
from ..chains.parameters import ParameterSpace
from ..diagnostics.importance import RELIABLE, DensityReport, density_report
from ..priors.moments import draws_of
from ..priors.named import NamedPrior
from ..priors.protocol import ParameterPrior
from ..sampling.reweight import reweight
from ..training.called import CalledDensity
from ..training.fit import fit_flow, uninterrupted

_DRAWS = 4000  # draws of the learned posterior that normalise the exact one
_ROUNDS = 3  # flows that are taught by the exact product
_SHARE = 0.25  # of the draws that are asked for; fewer effective ones are not enough
_PER_PARAMETER, _LEAST, _ROOTS = 20.0, 50.0, 10  # effective draws that teach a flow; square roots of the weights


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


def drawn_from_exact(
    key: jax.Array,
    chain: Chain,
    log_learned: Callable[[FloatArray], FloatArray],
    log_density: Callable[[FloatArray], FloatArray],
    called: Mapping[str, CalledPosterior],
    *,
    draws: int,
    settings: Mapping[str, Any],
) -> Chain:
    """Returns draws of a product with exact densities.

    Args:
        key: JAX random key.
        chain: draws of the product of learned densities, with its log density and log evidence.
        log_learned: the log density of that product, (n,) at points (n, d).
        log_density: of the exact product.
        called: the exact posteriors. The errors of their constants are part of that of the log evidence.
        draws: the effective number of draws that is asked for.
        settings: of `fit_flow`.

    Raises:
        ValueError: the exact product is zero at all draws.
    """
    log_p = log_density(chain.samples)
    made, log_l = _weighted(chain, log_p), partial(_normalised, log_learned, chain)
    rounds, wanted = 0, (True, _SHARE * min(draws, chain.effective_size))
    while rounds < _ROUNDS and _rank(made) < wanted:
        rounds += 1
        keys = jax.random.split(jax.random.fold_in(key, rounds))
        try:
            nearer = _nearer(keys, made, chain, log_p, log_l, log_density, draws, settings)
        except ValueError:  # too few draws to train a flow: a guard says that they are few
            break
        made = nearer if _rank(nearer) > _rank(made) else made
    error = made.log_evidence_error
    if error is not None:
        reports = [each.report for each in called.values()]
        known = all(report.evidence_is_reliable for report in reports)
        error = float(np.linalg.norm([error, *(report.log_evidence_error for report in reports)])) if known else np.nan
    return made.replace(log_evidence_error=error, info={**made.info, "flows_taught_by_exact_densities": rounds})


def _normalised(log_learned: Callable[[FloatArray], FloatArray], chain: Chain, theta: FloatArray) -> FloatArray:
    """Returns the normalised log density (n,) of the product of learned densities at points (n, d)."""
    return log_learned(theta) - (chain.log_evidence or 0.0)


def _nearer(
    keys: jax.Array,
    made: Chain,
    chain: Chain,
    log_p: FloatArray,
    log_learned: Callable[[FloatArray], FloatArray],
    log_density: Callable[[FloatArray], FloatArray],
    draws: int,
    settings: Mapping[str, Any],
) -> Chain:
    """Returns draws of the learned product, and of a flow that the exact one taught, weighted to the exact one.

    They count as draws of the mixture of both, each in proportion to its effective number. What the flow lacks, the
    learned product may have.

    Args:
        keys: two JAX random keys.
        made: draws weighted to the exact product, which teach the flow.
        chain: draws of the learned product.
        log_p: (n,) log density of the exact product at these.
        log_learned: normalised log density of the learned product.
        log_density, draws, settings: as for `drawn_from_exact`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlowPriorWarning)  # few rows: the weights show how good the flow is
        flow = uninterrupted(fit_flow(keys[0], _softened(made), trust_log_prob=True, **settings))
    theta = draws_of(flow, keys[1], max(draws, _DRAWS))
    inside = chain.space.contains(theta)
    theta = theta[inside]
    points = np.concatenate([chain.samples, theta])
    share = len(theta) / (len(theta) + chain.effective_size)
    log_q = in_float64(flow.log_prob, points) - np.log(inside.mean())
    mixed = Chain(
        points,
        chain.space,
        log_prob=np.logaddexp(np.log1p(-share) + log_learned(points), np.log(share) + log_q),
        weights=np.concatenate([(1.0 - share) * chain.probabilities, np.full(len(theta), share / len(theta))]),
        weights_kind="importance",
        rows="independent",
        log_evidence=0.0,
        log_evidence_error=0.0,
        info=chain.info,
    )
    return _weighted(mixed, np.concatenate([log_p, log_density(theta)]))


def _weighted(chain: Chain, log_p: FloatArray) -> Chain:
    """Returns draws with log density, weighted to the density that has `log_p` (n,) at them."""
    assert chain.log_prob is not None
    possible = np.isfinite(log_p)
    if not possible.any():
        raise ValueError(
            "combine: densities: expected a product above zero; the densities are zero at all of its draws."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlowPriorWarning)  # a guard says it
        return reweight(chain, np.where(possible, log_p - chain.log_prob, -np.inf))


def _softened(made: Chain) -> Chain:
    """Returns draws with a root of their weights, so that enough of them are effective to train a flow, if they can."""
    made = made.take(np.flatnonzero(made.probabilities > 0.0))
    weights = made.probabilities
    for _ in range(_ROOTS):
        if kish(weights) >= max(_LEAST, _PER_PARAMETER * made.dim):
            break
        weights = np.sqrt(weights)
        weights /= weights.sum()
    return made.replace(weights=weights)


def _rank(made: Chain) -> tuple[bool, float]:
    """Returns what makes draws better than others: a reliable k, and then their effective number."""
    record = made.info["psis"]
    return record["pareto_k"] <= RELIABLE, record["effective_size"]
