"""What every reader says of what it cannot read: the file, what was expected, what came, what to do."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas
import pytest
from test_readers import COBAYA, DRAWS, SPACE, a_parquet, bilby_record, emcee_sampler, inference_data, stan_text

from numpyro_flowprior import ParameterSpace, read_chain

N = len(DRAWS)


def text(name: str, content: str, **beside: str) -> Callable:
    """Returns what writes a file of that content, and others with its stem, {suffix: content}, beside it."""

    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        for suffix, more in beside.items():
            (folder / name).with_suffix(f".{suffix}").write_text(more)
        return folder / name

    return write


def data(name: str, content: bytes) -> Callable:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def stan(content: str) -> Callable:
    return text("fit.csv", content)


def stan_draws(*changes: tuple[str, str]) -> Callable:
    content = stan_text(DRAWS[:5])
    for old, new in changes:
        assert old in content
        content = content.replace(old, new)
    return stan(content)


def bilby(**changes) -> Callable:
    return text("x_result.json", json.dumps(bilby_record() | changes))


def content_of(**changes) -> dict:
    content = bilby_record()["posterior"]["content"] | changes
    return {"__dataframe__": True, "content": {name: values for name, values in content.items() if values is not None}}


def hdf5(fill: Callable[[h5py.File], None]) -> Callable:
    def write(folder: Path) -> Path:
        with h5py.File(folder / "run.h5", "w") as file:
            fill(file)
        return folder / "run.h5"

    return write


def emcee_group(file: h5py.File, steps: int = 0) -> None:
    group = file.create_group("mcmc")
    group.attrs["iteration"] = steps
    group.create_dataset("chain", data=np.zeros((steps, 4, 2)))
    group.create_dataset("log_prob", data=np.zeros((steps, 4)))


def truncated(make: Callable, keep: float = 0.5) -> Callable:
    def write(folder: Path) -> Path:
        path = make(folder)
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        return path

    return write


def netcdf(folder: Path) -> Path:
    inference_data(folder).to_netcdf(folder / "c.nc")
    return folder / "c.nc"


def parquet(frame: dict) -> Callable:
    def write(folder: Path) -> Path:
        pandas.DataFrame(frame).to_parquet(folder / "c.parquet")
        return folder / "c.parquet"

    return write


def several(*contents: str) -> Callable:
    def write(folder: Path) -> list[Path]:
        return [text(f"c{j}.csv", content)(folder) for j, content in enumerate(contents)]

    return write


def numpy_files(*arrays: np.ndarray) -> Callable:
    def write(folder: Path) -> list[Path]:
        for j, array in enumerate(arrays):
            np.save(folder / f"c{j}.npy", array)
        return [folder / f"c{j}.npy" for j in range(len(arrays))]

    return write


def stranger(package: str, **attributes) -> Callable:
    """Returns what makes an object whose type says that it comes from that package."""
    return lambda folder: type("Odd", (SimpleNamespace,), {"__module__": package})(**attributes)


FILES = [
    (text("c.dat", "1 2"), r"c.dat: expected a file ending in '.npz'.*got '.dat'"),
    (data("c.csv", b"\xff\xfea\x00,\x00"), "expected text in UTF-8"),
    (data("c.csv", b"a,b\n1,2\n\xff\xfe,3\n"), "expected text in UTF-8"),
    (text("c.npy", "text"), "not a readable npy file"),
    (numpy_files(np.zeros((3, 2)), np.zeros((3, 3))), "part 2: expected the columns of part 1"),
    (several("a,b\n1,2\n3,4\n", "a,c\n1,2\n3,4\n"), r"part 2: expected the columns of part 1, \('a', 'b'\); got"),
    (several("a,weight\n1,2\n2,3\n", "a\n1\n2\n"), "part 2: 'weights' present in only some of the parts"),
    (several("a\n1\n2\n", "a\n1\nx\n"), "c1.csv: line 3: expected numbers; got 'x'"),
    (text("c.txt", "1 2 0.5\n"), r"expected names in 'c.paramnames', or a first line '# weight minuslogpost"),
    (text("c_1.txt", "1 2 0.5\n"), "'c_1.paramnames', 'c.paramnames'"),
    (text("c.txt", "1 2 0.5 3\n", paramnames="a\n"), "line 1: expected 3 values as in the header; got 4"),
    (text("c.txt", "1 2 0.5\n1 2\n", paramnames="a\n"), "line 2: expected 3 values"),
    (text("c.txt", "1 2 x\n", paramnames="a\n"), "line 1: expected numbers; got 'x'"),
    (text("c.txt", "", paramnames="a\n"), "expected rows of draws below the header; got none"),
    (text("c.txt", "1 2 nan\n", paramnames="a\n"), "NaN or infinity in 1 of 1 rows"),
    (text("c.txt", "-1 2 0.5\n1 2 3\n", paramnames="a\n"), "1 of 2 are negative"),
    (text("c.txt", "1 2 5\n", paramnames="a\n", ranges="a 0 1\n"), "expected all rows inside the bounds"),
    (text("c.txt", "1 2 5\n", paramnames="a\n", ranges="a 0\n"), r"c.ranges, line 1: expected 'name lower upper'"),
    (text("c.txt", "1 2 5\n", paramnames="a\n", ranges="a none 1\n"), "with N for no bound"),
    (text("c.txt", "1 2 5 6\n", paramnames="a\na\n"), "'a' occur more than once"),
    (stan(""), "got none"),
    (stan("# stan_version_major = 2\n"), "expected a header row of names below the comments"),
    (stan_draws(("method = sample", "method = optimize")), "expected draws of Stan's sampler; got method = optimize"),
    (stan_draws((",a,b\n", "\n")), "expected 7 values as in the header; got 9"),
    (stan("# stan_version_major = 2\nlp__,a,b\n# Adaptation terminated\n"), "expected rows of draws"),
    (stan("# stan_version_major = 2\nlp__,a,b\n-1,2\n"), "line 3: expected 3 values"),
    (stan("lp__,a\n-1,2\n-1,3\n# Adaptation terminated\n"), "the file's 2 rows are all warm-up"),
    (stan("lp__,accept_stat__\n-1,2\n"), "expected at least one parameter column"),
    (text("x.json", "{"), "not readable JSON"),
    (data("x.json.gz", b"\x1f\x8b\x00"), "not readable JSON"),
    (text("x.json", "[1, 2]"), "expected a bilby result with the frame 'posterior'; the file has list"),
    (text("x.json", '{"label": "x"}'), "the file has 'label'"),
    (bilby(posterior=None), "expected a bilby result"),
    (bilby(posterior=content_of(a=None)), "expected columns .*'a' missing from"),
    (bilby(posterior=content_of(a=["x"] * N)), "expected numbers for the search parameters; got other values in 'a'"),
    (bilby(posterior=content_of(a=[0.5])), "expected columns of equal length"),
    (bilby(posterior=content_of(a=[2.0] * N)), "inside the bounds"),
    (hdf5(lambda file: None), "expected emcee's group 'mcmc' .* the file has nothing"),
    (hdf5(lambda file: file.create_group("other")), r"the file has 'other'. Pass group=\.\.\."),
    (hdf5(emcee_group), "the file holds no steps"),
    (truncated(hdf5(lambda file: emcee_group(file, 500))), "not a readable HDF5 file .* truncated"),
    (text("run.h5", "text"), "not a readable HDF5 file"),
    (truncated(netcdf), "not a readable NetCDF file"),
    (text("c.nc", "text"), "not a readable NetCDF file"),
    (truncated(a_parquet), "[Pp]arquet"),
    (parquet({"a": ["x", "y"]}), "column 'a': expected an array of real numbers"),
    (parquet({"a": [1.0, None]}), "missing values per column: {'a': 1}|NaN or infinity"),
    (parquet({"log_prob": [1.0]}), "expected at least one parameter column"),
    (data("c.pkl", pickle.dumps(print)), "refused: the pickle calls builtins.print"),
    (data("c.pkl", pickle.dumps([1, 2])), "expected a pickled dictionary or array; got list"),
    (data("c.pkl", pickle.dumps({"chain": DRAWS})[:200]), "truncated"),
]

OBJECTS = [
    (lambda folder: 3, "expected a path, a list of paths"),
    (lambda folder: [], "expected a path, a list of paths"),
    (lambda folder: DRAWS[0], r"ndarray: samples: expected shape \(n, d\).*got \(2,\)"),
    (lambda folder: DRAWS.astype(str), "real numbers"),
    (lambda folder: np.where(DRAWS > 1, np.nan, DRAWS), "NaN or infinity"),
    (lambda folder: {}, "at least one parameter column; got only nothing"),
    (lambda folder: {1: DRAWS}, "expected string keys; got 1"),
    (lambda folder: {"a": 1.0}, "column 'a': expected one value per draw"),
    (lambda folder: {"a": DRAWS[:, 0], "b": DRAWS[:3, 0]}, "expected columns of equal length"),
    (lambda folder: {"a": ["x"]}, "column 'a': expected an array of real numbers"),
    (lambda folder: {"chain": DRAWS, "weights": np.ones(3)}, r"weights: expected shape \(600\)"),
    (lambda folder: {"chain": DRAWS, "logl": np.ones(3), "logp": np.ones(2)}, "expected equal shapes"),
    (lambda folder: {"chain": DRAWS, "logz": np.ones(3)}, "log_evidence: expected one number"),
    (lambda folder: {"samples": DRAWS, "names": ["a"]}, r"expected shape \(n, 1\)"),
    (lambda folder: pandas.DataFrame(DRAWS), "expected strings as column names; got 0, 1"),
    (lambda folder: pandas.DataFrame(DRAWS, columns=["a", "a"]), "'a' occur more than once"),
    (lambda folder: pandas.DataFrame({"a": ["x", "y"]}), "column 'a': expected an array of real numbers"),
    (lambda folder: pandas.DataFrame({"a": [1.0], "chain_id": [0.5]}), "chain_id: expected whole numbers; got 0.5"),
    (lambda folder: pandas.Series(DRAWS[:, 0]), "expected a pandas.DataFrame; got Series"),
    (stranger("emcee.x"), "expected an emcee sampler"),
    (stranger("emcee.x", get_chain=None, iteration=0), "expected a sampler that has run"),
    (stranger("numpyro.infer"), "expected a numpyro.infer.MCMC; got Odd"),
    (stranger("numpyro.infer", get_samples=None, last_state=None), "expected an MCMC that has run"),
    (stranger("pocomc.x"), "expected a pocomc.Sampler"),
    (stranger("pocomc.x", posterior=None, particles=None), "expected a sampler that has run"),
    (stranger("dynesty.x"), "expected dynesty results; got Odd without samples, logwt, logz, logl"),
    (stranger("bilby.x"), "expected a bilby Result with a posterior"),
    (stranger("getdist.x"), "expected a getdist.MCSamples; got Odd"),
    (stranger("arviz.x", groups=lambda: ["prior"]), "expected a group 'posterior'; got 'prior'"),
    (lambda folder: inference_data(folder).posterior, "expected a group 'posterior'"),
    (stranger("arviz.x", posterior=SimpleNamespace(sizes={"time": 3})), "dimensions chain and draw; got 'time'"),
]


@pytest.mark.parametrize(("make", "message"), FILES + OBJECTS)
def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path, make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        read_chain(make(tmp_path))


OPTIONS = [
    (lambda folder: DRAWS, {"burn_in": 3}, TypeError, "'burn_in': no such option for this source; it takes 'log_prob'"),
    (text("c.csv", "a\n1\n2\n"), {"thin": 2}, TypeError, "it takes none"),
    (text("c.txt", "1 2 3\n", paramnames="a\n"), {"burn_in": 1}, ValueError, "expected fewer than the 1 rows"),
    (text("c.txt", "1 2 3\n", paramnames="a\n"), {"burn_in": -1}, ValueError, "burn_in: expected a number of rows"),
    (text("c.txt", COBAYA + "1 " * 9), {"sampled": ["z"]}, ValueError, "sampled: expected some of the columns"),
    (hdf5(lambda file: emcee_group(file, 20)), {"burn_in": 20}, ValueError, "expected fewer than the 20 steps"),
    (hdf5(lambda file: emcee_group(file, 20)), {"thin": 0}, ValueError, "thin: expected an integer >= 1"),
    (hdf5(lambda file: emcee_group(file, 20)), {"group": "x"}, ValueError, "emcee's group 'x'"),
    (lambda folder: emcee_sampler(steps=20), {"burn_in": 2.5}, TypeError, "burn_in: expected an integer"),
]


@pytest.mark.parametrize(("make", "options", "error", "message"), OPTIONS)
def test_options_that_do_not_fit_are_refused(tmp_path, make, options, error, message):
    with pytest.raises(error, match=message):
        read_chain(make(tmp_path), **options)


def test_a_chain_takes_no_options():
    with pytest.raises(TypeError, match="'thin': a Chain takes no options"):
        read_chain(read_chain(DRAWS, SPACE), thin=3)


def test_spaces_that_do_not_fit_are_refused(tmp_path):
    for source in (DRAWS, {"a": DRAWS[:, 0]}):
        with pytest.raises(ValueError, match="expected"):
            read_chain(source, ParameterSpace(["a", "b", "c"]))
        with pytest.raises(TypeError, match="space: expected a ParameterSpace; got list"):
            read_chain(source, ["a", "b"])
    with pytest.raises(ValueError, match="inside the bounds"):
        read_chain(DRAWS * 2, SPACE)
    for name in ("d_1.txt", "d.1.txt"):
        (tmp_path / name).write_text("1 2 3\n")
    with pytest.raises(ValueError, match="one file for each chain; got 'd.1.txt', 'd_1.txt'. Pass a list"):
        read_chain(tmp_path / "d")
    with pytest.raises(FileNotFoundError, match="no such file, nor c_1.txt"):
        read_chain(tmp_path / "c")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_chain([tmp_path / "c.csv", tmp_path / "d.csv"])


def slow_walkers(steps=400, walkers=8):
    noise = np.random.default_rng(0).normal(size=(steps, walkers, 2))
    for k in range(1, steps):
        noise[k] = 0.95 * noise[k - 1] + 0.3 * noise[k]
    return noise


def test_steps_before_walkers_are_told():
    walk = slow_walkers()
    for source in (walk, {"samples": walk}, {"chain": walk}):
        with pytest.raises(
            ValueError, match=r"\(steps, walkers, parameters\). Pass the sampler itself, or samples.swap"
        ):
            read_chain(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = read_chain({"samples": walk.swapaxes(0, 1), "names": ["a", "b"]})
        assert (chain.n, chain.names, len(np.unique(chain.chain_id))) == (3200, ("a", "b"), 8)
        independent = np.random.default_rng(1).normal(size=(50, 8, 2))
        assert read_chain(independent).n == 400


def test_draws_grouped_by_chain_in_a_dictionary_are_no_parameters():
    draws = np.random.default_rng(0).normal(size=(3, 100))
    with pytest.raises(
        ValueError, match="expected more rows than parameters; got 3 rows of 200 parameters. .* flatten them"
    ):
        read_chain({"a": draws, "b": draws + 1.0})


@pytest.mark.parametrize("name", ["logwt", "logw"])
def test_log_weights_of_nested_samplers_are_weights(name):
    generator = np.random.default_rng(0)
    points, log_weights = generator.normal(size=(2000, 2)), generator.normal(size=2000) - 800.0
    record = {
        "samples": points,
        name: log_weights,
        "logl": np.ones(2000),
        "logz": np.array([-9.0, -3.0]),
        "logzerr": 0.1,
    }
    chain = read_chain(record)
    weights = np.exp(log_weights + 800.0)
    np.testing.assert_allclose(chain.probabilities, weights / weights.sum())
    assert (chain.weights_kind, chain.rows) == ("importance", "independent")
    assert (chain.log_evidence, chain.log_evidence_error) == (-3.0, 0.1)
    assert read_chain({"samples": points, "weight": weights}).weights is not None


def test_masked_values_are_refused():
    masked = np.ma.masked_where(
        np.arange(600).reshape(300, 2) % 50 == 0, np.random.default_rng(0).normal(size=(300, 2))
    )
    with pytest.raises(ValueError, match="expected no masked values; got 12"):
        read_chain(masked)
    assert read_chain(np.ma.array(np.random.default_rng(0).normal(size=(300, 2)))).n == 300


def test_other_names_of_entries_never_replace_what_is_there():
    points = np.random.default_rng(0).normal(size=(500, 2))
    record = {
        "samples": points,
        "weights": np.linspace(1.0, 2.0, 500),
        "weight": np.arange(500.0),
        "chain": np.arange(500),
    }
    with pytest.warns(UserWarning, match="Entries that were not used: 'weight', 'chain'"):
        chain = read_chain(record)
    np.testing.assert_array_equal(chain.samples, points)
    np.testing.assert_allclose(chain.probabilities, np.linspace(1.0, 2.0, 500) / 750.0)
    assert {"weight", "chain"} <= {*chain.info["left_out"]}
