"""Derived quantities ride along with the rows, through every kind of file and through ArviZ."""

from __future__ import annotations

import numpy as np
import pytest

from numpyro_flowprior import Chain, ParameterSpace, from_arviz, read_chain, to_arviz, write_chain


def chain_with(weights=None, **derived):
    rows = np.random.default_rng(0).normal(size=(400, 2))
    derived = derived or {
        "c": rows @ [1.0, 2.0],
        "chi2": rows[:, 0] ** 2,
        "v[0]": rows[:, 1] ** 3,
        "v[1]": -rows[:, 1],
    }  # chi2: the name of a log density
    return Chain(rows, ParameterSpace(["a", "b"]), weights=weights, derived=derived, log_prob=-rows[:, 0])


def weights_of(kind):
    return None if kind == "equal" else np.random.default_rng(1).uniform(size=400)


@pytest.mark.parametrize("kind", ["equal", "weighted"])
@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
@pytest.mark.filterwarnings("ignore:.*csv cannot store")
def test_files_keep_them(kind, suffix, tmp_path):
    chain = chain_with(weights_of(kind))
    back = read_chain(write_chain(tmp_path / f"chain{suffix}", chain))
    assert back.names == ("a", "b")
    assert list(back.derived) == ["c", "chi2", "v[0]", "v[1]"]
    for name, values in chain.derived.items():
        np.testing.assert_array_equal(back.derived[name], values)
    np.testing.assert_array_equal(back.log_prob, chain.log_prob)  # a density of the parameters alone
    chosen = read_chain(tmp_path / f"chain{suffix}", ParameterSpace(["c", "a"]))
    np.testing.assert_array_equal(chosen.samples, np.column_stack([chain.derived["c"], chain.samples[:, 0]]))
    assert chosen.log_prob is None


@pytest.mark.parametrize("kind", ["equal", "weighted"])
@pytest.mark.parametrize("stored", [False, True])
def test_arviz_keeps_them(kind, stored, tmp_path):
    chain = chain_with(weights_of(kind))
    data = to_arviz(chain)
    assert {*data.posterior.data_vars} == {"a", "b", "c", "chi2", "v"}
    if stored:
        data.to_netcdf(str(tmp_path / "chain.nc"))
        back = read_chain(tmp_path / "chain.nc")
    else:
        back = from_arviz(data)
    assert back.names == ("a", "b")
    np.testing.assert_array_equal(back.samples, chain.samples)
    for name, values in chain.derived.items():
        np.testing.assert_array_equal(back.derived[name], values)
    if kind == "weighted":
        np.testing.assert_array_equal(back.weights, chain.weights)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_names_that_would_not_come_back_are_refused(suffix, tmp_path):
    path = tmp_path / f"chain{suffix}"
    with pytest.raises(ValueError, match="'log_prior': would not be read back as a derived quantity"):
        write_chain(path, chain_with(log_prior=np.arange(400.0) ** 2))
    starred = Chain(np.random.default_rng(0).normal(size=(50, 1)), ParameterSpace(["a*"]))
    with pytest.raises(ValueError, match=r"'a\*': would not be read back as a parameter"):
        write_chain(path, starred)
    assert not path.exists()


def test_names_that_arviz_cannot_tell_apart_are_refused():
    rows = np.random.default_rng(0).normal(size=(50, 2))
    for names, derived in ((["x[0]", "x[1]"], {"x": rows[:, 0] ** 2}), (["m", "n"], {"m[0]": rows[:, 0] ** 2})):
        with pytest.raises(ValueError, match="expected derived quantities with other names"):
            to_arviz(Chain(rows, ParameterSpace(names), derived=derived))


@pytest.mark.parametrize("kind", ["equal", "weighted"])
def test_odd_names_come_back_from_arviz(kind):
    rows = np.random.default_rng(0).normal(size=(400, 2))
    derived = {"g/h": rows[:, 0] ** 2, "v[0].p": rows[:, 1] ** 2, "v[0].q": rows[:, 0] ** 3}
    chain = Chain(rows, ParameterSpace(["a", "b"]), weights=weights_of(kind), derived=derived)
    back = from_arviz(to_arviz(chain))
    assert list(back.derived) == list(derived)
    for name, values in derived.items():
        np.testing.assert_array_equal(back.derived[name], values)


def test_starred_columns_that_are_unclear_are_left_out(tmp_path):
    rows = np.random.default_rng(0).normal(size=(2000, 5))
    path = tmp_path / "chain.csv"
    np.savetxt(path, rows, delimiter=",", header="H0,om,log_likelihood*,weights*,om*", comments="")
    chain = read_chain(path)
    assert (chain.names, dict(chain.derived), chain.weights, chain.log_likelihood) == (("H0", "om"), {}, None, None)
    assert {"log_likelihood*", "weights*", "om*"} <= {*chain.info["left_out"]}
    np.savetxt(path, rows[:, :2], delimiter=",", header="a*,b*", comments="")
    with pytest.raises(ValueError, match=r"got only 'a\*', 'b\*'. A star at the end"):
        read_chain(path)


def test_a_star_in_a_foreign_file_marks_a_derived_quantity(tmp_path):
    rows = np.random.default_rng(0).normal(size=(2000, 3))
    path = tmp_path / "chain.csv"
    np.savetxt(path, rows, delimiter=",", header="H0,omegam,sigma8*", comments="")
    chain = read_chain(path)
    assert chain.names == ("H0", "omegam")
    np.testing.assert_allclose(chain.derived["sigma8"], rows[:, 2])
    asked = read_chain(path, ParameterSpace(["sigma8*", "H0"]))  # by the very name of the column
    np.testing.assert_allclose(asked.samples, rows[:, [2, 0]])
