"""Whether a checkpoint is of the run that is asked for: what samplers that can go on after a kill share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._util.checks import FloatArray, shorten
from .density import ModelDensity

_ROUNDING = 1e-6  # relative, of log densities on another machine

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
