"""sample_nuts: NumPyro's No-U-Turn sampler behind the signature of the others, learned priors in their latent space."""

from __future__ import annotations

import time
import warnings
from typing import Any

import jax
import numpy as np
from numpyro.infer import MCMC, NUTS, init_to_sample
from numpyro.primitives import Messenger
from tqdm.auto import tqdm

from .._checks import FloatArray, positive_int, real_in
from ..chains.chain import Chain
from ..chains.convergence import judge
from .density import ModelDensity
from .record import INTERRUPTION, begin, run_record, seed_of
from .sites import without_masks
from .space import Coordinates, require_coordinates, sampled_in

_BLOCKS = 10  # that the draws are made in: between two of them the clock is looked at
_DIVERGENT = 0.002  # of all steps; fewer are in the record, and no verdict
_FIELDS = ("diverging", "accept_prob", "num_steps")


def sample_nuts(
    key: jax.Array,
    density: ModelDensity,
    *,
    n_samples: int = 1000,
    n_warmup: int = 1000,
    n_chains: int = 4,
    space: Coordinates = "latent",
    max_seconds: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Chain:
    """Returns posterior draws of NumPyro's NUTS, in float64, of chains that start at draws from the prior.

    Args:
        key: JAX random key.
        density: the posterior; its model must be differentiable.
        n_samples: draws that each chain keeps.
        n_warmup: steps that adapt step size and mass matrix, and are dropped.
        n_chains: chains, run side by side in one compiled program.
        space: "latent" to sample learned priors, where there are any, in their latent space (`LatentReparam`), where
            NUTS moves best; modes that a prior keeps apart there are better left to `sample_pocomc`. "parameters" to
            sample the model as it is.
        max_seconds: return what there is after this time, looked at ten times after the warm-up; None for no limit.
        progress: show a progress bar.
        **options: further arguments of `numpyro.infer.NUTS` (target_accept_prob, dense_mass, max_tree_depth, ...).

    Returns:
        A Chain with `chain_id`, log prior and log likelihood per draw; `info` holds R-hat, effective size, divergences,
        acceptance, gradient evaluations, and whether it converged. If it did not, one warning says why.

    Raises:
        TypeError, ValueError: numbers of the wrong kind, or another space.

    Source: Hoffman and Gelman (2014), JMLR 15, 1593; Phan, Pradhan, Jankowiak (2019), arXiv:1912.11554.
    """
    n_samples = positive_int(n_samples, "sample_nuts: n_samples", minimum=2)
    n_warmup = positive_int(n_warmup, "sample_nuts: n_warmup")
    n_chains = positive_int(n_chains, "sample_nuts: n_chains")
    limit = np.inf if max_seconds is None else real_in(max_seconds, "sample_nuts: max_seconds", 0.0, np.inf)
    require_coordinates(space, "sample_nuts")
    start = begin(key, density)
    space = space if density.learned_sites else "parameters"
    model = _Whole(sampled_in(density, space)[0].model, density.imputed_sites)
    block = -(-n_samples // _BLOCKS)
    sampler = MCMC(
        NUTS(model, **{"init_strategy": init_to_sample, **options}),
        num_warmup=n_warmup,
        num_samples=block,
        num_chains=n_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    with jax.enable_x64(True):
        draws, fields, cause = _run(sampler, key, density, n_samples, start + limit, progress=progress)
    settings = {"space": space, "n_warmup": n_warmup}
    return _chain(density, draws, fields, settings, run=(seed_of(key), start), cause=cause)


class _Whole(Messenger):
    """A model whose half observed sites have a density at their observed entries too.

    Nothing depends on the latent value there, and NumPyro's mask leaves it flat on the line, where NUTS never turns:
    drawn from its own distribution it integrates to one.
    """

    def __init__(self, model: Any, sites: tuple[str, ...]):
        self._sites = sites
        super().__init__(model)

    def process_message(self, msg: dict[str, Any]) -> None:
        """Takes the masks off the missing parts."""
        if msg["name"] in self._sites:
            msg["fn"] = without_masks(msg["fn"])


def _run(
    sampler: MCMC, key: jax.Array, density: ModelDensity, n_samples: int, deadline: float, *, progress: bool
) -> tuple[FloatArray, dict[str, np.ndarray], str | None]:
    """Returns draws (chains, n, d), the fields (chains, n) of each, and why there are fewer than wanted, if so."""
    args, kwargs = density.arguments
    draws: list[FloatArray] = []
    fields: list[dict[str, np.ndarray]] = []
    cause = None
    with tqdm(total=n_samples, desc="NUTS, warm-up", unit="draw", disable=not progress) as bar:
        try:
            sampler.warmup(key, *args, extra_fields=_FIELDS, **kwargs)
            bar.set_description("NUTS")
            while sum(part.shape[1] for part in draws) < n_samples:
                sampler.run(sampler.post_warmup_state.rng_key, *args, extra_fields=_FIELDS, **kwargs)
                sampler.post_warmup_state = sampler.last_state
                draws.append(density.vector(sampler.get_samples(group_by_chain=True)))
                found = sampler.get_extra_fields(group_by_chain=True)
                fields.append({name: np.asarray(found[name]) for name in _FIELDS})
                bar.update(draws[-1].shape[1])
                if time.perf_counter() > deadline:
                    cause = "the time limit"
                    break
        except KeyboardInterrupt:
            if not draws:
                raise
            cause = INTERRUPTION
    whole = {name: np.concatenate([part[name] for part in fields], axis=1)[:, :n_samples] for name in _FIELDS}
    return np.concatenate(draws, axis=1)[:, :n_samples], whole, cause


def _chain(
    density: ModelDensity,
    draws: FloatArray,
    fields: dict[str, np.ndarray],
    settings: dict[str, Any],
    *,
    run: tuple[int, float],
    cause: str | None,
) -> Chain:
    chains, kept, dim = draws.shape
    samples = draws.reshape(-1, dim)
    log_prior, log_likelihood = density.log_prior_and_likelihood(samples)
    chain = Chain(
        samples,
        density.space,
        log_prob=log_prior + log_likelihood,
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        chain_id=np.repeat(np.arange(chains), kept),
    )
    report, reasons = judge(chain)
    divergences = int(fields["diverging"].sum())
    if divergences > _DIVERGENT * len(samples):
        reasons.append(f"{divergences} of {len(samples)} steps diverged: raise target_accept_prob, or reparametrise.")
    if cause:
        warnings.warn(f"sample_nuts: stopped by {cause} after {kept} draws of each chain.", stacklevel=3)
    if reasons:
        warnings.warn("sample_nuts: not converged. " + " ".join(reasons), stacklevel=3)
    statistics = {
        **settings,
        "n_chains": chains,
        "n_samples": kept,
        "divergences": divergences,
        "acceptance": float(fields["accept_prob"].mean()),
        "calls": int(fields["num_steps"].sum()),  # of the gradient, after the warm-up
        **report,
        "stopped_by": cause,
        "converged": not reasons and cause is None,
    }
    return chain.replace(info=run_record("nuts", run[0], run[1], density, statistics))
