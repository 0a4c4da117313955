"""quality_report: tests of a prior against a held-out chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._util.batches import in_batches
from .._util.checks import FloatArray, shorten
from .._util.keys import seed_from_key
from ..chains.chain import Chain
from ..chains.edges import off_the_edges
from ..chains.parameters import ParameterSpace
from ..flows.build import build_outer
from ..flows.config import FlowConfig
from ..priors.flow_prior import FlowPrior
from ..priors.moments import draws_of
from .comparison import Comparison, compare
from .coverage import density_tails, extrapolation, marginal_tails, uniformity
from .independent import independent_rows
from .posterior_divergence import posterior_divergence
from .report import QualityReport
from .straight_edges import ENOUGH, straight_edges
from .two_sample import classifier_test
from .verdict import verdict_of

_BATCH = 4096  # rows in one compiled call; with the same shape for every chain, it is compiled once per configuration
_COUNTS = 1e-3  # rows with a smaller fraction of the mean weight are ignored in `worst`
_MOST_ROWS = 20_000  # independent rows compared with the prior draws, at most
_DRAWS = 4  # prior draws per independent row; at least one batch in total
_MOST_CLASSIFIED = 10_000  # rows that the classifier uses, at most; and twice as many draws
_PER_CELL = 10  # rows per cell of the two-dimensional histograms
_BINS = (3, 75)  # smallest and largest number of bins along each axis
_REPEATS = (16, 64)  # random divisions for the noise floors; fewer with many pairs, which all contribute to the scatter
_BOX_POINTS = 2000
_MOST_SEEN = 200_000  # training rows of longer chains are not used, because they have many held-out rows
_FEWEST_ROWS = 10  # with fewer independent rows the tests use dependent rows, and differences only warn


def quality_report(key: jax.Array, prior: FlowPrior, chain: Chain, *, seen: Chain | None = None) -> QualityReport:
    """Returns a report on the differences between the prior and a held-out chain.

    The tests use rows of the chain that are nearly independent and have equal weight. They make no other assumption. A
    correct prior gets a warning in at most one of a thousand reports (diagnostics.verdict). With fewer than 200
    effective rows there is always a warning. With fewer than 30 independent rows a prior does not fail, unless its
    density is zero or undefined at some row, or its draws repeat.

    Args:
        key: JAX random key for the prior draws.
        prior: the prior to test.
        chain: held-out draws; columns are found by name.
        seen: the training rows. If there are few held-out rows, straight edges are searched for in the training rows.

    Raises:
        ValueError: the chain lacks a parameter of the prior, or has rows outside the support of the prior; or all
            prior draws of a parameter are equal.
    """
    chain = _matching(prior, chain)
    key_rows, key_draws, key_numpy = jax.random.split(key, 3)
    generator = np.random.default_rng(seed_from_key(key_numpy))
    x, log_q, log_gauss = _at(prior, chain.samples)
    mean, error = _mean_and_error(log_q, chain)
    gain, gain_error = _mean_and_error(log_q - log_gauss, chain)
    independent = independent_rows(key_rows, chain, log_q, _MOST_ROWS)
    chosen = generator.permutation(independent if len(independent) >= _FEWEST_ROWS else _any_rows(chain))
    rows = chain.samples[chosen]
    draws = draws_of(prior, key_draws, max(_DRAWS * len(rows), _BATCH))
    repeated = _repeated(prior.names, draws)
    x_draws, log_q_draws, _ = _at(prior, draws[: max(2 * len(rows), _BATCH)])
    log_q_rows = np.nan_to_num(log_q[chosen], nan=-np.inf)
    log_q_draws = np.nan_to_num(log_q_draws, nan=-np.inf)
    loss, loss_error = _loss(chain, log_q)
    box = _outer_coordinates(prior, _box_points(generator, prior.space, rows))[0]
    few = slice(0, _MOST_CLASSIFIED)
    report = QualityReport(
        rows=chain.n,
        effective_size=chain.effective_size,
        independent_rows=len(independent),
        undefined=int((~np.isfinite(log_q)).sum()),
        log_density=mean,
        log_density_error=error,
        gain=gain,
        gain_error=gain_error,
        worst=float((log_q - log_gauss)[chain.probabilities * chain.n > _COUNTS].min()),
        comparison=_compared(chain, rows, draws),
        density_ranks=uniformity(log_q_rows, log_q_draws),
        ranks={name: uniformity(rows[:, j], draws[:, j]) for j, name in enumerate(prior.names)},
        tails=(*density_tails(log_q_rows, log_q_draws), *marginal_tails(prior.names, rows, draws)),
        classifier=classifier_test(generator, x[chosen][few], x_draws[: 2 * min(len(rows), _MOST_CLASSIFIED)]),
        extrapolation=extrapolation(generator, x[chosen], x_draws, box),
        loss=loss,
        loss_error=loss_error,
        repeated=repeated,
        edges=straight_edges(prior.names, _more_rows(key_rows, prior, rows, seen), draws),
    )
    verdict, reasons = verdict_of(report)
    return replace(report, verdict=verdict, reasons=reasons)


def _more_rows(key: jax.Array, prior: FlowPrior, rows: FloatArray, seen: Chain | None) -> FloatArray:
    """Returns independent rows of equal weight, in random order: held-out rows, or training rows if these are few."""
    if seen is None or len(rows) >= ENOUGH or seen.n > _MOST_SEEN:
        return rows
    seen = seen.select(prior.names)
    chosen = independent_rows(key, seen, np.empty((seen.n, 0)), ENOUGH)
    return seen.samples[np.random.default_rng(seed_from_key(key)).permutation(chosen)]


def _repeated(names: Sequence[str], draws: FloatArray) -> dict[str, int]:
    """Returns the number of distinct values of each parameter with far fewer distinct draws than expected."""
    found = {}
    for name, column in zip(names, draws.T, strict=True):
        distinct = len(np.unique(column))
        numbers = 2.0 * column.std() / np.spacing(np.abs(column).max())  # float64 values within one sigma
        if distinct == 1:
            raise ValueError(
                f"quality_report: expected draws of {name!r} that differ; got {column[0]:.17g} for all. The prior is "
                "not a density."
            )
        if distinct < 0.5 * min(len(column), numbers):
            found[name] = distinct
    return found


def _any_rows(chain: Chain) -> np.ndarray:
    """Returns the numbers of at most a thousand rows of positive weight, which may be dependent."""
    counted = np.flatnonzero(chain.probabilities > 0.0)
    return counted[:: len(counted) // 1000 + 1]


def _matching(prior: FlowPrior, chain: Chain) -> Chain:
    missing = [name for name in prior.names if name not in chain.names]
    if missing:
        raise ValueError(f"chain: expected the prior's parameters; {shorten(missing, 40)} missing from {chain.names}.")
    chain = chain.select(prior.names)
    outside = ~prior.space.contains(chain.samples)
    if outside.any():
        raise ValueError(
            f"chain: expected rows inside the prior's support; got {int(outside.sum())} of {chain.n} outside, where "
            "its density is zero. The prior was trained for other bounds."
        )
    return off_the_edges(chain.replace(space=prior.space))


def _compared(chain: Chain, rows: FloatArray, draws: FloatArray) -> Comparison:
    """Returns the comparison of rows and draws, from histograms of their ranks among the draws.

    Divergences do not depend on the coordinates, but histograms do. Those of a narrow chain in a wide box show nothing.
    """
    unit = ParameterSpace(chain.names, 0.0, 1.0)
    sorted_draws = np.sort(draws, axis=0)
    ranks = [Chain(_ranks(values, sorted_draws), unit, rows="independent") for values in (rows, draws)]
    bins = int(np.clip(np.sqrt(len(rows) / _PER_CELL), *_BINS))
    pairs = chain.dim * (chain.dim - 1) // 2
    repeats = int(np.clip(_REPEATS[1] // max(pairs, 1), *_REPEATS))
    found = compare(*ranks, bounds="declared", bins=bins, repeats=repeats, modes={}, classify=False)
    sigma = np.sqrt(np.diagonal(chain.covariance()))
    return replace(found, shift=(draws.mean(axis=0) - chain.mean()) / sigma, width_ratio=draws.std(axis=0) / sigma)


def _ranks(values: FloatArray, sorted_draws: FloatArray) -> FloatArray:
    columns = [np.searchsorted(known, column) for known, column in zip(sorted_draws.T, values.T, strict=True)]
    return np.stack(columns, axis=1) / len(sorted_draws)


def _box_points(generator: np.random.Generator, space: ParameterSpace, rows: FloatArray) -> FloatArray:
    bounds = space.bounds
    low = np.where(np.isfinite(bounds[:, 0]), bounds[:, 0], rows.min(axis=0))
    high = np.where(np.isfinite(bounds[:, 1]), bounds[:, 1], rows.max(axis=0))
    return low + (high - low) * generator.random((_BOX_POINTS, space.dim))


def held_out_log_densities(prior: FlowPrior, chain: Chain) -> tuple[FloatArray, FloatArray]:
    """Returns log q and the log density of the Gaussian baseline at the rows of a chain, (n,) each, in float64."""
    return _at(prior, chain.samples)[1:]


def _at(prior: FlowPrior, theta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns whitened coordinates (n, d), log q (n,) and the Gaussian baseline's log density (n,) at points (n, d)."""
    log_q = _in_batches(prior.log_prob, theta)
    x, log_det = _outer_coordinates(prior, theta)
    return x, log_q, log_det - 0.5 * np.sum(x * x + np.log(2.0 * np.pi), axis=1)


