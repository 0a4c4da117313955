"""sample_nautilus: importance nested sampling with nautilus, which is imported here alone."""

from __future__ import annotations

import os
import warnings
from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray, optional_import, positive_int, real_in
from .._util.described import described
from .._util.progress import progress_bar
from ..chains.chain import Chain
from ..chains.effective import kish
from ..likelihoods.site import own_failures
from .density import ModelDensity
from .nested_report import chain_of_points, judged, weights_of
from .record import INTERRUPTION, begin, require_options, run_record, seed_of
from .replay import Calls, Overdue, record_of
from .state_file import StateFile
from .unit_cube import UnitCube, itself

_REFUSED = {  # options of nautilus that cannot be set, and why
    **dict.fromkeys(
        ("prior", "likelihood", "n_dim", "prior_args", "prior_kwargs", "likelihood_args", "likelihood_kwargs"),
        "the density provides prior and likelihood",
    ),
    **dict.fromkeys(("filepath", "resume"), "use checkpoint="),
    **dict.fromkeys(("pass_dict", "vectorized", "blobs_dtype"), "the likelihood is called in batches of arrays"),
    "seed": "the key sets the seed",
    "n_batch": "use batch",
}


_HOPELESS = 10  # times n_live points at which the posterior is zero
_NOWHERE = -1e300  # nautilus takes no infinity


def sample_nautilus(
    key: jax.Array,
    density: ModelDensity,
    *,
    n_live: int = 2000,
    n_effective: int = 5000,
    discard_exploration: bool = True,
    batch: int = 128,
    checkpoint: str | os.PathLike[str] | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Chain:
    """Returns weighted posterior draws and the log evidence from importance nested sampling with nautilus.

    It needs the fewest calls of all samplers here and most time of its own, as it trains neural networks: use it for
    likelihoods that take longer than some ten milliseconds. The points move in the unit cube, as in `sample_dynesty`.
    Interrupting with the keyboard returns the points so far.

    Args:
        key: JAX random key.
        density: the posterior.
        n_live: number of live points.
        n_effective: effective sample size at which sampling stops.
        discard_exploration: leave out the points of the exploration. Without this, evidence and posterior are slightly
            biased: standard deviations were 2 to 4 % too small in a problem of seven parameters.
        batch: number of likelihoods that are evaluated at once.
        checkpoint: a file in which all calls of the likelihood are kept. If it exists, the run is repeated from it
            without a call, and goes on where it ends, also after a kill. The networks are trained again. `n_effective`
            may be larger.
        max_seconds: time limit, checked before each batch; None for no limit.
        progress: show a progress bar.
        **options: further arguments of `nautilus.Sampler` (n_networks, pool, split_threshold, ...).

    Returns:
        A Chain of all points with their importance weights, log prior, log likelihood, the log evidence and its error,
        n_eff^(-1/2). `info` holds the number of calls and whether the run converged. If it did not, one warning says
        why.

    Raises:
        ImportError: nautilus is not installed.
        TypeError, ValueError: settings of the wrong kind, a posterior that is zero at all points, or a checkpoint of
            another run.
        TimeoutError: max_seconds passed before the first batch.

    Source: Lange (2023), MNRAS 525, 3181.
    """
    nautilus = optional_import("nautilus", "nested", "sample_nautilus")
    n_live = positive_int(n_live, "sample_nautilus: n_live", minimum=100)
    n_effective = positive_int(n_effective, "sample_nautilus: n_effective")
    batch = positive_int(batch, "sample_nautilus: batch")
    limit = np.inf if max_seconds is None else real_in(max_seconds, "sample_nautilus: max_seconds", 0.0, np.inf)
    if not isinstance(discard_exploration, bool):
        raise TypeError(f"sample_nautilus: discard_exploration: expected True or False; got {discard_exploration!r}.")
    require_options("sample_nautilus", options, nautilus.Sampler, _REFUSED)
    if density.dim < 2:
        raise ValueError("sample_nautilus: expected two parameters or more; got one. Use sample_dynesty.")
    start, seed = begin(key, density), seed_of(key)
    settings = {"n_live": n_live, "batch": batch, "options": described(options)}
    about = record_of("nautilus", density, seed, **settings)
    settings |= {"n_effective": n_effective, "discard_exploration": discard_exploration}
    cube = UnitCube(density, jax.random.fold_in(key, 1))
    with own_failures(density.external), progress_bar(desc="nautilus", unit="call", disable=not progress) as bar:
        calls = Calls(cube, StateFile(checkpoint, about), lambda made: bar.update(made - bar.n))

        def likelihood(u: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
            found = calls(u)
            if not calls.possible and calls.made >= _HOPELESS * n_live:
                raise ValueError(
                    f"sample_nautilus: the posterior is zero at all of {calls.made} points; expected some where it is "
                    "not. Look at prior and data."
                )
            return np.maximum(found.target, _NOWHERE), found.log_prior, found.log_likelihood

        sampler = nautilus.Sampler(
            itself,
            likelihood,
            n_dim=density.dim,
            n_live=n_live,
            n_batch=batch,
            vectorized=True,
            pass_dict=False,
            blobs_dtype=[("log_prior", float), ("log_likelihood", float)],
            seed=seed,
            **options,
        )
        calls.deadline = start + limit
        try:
            cause = _run(sampler, n_effective, discard_exploration)
        finally:
            calls.save()
    return _chain(density, cube, sampler, calls, settings, seed=seed, start=start, cause=cause)


def _run(sampler: Any, n_effective: int, discard_exploration: bool) -> str | None:
    """Runs the sampler to its end, and returns what stopped it early (None if nothing did).

    It runs one batch at a time. A batch that is stopped within leaves the sampler as it was before.
    """
    done, cause = False, None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="nautilus|sklearn")  # networks that did not converge, and the like
        while not done and cause is None:
            before = {name: _copied(value) for name, value in vars(sampler).items()}
            try:
                done = sampler.run(
                    n_eff=n_effective, discard_exploration=discard_exploration, n_like_max=sampler.n_like + 1
                )
            except (KeyboardInterrupt, Overdue) as error:
                vars(sampler).update(before)
                cause = INTERRUPTION if isinstance(error, KeyboardInterrupt) else "the time limit"
                if sampler.n_like == 0 and isinstance(error, Overdue):
                    raise TimeoutError(
                        "sample_nautilus: max_seconds passed before the first batch. Allow more."
                    ) from None
                if sampler.n_like == 0:
                    raise
    return cause


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, list | np.ndarray) else value


def _chain(
    density: ModelDensity,
    cube: UnitCube,
    sampler: Any,
    calls: Calls,
    settings: dict[str, Any],
    *,
    seed: int,
    start: float,
    cause: str | None,
) -> Chain:
    if cause and not sampler.shell_n.sum():  # stopped before the first points after the exploration
        sampler.discard_exploration = False
    u, log_weights, _, blobs = sampler.posterior(return_blobs=True)
    weights = weights_of(log_weights)
    log_prior, log_likelihood = (np.asarray(blobs[name], dtype=np.float64) for name in ("log_prior", "log_likelihood"))
    error = float(1.0 / np.sqrt(sampler.n_eff))
    report = {
        "calls": calls.made,
        "replayed": calls.replayed,
        **judged("sample_nautilus", kish(weights), error=error, cause=cause, advice="Raise n_effective, or n_live."),
    }
    return chain_of_points(
        cube,
        u,
        log_prior,
        log_likelihood,
        weights=weights,
        log_evidence=float(sampler.log_z),
        log_evidence_error=error,
        info=run_record("nautilus", seed, start, density, {**settings, **report}),
    )
