"""Every reader and every kind of damage that files meet: what comes out is right, or refused in words."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas
import pytest

from numpyro_flowprior import Chain, ParameterSpace, read_chain, to_arviz

N = 60
MARK = b"\xef\xbb\xbf"
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Content:
    """What a file holds; None for what it lacks."""

    draws: np.ndarray
    log_prob: np.ndarray | None
    weights: np.ndarray | None
    names: tuple[str, ...] = ("a", "b")
    bounds: tuple[tuple[float, float], ...] | None = ((0.0, 1.0), (-np.inf, np.inf))


WHOLE = Content(
    np.column_stack([RNG.uniform(0.1, 0.9, N), 1e-5 * RNG.normal(size=N)]), RNG.normal(size=N), RNG.integers(1, 4, N)
)


def lines(table: np.ndarray, separator: str, number: str = "%.10e") -> list[str]:
    return [separator.join(number % cell for cell in row) for row in table]


def write(path: Path, header: list[str], rows: list[str], damage: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(damage("\n".join([*header, *rows, ""]).encode()))
    return path


def write_csv(folder: Path, content: Content, damage: Callable[[bytes], bytes], name: str = "c") -> Path:
    fields = {"log_prob": content.log_prob, "weights": content.weights}
    columns = {label: values for label, values in fields.items() if values is not None}
    table = np.column_stack([*columns.values(), content.draws])
    return write(folder / f"{name}.csv", [",".join([*columns, *content.names])], lines(table, ","), damage)


def write_getdist(folder: Path, content: Content, damage: Callable[[bytes], bytes], name: str = "c") -> Path:
    mark = MARK if damage is marked else b""
    (folder / f"{name}.paramnames").write_bytes(mark + "".join(f"{label} x\n" for label in content.names).encode())
    if content.bounds:
        ends = [[str(end) if np.isfinite(end) else "N" for end in pair] for pair in content.bounds]
        text = "".join(f"{label} {low} {high}\n" for label, (low, high) in zip(content.names, ends, strict=True))
        (folder / f"{name}.ranges").write_bytes(mark + text.encode())
    rows = lines(np.column_stack([content.weights, -content.log_prob, content.draws]), "  ")
    return write(folder / f"{name}.txt", [], rows, damage)


def write_cobaya(folder: Path, content: Content, damage: Callable[[bytes], bytes], name: str = "c") -> Path:
    header = "#  weight  minuslogpost  " + "  ".join(content.names)
    rows = lines(np.column_stack([content.weights, -content.log_prob, content.draws]), "  ")
    return write(folder / f"{name}.txt", [header], rows, damage)


def write_stan(folder: Path, content: Content, damage: Callable[[bytes], bytes], name: str = "c") -> Path:
    table = np.column_stack([content.log_prob, np.zeros(len(content.draws)), content.draws])
    header = ["# stan_version_major = 2", ",".join(["lp__", "divergent__", *content.names])]
    return write(folder / f"{name}.csv", header, lines(table, ","), damage)


def write_npz(folder: Path, content: Content) -> Path:
    fields = {"log_prob": content.log_prob, "weights": content.weights, "bounds": content.bounds}
    present = {name: values for name, values in fields.items() if values is not None}
    np.savez(folder / "c.npz", samples=content.draws, names=content.names, **present)
    return folder / "c.npz"


def write_npy(folder: Path, content: Content) -> Path:
    np.save(folder / "c.npy", content.draws)
    return folder / "c.npy"


def frame_of(content: Content) -> pandas.DataFrame:
    frame = pandas.DataFrame(content.draws, columns=list(content.names))
    fields = {"log_prob": content.log_prob, "weights": content.weights}
    return frame.assign(**{name: values for name, values in fields.items() if values is not None})


def write_parquet(folder: Path, content: Content) -> Path:
    frame_of(content).to_parquet(folder / "c.parquet")
    return folder / "c.parquet"


def write_pickle(folder: Path, content: Content) -> Path:
    record = {"chain": content.draws, "weights": content.weights, "logl": content.log_prob, "names": content.names}
    (folder / "c.pkl").write_bytes(pickle.dumps(record | {"logp": np.zeros(len(content.draws))}))
    return folder / "c.pkl"


def write_bilby(folder: Path, content: Content) -> Path:
    columns = dict(zip(content.names, content.draws.T.tolist(), strict=True))
    columns |= {"log_likelihood": content.log_prob.tolist(), "log_prior": [0.0] * len(content.draws)}
    bounds = dict(zip(content.names, content.bounds or (), strict=False))
    priors = {
        name: {"__name__": "Uniform", "kwargs": {"minimum": low, "maximum": high}}
        for name, (low, high) in bounds.items()
    }
    record = {"posterior": {"content": columns}, "priors": priors, "search_parameter_keys": list(content.names)}
    (folder / "c.json").write_text(json.dumps(record))
    return folder / "c.json"


def write_emcee(folder: Path, content: Content) -> Path:
    with h5py.File(folder / "c.h5", "w") as file:
        run = file.create_group("mcmc")
        run.attrs["iteration"] = len(content.draws)
        run["chain"] = content.draws[:, None]
        run["log_prob"] = content.log_prob[:, None]
    return folder / "c.h5"


def write_netcdf(folder: Path, content: Content) -> Path:
    import arviz

    posterior = {name: column[None] for name, column in zip(content.names, content.draws.T, strict=True)}
    older = arviz.__version__.startswith("0.")
    arviz.from_dict(posterior if older else {"posterior": posterior}).to_netcdf(str(folder / "c.nc"))
    return folder / "c.nc"


def a_dictionary(folder: Path, content: Content) -> dict:
    return {name: frame_of(content)[name].to_numpy() for name in frame_of(content).columns}


def a_frame(folder: Path, content: Content) -> pandas.DataFrame:
    return frame_of(content)


def an_array(folder: Path, content: Content) -> np.ndarray:
    return content.draws


TEXT = {"csv": write_csv, "GetDist": write_getdist, "Cobaya": write_cobaya, "Stan": write_stan}
BINARY = {
    "npz": write_npz, "npy": write_npy, "parquet": write_parquet, "pickle": write_pickle, "bilby": write_bilby,
    "emcee": write_emcee, "netCDF": write_netcdf, "dictionary": a_dictionary, "pandas": a_frame, "array": an_array,
}  # fmt: skip
WEIGHTED = {"csv", "GetDist", "Cobaya", "npz", "parquet", "pickle", "dictionary", "pandas"}
WITH_DENSITY = {*WEIGHTED, "bilby", "emcee"}  # of which Cobaya's is read if it is told what was sampled
NAMED = {*TEXT, *BINARY} - {"npy", "array", "emcee"}


def untouched(content: bytes) -> bytes:
    return content


def marked(content: bytes) -> bytes:
    return MARK + content


def of_windows(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def of_fortran(content: bytes) -> bytes:
    return re.sub(rb"(?<=\d)e(?=[+-]\d\d)", b"D", content)


def with_three_digits(content: bytes) -> bytes:
    """The last number's exponent has three digits, and no E."""
    return re.sub(rb"e[+-]\d\d(?=\s*$)", b"-104", content)


