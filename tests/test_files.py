"""Files: old ones keep loading, damaged ones are refused with a reason, and no file does anything else."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from toys import make_prior

from numpyro_flowprior import FileFormatError, FlowConfig, FlowPrior, GPEmulator, load_numpy
from numpyro_flowprior._util.storage import CHECKSUM, FORMAT, checksum
from numpyro_flowprior.priors.prior_file import read_prior

DATA = Path(__file__).parent / "data"
LOADERS = {"FlowPrior.load": FlowPrior.load, "load_numpy": load_numpy}


# --- old files


@pytest.mark.parametrize("path", sorted(DATA.glob("prior_*.safetensors")), ids=lambda path: path.stem)
def test_priors_of_every_schema_keep_their_density(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    prior, plain = FlowPrior.load(path), load_numpy(path)
    with jax.enable_x64(True):
        np.testing.assert_allclose(prior.log_prob(np.array(expected["theta"])), expected["log_prob"], atol=1e-10)
    np.testing.assert_allclose(plain.log_prob(expected["theta"]), expected["log_prob"], atol=1e-10)
    assert plain.names == ("eta", "tau", "kappa", "lambda")
    assert plain.info["metadata"]["licence"] == "CC0-1.0"
    assert plain.info["report"]["verdict"] == "pass"


@pytest.mark.parametrize("path", sorted(DATA.glob("prior_*.safetensors")), ids=lambda path: path.stem)
def test_an_old_prior_saved_again_is_the_same_density_in_todays_schema(path, tmp_path):
    again = FlowPrior.load(path).save(tmp_path / "p.safetensors")
    assert read_prior(again).config == read_prior(path).config
    theta = json.loads(path.with_suffix(".json").read_text())["theta"]
    np.testing.assert_array_equal(load_numpy(again).log_prob(theta), load_numpy(path).log_prob(theta))


@pytest.mark.parametrize("path", sorted(DATA.glob("emulator_*.safetensors")), ids=lambda path: path.stem)
def test_emulators_of_every_schema_keep_their_predictions(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    with jax.enable_x64(True):
        found = GPEmulator.load(path).predict(np.array(expected["theta"]))
    np.testing.assert_allclose(found.mean, expected["mean"], atol=1e-10)
    np.testing.assert_allclose(found.covariance, expected["covariance"], atol=1e-10)


def test_masks_are_read_from_the_file_not_drawn(tmp_path, monkeypatch):
    """If NumPy's permutation should ever change: load_numpy gives the same density, FlowPrior.load says why not."""
    path = DATA / "prior_schema_2.safetensors"
    expected = json.loads(path.with_suffix(".json").read_text())

    def mirrored(config, dim):
        return [mask[::-1] for mask in own_masks(config, dim)]

    from numpyro_flowprior.priors import prior_file

    own_masks = prior_file.coupling_masks
    monkeypatch.setattr(prior_file, "coupling_masks", mirrored)
    np.testing.assert_allclose(load_numpy(path).log_prob(expected["theta"]), expected["log_prob"], atol=1e-10)
    with pytest.raises(FileFormatError, match="Evaluate it with load_numpy"):
        FlowPrior.load(path)


# --- damaged files


