"""sample_pocomc: preconditioned Monte Carlo. pocoMC (GPL-3, an optional extra) and torch are imported only here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray, optional_import, positive_int, real_in, shorten
from .._util.described import described
from ..chains.chain import Chain
from .checkpoint import require_folder
from .coordinates import Coordinates, resolved, sampled_in
from .density import ModelDensity
from .particle_keeper import Keeper
from .particle_report import results_of
from .particle_run import watched
from .preconditioner import Preconditioner
from .record import INTERRUPTION, begin, require_options, run_record, seed_of

OURS = "realnvp"
_THEIRS = ("nsf3", "nsf6", "nsf12", "maf3", "maf6", "maf12")
_REFUSED = {  # options of pocomc.Sampler that cannot be set, and why, or what to use instead
    **dict.fromkeys(
        ("prior", "likelihood", "n_dim", "likelihood_args", "likelihood_kwargs"),
        "the density provides prior and likelihood",
    ),
    **dict.fromkeys(("vectorize", "pool", "blobs_dtype"), "JAX computes the likelihoods in batches"),
    **dict.fromkeys(("output_dir", "output_label"), "pocoMC writes pickles there; use checkpoint="),
    "random_state": "the key sets the seed",
    "n_ess": "use n_effective",
    **dict.fromkeys(
        ("periodic", "reflective"),
        "it has no effect, because pocoMC 1.2.6 first maps bounded parameters to the real line and no move can leave "
        "the box",
    ),
}
_LOADED = (
    r"\(order\): .*| at 0x[0-9a-f]+"  # left out of a zuko flow's text: its order, which a checkpoint has; addresses
)
_DRAWN = 256  # prior draws at a time; the check before a sampler starts takes the same number, so they share a program


class _Target:
    """A ModelDensity with the interface that pocoMC requires of a prior, and with the log likelihood.

    pocoMC asks for both at the same points, one after the other. The model is evaluated only once.
    """

    def __init__(self, density: ModelDensity, key: jax.Array):
        self._density, self._key, self._draws = density, key, 0
        self._last = np.empty((0, density.dim)), np.empty(0)  # points and their log likelihoods
        self.bounds, self.dim = density.bounds, density.dim

    def logpdf(self, x: FloatArray) -> FloatArray:
        """Returns the log prior (n,) at points (n, d)."""
        log_prior, log_likelihood = self._density.log_prior_and_likelihood(x)
        self._last = np.array(x), log_likelihood
        return log_prior

    def log_likelihood(self, x: FloatArray) -> FloatArray:
        """Returns the log likelihood (n,) at points (n, d)."""
        points, values = self._last
        return values.copy() if np.array_equal(x, points) else self._density.log_prior_and_likelihood(x)[1]

    def rvs(self, size: int = 1) -> FloatArray:
        """Returns draws (size, d): float64, strictly interior, writable (pocoMC assigns into them)."""
        parts = []
        for _ in range(0, size, _DRAWN):
            self._draws += 1
            parts.append(self._density.sample_prior(jax.random.fold_in(self._key, self._draws), _DRAWN))
        return np.concatenate(parts)[:size]


class _TorchFlow:
    """A Preconditioner with the interface of a flow in pocoMC's moves: torch tensors in and out."""

    def __init__(self, torch: ModuleType, flow: Preconditioner):
        self._torch, self._flow = torch, flow

    def forward(self, u: Any) -> Any:
        """Returns theta (n, d) and log |det dtheta / du| (n,)."""
        return tuple(map(self._torch.as_tensor, self._flow.to_latent(u.numpy())))

    def inverse(self, theta: Any) -> Any:
        """Returns u (n, d) and log |det du / dtheta| (n,)."""
        return tuple(map(self._torch.as_tensor, self._flow.from_latent(theta.numpy())))


