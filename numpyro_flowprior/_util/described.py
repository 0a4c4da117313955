"""What a setting is, in words that are the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

_WRITTEN = ("g0", "index")  # attributes that emcee's moves change while they run

_FORMER = {  # modules as checkpoints of earlier versions know them
    "numpyro_flowprior.priors.box": "numpyro_flowprior.box",
    "numpyro_flowprior.priors.composed": "numpyro_flowprior.compose",
    "numpyro_flowprior.priors.conditional": "numpyro_flowprior.conditional",
    "numpyro_flowprior.priors.flow_prior": "numpyro_flowprior.prior",
    "numpyro_flowprior.priors.numpy_prior": "numpyro_flowprior.numpy_prior",
    "numpyro_flowprior.models.latent": "numpyro_flowprior.latent",
}


def described(setting: Any, depth: int = 12) -> Any:
    """Returns what a setting is, JSON-ready, and the same in every process: no addresses, arrays by their checksums.

    Objects by their type and attributes, functions by their names; what is nested deeper than `depth` by its type.
    """
    kind = _known_as(type(setting))
    if setting is None or isinstance(setting, bool | int | str):
        return setting
    if depth == 0:
        return kind
    if isinstance(setting, float | np.generic):
        plain = setting.item() if isinstance(setting, np.generic) else setting
        return plain if isinstance(plain, int | str) or np.isfinite(plain) else repr(plain)
    if isinstance(setting, Mapping):
        return {str(name): described(part, depth - 1) for name, part in setting.items()}
    if isinstance(setting, list | tuple):
        return [described(part, depth - 1) for part in setting]
    if isinstance(setting, jax.Array) and jax.numpy.issubdtype(setting.dtype, jax.dtypes.prng_key):
        return [kind, described(jax.random.key_data(setting))]
    if hasattr(setting, "__array__"):
        array = np.asarray(setting)
        if array.dtype == object:
            return described(array.tolist(), depth - 1)
        return [array.dtype.name, list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    return _of_object(setting, kind, depth)


def _known_as(thing: Any) -> str:
    """Returns the full name of a class or function; of the package's own, that under which files have always had it."""
    module = _FORMER.get(thing.__module__, thing.__module__)
    return f"{module}.{thing.__qualname__}"


def _of_object(value: Any, kind: str, depth: int) -> Any:
    if isinstance(value, partial):
        return [described(part, depth - 1) for part in (value.func, value.args, value.keywords)]
    if hasattr(value, "__qualname__"):  # a function or a class
        return _known_as(value)
    if not hasattr(value, "__dict__"):  # a path, a set, a range: its text is all there is
        return [kind, repr(value)]
    parts: Any = {name: part for name, part in vars(value).items() if name not in _WRITTEN}
    if hasattr(value, "gather_pytree_data_fields"):  # a distribution, without the record of where it is from
        names = {*value.gather_pytree_data_fields(), *value.gather_pytree_aux_fields()}  # in no order of their own
        parts = {name: getattr(value, name, None) for name in sorted(names)}
    elif hasattr(value, "tree_flatten"):
        parts = value.tree_flatten()
    elif hasattr(value, "to_json"):
        parts = value.to_json()
    return [kind, described(parts, depth - 1)]
