"""Stage: one analysis of a sequence, before it is run; StageOptions: how all of them are run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._util.checks import real_in, require_unique, shorten
from ..flows.config import FlowConfig
from ..sampling.broad_start import Start, require_start
from ..training.config import TrainConfig

_NAME = re.compile(r"[\w+\-. ()]{1,80}")  # what a folder may be called anywhere


@dataclass(frozen=True)
class Stage:
    """One analysis: its name, its NumPyro model of new data given a prior, and the model's arguments.

    Attributes:
        name: unique in a sequence; it names a folder, and so has letters, digits, spaces and + - . ( ) _ alone.
        model: `model(prior, *args, **kwargs)`, which samples `prior` once (`numpyro.sample("theta", prior)`), and may
            have sites of its own: they join the parameters.
        args: positional arguments after the prior: data, likelihoods.
        kwargs: keyword arguments.
        keep: parameters of the posterior that the next stage's prior is of; None for all. What is left out is
            marginalised over.
        sampler_options: keyword arguments of the sampler in this stage; they go before those of the whole run.

    Raises:
        TypeError, ValueError: a field of the wrong kind.
    """

    name: str
    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    keep: Sequence[str] | None = None
    sampler_options: Mapping[str, Any] = field(default_factory=dict)

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
        for name in ("kwargs", "sampler_options"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"Stage {self.name!r}: {name}: expected a mapping; got {getattr(self, name)!r:.60}.")


@dataclass(frozen=True)
class StageOptions:
    """How the stages of a sequence are learnt, corrected and begun.

    Attributes:
        config, train: of `fit_flow`; None for what suits each chain.
        tail_aware: teach the flow the log density at all draws, those of low weight included: pocoMC's particles of all
            temperatures. False to learn from where the draws are alone.
        robust: weight of a broad prior that is mixed into each learned one (`robustify`), in [0, 1); 0 for none.
        psis: reweight each posterior to the exact posterior of the stages before as its prior (`psis_reweight`), which
            takes out what the learned prior got wrong wherever there are draws. It evaluates all earlier models.
        start: where samplers of later stages begin. "prior": at the learned prior, as the model says. "broad": at a
            broad one, the learned prior's density a part of the likelihood: the same posterior, at the price of a joint
            fit's temperatures, for one that holds little of the prior's mass, whose modes would be found by chance.
            "auto": "broad" where fewer than a hundred of 4096 prior draws are left when the likelihood weights them.
            Through a broad prior a sampler's latent coordinates are the parameters.
        override: go on where sampler or report fail.

    Raises:
        TypeError, ValueError: a field of the wrong kind.
    """

    config: FlowConfig | None = None
    train: TrainConfig | None = None
    tail_aware: bool = True
    robust: float = 0.0
    psis: bool = False
    start: Start = "auto"
    override: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "robust", real_in(self.robust, "StageOptions: robust", 0.0, 1.0, open_high=True))
        require_start(self.start)
        for name in ("tail_aware", "psis", "override"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"StageOptions: {name}: expected True or False; got {getattr(self, name)!r}.")
        for name, kind in (("config", FlowConfig), ("train", TrainConfig)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"StageOptions: {name}: expected a {kind.__name__}; got {type(value).__name__}.")


def checked_stages(stages: Any) -> tuple[Stage, ...]:
    """Returns the stages as a tuple.

    Raises:
        TypeError: something else than stages.
        ValueError: none, or two of one name.
    """
    stages = tuple(stages)
    for stage in stages:
        if not isinstance(stage, Stage):
            raise TypeError(f"run_stages: stages: expected Stage(name, model, args); got {stage!r:.60}.")
    if not stages:
        raise ValueError("run_stages: stages: expected at least one Stage; got none.")
    require_unique([stage.name for stage in stages], "run_stages: stages: expected unique names")
    return stages


def kept_names(stage: Stage, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the parameters that a stage hands on, of those that its posterior has.

    Raises:
        ValueError: `keep` names a parameter that the posterior lacks.
    """
    if stage.keep is None:
        return tuple(names)
    missing = [name for name in stage.keep if name not in names]
    if missing or not stage.keep:
        raise ValueError(
            f"Stage {stage.name!r}: keep: expected names among {shorten(names, 40)}; got {shorten(stage.keep, 40)}."
        )
    return tuple(stage.keep)