def cut_in_a_number(content: bytes) -> bytes:
    return content.rstrip()[:-4]


def cut_in_an_exponent(content: bytes) -> bytes:
    return content.rstrip()[:-1]


def cut_between_numbers(content: bytes) -> bytes:
    return re.split(rb"[\s,]+[^\s,]+\s*$", content)[0]


def without_the_last_end(content: bytes) -> bytes:
    return content.rstrip(b"\n")


DAMAGE_OF_TEXT = {  # and rows that are left
    untouched: N, marked: N, of_windows: N, of_fortran: N, without_the_last_end: N, cut_in_a_number: N - 1,
    cut_in_an_exponent: N - 1, cut_between_numbers: N - 1,
}  # fmt: skip


def read(source, options=None) -> tuple[Chain, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain = read_chain(source, **(options or {}))
    return chain, [str(warning.message) for warning in caught]


def options_of(kind: str) -> dict:
    return {"Cobaya": {"sampled": ["a", "b"]}, "emcee": {"burn_in": 0, "thin": 1}}.get(kind, {})


@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("damage", DAMAGE_OF_TEXT, ids=lambda damage: damage.__name__)
def test_text_as_other_systems_write_it(tmp_path, kind, damage):
    chain, said = read(TEXT[kind](tmp_path, WHOLE, damage), options_of(kind))
    rows = DAMAGE_OF_TEXT[damage]
    np.testing.assert_allclose(chain.samples, WHOLE.draws[:rows], rtol=1e-9)
    assert any("The last row is left out" in text for text in said) == (rows < N)
    assert ("last row" in chain.info.get("left_out", {})) == (rows < N)
    if kind == "GetDist":
        assert chain.space.bounds.tolist() == [[0.0, 1.0], [-np.inf, np.inf]]
    if kind in WEIGHTED:
        np.testing.assert_allclose(chain.weights, WHOLE.weights[:rows])
        np.testing.assert_allclose(chain.log_prob, WHOLE.log_prob[:rows], rtol=1e-9)


@pytest.mark.parametrize("kind", TEXT)
def test_exponents_of_three_digits_have_no_letter_in_fortran(tmp_path, kind):
    chain, _ = read(TEXT[kind](tmp_path, WHOLE, with_three_digits), options_of(kind))
    assert abs(chain.samples[-1, 1]) == pytest.approx(1e-104, rel=9)


@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("cell", ["*******", "1.0E", "2020-01-02", "2015-104", "1,5"])
def test_what_is_no_number_is_refused_with_its_line(tmp_path, kind, cell):
    def spoilt(content: bytes) -> bytes:
        return re.sub(rb"[^\s,]+(?=\s*$)", cell.encode(), content)

    with pytest.raises(ValueError, match=r"line 6\d: expected (numbers; got|\d values)"):
        read(TEXT[kind](tmp_path, WHOLE, spoilt), options_of(kind))


def test_numbers_of_any_length_without_a_last_end_of_line_are_whole(tmp_path):
    rows = [",".join(map(repr, row)) for row in WHOLE.draws.tolist()]
    for text, left in (("\n".join(["a,b", *rows]), N), ("\n".join(["a,b", *rows])[:-18], N - 1)):
        (tmp_path / "c.csv").write_text(text)
        np.testing.assert_array_equal(read(tmp_path / "c.csv")[0].samples, WHOLE.draws[:left])
    (tmp_path / "c.csv").write_text("\n".join(["a,b", *rows, "1.0,2.0,3.0"]))
    with pytest.raises(ValueError, match="line 62: expected 2 values as in the header; got 3"):
        read(tmp_path / "c.csv")


@pytest.mark.parametrize("kind", TEXT)
def test_a_second_chain_without_rows_is_refused(tmp_path, kind):
    first = TEXT[kind](tmp_path, WHOLE, untouched, "c_1")
    second = TEXT[kind](tmp_path, WHOLE, untouched, "c_2")
    second.write_bytes(b"")
    with pytest.raises(ValueError, match=r"c_2\.\w+: expected .*got (none|nothing)|c_2.* names|c_2.*found neither"):
        read([first, second], options_of(kind))


def source(folder: Path, kind: str, content: Content):
    return BINARY[kind](folder, content) if kind in BINARY else TEXT[kind](folder, content, untouched)


@pytest.mark.parametrize("kind", [*TEXT, *BINARY])
def test_values_that_are_none_are_refused(tmp_path, kind):
    draws = WHOLE.draws.copy()
    draws[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 60|missing values per column"):
        read(source(tmp_path, kind, replace(WHOLE, draws=draws)), options_of(kind))


@pytest.mark.parametrize("kind", sorted(WITH_DENSITY))
def test_dead_rows_are_left_out_and_others_of_no_density_refused(tmp_path, kind):
    log_prob, weights = WHOLE.log_prob.copy(), WHOLE.weights.copy()
    log_prob[3], weights[3] = -np.inf, 0
    content = replace(WHOLE, log_prob=log_prob, weights=weights)
    if kind in WEIGHTED:
        chain, _ = read(source(tmp_path, kind, content), options_of(kind))
        np.testing.assert_allclose(chain.samples, np.delete(WHOLE.draws, 3, axis=0), rtol=1e-9)
        assert chain.info["left_out"]["rows"] == "1 of 60: weight zero and log density -infinity"
        content = replace(content, weights=WHOLE.weights)
    with pytest.raises(ValueError, match=r"expected finite|infinity in 1"):
        read(source(tmp_path, kind, content), options_of(kind))


@pytest.mark.parametrize("kind", sorted({*BINARY} - {"bilby"}))
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.float32])
def test_numbers_of_other_types(tmp_path, kind, dtype):
    draws = RNG.integers(1, 100, (N, 2)).astype(dtype)
    content = replace(WHOLE, draws=draws, bounds=((0.0, 101.0), (-np.inf, np.inf)))
    chain, _ = read(source(tmp_path, kind, content), options_of(kind))
    assert chain.samples.dtype == np.float64
    np.testing.assert_array_equal(chain.samples, draws)


