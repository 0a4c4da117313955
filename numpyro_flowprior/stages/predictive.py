"""Prior predictive check of a stage: are its data as probable under its prior as data that the prior predicts?

The statistic is the log evidence. If the prior holds, predicted and observed data are exchangeable. The rank of the
observed data among the predicted ones is then uniform, even if the evidences are estimated with errors, because the
same estimator is used for all data sets (Box 1980; Monte Carlo tests: Besag and Clifford 1989).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from numpyro.distributions import Unit
from numpyro.handlers import seed, substitute, trace

from .._util.checks import FloatArray
from ..models.sites import observed_sites
from ..sampling.density import ModelDensity

REPLICAS = 999  # predicted data sets
DRAWS = 4096  # prior draws; the evidence of a data set is its mean likelihood over them
_BATCH = 64


@dataclass(frozen=True)
class PredictiveCheck:
    """The log evidence of the observed data, compared with those of data sets predicted by the prior.

    Attributes:
        observed: log evidence of the observed data, estimated by the mean likelihood over prior draws, nats.
        mean, std: mean and standard deviation of the finite estimates for predicted data sets, nats; NaN if none is
            finite.
        p_value: (1 + number of predicted data sets that are at most as probable) / (1 + number of predicted data sets).
            It is exact, and at least 1 / (1 + number of predicted data sets).
    """

    observed: float
    mean: float
    std: float
    p_value: float


def predictive_check(key: jax.Array, density: ModelDensity) -> PredictiveCheck | None:
    """Returns the check, or None if data cannot be predicted from the model.

    The model then has factors, partly observed sites, scaled log densities, or no data.
    """
    key_theta, key_data, key_prior = jax.random.split(key, 3)
    with jax.enable_x64(True):
        if not _generates(density):
            return None
        predict = jax.jit(jax.vmap(partial(_predict, density)))
        theta = density.sample_prior(key_theta, DRAWS)[
            :REPLICAS
        ]  # drawn with the same size as below, so that one program is compiled
        replicas = predict(jax.random.split(key_data, REPLICAS), theta)
        observed = {name: jnp.asarray(value)[None] for name, value in density.observed.items()}
        data = jax.tree.map(lambda *parts: jnp.concatenate(parts), observed, replicas)
        compare = jax.jit(jax.vmap(partial(_log_likelihoods, density, data)))
        total = jnp.full(1 + REPLICAS, -jnp.inf)
        for x in np.split(density.sample_prior(key_prior, DRAWS), DRAWS // _BATCH):
            total = jnp.logaddexp(total, logsumexp(compare(x), axis=0))
        evidences = np.asarray(total) - np.log(DRAWS)
    return _ranked(evidences[0], evidences[1:])


def _ranked(observed: float, predicted: FloatArray) -> PredictiveCheck:
    below = np.sum(predicted <= observed)
    finite = predicted[np.isfinite(predicted)]
    mean, std = (float(finite.mean()), float(finite.std())) if len(finite) else (np.nan, np.nan)
    return PredictiveCheck(float(observed), mean, std, float((1 + below) / (1 + len(predicted))))


def data_sites(density: ModelDensity, x: Any) -> dict[str, Any]:
    """Returns the observed sites of the model, traced at one point (d,)."""
    args, kwargs = density.arguments
    sites = trace(substitute(seed(density.model, 0), density.site_values(x))).get_trace(*args, **kwargs)
    return {name: sites[name] for name in observed_sites(sites)}


def _generates(density: ModelDensity) -> bool:
    """Returns whether all observed sites are drawn completely from distributions, without factors or scaling."""
    found: list[bool] = []

    def look(x: jax.Array) -> jax.Array:
        sites = data_sites(density, x).values()
        found.extend(not isinstance(site["fn"], Unit) and site["scale"] is None for site in sites)
        return x

    jax.eval_shape(look, jax.ShapeDtypeStruct((density.dim,), np.float64))
    return bool(found) and all(found) and not density.imputed_sites


def _predict(density: ModelDensity, key: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
    sites = data_sites(density, x)
    keys = jax.random.split(key, len(sites))
    return {name: site["fn"].sample(each) for each, (name, site) in zip(keys, sites.items(), strict=True)}


def _log_likelihoods(density: ModelDensity, data: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Returns the log likelihoods (k,) of k data sets at one point (d,)."""
    sites = data_sites(density, x)

    def of_one(values: dict[str, jax.Array]) -> jax.Array:
        return sum((jnp.sum(site["fn"].log_prob(values[name])) for name, site in sites.items()), jnp.zeros(()))

    return jax.vmap(of_one)(data)
