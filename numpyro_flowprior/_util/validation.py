"""The argument check of NumPyro for `log_prob`, with the type annotations that it lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numpyro.distributions.util import validate_sample

Method = TypeVar("Method", bound=Callable[..., Any])


def validated(method: Method) -> Method:
    """Returns the `log_prob` of a distribution, which warns about values outside the support if validation is on."""
    checked: Method = validate_sample(method)
    return checked
