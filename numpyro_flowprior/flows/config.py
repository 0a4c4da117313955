"""FlowConfig: the architecture of a flow. Hashable, so that it can be static in a JAX pytree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .._util.checks import one_of, plain_numbers, positive_int, real_in, shorten

MIN_BIN = 1e-4  # minimum width of a spline bin, as in Distrax


@dataclass(frozen=True)
class FlowConfig:
    """Architecture of a RealNVP in the unconstrained, whitened space.

    Attributes:
        layers: N, number of pairs of even/odd masked affine couplings (Roch and Shen 2025, section II), >= 0.
        hidden: widths of the hidden layers of each coupling's conditioner network.
        transformer: what a coupling applies to a coordinate: "affine", or "spline", a monotonic rational-quadratic
            spline followed by an affine map (Durkan et al. 2019). A spline is more flexible and several times slower.
        conditioner: how the scale and shift of a coupling depend on the other coordinates. "mlp": both from one
            perceptron with SiLU units. "roch_shen": the scale from one hidden layer of d tanh units and a linear shift,
            without bounds, as in the scripts of Roch and Shen (2025); `hidden`, `max_log_scale` and `hull` are not
            used.
        bins: number of bins of each spline, fewer than 2 hull / 1e-4.
        masks: which half a coupling changes. "alternating": the even and the odd coordinates in turn. "permuted":
            halves of a new random order in each pair of couplings.
        base: density of the latent space: "normal" (standard normal), "mixture" (learned Gaussian mixture with
            diagonal covariances) or "full_mixture" (with full covariances; training begins with the mixture that
            expectation maximisation finds). With a mixture the flow can represent separate modes without tearing.
        components: number of Gaussians in a mixture base.
        max_log_scale: bound on the log-scale of one coupling, in (0, 10]. A coupling stretches a coordinate by at
            most exp(max_log_scale), so that it cannot diverge where there were no data.
        hull: distance from the centre, in standard deviations of the whitened chain, at which the inputs of the
            conditioners saturate. Beyond it the flow is linear.
        support: True confines the density to the declared bounds. False ignores them, as in the paper: draws of the
            flow may be outside the bounds, and the support of the prior is unbounded.
        whitening: what is removed before the couplings. "full": mean and covariance. "diagonal": mean and standard
            deviation of each coordinate.
        members: number of flows that are mixed as densities, trained from different weights and on different rows.
        background: adds the Gaussian with the moments of the chain to the mixture, so that no point is far less likely
            than under this Gaussian. Its weight is at least 1e-13 and is chosen on rows not used in training.

    Raises:
        TypeError, ValueError: a field has the wrong type or is out of range.
    """

    layers: int = 4
    hidden: tuple[int, ...] = (64, 64)
    transformer: str = "affine"
    conditioner: str = "mlp"
    bins: int = 8
    masks: str = "alternating"
    base: str = "mixture"
    components: int = 8
    max_log_scale: float = 1.0
    hull: float = 4.0
    support: bool = True
    whitening: str = "full"
    members: int = 1
    background: bool = False

    def __post_init__(self) -> None:
        positive_int(self.layers, "FlowConfig.layers", minimum=0)
        if isinstance(self.hidden, str | int) or not all(positive_int(w, "FlowConfig.hidden") for w in self.hidden):
            raise TypeError(f"FlowConfig.hidden: expected a tuple of layer widths; got {self.hidden!r}.")
        object.__setattr__(self, "hidden", tuple(int(width) for width in self.hidden))
        one_of(self.transformer, "FlowConfig.transformer", ("affine", "spline"))
        positive_int(self.bins, "FlowConfig.bins", minimum=2)
        one_of(self.masks, "FlowConfig.masks", ("alternating", "permuted"))
        one_of(self.conditioner, "FlowConfig.conditioner", ("mlp", "roch_shen"))
        if (self.conditioner, self.transformer) == ("roch_shen", "spline"):
            raise ValueError('FlowConfig: conditioner="roch_shen": expected transformer="affine"; got "spline".')
        one_of(self.whitening, "FlowConfig.whitening", ("full", "diagonal"))
        one_of(self.base, "FlowConfig.base", ("normal", "mixture", "full_mixture"))
        positive_int(self.components, "FlowConfig.components")
        real_in(self.max_log_scale, "FlowConfig.max_log_scale", 0.0, 10.0, open_low=True)
        real_in(self.hull, "FlowConfig.hull", 1.0, 1e6)
        if self.bins * MIN_BIN >= 2.0 * self.hull:
            raise ValueError(f"FlowConfig.bins: expected fewer than {2.0 * self.hull / MIN_BIN:g}; got {self.bins}.")
        positive_int(self.members, "FlowConfig.members")
        for name in ("support", "background"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"FlowConfig.{name}: expected True or False; got {getattr(self, name)!r}.")
        plain_numbers(self)

    @classmethod
    def paper(cls, layers: int = 6) -> FlowConfig:
        """Returns the architecture of Roch and Shen (2025), to reproduce their tables and not for use as a prior.

        It has N pairs of couplings, a final scale and shift, a standard normal base, standardised columns and no
        support; see "roch_shen" above. Their scripts apply the matrix of the hidden layer twice in a row. Here it is
        applied once.

        Args:
            layers: N; 2 to 12 in the paper.
        """
        return cls(
            layers=layers,
            conditioner="roch_shen",
            base="normal",
            support=False,
            whitening="diagonal",
        )

    def of_one_member(self) -> FlowConfig:
        """Returns the configuration of one member. Fields that its latent-to-whitened map ignores get fixed values."""
        return replace(self, members=1, background=False, support=True, whitening="full")

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready description."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, record: Any) -> FlowConfig:
        """Returns the configuration from the output of `to_json`. ValueError names missing and unknown fields."""
        if not isinstance(record, Mapping):
            raise ValueError(f"flow configuration: expected a JSON object; got {record!r}.")
        known = {field.name for field in fields(cls)}
        if record.keys() != known:
            raise ValueError(
                f"flow configuration: missing: {shorten(sorted(known - record.keys())) or 'none'}; "
                f"unknown: {shorten(sorted(record.keys() - known)) or 'none'}."
            )
        return cls(**{**record, "hidden": tuple(record["hidden"])})
