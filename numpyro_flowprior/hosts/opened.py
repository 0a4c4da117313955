"""What the hosts share: a prior from a file, and its names as the names of arguments."""

from __future__ import annotations

import keyword
import os
from collections.abc import Sequence

from .._util.checks import require_unique, shorten
from ..priors.numpy_prior import NumpyPrior, load_numpy

PriorOrPath = NumpyPrior | str | os.PathLike[str]


def opened(prior: PriorOrPath, subject: str) -> NumpyPrior:
    """Returns a prior as it is, or the one in a file.

    Raises:
        TypeError: it is neither. A FlowPrior is refused: it needs JAX.
        FileNotFoundError, FileFormatError: as in `load_numpy`.
    """
    if isinstance(prior, NumpyPrior):
        return prior
    if isinstance(prior, str | os.PathLike):
        return load_numpy(prior)
    raise TypeError(
        f"{subject}: expected the path of a prior file, or a NumpyPrior; got {type(prior).__name__}. "
        "Save a FlowPrior with .save(path), and pass the path."
    )


def argument_names(prior: NumpyPrior, names: Sequence[str] | None, subject: str) -> tuple[str, ...]:
    """Returns the names (d,) that the host gives the parameters; None for those of the prior.

    Raises:
        ValueError: there are not d of them, one occurs twice, or one cannot be the name of a Python argument.
    """
    found = prior.names if names is None else tuple(names)
    if len(found) != len(prior.names):
        raise ValueError(
            f"{subject}: names: expected {len(prior.names)}, one for each of {shorten(prior.names, 40)}; "
            f"got {len(found)}."
        )
    wrong = [name for name in found if not name.isidentifier() or keyword.iskeyword(name)]
    if wrong:
        raise ValueError(
            f"{subject}: names: expected names of Python arguments (letters, digits, _); got {shorten(wrong)}. "
            f"Pass names=[...], other names in the order of {shorten(prior.names, 40)}."
        )
    require_unique(found, f"{subject}: names: expected unique names")
    return found