def test_our_own_arviz_files_of_integers(tmp_path):
    counts = Chain(RNG.integers(0, 9, (N, 1)).astype(float), ParameterSpace(["k"], 0.0, np.inf))
    data = to_arviz(counts)
    data.posterior["k"] = data.posterior["k"].astype(np.int8)
    assert read(data)[0].samples.max() == counts.samples.max()


@pytest.mark.parametrize("kind", sorted(NAMED - {"dictionary", "netCDF", "bilby", "parquet"}))  # which cannot
def test_names_that_occur_twice_are_refused(tmp_path, kind):
    with pytest.raises(ValueError, match="'a' occur more than once|expected unique"):
        read(source(tmp_path, kind, replace(WHOLE, names=("a", "a"))), options_of(kind) if kind != "Cobaya" else {})


@pytest.mark.parametrize("kind", [*TEXT, *BINARY])
def test_without_bounds_parameters_have_none(tmp_path, kind):
    chain, _ = read(source(tmp_path, kind, replace(WHOLE, bounds=None)), options_of(kind))
    assert chain.n == N
    assert np.isinf(chain.space.bounds).all()


@pytest.mark.parametrize("kind", [*TEXT, *sorted({*BINARY} - {"dictionary", "pandas", "array"})])
def test_files_that_may_only_be_read_are_read(tmp_path, kind):
    path = source(tmp_path, kind, WHOLE)
    path.chmod(0o444)
    before = path.read_bytes()
    chain, _ = read(path, options_of(kind))
    assert chain.n == N
    assert path.read_bytes() == before
    assert not chain.samples.flags.writeable