def parts_of(path: Path) -> tuple[dict, bytes]:
    """Returns the safetensors header and the bytes behind it."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def arrays_of(header: dict, data: bytes) -> dict[str, np.ndarray]:
    kinds = {"F32": np.float32, "F64": np.float64, "I64": np.int64}
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            found[name] = np.frombuffer(data[start:end], kinds[entry["dtype"]]).reshape(entry["shape"]).copy()
    return found


def rewritten(path: Path, change, *, check: bool = True) -> bytes:
    """Returns a file whose record and arrays were changed; with a right checksum, as a forger would write it."""
    from safetensors.numpy import save

    header, data = parts_of(path)
    record, arrays = json.loads(header["__metadata__"][FORMAT]), arrays_of(header, data)
    text = change(record, arrays)
    if check and CHECKSUM in record:
        record[CHECKSUM] = checksum(record, arrays)
    return save(arrays, metadata={FORMAT: text if isinstance(text, str) else json.dumps(record)})


def with_header(change):
    """Returns a damage done to the safetensors header."""

    def damage(path: Path) -> bytes:
        header, data = parts_of(path)
        return joined(change(header) or header, data)

    return damage


def with_content(change, **settings):
    """Returns a damage done to the record or the arrays."""
    return lambda path: rewritten(path, change, **settings)


def with_bytes(change):
    """Returns a damage done to the bytes of the whole file."""
    return lambda path: bytes(change(bytearray(path.read_bytes())))


def flipped(content: bytearray, position: int) -> bytearray:
    content[position] ^= 1
    return content


def put(part: str, **changes):
    return with_content(lambda record, arrays: record[part].update(changes))


def array(name: str, change):
    return with_content(lambda record, arrays: arrays.update({name: change(arrays[name])}))


def first_array(**changes):
    return with_header(lambda header: header["couplings/0/0/bias"].update(changes))


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def _above_the_diagonal(tril: np.ndarray) -> np.ndarray:
    return tril + 1e-3 * np.triu(np.ones_like(tril), 1)


DAMAGES = {
    "empty": (with_bytes(lambda b: b[:0]), "not a readable safetensors file"),
    "cut in the length": (with_bytes(lambda b: b[:5]), "not a readable safetensors file"),
    "cut in the header": (with_bytes(lambda b: b[:300]), "not a readable safetensors file"),
    "cut at the arrays": (with_bytes(lambda b: b[: 8 + struct.unpack("<Q", b[:8])[0]]), "not a readable"),
    "cut in the arrays": (with_bytes(lambda b: b[:-100]), "not a readable safetensors file"),
    "cut by a byte": (with_bytes(lambda b: b[:-1]), "not a readable safetensors file"),
    "a byte too many": (with_bytes(lambda b: b + b"\0"), "not a readable safetensors file"),
    "a megabyte too many": (with_bytes(lambda b: b + bytes(10**6)), "not a readable safetensors file"),
    "another format": (with_bytes(lambda b: b"PK\3\4" + b), "not a readable safetensors file"),
    "text": (with_bytes(lambda b: b"a,b\n1,2\n"), "not a readable safetensors file"),
    "a pickle": (with_bytes(lambda b: b"\x80\x04cos\nsystem\n(S'true'\ntR."), "not a readable safetensors file"),
    "flipped in the length": (with_bytes(lambda b: flipped(b, 0)), "not a readable|checksum"),
    "flipped in the last array": (with_bytes(lambda b: flipped(b, -1)), "has the checksum"),
    "flipped in the first array": (with_bytes(lambda b: flipped(b, 8 + struct.unpack("<Q", b[:8])[0])), "the checksum"),
    "flipped in the record": (with_bytes(lambda b: flipped(b, b.index(b"fixture"))), "has the checksum"),
    "flipped in a bound": (with_bytes(lambda b: flipped(b, b.index(b"0.02") + 3)), "has the checksum"),
    "flipped in an array's name": (with_bytes(lambda b: flipped(b, b.index(b"final/shift"))), "has the checksum"),
    "flipped in the checksum": (with_bytes(lambda b: flipped(b, b.index(b"sha256") + 12)), "has the checksum"),
    "flipped in the checksum's name": (with_bytes(lambda b: flipped(b, b.index(b"sha256"))), "has the checksum"),
    "no checksum": (with_content(lambda r, a: r.pop(CHECKSUM) and None), "expected None"),
    "an older schema's number": (with_content(lambda r, a: r.update(schema=1), check=False), "has the checksum"),
    "header longer than the file": (with_bytes(lambda b: struct.pack("<Q", 2**62) + b[8:]), "not a readable"),
    "header of nothing": (with_header(lambda h: b"\0"), "not a readable safetensors file"),
    "header that nests deeply": (with_header(lambda h: nested(10**5).encode()), "not a readable safetensors file"),
    "array larger than the file": (first_array(shape=[2**40], data_offsets=[0, 2**42]), "not a readable"),
    "array of overflowing shape": (first_array(shape=[2**40, 2**40], data_offsets=[0, 12]), "not a readable"),
    "array of negative shape": (first_array(shape=[-3]), "not a readable safetensors file"),
    "array before the file": (first_array(data_offsets=[-12, 0]), "not a readable safetensors file"),
    "array of an unknown dtype": (first_array(dtype="F512"), "not a readable safetensors file"),
    "array in the wrong dtype": (first_array(dtype="I32"), "has the checksum|not a readable"),
    "no header of ours": (with_header(lambda h: h.pop("__metadata__") and None), "without a numpyro_flowprior header"),
    "record that is not JSON": (with_content(lambda r, a: "{"), "not valid JSON"),
    "record that is a list": (with_content(lambda r, a: "[]"), "not a JSON object"),
    "record that nests deeply": (with_content(lambda r, a: nested(10**5)), "not valid JSON"),
    "record that nests by 1000": (with_content(lambda r, a: nested(1000)), "not valid JSON"),
    "record with NaN": (with_content(lambda r, a: json.dumps(r).replace("0.02", "NaN")), "not valid JSON"),
    "record with infinity": (with_content(lambda r, a: json.dumps(r).replace("0.02", "1e999")), "not valid JSON"),
    "record with a huge integer": (with_content(lambda r, a: json.dumps(r).replace("0.02", "9" * 9999)), "not valid"),
    "record with broken Unicode": (with_content(lambda r, a: '{"kind": "\\ud800"}'), "not valid JSON"),
    "another kind": (with_content(lambda r, a: r.update(kind="gp_emulator")), "it is of kind 'gp_emulator'"),
    "no kind": (with_content(lambda r, a: r.pop("kind") and None), "it is of kind None"),
    "a newer schema": (with_content(lambda r, a: r.update(schema=99)), "Upgrade numpyro_flowprior"),
    "schema 0": (with_content(lambda r, a: r.update(schema=0)), "schema version >= 1"),
    "schema True": (with_content(lambda r, a: r.update(schema=True)), "schema version >= 1"),
    "schema in words": (with_content(lambda r, a: r.update(schema="2")), "schema version >= 1"),
    "no configuration": (with_content(lambda r, a: r.pop("config") and None), "expected a JSON object; got None"),
    "a field too few": (with_content(lambda r, a: r["config"].pop("layers") and None), "missing: 'layers'"),
    "a field too many": (put("config", depth=3), "unknown: 'depth'"),
    "layers in words": (put("config", layers="two"), "FlowConfig.layers"),
    "negative layers": (put("config", layers=-1), "FlowConfig.layers"),
    "a billion layers": (put("config", layers=10**9), r"need more than the \d+ arrays of"),
    "a billion members": (put("config", members=10**9), r"need more than the \d+ arrays of"),
    "a billion hidden layers": (put("config", hidden=[1] * 10**5), r"need more than the \d+ arrays of"),
    "a layer of a billion": (put("config", hidden=[10**9]), "expected shape"),
    "a billion components": (put("config", components=10**9), "expected shape"),
    "a billion bins": (put("config", bins=10**9), "FlowConfig.bins"),
    "hidden layers in words": (put("config", hidden="64"), "FlowConfig.hidden"),
    "hidden that is a number": (put("config", hidden=64), "does not describe a prior"),
    "an unknown base": (put("config", base=["normal"]), "FlowConfig.base"),
    "a hull beyond floats": (put("config", hull=10**400), "does not describe a prior"),
    "no space": (with_content(lambda r, a: r.update(space=None)), "parameter space"),
    "bounds in words": (put("space", lower=["low"] * 4), "could not convert"),
    "bounds upside down": (put("space", lower=[5, 5, 5, 5]), "lower < upper"),
    "bounds that are lists": (put("space", lower=[[], [], [], []]), "does not describe a prior"),
    "a name too many": (put("space", names=["a", "b", "c", "d", "e"]), "lower bounds: expected 5"),
    "names that are numbers": (put("space", names=[1, 2, 3, 4]), "expected non-empty strings"),
    "names that are lists": (put("space", names=[[], [], [], []]), "expected non-empty strings"),
    "the same name twice": (put("space", names=["a", "a", "b", "c"]), "expected unique names"),
    "a name of a megabyte": (put("space", names=["a" * 10**6, "b", "c", "d"]), "at most 200 characters"),
    "no masks": (with_content(lambda r, a: r.pop("masks") and None), "masks: expected 4 lists"),
    "masks in words": (with_content(lambda r, a: r.update(masks=["a"] * 4)), "masks: expected 2 different columns"),
    "masks out of range": (with_content(lambda r, a: r["masks"].__setitem__(0, [0, 9])), "columns from 0 to 3"),
    "masks that repeat": (with_content(lambda r, a: r["masks"].__setitem__(0, [1, 1])), "2 different columns"),
    "info that is text": (with_content(lambda r, a: r.update(info="good")), "info: expected a JSON object"),
    "report that is text": (put("info", report="good"), "report: expected a JSON object"),
    "versions that are text": (with_content(lambda r, a: r.update(versions="1")), "versions: expected a JSON object"),
    "an array too few": (with_content(lambda r, a: a.pop("final/shift") is None), "missing: 'final/shift'"),
    "an array too many": (with_content(lambda r, a: a.update(extra=np.zeros(2))), "unknown: 'extra'"),
    "an array too long": (array("final/shift", lambda a: np.zeros((2, 5))), r"expected shape \(2, 4\); got \(2, 5\)"),
    "an array of no axes": (array("final/shift", lambda a: np.array(0.0, np.float32)), r"got \(\)"),
    "an array of integers": (array("final/shift", lambda a: a.astype(np.int64)), "expected float32 or float64"),
    "an array of halves": (array("final/shift", lambda a: a.astype(np.float16)), "expected float32 or float64"),
    "an array of complex": (array("final/shift", lambda a: a.astype(np.complex64)), "expected float32 or float64"),
    "NaN weights": (array("couplings/0/0/weight", lambda a: a * np.nan), "NaN or infinity"),
    "infinite weights": (array("couplings/0/0/weight", lambda a: a + np.inf), "NaN or infinity"),
    "zero scale of the support": (array("support/scale", np.zeros_like), "expected positive scales"),
    "negative whitening": (array("whitening/tril", np.negative), "expected positive scales"),
    "whitening not triangular": (array("whitening/tril", _above_the_diagonal), "zeros above the diagonal"),
    "negative mixture weights": (array("mixture/weights", lambda a: a * [1, -1, 1]), "weights >= 0 with sum 1"),
    "mixture weights of sum 2": (array("mixture/weights", lambda a: 2 * a), "weights >= 0 with sum 1"),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_with_a_reason(damage, load, tmp_path):
    make, message = DAMAGES[damage]
    path = tmp_path / "p.safetensors"
    path.write_bytes(make(DATA / "prior_schema_2.safetensors"))
    with pytest.raises(FileFormatError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.array([0.1]), r"expected shape \(\)"),
        (np.array(-0.1), "weights >= 0"),
        (np.array(np.nan), "NaN or infinity"),
    ],
)
def test_damaged_weights_of_the_first_ensembles_are_refused(weight, message, tmp_path):
    path = tmp_path / "p.safetensors"
    damage = array("background/weight", lambda a: weight)
    path.write_bytes(damage(DATA / "prior_schema_1_ensemble.safetensors"))
    with pytest.raises(FileFormatError, match=message):
        load_numpy(path)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_folders_are_refused(load, tmp_path):
    with pytest.raises(FileFormatError, match="got a folder"):
        load(tmp_path)


GREEDY = [name for name in DAMAGES if "billion" in name or "larger" in name or "longer" in name or "overflow" in name]


@pytest.mark.parametrize("damage", GREEDY)
def test_what_a_header_claims_is_not_allocated(damage, tmp_path):
    path = tmp_path / "p.safetensors"
    path.write_bytes(DAMAGES[damage][0](DATA / "prior_schema_2.safetensors"))
    with pytest.raises(FileFormatError):
        load_numpy(path)  # once before: imports, caches
    tracemalloc.start()
    with pytest.raises(FileFormatError):
        load_numpy(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * path.stat().st_size + 10**5  # Python's objects of a JSON text, several times its size


@pytest.mark.parametrize("name", ["prior_schema_2", "emulator_schema_3"])
def test_flipped_bits_are_found(name, tmp_path):
    """A random bit in every fourth byte."""
    load = {"prior": read_prior, "emulator": GPEmulator.load}[name.split("_")[0]]
    good = (DATA / f"{name}.safetensors").read_bytes()
    path, rng = tmp_path / "f.safetensors", np.random.default_rng(0)
    for position in range(0, len(good), 4):
        damaged = bytearray(good)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError):
            load(path)


# --- fuzzing


def mutated(rng: np.random.Generator, good: bytes) -> bytes:
    """Returns a file with random bytes changed, cut out, doubled, put in or cut off."""
    content, kind = bytearray(good), rng.integers(5)
    start, stop = np.sort(rng.integers(0, len(good) + 1, 2))
    if kind == 0:
        for position in rng.integers(0, len(good), rng.integers(1, 9)):
            content[position] = rng.integers(256)
    elif kind == 1:
        content = content[:start]
    elif kind == 2:
        del content[start : min(stop, start + 40)]
    elif kind == 3:
        place = rng.integers(0, len(good))
        content[place : place + stop - start] = content[start:stop]
    else:
        content[start:start] = rng.bytes(rng.integers(1, 40))
    return bytes(content)


def same(found, original) -> bool:
    first, second = (jax.tree.leaves(prior.params) for prior in (found, original))
    equal = all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(first, second, strict=True))
    return equal and (found.config, found.space, found.info) == (original.config, original.space, original.info)


def fuzz(seed: int, count: int, path: Path) -> int:
    """Returns how many of the fuzzed files were refused; the others are the same prior."""
    good = (DATA / "prior_schema_2.safetensors").read_bytes()
    originals = {name: load(DATA / "prior_schema_2.safetensors") for name, load in LOADERS.items()}
    rng, refused = np.random.default_rng(seed), 0
    for _ in range(count):
        path.write_bytes(mutated(rng, good))
        for name, load in LOADERS.items():
            try:
                found = load(path)
            except FileFormatError:
                refused += 1
            else:
                assert same(found, originals[name])
    return refused // 2


def test_fuzzed_files_are_refused_or_the_same_prior(tmp_path):
    assert fuzz(0, 1000, tmp_path / "p.safetensors") > 900


@pytest.mark.slow
def test_ten_thousand_fuzzed_files(tmp_path):
    assert fuzz(1, 10_000, tmp_path / "p.safetensors") > 9000


ALL = sorted(DATA.glob("*.safetensors"))


def refuses(path: Path, kind: str) -> bool:
    """Returns whether a file is refused; any error but FileFormatError is raised."""
    try:
        (GPEmulator.load if kind.startswith("emulator") else load_numpy)(path)
    except FileFormatError:
        return True
    return False


@pytest.mark.parametrize("original", ALL, ids=lambda path: path.stem)
def test_fuzzed_files_of_any_schema_raise_nothing_else(original, tmp_path):
    """Without a checksum some damage loads, as another density; most is refused."""
    rng, good, path = np.random.default_rng(2), original.read_bytes(), tmp_path / "f.safetensors"
    refused = 0
    for _ in range(300):
        path.write_bytes(mutated(rng, good))
        refused += refuses(path, original.stem)
    assert refused > 250


ODD = [None, True, -1, 0, 1e308, 10**400, "x", "", "\0", [], {}, [[]], {"a": 1}, 3.5, 2**63]


def leaves(value, path=()):
    """Yields where every part of a record is, itself included."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from leaves(part, (*path, key))


