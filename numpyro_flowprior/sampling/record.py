"""What every sampler writes down about a run."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from .._util.keys import seed_from_key
from .density import ModelDensity

INTERRUPTION = "an interruption"  # by the keyboard: what `stopped_by` of a run's record says then
_LOOK = 0x100C  # folded into a sampler's key for the draws that are looked at, so that all other draws stay theirs
_INSTEAD = {"space": "It is called coordinates."}  # of options with another name
_PACKAGES = {"nuts": "numpyro", "nautilus": "nautilus-sampler"}  # that a sampler is from, if it has not its own name


def begin(key: jax.Array, density: ModelDensity) -> float:
    """Looks at the model at draws from the prior, before a sampler starts, and returns the time by the clock.

    Raises:
        ValueError: its log density is NaN at many of them.
    """
    start = time.perf_counter()
    density.require_numbers(jax.random.fold_in(key, _LOOK))
    return start


def require_options(
    sampler: str, options: Mapping[str, Any], backend: type | None = None, refused: Mapping[str, str] | None = None
) -> None:
    """Raises TypeError, naming them, for options that the class that does the work does not have (None: none at all).

    Args:
        sampler: who was given them.
        options: what it does not know itself.
        backend: the class whose arguments they are to be.
        refused: {name: why it cannot be set, or what to use instead} of arguments that the class has.
    """
    known = () if backend is None else inspect.signature(backend).parameters
    for name in options:
        if refused and name in refused:
            raise TypeError(f"{sampler}: {name}: expected none: {refused[name]}.")
        if name not in known:
            other = "" if backend is None else f", nor of {backend.__module__.split('.')[0]}.{backend.__name__}"
            advice = f" {_INSTEAD[name]}" if name in _INSTEAD else ""
            raise TypeError(f"{sampler}: {name!r} is no setting of it{other}.{advice}")


def require_sampler(caller: str, sampler: Any, options: Mapping[str, Any]) -> None:
    """Raises TypeError for options of a sampler without the sampler."""
    if sampler is None and options:
        raise TypeError(
            f"{caller}: {', '.join(map(repr, options))}: expected options only together with the sampler that takes "
            "them; got none. Pass e.g. sampler=sample_pocomc, or draws= for the number of draws."
        )


def seed_of(key: jax.Array) -> int:
    """Returns the integer that seeds a sampler outside of JAX, and names a run."""
    return int(np.random.SeedSequence(seed_from_key(key)).generate_state(1)[0])


def run_record(
    sampler: str, seed: int, start: float, density: ModelDensity, settings: dict[str, Any]
) -> dict[str, Any]:
    """Returns a JSON-ready record: sampler, its version, seed, settings and statistics, wall time, NaN counts."""
    package = _PACKAGES.get(sampler, sampler)
    return {
        "sampler": sampler,
        "versions": {name: version(name) for name in (package, "numpyro-flowprior", "jax", "numpyro")},
        "seed": seed,
        **settings,
        "nan_log_densities": density.nan_count,
        **({"external": {site: each.record() for site, each in density.external.items()}} if density.external else {}),
        "seconds": round(time.perf_counter() - start, 3),
    }