@pytest.mark.parametrize("kind", sorted(NAMED))
def test_parameters_are_chosen_by_name(tmp_path, kind):
    path = source(tmp_path, kind, WHOLE)
    chain, _ = read(path, {**options_of(kind), "names": ["b", "a"]})
    np.testing.assert_allclose(chain.samples, WHOLE.draws[:, ::-1], rtol=1e-9)
    one, _ = read(path, {**options_of(kind), "names": ["b"]})
    assert (one.names, one.log_prob) == (("b",), None)
    with pytest.raises(ValueError, match="'c' missing from"):
        read(path, {**options_of(kind), "names": ["c"]})
    with pytest.raises(ValueError, match="names: expected none together with a space"):
        read(path, {**options_of(kind), "names": ["a"], "space": ParameterSpace(["a"])})


UNIFORM = {"__name__": "Uniform", "kwargs": {"minimum": 0.0, "maximum": 2.0}}
BILBY = {  # the class of a prior, its arguments, and its bounds
    "uniform": ("Uniform", {"minimum": -1.0, "maximum": 2.0}, (-1.0, 2.0)),
    "normal": ("Gaussian", {"mu": 0.0, "sigma": 1.0}, (-np.inf, np.inf)),
    "half normal": ("HalfGaussian", {"sigma": 1.0}, (0.0, np.inf)),
    "log-normal": ("LogNormal", {"mu": 0.0, "sigma": 1.0}, (0.0, np.inf)),
    "gamma": ("Gamma", {"k": 1.0, "theta": 1.0}, (0.0, np.inf)),
    "exponential": ("Exponential", {"mu": 1.0}, (0.0, np.inf)),
    "chi squared": ("ChiSquared", {"nu": 2}, (0.0, np.inf)),
    "Fermi and Dirac": ("FermiDirac", {"sigma": 1.0, "mu": 1.0}, (0.0, np.inf)),
    "beta": ("Beta", {"alpha": 1.0, "beta": 1.0, "minimum": 0, "maximum": 3}, (0.0, 3.0)),
    "of either sign": ("SymmetricLogUniform", {"minimum": 0.1, "maximum": 10.0}, (-10.0, 10.0)),
    "sine": ("Sine", {}, (0.0, np.pi)),
    "conditional gamma": ("ConditionalGamma", {"k": 1.0, "condition_func": "f"}, (0.0, np.inf)),
    "conditional uniform": ("ConditionalUniform", {"minimum": 0.0, "maximum": 2.0}, (0.0, 2.0)),
    "conditional uniform, rows beyond": ("ConditionalUniform", {"minimum": 0.6, "maximum": 2.0}, (-np.inf, np.inf)),
    "element of a simplex": ("DirichletElement", {"order": 0}, (0.0, 1.0)),
    "categories": ("Categorical", {"ncategories": 4}, (0.0, 3.0)),
    "values": ("DiscreteValues", {"values": {"__array__": True, "content": [-1.0, 5.0, 2.0]}}, (-1.0, 5.0)),
    "table": ("Interped", {"xx": [0.0, 0.5, 4.0], "minimum": float("nan"), "maximum": float("nan")}, (0.0, 4.0)),
    "slab and spike": ("SlabSpikePrior", {"slab": UNIFORM, "spike_location": 0.5}, (0.0, 2.0)),
    "aligned spin": ("AlignedSpin", {"a_prior": UNIFORM, "z_prior": UNIFORM}, (0.0, 4.0)),
    "joint": (
        "MultivariateGaussian",
        {"name": "a", "dist": {"kwargs": {"names": ["z", "a"], "bounds": [[0.0, 1.0], [-3.0, 3.0]]}}},
        (-3.0, 3.0),
    ),
    "of another package": ("Mine", {}, (-np.inf, np.inf)),
}


