"""A prior on a subset of the trained parameters: a new fit to draws, with its own report."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from .._util.checks import positive_int
from ..chains.chain import Chain
from ..flows.config import FlowConfig
from ..priors.moments import draws_of
from ..priors.protocol import ParameterPrior
from .config import TrainConfig
from .fit import FlowFit, fit_flow


def fit_marginal(
    key: jax.Array,
    prior: ParameterPrior,
    names: Sequence[str],
    *,
    draws: int = 100_000,
    config: FlowConfig | None = None,
    train: TrainConfig | None = None,
    progress: bool = True,
) -> FlowFit:
    """Returns the fit of a flow to the prior's draws of the named parameters.

    The marginal density of these parameters has no closed form. If the chain itself is available, use
    `fit_flow(key, chain.select(names))` instead: it makes one approximation, not two.

    Args:
        key: JAX random key of the draws and of the training.
        prior: a FlowPrior, or any distribution over named parameters.
        names: the parameters to keep, in the order wanted.
        draws: number of draws to train on, at least 1000.
        config, train, progress: as for `fit_flow`.
    """
    draws = positive_int(draws, "fit_marginal: draws", minimum=1000)
    kept = prior.space.select(names)
    key_draws, key_fit = jax.random.split(key)
    columns = [prior.space.index(name) for name in kept.names]
    chain = Chain(
        draws_of(prior, key_draws, draws)[:, columns],
        kept,
        info={"source": f"marginal of a prior over {', '.join(prior.space.names)}"},
    )
    return fit_flow(key_fit, chain, config, train, progress=progress)
