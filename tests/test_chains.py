"""ParameterSpace, Chain and read_chain: what they hold, and what they refuse and how."""

from __future__ import annotations

import pickle

import jax
import numpy as np
import pytest

from numpyro_flowprior import Chain, ParameterSpace, from_arviz, read_chain, reweight, to_arviz, write_chain
from numpyro_flowprior.chains.autocorrelation import autocorrelation_time

SPACE = ParameterSpace(["a", "b"], [0.0, -np.inf], [1.0, np.inf], units=["GeV", ""], labels=["$a$", "$b$"])
GOOD = np.column_stack([np.linspace(0.1, 0.9, 50), np.linspace(-3.0, 3.0, 50)])


def chain(**parts) -> Chain:
    return Chain(GOOD, SPACE, **parts)


SPACE_ERRORS = [
    (lambda: ParameterSpace("ab"), TypeError, "sequence of strings"),
    (lambda: ParameterSpace([]), ValueError, "at least one"),
    (lambda: ParameterSpace(["a", "a"]), ValueError, "'a' occur more than once"),
    (lambda: ParameterSpace(["a", ""]), TypeError, "non-empty"),
    (lambda: ParameterSpace(["a", 3]), TypeError, "non-empty strings"),
    (lambda: ParameterSpace(["a", "b"], [0.0], 1.0), ValueError, "expected 2 values"),
    (lambda: ParameterSpace(["a", "b"], [0.0, 2.0], [1.0, 1.0]), ValueError, r"b: \[2, 1\]"),
    (lambda: ParameterSpace(["a"], np.nan, 1.0), ValueError, "NaN for 'a'"),
    (lambda: ParameterSpace(["a"], 0.0, 0.0), ValueError, "lower < upper"),
    (lambda: ParameterSpace(["a"], np.inf, np.inf), ValueError, "lower < upper"),
    (lambda: ParameterSpace(["a"], units=["x", "y"]), ValueError, "expected 1 strings"),
    (lambda: SPACE.select(["c"]), ValueError, "no parameter named 'c'"),
    (lambda: SPACE.as_dict(np.zeros(3)), ValueError, "last axis of 2"),
    (lambda: SPACE.as_array({"a": 1.0, "c": 2.0}), ValueError, "missing: 'b'; unknown: 'c'"),
    (lambda: ParameterSpace.from_json({"names": ["a"]}), ValueError, "expected a record"),
]

CHAIN_ERRORS = [
    (lambda: Chain(GOOD, ["a", "b"]), TypeError, "expected a ParameterSpace"),
    (lambda: Chain(GOOD[:, :1], SPACE), ValueError, r"expected shape \(n, 2\).*got \(50, 1\)"),
    (lambda: Chain(GOOD[0], SPACE), ValueError, "expected shape"),
    (lambda: Chain(GOOD[:0], SPACE), ValueError, "at least one row"),
    (lambda: Chain(np.where(GOOD > 2, np.nan, GOOD), SPACE), ValueError, r"NaN or infinity in 9 of 50 rows.*'b': 9"),
    (lambda: Chain(GOOD + np.array([0.5, 0.0]), SPACE), ValueError, "25 of 50 rows are outside.*'a': 25 rows"),
    (lambda: Chain([["x", "y"]], SPACE), TypeError, "real numbers"),
    (lambda: Chain(GOOD + 1j, SPACE), TypeError, "complex"),
    (lambda: chain(weights=np.ones(3)), ValueError, r"chain.weights: expected shape \(50\)"),
    (lambda: chain(weights=np.linspace(-1, 1, 50)), ValueError, "25 of 50 are negative"),
    (lambda: chain(weights=np.zeros(50)), ValueError, "positive, finite sum"),
    (lambda: chain(weights=np.full(50, np.nan)), ValueError, "finite numbers"),
    (lambda: chain(log_prob=np.full(50, -np.inf)), ValueError, "chain.log_prob: expected finite"),
    (lambda: chain(chain_id=np.linspace(0, 1, 50)), ValueError, "50 integers"),
    (lambda: chain().split(jax.random.key(0), 1.5), ValueError, r"in \(0, 1\)"),
    (lambda: chain().thin(0), ValueError, "integer >= 1"),
    (lambda: chain().thin(2.5), TypeError, "integer"),
    (lambda: chain().quantile([0.5, 1.5]), ValueError, r"quantile: q: expected numbers in \[0, 1\]"),
    (lambda: chain().replace(colour=1), TypeError, "no field named 'colour'"),
]