def bilby_file(folder: Path, priors: dict) -> Path:
    path = write_bilby(folder, WHOLE)
    path.write_text(json.dumps({**json.loads(path.read_text()), "priors": priors}))
    return path


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", BILBY)
def test_bounds_that_are_in_the_kind_of_a_bilby_prior(tmp_path, kind, nested):
    name, arguments, bounds = BILBY[kind]
    priors = {"a": {"__prior__": True, "__name__": name, "kwargs": arguments}, "__prior_dict__": True}
    chain, _ = read(bilby_file(tmp_path, {"__prior_dict__": True, "content": priors} if nested else priors))
    np.testing.assert_allclose(chain.space.bounds[0], bounds)


def test_what_bounds_cannot_hold_of_a_bilby_prior_is_told(tmp_path):
    priors = {
        "a": {"__name__": "Uniform", "kwargs": {"minimum": 0.0, "maximum": 1.0, "boundary": "periodic"}},
        "b": {"__name__": "ConditionalUniform", "kwargs": {"minimum": 0.0, "maximum": 1.0}},
        "ratio": {"__name__": "Constraint", "kwargs": {"minimum": 0.1, "maximum": 1.0}},
        "fixed": {"__name__": "Categorical", "kwargs": {"ncategories": 2}},
    }
    notes = read(bilby_file(tmp_path, priors))[0].info["priors"]
    assert {name: note.split(":")[0].split(",")[0] for name, note in notes.items()} == {
        "a": "periodic",
        "b": "its bounds depend on other parameters",
        "ratio": "a constraint on the other parameters",
    }


def test_equal_weights_do_not_tell_minus_log_posterior_from_minus_two_log_likelihood(tmp_path):
    """PolyChord's root_equal_weights.txt."""
    path = write_getdist(tmp_path, replace(WHOLE, weights=np.ones(N)), untouched)
    chain, _ = read(path)
    assert chain.log_prob is None
    assert "equal-weight files of PolyChord" in chain.info["left_out"]["log_prob"]
    assert read(path, {"log_posterior": True})[0].log_prob is not None
    assert read(write_getdist(tmp_path, WHOLE, untouched), {"log_posterior": False})[0].log_prob is None


