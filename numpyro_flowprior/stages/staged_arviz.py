"""Several stages as one ArviZ object, and the prior sensitivity of a chain from ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..chains.chain import Chain
from ..chains.parameters import ParameterSpace
from ..formats.from_arviz import arviz_module
from ..formats.to_arviz import to_arviz


def staged_arviz(chains: Mapping[str, Chain]) -> Any:
    """Returns one InferenceData (DataTree with ArviZ 1.x) of several chains.

    The last chain has the groups of `to_arviz`. Group names of the other chains end in the name of the chain, as in
    `posterior_<name>`.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: there are no chains.
    """
    if not chains:
        raise ValueError("staged_arviz: expected at least one chain; got none.")
    *earlier, last = chains
    data = to_arviz(chains[last])
    for name in earlier:
        part = to_arviz(chains[name])
        if hasattr(data, "add_groups"):
            groups = {f"{group}_{name}": part[group] for group in part.groups()}
            data.add_groups(groups, warn_on_custom_groups=False)
        else:
            for group, node in part.children.items():
                data[f"{group}_{name}"] = node
    return data


def power_sensitivity(chain: Chain) -> dict[str, dict[str, float]] | None:
    """Returns the power-scaling sensitivity of each parameter to the prior and to the likelihood, by name.

    None if ArviZ is not installed or has no such diagnostic, or if the chain has no log prior or no log likelihood.

    Source: Kallioinen, Paananen, Buerkner and Vehtari (2024), Statistics and Computing 34, 57.
    """
    if find_spec("arviz") is None or chain.log_prior is None or chain.log_likelihood is None:
        return None
    numbered = ParameterSpace(
        [f"parameter {j}" for j in range(chain.dim)]
    )  # plain names: to_arviz joins v[0] and v[1] into one variable
    arviz, data = arviz_module(), to_arviz(chain.replace(space=numbered))
    groups = {
        "posterior": {name: data.posterior[name].values for name in numbered.names},
        "log_prior": {"log_prior": data.sample_stats["log_prior"].values},
        "log_likelihood": {"log_likelihood": data.sample_stats["log_likelihood_total"].values},
    }
    with np.errstate(over="ignore"):  # the Pareto fit of ArviZ overflows where a weight becomes zero
        if hasattr(arviz, "psense"):  # ArviZ 1.x
            tree = arviz.from_dict(groups)
            found = {part: arviz.psense(tree, group=part) for part in ("prior", "likelihood")}
        elif hasattr(arviz, "psens"):  # its from_dict does not accept a log prior
            whole = arviz.InferenceData(**{name: arviz.convert_to_dataset(part) for name, part in groups.items()})
            found = {part: arviz.psens(whole, component=part) for part in ("prior", "likelihood")}
        else:
            return None
    return {
        name: {part: float(np.asarray(values[number])) for part, values in found.items()}
        for name, number in zip(chain.names, numbered.names, strict=True)
    }