def sample_pocomc(
    key: jax.Array,
    density: ModelDensity,
    *,
    n_effective: int = 512,
    n_active: int = 256,
    n_total: int = 4096,
    n_evidence: int = 4096,
    n_steps: int | None = None,
    flow: Any = OURS,
    precondition: bool = True,
    coordinates: Coordinates = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
    max_seconds: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Chain:
    """Returns weighted posterior draws and the log evidence from preconditioned Monte Carlo.

    Interrupting with the keyboard returns the particles so far.

    Args:
        key: JAX random key; it seeds the prior draws, NumPy and torch. The global states of NumPy and torch are
            restored afterwards.
        density: the posterior.
        n_effective: effective sample size kept along the temperature ladder.
        n_active: number of particles moved in each iteration.
        n_total: effective sample size of the particles at which sampling stops, and that of the draws of the flow.
        n_evidence: draws of the flow for the evidence, at first. More are made until `n_total` of them are effective,
            but no more than there were calls for the particles. 0 for none: particles, and an evidence without an
            error.
        n_steps: moves of each particle after the mean log density stops rising. More are made if they are small, 20
            times as many in all at most. None for the number of parameters, which pocoMC documents as its default (its
            code uses half). A second stage may need more if its prior has few draws in the region of the posterior.
            With too few moves the tails are not filled: one marginal was 15 % too narrow compared with twice as many
            moves and with a second sampler.
        flow: the flow that preconditions the moves and estimates the evidence. "realnvp" is a small RealNVP in JAX that
            also learns from the log densities of the particles (see Preconditioner; benchmarks/preconditioner.py).
            pocoMC's own flows in torch are "nsf3", "nsf6" (its default), "nsf12", "maf3", "maf6", "maf12", or a
            `zuko.flows.Flow`.
        precondition: False for moves without a flow; the evidence then comes from the particles, without an error.
        coordinates: the coordinates in which the particles move. The returned chain is always in the model's
            parameters. "parameters": the model's own. "latent": those in which its learned priors are close to a
            standard normal (`LatentReparam`); the model's own if it has no learned prior. "auto": "parameters".
        checkpoint: a file in which the run is kept, written between iterations and after the draws of the flow, 16,384
            at a time. If it exists the run goes on from there, also after a kill. Repeating a finished call returns the
            same chain, and calls the likelihood only at the last particles, to see that it is the same.
        checkpoint_every: iterations between two writes of the checkpoint.
        max_seconds: time limit, checked between iterations; None for no limit. The particles so far are returned. The
            first check comes after the prior draws.
        progress: show a progress bar.
        **options: further arguments of `pocomc.Sampler` (train_config, dynamic, metric, n_prior, sample, ...).

    Returns:
        A Chain with importance weights, log prior, log likelihood, the log evidence and its error. Its rows are
        independent draws of the flow, weighted to the posterior, and the particles of higher temperatures with weight
        zero. If the flow does not cover the posterior, only the particles are left, with their weights. These have
        common ancestors, so that the shares of separate modes may be wrong, and errors are too small.
        `info["posterior"]` says which it is. Rows of low weight do not degrade averages, and `fit_flow` learns the
        tails from them (loss "log_variance"). `info` also holds the temperatures, acceptance, the evidence from the
        particles alone, Pareto k of the draws, and whether the run converged. If it did not, one warning says why.

    Raises:
        ImportError: pocoMC is not installed.
        TypeError, ValueError: settings of the wrong kind, n_active > n_effective, a likelihood that is zero at all
            prior draws, or a checkpoint of another run.

    Source: Karamanis et al. (2022), MNRAS 516, 1644 and arXiv:2207.05660.
    """
    pocomc = optional_import("pocomc", "pocomc", "sample_pocomc")
    sizes = {
        name: positive_int(value, f"sample_pocomc: {name}")
        for name, value in {"n_effective": n_effective, "n_active": n_active, "n_total": n_total}.items()
    }
    sizes["n_evidence"] = positive_int(n_evidence, "sample_pocomc: n_evidence", minimum=0)
    checkpoint_every = positive_int(checkpoint_every, "sample_pocomc: checkpoint_every")
    sizes["n_steps"] = density.dim if n_steps is None else positive_int(n_steps, "sample_pocomc: n_steps")
    if n_active > n_effective:
        raise ValueError(f"sample_pocomc: expected n_active <= n_effective; got {n_active} > {n_effective}.")
    limit = np.inf if max_seconds is None else real_in(max_seconds, "sample_pocomc: max_seconds", 0.0, np.inf)
    ours = _is_used(flow, precondition, options)
    if options.get("sample") == "rwm" and density.dim == 1:
        raise ValueError(
            "sample_pocomc: sample: 'rwm' of pocoMC 1.2.6 fails with one parameter. Use the default, 'tpcn'."
        )
    options = {"n_max_steps": 20 * sizes["n_steps"], **_checked_options(pocomc, options)}
    moved_in = resolved(coordinates, density, "sample_pocomc", auto="parameters")
    inner, to_chain = sampled_in(density, moved_in)
    key_prior, key_seed = jax.random.split(key)
    seed, start = seed_of(key_seed), begin(key, inner)
    about = {
        "names": list(inner.names),
        "seed": seed,
        **{name: sizes[name] for name in ("n_effective", "n_active", "n_steps")},
        "options": described(options),
        "flow": flow if isinstance(flow, str) else [type(flow).__name__, re.sub(_LOADED, "", repr(flow))],
        "precondition": precondition,
        "coordinates": moved_in,
    }
    require_folder(checkpoint)
    torch = optional_import("torch", "pocomc", "sample_pocomc")
    with _global_generators_restored(torch):
        target = _Target(inner, key_prior)
        run = watched(pocomc.Sampler)(
            prior=target,
            likelihood=target.log_likelihood,
            **{name: sizes[name] for name in ("n_effective", "n_active", "n_steps")},
            flow=_THEIRS[0] if _is_ours(flow) else deepcopy(flow),  # pocoMC makes one in any case, and trains it
            precondition=precondition,
            vectorize=True,
            random_state=seed,
            **options,
        )
        if progress:
            run.show()
        if ours:
            run.preconditioner = Preconditioner(inner.dim, seed=seed, rows=sizes["n_active"])
            run.flow = _TorchFlow(torch, run.preconditioner)
        keeper = Keeper(torch, checkpoint, about, every=checkpoint_every, deadline=start + limit)
        if checkpoint is not None and Path(checkpoint).exists():
            keeper.restore(run, inner)
        run.watch, run.keep = keeper.between, keeper.keep
        run.no_grad, run.as_tensor, run.generator = torch.no_grad, partial(_single, torch), partial(_own, torch, seed)
        cause = _go(run, keeper, n_total=sizes["n_total"], n_evidence=sizes["n_evidence"])
    name = flow if isinstance(flow, str) else type(flow).__name__
    settings = {**sizes, "flow": name if precondition else None, "coordinates": moved_in}
    fields, report = results_of(run, settings, cause)
    return to_chain(**fields, **_KINDS, info=run_record("pocomc", seed, start, inner, {**settings, **report}))


_KINDS = {"weights_kind": "importance", "rows": "independent"}  # what a Chain is told about the rows


def _single(torch: ModuleType, array: FloatArray) -> Any:
    return torch.as_tensor(array, dtype=torch.float32)  # the only precision of pocoMC's flows


@contextmanager
def _own(torch: ModuleType, seed: int, iteration: int, block: int) -> Iterator[None]:
    """Draws of a flow of torch have a generator of their own, so that a run that goes on is not changed by them."""
    state = np.random.SeedSequence([seed, iteration, block]).generate_state(1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(state[0]))
        yield


def _is_ours(flow: Any) -> bool:
    return isinstance(flow, str) and flow == OURS


def _is_used(flow: Any, precondition: bool, options: dict[str, Any]) -> bool:
    """Returns whether our preconditioner is used. Raises an error for settings that do not fit together."""
    if not isinstance(precondition, bool):
        raise TypeError(f"sample_pocomc: precondition: expected True or False; got {precondition!r}.")
    if isinstance(flow, str) and flow not in (OURS, *_THEIRS):
        raise ValueError(f"sample_pocomc: flow: expected one of {shorten((OURS, *_THEIRS), 10)}; got {flow!r}.")
    unused = {"train_config", "train_frequency"} & options.keys()
    if _is_ours(flow) and unused:
        raise ValueError(
            f"sample_pocomc: {shorten(sorted(unused))}: expected none with flow={OURS!r}: only pocoMC's own flows have "
            "these training settings. Leave them out, or choose another flow."
        )
    return _is_ours(flow) and precondition


def _checked_options(pocomc: ModuleType, options: dict[str, Any]) -> dict[str, Any]:
    require_options("sample_pocomc", options, pocomc.Sampler, _REFUSED)
    return options


def _go(run: Any, keeper: Keeper, *, n_total: int, n_evidence: int) -> str | None:
    """Runs to the end, and returns what stopped the run early (None if nothing did)."""
    try:
        run.run(n_total=n_total, n_evidence=n_evidence, progress=False)
        if run.found is None:  # no draws from a flow; pocoMC's own estimate does not account for replaced prior draws
            run.logz, run.logz_err = run.tempered_evidence(), None
    except KeyboardInterrupt:
        if run.warmup or run.particles.get("beta", index=-1) == 0.0:
            raise
        run.as_interrupted()
        run.pbar.close()
        return INTERRUPTION
    return "the time limit" if keeper.late else None


@contextmanager
def _global_generators_restored(torch: ModuleType) -> Iterator[None]:
    """Restores the global generators of NumPy and torch at the end, because pocoMC seeds and uses both."""
    torch_state, threads = torch.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        torch.set_num_threads(threads)
