"""combine: the joint posterior of analyses that share parameters, from the posterior of each.

With posteriors q_i, their priors pi_i and the prior pi of the result, on the shared parameters,

    p(theta) = pi(theta) prod_i q_i(theta) / pi_i(theta) / R

where log R is the log Bayes factor of one set of parameters for all data against one set for each: the evidence of all
data divided by the product of their evidences, which the normalised densities contain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import numpyro

from .._util.batches import in_float64
from .._util.checks import FloatArray, shorten
from .._util.display import Displayed
from ..chains.chain import Chain
from ..chains.parameters import ParameterSpace
from ..flows.config import FlowConfig
from ..likelihoods.learned import LearnedLikelihood
from ..priors.moments import draws_of
from ..priors.named import NamedPrior, log_ratio
from ..priors.protocol import ParameterPrior
from ..sampling.density import ModelDensity
from ..sampling.evidence import evidence
from ..sampling.pocomc import sample_pocomc
from ..training.config import TrainConfig
from ..training.fit import FlowFit, fit_flow
from ..training.marginal import fit_marginal
from .agreement import Suspiciousness, suspiciousness
from .factors import Factor, judged, reliable, reweighted
from .guards import Guards

_ENTROPY = 4000  # draws for the entropy of a posterior


@dataclass(frozen=True, repr=False)
class Combined(Displayed):
    """The joint posterior of several analyses.

    Attributes:
        chain: draws of the joint posterior. Its log likelihood is that of all data divided by the product of their
            evidences, so that its log evidence is the log Bayes factor.
        posteriors: the density of the shared parameters in each analysis.
        prior: the prior of the result.
        log_bayes_factor: log R, nats; positive if the data prefer common parameters.
        log_bayes_factor_error: its standard error, from the sampler.
        suspiciousness: the Bayes factor without its dependence on the width of the prior, and the tension in sigma.
        reweighted: rows of each analysis whose chain is known, weighted to the joint posterior, with columns that were
            not combined; only where the weights are reliable.
        guards: whether the result can be trusted.
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

    @property
    def verdict(self) -> str:
        """The worst verdict of the guards: "pass", "warn" or "fail"."""
        return self.guards.verdict

    def log_prob(self, theta: FloatArray) -> FloatArray:
        """Returns the log density (n,) at points (n, d), normalised up to the error of `log_bayes_factor`."""
        return self._log_density(theta) - self.log_bayes_factor

    def fit(self, key: jax.Array, config: FlowConfig | None = None, **options: Any) -> FlowFit:
        """Returns a flow trained on the draws and then on the density itself; options are those of `fit_flow`."""
        return fit_flow(key, self.chain, config, density=self._log_density, **options)

    def _headline(self) -> str:
        together = f"log Bayes factor {self.log_bayes_factor:.2f} +- {self.log_bayes_factor_error:.2f}"
        return f"{' and '.join(self.posteriors)} on {shorten(self.chain.names)}; {together}; {self.verdict}"

    def __str__(self) -> str:
        return f"{self.chain}\n{self._headline()}\n{self.suspiciousness}\n{self.guards}"


class _Parts:
    """The densities of a combination, on its shared parameters."""

    def __init__(self, learned: Mapping[str, ParameterPrior], space: ParameterSpace, prior: Any, priors: Any):
        self.learned, self.space = learned, space
        self.prior = NamedPrior(prior, space, "combine: prior")
        self.posteriors = {name: NamedPrior(one, space, f"combine: {name!r}") for name, one in learned.items()}
        self.likelihoods = {
            name: LearnedLikelihood(one, NamedPrior(priors.get(name, prior), space, f"combine: prior of {name!r}"))
            for name, one in self.posteriors.items()
        }

    def log_density(self, theta: FloatArray) -> FloatArray:
        """Returns log of pi prod q_i / pi_i, (n,), at points (n, d)."""
        found = in_float64(self.prior.log_prob, theta)
        for likelihood in self.likelihoods.values():
            found = found + in_float64(likelihood.log_likelihood, theta)
        return found

    @cached_property
    def narrowest(self) -> str:
        """The posterior with the smallest entropy, from which the sampler starts; the first by name if several."""
        return min(sorted(self.posteriors), key=self._entropy)

    def _entropy(self, name: str) -> float:
        posterior = self.posteriors[name]
        return -float(np.mean(in_float64(posterior.log_prob, draws_of(posterior, jax.random.key(0), _ENTROPY))))

    def density(self) -> ModelDensity:
        """Returns the joint posterior with the narrowest posterior as its prior; its evidence is R."""
        first = self.narrowest
        begun, others = self.likelihoods[first], [one for name, one in self.likelihoods.items() if name != first]
        columns = np.array([self.learned[first].space.index(name) for name in self.space.names])

        def model() -> None:
            theta = numpyro.sample("theta", self.learned[first])[..., columns]
            numpyro.factor("prior", log_ratio(self.prior, begun.prior, theta))
            for number, other in enumerate(others):
                other.factor(f"likelihood {number}", theta)

        return ModelDensity(model)


