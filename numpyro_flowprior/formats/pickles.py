"""Reads pickles of other programs without running code: NumPy arrays and plain containers. All else is refused by name.

A pickle is a program, and it is dangerous because it may call functions. This module never looks up a function that a
pickle names. The few names that NumPy arrays need are replaced by our own functions, which check their arguments and
rebuild the arrays with `numpy.frombuffer`. The package itself writes no pickles.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable
from typing import IO, Any, NoReturn

import numpy as np

_UNUSED = ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER")
_NUMBERS = re.compile(r"[<>|=]?[biufc](1|2|4|8|16)")
_TEXTS = re.compile(r"[<>|=]?[SU]\d+")


def load_plain(file: IO[bytes]) -> Any:
    """Returns the content of a pickle of numbers, strings, arrays of them, and plain containers.

    Raises:
        ValueError: it names anything else (the name is given), or is not a pickle.
    """
    data = file.read()
    try:
        _require_whole(data)
        content = _Plain(io.BytesIO(data), encoding="latin1").load()  # latin1 keeps bytes of Python 2
        return _finished(content, frozenset())
    except pickle.UnpicklingError as error:
        raise ValueError(f"{error}") from error
    except (EOFError, AttributeError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise ValueError(f"not a readable pickle of arrays ({error}). It may be truncated: copy it again.") from error
    except RecursionError as error:
        raise ValueError("expected containers nested a few levels deep; got many more levels.") from error


def _require_whole(data: bytes) -> None:
    """Raises UnpicklingError for damaged pickles, and for opcodes that arrays do not need, before the pickle is run.

    Otherwise CPython's unpickler would allocate whatever a damaged length says, and read into buffers that it frees.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about invalid escapes in damaged names
        _require_opcodes(data)


def _require_opcodes(data: bytes) -> None:
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name in _UNUSED:
                raise pickle.UnpicklingError(f"refused: the pickle uses {opcode.name}, which arrays do not need.")
            if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > count:
                raise pickle.UnpicklingError("not a readable pickle (memo out of order). The file may be damaged.")
    except ValueError as error:
        raise pickle.UnpicklingError(f"not a readable pickle ({error}). It may be truncated: copy it again.") from error


class _Maker:
    """Replaces one name that a pickle may call. A pickle cannot change it."""

    __slots__ = ("_make",)
    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]):
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError("refused: the pickle tries to change how it is read.")

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("refused: the pickle tries to change how it is read.")


class _Dtype:
    """A dtype of numbers or strings while it is being read."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not (_NUMBERS.fullmatch(code) or _TEXTS.fullmatch(code)):
            what = "Python objects (dtype object)" if code == "O8" else f"dtype {code!r}"
            raise pickle.UnpicklingError(f"refused: expected arrays of numbers; got {what}. Save plain arrays instead.")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        order, fields = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or any(field is not None for field in fields):
            raise pickle.UnpicklingError("refused: expected arrays of numbers; got a structured dtype.")
        self.code = order.replace("=", "|") + self.code.lstrip("<>|=")

    def dtype(self) -> np.dtype:
        return np.dtype(self.code)


class _Array:
    """An array while it is being read; `values` is None until its state has been read."""

    __slots__ = ("values",)

    def __init__(self, values: np.ndarray | None = None):
        self.values = values

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.values = _array(data, dtype, shape, "F" if is_fortran else "C").values


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> _Array:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray | str):
        raise pickle.UnpicklingError("refused: expected arrays of numbers; got an array of Python objects.")
    data = data.encode("latin1") if isinstance(data, str) else data
    try:
        values = np.frombuffer(data, dtype.dtype()) if data else np.empty(0, dtype.dtype())
        values = values.reshape(shape, order="F" if order == "F" else "C")
        return _Array((values if axes is None else values.transpose(axes)).copy())
    except ValueError as error:
        raise pickle.UnpicklingError(f"not a readable array ({error}). The file may be damaged.") from error


def _reconstruct(*args: Any) -> _Array:
    if not args or args[0] is not _NDARRAY:
        raise pickle.UnpicklingError("refused: expected numpy.ndarray; got a subclass of it.")
    return _Array()


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _array(data, dtype, ()).values[()]  # type: ignore[index]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"refused: _codecs.encode to {encoding!r}; only text to 'latin1' is accepted.")
    return text.encode("latin1")


def _bytearray(*args: Any) -> bytearray:
    if len(args) == 2:  # protocols 0 to 2 write a string and its encoding
        args = (_encode(*args),)
    if args and not isinstance(args[0], bytes):
        raise pickle.UnpicklingError("refused: expected bytes for builtins.bytearray; got something else.")
    return bytearray(*args)


_NDARRAY = _Maker(lambda *_: _reconstruct())
_CORE = {"_reconstruct": _Maker(_reconstruct), "scalar": _Maker(_scalar)}
_NAMES: dict[tuple[str, str], _Maker] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Maker(_Dtype),
    ("_codecs", "encode"): _Maker(_encode),
    ("builtins", "bytes"): _Maker(lambda *args: bytes(_bytearray(*args))),
    ("builtins", "bytearray"): _Maker(_bytearray),
    ("builtins", "complex"): _Maker(complex),
    ("builtins", "set"): _Maker(set),
    ("builtins", "frozenset"): _Maker(frozenset),
    ("collections", "OrderedDict"): _Maker(dict),
    **{(f"numpy.{core}.multiarray", name): maker for core in ("core", "_core") for name, maker in _CORE.items()},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Maker(_array) for core in ("core", "_core")},
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # name in Python 2 and in protocols 0 to 2
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(
                f"refused: the pickle calls {module}.{name}; only NumPy arrays, numbers, strings and plain containers "
                "are read. If you trust the file, load it yourself and pass its arrays to read_chain."
            )
        return _NAMES[module, name]


def _finished(value: Any, inside: frozenset[int]) -> Any:
    """Returns the value with finished arrays instead of `_Array`; refuses anything that is not plain."""
    if isinstance(value, _Array) and value.values is not None:
        return value.values
    if id(value) in inside:
        raise pickle.UnpicklingError("refused: expected plain containers; got one that contains itself.")
    inside = inside | {id(value)}
    if type(value) is dict:
        return {_finished(key, inside): _finished(item, inside) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_finished(item, inside) for item in value)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | bytearray | np.generic):
        return value
    raise pickle.UnpicklingError(
        f"refused: expected numbers, strings, arrays and containers; got {type(value).__name__}."
    )
