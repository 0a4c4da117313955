"""Reads the names, bounds, units and labels that a source declares for its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .._util.checks import shorten
from .table import DEFAULT_NAME, EVIDENCE, FIELDS, KINDS

ENTRIES = ("names", "bounds", "lower", "upper", "units", "labels")


def declarations(record: Mapping[str, Any], columns: Sequence[str] | int) -> dict[str, Any]:
    """Returns the names, bounds, units and labels of a table, from the entries of a record.

    Args:
        record: names (d,); bounds (d, 2), or lower and upper (d,); units and labels (d,). If lower or upper is missing,
            it is infinite. All except names may be dictionaries by name, for some of the parameters.
        columns: names of the parameters, or their number.

    Raises:
        ValueError: the number of entries is not the number of parameters, or an entry names an unknown parameter.
    """
    record = {name: record[name] for name in ENTRIES if record.get(name) is not None}
    given = tuple(texts(record["names"])) if "names" in record else None
    number = columns if isinstance(columns, int) else len(columns)
    names = given or (tuple(map(DEFAULT_NAME.format, range(number))) if isinstance(columns, int) else tuple(columns))
    parts: dict[str, Any] = {"names": given, "bounds": _bounds(record, names)}
    for field in ("units", "labels"):
        values = record.get(field, {})
        parts[field] = _named(values if isinstance(values, Mapping) else texts(values), field, names, "strings")
    return parts


def complaint_of_unused(names: Sequence[str], what: str) -> tuple[str, ...]:
    """Returns a warning about entries that a chain does not have; empty if there are none."""
    if not names:
        return ()
    known = sorted({"samples", *ENTRIES, "info", *FIELDS, *EVIDENCE, *KINDS})
    return (f"{what} that were not used: {shorten(names, 40)}. A chain has {shorten(known, 40)}.",)


def texts(array: Any) -> list[str]:
    """Returns a list of strings from an array, another iterable, or a single string."""
    array = list(array) if isinstance(array, Iterable) and not isinstance(array, str | bytes | np.ndarray) else array
    return [text.decode() if isinstance(text, bytes) else str(text) for text in np.atleast_1d(array).tolist()]


def _bounds(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    if "bounds" in record:
        both = [end for end in ("lower", "upper") if end in record]
        if both:
            raise ValueError(f"bounds: expected no separate lower or upper; got {shorten(both)}. Leave one form out.")
        if not isinstance(record["bounds"], Mapping) and np.shape(record["bounds"]) != (len(names), 2):
            got = np.shape(record["bounds"])
            raise ValueError(f"bounds: expected shape ({len(names)}, 2) for the names; got {got}.")
        pairs = _named(record["bounds"], "bounds", names, "pairs")
        return {name: _pair(ends, name) for name, ends in pairs.items()}
    lower, upper = (_named(record.get(end, {}), end, names, "numbers") for end in ("lower", "upper"))
    return {name: _pair((lower.get(name), upper.get(name)), name) for name in names if name in {**lower, **upper}}


def _pair(ends: Any, name: str) -> tuple[float, float]:
    """Returns a lower and an upper bound, infinite if there is none."""
    try:
        lower, upper = ends
        return -np.inf if lower is None else float(lower), np.inf if upper is None else float(upper)
    except (TypeError, ValueError):
        raise ValueError(f"bounds: {name!r}: expected (lower, upper), with None for no bound; got {ends!r}.") from None


def _named(values: Any, field: str, names: Sequence[str], what: str) -> dict[str, Any]:
    """Returns {name: value} from a dictionary, or from a sequence with one value for each name."""
    if isinstance(values, Mapping):
        unknown = [name for name in values if name not in names]
        if unknown:
            raise ValueError(f"{field}: expected names among {shorten(names, 40)}; got {shorten(unknown)}.")
        return dict(values)
    values = values.tolist() if isinstance(values, np.ndarray) else values
    values = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    if len(values) != len(names):
        raise ValueError(
            f"{field}: expected {len(names)} {what}, one for each parameter; got {len(values)}: {shorten(values)}."
        )
    return dict(zip(names, values, strict=True))
