"""Whether a checkpoint is of the run that is asked for: what samplers that can go on after a kill share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import FloatArray, shorten
from .density import ModelDensity

_ROUNDING = 1e-6  # relative, of log densities on another machine

_ADVICE = "Use another file, or remove this one to begin anew."


def require_folder(path: Any) -> None:
    """Raises FileNotFoundError, before anything is run, if there is no folder for a checkpoint (None for none)."""
    if path is not None and not Path(path).parent.is_dir():
        raise FileNotFoundError(f"checkpoint: {path}: the folder {Path(path).parent} does not exist. Make it first.")


def require_same_run(path: Any, known: Any, about: Mapping[str, Any]) -> None:
    """Raises ValueError, naming what differs, unless the record in a checkpoint is that of the run asked for."""
    if known == about:
        return
    other = differing(known if isinstance(known, Mapping) else {}, about)
    raise ValueError(f"checkpoint: {path}: expected a run with the same {shorten(other)}; got another. {_ADVICE}")


def differing(known: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """Returns the names, sorted, that two records do not agree on."""
    return sorted(name for name in {*about, *known} if known.get(name) != about.get(name))


def has_density(density: ModelDensity, x: FloatArray, log_prob: FloatArray) -> bool:
    """Returns whether a density has the log densities (n,) at points x (n, d), up to another machine's rounding."""
    return bool(np.allclose(density.log_posterior(x), log_prob, rtol=_ROUNDING, atol=_ROUNDING))


def require_same_density(path: Any, density: ModelDensity, x: FloatArray, log_prob: FloatArray) -> None:
    """Raises ValueError unless the density has the log densities (n,) that a checkpoint has at its points x (n, d)."""
    if not has_density(density, x, log_prob):
        raise ValueError(
            f"checkpoint: {path}: expected a run of this model and data; its log densities are others. {_ADVICE}"
        )
