"""What a sampler is: whatever is called as those of this package are."""

from __future__ import annotations

from typing import Any, Protocol

import jax

from ..chains.chain import Chain
from .density import ModelDensity


class Sampler(Protocol):
    """Draws from a density: `sample_pocomc`, `sample_blackjax`, `sample_emcee`, `sample_nuts`, or one of your own.

    One whose signature names `progress` or `checkpoint` is given them by `run_stages`: how much to show, and a file to
    keep an unfinished run in.
    """

    def __call__(self, key: jax.Array, density: ModelDensity, *arguments: Any, **options: Any) -> Chain:
        """Returns the posterior's draws."""
