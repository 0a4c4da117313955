"""What every sampler writes down about a run."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from .density import ModelDensity


def run_record(
    sampler: str, seed: int, start: float, density: ModelDensity, settings: dict[str, Any]
) -> dict[str, Any]:
    """Returns a JSON-ready record: sampler, its version, seed, settings and statistics, wall time, NaN counts."""
    return {
        "sampler": sampler,
        "versions": {name: version(name) for name in (sampler, "numpyro-flowprior", "jax", "numpyro")},
        "seed": seed,
        **settings,
        "nan_log_densities": density.nan_count,
        "seconds": round(time.perf_counter() - start, 3),
    }
