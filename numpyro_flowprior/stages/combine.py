"""combine: the joint posterior of analyses that share parameters, from the posterior of each.

With posteriors q_i, their priors pi_i and the prior pi of the result, on the shared parameters,

    p(theta) = pi(theta) prod_i q_i(theta) / pi_i(theta) / R

where log R is the log Bayes factor of one set of parameters for all data against one set for each: the evidence of all
data divided by the product of their evidences, which the normalised densities contain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
import numpyro
from numpy.typing import ArrayLike
from scipy.special import softmax

from .._util.batches import in_float64
from .._util.checks import FloatArray, float_array, positive_int, shorten
from .._util.display import Displayed, columns_of_text
from ..chains.chain import Chain
from ..chains.effective import kish
from ..chains.parameters import ParameterSpace
from ..flows.config import FlowConfig
from ..likelihoods.learned import LearnedLikelihood
from ..priors.moments import draws_of
from ..priors.named import NamedPrior, log_ratio
from ..priors.protocol import ParameterPrior
from ..sampling.density import ModelDensity
from ..sampling.evidence import evidence
from ..sampling.record import require_sampler
from ..sampling.weighted_draws import near_draws
from ..training.config import TrainConfig
from ..training.fit import FlowFit, fit_flow, uninterrupted
from ..training.marginal import fit_marginal
from .agreement import Suspiciousness, suspiciousness
from .called import CalledPosterior, called_posteriors, drawn_from_exact
from .factors import Factor, judged, reliable, reweighted
from .guards import Guards
from .halved_rows import HalvedRows, with_rows

_LOOKED_AT = 4000  # draws of each posterior, to see how many carry the product


@dataclass(frozen=True, repr=False)
class Combined(Displayed):
    """The joint posterior of several analyses.

    Attributes:
        chain: draws of the joint posterior. Its log likelihood is that of all data divided by the product of their
            evidences, so that its log evidence is the log Bayes factor.
        posteriors: the learned density of the shared parameters in each analysis.
        prior: the prior of the result.
        log_bayes_factor: log R, nats; positive if the data prefer common parameters.
        log_bayes_factor_error: its standard error, from the draws and, unless `splits=0`, from the rows of the chains.
        suspiciousness: the Bayes factor without its dependence on the width of the prior, and the tension in sigma.
        reweighted: rows of each analysis whose chain is known, weighted to the joint posterior, with columns that were
            not combined; only where the weights are reliable.
        guards: whether the result can be trusted.

    The errors of `chain.mean_and_error` are those of the draws alone; those of `mean_and_error` include the rows.
    """

    chain: Chain
    posteriors: Mapping[str, ParameterPrior]
    prior: NamedPrior
    log_bayes_factor: float
    log_bayes_factor_error: float
    suspiciousness: Suspiciousness
    reweighted: Mapping[str, Chain]
    guards: Guards
    _log_density: Callable[[FloatArray], FloatArray]
    _halved: Mapping[str, HalvedRows]

    @property
    def verdict(self) -> str:
        """The worst verdict of the guards: "pass", "warn" or "fail"."""
        return self.guards.verdict

    def log_prob(self, theta: FloatArray) -> FloatArray:
        """Returns the log density (n,) at points (n, d), normalised up to the error of `log_bayes_factor`."""
        return self._log_density(theta) - self.log_bayes_factor

    def mean_and_error(self, values: ArrayLike | None = None) -> tuple[FloatArray, FloatArray]:
        """Returns the mean (k,) of functions of the draws, and its standard error (k,).

        The error is due to the finite number of draws and to the rows of the analyses whose chains were given, from the
        flows of their halves (`splits` of `combine`). These determine it with few degrees of freedom, so it is scaled:
        the mean is within 1.96 errors of the exact one with a probability of about 95 %. This holds for parameters, and
        where an analysis has rows; the errors of shares of modes are known less well. A bias that flows of all rows and
        of half of the rows share is not included. The error is not a number if no draw is near the product with the
        flow of one half.

        Args:
            values: (n, k) numbers at the rows of `chain`, or (n,) to get two numbers; None for the parameters.
        """
        array = self.chain.samples if values is None else float_array(values, "mean_and_error: values")
        mean, error = self.chain.mean_and_error(array)
        counted = array[self.chain.probabilities > 0.0].reshape(-1, np.size(error))
        return mean, with_rows(np.atleast_1d(error), self._halved.values(), counted).reshape(np.shape(error))[()]

    def fit(self, key: jax.Array, config: FlowConfig | None = None, **options: Any) -> FlowFit:
        """Returns a flow trained on the draws and then on the density itself; options are those of `fit_flow`."""
        return fit_flow(key, self.chain, config, density=self._log_density, **options)

    def _headline(self) -> str:
        together = f"log Bayes factor {self.log_bayes_factor:.2f} +- {self.log_bayes_factor_error:.2f}"
        return f"{' and '.join(self.posteriors)} on {shorten(self.chain.names)}; {together}; {self.verdict}"

    def __str__(self) -> str:
        errors = f"{self._errors()}\n" if self._halved else ""
        return f"{self.chain}\n{errors}{self._headline()}\n{self.suspiciousness}\n{self.guards}"

    def _errors(self) -> str:
        (_, of_draws), (_, error) = self.chain.mean_and_error(self.chain.samples), self.mean_and_error()
        deviation = np.sqrt(np.diag(self.chain.covariance()))
        deviation = np.where(deviation > 0.0, deviation, 1.0)
        rows = [["error of the mean, in standard deviations", "of draws", f"and of rows of {', '.join(self._halved)}"]]
        for name, *numbers in zip(self.chain.names, of_draws / deviation, error / deviation, strict=True):
            rows.append([name, *(f"{number:.3f}" for number in numbers)])
        return columns_of_text(rows)


class _Parts:
    """The densities of a combination, on its shared parameters; `exact` holds those that are called instead."""

    def __init__(self, learned: Mapping[str, ParameterPrior], space: ParameterSpace, prior: Any, priors: Any):
        self.learned, self.space = learned, space
        self.exact: dict[str, CalledPosterior] = {}
        self.prior = NamedPrior(prior, space, "combine: prior")
        self.posteriors = {name: NamedPrior(one, space, f"combine: {name!r}") for name, one in learned.items()}
        self.likelihoods = {
            name: LearnedLikelihood(one, NamedPrior(priors.get(name, prior), space, f"combine: prior of {name!r}"))
            for name, one in self.posteriors.items()
        }

    def with_exact(self, exact: dict[str, CalledPosterior]) -> _Parts:
        """Returns the same with exact densities in place of some learned ones."""
        made = copy(self)
        made.exact = exact
        return made

    def log_density(self, theta: FloatArray) -> FloatArray:
        """Returns log of pi prod q_i / pi_i, (n,), at points (n, d)."""
        return self.log_ratio(None, theta)

    def log_ratio(self, name: str | None, theta: FloatArray) -> FloatArray:
        """Returns the log density divided by the posterior of an analysis, (n,), without evaluating that posterior."""
        found = in_float64(self.prior.log_prob, theta)
        for each, likelihood in self.likelihoods.items():
            if each == name or each in self.exact:
                log_prior = in_float64(likelihood.prior.log_prob, theta)
                found = found - np.where(np.isfinite(log_prior), log_prior, np.inf)
                found = found if each == name else found + self.exact[each](theta)
            else:
                found = found + in_float64(likelihood.log_likelihood, theta)
        return found

    @cached_property
    def nearest(self) -> str:
        """The posterior most of whose draws carry the product, by name; a sampler starts from it."""
        return max(sorted(self.posteriors), key=self._carrying)

    def _carrying(self, name: str) -> float:
        """Returns the effective number of draws of a posterior, weighted to the product."""
        theta = draws_of(self.posteriors[name], jax.random.key(0), _LOOKED_AT)
        log_weights = self.log_ratio(name, theta)
        return kish(softmax(log_weights)) if np.isfinite(log_weights.max()) else 0.0

    def density(self) -> ModelDensity:
        """Returns the joint posterior with the nearest posterior as its prior; its evidence is R."""
        first = self.nearest
        begun, others = self.likelihoods[first], [one for name, one in self.likelihoods.items() if name != first]
        columns = np.array([self.learned[first].space.index(name) for name in self.space.names])

        def model() -> None:
            theta = numpyro.sample("theta", self.learned[first])[..., columns]
            numpyro.factor("prior", log_ratio(self.prior, begun.divisor, theta))
            for number, other in enumerate(others):
                other.factor(f"likelihood {number}", theta)

        return ModelDensity(model)


def combine(
    key: jax.Array,
    posteriors: Mapping[str, Chain | FlowFit | ParameterPrior],
    *,
    prior: Any,
    priors: Mapping[str, Any] | None = None,
    densities: Mapping[str, Any] | None = None,
    draws: int = 4096,
    sampler: Callable[..., Chain] | None = None,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    splits: int = 1,
    progress: bool = True,
    **options: Any,
) -> Combined:
    """Returns the joint posterior of analyses with independent data, on the parameters that they share.

    Parameters that an analysis does not share are marginalised over: a flow is trained on the shared columns of its
    chain. The product lies where one posterior or all of them have few rows. The guards therefore say how many rows of
    each analysis carry it, whether the rows of one, weighted by the likelihood of the others, give the same answer, and
    how much the answer changes if half of the rows of one are left out.

    Args:
        key: JAX random key.
        posteriors: two or more analyses by name: a chain, on which a flow is trained, or a learned posterior. The
            guards know more if there are chains.
        prior: the prior of the result, normalised, of the shared parameters: a UniformPrior, a FlowPrior, a NumPyro
            distribution in the order of the shared parameters, or a dictionary {name: distribution}.
        priors: what an analysis assumed, by its name; `prior` for those without an entry.
        densities: exact log densities, up to a constant, of posteriors that can be called, by the name of the analysis:
            a ModelDensity of exactly the shared parameters, or a function from points (n, d), in the order of the
            shared parameters, to log densities (n,). The product is sampled with the learned densities. Its draws are
            then weighted to the exact ones. If this leaves less than a quarter of them, a flow is trained on them and
            on the exact density there, and its draws are weighted, too, in three rounds at most. Nothing depends then
            on how a flow continues beyond its rows. A distribution with a log_prob is taken, too. The density is called
            at 4,000 draws of the learned posterior, at the draws of the product and of each flow, and at the rows (or
            20,000 draws) of each other analysis; `chain.info["calls"]` counts.
        draws: about the effective number of draws of the result. They are draws of all posteriors, weighted to the
            product. If too few of these carry it, `sample_pocomc` samples it, and draws of a flow of its particles are
            weighted.
        sampler: a sampler of this package, to be used instead. If it returns no evidence, as NUTS and emcee do not,
            that of its chain is used.
        config, train: as for `fit_flow`.
        splits: number of random splits of each chain into halves. Two flows are trained on the halves of each, to see
            how wrong the learned densities may be in the region of the product. With 0, no error includes the rows.
        progress: show progress bars.
        **options: further arguments of the sampler.

    Raises:
        TypeError, ValueError: fewer than two analyses; no shared parameter; a parameter whose units differ, or whose
            bounds do not overlap; a prior that does not have the parameters, or is zero where a posterior is.

    Source: Bayes factor and suspiciousness: Handley and Lemos (2019), Phys. Rev. D 100, 043504.
    """
    _require_several(posteriors, priors=priors or {}, densities=densities or {})
    positive_int(draws, "combine: draws")
    positive_int(splits, "combine: splits", minimum=0)
    require_sampler("combine", sampler, options)
    spaces = {name: _space_of(one, name) for name, one in posteriors.items()}
    shared = shared_space(spaces)
    keys = dict(zip(sorted(posteriors), jax.random.split(key, len(posteriors)), strict=True))  # in any order
    key_sample, key_judge = jax.random.split(jax.random.fold_in(key, 1))
    settings: dict[str, Any] = {"config": config, "train": train, "progress": progress}
    learned = {name: _posterior_of(keys[name], one, shared.names, settings) for name, one in posteriors.items()}
    _require_order(priors or {}, spaces, shared)
    called = called_posteriors(densities or {}, learned, shared)
    parts = _Parts(learned, shared, prior, priors or {})
    chain = _drawn(key_sample, parts, draws, sampler, options, settings)
    if called:
        log_learned, parts = parts.log_density, parts.with_exact(called)
        key_exact, log_exact = jax.random.fold_in(key_sample, 1), parts.log_density
        chain = drawn_from_exact(key_exact, chain, log_learned, log_exact, called, draws=draws, settings=settings)
    log_r, log_r_error = chain.log_evidence, chain.log_evidence_error
    assert chain.log_prob is not None
    assert log_r is not None
    log_prior = in_float64(parts.prior.log_prob, chain.samples)
    chain = chain.replace(log_prior=log_prior, log_likelihood=chain.log_prob - log_prior)
    chains = {name: one for name, one in posteriors.items() if isinstance(one, Chain)}
    factors = {
        name: Factor(name, parts.posteriors[name], chains.get(name), called[name].report if name in called else None)
        for name in posteriors
    }
    found = suspiciousness(parts.likelihoods, parts.exact, chain, log_r, one_prior=not priors)
    rows = {name: reweighted(factor, parts.log_ratio) for name, factor in factors.items()}
    if called:  # nothing below calls them
        calls = {name: each.density.calls for name, each in called.items()}
        chain = chain.replace(info={**chain.info, "calls": calls})
    guards, halved = judged(
        key_judge, factors, rows, chain, found, settings, splits=splits, sampled_by_default=sampler is None
    )
    errors = [np.nan if log_r_error is None else log_r_error, *(one.error_of_log_evidence for one in halved.values())]
    return Combined(
        chain=chain,
        posteriors=learned,
        prior=parts.prior,
        log_bayes_factor=log_r,
        log_bayes_factor_error=float(np.linalg.norm(errors)),
        suspiciousness=found,
        reweighted={name: one for name, one in rows.items() if name in chains and one is not None and reliable(one)},
        guards=guards,
        _log_density=parts.log_density,
        _halved=halved,
    )


def _drawn(
    key: jax.Array,
    parts: _Parts,
    draws: int,
    sampler: Callable[..., Chain] | None,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Chain:
    """Returns draws of the product of the learned densities, with their log density and its evidence, R."""
    if sampler is None:
        near = [parts.posteriors[name] for name in sorted(parts.posteriors)]
        return near_draws(key, near, parts.log_density, parts.density, draws=draws, **settings)
    density = parts.density()
    drawn = sampler(key, density, progress=settings["progress"], **options)
    if drawn.log_evidence is None:
        train = settings["train"]
        learning = {**settings, "train": None if train is None else replace(train, loss="nll")}
        found = evidence(jax.random.fold_in(key, 1), drawn, density, **learning)
        drawn = drawn.replace(log_evidence=found.log_evidence, log_evidence_error=found.error)
    drawn = drawn.select(parts.space.names).replace(space=parts.space)
    return drawn.replace(log_prob=parts.log_density(drawn.samples))


def _require_several(posteriors: Any, **by_name: Any) -> None:
    for argument, given in {"posteriors": posteriors, **by_name}.items():
        if not isinstance(given, Mapping):
            raise TypeError(
                f"combine: {argument}: expected a dictionary by the names of the analyses; got {type(given).__name__}."
            )
        unknown = [name for name in given if name not in posteriors]
        if unknown:
            raise ValueError(
                f"combine: {argument}: expected names of the analyses, {shorten(posteriors)}; got {shorten(unknown)}."
            )
    if len(posteriors) < 2:
        raise ValueError(f"combine: posteriors: expected two or more analyses; got {len(posteriors)}.")


def _require_order(priors: Mapping[str, Any], spaces: Mapping[str, ParameterSpace], shared: ParameterSpace) -> None:
    """Raises ValueError for a prior without names of an analysis whose parameters are in another order."""
    for name, prior in priors.items():
        own = [each for each in spaces[name].names if each in shared.names]
        named = isinstance(prior, Mapping) or isinstance(getattr(prior, "space", None), ParameterSpace)
        if not named and own != [*shared.names]:
            raise ValueError(
                f"combine: prior of {name!r}: expected names, because its parameters are in another order "
                f"({shorten(own, 40)}) than the shared ones ({shorten(shared.names, 40)}). Use a dictionary by name."
            )


def _space_of(given: Any, name: str) -> ParameterSpace:
    space = getattr(given.prior if isinstance(given, FlowFit) else given, "space", None)
    if not isinstance(space, ParameterSpace):
        raise TypeError(
            f"combine: {name!r}: expected a Chain, or a FlowPrior or another density of named parameters; got "
            f"{type(given).__name__}. See read_chain and fit_flow."
        )
    return space


def shared_space(spaces: Mapping[str, ParameterSpace]) -> ParameterSpace:
    """Returns the shared parameters, in the order of the first analysis, with bounds that all have.

    Raises:
        ValueError: none is shared, or one has other units, or bounds that do not overlap.
    """
    first, *others = spaces.values()
    names = [name for name in first.names if all(name in space.names for space in others)]
    if not names:
        listed = "; ".join(f"{name}: {shorten(space.names, 40)}" for name, space in spaces.items())
        raise ValueError(f"combine: expected analyses that share parameters, by name; got none ({listed}).")
    lower, upper, shared_units = [], [], []
    for name in names:
        columns = {of: (space, space.index(name)) for of, space in spaces.items()}
        units = {of: space.units[j] for of, (space, j) in columns.items() if space.units[j]}
        if len(set(units.values())) > 1:
            raise ValueError(
                f"combine: {name!r}: expected one unit; got {', '.join(f'{u!r} in {of}' for of, u in units.items())}. "
                "Convert the rows of one chain."
            )
        shared_units.append(next(iter(units.values()), ""))
        lower.append(max(space.lower[j] for space, j in columns.values()))
        upper.append(min(space.upper[j] for space, j in columns.values()))
        if lower[-1] >= upper[-1]:
            bounds = ", ".join(
                f"({space.lower[j]:g}, {space.upper[j]:g}) in {of}" for of, (space, j) in columns.items()
            )
            raise ValueError(
                f"combine: {name!r}: expected bounds that overlap; got {bounds}. The parameters may have the same name "
                "and another meaning."
            )
    chosen = first.select(names)
    return ParameterSpace(names, lower, upper, units=shared_units, labels=chosen.labels)


def _posterior_of(key: jax.Array, given: Any, names: tuple[str, ...], settings: Mapping[str, Any]) -> ParameterPrior:
    """Returns the learned density of the shared parameters, in their order."""
    if isinstance(given, Chain):
        return uninterrupted(fit_flow(key, given.select(names), **settings))
    prior: ParameterPrior = given.prior if isinstance(given, FlowFit) else given
    if set(prior.space.names) == set(names):
        return prior
    return uninterrupted(fit_marginal(key, prior, names, **settings))
