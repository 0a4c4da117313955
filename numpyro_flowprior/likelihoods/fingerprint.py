"""A checksum of a Python function and of the values that it uses, by which a cache of its calls is recognised.

It sees the source of the function and of the functions of the user's that it calls, arguments of a partial, defaults,
variables of closures and modules, and attributes of objects. It does not see compiled code, or files that are read.
"""

from __future__ import annotations

import hashlib
import inspect
import sysconfig
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_MOST = 20_000  # values that are looked at; more are left out
_LONG = 100  # entries from which a list is taken as an array, if it is one
_INSTALLED = (*(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")), "site-packages")


def function_fingerprint(function: Callable[..., Any]) -> str:
    """Returns "source:" and sixteen hexadecimal digits: the same in every process, for the same function and values."""
    walk = _Walk()
    walk.add(function)
    return f"source:{walk.digest.hexdigest()[:16]}"


class _Walk:
    """A walk over a value and what it refers to."""

    def __init__(self) -> None:
        self.digest, self._seen, self._kept = hashlib.sha256(), dict[int, int](), list[Any]()

    def add(self, value: Any) -> None:
        """Adds a value."""
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            self._tell(type(value).__name__, value)
        elif id(value) in self._seen or len(self._seen) > _MOST:
            self._tell("again", self._seen.get(id(value), "more"))
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)  # so that its id stays its own
            self._add_new(value)

    def _add_new(self, value: Any) -> None:
        if isinstance(value, ModuleType):
            self._tell("module", value.__name__)
        elif isinstance(value, partial):
            self._all("partial", value.func, value.args, value.keywords)
        elif isinstance(value, MethodType):
            self._all("method", value.__func__, value.__self__)
        elif isinstance(value, FunctionType):
            self._add_function(value)
        elif inspect.unwrap(value) is not value if callable(value) else False:
            self.add(inspect.unwrap(value))
        elif isinstance(value, type):
            self._tell("class", _name_of(value), "" if _is_installed(value) else _source_of(value))
        elif isinstance(value, BuiltinFunctionType) or _is_array(value):
            self._add_array(value) if _is_array(value) else self._tell("compiled", _name_of(value))
        elif isinstance(value, Mapping):
            self._all("mapping", *(part for item in value.items() for part in item))
        elif isinstance(value, set | frozenset):
            self._tell("set", sorted(map(_alone, value)))
        elif isinstance(value, list | tuple):
            numbers = _as_numbers(value)
            self._all("sequence", *value) if numbers is None else self._add_array(numbers)
        else:
            self._add_object(value)

    def _add_function(self, function: FunctionType) -> None:
        if _is_installed(function):
            self._tell("function", _name_of(function))
            return
        self._tell("function", _name_of(function), _source_of(function))
        self._all("defaults", function.__defaults__, function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:
                self._tell("empty cell")
        names = sorted({name for code in _codes(function.__code__) for name in code.co_names})
        for name in names:
            if name in function.__globals__:
                self._tell("global", name)
                self.add(function.__globals__[name])
        wrapped = inspect.unwrap(function)
        if wrapped is not function:
            self.add(wrapped)

    def _add_array(self, value: Any) -> None:
        array = np.asarray(value)
        if array.dtype == object:
            self._all("objects", array.shape, array.ravel().tolist())
            return
        self._tell("array", array.dtype.str, array.shape)
        self.digest.update(np.ascontiguousarray(array).tobytes())

    def _add_object(self, value: Any) -> None:
        self._tell("object", _name_of(type(value)), "" if _is_installed(type(value)) else _source_of(type(value)))
        try:
            made = value.__reduce_ex__(2)
        except Exception:  # a lock, a file, an open connection: it cannot be copied, and holds no numbers
            return
        if isinstance(made, tuple):
            state = list(made[1:3])
            self._all("state", *(part for part in state if part is not type(value)))
            self._all("items", *([list(part) for part in made[3:5] if part is not None]))

    def _all(self, kind: str, *parts: Any) -> None:
        self._tell(kind, len(parts))
        for part in parts:
            self.add(part)

    def _tell(self, *words: Any) -> None:
        self.digest.update(repr(words).encode())


def _alone(value: Any) -> str:
    walk = _Walk()
    walk.add(value)
    return walk.digest.hexdigest()


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yields the code of a function and of those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "dtype") and not isinstance(value, type)


def _as_numbers(value: Any) -> np.ndarray | None:
    if len(value) < _LONG:
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return array if array.dtype.kind in "biufc" else None


def _is_installed(thing: Any) -> bool:
    """Returns whether a function or class is of the standard library or an installed package, known by its name."""
    try:
        file = inspect.getfile(thing)
    except (TypeError, OSError):
        return False
    return any(place in file for place in _INSTALLED)


def _name_of(thing: Any) -> str:
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", type(thing).__name__)
    return f"{module}.{name}"


def _source_of(thing: Any) -> str:
    """Returns the source of a function or class; the code without one, as in an interactive session."""
    try:
        return textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)
        if code is None:
            return ""
        return repr(
            [(each.co_code, [c for c in each.co_consts if not isinstance(c, CodeType)]) for each in _codes(code)]
        )
