"""Stages whose data share errors with the data of earlier stages (`Stage.correlated_with`).

The posterior of the earlier stages is proportional to p(y1 | theta). So the likelihood of a later stage has to be
p(y2 | y1, theta), not p(y2 | theta). The stages stay as they are written: when a later one is run, the normal
distribution of its data is replaced by the one given the earlier data (likelihoods.joint_normal). The means and
covariances of the earlier data come from the models of their stages, at the same parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution, Normal
from numpyro.handlers import block
from numpyro.primitives import Messenger

from .._util.checks import FloatArray, shorten
from ..likelihoods.joint_normal import conditional_normal, is_normal, joint_normal
from ..models.sites import named_space_of
from ..sampling.density import ModelDensity
from .predictive import data_sites
from .stage import Stage

_LOOKED_AT = 64  # prior draws at which the joint covariance is checked


@dataclass(frozen=True)
class StageData:
    """The data of a stage: what a later stage that shares errors with it needs to know.

    Attributes:
        stage: the stage as it is written.
        density: its model as it is written, without correlations.
    """

    stage: Stage
    density: ModelDensity

    @property
    def site(self) -> str:
        """The observed site of the model, which has a normal distribution over a vector.

        Raises:
            ValueError: the model has other observed sites, or none.
        """
        with jax.enable_x64(True):
            sites = data_sites(self.density, jnp.asarray(self.density.sample_prior(jax.random.key(0), 1)[0]))
        found = {name: site["fn"] for name, site in sites.items()}
        usable = [
            name
            for name, site in sites.items()
            if is_normal(site["fn"]) and len(site["fn"].shape()) <= 1 and site["scale"] is None
        ]
        if usable != list(found) or len(usable) != 1 or self.density.imputed_sites:
            kinds = shorten([f"{name} ({type(fn).__name__}, shape {fn.shape()})" for name, fn in found.items()], 10)
            raise ValueError(
                f"Stage {self.stage.name!r}: correlated_with: expected models with one observed site, a normal "
                f"distribution over a number or a vector; got {kinds or 'none'}. Write the data as one site, or use "
                "joint_normal and conditional_normal in the model."
            )
        return usable[0]

    def normal(self, site: str, theta: Mapping[str, Any]) -> Distribution:
        """Returns the distribution of the data at the parameters (traced), over a vector."""
        x = jnp.stack([jnp.asarray(theta[name]) for name in self.density.names])
        with block():  # its sites are not sites of the stage that asks
            return as_vector(data_sites(self.density, x)[site]["fn"])


@dataclass(frozen=True)
class GivenEarlierData:
    """The model of a stage, with the distribution of its data given the data of earlier stages.

    Attributes:
        model: the model as it is written.
        name, site: the stage, and the observed site of its model.
        earlier: {stage: its data and their site}, in order.
        cross_covariances: of pairs of stages, as `joint_normal` takes them.
    """

    model: Any
    name: str
    site: str
    earlier: Mapping[str, tuple[StageData, str]]
    cross_covariances: Mapping[tuple[str, str], FloatArray]

    def __call__(self, prior: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs the model."""
        with _ConditionedSite(self):
            return self.model(prior, *args, **kwargs)

    @property
    def needed(self) -> set[str]:
        """The parameters of the earlier models."""
        return {name for data, _ in self.earlier.values() for name in data.density.names}

    def conditional(self, own: Distribution, theta: Mapping[str, Any]) -> Distribution:
        """Returns the distribution of the stage's data given the earlier data, with the shape of `own`."""
        normals = {name: data.normal(site, theta) for name, (data, site) in self.earlier.items()}
        joint = joint_normal({**normals, self.name: as_vector(own)}, self.cross_covariances)
        observed = [np.ravel(data.density.observed[site]) for data, site in self.earlier.values()]
        found = conditional_normal(joint, np.concatenate(observed))
        return found if own.shape() else Normal(found.loc[0], found.scale_tril[0, 0])


class _ConditionedSite(Messenger):
    """Replaces the distribution of the data in one run of a model, with the values of the learned prior in that run."""

    def __init__(self, given: GivenEarlierData):
        self.given, self.theta = given, dict[str, Any]()
        self._names: dict[str, tuple[str, ...]] = {}  # of the parameters, by the site of the prior
        super().__init__(None)

    def process_message(self, msg: dict[str, Any]) -> None:
        """Notes the site of the learned prior; replaces the distribution of the data."""
        if msg["type"] != "sample":
            return
        if msg["name"] == self.given.site:
            msg["fn"] = self.given.conditional(msg["fn"], self.theta)
            return
        space = named_space_of(msg["fn"])
        if space is not None and self.given.needed <= set(space.names):
            self._names[msg["name"]] = space.names

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        """Notes the parameters, also if an outer handler has made the site of the prior deterministic."""
        if msg.get("name") in self._names:
            self.theta = dict(zip(self._names[msg["name"]], jnp.moveaxis(msg["value"], -1, 0), strict=True))


