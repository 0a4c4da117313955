"""Whether a checkpoint is of the run that is asked for: what samplers that can go on after a kill share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray, shorten
from .density import ModelDensity

_ROUNDING = 1e-6  # relative, of log densities on another machine

_WRITTEN = ("g0", "index")  # attributes that emcee's moves change while they run

_FORMER = {  # modules as checkpoints of earlier versions know them
    "numpyro_flowprior.priors.box": "numpyro_flowprior.box",
    "numpyro_flowprior.priors.composed": "numpyro_flowprior.compose",
    "numpyro_flowprior.priors.conditional": "numpyro_flowprior.conditional",
    "numpyro_flowprior.priors.flow_prior": "numpyro_flowprior.prior",
    "numpyro_flowprior.priors.numpy_prior": "numpyro_flowprior.numpy_prior",
    "numpyro_flowprior.models.latent": "numpyro_flowprior.latent",
}
_ADVICE = "Use another file, or remove this one to begin again."


def require_folder(path: Any) -> None:
    """Raises an OSError, before anything is run, if a checkpoint is a folder, or has none to be in (None for none)."""
    if path is not None and not Path(path).parent.is_dir():
        raise FileNotFoundError(f"checkpoint: {path}: the folder {Path(path).parent} does not exist. Make it first.")
    if path is not None and Path(path).is_dir():
        raise IsADirectoryError(f"checkpoint: {path}: expected a file, there or to be made; this is a folder.")


def require_same_run(path: Any, known: Any, about: Mapping[str, Any]) -> None:
    """Raises ValueError, naming what differs, unless the record in a checkpoint is that of the run asked for."""
    other = differing(in_todays_words(known) if isinstance(known, Mapping) else {}, about)
    if not other:
        return
    raise ValueError(f"checkpoint: {path}: expected a run with the same {shorten(other)}; got another. {_ADVICE}")


def in_todays_words(known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's record with the names of today: coordinates were once called space."""
    return {"coordinates" if name == "space" else name: value for name, value in known.items()}


def differing(known: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """Returns the names, sorted, that two records do not agree on."""
    return sorted(name for name in {*about, *known} if known.get(name) != about.get(name))


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


def has_density(density: ModelDensity, x: FloatArray, log_prob: FloatArray) -> bool:
    """Returns whether a density has the log densities (n,) at points x (n, d), up to another machine's rounding."""
    return _agree(density.log_posterior(x), log_prob)


def require_same_density(path: Any, density: ModelDensity, x: FloatArray, log_prob: FloatArray) -> None:
    """Raises ValueError unless the density has the log densities (n,) that a checkpoint has at its points x (n, d)."""
    require_same_values(path, {"log_prob": density.log_posterior(x)}, {"log_prob": log_prob})


def require_same_values(path: Any, found: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raises ValueError unless log densities, by name, are those in a checkpoint, up to another machine's rounding."""
    if not all(_agree(found[name], stored[name]) for name in stored):
        raise ValueError(
            f"checkpoint: {path}: expected a run of this model and data; its log densities differ. {_ADVICE}"
        )


def _agree(a: Any, b: Any) -> bool:
    return bool(np.allclose(a, b, rtol=_ROUNDING, atol=_ROUNDING))
