"""Pickles of others: what is read comes back equal, and what is refused runs nothing."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import pickletools
import random

import numpy as np
import pytest

from numpyro_flowprior.formats.pickles import load_plain

ARRAY = np.arange(12.0).reshape(3, 4)
PLAIN = [
    ARRAY,
    ARRAY.T,
    ARRAY[:, ::2],
    ARRAY.astype(">f4"),
    np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    np.array(["a", "bc"]),
    np.array([b"a", b"bc"]),
    np.array([True, False]),
    np.zeros((0, 3)),
    np.array(2.5),
    np.float64(1.5),
    np.int32(-3),
    {"chain": ARRAY, "logz": np.float64(-1.0), "names": ["a", ("b", 1, None)], "x": {1, 2}, "y": frozenset([3])},
    collections.OrderedDict(a=1j, b=b"bytes", c=bytearray(b"more")),
    {"same": [ARRAY, ARRAY], "big": 2**80, "text": "ä"},
]


def load(data: bytes):
    return load_plain(io.BytesIO(data))


def assert_same(a, b) -> None:
    if isinstance(b, dict):
        assert list(a) == list(b)
        for key in b:
            assert_same(a[key], b[key])
    elif isinstance(b, list | tuple):
        assert type(a) is type(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(b, np.ndarray | np.generic):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", PLAIN, ids=lambda content: type(content).__name__)
def test_arrays_and_plain_containers_come_back_equal(content, protocol):
    data = pickle.dumps(content, protocol)
    assert_same(load(data), content)
    if protocol < 4:  # NumPy 1 called its core so; later protocols store lengths of names
        assert_same(load(data.replace(b"numpy._core", b"numpy.core")), content)


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def opcodes(*lines: bytes) -> bytes:
    return b"\x80\x02" + b"".join(lines) + b"."


def test_arrays_of_python_2_are_read():
    values = np.array([1.5, -2.0])
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    assert_same(load(opcodes(array, b"(K\x01(K\x02t", dtype, b"\x89U\x10", values.tobytes(), b"tb")), values)


RAN: list[str] = []


def run(word: str) -> str:
    RAN.append(word)
    return word


REFUSED = [
    (pickle.dumps(Calls(os.system, "touch ran")), r"(posix|nt)\.system"),
    (pickle.dumps(Calls(eval, "run('eval')")), r"builtins\.eval"),
    (pickle.dumps(Calls(exec, "run('exec')")), r"builtins\.exec"),
    (pickle.dumps(Calls(getattr, ARRAY, "dump")), r"builtins\.getattr"),
    (pickle.dumps(Calls(run, "mine")), r"test_pickles\.run"),
    (pickle.dumps({"chain": ARRAY, "x": Calls(run, "inside")}), r"test_pickles\.run"),
    (pickle.dumps(Calls(np.load, "x.npy")), r"numpy.*load"),
    (pickle.dumps(Calls(np.fromfile, "/etc/passwd")), r"numpy.*fromfile"),
    (pickle.dumps(np.random.default_rng(0)), r"numpy\.random"),
    (pickle.dumps(np.array([{}, {}])), "Python objects"),
    (pickle.dumps(np.array([Calls(run, "held")])), "Python objects"),
    (pickle.dumps(np.zeros(2, dtype=[("a", float)])), "expected arrays of numbers"),
    (pickle.dumps(np.ma.masked_array([1.0])), "numpy"),
    (pickle.dumps(np.datetime64("2020-01-01")), "expected arrays of numbers"),
    (pickle.dumps(pytest.approx(1.0)), "refused"),
    (pickle.dumps(run), r"test_pickles\.run"),
    (pickle.dumps(np.ndarray), "expected numbers, strings"),
    (opcodes(b"cnumpy.core.multiarray\nscalar\n", b"}X\x05\x00\x00\x00_makeK\x01sb"), "change how it is read"),
    (opcodes(b"cnumpy\ndtype\n", b"N}X\x08\x00\x00\x00__init__K\x01s\x86b"), "change how it is read"),
    (opcodes(b"cnumpy.core.multiarray\n_reconstruct\n", b"(K\x00K\x00tR"), "numpy.ndarray"),
    (opcodes(b"cnumpy\nndarray\n", b"(K\x02tR"), "refused|readable"),
    (opcodes(b"cnumpy\nndarray\n", b")\x81"), "readable|NEWOBJ"),
    (opcodes(b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR", b"(K\x03X\x01\x00\x00\x00<]NNtb"), "structured"),
    (opcodes(b"]q\x00h\x00a"), "contains itself"),
    (opcodes(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zliptR"), "_codecs.encode"),
    (opcodes(b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR"), "expected bytes for builtins.bytearray"),
    (opcodes(b"cnumpy.core.multiarray.x\nscalar\n"), r"numpy\.core\.multiarray\.x\.scalar"),
    (opcodes(b"(U\x02idios\nsystem\n"), "INST"),
    (opcodes(b"U\x01aQ"), "readable|PERSID"),
    (b"]" * 100_000 + b"a" * 99_999 + b".", "few levels deep|readable"),
    (pickle.dumps(ARRAY)[:60], "truncated"),
    (b"", "truncated"),
    (b"not a pickle", "readable|invalid|pickle"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_what_is_not_plain_is_refused_by_name_and_runs_nothing(tmp_path, monkeypatch, data, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(data)
    assert not RAN
    assert not os.listdir()
    assert_same(load(pickle.dumps(PLAIN)), PLAIN)  # nothing about the reader has changed


def test_damaged_pickles_are_refused_and_nothing_else(capfd):
    rng = random.Random(0)
    whole = [pickle.dumps(PLAIN[12:14], protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for _ in range(3000):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
        with contextlib.suppress(ValueError):
            load(bytes(data))
    assert capfd.readouterr().err == ""


def test_the_dangerous_ones_are_dangerous():
    """Otherwise the test above would show nothing."""
    assert pickle.loads(pickle.dumps(Calls(run, "seen"))) == "seen"
    assert RAN == ["seen"]
    RAN.clear()
    assert "system" in str([argument for _, argument, _ in pickletools.genops(REFUSED[0][0])])
