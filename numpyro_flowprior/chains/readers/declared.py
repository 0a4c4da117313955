"""What arrays beside the samples declare of the parameters: names, bounds, units, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..._checks import float_array, shorten
from ..table import DEFAULT_NAME, EVIDENCE, FIELDS, KINDS

ENTRIES = ("names", "bounds", "lower", "upper", "units", "labels")


def declarations(record: Mapping[str, Any], columns: Sequence[str] | int) -> dict[str, Any]:
    """Returns the names, bounds, units and labels of a table, from the entries of a record.

    Args:
        record: names (d,); bounds (d, 2), or lower and upper (d,), either alone if the other is infinite; units and
            labels (d,). All but the names may be dictionaries by name, of some of the parameters.
        columns: the parameters' names, or how many there are.

    Raises:
        ValueError: another number of entries than parameters, or names that no parameter has.
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
    """Returns what to tell of entries that no chain has, if there are any."""
    if not names:
        return ()
    known = sorted({"samples", *ENTRIES, "info", *FIELDS, *EVIDENCE, *KINDS})
    return (f"{what} that were not used: {shorten(names, 40)}; a chain has {shorten(known, 40)}.",)


def texts(array: Any) -> list[str]:
    """Returns the strings of an array or list, or of one string."""
    return [text.decode() if isinstance(text, bytes) else str(text) for text in np.atleast_1d(array).tolist()]


def _bounds(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    if "bounds" in record:
        bounds = record["bounds"]
        if not isinstance(bounds, Mapping) and np.shape(bounds) != (len(names), 2):
            raise ValueError(f"bounds: expected shape ({len(names)}, 2) for the names; got {np.shape(bounds)}.")
        return _named(bounds, "bounds", names, "pairs")
    ends = {}
    for end in ("lower", "upper"):
        value = record.get(end, {})
        ends[end] = _named(value if isinstance(value, Mapping) else _vector(value, end), end, names, "numbers")
    return {
        name: (ends["lower"].get(name, -np.inf), ends["upper"].get(name, np.inf))
        for name in names
        if any(name in values for values in ends.values())
    }


def _vector(value: Any, name: str) -> list[float]:
    return np.atleast_1d(float_array(value, name)).tolist()


def _named(values: Any, field: str, names: Sequence[str], what: str) -> dict[str, Any]:
    """Returns {name: value} of a dictionary or of a sequence with one value for each name."""
    if isinstance(values, Mapping):
        unknown = [name for name in values if name not in names]
        if unknown:
            raise ValueError(f"{field}: expected names among {shorten(names, 40)}; got {shorten(unknown)}.")
        return dict(values)
    if len(values) != len(names):
        raise ValueError(
            f"{field}: expected {len(names)} {what}, one for each parameter; got {len(values)}: {shorten(values)}."
        )
    return dict(zip(names, values, strict=True))