@pytest.mark.parametrize("sampler", ["nested", "mcmc"])
def test_the_samples_of_a_nested_sampler_in_getdist_tell_no_posterior(sampler):
    from getdist import MCSamples

    samples = MCSamples(samples=WHOLE.draws, loglikes=-WHOLE.log_prob, names=["a", "b"], sampler=sampler)
    chain = read(samples)[0]
    assert (chain.log_prob is None) == (sampler == "nested")
    assert read(samples, {"log_posterior": True})[0].log_prob is not None


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_cobaya_chains_at_a_temperature_are_made_draws_of_the_posterior(tmp_path, temperature):
    """Draws of N(0, T), which is N(0, 1)^(1 / T), under a flat prior."""
    draws = np.sqrt(temperature) * np.random.default_rng(0).normal(size=4000)
    log_prior, chi2 = np.full(4000, -3.0), draws**2 + 50.0
    stored = -(log_prior - 0.5 * chi2) / temperature
    counts = np.random.default_rng(1).integers(1, 3, 4000)
    rows = lines(np.column_stack([counts, stored, draws, -log_prior, chi2]), " ", "%.7e")
    path = write(tmp_path / "c.txt", ["# weight minuslogpost x minuslogprior chi2"], rows, untouched)
    for options in ({"sampled": ["x"]}, {}):
        chain, said = read(path, options)
        assert any("sampled at temperature" in text for text in said) == (temperature != 1.0)
        assert chain.mean()[0] == pytest.approx(0.0, abs=5 / np.sqrt(chain.effective_size))
        assert chain.covariance()[0, 0] == pytest.approx(1.0, abs=5 * np.sqrt(2 / chain.effective_size))
        assert (chain.weights_kind, chain.rows) == ("counts" if temperature == 1.0 else "importance", "sequence")
    chain = read(path, {"sampled": ["x"]})[0]
    np.testing.assert_allclose(chain.log_likelihood, -0.5 * chi2, atol=1e-4)
    np.testing.assert_allclose(chain.log_prob, log_prior - 0.5 * chi2, atol=1e-4)


def test_cobaya_chains_at_a_temperature_keep_their_weights_relative_to_each_other(tmp_path):
    """The second chain never came near the mode."""
    header, draws = "# weight minuslogpost x minuslogprior chi2", np.random.default_rng(0).normal(size=(2, 500))
    draws[1] = 3.0 + np.abs(draws[1])
    for j, part in enumerate(draws, start=1):
        chi2 = part**2
        write(tmp_path / f"c.{j}.txt", [header], lines(
            np.column_stack([np.ones(500), 0.25 * chi2, part, np.zeros(500), chi2]), " "
        ), untouched)  # fmt: skip
    chain, _ = read(tmp_path / "c", {"sampled": ["x"]})
    constant = np.log(chain.weights) - 0.5 * chain.log_prob
    np.testing.assert_allclose(constant, constant[0], atol=1e-6)


def test_a_constant_in_cobayas_columns_is_no_temperature(tmp_path):
    chi2 = 2800.0 + np.random.default_rng(0).normal(size=N) ** 2
    table = np.column_stack([WHOLE.weights, 30.0 + 0.5 * chi2, WHOLE.draws, np.zeros(N), chi2])
    path = write(tmp_path / "c.txt", ["# weight minuslogpost a b minuslogprior chi2"], lines(table, " "), untouched)
    assert read(path, {"sampled": ["a", "b"]})[0].weights_kind == "counts"


def test_cobaya_columns_that_no_temperature_explains_tell_no_parts(tmp_path):
    table = np.column_stack([WHOLE.weights, WHOLE.log_prob, WHOLE.draws, np.ones(N), RNG.normal(size=N)])
    path = write(tmp_path / "c.txt", ["# weight minuslogpost a b minuslogprior chi2"], lines(table, " "), untouched)
    chain, _ = read(path, {"sampled": ["a", "b"]})
    assert chain.log_prob is not None
    assert chain.log_likelihood is chain.log_prior is None
    assert "is not (minuslogprior + chi2 / 2)" in chain.info["left_out"]["log_prior, log_likelihood"]


def test_arrays_of_an_npz_file_under_other_names_are_told(tmp_path):
    np.savez(tmp_path / "c.npz", samples=WHOLE.draws, names=["a", "b"], lower=[0.0, -9.0], upper=[1.0, 9.0], logp=[0.0])
    chain, said = read(tmp_path / "c.npz")
    assert chain.space.bounds.tolist() == [[0.0, 1.0], [-9.0, 9.0]]
    assert any("Arrays that were not used: 'logp'. A chain has" in text for text in said)
