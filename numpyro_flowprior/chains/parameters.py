"""The parameters: their names, bounds, units, labels and order. Nothing about samples or densities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .._util.checks import ArrayLike, FloatArray, float_array, require_unique, shorten

_LONGEST_NAME = 200  # characters


class ParameterSpace:
    """An ordered set of named real parameters with their declared support.

    Immutable and hashable, so that it can be a static part of a JAX pytree. The support of each parameter is an
    open interval (lower, upper), a half line (one bound infinite) or the real line (both infinite).

    Args:
        names: (d,) unique, non-empty strings of at most 200 characters.
        lower: (d,) lower bounds, `-inf` for none; a scalar applies to all.
        upper: (d,) upper bounds, `inf` for none; a scalar applies to all.
        units: (d,) units as text, or None.
        labels: (d,) labels for plots (LaTeX is allowed), or None to use the names.

    Raises:
        TypeError: names or bounds of the wrong type.
        ValueError: repeated names, lengths that differ, NaN bounds, or `lower >= upper`; the message has the names.

    Example:
        >>> from numpyro_flowprior import ParameterSpace
        >>> space = ParameterSpace(["m", "B_G"], [0.0, 1.0], [1.5, 10.0], units=["GeV", "GeV^-2"])
        >>> space
        ParameterSpace[m (0, 1.5) GeV, B_G (1, 10) GeV^-2]
        >>> space.contains([[0.5, 2.0], [2.0, 2.0]])
        array([ True, False])
    """

    __slots__ = ("_key", "labels", "lower", "names", "units", "upper")

    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    units: tuple[str, ...]
    labels: tuple[str, ...]
    _key: tuple[tuple[Any, ...], ...]

    def __init__(
        self,
        names: Sequence[str],
        lower: ArrayLike = -np.inf,
        upper: ArrayLike = np.inf,
        *,
        units: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
    ):
        checked = _checked_names(names)
        low = _checked_bounds(lower, checked, "lower")
        high = _checked_bounds(upper, checked, "upper")
        _require_ordered(checked, low, high)
        set_ = object.__setattr__
        set_(self, "names", checked)
        set_(self, "lower", tuple(low.tolist()))
        set_(self, "upper", tuple(high.tolist()))
        set_(self, "units", _checked_texts(units, checked, "units", default=("",) * len(checked)))
        set_(self, "labels", _checked_texts(labels, checked, "labels", default=checked))
        set_(self, "_key", (self.names, self.lower, self.upper, self.units, self.labels))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"ParameterSpace is immutable; make a new one instead of setting {name!r}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._key

    @property
    def dim(self) -> int:
        """Number of parameters, d."""
        return len(self.names)

    @property
    def bounds(self) -> FloatArray:
        """Lower and upper bounds, (d, 2) in float64."""
        return np.column_stack([self.lower, self.upper])

    def index(self, name: str) -> int:
        """Returns the column number of a parameter."""
        try:
            return self.names.index(name)
        except ValueError:
            raise ValueError(f"no parameter named {name!r}; the names are {shorten(self.names, 40)}.") from None

    def select(self, names: Sequence[str]) -> ParameterSpace:
        """Returns the space of the named parameters, in the order given."""
        columns = [self.index(name) for name in _checked_names(names)]
        return self._take(columns)

    def _take(self, columns: Sequence[int]) -> ParameterSpace:
        fields = [[values[j] for j in columns] for values in self._key]
        return _rebuild(*fields)

    def as_dict(self, theta: Any) -> dict[str, Any]:
        """Returns {name: theta[..., j]} for a NumPy or JAX array with parameters along its last axis."""
        if theta.shape[-1:] != (self.dim,):
            raise ValueError(f"theta: expected a last axis of {self.dim} parameters; got shape {theta.shape}.")
        return {name: theta[..., j] for j, name in enumerate(self.names)}

    def as_array(self, values: Mapping[str, Any]) -> FloatArray:
        """Returns the values of a {name: value} mapping in this space's order, (..., d)."""
        missing = [name for name in self.names if name not in values]
        unknown = [name for name in values if name not in self.names]
        if missing or unknown:
            raise ValueError(
                f"values: expected exactly the names {shorten(self.names, 40)}; "
                f"missing: {shorten(missing) or 'none'}; unknown: {shorten(unknown) or 'none'}."
            )
        return np.stack([np.asarray(values[name], dtype=np.float64) for name in self.names], axis=-1)

    def repeated(self, site: str, copies: int) -> ParameterSpace:
        """Returns the space of several copies, with names `site[0].name` and so on; the space itself for one copy."""
        if copies == 1:
            return self
        names = [f"{site}[{copy}].{name}" for copy in range(copies) for name in self.names]
        return ParameterSpace(names, self.lower * copies, self.upper * copies, units=self.units * copies)

    def unbounded(self) -> ParameterSpace:
        """Returns the same parameters without any bounds."""
        return ParameterSpace(self.names, units=self.units, labels=self.labels)

    def nameless(self) -> ParameterSpace:
        """Returns a space with the same bounds and numbers as names, so that compiled functions ignore the names."""
        return _nameless(self.lower, self.upper)

    def contains(self, theta: ArrayLike) -> np.ndarray:
        """Returns whether each point (..., d) lies inside the closed support, as bool (...,)."""
        theta = np.asarray(theta)
        return np.all((theta >= self.lower) & (theta <= self.upper), axis=-1)

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready description; infinite bounds become the strings "-inf" and "inf"."""
        return {
            "names": list(self.names),
            "lower": [_number_to_json(value) for value in self.lower],
            "upper": [_number_to_json(value) for value in self.upper],
            "units": list(self.units),
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, record: Any) -> ParameterSpace:
        """Returns the space that `to_json` described. Raises ValueError if the record is not such a description."""
        fields = ("names", "lower", "upper", "units", "labels")
        if not isinstance(record, Mapping) or any(not isinstance(record.get(field), list) for field in fields):
            raise ValueError(f"parameter space: expected a record with the lists {shorten(fields)}; got {record!r}.")
        lower, upper = ([float(value) for value in record[field]] for field in ("lower", "upper"))
        return cls(record["names"], lower, upper, units=record["units"], labels=record["labels"])

    def __len__(self) -> int:
        return self.dim

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterSpace) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        rows = ", ".join(
            f"{name} ({low:g}, {high:g}){' ' + unit if unit else ''}"
            for name, low, high, unit in zip(self.names, self.lower, self.upper, self.units, strict=True)
        )
        return f"ParameterSpace[{rows}]"


def require_space(space: Any, subject: str = "space") -> None:
    """Raises TypeError unless it is a ParameterSpace."""
    if not isinstance(space, ParameterSpace):
        raise TypeError(f"{subject}: expected a ParameterSpace; got {type(space).__name__}.")


def merge_spaces(spaces: Sequence[ParameterSpace]) -> ParameterSpace:
    """Returns the concatenation of several spaces. Raises ValueError if a name occurs twice."""
    fields = zip(*(space._key for space in spaces), strict=True)
    return _rebuild(*([value for values in field for value in values] for field in fields))


def _rebuild(names: Any, lower: Any, upper: Any, units: Any, labels: Any) -> ParameterSpace:
    return ParameterSpace(names, lower, upper, units=units, labels=labels)


def _checked_names(names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray):
        raise TypeError(f"names: expected a sequence of strings; got {names!r}.")
    checked = tuple(names)
    wrong = [name for name in checked if not isinstance(name, str) or not name.strip()]
    if wrong:
        raise TypeError(f"names: expected non-empty strings; got {shorten(wrong)}.")
    if not checked:
        raise ValueError("names: expected at least one parameter; got none.")
    longest = max(checked, key=len)
    if len(longest) > _LONGEST_NAME:
        raise ValueError(f"names: expected at most {_LONGEST_NAME} characters; got {len(longest)}: {longest[:40]!r}...")
    require_unique(checked, "names: expected unique names")
    return tuple(str(name) for name in checked)


def _checked_bounds(value: Any, names: tuple[str, ...], which: str) -> FloatArray:
    array = float_array(value, f"{which} bounds")
    if array.ndim == 0:
        array = np.full(len(names), float(array))
    if array.shape != (len(names),):
        raise ValueError(
            f"{which} bounds: expected {len(names)} values, one for each of {shorten(names, 40)}; "
            f"got shape {array.shape}."
        )
    if np.isnan(array).any():
        bad = [names[j] for j in np.flatnonzero(np.isnan(array))]
        raise ValueError(
            f"{which} bounds: expected numbers; got NaN for {shorten(bad)}. Use -inf or inf where there is no bound."
        )
    return array


def _require_ordered(names: tuple[str, ...], lower: FloatArray, upper: FloatArray) -> None:
    bad = np.flatnonzero(~(lower < upper) | (lower == np.inf) | (upper == -np.inf))
    if len(bad):
        rows = shorten([f"{names[j]}: [{lower[j]:g}, {upper[j]:g}]" for j in bad])
        raise ValueError(f"bounds: expected lower < upper for every parameter; got {rows}. Swap or correct them.")


def _checked_texts(
    texts: Sequence[str] | None, names: tuple[str, ...], which: str, *, default: tuple[str, ...]
) -> tuple[str, ...]:
    if texts is None:
        return default
    if isinstance(texts, str) or len(texts) != len(names) or any(not isinstance(text, str) for text in texts):
        raise ValueError(f"{which}: expected {len(names)} strings, one for each parameter; got {texts!r}.")
    return tuple(texts)


def _number_to_json(value: float) -> float | str:
    return value if np.isfinite(value) else ("inf" if value > 0 else "-inf")


@lru_cache(maxsize=256)
def _nameless(lower: tuple[float, ...], upper: tuple[float, ...]) -> ParameterSpace:
    return ParameterSpace([str(j) for j in range(len(lower))], lower, upper)
