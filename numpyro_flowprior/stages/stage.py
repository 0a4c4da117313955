"""Stage: one analysis of a sequence, before it is run. StageOptions: options for all stages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._util.checks import ArrayLike, float_array, positive_int, real_in, require_finite, require_unique, shorten
from ..flows.config import FlowConfig
from ..sampling.broad_start import Start, require_start
from ..training.config import TrainConfig
from ..training.live import LiveConfig

_NAME = re.compile(r"[\w+\-. ()]{1,80}")  # valid folder names on all systems


@dataclass(frozen=True)
class Stage:
    """One analysis: a name, a NumPyro model of new data given a prior, and the arguments of the model.

    Attributes:
        name: unique in a sequence. It is also used as a folder name, so it has only letters, digits, spaces and
            + - . ( ) _, at most 80 of them.
        model: `model(prior, *args, **kwargs)`, which samples `prior` once (`numpyro.sample("theta", prior)`). It may
            have sample sites of its own, which are added to the parameters.
        args: positional arguments after the prior, such as data and likelihoods.
        kwargs: keyword arguments of the model.
        keep: parameters of the posterior that are passed on to the prior of the next stage; None for all. The others
            are marginalised over.
        sampler_options: keyword arguments of the sampler in this stage; they override those of the whole run.
        correlated_with: {earlier stage: (m, n) covariance of its m data (rows) with the n data of this stage
            (columns)}, for data that share errors. The stage is run with the distribution of its data given the earlier
            data, so the stages agree with a joint fit. Each of these models has one observed site, with a normal
            distribution over a number or a vector. The stages between hand on all parameters of the earlier model.
            For other models see `joint_normal`.

    Raises:
        TypeError, ValueError: a field has a wrong type or value.
    """

    name: str
    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    keep: Sequence[str] | None = None
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    correlated_with: Mapping[str, ArrayLike] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name != self.name.strip(" ."):
            raise ValueError(
                f"Stage.name: expected up to 80 letters, digits, spaces and + - . ( ) _; got {self.name!r:.100}."
            )
        if not callable(self.model):
            raise TypeError(f"Stage {self.name!r}: model: expected a function model(prior, ...); got {self.model!r}.")
        if not isinstance(self.args, tuple):
            raise TypeError(
                f"Stage {self.name!r}: args: expected a tuple, such as (likelihood,); got {type(self.args).__name__}."
            )
        for name in ("kwargs", "sampler_options", "correlated_with"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"Stage {self.name!r}: {name}: expected a mapping; got {getattr(self, name)!r:.60}.")
        for name, cross in self.correlated_with.items():
            subject = f"Stage {self.name!r}: correlated_with[{name!r}]"
            require_finite(float_array(cross, subject, shape=(None, None)), subject)


@dataclass(frozen=True)
class StageOptions:
    """Options for the training, correction and start of the stages of a sequence.

    Attributes:
        config, train: arguments of `fit_flow`; None for values chosen for each chain.
        tail_aware: train the flow on the log density at all draws too, including those of low weight, such as pocoMC's
            particles of all temperatures. False to train on the positions of the draws only.
        robust: weight of a broad prior that is mixed into each learned prior (`robustify`), in [0, 1); 0 for none.
        psis: reweight each posterior to the one whose prior is the exact posterior of the previous stages
            (`psis_reweight`). This removes the error of the learned prior where there are draws. It evaluates all
            earlier models.
        start: where samplers of later stages start. "prior": at the learned prior, as in the model. "broad": at a
            broad prior, with the density of the learned prior as a part of the likelihood. The posterior is the same,
            but a tempered sampler needs as many temperatures as a joint fit. Use it if the posterior covers little of
            the prior mass, so that modes would be found only by chance. "auto": "broad" if the effective size of prior
            draws, weighted by the likelihood, is below 2.5 % of their number. There are 4,096, and 32,768 unless
            external likelihoods would take more than a minute. With a broad prior the latent coordinates of a sampler
            are the parameters themselves.
        max_loss: KL, in nats, that a posterior may lose to its learned prior. If it loses more, and the exact density
            of the earlier stages is known, the prior is trained again where the stage needs it, and the stage is
            sampled again.
        max_passes: how often a stage is sampled at most for this reason; 1 for once.
        live: whether priors are trained on the exact density too, by calling it (`fit_flow(density=...)`), if their
            loss on held-out rows is above `max_loss` or a stage is sampled again. True: as long as its calls take no
            longer than the sampler did, or a minute. False: never. A LiveConfig: until these limits.
        evidence: compute the log evidence of chains whose sampler returns none, such as those of NUTS and emcee
            (`evidence`). This trains flows on the halves of the chain. An evidence that is not to be trusted is
            left out, and the info of the chain says why.
        override: continue if a sampler has not converged or a report fails.

    Raises:
        TypeError, ValueError: a field has a wrong type or value.
    """

    config: FlowConfig | None = None
    train: TrainConfig | None = None
    tail_aware: bool = True
    robust: float = 0.0
    psis: bool = False
    start: Start = "auto"
    max_loss: float = 0.03
    max_passes: int = 3
    live: LiveConfig | bool = True
    evidence: bool = True
    override: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "robust", real_in(self.robust, "StageOptions: robust", 0.0, 1.0, open_high=True))
        require_start(self.start)
        real_in(self.max_loss, "StageOptions: max_loss", 0.0, 1e6, open_low=True)
        positive_int(self.max_passes, "StageOptions: max_passes")
        if not isinstance(self.live, bool | LiveConfig):
            raise TypeError(f"StageOptions: live: expected True, False or a LiveConfig; got {self.live!r}.")
        for name in ("tail_aware", "psis", "evidence", "override"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"StageOptions: {name}: expected True or False; got {getattr(self, name)!r}.")
        for name, kind in (("config", FlowConfig), ("train", TrainConfig)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"StageOptions: {name}: expected a {kind.__name__}; got {type(value).__name__}.")


def checked_stages(stages: Any) -> tuple[Stage, ...]:
    """Returns the stages as a tuple.

    Raises:
        TypeError: an element is not a Stage.
        ValueError: there are no stages, two have the same name, or one is correlated with a stage that is not earlier.
    """
    stages = tuple(stages)
    for stage in stages:
        if not isinstance(stage, Stage):
            raise TypeError(f"run_stages: stages: expected Stage(name, model, args); got {stage!r:.60}.")
    if not stages:
        raise ValueError("run_stages: stages: expected at least one Stage; got none.")
    names = [stage.name for stage in stages]
    require_unique(names, "run_stages: stages: expected unique names")
    for number, stage in enumerate(stages):
        unknown = [name for name in stage.correlated_with if name not in names[:number]]
        if unknown:
            raise ValueError(
                f"Stage {stage.name!r}: correlated_with: expected names of earlier stages "
                f"({shorten(names[:number], 20) or 'there are none'}); got {shorten(unknown)}. Declare a correlation "
                "in the later of two stages."
            )
    return stages


def kept_names(stage: Stage, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the posterior parameters that a stage hands on.

    Raises:
        ValueError: `keep` is empty, or names a parameter that is not in the posterior.
    """
    if stage.keep is None:
        return tuple(names)
    missing = [name for name in stage.keep if name not in names]
    if missing or not stage.keep:
        raise ValueError(
            f"Stage {stage.name!r}: keep: expected names among {shorten(names, 40)}; got {shorten(stage.keep, 40)}."
        )
    return tuple(stage.keep)
