"""NumPyro's check of a distribution's arguments, with the type that it has: it comes without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numpyro.distributions.util import validate_sample

Method = TypeVar("Method", bound=Callable[..., Any])


def validated(method: Method) -> Method:
    """Returns `log_prob` of a distribution, which warns of values outside the support if it is asked to validate."""
    checked: Method = validate_sample(method)
    return checked
