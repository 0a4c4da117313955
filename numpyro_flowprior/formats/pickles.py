"""Somebody else's pickles, read without running anything: NumPy arrays and plain containers, or refusal by name.

A pickle is a program; its danger is in the functions that it may call. None that it names is ever looked up: the few
names that NumPy's arrays need stand for makers of our own, which check what they are given and rebuild the arrays with
`numpy.frombuffer`. No pickle is written anywhere in the package.
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
    """Returns the content of a pickle of numbers, texts, arrays of them, and plain containers.

    Raises:
        ValueError: it names anything else (the name is given), or is no pickle.
    """
    data = file.read()
    try:
        _require_whole(data)
        content = _Plain(io.BytesIO(data), encoding="latin1").load()  # in which Python 2 keeps bytes
        return _finished(content, frozenset())
    except pickle.UnpicklingError as error:
        raise ValueError(f"{error}") from error
    except (EOFError, AttributeError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise ValueError(f"not a readable pickle of arrays ({error}). It may be truncated: copy it again.") from error
    except RecursionError as error:
        raise ValueError("expected containers within containers a few levels deep; got far more.") from error


def _require_whole(data: bytes) -> None:
    """Raises UnpicklingError for damaged pickles, and for what no pickle of arrays has, before any of it is run.

    CPython's unpickler allocates what a damaged length says, and reads into buffers that it frees.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of odd escapes in damaged names
        _require_opcodes(data)


def _require_opcodes(data: bytes) -> None:
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if opcode.name in _UNUSED:
                raise pickle.UnpicklingError(f"refused: the pickle uses {opcode.name}, which arrays do not need.")
            if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > count:
                raise pickle.UnpicklingError("not a readable pickle (a memo out of order). The file may be damaged.")
    except ValueError as error:
        raise pickle.UnpicklingError(f"not a readable pickle ({error}). It may be truncated: copy it again.") from error


class _Maker:
    """Stands for one name that a pickle may call. Nothing about it can be changed from within a pickle."""

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
    """A dtype of numbers or text on its way in."""

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
    """An array on its way in: `values` once its state is there."""

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
        raise pickle.UnpicklingError(f"refused: _codecs.encode to {encoding!r}.")
    return text.encode("latin1")


def _bytearray(*args: Any) -> bytearray:
    if len(args) == 2:  # as protocols 0 to 2 write it: text, and its encoding
        args = (_encode(*args),)
    if args and not isinstance(args[0], bytes):
        raise pickle.UnpicklingError("refused: builtins.bytearray of anything but bytes.")
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
        module = "builtins" if module == "__builtin__" else module  # its name in Python 2, and up to protocol 2
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(
                f"refused: the pickle calls {module}.{name}; only NumPy arrays, numbers, texts and plain containers "
                "are read. If you trust the file, load it yourself and pass its arrays to read_chain."
            )
        return _NAMES[module, name]


def _finished(value: Any, inside: frozenset[int]) -> Any:
    """Returns the value with arrays in the place of their makings; what is not plain is refused."""
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
        f"refused: expected numbers, texts, arrays and containers; got {type(value).__name__}."
    )
