"""sample_blackjax: adaptive tempered sequential Monte Carlo. BlackJAX is imported here alone."""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray, optional_import, positive_int, real_in
from .._util.described import described
from .._util.leaves import forgetting
from .._util.messages import ConvergenceWarning
from .._util.progress import progress_bar
from ..chains.chain import Chain
from ..likelihoods.site import own_failures
from .checkpoint import require_same_values
from .coordinates import Coordinates, chain_of_draws, parameters_of, resolved, sampled_in
from .density import ModelDensity
from .genealogy import evidence_error
from .record import INTERRUPTION, begin, require_options, run_record, seed_of
from .state_file import StateFile
from .tempering import Programs
from .unconstrained import NOTHING, Unconstrained, half_line_scales

_SWEEP = 5  # moves between two looks at whether the particles have left where they were
_MOST_SWEEPS = 20  # at each temperature
_LEFT = 0.3  # correlation of where particles are with where they were resampled, at which they have
_STALLED = 0.99  # of the correlation before; separate modes never let go, and more moves won't help
_ACCEPTED = 0.25  # acceptance that the moves' scale is tuned to
_GAIN = 2.0  # of that tuning, in the logarithm
_FEWEST_ANCESTORS = 50  # first particles with descendants: with 34 the evidence's error was a fifth too small
_FEWEST_DRAWS = 200.0  # effective
_LEAST_ACCEPTED = 0.02