@pytest.mark.parametrize("stem", ["prior_schema_2", "prior_schema_1_single", "emulator_schema_2", "emulator_schema_3"])
def test_forged_records_raise_nothing_else(stem, tmp_path):
    """Every part of the record replaced by odd values, with a right checksum: refused, or a record that is in order."""
    original, path, rng = DATA / f"{stem}.safetensors", tmp_path / "f.safetensors", np.random.default_rng(0)
    record = json.loads(parts_of(original)[0]["__metadata__"][FORMAT])
    refused = 0
    for place in [place for place in leaves(record) if place]:
        for value in rng.choice(np.array(ODD, dtype=object), 4, replace=False):

            def forge(record, arrays, place=place, value=value):
                for key in place[:-1]:
                    record = record[key]
                record[place[-1]] = value

            path.write_bytes(rewritten(original, forge, check=place[0] != CHECKSUM))
            refused += refuses(path, stem)
    assert refused > 100


# --- writing


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"doi": {"of": [1, np.int64(3)]}}, TypeError, r"metadata.doi.of\[1\]: .* got int64"),
        ({"date": Path("x")}, TypeError, "metadata.date: expected text, a number"),
        ({"weights": np.zeros(3)}, TypeError, "metadata.weights: .* Convert it"),
        ({"chi2": float("nan")}, ValueError, "metadata.chi2: expected a finite number; got nan"),
        ({"by": {1: "a"}}, TypeError, "metadata.by: expected strings as keys; got 1"),
        ({"title": "\ud800"}, ValueError, "metadata.title: expected text in valid Unicode"),
        ("a title", TypeError, "metadata: expected a dict"),
    ],
)
def test_metadata_that_json_cannot_hold_is_refused_by_name(metadata, error, message, tmp_path):
    prior = make_prior([(0.0, 1.0)], FlowConfig(layers=0))
    with pytest.raises(error, match=message):
        prior.save(tmp_path / "p.safetensors", metadata=metadata)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("part", "name", "change", "message"),
    [
        ("final", "shift", lambda a: a * np.nan, "'final/shift' holds NaN"),
        ("mixture", "weights", lambda a: 0.9 * a, "weights >= 0 with sum 1"),
        ("whitening", "tril", lambda a: a.T, "zeros above the diagonal"),
    ],
)
def test_a_prior_that_could_not_be_read_back_is_not_saved(part, name, change, message, tmp_path):
    prior = make_prior([(0.0, 1.0), (0.0, 1.0)], FlowConfig(layers=1, hidden=(4,), members=2))
    prior.params[part] = {**prior.params[part], name: change(prior.params[part][name])}
    with pytest.raises(ValueError, match=f"not saved.*{message}"):
        prior.save(tmp_path / "p.safetensors")
    assert not list(tmp_path.iterdir())


