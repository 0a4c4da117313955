"""sample_dynesty: nested sampling with dynesty, which is imported here alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray, optional_import, positive_int, real_in
from .._util.described import described
from .._util.progress import progress_bar
from ..chains.chain import Chain
from ..likelihoods.site import own_failures
from .density import ModelDensity
from .nested_report import (
    chain_of_points,
    effective_size_of,
    faults_of_walks,
    insertion_probability,
    judged,
    plateau_variance,
    weights_of,
)
from .record import INTERRUPTION, begin, require_options, run_record, seed_of
from .replay import Calls, Overdue, record_of
from .state_file import StateFile
from .together import Together
from .unit_cube import UnitCube, itself

_REFUSED = {  # options of dynesty that cannot be set, and why
    **dict.fromkeys(
        ("loglikelihood", "prior_transform", "ndim", "logl_args", "logl_kwargs", "ptform_args", "ptform_kwargs"),
        "the density provides prior and likelihood",
    ),
    **dict.fromkeys(("pool", "use_pool"), "the likelihood is called in batches; `batch` sets their size"),
    **dict.fromkeys(
        ("blob", "live_points", "save_evaluation_history", "history_filename"), "use the Chain, and checkpoint="
    ),
    "rstate": "the key sets the seed",
    "nlive": "use n_live",
    "queue_size": "use batch",
}


_WALKS = 100  # as in bilby; with dynesty's 20 + d, 2 % of the points were copies of others in seven parameters
_ABOVE_ALL = 1e300, np.zeros(2)  # ends the search for a point above the threshold, when another thread has failed


def sample_dynesty(
    key: jax.Array,
    density: ModelDensity,
    *,
    n_live: int = 1000,
    dlogz: float | None = None,
    sample: str = "rwalk",
    batch: int = 16,
    checkpoint: str | os.PathLike[str] | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Chain:
    """Returns weighted posterior draws and the log evidence from nested sampling with dynesty.

    The points move in the unit cube (`FlowPrior.from_unit_cube`). A prior that is a mixture of flows goes through its
    first flow, and the likelihood accounts for the others. Interrupting with the keyboard returns the points so far.
    Before there are `n_live` points it raises KeyboardInterrupt; a checkpoint has the calls.

    Args:
        key: JAX random key.
        density: the posterior.
        n_live: number of live points. Two separated modes need 2000 or more for 400 effective draws.
        dlogz: sampling stops when the live points can add no more than this to the log evidence; None for dynesty's
            default, 0.001 (n_live - 1) + 0.01.
        sample: how a point is replaced: "rwalk", "unif", "slice", "rslice", or "auto" (see dynesty). The default works
            in 2 to 20 parameters, and where a prior has several modes.
        batch: number of points that are replaced at once. Their likelihoods are evaluated together, which a likelihood
            in JAX, and an ExternalLikelihood over several processes, make use of.
        checkpoint: a file in which all calls of the likelihood are kept. If it exists, the run is repeated from it
            without a call, and goes on where it ends, also after a kill, to the same draws. `dlogz` may be smaller.
        max_seconds: time limit, checked before each batch, after the first n_live calls; None for no limit.
        progress: show a progress bar.
        **options: further arguments of `dynesty.NestedSampler` (bound, walks, slices, bootstrap, ...). A random walk
            has 100 steps, unless `walks` says otherwise.

    Returns:
        A Chain of all points with their importance weights, log prior, log likelihood, the log evidence and its error,
        (information / n_live)^(1/2), larger if the likelihood has plateaus. `info` holds the number of calls, the
        probability of the insertion ranks (small if new points are not uniform above the likelihood threshold), and
        whether the run converged. If it did not, one warning says why. Walks begin at live points, so that points have
        common ancestors. The `effective_size` of `info` accounts for them; that of the chain counts its weights alone.

    Raises:
        ImportError: dynesty is not installed.
        TypeError, ValueError: settings of the wrong kind, a posterior that is zero at all points, or a checkpoint of
            another run.

    Source: Skilling (2006), Bayesian Analysis 1, 833; Speagle (2020), MNRAS 493, 3132; Fowlie, Handley and Su (2020).
    """
    dynesty = optional_import("dynesty", "nested", "sample_dynesty")
    n_live = positive_int(n_live, "sample_dynesty: n_live", minimum=2 * density.dim + 2)
    batch = positive_int(batch, "sample_dynesty: batch")
    stop = 1e-3 * (n_live - 1) + 0.01 if dlogz is None else real_in(dlogz, "sample_dynesty: dlogz", 0.0, np.inf)
    limit = np.inf if max_seconds is None else real_in(max_seconds, "sample_dynesty: max_seconds", 0.0, np.inf)
    require_options("sample_dynesty", options, dynesty.NestedSampler, _REFUSED)
    if sample in ("rwalk", "auto"):
        options = {"walks": _WALKS, **options}
    start, seed = begin(key, density), seed_of(key)
    settings = {"n_live": n_live, "sample": sample, "batch": batch, "options": described(options)}
    about = record_of("dynesty", density, seed, **settings)
    settings |= {"dlogz": stop}
    cube = UnitCube(density, jax.random.fold_in(key, 1))
    with own_failures(density.external), progress_bar(desc="dynesty", unit="call", disable=not progress) as bar:
        calls = Calls(cube, StateFile(checkpoint, about), lambda made: bar.update(made - bar.n))

        def evaluate(u: FloatArray) -> list[tuple[float, FloatArray]]:
            found = calls(u)
            both = np.stack([found.log_prior, found.log_likelihood], axis=1)
            return list(zip(found.target.tolist(), both, strict=True))

        together = _Walks(evaluate, batch, _ABOVE_ALL)
        try:
            sampler = dynesty.NestedSampler(
                together.call,
                itself,
                density.dim,
                nlive=n_live,
                sample=sample,
                rstate=np.random.default_rng(seed),
                blob=True,
                pool=together,
                queue_size=batch,
                use_pool={"prior_transform": False, "update_bound": False},
                **options,
            )
            together.sampler = sampler
            calls.deadline = start + limit
            cause = _run(sampler, stop, bar)
        except RuntimeError as error:
            if calls.possible:
                raise
            raise ValueError(
                f"sample_dynesty: the posterior is zero at all of {calls.made} prior draws; expected some where it is "
                "not. Look at prior and data."
            ) from error
        finally:
            calls.save()
        dead = len(sampler.results.logl)
        for _ in sampler.add_live_points():
            pass
    parents = _parents(sampler.results, together.begins)
    return _chain(density, cube, sampler.results, dead, parents, calls, settings, seed=seed, start=start, cause=cause)


class _Walks(Together):
    """Threads that also note, for each point that was walked to, the live point where the walk began."""

    sampler: Any = None  # dynesty's

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.begins: dict[bytes, bytes] = {}

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Returns the values of a function at items, in their order."""
        items = list(items)
        results = super().map(function, items)
        if self.sampler is not None and not isinstance(self.sampler.internal_sampler, self._independent()):
            self.begins |= {end.u.tobytes(): begin.u.tobytes() for begin, end in zip(items, results, strict=True)}
        return results

    @staticmethod
    def _independent() -> tuple[type, ...]:
        from dynesty.internal_samplers import UniformBoundSampler, UnitCubeSampler

        return UniformBoundSampler, UnitCubeSampler