def sample_blackjax(
    key: jax.Array,
    density: ModelDensity,
    *,
    n_particles: int = 2000,
    target_ess: float = 0.5,
    n_steps: int | None = None,
    coordinates: Coordinates = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    max_seconds: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Chain:
    """Returns posterior draws and the log evidence from tempered sequential Monte Carlo, in one compiled program.

    Particles start at draws from the prior. The likelihood is raised to powers from 0 to 1. Each power is as high as
    leaves an effective fraction `target_ess` of the particles; then they are resampled and moved. A move adds a
    multiple of the difference of two particles of the other half (differential evolution), tuned to an acceptance of a
    quarter. Every tenth move adds the whole difference, which carries particles between modes. Interrupting with the
    keyboard returns the particles as they are.

    Args:
        key: JAX random key.
        density: the posterior; it need not be differentiable.
        n_particles: particles, and draws returned.
        target_ess: effective fraction of the particles after each increase of the power, in (0, 1).
        n_steps: moves of each particle at each power. None for as many as the particles need to leave the points where
            they were resampled, in steps of five, at most 100.
        coordinates: the coordinates in which the particles move. The returned chain is always in the model's
            parameters. "parameters": the model's own. "latent": those in which its learned priors are close to a
            standard normal (`LatentReparam`); the model's own if it has no learned prior. "auto": "latent".
        checkpoint: a file in which the run is kept, written after each power. If it exists the run goes on from there,
            also after a kill, to the same draws bit for bit. Repeating a finished call returns the same chain.
        max_seconds: time limit, checked after every five moves (or `n_steps`); None for no limit. The particles are
            returned as they are. Before the power reaches 1 they are NOT from the posterior, and a warning says so.
        progress: show a progress bar.
        **options: none exist; any that is given is refused by name.

    Returns:
        A Chain of equally weighted draws with log prior, log likelihood, the log evidence and its error from the
        particles' genealogy. Draws with a common ancestor are adjacent and have the same `family_id`. `info` holds the
        temperatures (powers), acceptance and moves at each, surviving ancestors, effective sample size, calls of the
        likelihood, and whether the run converged. If it did not, one warning says why.

    Raises:
        ImportError: blackjax is not installed.
        TypeError, ValueError: arguments of the wrong kind, a likelihood that is zero at all prior draws, or a
            checkpoint of another run.

    Source: Del Moral, Doucet, Jasra (2006), JRSS B 68, 411; ter Braak (2006), Stat. Comput. 16, 239; Lee and Whiteley
    (2018), arXiv:1509.00394.
    """
    blackjax = optional_import("blackjax", "blackjax", "sample_blackjax")
    require_options("sample_blackjax", options)
    n_particles = positive_int(n_particles, "sample_blackjax: n_particles", minimum=100)
    target = real_in(target_ess, "sample_blackjax: target_ess", 0.0, 1.0, open_low=True, open_high=True)
    n_steps = None if n_steps is None else positive_int(n_steps, "sample_blackjax: n_steps")
    moved_in = resolved(coordinates, density, "sample_blackjax", auto="latent")
    limit = np.inf if max_seconds is None else real_in(max_seconds, "sample_blackjax: max_seconds", 0.0, np.inf)
    start = begin(key, density)
    inner, _ = sampled_in(density, moved_in)
    about = {"sampler": "blackjax", "names": list(density.names), "seed": seed_of(key), "coordinates": moved_in}
    about |= {"n_particles": n_particles, "target_ess": target, "n_steps": n_steps}
    about |= {"observed": described(density.observed)}
    keys = jax.random.split(key, 3)
    with jax.enable_x64(True), own_failures(density.external):
        unconstrained = Unconstrained(inner, half_line_scales(keys[0], inner))
        programs = Programs(blackjax, unconstrained, target, n_steps or _SWEEP)
        run = _Run(n_particles, StateFile(checkpoint, about))
        cause = _temper(run, programs, keys[1:], start + limit, fixed=n_steps is not None, progress=progress)
        points = unconstrained.points(run.state.particles["z"])
    samples = points if inner is density else parameters_of(density, inner, points)
    return _chain(density, samples, run, moved_in, seed=seed_of(key), start=start, cause=cause)


@dataclass
class _Run:
    """The particles, and the statistics of how they came to be where they are.

    Attributes:
        n: number of particles.
        file: where the run is kept.
        state: blackjax's: particles, weights, power.
        ancestor: (n,) the first particle from which each descends.
    """

    n: int
    file: StateFile
    state: Any = None
    ancestor: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    log_evidence: float = 0.0
    error: float = 0.0
    scale: float = 1.0
    powers: list[float] = field(default_factory=list)
    acceptance: list[float] = field(default_factory=list)
    moves: list[int] = field(default_factory=list)
    correlation: list[float] = field(default_factory=list)
    calls: int = 0

    def save(self) -> None:
        """Writes the checkpoint, if the run is kept."""
        numbers = {name: getattr(self, name) for name in (*_NUMBERS, *_AT_EACH_POWER)}
        self.file.write(self.state, {"ancestor": self.ancestor}, numbers)

    def restore(self, programs: Programs) -> None:
        """Goes on from the checkpoint, if there is one and it is of this run."""
        found = self.file.read(self.state)
        if found is None:
            return
        self.state, arrays, numbers = found
        known = self.state.particles
        today = forgetting(lambda: programs.prepare(known["z"]))
        require_same_values(self.file.path, *({k: v for k, v in p.items() if k != "z"} for p in (today, known)))
        self.ancestor = arrays["ancestor"]
        vars(self).update(numbers)


_NUMBERS = ("log_evidence", "error", "scale", "calls")
_AT_EACH_POWER = ("powers", "acceptance", "moves", "correlation")


def _temper(
    run: _Run, programs: Programs, keys: jax.Array, deadline: float, *, fixed: bool, progress: bool
) -> str | None:
    """Runs to the power 1 and moves there; returns what stopped it before, if anything did."""
    _begin(run, programs, keys[0])
    with progress_bar(desc="blackjax", unit="power", disable=not progress) as bar:
        try:
            while not run.powers or run.powers[-1] < 1.0:
                if time.perf_counter() > deadline:
                    return "the time limit"
                risen, gain = programs.rise(run.state)
                error = evidence_error(np.asarray(risen.weights), run.ancestor)
                key = jax.random.fold_in(keys[1], len(run.powers))
                whole, changes = _settle(run, programs, key, risen, deadline, fixed=fixed)
                changes |= {"log_evidence": run.log_evidence + float(gain), "error": error}
                changes["powers"] = [*run.powers, float(risen.tempering_param)]
                vars(run).update(changes)  # all at once: an interruption leaves it at the power before
                bar.update()
                bar.set_postfix(power=f"{run.powers[-1]:.2g}", acceptance=f"{run.acceptance[-1]:.2f}")
                if not whole:
                    return "the time limit"
                run.save()
        except KeyboardInterrupt:
            if not run.powers:
                raise
            return INTERRUPTION
    return None


def _begin(run: _Run, programs: Programs, key: jax.Array) -> None:
    z = programs.coordinates.start(key, run.n)
    particles = forgetting(lambda: programs.prepare(z))
    if not (particles["log_likelihood"] > NOTHING).any():
        raise ValueError(
            f"sample_blackjax: the likelihood is zero at all of {run.n} prior draws; expected some where it is not. "
            "Raise n_particles, or look at the prior."
        )
    run.state = programs.state(particles)
    run.ancestor, run.calls = np.arange(run.n), run.n
    run.restore(programs)


def _settle(
    run: _Run, programs: Programs, key: jax.Array, risen: Any, deadline: float, *, fixed: bool
) -> tuple[bool, dict[str, Any]]:
    """Resamples weighted particles and moves them until they have left where they were resampled, or won't.

    Returns whether there was time for it, and what changes in the run.
    """
    state, ancestor, origin, scale = risen, run.ancestor, np.asarray(risen.particles["z"]), run.scale
    correlation, acceptances, whole = np.inf, list[float](), False
    while not whole:
        key, key_sweep = jax.random.split(key)
        state, parents, accepted = programs.sweep(key_sweep, state, scale)
        ancestor, origin = ancestor[parents], origin[parents]
        scale *= float(np.exp(_GAIN * (accepted - _ACCEPTED)))
        acceptances.append(float(accepted))
        before, correlation = correlation, _correlation(origin, np.asarray(state.particles["z"]))
        whole = fixed or correlation < _LEFT or correlation > _STALLED * before or len(acceptances) == _MOST_SWEEPS
        if time.perf_counter() > deadline:
            break
    moves = len(acceptances) * programs.n_steps
    return whole, {
        "state": state,
        "ancestor": ancestor,
        "scale": scale,
        "calls": run.calls + run.n * moves,
        "acceptance": [*run.acceptance, float(np.mean(acceptances))],
        "moves": [*run.moves, moves],
        "correlation": [*run.correlation, correlation],
    }


def _correlation(a: FloatArray, b: FloatArray) -> float:
    """Returns the largest correlation of any column of a with that of b, (n, d) each."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    spread = np.sqrt(np.sum(a**2, axis=0) * np.sum(b**2, axis=0))
    return float(np.max(np.sum(a * b, axis=0)[spread > 0] / spread[spread > 0], initial=0.0))


def _chain(
    density: ModelDensity,
    samples: FloatArray,
    run: _Run,
    moved_in: str,
    *,
    seed: int,
    start: float,
    cause: str | None,
) -> Chain:
    log_prior, log_likelihood = density.log_prior_and_likelihood(samples)
    power = run.powers[-1] if run.powers else 0.0
    done = power == 1.0
    chain = chain_of_draws(
        density,
        samples,
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        log_evidence=run.log_evidence if done else None,
        log_evidence_error=run.error if done else None,
        family_id=run.ancestor,
    )
    settings: dict[str, Any] = {
        "n_particles": run.n,
        "coordinates": moved_in,
        "temperatures": run.powers,
        "acceptance": run.acceptance,
        "moves": run.moves,
        "correlation": run.correlation,
        "ancestors": len(np.unique(run.ancestor)),
        "effective_size": chain.effective_size,
        "calls": run.calls,
    }
    reasons = _reasons(settings) if done else []
    if cause and done:
        warnings.warn(
            f"sample_blackjax: stopped by {cause} while moving at the full likelihood.",
            ConvergenceWarning,
            stacklevel=3,
        )
    elif cause:
        warnings.warn(
            f"sample_blackjax: not converged. Stopped by {cause} at likelihood^{power:.3g}: these draws are "
            "NOT from the posterior, but far wider. Allow more time, or fewer particles.",
            ConvergenceWarning,
            stacklevel=3,
        )
    if reasons:
        warnings.warn("sample_blackjax: not converged. " + " ".join(reasons), ConvergenceWarning, stacklevel=3)
    settings |= {"stopped_by": cause, "converged": not reasons and cause is None}
    chain.info.update(run_record("blackjax", seed, start, density, settings))
    return chain


def _reasons(found: dict[str, Any]) -> list[str]:
    """Returns sentences on what makes the run unfit."""
    reasons = []
    fewest = min(_FEWEST_DRAWS, found["n_particles"] / 4)
    if found["effective_size"] < fewest:
        reasons.append(
            f"Effective size: expected {fewest:.0f} or more; {found['n_particles']} particles are worth "
            f"{found['effective_size']:.0f}: raise n_steps, or n_particles."
        )
    if found["ancestors"] < _FEWEST_ANCESTORS:
        reasons.append(
            f"Ancestors: expected descendants of {_FEWEST_ANCESTORS} or more of the first particles; got "
            f"{found['ancestors']}, too few to tell the evidence's error: raise n_particles."
        )
    if found["acceptance"][-1] < _LEAST_ACCEPTED:
        reasons.append(
            f"Acceptance: expected {_LEAST_ACCEPTED} or more at the full likelihood; got "
            f"{found['acceptance'][-1]:.3f}. The posterior is no density that differences of particles can follow."
        )
    return reasons