def test_metadata_within_itself_is_refused(tmp_path):
    metadata: dict = {}
    metadata["again"] = metadata
    with pytest.raises(ValueError, match="nested too deeply"):
        make_prior([(0.0, 1.0)], FlowConfig(layers=0)).save(tmp_path / "p.safetensors", metadata=metadata)


def test_the_same_prior_is_the_same_bytes(tmp_path):
    prior = make_prior([(0.0, 1.0), (0.0, 2.0)], FlowConfig(layers=1, hidden=(4,)))
    metadata = {"title": "Größe µ 🙂", "authors": ("A", "B"), "year": 2026, "preliminary": None}
    first, second = (prior.save(tmp_path / name, metadata=metadata) for name in ("a.safetensors", "b.safetensors"))
    assert first.read_bytes() == second.read_bytes()
    assert load_numpy(first).info["metadata"] == {**metadata, "authors": ["A", "B"]}
    shutil.copy(first, tmp_path / "c.safetensors")
    assert FlowPrior.load(tmp_path / "c.safetensors").info["metadata"]["title"] == "Größe µ 🙂"


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path):
    from numpyro_flowprior._util.storage import remove_leftovers, write_atomically

    path = tmp_path / "run.safetensors"
    write_atomically(path, b"whole")
    others = [tmp_path / name for name in ("run.safetensors.bak", ".run.safetensors", ".run2.safetensors.part.x")]
    for other in others:
        other.write_bytes(b"mine")
    (tmp_path / ".run.safetensors.part.a1b2").write_bytes(b"half")
    remove_leftovers(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])
    remove_leftovers(tmp_path / "nowhere" / "run")
