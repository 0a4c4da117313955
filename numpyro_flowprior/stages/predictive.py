"""Prior predictive check of a stage: are its data as probable, under its prior, as data that the prior predicts?

The statistic is the log evidence itself. Data that the prior predicts and the data observed are exchangeable if the
prior holds, so that the rank of the observed among them is uniform, whatever the error of the evidences' estimates,
which are the same for all (Box 1980; Monte Carlo tests: Besag and Clifford 1989).
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
DRAWS = 4096  # from the prior, that each data set's evidence is the mean over
_BATCH = 64


@dataclass(frozen=True)
class PredictiveCheck:
    """The log evidence of the data among those of data that the prior predicts.

    Attributes:
        observed: log evidence of the data, as the mean likelihood over draws from the prior estimates it, nats.
        mean, std: of the same estimate over predicted data, nats; NaN if none has a likelihood.
        p_value: share of predicted data that are at most as probable, exact; at least one over their number plus one.
    """

    observed: float
    mean: float
    std: float
    p_value: float


def predictive_check(key: jax.Array, density: ModelDensity) -> PredictiveCheck | None:
    """Returns the check, or None where data cannot be predicted from the model.

    That is if it has factors in place of observed sites, half observed sites, scaled log densities, or no data.
    """
    key_theta, key_data, key_prior = jax.random.split(key, 3)
    with jax.enable_x64(True):
        if not _generates(density):
            return None
        predict = jax.jit(jax.vmap(partial(_predict, density)))
        theta = density.sample_prior(key_theta, DRAWS)[:REPLICAS]  # the size of the draws below: compiled once
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


def _sites(density: ModelDensity, x: Any) -> dict[str, Any]:
    """Returns the model's observed sites at one point (d,) (traced)."""
    args, kwargs = density.arguments
    sites = trace(substitute(seed(density.model, 0), density.site_values(x))).get_trace(*args, **kwargs)
    return {name: sites[name] for name in observed_sites(sites)}


def _generates(density: ModelDensity) -> bool:
    """Returns whether all that is observed is drawn, whole, from distributions with their own log densities."""
    found: list[bool] = []

    def look(x: jax.Array) -> jax.Array:
        sites = _sites(density, x).values()
        found.extend(not isinstance(site["fn"], Unit) and site["scale"] is None for site in sites)
        return x

    jax.eval_shape(look, jax.ShapeDtypeStruct((density.dim,), np.float64))
    return bool(found) and all(found) and not density.imputed_sites


def _predict(density: ModelDensity, key: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
    sites = _sites(density, x)
    keys = jax.random.split(key, len(sites))
    return {name: site["fn"].sample(each) for each, (name, site) in zip(keys, sites.items(), strict=True)}


def _log_likelihoods(density: ModelDensity, data: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Returns the log likelihood (k,) at one point (d,) of k data sets."""
    sites = _sites(density, x)

    def of_one(values: dict[str, jax.Array]) -> jax.Array:
        return sum((jnp.sum(site["fn"].log_prob(values[name])) for name, site in sites.items()), jnp.zeros(()))

    return jax.vmap(of_one)(data)
