"""What a sampler is: whatever is called as those of this package are."""

from __future__ import annotations

from typing import Any, Protocol

import jax

from ..chains.chain import Chain
from .density import ModelDensity


class Sampler(Protocol):
    """Draws from a density: `sample_pocomc`, `sample_blackjax`, `sample_emcee`, `sample_nuts`, or one of your own.

    One that takes `progress` or `checkpoint` is given them.
    """

    def __call__(self, key: jax.Array, density: ModelDensity, *arguments: Any, **options: Any) -> Chain:
        """Returns the posterior's draws."""
