"""fit_flow trains a flow on a chain: it splits the rows, runs pilots, trains and mixes members, and reports."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._util.checks import shorten
from .._util.display import Displayed
from .._util.keys import seed_from_key
from .._util.messages import FlowPriorWarning
from ..chains.chain import Chain
from ..chains.edges import off_the_edges
from ..chains.parameters import ParameterSpace
from ..diagnostics.importance import DensityReport
from ..diagnostics.quality import quality_report
from ..diagnostics.report import QualityReport
from ..flows.config import FlowConfig
from ..priors.fingerprint import prior_fingerprint
from ..priors.flow_prior import FlowPrior
from .called import CalledDensity
from .config import TrainConfig
from .defaults import Piloted, default_configs
from .descent import History, train_group, train_members
from .gaussians import number_of_gaussians
from .live import INTERRUPTED, LIVE, LiveConfig, LiveState, LiveTraining, Trained, support_with_density, with_density
from .live_file import read_state, write_state
from .mixture import assembled
from .prepare import apply_prepared, as_configured, prepare, require_learnable
from .problem import DEPTH, Problem, pose, share_in_reach
from .steps import log_densities

_LITTLE, _MANY = 0.01, 0.1  # fraction of the mean weight, and share of rows below it from which they are support points
_TAUGHT = ("log_variance", "jeffreys")  # losses that learn from the log density
_LEAST_IN_REACH = 0.5  # share of the draws, by weight; nearly one for a Gaussian in up to 30 dimensions


@dataclass(frozen=True, repr=False)
class FlowFit(Displayed):
    """The result of `fit_flow`: the prior, the training of each member, and a report on held-out rows.

    `density_report` is the exact agreement with the density that `fit_flow` was given; None without one. `histories` is
    empty, and `history` None, if no round improved on the prior from which the rounds began.
    """

    prior: FlowPrior
    histories: tuple[History, ...]
    report: QualityReport
    density_report: DensityReport | None = None

    @property
    def history(self) -> History | None:
        """The training history of the first member."""
        return self.histories[0] if self.histories else None

    @property
    def interrupted(self) -> bool:
        """Whether the training was interrupted from the keyboard, so that it is shorter than asked for."""
        live: dict[str, Any] = self.prior.info.get("live", {})
        return live.get("stopped_by") == INTERRUPTED or any(history.interrupted for history in self.histories)

    def _headline(self) -> str:
        seconds = sum(history.seconds for history in self.histories)
        return f"{self.prior._headline()}; report: {self.report.verdict}; trained for {seconds:.0f} s"

    def __str__(self) -> str:
        exact = "" if self.density_report is None else f"\n{self.density_report}"
        return f"{self.prior}\n{self.report}{exact}"


def uninterrupted(fit: FlowFit) -> FlowPrior:
    """Returns the prior of a fit that is a step of a longer computation.

    Raises:
        KeyboardInterrupt: the training was interrupted, and the computation with it.
    """
    if fit.interrupted:
        raise KeyboardInterrupt
    return fit.prior


def fit_flow(
    key: jax.Array,
    chain: Chain,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    *,
    density: Any = None,
    live: LiveConfig | None = None,
    start: FlowPrior | None = None,
    support_points: Chain | None = None,
    trust_log_prob: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> FlowFit:
    """Returns a FlowPrior trained on a chain, with its history and quality report.

    A tenth of the chain is held out for the report and never used in training. From the rest, a single flow holds out
    `train.validation` to choose its weights. With K members, each one holds out a different part, 1/K of the rows. If
    training is interrupted from the keyboard, the best weights so far are kept.

    With `density`, the flow is then tested on its own draws and trained further on their exact log densities, in rounds
    (training.live), until its importance efficiency is that of `live` or the budget ends. The best flow is kept.
    `FlowFit.density_report` says how close it is, from fresh draws: KL in both directions, efficiency, Pareto k and
    evidence. The rounds are recorded in `prior.info["live"]`. A mode in which neither the chain nor the flow has a draw
    is not found.

    Args:
        key: JAX random key; the same key gives the same prior on the same machine.
        chain: draws, weighted or not.
        config: architecture; None to choose it from the size of the chain and from short pilot runs
            (training.defaults).
        train: loss and optimiser settings; None to choose them in the same way.
        density: the exact log density of the chain's parameters: a ModelDensity, whose parameters are found by name, or
            a function from points (n, d), in the order of the chain's parameters, to log densities (n,), up to a
            constant. It is called for rows without a log density, for support points, and in the rounds.
        live: where the rounds end; None for LiveConfig(). Needs `density`.
        start: a prior over the same parameters, from which the rounds begin instead of from a first fit. It was trained
            with the same key and chain, so that the held-out rows of the report are new to it. Needs `density`.
        support_points: points with a log density (up to the constant of `chain.log_prob`) that are not draws, e.g. from
            a tempered run, or from where the prior will be needed. Only the loss "log_variance" uses them. Rows of the
            chain with weight zero are used in the same way; a chain from `sample_pocomc` already has such rows. With
            `density`, they need no log density, and their weights count: weighted like a posterior, they measure what
            the flow costs this posterior.
        trust_log_prob: whether `chain.log_prob` is the log density of exactly the chain's parameters. False: learn
            from the draws alone. None: decide on held-out rows. For a published chain it often is not, because nuisance
            parameters were left out; it is then ignored, with a warning. With None, the log density is trusted if the
            chain comes from a sampler of this package or if there are support points.
        checkpoint: file that keeps the rounds. The same call goes on from it after a kill. Needs `density`.
        progress: show a progress bar.

    Raises:
        TypeError: `chain` is not a Chain.
        ValueError: constant or linearly dependent columns, too few rows, or no log density although the loss needs it;
            a density that is zero at the chain's rows, or a checkpoint of another run.
    """
    if not isinstance(chain, Chain):
        raise TypeError(f"fit_flow: chain: expected a Chain; got {type(chain).__name__}. See read_chain.")
    require_learnable(chain)
    record = {
        "rows": chain.n,
        "effective_size": chain.effective_size,
        "order": chain.row_order.to_json(),
        "weights": chain.weights_kind,
        "fingerprint": chain.fingerprint(),
    }
    if trust_log_prob is False:
        chain = chain.replace(log_prob=None)
    chain = as_configured(chain, config or (start.config if isinstance(start, FlowPrior) else FlowConfig()))
    called = _called(density, chain.space, live, start, checkpoint)
    chain = off_the_edges(chain)  # before the splits, so that the report uses the same draws
    key_test, key_validation, key_train, key_report = jax.random.split(key, 4)
    seen, test = chain.split(key_test, 0.9)
    del chain  # frees the copy that was made if draws were on a bound
    if called is not None:  # after the split, which rows that are left out would change
        seen, test, trust_log_prob = with_density(seen, called), with_density(test, called), True
        support_points = None if support_points is None else support_with_density(support_points, called, seen)
    support_points = _checked_support(seen, support_points, train)
    settings = _Settings(config, train, support_points, trust_log_prob, progress)
    exact, rounds = None, dict[str, Any]()
    if called is None:
        fitted = _fit_rows(key_validation, key_train, seen, settings)
    else:
        begun_with = None if start is None else prior_fingerprint(start)
        about = {"key": seed_from_key(key), "chain": record["fingerprint"], "start": begun_with, **settings.about()}
        key_live = jax.random.fold_in(key, 4)
        if begun_with is not None:  # the start was trained on draws made with this key, and may not be judged on them
            key_live = jax.random.fold_in(key_live, int(begun_with[:7], 16))
        state = None if start is None else LiveState(_begun(start), calls=called.calls)
        if checkpoint is not None and Path(checkpoint).exists():
            state = read_state(checkpoint, about, called)
        if state is None:
            state = LiveState(_fit_rows(key_validation, key_train, seen, settings), calls=called.calls)
        if not any(history.interrupted for history in state.best.histories):
            own = config or LIVE
            keep = partial(_keep, checkpoint, config=own, about=about)
            limits = train, live or LiveConfig()
            training = LiveTraining(
                key_live, seen, called, own, *limits, support=support_points, keep=keep, progress=progress
            )
            rounds = {"live": state.record(training.run(state))}
        fitted, exact = state.best, state.report
    prior = fitted.prior
    held_out = test if fitted.train.loss in _TAUGHT else test.replace(log_prob=None)
    report = quality_report(key_report, prior, held_out, seen=seen)
    prior.info = {
        "chain": record,
        "training": {
            **fitted.train.to_json(),
            **(_training_record(fitted.histories) if fitted.histories else _times_of(start)),
            "log_prob_scatter": fitted.unexplained,
        },
        **rounds,
        "report": report.to_json(),
    }
    return FlowFit(prior, fitted.histories, report, exact)


@dataclass(frozen=True)
class _Settings:
    """Arguments of `fit_flow` that its steps share."""

    config: FlowConfig | None
    train: TrainConfig | None
    support_points: Chain | None
    trusted: bool | None
    progress: bool

    def about(self) -> dict[str, Any]:
        """Returns a record that identifies the settings of a run with a checkpoint."""
        return {
            "support points": None if self.support_points is None else self.support_points.fingerprint(),
            "config": None if self.config is None else self.config.to_json(),
            "train": None if self.train is None else self.train.to_json(),
        }


def _keep(path: Any, state: LiveState, *, config: FlowConfig, about: dict[str, Any]) -> None:
    if path is not None:
        write_state(path, state, config, about)


def _fit_rows(key_validation: jax.Array, key_train: jax.Array, seen: Chain, settings: _Settings) -> Trained:
    """Returns a flow that was trained on rows of a chain, and support points."""
    config, train, trusted, support_points = settings.config, settings.train, settings.trusted, settings.support_points
    prepared = prepare(seen, (config or FlowConfig()).whitening)
    support = None if support_points is None else apply_prepared(support_points, prepared.fixed)
    supported = support is not None or brings_support(seen)
    if trusted is None and (support is not None or _is_our_own(seen)):
        trusted = True
    posed = partial(pose, key_validation, prepared, support)
    pilot = partial(_pilot, key_validation, posed, seen, progress=settings.progress)
    if seen.log_prob is not None and (train is None or train.loss == "log_variance"):
        _warn_of_few_in_reach(share_in_reach(prepared))

    def gaussians() -> tuple[int, float]:
        return number_of_gaussians(key_validation, posed(1, TrainConfig())[0])

    chosen = default_configs(
        seen, pilot, gaussians=gaussians, config=config, train=train, supported=supported, trusted=trusted
    )
    config, train = chosen.config, chosen.train
    if chosen.unexplained is not None:
        _warn_of_other_parameters(chosen.unexplained)
    problems = posed(config.members, train)
    trained, histories = train_members(key_train, problems, config, train, progress=settings.progress)
    config = replace(config, members=len(trained))  # fewer if interrupted
    prior = FlowPrior(config, seen.space, assembled(prepared.fixed, trained, problems, config, train))
    return Trained(prior, histories, train, chosen.unexplained)


def _warn_of_few_in_reach(share: float) -> None:
    if share < _LEAST_IN_REACH:
        warnings.warn(
            f"fit_flow: the log density of {100 * (1 - share):.0f} % of the draws is more than {DEPTH:.0f} nats below "
            "the highest. It is clipped at that depth, so training learns from the positions of these draws only. "
            "Check that chain.log_prob belongs to these draws and that no single value is far too high.",
            FlowPriorWarning,
            stacklevel=3,
        )


def _warn_of_other_parameters(scatter: float) -> None:
    warnings.warn(
        f"fit_flow: on held-out rows chain.log_prob scatters by {scatter:.1f} nats about the flow's log density, "
        "whether or not the flow is trained on it. It is therefore not used. Did the run have parameters that are not "
        "in the chain (nuisance parameters, marginalised or left out)? If not, the density is too complex for a short "
        "pilot run; pass trust_log_prob=True to train on it.",
        FlowPriorWarning,
        stacklevel=3,
    )


def _begun(start: FlowPrior) -> Trained:
    """Returns a prior as the result of its training, as far as its record tells."""
    record = start.info.get("training", {})
    known = {field.name: record[field.name] for field in fields(TrainConfig) if field.name in record}
    prior = FlowPrior(start.config, start.space, start.params)  # its record will be another
    return Trained(prior, (), TrainConfig(**known))


def _times_of(prior: FlowPrior | None) -> dict[str, Any]:
    """Returns what the record of a prior says on its training, besides the settings."""
    record = {} if prior is None else prior.info.get("training", {})
    return {name: record[name] for name in ("steps", "best_step", "seconds", "validation_loss") if name in record}


def _called(density: Any, space: ParameterSpace, live: Any, start: Any, checkpoint: Any) -> CalledDensity | None:
    """Returns the density that training calls; None if none is given.

    Raises:
        TypeError, ValueError: the density, or arguments that need one.
    """
    if density is not None:
        if live is not None and not isinstance(live, LiveConfig):
            raise TypeError(f"fit_flow: live: expected a LiveConfig; got {type(live).__name__}.")
        if start is not None and not isinstance(start, FlowPrior):
            raise TypeError(f"fit_flow: start: expected a FlowPrior; got {type(start).__name__}.")
        if start is not None and start.space != space:
            raise ValueError(
                f"fit_flow: start: expected a prior over the chain's parameters {shorten(space.names, 40)} in the "
                f"same bounds; got one over {start.space!r}."
            )
        if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
            raise FileNotFoundError(f"fit_flow: checkpoint: the folder of {checkpoint} does not exist. Make it first.")
        return CalledDensity(density, space)
    for name, given in (("live", live), ("start", start), ("checkpoint", checkpoint)):
        if given is not None:
            raise ValueError(
                f"fit_flow: {name}: only training on a density uses it. Pass density too, or leave it out."
            )
    return None


def _is_our_own(chain: Chain) -> bool:
    """Returns whether a sampler of this package made the chain; it then has the log density of all its parameters."""
    parts = chain.log_prior is not None and chain.log_likelihood is not None
    return parts and "numpyro-flowprior" in (chain.info.get("versions") or {})


def brings_support(chain: Chain) -> bool:
    """Returns whether many rows have a log density but negligible weight, as after a tempered run."""
    if chain.log_prob is None or chain.weights is None:
        return False
    return float(np.mean(chain.probabilities * chain.n < _LITTLE)) > _MANY


def _pilot(
    key: jax.Array,
    posed: Callable[[int, TrainConfig], list[Problem]],
    seen: Chain,
    config: FlowConfig,
    train: TrainConfig,
    *,
    progress: bool,
) -> Piloted:
    """Returns the log densities at validation rows after a short training."""
    (problem,) = posed(1, train)
    label = f"pilot: {config.layers} x {config.hidden}, {train.loss}" if progress else None
    ((trained, history),) = train_group([key], [problem], config, train, label)
    if history.interrupted:
        raise KeyboardInterrupt
    log_q, _ = log_densities(trained, problem.held_draws, config=config)
    return Piloted(log_q, problem.held_draws.counted[1], seen.take(problem.drawn).dependence)


def _training_record(histories: tuple[History, ...]) -> dict[str, Any]:
    first = histories[0]
    return {
        "steps": sum(int(history.step[-1]) for history in histories),
        "best_step": first.best_step,
        "seconds": round(sum(history.seconds for history in histories), 3),
        "validation_loss": float(np.mean([np.nanmin(history.validation_loss) for history in histories])),
    }


def _checked_support(chain: Chain, support_points: Chain | None, train: TrainConfig | None) -> Chain | None:
    loss = train.loss if train else "nll" if support_points is None else "log_variance"
    if loss != "log_variance" and support_points is not None:
        raise ValueError('fit_flow: support_points: only TrainConfig(loss="log_variance") uses them. Leave them out.')
    for name, part in (("chain", chain), ("support_points", support_points)):
        if loss != "nll" and part is not None and part.log_prob is None:
            raise ValueError(
                f'fit_flow: {name}: the loss "{loss}" needs the log density of each row (log_prob); got '
                'none. Use TrainConfig(loss="nll"), or pass the chain with its log_prob, or density.'
            )
    if support_points is None:
        return None
    if set(support_points.names) != set(chain.names):
        raise ValueError(
            f"fit_flow: support_points: expected the chain's parameters {shorten(chain.names, 40)}; "
            f"got {shorten(support_points.names, 40)}. Their log density cannot be marginalised point by point."
        )
    return off_the_edges(support_points.select(chain.names).replace(space=chain.space))