def as_vector(normal: Distribution) -> Distribution:
    """Returns a normal distribution over a number, or over a batch of them, as one over a vector."""
    shaped = normal if normal.shape() else normal.expand((1,))
    return shaped.to_event(1) if shaped.event_dim == 0 else shaped


def related(stage: Stage, stages: Sequence[Stage]) -> tuple[str, ...]:
    """Returns the earlier stages on whose data those of a stage depend, directly or through each other, in order."""
    before = stages[: [each.name for each in stages].index(stage.name)]
    found = set(stage.correlated_with)
    while True:
        links = [{each.name, *each.correlated_with} for each in before]
        more = found.union(*(link for link in links if link & found))
        if more == found:
            return tuple(each.name for each in before if each.name in found)
        found = more


def require_usable_data(data: StageData, stages: Sequence[Stage]) -> None:
    """Checks the data of a stage for later stages that share errors with them, before it is sampled.

    Raises:
        ValueError: the data are not normal, a cross-covariance has another number of rows, or a parameter of the model
            is not handed on to such a later stage.
    """
    name, names = data.stage.name, data.density.names
    start = [each.name for each in stages].index(name)
    for number, later in enumerate(stages[start + 1 :], start + 1):
        if name not in related(later, stages):
            continue
        rows = int(np.size(data.density.observed[data.site]))
        cross = later.correlated_with.get(name)
        if cross is not None and np.shape(cross)[0] != rows:
            raise ValueError(
                f"Stage {later.name!r}: correlated_with[{name!r}]: expected one row for each of the {rows} values of "
                f"stage {name!r}; got shape {np.shape(cross)}. Rows are of the earlier stage, columns of this one."
            )
        for between in stages[start:number]:
            dropped = [each for each in names if between.keep is not None and each not in between.keep]
            if dropped:
                raise ValueError(
                    f"Stage {between.name!r}: keep: expected all parameters of stage {name!r}, because stage "
                    f"{later.name!r} shares errors with its data; {shorten(dropped)} are left out. Keep them."
                )


def given_earlier_data(data: StageData, before: Sequence[StageData], stages: Sequence[Stage]) -> Stage:
    """Returns a stage with the model of its data given the data of the stages before; as it is without correlations.

    Raises:
        ValueError: the data are not normal, a cross-covariance has the wrong shape, or the joint covariance is not
            positive definite at some of 64 prior draws.
    """
    stage, names = data.stage, related(data.stage, stages)
    if not names:
        return stage
    members = {each.stage.name: each for each in before if each.stage.name in names}
    crosses = {
        (earlier, each.name): np.asarray(cross, np.float64)
        for each in (*(member.stage for member in members.values()), stage)
        for earlier, cross in each.correlated_with.items()
    }
    earlier = {name: (each, each.site) for name, each in members.items()}
    given = GivenEarlierData(stage.model, stage.name, data.site, earlier, crosses)
    args, kwargs = data.density.arguments
    try:
        density = ModelDensity(given, *args, **kwargs)
    except ValueError as error:
        if "joint_normal" not in str(error):
            raise
        raise ValueError(f"Stage {stage.name!r}: correlated_with: {error}") from error
    _require_positive_definite(density, given)
    return replace(stage, model=given)


def _require_positive_definite(density: ModelDensity, given: GivenEarlierData) -> None:
    """Raises ValueError if the joint covariance is not positive definite at some prior draws.

    At the two draws of a new ModelDensity this has been checked already; covariances may depend on the parameters.
    """
    with jax.enable_x64(True):
        variances = jax.jit(jax.vmap(lambda x: data_sites(density, x)[given.site]["fn"].variance))
        found = np.asarray(variances(density.sample_prior(jax.random.key(0), _LOOKED_AT)))
    bad = int((~np.isfinite(found.reshape(_LOOKED_AT, -1)).all(axis=1)).sum())
    if bad:
        raise ValueError(
            f"Stage {given.name!r}: correlated_with: expected a positive definite joint covariance with "
            f"{shorten(given.earlier, 20)}; it is not at {bad} of {_LOOKED_AT} prior draws. Check the sizes and units "
            "of the cross-covariances."
        )
