"""evidence: the log evidence of a finished chain, of any sampler, with flows trained on its own rows.

A flow is trained on each half of the chain and used on the other half, so every row meets the flow that has not seen
it. The flows learn from the positions of the rows alone, and not from their log density. If the rows do not follow the
log density, estimates from different regions therefore disagree.

This module has the steps. The estimates are in bridge.py and harmonic.py, their common error is in crossed.py, and the
checks in words are in evidence_report.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from .._util.batches import in_float64
from .._util.checks import FloatArray, float_array, positive_int
from .._util.messages import FlowPriorWarning
from ..chains.chain import Chain
from ..chains.edges import off_the_edges
from ..flows.config import FlowConfig
from ..priors.moments import draws_of
from ..training.called import CalledDensity
from ..training.config import TrainConfig
from ..training.fit import fit_flow, uninterrupted
from .bridge import bridge, overlap
from .crossed import Crossed
from .evidence_report import (
    Evidence,
    EvidenceCheck,
    of_differences,
    of_error,
    of_halves,
    of_levers,
    of_methods,
    of_overlap,
    of_size,
    of_tail,
)
from .harmonic import Region, best_region, harmonic, tail_shape

BRIDGE, HARMONIC = "bridge sampling", "learned harmonic mean"

_FEWEST_ROWS = 200  # of positive weight: half of them train a flow, with a tenth held out
DRAWS = 1_000, 20_000  # draws at which the density is called: at least, at most
_LEVERS = 0.95, 0.05  # shares of the rows in two bridges, which weight the regions of high and of low p / q
_MODEST = FlowConfig(layers=4, hidden=(32,), components=8), TrainConfig(batch_size=512, max_steps=4000)
_POOR = 0.1  # nats
_COMPARED = 64  # rows at which log_prob and density are compared
_PER_ROW, _MASS_DRAWS = 4, (16_384, 262_144)  # draws of each flow for the mass of a region: per row, at least, at most


def evidence(
    key: jax.Array,
    chain: Chain,
    density: Any = None,
    *,
    prior: Any = None,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    draws: int | None = None,
    progress: bool = True,
) -> Evidence:
    """Returns the log evidence (marginal likelihood) of a chain whose unnormalised log posterior is known.

    With `density`, it is bridge sampling between the chain and flows (bridge.py). Without it, it is the learned
    harmonic mean of the log densities of the rows (harmonic.py). With `density` both are computed, and must agree. The
    log density counts as it is: the evidence is normalised if it is log prior + log likelihood, both normalised.

    The evidence of a chain that lacks a mode is that of the modes it has. No check sees this.

    Args:
        key: JAX random key.
        chain: draws from the posterior, weighted or not. Without `density`, it needs `log_prior` and `log_likelihood`,
            or `log_prob`, or `log_likelihood` and `prior`. The first of these that is there is used.
        density: a ModelDensity, an object with a function `log_posterior`, or a function, from points (n, d) to
            unnormalised log posteriors (n,). It is called at `draws` draws of the flows, and at the rows too if the
            chain has no log density, or one that differs by more than a constant.
        prior: a normalised distribution over the chain's parameters, with `log_prob`. Its log density is added to
            `chain.log_likelihood`. Not with `density`.
        config: architecture of the flows. With neither `config` nor `train` they are of modest size. If a check of the
            estimate then fails, or its error is above 0.1 nats, it is made again with flows that `fit_flow` chooses in
            pilot runs. This calls the density again.
        train: training of the flows, with the loss "nll".
        draws: number of draws of both flows together at which the density is called; None for as many as the chain has
            effective draws, from 1,000 to 20,000.
        progress: show progress bars.

    Returns:
        An Evidence. If a check fails, `trusted` is False, and a warning gives the reasons.

    Raises:
        TypeError: `chain` is not a Chain, or `density` or `prior` has no log density.
        ValueError: no log density, fewer than 200 rows of positive weight, both `prior` and `density`, a density that
            is zero at rows or at all draws, or columns that no flow can learn.

    Example:
        >>> import jax, numpy as np
        >>> from numpyro_flowprior import Chain, FlowConfig, ParameterSpace, TrainConfig, evidence
        >>> x = np.random.default_rng(0).normal(size=(1000, 2))
        >>> chain = Chain(x, ParameterSpace(["a", "b"]), log_prob=-0.5 * np.sum(x**2, axis=1))
        >>> small = {"config": FlowConfig(layers=1, hidden=(8,)), "train": TrainConfig(max_steps=200)}
        >>> found = evidence(jax.random.key(0), chain, progress=False, **small)
        >>> bool(abs(found.log_evidence - np.log(2 * np.pi)) < 0.1), found.method
        (True, 'learned harmonic mean')
    """
    _require(chain, density, prior, train)
    chain = off_the_edges(chain if chain.weights is None else chain.take(np.flatnonzero(chain.weights > 0.0)))
    if chain.n < _FEWEST_ROWS:
        raise ValueError(
            f"evidence: chain: expected at least {_FEWEST_ROWS} rows of positive weight; got {chain.n}. Run longer."
        )
    called = None if density is None else CalledDensity(_with_log_posterior(density), chain.space)
    draws = int(np.clip(chain.effective_size, *DRAWS)) if draws is None else positive_int(draws, "evidence: draws")
    rows = {"effective draws": of_size(chain)}
    known = _log_density_of_rows(chain, prior)
    log_p = known if called is None else _called_at_rows(called, chain, known, rows)
    if log_p is None:
        raise ValueError(
            "evidence: chain: expected a log density of the rows: log_prior and log_likelihood, or log_prob, or "
            "log_likelihood and the argument prior; got none. Add it with chain.replace(log_prob=...), or pass density."
        )
    estimated = partial(_estimated, key, chain, log_p, called, rows, draws=draws)
    if config is not None or train is not None:
        found = estimated(config, train, progress=progress)
    else:
        found = estimated(*_MODEST, progress=progress)
        poor = not found.trusted or found.error > _POOR
        if poor and all(check.passed for check in rows.values()):  # of rows that have no other problem
            found = estimated(None, None, progress=progress)
    if not found.trusted:
        reasons = "; ".join(f"{name}: {check.text}" for name, check in found.checks.items() if not check.passed)
        warnings.warn(
            f"evidence: the estimate is not to be trusted ({reasons}). Run the chain longer, train longer, or pass "
            "density; if rows and density disagree, find out which of them belongs to another posterior.",
            FlowPriorWarning,
            stacklevel=2,
        )
    return found


def _estimated(
    key: jax.Array,
    chain: Chain,
    log_p: FloatArray,
    called: CalledDensity | None,
    checks: Mapping[str, EvidenceCheck],
    config: FlowConfig | None,
    train: TrainConfig | None,
    *,
    draws: int,
    progress: bool,
) -> Evidence:
    """Returns the evidence by flows with these settings, and its checks besides those of the rows."""
    key_split, *keys = jax.random.split(key, 3)
    halves = chain.deal(key_split, [0.5, 0.5])
    fit = partial(fit_flow, config=config, train=train, trust_log_prob=False, progress=progress)
    number = max(int(np.clip(_PER_ROW * chain.n, *_MASS_DRAWS)), draws)
    judged = [
        _judge(each, fit, chain, log_p, trained, (number, max(1, draws // 2)))
        for each, trained in zip(keys, halves, strict=True)
    ]
    mean, of_mean = _by_harmonic_mean(chain, log_p, judged)
    if called is None:
        return _with_verdict({HARMONIC: mean}, {**checks, **of_mean}, 0)
    bridged, of_bridge = _by_bridge(chain, log_p, judged, called)
    agreement = of_methods(bridged.minus(mean), of_mean["tail"])
    found = {**checks, **of_bridge, "agreement of methods": agreement}
    return _with_verdict({BRIDGE: bridged, HARMONIC: mean}, found, called.calls)


def _require(chain: Any, density: Any, prior: Any, train: Any) -> None:
    if not isinstance(chain, Chain):
        raise TypeError(f"evidence: chain: expected a Chain; got {type(chain).__name__}. See read_chain.")
    if prior is not None and density is not None:
        raise ValueError("evidence: expected prior or density; got both. A density is log prior + log likelihood.")
    if prior is not None and not hasattr(prior, "log_prob"):
        raise TypeError(f"evidence: prior: expected a distribution with log_prob; got {type(prior).__name__}.")
    if prior is not None and chain.log_likelihood is None:
        raise ValueError(
            "evidence: chain: expected log_likelihood, to which the log density of prior is added; got none. Add it "
            "with chain.replace(log_likelihood=...), or leave prior out if log_prob has the prior."
        )
    if train is not None and train.loss != "nll":
        raise ValueError(
            f'evidence: train: expected the loss "nll"; got "{train.loss}". The flows learn from the rows alone.'
        )


def _with_log_posterior(density: Any) -> Any:
    """Returns a density that `CalledDensity` takes: an object without names is its function."""
    function = getattr(density, "log_posterior", None)
    return density if function is None or hasattr(density, "names") else function


def _log_density_of_rows(chain: Chain, prior: Any) -> FloatArray | None:
    """Returns the unnormalised log posterior (n,) that the chain knows; None if it knows none."""
    log_prior = chain.log_prior
    if prior is not None:
        with jax.enable_x64(True):
            log_prior = float_array(np.asarray(prior.log_prob(chain.samples)), "evidence: prior", shape=(chain.n,))
        _require_positive(log_prior, "prior")
    if log_prior is not None and chain.log_likelihood is not None:
        return log_prior + chain.log_likelihood
    return chain.log_prob


def _called_at_rows(
    called: CalledDensity, chain: Chain, known: FloatArray | None, checks: dict[str, EvidenceCheck]
) -> FloatArray:
    """Returns the log density (n,) of the rows. To save calls, it is that of the chain if it differs by a constant."""
    if known is not None:
        some = np.unique(np.linspace(0, chain.n - 1, _COMPARED).astype(int))
        values = called(chain.samples[some])
        _require_positive(values, "density")
        checks["log_prob of the rows"] = of_differences(known[some], values)
        if checks["log_prob of the rows"].passed:
            return known + np.mean(values - known[some])
    values = called(chain.samples)
    _require_positive(values, "density")
    return values


def _require_positive(log_density: FloatArray, subject: str) -> None:
    zero = ~np.isfinite(log_density)
    if zero.any():
        raise ValueError(
            f"evidence: {subject}: expected a density above zero at the rows of the chain; it is zero or undefined at "
            f"{zero.sum()} of {len(zero)}. Does it have the same bounds and the parameters in the same order?"
        )


@dataclass(frozen=True)
class _Judged:
    """The rows of one half, and the flow that was trained on the other half.

    Attributes:
        probabilities: (n,) weights of the rows of this half, which sum to one; zero for those that trained the flow.
        log_q: (n,) log density of the flow at all rows.
        points: (m, d) the first draws of the flow.
        log_q_of_draws: (k,) log density of the flow at all its draws.
        regions: the region of the flow for the harmonic mean, and its inner part.
    """

    probabilities: FloatArray
    log_q: FloatArray
    points: FloatArray
    log_q_of_draws: FloatArray
    regions: tuple[Region, Region]


def _judge(
    key: jax.Array, fit: Any, chain: Chain, log_p: FloatArray, trained: np.ndarray, numbers: tuple[int, int]
) -> _Judged:
    """Trains a flow on some rows, chooses its region on them, and looks at all rows, and at draws of the flow."""
    key_fit, key_draws = jax.random.split(key)
    prior = uninterrupted(fit(key_fit, chain.take(trained)))
    points, log_q = draws_of(prior, key_draws, numbers[0]), in_float64(prior.log_prob, chain.samples)
    log_q_of_draws = in_float64(prior.log_prob, points)
    used = np.ones(chain.n, bool)
    used[trained] = False
    own, others = (np.where(rows, chain.probabilities, 0.0) for rows in (used, ~used))
    regions = best_region(chain, log_p, log_q, others / others.sum(), log_q_of_draws)
    return _Judged(own / own.sum(), log_q, points[: numbers[1]], log_q_of_draws, regions)


def _by_bridge(
    chain: Chain, log_p: FloatArray, judged: list[_Judged], called: CalledDensity
) -> tuple[Crossed, dict[str, EvidenceCheck]]:
    """Returns the log evidence by bridge sampling over both halves, and its checks."""
    ratios = [called(half.points) - half.log_q_of_draws[: len(half.points)] for half in judged]
    for ratio in ratios:
        if not np.isfinite(ratio).any():
            raise ValueError(
                "evidence: density: expected a density above zero at some draws of a flow that was trained on the "
                "chain; it is zero or undefined at all of them. Is it the density of these rows?"
            )
    sizes = [max(1.0, chain.effective_size * float(np.mean(half.probabilities > 0.0))) for half in judged]
    shares = [size / (size + len(half.points)) for size, half in zip(sizes, judged, strict=True)]

    def bridges(at: list[float]) -> Crossed:
        return Crossed(
            chain,
            *(
                bridge(log_p - half.log_q, half.probabilities, ratio, share)
                for half, ratio, share in zip(judged, ratios, at, strict=True)
            ),
        )

    found, near_rows, near_draws = bridges(shares), *(bridges([lever] * 2) for lever in _LEVERS)
    both = zip(ratios, (found.first, found.second), shares, strict=True)
    return found, {
        "overlap": of_overlap(min(overlap(ratio, each.log_z, share) for ratio, each, share in both)),
        "halves": of_halves(found),
        "rows follow the density": of_levers(near_rows.minus(near_draws), "bridge near the rows minus near the draws"),
    }


def _by_harmonic_mean(
    chain: Chain, log_p: FloatArray, judged: list[_Judged]
) -> tuple[Crossed, dict[str, EvidenceCheck]]:
    """Returns the learned harmonic mean over both halves, and its checks."""
    found, inner = (
        Crossed(
            chain,
            *(harmonic(log_p, half.log_q, half.probabilities, half.log_q_of_draws, half.regions[j]) for half in judged),
        )
        for j in (0, 1)
    )
    return found, {
        "tail": of_tail(max(tail_shape(each) for each in (found.first, found.second)), found.error),
        "halves": of_halves(found),
        "rows follow the density": of_levers(found.minus(inner), "region of the flow minus its inner part"),
    }


def _with_verdict(estimates: dict[str, Crossed], checks: dict[str, EvidenceCheck], calls: int) -> Evidence:
    numbers = {method: (estimate.log_z, estimate.error) for method, estimate in estimates.items()}
    method, (log_evidence, error) = next(iter(numbers.items()))
    checks["error"] = of_error(error)
    return Evidence(log_evidence, error, method, checks, numbers, calls)