def combine(
    key: jax.Array,
    posteriors: Mapping[str, Chain | FlowFit | ParameterPrior],
    *,
    prior: Any,
    priors: Mapping[str, Any] | None = None,
    sampler: Callable[..., Chain] = sample_pocomc,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    refit: bool = True,
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
        sampler: a sampler of this package. If it returns no evidence, as NUTS and emcee, that of its chain is used.
        config, train: as for `fit_flow`.
        refit: train two flows on the halves of each chain, to see how wrong the learned densities may be in the region
            of the product.
        progress: show progress bars.
        **options: further arguments of the sampler.

    Raises:
        TypeError, ValueError: fewer than two analyses; no shared parameter; a parameter whose units differ, or whose
            bounds do not overlap; a prior that does not have the parameters, or is zero where a posterior is.

    Source: Bayes factor and suspiciousness: Handley and Lemos (2019), Phys. Rev. D 100, 043504.
    """
    _require_several(posteriors, priors or {})
    spaces = {name: _space_of(one, name) for name, one in posteriors.items()}
    shared = shared_space(spaces)
    keys = dict(zip(posteriors, jax.random.split(key, len(posteriors)), strict=True))
    key_sample, key_judge = jax.random.split(jax.random.fold_in(key, 1))
    settings: dict[str, Any] = {"config": config, "train": train, "progress": progress}
    learned = {name: _posterior_of(keys[name], one, shared.names, settings) for name, one in posteriors.items()}
    _require_order(priors or {}, spaces, shared)
    parts = _Parts(learned, shared, prior, priors or {})
    density = parts.density()
    drawn = sampler(key_sample, density, progress=progress, **options)
    log_r, log_r_error = drawn.log_evidence, drawn.log_evidence_error
    if log_r is None:
        found_r = evidence(jax.random.fold_in(key, 2), drawn, density, **settings)
        log_r, log_r_error = found_r.log_evidence, found_r.error
    drawn = drawn.select(shared.names).replace(space=shared, log_evidence=log_r, log_evidence_error=log_r_error)
    log_density, log_prior = parts.log_density(drawn.samples), in_float64(parts.prior.log_prob, drawn.samples)
    chain = drawn.replace(log_prob=log_density, log_prior=log_prior, log_likelihood=log_density - log_prior)
    chains = {name: one for name, one in posteriors.items() if isinstance(one, Chain)}
    factors = {name: Factor(name, parts.posteriors[name], chains.get(name)) for name in posteriors}
    refits = settings if refit else None
    found = suspiciousness(parts.likelihoods, chain, log_r, one_prior=not priors)
    rows = {name: reweighted(factor, parts.log_density) for name, factor in factors.items()}
    guards = judged(key_judge, factors, rows, chain, found, refits)
    return Combined(
        chain=chain,
        posteriors=learned,
        prior=parts.prior,
        log_bayes_factor=log_r,
        log_bayes_factor_error=float("nan") if log_r_error is None else log_r_error,
        suspiciousness=found,
        reweighted={name: one for name, one in rows.items() if name in chains and one is not None and reliable(one)},
        guards=guards,
        _log_density=parts.log_density,
    )


def _require_several(posteriors: Any, priors: Any) -> None:
    if not isinstance(posteriors, Mapping) or not isinstance(priors, Mapping):
        raise TypeError("combine: posteriors, priors: expected dictionaries by the names of the analyses.")
    if len(posteriors) < 2:
        raise ValueError(f"combine: posteriors: expected two or more analyses; got {len(posteriors)}.")
    unknown = [name for name in priors if name not in posteriors]
    if unknown:
        raise ValueError(
            f"combine: priors: expected names of the analyses, {shorten(posteriors)}; got {shorten(unknown)}."
        )


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
        return fit_flow(key, given.select(names), **settings).prior
    prior: ParameterPrior = given.prior if isinstance(given, FlowFit) else given
    if set(prior.space.names) == set(names):
        return prior
    return fit_marginal(key, prior, names, **settings).prior
