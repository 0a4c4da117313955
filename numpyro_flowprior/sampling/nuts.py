"""sample_nuts: NumPyro's No-U-Turn sampler behind the signature of the others, learned priors in their latent space."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import NUTS, init_to_sample
from numpyro.primitives import Messenger

from .._util.checks import positive_int, real_in
from .._util.described import described
from .._util.messages import ConvergenceWarning
from .._util.progress import progress_bar
from ..chains.chain import Chain
from ..chains.checks import FEWEST_ROWS, check_convergence
from ..likelihoods.site import own_failures, require_gradients
from ..models.sites import without_masks
from .checkpoint import require_same_density
from .coordinates import Coordinates, chain_of_draws, resolved, sampled_in
from .density import ModelDensity
from .fitness import only_jax
from .record import INTERRUPTION, begin, require_options, run_record, seed_of
from .state_file import StateFile

_BLOCKS = 10  # of warm-up and of draws, at least; between two of them the clock is read and the checkpoint written
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
    checkpoint: str | os.PathLike[str] | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Chain:
    """Returns posterior draws from NumPyro's NUTS in float64. The chains start at draws from the prior.

    Interrupting with the keyboard after the warm-up returns the draws that there are.

    Args:
        key: JAX random key.
        density: the posterior; its model must be differentiable.
        n_samples: draws kept of each chain.
        n_warmup: steps that adapt the step size and the mass matrix; they are dropped.
        n_chains: chains, run side by side in one compiled program.
        coordinates: the coordinates in which the chains move. The returned chain is always in the model's parameters.
            "parameters": the model's own. "latent": those in which its learned priors are close to a standard normal
            (`LatentReparam`); the model's own if it has no learned prior. "auto": "latent". NUTS moves best there. Use
            `sample_pocomc` for modes that a prior keeps apart.
        checkpoint: a file in which the run is kept. It is written ten times in the warm-up and ten times afterwards. If
            it exists the run goes on from there, also after a kill, to the same draws bit for bit. Repeating a finished
            call returns the same chain; a larger `n_samples` adds draws to it.
        max_seconds: time limit; None for no limit. It is checked ten times in the warm-up, where it is an error, since
            there is nothing to return; and after each tenth of the draws, where the draws so far are returned.
        progress: show a progress bar.
        **options: further arguments of `numpyro.infer.NUTS` (target_accept_prob, dense_mass, max_tree_depth, ...).

    Returns:
        A Chain with `chain_id`, log prior and log likelihood of each draw. `info` holds R-hat, effective sample size,
        divergences, acceptance, calls (evaluations of the density and its gradient, with the warm-up), and whether the
        run converged (None with fewer than 100 draws). If it did not, one warning says why.

    Raises:
        TypeError, ValueError: numbers of the wrong kind, unknown coordinates, an option that NUTS does not have, or a
            checkpoint of another run.
        TimeoutError: the time limit was reached in the warm-up; the message says how far it came.

    Source: Hoffman and Gelman (2014), JMLR 15, 1593; Phan, Pradhan, Jankowiak (2019), arXiv:1912.11554.
    """
    n_samples = positive_int(n_samples, "sample_nuts: n_samples", minimum=2)
    n_warmup = positive_int(n_warmup, "sample_nuts: n_warmup")
    n_chains = positive_int(n_chains, "sample_nuts: n_chains")
    limit = np.inf if max_seconds is None else real_in(max_seconds, "sample_nuts: max_seconds", 0.0, np.inf)
    moved_in = resolved(coordinates, density, "sample_nuts", auto="latent")
    require_options("sample_nuts", options, NUTS)
    require_gradients("sample_nuts", density.external)
    start = begin(key, density)
    model = _Whole(sampled_in(density, moved_in)[0].model, density.imputed_sites)
    options = {"init_strategy": init_to_sample, **options}
    about = {"sampler": "nuts", "names": list(density.names), "seed": seed_of(key), "coordinates": moved_in}
    about |= {"n_warmup": n_warmup, "n_chains": n_chains, "options": described(options)}
    about |= {"observed": described(density.observed)}
    kernel = NUTS(model, **options)
    with jax.enable_x64(True), only_jax(), own_failures(density.external):
        state = kernel.init(jax.random.split(key, n_chains), n_warmup, None, *density.arguments)
        program = _kept(density, (moved_in, n_warmup), options, lambda: _Program(kernel, density))
        run = _Run(density, StateFile(checkpoint, about), state)
        cause = _advance(run, program, n_warmup, n_samples, start + limit, progress=progress)
    draws = np.concatenate(run.draws, axis=1)[:, :n_samples]
    fields = {name: np.concatenate([part[name] for part in run.fields], axis=1)[:, :n_samples] for name in _FIELDS}
    settings = {"coordinates": moved_in, "n_warmup": n_warmup, "calls": run.calls}
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


@dataclass
class _Run:
    """Where the chains are, and how they came there; brought back from its file if there is one.

    Attributes:
        file: where the run is kept.
        state: NumPyro's, of all chains.
        warmed: steps of the warm-up done.
        calls: gradients taken.
        draws, fields: blocks (chains, steps, d) of draws, and (chains, steps) of the fields of each.
    """

    density: ModelDensity
    file: StateFile
    state: Any
    warmed: int = 0
    calls: int = 0
    draws: list[np.ndarray] = field(default_factory=list)
    fields: list[dict[str, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        found = self.file.read(self.state)
        if found is None:
            return
        self.state, arrays, record = found
        require_same_density(self.file.path, self.density, arrays["points"], arrays["log_prob"])
        self.warmed, self.calls = int(record["warmed"]), int(record["calls"])
        if "draws" in arrays:
            self.draws, self.fields = [arrays["draws"]], [{name: arrays[name] for name in _FIELDS}]

    @property
    def n_draws(self) -> int:
        """Draws of each chain."""
        return sum(part.shape[1] for part in self.draws)

    def add(self, advanced: tuple[Any, Any, Any], steps: int, *, warmup: bool) -> None:
        """Takes the state after a block of steps, the sites' values in each, and the fields; writes the checkpoint."""
        state, values, found = advanced
        found = {name: np.asarray(rows)[:, :steps] for name, rows in found.items()}
        self.state, self.calls = state, self.calls + int(found["num_steps"].sum())
        if warmup:
            self.warmed += steps
        else:
            self.fields.append(found)
            self.draws.append(self.density.vector({site: np.asarray(rows)[:, :steps] for site, rows in values.items()}))
        if self.file.path is not None:
            self._write(self.density.vector({site: np.asarray(rows)[:, steps - 1] for site, rows in values.items()}))

    def _write(self, points: np.ndarray) -> None:
        """Writes the run, with the chains' last points (chains, d) by which its density is recognised."""
        arrays = {"points": points, "log_prob": self.density.log_posterior(points)}
        if self.draws:  # joined once, not at every writing
            self.draws = [np.concatenate(self.draws, axis=1)]
            self.fields = [{name: np.concatenate([part[name] for part in self.fields], axis=1) for name in _FIELDS}]
            arrays |= {"draws": self.draws[0], **self.fields[0]}
        self.file.write(self.state, arrays, {"warmed": self.warmed, "calls": self.calls})