def _outer_coordinates(prior: FlowPrior, theta: FloatArray) -> tuple[FloatArray, ...]:
    """Returns the coordinates (n, d) in which the training chain is white, and log |det dx / dtheta| (n,)."""
    return _in_batches(lambda p: _inverse(prior._arrays(), p, **prior._static()), theta)


@partial(jax.jit, static_argnames=("config", "space"))
def _inverse(
    params: Any, theta: jax.Array, *, config: FlowConfig, space: ParameterSpace
) -> tuple[jax.Array, jax.Array]:
    return build_outer(space, params, theta.dtype).inverse_and_log_det(theta)


def _in_batches(function: Callable[[jax.Array], Any], rows: FloatArray) -> Any:
    with jax.enable_x64(True):
        return in_batches(lambda points: function(jnp.asarray(points)), rows, size=_BATCH)


def _mean_and_error(values: FloatArray, chain: Chain) -> tuple[float, float]:
    counted = chain.probabilities > 0.0
    mean = float(chain.probabilities[counted] @ values[counted])
    if not np.isfinite(mean):
        return mean, float("nan")
    return mean, float(chain.mean_and_error(values)[1])


def _loss(chain: Chain, log_q: FloatArray) -> tuple[float, float]:
    """Returns the KL from the log density of the chain to the prior, nats, and its error; NaN without a log density."""
    if chain.log_prob is None or not np.isfinite(log_q[chain.probabilities > 0]).all():
        return float("nan"), float("nan")
    return posterior_divergence(log_q - chain.log_prob, chain.probabilities, chain.dependence)
