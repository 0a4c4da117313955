"""What named columns are: parameters, what belongs to a draw, and what only numbers the rows."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pandas
import pytest

from numpyro_flowprior import Chain, ParameterSpace, read_chain, write_chain

N = 400
RNG = np.random.default_rng(3)
A, B = RNG.normal(size=(2, N))
WEIGHTS = RNG.exponential(size=N)
CHAINS = np.repeat([1, 2, 3, 4], N // 4)
INSIDE = np.tile(np.arange(N // 4), 4)
PARAMETERS = {"a": A, "b": B}


def as_csv(columns, folder, **options):
    pandas.DataFrame(columns).to_csv(folder / "c.csv", index=False, **options)
    return folder / "c.csv"


def as_parquet(columns, folder):
    pandas.DataFrame(columns).to_parquet(folder / "c.parquet")
    return folder / "c.parquet"


SOURCES = {
    "csv": as_csv,
    "parquet": as_parquet,
    "frame": lambda columns, folder: pandas.DataFrame(columns),
    "dictionary": lambda columns, folder: dict(columns),
    "structured": lambda columns, folder: pandas.DataFrame(columns).to_records(index=False).view(np.ndarray),
}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    """A kind of source, made of columns."""
    return lambda columns: SOURCES[request.param](columns, tmp_path)


@pytest.mark.parametrize("name", ["Weight", "WEIGHTS", "weight", "importance_weight", "Importance_Weights"])
def test_weights_are_known_in_any_spelling(source, name):
    chain = read_chain(source({**PARAMETERS, name: WEIGHTS}))
    assert chain.names == ("a", "b")
    np.testing.assert_array_equal(chain.weights, WEIGHTS)


@pytest.mark.parametrize("name", ["logwt", "log_weights", "logw", "log_weight"])
def test_logarithms_of_weights_are_weights(source, name):
    chain = read_chain(source({**PARAMETERS, name: np.log(WEIGHTS) - 800.0}))
    np.testing.assert_allclose(chain.weights / chain.weights.sum(), WEIGHTS / WEIGHTS.sum(), rtol=1e-9)


def test_two_columns_of_weights_are_refused(source):
    with pytest.raises(ValueError, match=r"expected one column of weights; got 'weights', 'Weight'"):
        read_chain(source({**PARAMETERS, "Weight": WEIGHTS, "weights": WEIGHTS}))


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ({"chain__": CHAINS}, {"iter__": INSIDE, "draw__": np.arange(N)}),  # cmdstanpy
        ({".chain": CHAINS}, {".iteration": INSIDE, ".draw": np.arange(1, N + 1)}),  # R's posterior
        ({"chain": CHAINS - 1}, {"draw": INSIDE}),  # ArviZ, xarray
        ({"walker": CHAINS}, {"step": INSIDE * 10 + 500}),
    ],
)
def test_chains_and_numbers_of_rows_are_no_parameters(source, labels, numbers):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain = read_chain(source({**labels, **numbers, **PARAMETERS}))
    assert chain.names == ("a", "b")
    assert [next(iter(labels.values()))[chain.chain_id == c].std() for c in np.unique(chain.chain_id)] == [0.0] * 4
    assert set(numbers) <= chain.info["left_out"].keys()


def test_numbers_of_shuffled_rows_are_no_parameters(tmp_path):
    frame = pandas.DataFrame(PARAMETERS).sample(frac=0.5, random_state=1)
    frame.to_csv(tmp_path / "c.csv")  # pandas leaves the first name empty
    chain = read_chain(tmp_path / "c.csv")
    assert chain.names == ("a", "b")
    np.testing.assert_array_equal(chain.samples, frame.to_numpy())
    pandas.read_csv(tmp_path / "c.csv").to_csv(tmp_path / "again.csv", index=False)  # Unnamed: 0
    assert read_chain(tmp_path / "again.csv").names == ("a", "b")


@pytest.mark.parametrize("name", ["index", "step", "row", "chain", "walker"])
def test_a_parameter_may_be_called_so(source, name):
    chain = read_chain(source({**PARAMETERS, name: A + B}))
    assert chain.names == ("a", "b", name)


def test_whole_numbers_may_be_a_parameter(source):
    counts = RNG.poisson(4.0, N).astype(float)
    assert read_chain(source({**PARAMETERS, "planets": counts})).names == ("a", "b", "planets")


@pytest.mark.parametrize("name", ["index", "iteration", "step"])
def test_row_numbers_that_repeat_are_told(source, name):
    columns = {**PARAMETERS, name: INSIDE}  # of four chains, one after the other
    with pytest.warns(UserWarning, match=f"'{name}': left out, because the name denotes a row number"):
        assert read_chain(source(columns)).names == ("a", "b")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_chain(source(columns), names=["a", "b", name]).names == ("a", "b", name)


@pytest.mark.parametrize("name", ["Unnamed: 0", ".draw", "iter__"])
def test_what_nobody_calls_a_parameter_numbers_rows_even_if_it_repeats(source, name):
    assert read_chain(source({name: INSIDE, **PARAMETERS})).names == ("a", "b")


@pytest.mark.parametrize("name", ["log_w", "Weight", "step", "chain", "logp"])
def test_what_is_asked_for_by_name_is_a_parameter(source, name):
    values = {"step": np.arange(N)[::-1] ** 2, "chain": CHAINS}.get(name, A * B)
    columns = {**PARAMETERS, name: values}
    space = ParameterSpace(["a", "b", name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a parameter that hardly moves
        for chain in (read_chain(source(columns), names=["a", "b", name]), read_chain(source(columns), space)):
            assert chain.names == ("a", "b", name)
            assert chain.weights is None
            assert chain.chain_id is None


def test_two_labels_of_chains_make_chains_together(source):
    walkers = np.tile(np.repeat([0, 1], N // 8), 4)
    chain = read_chain(source({**PARAMETERS, "chain": CHAINS, "walker": walkers}))
    assert chain.names == ("a", "b")
    pairs = {(c, w): i for c, w, i in zip(CHAINS, walkers, chain.chain_id, strict=True)}
    assert len(set(pairs.values())) == len(pairs) == 8
    same = read_chain(source({**PARAMETERS, "Chain": CHAINS, "chain__": CHAINS}))
    assert len(np.unique(same.chain_id)) == 4


@pytest.mark.parametrize("form", ["frame", "csv"])
@pytest.mark.parametrize("vector", ["theta_dim_0", "school"])
def test_a_row_for_each_element_of_a_vector_is_refused(tmp_path, form, vector):
    levels = [np.repeat(CHAINS, 3), np.repeat(INSIDE, 3), np.tile(np.arange(3), N)]
    index = pandas.MultiIndex.from_arrays(levels, names=["chain", "draw", vector])
    frame = pandas.DataFrame({"theta": RNG.normal(size=3 * N), "mu": np.repeat(A, 3)}, index=index)
    if form == "csv":
        frame.to_csv(tmp_path / "c.csv")
    with pytest.raises(ValueError, match="got a row for each element of a vector"):
        read_chain(frame if form == "frame" else tmp_path / "c.csv")


def test_pointwise_log_likelihoods_are_told(source):
    columns = {**PARAMETERS, "log_lik[1]": A, "log_lik[2]": B}
    with pytest.warns(UserWarning, match=r"'log_lik\[1\]', 'log_lik\[2\]': left out, because the name denotes a log"):
        assert read_chain(source(columns)).names == ("a", "b")


def test_columns_of_cobaya_are_told(source):
    columns = {**PARAMETERS, "minuslogpost": A, "minuslogprior__0": A, "chi2__planck": A}
    with pytest.warns(UserWarning, match="minus a log density.* change its sign"):
        assert read_chain(source(columns)).names == ("a", "b")


@pytest.mark.parametrize("name", ["weights_of_components", "log_weights", "Weights"])
def test_vectors_are_parameters_whatever_their_names(name):
    chain = read_chain({"a": A, name: RNG.normal(size=(N, 3))})
    assert chain.names == ("a", f"{name}[0]", f"{name}[1]", f"{name}[2]")
    assert chain.weights is None


def test_weights_in_a_column_are_what_they_are_whatever_the_index():
    counts = RNG.geometric(0.4, N).astype(float)
    frame = pandas.DataFrame({**PARAMETERS, "weights": counts / counts.sum()}, index=pandas.Index(CHAINS, name="chain"))
    assert read_chain(frame).weights_kind == "counts"


def test_a_column_that_counts_is_left_out_and_told(source):
    with pytest.warns(UserWarning, match=r"'evaluation': left out, because it counts the rows"):
        chain = read_chain(source({**PARAMETERS, "evaluation": 7 + 3.0 * np.arange(N)}))
    assert chain.names == ("a", "b")
    with pytest.warns(UserWarning, match="autocorrelation time"):  # as a parameter it is one that hardly moves
        asked = read_chain(source({**PARAMETERS, "evaluation": 7 + 3.0 * np.arange(N)}), names=["a", "b", "evaluation"])
    assert asked.names == ("a", "b", "evaluation")


@pytest.mark.parametrize("name", ["logp", "lnprob", "LogLikelihood", "log_like", "lnlike", "logL", "lp", "logpdf"])
def test_a_log_density_of_unclear_kind_is_left_out_and_told(source, name):
    columns = {**PARAMETERS, name: -0.5 * (A**2 + B**2)}
    with pytest.warns(UserWarning, match=rf"'{name}': left out, because the name denotes a log density"):
        chain = read_chain(source(columns))
    assert chain.names == ("a", "b")
    assert chain.log_prob is None
    assert "log density" in chain.info["left_out"][name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = read_chain(source({**columns, "log_prob": A}), names=["a", "b", name])
    assert asked.names == ("a", "b", name)
    np.testing.assert_array_equal(asked.log_prob, A)  # it is a parameter then, and the density is of all of them


@pytest.mark.parametrize("name", ["logP", "log_P", "log_mass", "logit", "lnR", "p", "prior_width", "loglog"])
def test_other_logarithms_are_parameters(source, name):
    assert read_chain(source({**PARAMETERS, name: A + B})).names == ("a", "b", name)


def test_columns_of_samplers_are_left_out(source):
    chain = read_chain(source({"lp__": A, "divergent__": (A > 9.0).astype(int), "x_log__": B, **PARAMETERS}))
    assert chain.names == ("a", "b")


def test_likelihood_and_prior_make_the_log_posterior(source):
    chain = read_chain(source({**PARAMETERS, "log_likelihood": A, "log_prior": B}))
    np.testing.assert_allclose(chain.log_prob, A + B)


def test_an_index_of_pandas_is_none_of_the_parameters(tmp_path):
    index = pandas.MultiIndex.from_arrays([CHAINS, INSIDE], names=["chain", "draw"])
    frame = pandas.DataFrame(PARAMETERS, index=index)
    frame.to_parquet(tmp_path / "c.parquet")
    frame.to_csv(tmp_path / "c.csv")
    for chain in map(read_chain, [frame, tmp_path / "c.parquet", tmp_path / "c.csv"]):
        assert chain.names == ("a", "b")
        np.testing.assert_array_equal(np.unique(chain.chain_id, return_counts=True)[1], [N // 4] * 4)


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
@pytest.mark.parametrize("before", ["", "\n", "# a comment\n# another, with a comma\n", "\ufeff"])
def test_delimiters_and_lines_before_the_header(tmp_path, separator, before):
    text = pandas.DataFrame(PARAMETERS).to_csv(index=False, sep=separator)
    (tmp_path / "c.csv").write_text(before + text, encoding="utf-8")
    chain = read_chain(tmp_path / "c.csv")
    assert chain.names == ("a", "b")
    np.testing.assert_array_equal(chain.samples, np.column_stack([A, B]))


@pytest.mark.parametrize("delimiter", [",", " "])
def test_the_last_comment_is_the_header_where_numbers_follow(tmp_path, delimiter):
    text = io.StringIO()
    np.savetxt(text, np.column_stack([A, B]), delimiter=delimiter, header=f"made by hand\na{delimiter}b")
    (tmp_path / "c.csv").write_text(text.getvalue())
    assert read_chain(tmp_path / "c.csv").names == ("a", "b")


def test_a_missing_value_below_a_comment_is_no_header(tmp_path):
    (tmp_path / "c.csv").write_text("# a,b\n1.0,NA\n" + "".join(f"{a},{b}\n" for a, b in zip(A, B, strict=True)))
    with pytest.raises(ValueError, match="line 2: expected numbers; got 'NA'"):
        read_chain(tmp_path / "c.csv")


TEXTS = [
    ("\ta\tb\n", "{j}\t{a}\t{b}\n", ("a", "b")),  # pandas, with its index
    ('"a" "b"\n', "{a} {b}\n", ("a", "b")),  # R
    ("x[0,0]\tx[0,1]\n", "{a}\t{b}\n", ("x[0,0]", "x[0,1]")),
    ("log mass\n", "{a}\n", ("log mass",)),
    ("log mass,b\n", "{a},{b}\n", ("log mass", "b")),
]


@pytest.mark.parametrize(("header", "row", "names"), TEXTS)
def test_delimiters_are_told_by_the_row_below_the_header(tmp_path, header, row, names):
    rows = "".join(row.format(j=j, a=a, b=b) for j, (a, b) in enumerate(zip(A, B, strict=True)))
    (tmp_path / "c.csv").write_text(header + rows)
    chain = read_chain(tmp_path / "c.csv")
    assert chain.names == names
    np.testing.assert_array_equal(chain.samples[:, 0], A)


KINDS = [
    ({"weights": WEIGHTS, "rows": "sequence"}, "rows='sequence'"),
    ({"weights": np.round(3.0 * WEIGHTS) + 1.0, "weights_kind": "importance"}, "weights_kind='importance'"),
    ({"rows": "independent"}, "rows='independent'"),
]


@pytest.mark.parametrize(("parts", "lost"), KINDS)
def test_what_weights_and_rows_are_is_kept_in_parquet_and_told_of_csv(tmp_path, parts, lost):
    chain = Chain(np.column_stack([A, B]), ParameterSpace(["a", "b"]), **parts)
    again = read_chain(write_chain(tmp_path / "c.parquet", chain))
    assert (again.rows, again.weights_kind) == (chain.rows, chain.weights_kind)
    with pytest.warns(UserWarning, match=lost):
        write_chain(tmp_path / "c.csv", chain)


def test_a_csv_file_that_says_all_is_written_without_a_word(tmp_path):
    chain = Chain(np.column_stack([A, B]), ParameterSpace(["a", "b"]), weights=WEIGHTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = read_chain(write_chain(tmp_path / "c.csv", chain))
    assert (again.rows, again.weights_kind) == (chain.rows, chain.weights_kind)


@pytest.mark.parametrize("name", ["logp", "Weight", "log_prob", "lp__", "log_w"])
def test_a_parameter_that_would_not_be_read_back_is_not_written(tmp_path, name):
    chain = Chain(np.column_stack([A, B]), ParameterSpace(["a", name]))
    with pytest.raises(ValueError, match=rf"{name}.*would not be read back as a parameter. Write an npz file"):
        write_chain(tmp_path / "c.csv", chain)
    with pytest.raises(ValueError, match="Write an npz file"):
        write_chain(tmp_path / "c.csv", chain.select([name]))
    assert read_chain(write_chain(tmp_path / "c.npz", chain)).names == ("a", name)
