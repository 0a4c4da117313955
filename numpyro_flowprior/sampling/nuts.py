"""sample_nuts: NumPyro's No-U-Turn sampler behind the signature of the others, learned priors in their latent space."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import NUTS, init_to_sample
from numpyro.primitives import Messenger

from .._util.checks import FloatArray, positive_int, real_in
from .._util.messages import ConvergenceWarning
from .._util.progress import progress_bar
from ..chains.chain import Chain
from ..chains.checks import check_convergence
from ..models.sites import without_masks
from .coordinates import Coordinates, chain_of_draws, resolved, sampled_in
from .density import ModelDensity
from .record import INTERRUPTION, begin, require_options, run_record, seed_of

_BLOCKS = 10  # that warm-up and draws are made in, at least: between two of them the clock is looked at
_DIVERGENT = 0.002  # of all steps; fewer are in the record, and no verdict
_FIELDS = ("diverging", "accept_prob", "num_steps")


def sample_nuts(
    key: jax.Array,
    density: ModelDensity,
    *,
    n_samples: int = 1000,
    n_warmup: int = 1000,
    n_chains: int = 4,
    coordinates: Coordinates = "auto",
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
        coordinates: what the chains move in; the chain is in the model's parameters whatever it is. "parameters" for
            these; "latent" for those in which its learned priors are close to a standard normal (`LatentReparam`), the
            same if it has none; "auto" for "latent". NUTS moves best there; modes that a prior keeps apart are better
            left to `sample_pocomc`.
        max_seconds: return what there is after this time, looked at ten times after the warm-up (a tenth of the draws
            is made in any case) and ten times in it, where it is an error: there is nothing to return. None for no
            limit.
        progress: show a progress bar.
        **options: further arguments of `numpyro.infer.NUTS` (target_accept_prob, dense_mass, max_tree_depth, ...).

    Returns:
        A Chain with `chain_id`, log prior and log likelihood per draw; `info` holds R-hat, effective size, divergences,
        acceptance, calls (of the density and its gradient, warm-up included), and whether it converged. If it did not,
        one warning says why.

    Raises:
        TypeError, ValueError: numbers of the wrong kind, other coordinates, or an option that NUTS does not have.
        TimeoutError: time was up before the warm-up was over; the message says how far it came.

    Source: Hoffman and Gelman (2014), JMLR 15, 1593; Phan, Pradhan, Jankowiak (2019), arXiv:1912.11554.
    """
    n_samples = positive_int(n_samples, "sample_nuts: n_samples", minimum=2)
    n_warmup = positive_int(n_warmup, "sample_nuts: n_warmup")
    n_chains = positive_int(n_chains, "sample_nuts: n_chains")
    limit = np.inf if max_seconds is None else real_in(max_seconds, "sample_nuts: max_seconds", 0.0, np.inf)
    moved_in = resolved(coordinates, density, "sample_nuts", auto="latent")
    require_options("sample_nuts", options, NUTS)
    start = begin(key, density)
    model = _Whole(sampled_in(density, moved_in)[0].model, density.imputed_sites)
    options = {"init_strategy": init_to_sample, **options}
    kernel = NUTS(model, **options)
    with jax.enable_x64(True):
        state = kernel.init(jax.random.split(key, n_chains), n_warmup, None, *density.arguments)
        program = _kept(density, (moved_in, n_warmup), options, lambda: _Program(kernel, density))
        draws, fields, calls, cause = _run(
            program, state, density, n_warmup, n_samples, start + limit, progress=progress
        )
    settings = {"coordinates": moved_in, "n_warmup": n_warmup, "calls": calls}
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


class _Program:
    """NUTS's compiled blocks of steps, which runs of the same warm-up and options share.

    Args:
        kernel: initialised, once: initialised again NumPyro's kernels are mapped over chains twice.
        density: the posterior.
    """

    def __init__(self, kernel: NUTS, density: ModelDensity):
        self._kernel, self._arguments = kernel, density.arguments
        self.advance = jax.jit(self._advance, static_argnames="block")

    def _advance(self, state: Any, steps: Any, *, block: int) -> tuple[Any, Any, Any]:
        """Returns the state after some steps, and the sites' values and fields of each, of at most `block`."""
        args, kwargs = self._arguments
        constrain = jax.vmap(jax.vmap(self._kernel.postprocess_fn(args, kwargs)))

        def kept(state: Any) -> dict[str, Any]:
            return {"z": state.z, **{name: getattr(state, name) for name in _FIELDS}}

        def step(j: Any, carry: Any) -> Any:
            state, rows = carry
            state = self._kernel.sample(state, args, kwargs)
            return state, jax.tree.map(lambda all_rows, row: all_rows.at[j].set(row), rows, kept(state))

        rows = jax.tree.map(lambda row: jnp.zeros((block, *row.shape), row.dtype), kept(state))
        state, rows = jax.lax.fori_loop(0, steps, step, (state, rows))
        by_chain = jax.tree.map(lambda row: jnp.swapaxes(row, 0, 1), rows)
        return state, constrain(by_chain.pop("z")), by_chain


