"""compare: how far apart are two chains of the same parameters, and how much of it is noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .._checks import FloatArray
from ..chains.chain import Chain
from .divergences import MarginalKL, marginal_kl, noise_floor


@dataclass(frozen=True)
class Comparison:
    """Two chains compared, the first being the reference.

    Attributes:
        kl: divergences KL(a || b) of the marginals, nats.
        floor: average divergences between random parts of the pooled draws: what noise alone gives, nats.
        shift: (d,) difference of the means b - a, in standard deviations of a.
        width_ratio: (d,) standard deviation of b over that of a.
    """

    kl: MarginalKL
    floor: FloatArray
    shift: FloatArray
    width_ratio: FloatArray

    @property
    def excess(self) -> float:
        """Average divergence minus the mean noise floor, nats."""
        return self.kl.average - float(self.floor.mean())

    @property
    def excess_error(self) -> float:
        """Standard deviation of the floor over its repeats: how well the excess is known, nats."""
        return float(self.floor.std(ddof=1)) if len(self.floor) > 1 else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready record."""
        names = self.kl.names
        return {
            "average_kl": self.kl.average,
            "noise_floor": float(self.floor.mean()),
            "noise_floor_std": self.excess_error,
            "excess": self.excess,
            "marginal_kl": dict(zip(names, self.kl.one_d.tolist(), strict=True)),
            "shift_in_sigma": dict(zip(names, self.shift.tolist(), strict=True)),
            "width_ratio": dict(zip(names, self.width_ratio.tolist(), strict=True)),
        }

    def __str__(self) -> str:
        head = (
            f"average KL {self.kl.average:.4f} nats, noise floor {self.floor.mean():.4f}, "
            f"excess {self.excess:.4f} +- {self.excess_error:.4f}"
        )
        rows = [f"{'parameter':>16s} {'KL (1-D)':>9s} {'shift/sigma':>12s} {'width ratio':>12s}"]
        for j, name in enumerate(self.kl.names):
            rows.append(f"{name:>16s} {self.kl.one_d[j]:9.4f} {self.shift[j]:12.3f} {self.width_ratio[j]:12.3f}")
        return "\n".join([head, *rows])


def compare(a: Chain, b: Chain, *, bounds: Any = None, bins: int = 75, repeats: int = 8, seed: int = 0) -> Comparison:
    """Returns how far b is from the reference a.

    Args:
        a: reference chain.
        b: chain to compare; its parameters may stand in another order, and there may be more of them.
        bounds: (d, 2) range of the histograms; None for the declared bounds of a.
        bins: bins along each axis of the histograms.
        repeats: number of random partitions for the noise floor.
        seed: of those partitions.

    Weighted chains are first resampled to round(effective size) rows of equal weight: a random partition of rows of
    very different weights would misjudge the floor.

    Raises:
        ValueError: b lacks a parameter of a.
    """
    b = b if b.names == a.names else b.select(a.names)
    a, b = (_equally_weighted(chain, seed + j) for j, chain in enumerate((a, b)))
    sigma_a, sigma_b = (np.sqrt(np.diagonal(chain.covariance())) for chain in (a, b))
    return Comparison(
        kl=marginal_kl(a, b, bounds, bins),
        floor=noise_floor(a, b, bounds, bins, repeats=repeats, seed=seed),
        shift=(b.mean() - a.mean()) / sigma_a,
        width_ratio=sigma_b / sigma_a,
    )


def _equally_weighted(chain: Chain, seed: int) -> Chain:
    if chain.weights is None:
        return chain
    return chain.resample(jax.random.key(seed), max(round(chain.effective_size), 1))
