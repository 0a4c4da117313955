"""Names, bounds, units and labels beside samples: in npz files, dictionaries and opened archives."""

from __future__ import annotations

import numpy as np
import pytest

from numpyro_flowprior import ParameterSpace, read_chain

N = 500
DRAWS = np.random.default_rng(1).uniform(0.1, 0.9, size=(N, 2))
BOUNDS = np.array([[0.0, 1.0], [-np.inf, 2.0]])


def as_npz(record, folder):
    np.savez(folder / "c.npz", **record)
    return folder / "c.npz"


SOURCES = {
    "npz": as_npz,
    "opened npz": lambda record, folder: np.load(as_npz(record, folder)),
    "dictionary": lambda record, folder: record,
}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    """A kind of source, made of a dictionary."""
    return lambda record: SOURCES[request.param](record, tmp_path)


@pytest.mark.parametrize("names", [None, ["a", "b"]])
@pytest.mark.parametrize(
    "ends",
    [{"bounds": BOUNDS}, {"lower": BOUNDS[:, 0], "upper": BOUNDS[:, 1]}],
)
def test_what_is_declared_is_kept_with_names_and_without(source, names, ends):
    beside = {"units": ["GeV", "s"], "labels": ["$a$", "$b$"], **({} if names is None else {"names": names})}
    chain = read_chain(source({"samples": DRAWS, **ends, **beside}))
    assert chain.names == (("theta[0]", "theta[1]") if names is None else ("a", "b"))
    np.testing.assert_array_equal(chain.space.bounds, BOUNDS)
    assert chain.space.units == ("GeV", "s")
    assert chain.space.labels == ("$a$", "$b$")


def test_one_end_alone_leaves_the_other_open(source):
    chain = read_chain(source({"samples": DRAWS, "lower": [0.0, 0.05]}))
    np.testing.assert_array_equal(chain.space.bounds, [[0.0, np.inf], [0.05, np.inf]])


def test_a_space_names_columns_that_have_only_bounds(source):
    space = ParameterSpace(["x", "y"], -1.0, 3.0)
    assert read_chain(source({"samples": DRAWS, "bounds": BOUNDS}), space).space == space


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bounds": BOUNDS.T[:, :1]}, r"bounds: expected shape \(2, 2\)"),
        ({"lower": [0.0]}, "lower: expected 2 numbers, one for each parameter; got 1"),
        ({"units": ["s"]}, "units: expected 2 strings, one for each parameter; got 1"),
    ],
)
def test_what_does_not_fit_the_columns_is_refused(source, entry, message):
    with pytest.raises(ValueError, match=message):
        read_chain(source({"samples": DRAWS, **entry}))


def test_no_bound_may_be_none():
    for ends in ({"bounds": [(0.0, None), (None, 2.0)]}, {"lower": [0.0, None], "upper": {"theta[1]": 2}}):
        chain = read_chain({"samples": DRAWS, **ends})
        np.testing.assert_array_equal(chain.space.bounds, [[0.0, np.inf], [-np.inf, 2.0]])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bounds": {"a": 3}}, r"bounds: 'a': expected \(lower, upper\), with None for no bound; got 3"),
        ({"bounds": BOUNDS, "lower": [0.0, 0.0]}, "bounds: expected no separate lower or upper; got 'lower'"),
    ],
)
def test_bounds_of_another_form_are_refused_in_words(entry, message):
    with pytest.raises(ValueError, match=message):
        read_chain({"samples": DRAWS, "names": dict.fromkeys("ab").keys(), **entry})


@pytest.mark.parametrize("form", ["samples", "columns"])
def test_dictionaries_declare_by_name(form):
    draws = {"a": DRAWS[:, 0], "b": DRAWS[:, 1]}
    record = {"samples": DRAWS, "names": ["a", "b"]} if form == "samples" else draws
    chain = read_chain({**record, "bounds": {"a": (0, 1)}, "units": {"b": "s"}})
    np.testing.assert_array_equal(chain.space.bounds, [[0.0, 1.0], [-np.inf, np.inf]])
    assert chain.space.units == ("", "s")
    with pytest.raises(ValueError, match="bounds: expected names among 'a', 'b'; got 'c'"):
        read_chain({**record, "bounds": {"c": (0, 1)}})


def test_entries_of_no_use_are_told(source):
    with pytest.warns(UserWarning, match="were not used: 'minima'"):
        read_chain(source({"samples": DRAWS, "minima": [0.0, 0.0]}))