@pytest.mark.parametrize(("make", "error", "message"), SPACE_ERRORS + CHAIN_ERRORS)
def test_bad_input_is_refused_with_its_reason(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_constant_column_is_named():
    with pytest.warns(UserWarning, match=r"'b' takes a single value.*chain.select\(\['a'\]\)"):
        assert Chain(GOOD * [1.0, 0.0], SPACE).constant_columns == ("b",)


def test_space_is_immutable_hashable_and_survives_pickle_and_json():
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE == ParameterSpace.from_json(SPACE.to_json())
    assert hash(SPACE) == hash(ParameterSpace.from_json(SPACE.to_json()))
    assert ParameterSpace(["a", "b"]) != SPACE
    with pytest.raises(AttributeError, match="immutable"):
        SPACE.names = ("x",)
    selected = SPACE.select(["b", "a"])
    assert (selected.names, selected.units, selected.labels) == (("b", "a"), ("", "GeV"), ("$b$", "$a$"))
    np.testing.assert_array_equal(SPACE.as_array(SPACE.as_dict(GOOD)), GOOD)


def test_chain_does_not_alias_the_callers_array():
    samples = GOOD.copy()
    held = Chain(samples, SPACE)
    samples[:] = 0.5
    assert held.samples[0, 0] == GOOD[0, 0]
    with pytest.raises(ValueError, match="read-only"):
        held.samples[0] = 0.0


def test_weighted_moments_and_quantiles_match_repeated_rows():
    counts = np.random.default_rng(0).integers(0, 5, 50)
    weighted, repeated = chain(weights=counts, weights_kind="importance"), Chain(np.repeat(GOOD, counts, axis=0), SPACE)
    np.testing.assert_allclose(weighted.mean(), repeated.mean())
    np.testing.assert_allclose(weighted.covariance(), repeated.covariance())
    np.testing.assert_allclose(weighted.covariance(), np.cov(GOOD.T, fweights=counts, bias=True))
    assert weighted.effective_size == pytest.approx(counts.sum() ** 2 / (counts**2).sum())


def test_resampling_is_unbiased_and_systematic():
    weights = np.random.default_rng(1).exponential(size=50)
    draws = chain(weights=weights).resample(jax.random.key(0), 5000)
    assert draws.weights is None
    counts = np.array([(draws.samples == row).all(axis=1).sum() for row in GOOD])
    assert np.abs(counts - 5000 * weights / weights.sum()).max() <= 1.0  # systematic: off by less than one each


def autoregression(n: int, rho: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=n)
    x = np.empty(n)
    x[0] = noise[0]
    for t in range(1, n):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    return x


def test_autocorrelation_time_of_an_autoregression():
    rho = 0.9  # tau = (1 + rho) / (1 - rho) = 19
    samples = np.column_stack([autoregression(100_000, rho), np.random.default_rng(1).normal(size=100_000)])
    tau = autocorrelation_time(samples)
    assert tau[0] == pytest.approx(19.0, rel=0.1)
    assert tau[1] == pytest.approx(1.0, abs=0.05)


def test_chains_stuck_apart_read_as_one_long_correlation():
    samples = np.random.default_rng(0).normal(size=(2000, 1)) + np.repeat([0.0, 10.0], 1000)[:, None]
    assert autocorrelation_time(samples, np.repeat([0, 1], 1000))[0] > 100


def test_split_of_correlated_rows_keeps_neighbours_together():
    samples = autoregression(8000, 0.95)[:, None]
    whole = Chain(samples, ParameterSpace(["x"]))
    first, second = whole.split(jax.random.key(0), 0.75)
    assert first.n + second.n == 8000
    assert first.n == pytest.approx(6000, rel=0.05)
    taken = np.isin(samples[:, 0], first.samples[:, 0])
    assert (np.diff(taken.astype(int)) != 0).sum() <= 40  # blocks, not rows
    assert set(first.samples[:, 0]) | set(second.samples[:, 0]) == set(samples[:, 0])


def test_select_and_thin_keep_what_belongs_together():
    held = chain(log_prob=np.arange(50.0), chain_id=np.repeat([0, 1], 25), weights=np.arange(1.0, 51.0))
    swapped = held.select(["b", "a"])
    np.testing.assert_array_equal(swapped.samples, GOOD[:, ::-1])
    np.testing.assert_array_equal(swapped.log_prob, held.log_prob)
    assert held.select(["b"]).log_prob is None
    thinned = held.thin(10)
    np.testing.assert_array_equal(thinned.log_prob, [0, 10, 20, 25, 35, 45])
    np.testing.assert_array_equal(thinned.weights, thinned.log_prob + 1)


def test_fingerprint_follows_content():
    assert chain().fingerprint() == chain().fingerprint()
    assert chain().fingerprint() != chain(weights=np.arange(50.0)).fingerprint()
    assert chain().fingerprint() != Chain(GOOD + 1e-12, SPACE).fingerprint()


def test_npz_round_trip(tmp_path):
    held = chain(
        log_prob=np.arange(50.0),
        log_prior=np.zeros(50),
        log_likelihood=np.arange(50.0),
        weights=np.arange(50.0),
        chain_id=np.repeat([0, 1], 25),
        log_evidence=-3.5,
        log_evidence_error=0.1,
    )
    back = read_chain(write_chain(tmp_path / "c.npz", held))
    assert back.space == held.space
    assert (back.log_evidence, back.log_evidence_error) == (-3.5, 0.1)
    for name in ("samples", "log_prob", "log_prior", "log_likelihood", "weights", "chain_id"):
        np.testing.assert_array_equal(getattr(back, name), getattr(held, name))


def test_csv_with_named_columns(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("b, a ,log_prob,weight\n1,0.5,-2,3\n2,0.25,-1,1\n\n")
    held = read_chain(path, SPACE)
    np.testing.assert_array_equal(held.samples, [[0.5, 1.0], [0.25, 2.0]])
    np.testing.assert_array_equal(held.log_prob, [-2.0, -1.0])
    np.testing.assert_array_equal(held.weights, [3.0, 1.0])
    assert read_chain(path).names == ("b", "a")
    assert read_chain(path, SPACE.select(["a"])).log_prob is None  # a marginal: the density is not its own


CSV_ERRORS = [
    ("a,weight,weights\n1,1,1\n", "one column of weights"),
    ("a,b\n1,x\n", "line 2: expected numbers; got 'x'"),
    ("a,b\n1,2,3\n", "line 2: expected 2 values"),
    ("a,a\n1,2\n", "'a' occur more than once"),
    ("1.0,2.0\n3.0,4.0\n", "expected a header row"),
    ("a,b\n", "got none"),
    ("", "got none"),
    ("log_prob\n1\n", "at least one parameter column"),
    ("a,b,chain_id\n1,2,0.5\n", "whole numbers"),
    ("a,b\n1,nan\n", "'b': 1"),
]


@pytest.mark.parametrize(("text", "message"), CSV_ERRORS)
def test_bad_csv_is_refused_with_file_and_reason(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"bad.csv: .*{message}"):
        read_chain(path)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_bad_npz_is_refused_with_file_and_reason(tmp_path):
    path = tmp_path / "bad.npz"
    cases = [
        ({"x": GOOD}, "expected an array 'samples'"),
        ({"samples": GOOD, "names": ["a"]}, r"expected shape \(n, 1\)"),
        ({"samples": GOOD, "names": ["a", "b"], "bounds": np.zeros((3, 2))}, r"bounds: expected shape \(2, 2\)"),
        ({"samples": np.array([{}, {}])}, "Python objects"),
    ]
    for arrays, message in cases:
        with pytest.raises(ValueError, match=message):
            read_chain(npz(path, **arrays))
    good = npz(path, samples=GOOD).read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match="truncated"):
        read_chain(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_chain(tmp_path / "none.npz")
    path.rename(tmp_path / "c.dat")
    with pytest.raises(ValueError, match=r"ending in '.npz'.*'.csv'"):
        read_chain(tmp_path / "c.dat")
    with pytest.raises(TypeError, match="expected a path"):
        read_chain(3)


def test_arviz_round_trip(tmp_path):
    held = chain(
        log_prob=np.arange(50.0), log_prior=np.ones(50), log_likelihood=np.arange(50.0) - 1,
        chain_id=np.repeat([0, 1], 25), log_evidence=-1.5, log_evidence_error=0.2, info={"sampler": "x"},
    )  # fmt: skip
    data = to_arviz(held)
    assert dict(data.posterior.sizes) == {"chain": 2, "draw": 25}
    assert data.posterior["a"].attrs["units"] == "GeV"
    data.to_netcdf(tmp_path / "c.nc")
    import arviz

    back = from_arviz(arviz.from_netcdf(tmp_path / "c.nc"), SPACE)
    for name in ("samples", "log_prob", "log_prior", "log_likelihood", "chain_id", "log_evidence", "info"):
        np.testing.assert_array_equal(getattr(back, name), getattr(held, name))
    with pytest.raises(ValueError, match="'z'"):
        from_arviz(data, ParameterSpace(["z"]))


def test_arviz_of_a_weighted_chain_is_resampled():
    weights = np.exp(-0.5 * GOOD[:, 1] ** 2)
    held = chain(weights=weights)
    data = to_arviz(held)
    assert data.posterior.sizes["draw"] == round(held.effective_size)
    assert data.posterior.attrs["resampled_from_weights"] == 1
    assert float(data.posterior["b"].std()) == pytest.approx(1.0, abs=0.15)


def uneven(**fields) -> Chain:
    """Returns a chain of two chains of unequal length."""
    return chain(chain_id=np.repeat([3, 7], [20, 30]), log_prob=np.arange(50.0), log_evidence=-2.5, **fields)


@pytest.mark.parametrize("weights", [None, np.arange(50.0)])
def test_arviz_keeps_weights_and_unequal_chains(tmp_path, weights):
    held = uneven(weights=weights)
    data = to_arviz(held)
    data.to_netcdf(tmp_path / "c.nc")
    for back in (from_arviz(data), read_chain(tmp_path / "c.nc")):
        assert (back.space, back.log_evidence) == (held.space, held.log_evidence)
        for name in ("samples", "weights", "log_prob", "chain_id"):
            np.testing.assert_array_equal(getattr(back, name), getattr(held, name))


def test_arviz_data_that_were_changed_are_read_as_they_are_now():
    """The rows as they were are those of the posterior that `to_arviz` wrote, not of another one."""
    held = uneven(weights=np.arange(50.0))
    fewer = to_arviz(held).isel(draw=slice(5, None))
    assert from_arviz(fewer).n == fewer.posterior.sizes["draw"]
    more = to_arviz(held)
    more.posterior["sum"] = more.posterior["a"] + more.posterior["b"]
    back = from_arviz(more, ParameterSpace(["a", "b", "sum"]))
    assert (back.n, back.weights) == (more.posterior.sizes["draw"], None)


def test_arviz_of_others_gives_samples_alone():
    """`lp` is NumPyro's and PyMC's density in unconstrained coordinates: not log_prob of ours."""
    arviz = pytest.importorskip("arviz")
    groups = {"posterior": {"a": GOOD[None, :, 0]}, "sample_stats": {"lp": np.zeros((1, 50))}}
    data = arviz.from_dict(groups) if arviz.__version__ >= "1" else arviz.from_dict(**groups)
    assert from_arviz(data, SPACE.select(["a"])).log_prob is None
    ours = to_arviz(chain(log_prob=np.arange(50.0)))
    assert from_arviz(ours, SPACE.select(["b", "a"])).log_prob[3] == 3.0
    assert from_arviz(ours, SPACE.select(["a"])).log_prob is None  # a marginal's density is not the row's


def test_rows_of_weight_zero_do_not_move_quantiles():
    weights = np.where(np.arange(50) < 25, 1.0, 0.0)
    np.testing.assert_allclose(
        chain(weights=weights).quantile([0.1, 0.5, 1.0]), Chain(GOOD[:25], SPACE).quantile([0.1, 0.5, 1.0])
    )


def test_quantiles_have_the_shape_of_their_levels():
    whole = chain()
    for q in (0.5, [0.5], [[0.1, 0.5], [0.7, 0.9]]):
        np.testing.assert_allclose(whole.quantile(q), np.quantile(GOOD, q, axis=0, method="hazen"), atol=1e-14)


@pytest.mark.filterwarnings("ignore:chain. 'b' takes a single value")
def test_a_constant_column_does_not_hide_independent_draws():
    samples = np.column_stack([np.random.default_rng(0).uniform(size=1000), np.full(1000, 0.1)])
    assert Chain(samples, SPACE).effective_size > 800


def test_npz_of_other_programs(tmp_path):
    path = tmp_path / "c.npz"
    np.savez(path, samples=GOOD, names=np.array([b"a", b"b"]), log_evidence=np.array([-3.5]))
    read = read_chain(path)
    assert (read.names, read.log_evidence) == (("a", "b"), -3.5)
    np.savez(path, samples=GOOD, log_evidence=np.zeros(3))
    with pytest.raises(ValueError, match="log_evidence: expected one number"):
        read_chain(path)
    with path.open("wb") as file:
        np.save(file, GOOD)
    with pytest.raises(ValueError, match="not a readable npz file"):
        read_chain(path)


def test_a_chain_is_read_like_a_file():
    read = read_chain(chain(log_prob=np.arange(50.0)), SPACE.select(["b"]))
    assert (read.names, read.log_prob) == (("b",), None)


def test_deal_gives_disjoint_parts_of_whole_blocks():
    rng = np.random.default_rng(0)
    chain = Chain(np.repeat(rng.normal(size=(300, 2)), 20, axis=0), ParameterSpace(["a", "b"]))
    parts = chain.deal(jax.random.key(0), [0.5, 0.25, 0.25])
    assert np.sort(np.concatenate(parts)).tolist() == list(range(chain.n))
    np.testing.assert_allclose([len(part) / chain.n for part in parts], [0.5, 0.25, 0.25], atol=0.05)
    cuts = [int(np.sum(np.diff(part) > 1)) for part in parts]
    assert max(cuts) < 40  # rows stay with their neighbours
    with pytest.raises(ValueError, match="expected at least 200 rows; got 100"):
        chain.take(np.arange(100)).deal(jax.random.key(0), [1 / 200] * 200)


def test_weighted_rows_are_dealt_with_their_weight():
    """Half of the weight is on 30 of 3000 rows: each part gets its share of rows and of weight, whatever the key."""
    rng = np.random.default_rng(0)
    weights = np.where(rng.permutation(3000) < 30, 1.0, rng.uniform(0.0, 0.02, 3000))
    weighted = Chain(rng.normal(size=(3000, 2)), ParameterSpace(["a", "b"]), weights=weights)
    first_rows = set()
    for seed in range(20):
        parts = weighted.deal(jax.random.key(seed), [0.5, 0.3, 0.2])
        assert np.sort(np.concatenate(parts)).tolist() == list(range(3000))
        np.testing.assert_allclose([len(part) / 3000 for part in parts], [0.5, 0.3, 0.2], atol=0.005)
        shares = [weighted.probabilities[part].sum() for part in parts]
        np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.05)  # by chance alone: 0.05 is one deviation
        first_rows.add(parts[0][0])
    assert len(first_rows) > 1
    with pytest.raises(ValueError, match="enough rows of positive weight for 5 parts .* got 2"):
        weighted.replace(weights=1.0 * (np.arange(3000) < 2)).deal(jax.random.key(0), [0.2] * 5)


def test_every_row_is_as_likely_in_a_part_as_its_fraction_says():
    weighted = chain(weights=np.arange(50) % 3 + 1.0)
    counts = sum(np.bincount(weighted.deal(jax.random.key(seed), [0.7, 0.3])[1], minlength=50) for seed in range(400))
    assert abs(counts - 120.0).max() < 45  # binomial deviation 9.2; false alarms below 1e-4


def test_a_file_mapped_for_reading_is_not_copied_and_writable_memory_is(tmp_path):
    np.save(tmp_path / "rows.npy", GOOD)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert np.shares_memory(Chain(mapped, SPACE).samples, mapped)
    for mode in ("r+", "c"):
        other = np.load(tmp_path / "rows.npy", mmap_mode=mode)
        assert not np.shares_memory(Chain(other, SPACE).samples, other)
    view = GOOD.copy()[5:]
    view.setflags(write=False)  # its owner can still write
    assert not np.shares_memory(Chain(view, SPACE).samples, view)
    assert Chain(mapped, SPACE).fingerprint() == chain().fingerprint()


def test_long_chains_are_dealt_in_a_bounded_number_of_blocks(monkeypatch):
    monkeypatch.setattr("numpyro_flowprior.chains.chain._MOST_BLOCKS", 50)
    rows = np.random.default_rng(0).normal(size=(2000, 2))
    first, second = Chain(rows, ParameterSpace(["a", "b"])).split(jax.random.key(0), 0.5)
    assert first.n == pytest.approx(1000, abs=40)
    assert len(np.unique(np.concatenate([first.samples, second.samples]), axis=0)) == 2000


def test_what_is_compiled_depends_on_bounds_alone():
    first = ParameterSpace(["a", "b"], [0.0, -np.inf], 1.0).nameless()
    second = ParameterSpace(["x", "y"], [0.0, -np.inf], 1.0, units=["m", "s"]).nameless()
    assert first == second != ParameterSpace(["a", "b"], 0.0, 1.0).nameless()
    assert (first.names, first.lower, first.upper) == (("0", "1"), (0.0, -np.inf), (1.0, 1.0))


class TestDerived:
    """Quantities that ride along with the rows."""

    def chain(self, **fields):
        rows = np.random.default_rng(0).normal(size=(400, 2))
        return Chain(rows, ParameterSpace(["a", "b"]), derived={"c": rows @ [1.0, 2.0]}, **fields)

    @staticmethod
    def is_kept(chain):
        np.testing.assert_array_equal(chain.derived["c"], chain.samples @ [1.0, 2.0])

    def test_they_are_kept_by_all_that_chooses_rows(self):
        chain = self.chain(weights=np.random.default_rng(1).uniform(size=400))
        for made in (
            chain.take(slice(3, 90)),
            chain.thin(3),
            chain.resample(jax.random.key(0), 50),
            *chain.split(jax.random.key(1), 0.5),
            chain.replace(info={}),
            reweight(chain, -(chain.samples[:, 0] ** 2)),
        ):
            self.is_kept(made)
        assert not chain.derived["c"].flags.writeable
        assert "derived 'c'" in repr(chain)

    def test_select_makes_parameters_of_them(self):
        chain = self.chain(log_prob=np.zeros(400))
        chosen = chain.select(["c", "a"])
        np.testing.assert_array_equal(chosen.samples, np.column_stack([chain.derived["c"], chain.samples[:, 0]]))
        assert (chosen.names, dict(chosen.derived), chosen.log_prob) == (("c", "a"), {}, None)
        assert chain.select(["a", "b", "c"]).log_prob is None  # not a density of three parameters
        self.is_kept(chain.select(["a", "b"]))
        assert chain.select(["b", "a"]).log_prob is not None
        with pytest.raises(ValueError, match="no parameter named 'd'"):
            chain.select(["c", "d"])

    def test_new_samples_discard_them_and_old_pickles_have_none(self):
        chain = self.chain()
        assert dict(chain.replace(samples=-chain.samples).derived) == {}
        old = pickle.loads(pickle.dumps(chain))
        del old.__dict__["derived"]
        assert dict(old.take(slice(0, 5)).derived) == {}

    def test_npz_files_keep_them(self, tmp_path):
        chain = self.chain(rows="independent")
        self.is_kept(read_chain(write_chain(tmp_path / "chain.npz", chain)))

    @pytest.mark.parametrize(
        ("derived", "error", "match"),
        [
            ({"a": np.zeros(3)}, ValueError, "expected names that are not parameters; got 'a'"),
            ({"c": np.zeros(2)}, ValueError, r"chain.derived\['c'\].*shape"),
            ({"c": [0.0, np.nan, 1.0]}, ValueError, r"chain.derived\['c'\]"),
            ([1.0], TypeError, "expected a dictionary"),
        ],
    )
    def test_what_is_no_derived_quantity_is_refused(self, derived, error, match):
        with pytest.raises(error, match=match):
            Chain(np.arange(3.0)[:, None], ParameterSpace(["a"]), derived=derived)
