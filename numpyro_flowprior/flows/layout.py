"""Names and shapes of the arrays of a flow, and the half of the coordinates that each coupling changes. No JAX.

`params` is a nested dictionary of arrays:
    support.scale (d,), whitening.loc (d,), whitening.tril (d, d)     fixed, computed from the chain
    final.log_scale (d,), final.shift (d,), couplings[j][layer], base trained
With several members, or a background, the trained arrays have a leading axis of members. The member with the largest
weight is first. There is also mixture.weights (members + 1,), chosen on rows that the members did not see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .config import FlowConfig

Params = dict[str, Any]
Shape = tuple[int, ...]
FIXED = ("support", "whitening", "mixture")  # parameters that training does not change

MAX_BASE_LOG_SCALE = {"mixture": 3.0, "full_mixture": 6.0}  # a component of a mixture is at most e^3 (or, in any
# direction, e^6) times wider or narrower than the standard normal
SPLINE_REACH = 3.0  # bound on a spline's raw parameters: neighbouring bins differ by at most e^6 in width


def is_ensemble(config: FlowConfig) -> bool:
    """Returns whether the density is a mixture of members and background, rather than one flow."""
    return config.members > 1 or config.background


def coupling_masks(config: FlowConfig, dim: int) -> list[np.ndarray]:
    """Returns one boolean mask (d,) per coupling: True where a coordinate passes through and conditions the others.

    There are N pairs. Each pair changes one half of the coordinates first, then the other. The halves are the even and
    the odd coordinates ("alternating"), or from the second pair on those of a new random order for each pair
    ("permuted"). In one dimension there is nothing to condition on, and so no coupling.
    """
    if dim == 1:
        return []
    generator, masks = np.random.default_rng(0), []
    for pair in range(config.layers):
        order = generator.permutation(dim) if config.masks == "permuted" and pair > 0 else np.arange(dim)
        even = order % 2 == 0
        masks += [~even, even]
    return masks


def network_sizes(config: FlowConfig, mask: np.ndarray) -> list[list[int]]:
    """Returns the layer sizes of each network of a coupling."""
    dim, passed = len(mask), int(mask.sum())
    free = dim - passed
    if config.conditioner == "roch_shen":
        return [[passed, dim, free], [passed, free]]
    each = 2 if config.transformer == "affine" else 2 + 3 * config.bins + 1
    return [[passed, *config.hidden, each * free]]


def mlp_shapes(sizes: Sequence[int]) -> list[dict[str, Shape]]:
    """Returns the shapes of the weights and biases of a perceptron, layer by layer."""
    return [{"weight": (n_in, n_out), "bias": (n_out,)} for n_in, n_out in pairwise(sizes)]


def base_shapes(config: FlowConfig, dim: int) -> dict[str, Shape]:
    """Returns the shapes of the arrays of the base: none for a standard normal."""
    if config.base == "normal":
        return {}
    k = config.components
    shapes: dict[str, Shape] = {"logits": (k,), "mean": (k, dim), "log_scale": (k, dim)}
    return {**shapes, "shear": (k, dim, dim)} if config.base == "full_mixture" else shapes


def param_shapes(config: FlowConfig, dim: int) -> Params:
    """Returns the shape of every array of a flow, nested as in `params`."""
    lead = (config.members,) if is_ensemble(config) else ()
    networks = [
        [layer for sizes in network_sizes(config, mask) for layer in mlp_shapes(sizes)]
        for mask in coupling_masks(config, dim)
    ]
    fixed: Params = {"support": {"scale": (dim,)}, "whitening": {"loc": (dim,), "tril": (dim, dim)}}
    if is_ensemble(config):
        fixed["mixture"] = {"weights": (config.members + 1,)}
    trained: Params = {
        "couplings": [[_led(lead, layer) for layer in layers] for layers in networks],
        "final": _led(lead, {"log_scale": (dim,), "shift": (dim,)}),
        "base": _led(lead, base_shapes(config, dim)),
    }
    return {**fixed, **trained}


def _led(lead: Shape, shapes: dict[str, Shape]) -> dict[str, Shape]:
    return {name: (*lead, *shape) for name, shape in shapes.items()}


def map_params(function: Callable[[Any], Any], nested: Any) -> Any:
    """Returns nested dicts and lists with a function applied to every leaf."""
    if isinstance(nested, dict):
        return {key: map_params(function, value) for key, value in nested.items()}
    if isinstance(nested, list):
        return [map_params(function, value) for value in nested]
    return function(nested)


def flatten_params(nested: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {"couplings/0/1/weight": leaf, ...}: the leaves of nested dicts and lists by flat names, for files."""
    if not isinstance(nested, dict | list):
        return {prefix[:-1]: nested}
    items = nested.items() if isinstance(nested, dict) else enumerate(nested)
    parts = [flatten_params(value, f"{prefix}{key}/") for key, value in items]
    return {name: leaf for part in parts for name, leaf in part.items()}


def unflatten_params(shapes: Any, arrays: Mapping[str, Any], prefix: str = "") -> Any:
    """Returns flat arrays nested like `shapes`: the inverse of `flatten_params`."""
    if isinstance(shapes, dict):
        return {key: unflatten_params(value, arrays, f"{prefix}{key}/") for key, value in shapes.items()}
    if isinstance(shapes, list):
        return [unflatten_params(value, arrays, f"{prefix}{j}/") for j, value in enumerate(shapes)]
    return arrays[prefix[:-1]]