def _advance(
    run: _Run, program: _Program, n_warmup: int, n_samples: int, deadline: float, *, progress: bool
) -> str | None:
    """Runs the warm-up and the draws, and returns what stopped it before the end, if anything did.

    It runs in blocks of steps, which share one compiled program; NumPyro's MCMC would compile one for each length.
    """
    block = -(-n_samples // _BLOCKS)
    look = min(block, -(-n_warmup // _BLOCKS))
    done = run.warmed + min(run.n_draws, n_samples)
    total = n_warmup + n_samples
    with progress_bar(total=total, desc="NUTS, warm-up", unit="step", initial=done, disable=not progress) as bar:
        try:
            while run.warmed < n_warmup:
                if time.perf_counter() > deadline:
                    raise _too_late(run, n_warmup)
                steps = min(look, n_warmup - run.warmed)
                run.add(program.advance(run.state, steps, block=block), steps, warmup=True)
                bar.update(steps)
            bar.set_description("NUTS")
            while run.n_draws < n_samples:
                run.add(program.advance(run.state, block, block=block), block, warmup=False)
                bar.update(block)
                if time.perf_counter() > deadline and run.n_draws < n_samples:
                    return "the time limit"
        except KeyboardInterrupt:
            if not run.draws:
                raise
            return INTERRUPTION
    return None


def _too_late(run: _Run, n_warmup: int) -> TimeoutError:
    advice = "Allow more time, or lower n_warmup."
    if run.file.path is not None:
        advice = f"The same call goes on from {run.file.path}."
    return TimeoutError(
        f"sample_nuts: max_seconds: time was up after {run.warmed} of {n_warmup} steps of the warm-up. There are no "
        "draws to return: before the warm-up is over the sampler is not adapted, and its chains may not have reached "
        f"the posterior. {advice}"
    )


def _chain(
    density: ModelDensity,
    draws: np.ndarray,
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
    unknown = len(samples) < FEWEST_ROWS and not reasons and cause is None
    statistics = {
        **settings,
        "n_chains": chains,
        "n_samples": kept,
        "divergences": divergences,
        "acceptance": float(fields["accept_prob"].mean()),
        **report,
        "stopped_by": cause,
        "converged": None if unknown else not reasons and cause is None,
    }
    return chain.replace(info=run_record("nuts", run[0], run[1], density, statistics))
