"""swap_prior: the posterior of an analysis under another prior."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import numpyro

from .._util.batches import in_float64
from .._util.checks import FloatArray, one_of, positive_int
from .._util.messages import FlowPriorWarning
from ..chains.chain import Chain
from ..diagnostics.comparison import compare
from ..diagnostics.importance import RELIABLE
from ..flows.config import FlowConfig
from ..priors.moments import draws_of
from ..priors.named import Divisor, NamedPrior, log_ratio
from ..priors.protocol import ParameterPrior
from ..sampling.density import ModelDensity
from ..sampling.record import require_sampler
from ..sampling.reweight import reweight
from ..sampling.weighted_draws import near_draws
from ..training.config import TrainConfig
from ..training.fit import fit_flow, uninterrupted
from .factors import of_answer
from .findings import FEW_ROWS

METHODS = ("auto", "reweight", "learned likelihood")
_MILD = 0.5  # Pareto k below which weights have a variance
_MODE = 3.0  # standard errors by which the share of a mode may differ
_DRAWS = 4000  # draws of the new prior
_BEYOND = 0.01  # share of them where the old prior is zero above which a warning says so


def swap_prior(
    key: jax.Array,
    chain: Chain,
    old: Any,
    new: Any,
    *,
    method: str = "auto",
    posterior: ParameterPrior | None = None,
    draws: int = 4096,
    sampler: Callable[..., Chain] | None = None,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    progress: bool = True,
    **options: Any,
) -> Chain:
    """Returns the posterior of an analysis under another prior.

    Its rows are weighted by new prior / old prior. If 100 of them are effective, and Pareto k is below 0.5, that is the
    result: the errors of its averages are then right. Otherwise a flow is trained on the chain, and the learned
    likelihood is sampled under the new prior. The weighted rows are still the result if Pareto k is at most 0.7 and
    both agree in means, widths and shares of modes. If they do not, a warning says so. The weighted rows are then the
    result unless the flow was trained on the log density of the rows, from which it learns more than the rows show.
    Otherwise the draws of the learned likelihood are the result.

    Args:
        key: JAX random key.
        chain: the posterior under the old prior.
        old: what the analysis assumed, as for `LearnedLikelihood`.
        new: the new prior, of the same kinds.
        method: "reweight" or "learned likelihood" to have one of them only.
        posterior: the learned posterior, if it is trained already.
        draws, sampler: of the learned likelihood, as for `combine`. After NUTS and emcee there is no log evidence.
        config, train, progress: as for `fit_flow`.
        **options: further arguments of the sampler.

    Returns:
        A Chain whose `info["swap_prior"]` says by which method it was made, and why. A log evidence is that under the
        new prior: the chain's, plus the change.

    Raises:
        TypeError, ValueError: a prior that does not have the chain's parameters, or an old prior that is zero at rows.
    """
    one_of(method, "swap_prior: method", METHODS)
    positive_int(draws, "swap_prior: draws")
    require_sampler("swap_prior", sampler, options)
    before, after = (NamedPrior(given, chain.space, f"swap_prior: {n}") for n, given in (("old", old), ("new", new)))
    log_old, log_new = (in_float64(prior.log_prob, chain.samples) for prior in (before, after))
    impossible = int(np.sum(~np.isfinite(log_old) & (chain.probabilities > 0)))
    if impossible:
        raise ValueError(
            f"swap_prior: old: expected the prior that the analysis assumed; got one that is zero at {impossible} of "
            f"{chain.n} rows. Look at bounds and units."
        )
    divisor = Divisor(before, chain.samples, chain.probabilities)
    _warn_of_mass_beyond(divisor, after)
    weighted = _weighted(chain, np.where(np.isfinite(log_old), log_new - log_old, -np.inf), log_new)
    recorded = partial(_recorded, weighted)
    if method == "reweight" or (method == "auto" and _is_mild(weighted)):
        if weighted is None:
            raise ValueError("swap_prior: new: expected a prior above zero at some rows; it is zero at all of them.")
        return recorded(weighted, "reweight", "asked for" if method == "reweight" else "mild weights", taught=True)
    key_fit, key_sample = jax.random.split(key)
    if posterior is None:
        posterior = uninterrupted(fit_flow(key_fit, chain, config, train, progress=progress))
    taught = _is_taught(posterior)
    settings: dict[str, Any] = {"config": config, "train": train, "progress": progress}
    drawn = _sampled(key_sample, posterior, divisor, after, chain, draws, sampler, options, settings)
    if method == "learned likelihood":
        return recorded(drawn, method, "asked for", taught=taught)
    difference = _difference(weighted, drawn)
    if weighted is not None and not difference:
        return recorded(weighted, "reweight", "the learned likelihood gives the same", taught=taught)
    if weighted is not None and weighted.info["psis"]["pareto_k"] <= RELIABLE:
        which = "draws of the learned likelihood" if taught else "rows"
        why = "was taught by the log density of the rows" if taught else "was not taught by a log density (log_prob)"
        warnings.warn(
            f"swap_prior: weighted rows and learned likelihood disagree: {difference}. The {which} are the result, "
            f"because the flow {why}. Run the analysis again with the new prior.",
            FlowPriorWarning,
            stacklevel=2,
        )
        if not taught:
            return recorded(weighted, "reweight", difference, taught=taught)
    return recorded(drawn, "learned likelihood", difference, taught=taught)


def _is_taught(posterior: ParameterPrior) -> bool:
    """Returns whether a flow was trained on the log density of the rows, and not on their positions alone."""
    info = getattr(posterior, "info", {})
    return "live" in info or info.get("training", {}).get("loss", "nll") != "nll"


def _weighted(chain: Chain, log_weights: FloatArray, log_new: FloatArray) -> Chain | None:
    """Returns the rows under the new prior; None if it is zero at all of them."""
    if not (log_weights[chain.probabilities > 0] > -np.inf).any():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # judged here
        made = reweight(chain, log_weights)
    rows = np.isfinite(log_weights)
    log_likelihood = None if chain.log_likelihood is None else chain.log_likelihood[rows]
    log_prob = made.log_prob if log_likelihood is None else log_new[rows] + log_likelihood
    return made.replace(log_prior=log_new[rows], log_likelihood=log_likelihood, log_prob=log_prob)


def _is_mild(weighted: Chain | None) -> bool:
    """Returns whether the weights have a variance, and enough rows: then errors of the weighted rows are right."""
    if weighted is None:
        return False
    record = weighted.info["psis"]
    return bool(record["effective_size"] >= FEW_ROWS[1] and record["pareto_k"] < _MILD)


def _sampled(
    key: jax.Array,
    posterior: ParameterPrior,
    old: Divisor,
    new: NamedPrior,
    chain: Chain,
    draws: int,
    sampler: Callable[..., Chain] | None,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Chain:
    """Returns draws of the learned likelihood under the new prior."""
    named = NamedPrior(posterior, chain.space, "swap_prior: posterior")
    columns = np.array([posterior.space.index(name) for name in chain.names])
    log_likelihood_at = partial(log_ratio, named, old)

    def model() -> None:
        theta = numpyro.sample("theta", posterior)
        numpyro.factor("prior", log_ratio(new, old, theta[..., columns]))

    def log_density(theta: FloatArray) -> FloatArray:
        found = in_float64(log_likelihood_at, theta) + in_float64(new.log_prob, theta)
        return np.where(chain.space.contains(theta), found, -np.inf)

    if sampler is None:
        made = near_draws(key, [named, new], log_density, lambda: ModelDensity(model), draws=draws, **settings)
    else:
        made = sampler(key, ModelDensity(model), progress=settings["progress"], **options).select(chain.names)
    log_prior = in_float64(new.log_prob, made.samples)
    log_likelihood = in_float64(log_likelihood_at, made.samples)
    log_evidence = _sum(chain.log_evidence, made.log_evidence)
    variance = _sum(_square(chain.log_evidence_error), _square(made.log_evidence_error))
    return made.replace(
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        log_prob=log_prior + log_likelihood,
        log_evidence=log_evidence,
        log_evidence_error=None if variance is None else float(np.sqrt(variance)),
    )


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _square(value: float | None) -> float | None:
    return None if value is None else value**2


def _difference(weighted: Chain | None, drawn: Chain) -> str:
    """Returns what the weighted rows lack, compared with the learned likelihood; empty if nothing."""
    if weighted is None:
        return "the new prior is zero at all rows"
    k = weighted.info["psis"]["pareto_k"]
    if k > RELIABLE:
        return f"Pareto k of the weighted rows is {k:.2f}"
    found = of_answer("the chain", weighted, drawn)
    if found.verdict in ("warn", "fail"):
        return f"the weighted rows give another answer: {found.text}"
    for mode in compare(weighted.select(drawn.names), drawn, classify=False, repeats=1).modes:
        worst = int(np.argmax(np.abs(mode.pulls)))
        if abs(mode.pulls[worst]) > _MODE:
            shares = f"{mode.b[worst]:.3f}, not {mode.a[worst]:.3f} as in the weighted rows"
            return f"a mode of {mode.parameter!r} has a share of {shares}"
    return ""


def _recorded(weighted: Chain | None, made: Chain, method: str, why: str, *, taught: bool) -> Chain:
    """Returns the chain with a record of how it was made; warns if few rows of the analysis carry it."""
    size = 0.0 if weighted is None else float(weighted.info["psis"]["effective_size"])
    k = np.inf if weighted is None else weighted.info["psis"]["pareto_k"]
    if size < FEW_ROWS[0] or k > RELIABLE:
        warnings.warn(
            f"swap_prior: {size:.3g} effective rows of the chain carry the new posterior, with a Pareto k of {k:.2f}; "
            f"expected {FEW_ROWS[0]:.0f} or more, and a k up to {RELIABLE}. Part of the new posterior lies where the "
            "chain has few rows, and there the result is an extrapolation. Run the analysis again with the new prior"
            f"{'' if taught else ', or pass the log density of each row (log_prob), which teaches the tails'}.",
            FlowPriorWarning,
            stacklevel=3,
        )
    record = {"method": method, "why": why, "effective_rows": size, "pareto_k": k}
    return made.replace(info={**made.info, "swap_prior": record})


def _warn_of_mass_beyond(old: Divisor, new: NamedPrior) -> None:
    draws = draws_of(new, jax.random.key(0), _DRAWS)
    beyond = float(np.mean(old.beyond(draws)))
    if beyond > _BEYOND:
        if old.level == -np.inf:
            where, there = "the old one is zero", "and the result has no mass there"
        else:
            where, there = "the old one, which is learned, has next to no draws", "and the result is arbitrary there"
        warnings.warn(
            f"swap_prior: {100 * beyond:.0f} % of the new prior lies where {where}. The analysis says nothing about "
            f"the likelihood there, {there}.",
            FlowPriorWarning,
            stacklevel=3,
        )