def _parents(results: Any, begins: dict[bytes, bytes]) -> np.ndarray:
    """Returns the row (n,) from which each point was walked to; its own row, if the point was drawn independently."""
    parent = np.arange(len(results.logl))
    first: dict[bytes, int] = {}
    for row in np.argsort(results.samples_it, kind="stable"):  # a walk begins at an older point
        point = results.samples[row].tobytes()
        parent[row] = first.get(point, first.get(begins.get(point, b""), row))
        first.setdefault(point, row)
    return parent


def _run(sampler: Any, stop: float, bar: Any) -> str | None:
    """Runs the sampler to its end, and returns what stopped it early (None if nothing did)."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="dynesty")  # what matters is in the verdict
            for found in sampler.sample(dlogz=stop, add_live=False):
                bar.set_postfix(log_evidence=f"{found.logz:.2f}", remaining=f"{found.delta_logz:.2g}")
    except KeyboardInterrupt:
        return INTERRUPTION
    except Overdue:
        return "the time limit"
    return None


def _chain(
    density: ModelDensity,
    cube: UnitCube,
    results: Any,
    dead: int,
    parents: np.ndarray,
    calls: Calls,
    settings: dict[str, Any],
    *,
    seed: int,
    start: float,
    cause: str | None,
) -> Chain:
    weights = weights_of(np.asarray(results.logwt))
    log_prior, log_likelihood = np.asarray(results.blob, dtype=np.float64).T
    distinct = np.unique(np.asarray(results.samples), axis=0, return_index=True)[1]
    born = np.asarray(results.samples_it)
    n_live, different = settings["n_live"], np.asarray(results.logl)[distinct]
    probability = insertion_probability(born, different, n_live)
    log_evidence = float(results.logz[-1])
    counted = weights > 0
    information = weights[counted] @ (np.asarray(results.logl)[counted] - log_evidence)  # nats
    variance = max(information, 0.0) / n_live + plateau_variance(different, weights[distinct], n_live)
    copies = 1.0 - len(distinct) / len(weights)
    u = np.asarray(results.samples)
    effective = effective_size_of(parents, born, u, weights, n_live)
    faults = faults_of_walks(probability, copies)
    report = {
        "calls": calls.made,
        "replayed": calls.replayed,
        "iterations": dead,
        "insertion_probability": probability,
        "copies": copies,
        **judged(
            "sample_dynesty",
            effective,
            error=float(np.sqrt(variance)),
            cause=cause,
            advice="Raise n_live.",
            further=faults,
        ),
    }
    return chain_of_points(
        cube,
        u,
        log_prior,
        log_likelihood,
        weights=weights,
        log_evidence=log_evidence,
        log_evidence_error=float(np.sqrt(variance)),
        info=run_record("dynesty", seed, start, density, {**settings, **report}),
    )
