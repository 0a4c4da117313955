"""The interface of a sampler: any callable with the call signature of the samplers of this package."""

from __future__ import annotations

from typing import Any, Protocol

import jax

from ..chains.chain import Chain
from .density import ModelDensity


class Sampler(Protocol):
    """Draws from a density: `sample_pocomc`, `sample_emcee`, `sample_nuts` and so on, or one of your own.

    If its signature names `progress` or `checkpoint`, `run_stages` passes them: what to show, and the file in which to
    keep an unfinished run.
    """

    def __call__(self, key: jax.Array, density: ModelDensity, *arguments: Any, **options: Any) -> Chain:
        """Returns draws from the posterior."""
