"""FlowConfig: the architecture of a flow. Hashable, so that it can be static in a JAX pytree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .._checks import one_of, plain_numbers, positive_int, real_in, shorten


@dataclass(frozen=True)
class FlowConfig:
    """Architecture of a RealNVP in the unconstrained, whitened space.

    Attributes:
        layers: N, number of pairs of even/odd masked affine couplings (Roch and Shen 2025, section II), >= 0.
        hidden: widths of the hidden layers of each coupling's conditioner network.
        transformer: what a coupling applies to a coordinate: "affine".
        base: density of the latent space: "normal" (standard normal) or "mixture" (learned Gaussian mixture with
            diagonal covariances, which lets the flow hold separate modes without tearing).
        components: number of Gaussians in a mixture base.
        max_log_scale: bound on the log-scale of one coupling, in (0, 10]; a coupling stretches a coordinate by at
            most exp(max_log_scale), so that it cannot blow up where it saw no data.
        hull: distance from the centre, in standard deviations of the whitened chain, at which the conditioners'
            inputs saturate; beyond it the flow is linear.
        members: number of flows, trained from other weights and on other rows, that are mixed as densities.
        background: mix in the Gaussian of the chain's moments, with a weight chosen on rows unseen in training (1e-5
            at least), so that no point is far less likely than under that Gaussian.

    Raises:
        TypeError, ValueError: a field is not of its type or range.
    """

    layers: int = 4
    hidden: tuple[int, ...] = (64, 64)
    transformer: str = "affine"
    base: str = "mixture"
    components: int = 8
    max_log_scale: float = 1.0
    hull: float = 4.0
    members: int = 1
    background: bool = False

    def __post_init__(self) -> None:
        positive_int(self.layers, "FlowConfig.layers", minimum=0)
        if isinstance(self.hidden, str | int) or not all(positive_int(w, "FlowConfig.hidden") for w in self.hidden):
            raise TypeError(f"FlowConfig.hidden: expected a tuple of layer widths; got {self.hidden!r}.")
        object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
        one_of(self.transformer, "FlowConfig.transformer", ("affine",))
        one_of(self.base, "FlowConfig.base", ("normal", "mixture"))
        positive_int(self.components, "FlowConfig.components")
        real_in(self.max_log_scale, "FlowConfig.max_log_scale", 0.0, 10.0, open_low=True)
        real_in(self.hull, "FlowConfig.hull", 1.0, 1e6)
        positive_int(self.members, "FlowConfig.members")
        if not isinstance(self.background, bool):
            raise TypeError(f"FlowConfig.background: expected True or False; got {self.background!r}.")
        plain_numbers(self)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready description."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, record: Any) -> FlowConfig:
        """Returns the configuration that `to_json` described; ValueError names fields that do not fit."""
        if not isinstance(record, Mapping):
            raise ValueError(f"flow configuration: expected a JSON object; got {record!r}.")
        known = {field.name for field in fields(cls)}
        if record.keys() != known:
            raise ValueError(
                f"flow configuration: missing: {shorten(sorted(known - record.keys())) or 'none'}; "
                f"unknown: {shorten(sorted(record.keys() - known)) or 'none'}."
            )
        return cls(**{**record, "hidden": tuple(record["hidden"])})