def _kept(density: ModelDensity, settings: Any, options: dict[str, Any], make: Callable[[], _Program]) -> _Program:
    """Returns the program that the density keeps for some settings; a new one for options without a hash."""
    try:
        name = ("nuts", settings, frozenset(options.items()))
    except TypeError:
        return make()
    program: _Program = density.keep(name, make)
    return program


def _run(
    program: _Program,
    state: Any,
    density: ModelDensity,
    n_warmup: int,
    n_samples: int,
    deadline: float,
    *,
    progress: bool,
) -> tuple[FloatArray, dict[str, np.ndarray], int, str | None]:
    """Returns draws (chains, n, d), the fields (chains, n) of each, how often the gradient was taken in all, and why
    there are fewer draws than wanted, if so.

    In blocks of steps, which one compiled program makes: NumPyro's MCMC would compile each of them anew.
    """
    block = -(-n_samples // _BLOCKS)
    look = min(block, -(-n_warmup // _BLOCKS))
    advance = partial(program.advance, block=block)
    draws: list[FloatArray] = []
    fields: list[dict[str, np.ndarray]] = []
    calls, cause = 0, None
    with progress_bar(total=n_warmup + n_samples, desc="NUTS, warm-up", unit="step", disable=not progress) as bar:
        try:
            for done in range(0, n_warmup, look):
                if time.perf_counter() > deadline:
                    raise _too_late(done, n_warmup)
                state, _, found = advance(state, min(look, n_warmup - done))
                calls += int(found["num_steps"].sum())
                bar.update(min(look, n_warmup - done))
            bar.set_description("NUTS")
            while sum(part.shape[1] for part in draws) < n_samples:
                state, values, found = advance(state, block)
                calls += int(found["num_steps"].sum())
                draws.append(density.vector(values))
                fields.append(jax.tree.map(np.asarray, found))
                bar.update(draws[-1].shape[1])
                if time.perf_counter() > deadline:
                    cause = "the time limit"
                    break
        except KeyboardInterrupt:
            if not draws:
                raise
            cause = INTERRUPTION
    whole = {name: np.concatenate([part[name] for part in fields], axis=1)[:, :n_samples] for name in _FIELDS}
    return np.concatenate(draws, axis=1)[:, :n_samples], whole, calls, cause


def _too_late(done: int, n_warmup: int) -> TimeoutError:
    return TimeoutError(
        f"sample_nuts: max_seconds: time was up after {done} of {n_warmup} steps of the warm-up. Until it is over the "
        "sampler is not adapted, and its chains may still be on their way to the posterior: there are no draws to "
        "return. Allow more, or lower n_warmup."
    )


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
    chain = chain_of_draws(
        density,
        samples,
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        chain_id=np.repeat(np.arange(chains), kept),
        rows="sequence",
    )
    report, reasons = check_convergence(chain)
    divergences = int(fields["diverging"].sum())
    if divergences > _DIVERGENT * len(samples):
        reasons.append(f"{divergences} of {len(samples)} steps diverged: raise target_accept_prob, or reparametrise.")
    if cause:
        warnings.warn(
            f"sample_nuts: stopped by {cause} after {kept} draws of each chain.", ConvergenceWarning, stacklevel=3
        )
    if reasons:
        warnings.warn("sample_nuts: not converged. " + " ".join(reasons), ConvergenceWarning, stacklevel=3)
    statistics = {
        **settings,
        "n_chains": chains,
        "n_samples": kept,
        "divergences": divergences,
        "acceptance": float(fields["accept_prob"].mean()),
        **report,
        "stopped_by": cause,
        "converged": not reasons and cause is None,
    }
    return chain.replace(info=run_record("nuts", run[0], run[1], density, statistics))
