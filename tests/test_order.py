"""What weights are and what the order of rows means: recognised where it shows, else said; kept in files."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest
from toys import autoregression, metropolis

from numpyro_flowprior import Chain, ParameterSpace, read_chain, to_arviz, write_chain
from numpyro_flowprior.chains.edges import off_the_edges
from numpyro_flowprior.diagnostics.independent import independent_rows

PLANE = ParameterSpace(["a", "b"])
KEY = jax.random.key(0)


def in_turn(walkers: int, rho: float, spread: float = 0.0, seed: int = 0) -> np.ndarray:
    rows = autoregression(12_000 // walkers, rho, seed=seed, n_chains=walkers).reshape(walkers, -1, 2)
    rows = rows + spread * np.random.default_rng(seed).normal(size=(walkers, 1, 2))
    return np.swapaxes(rows, 0, 1).reshape(-1, 2)


RNG = np.random.default_rng(1)
CLOUD = RNG.normal(size=(5000, 6))
BANANA = np.column_stack([CLOUD[:, 0], CLOUD[:, 1] + CLOUD[:, 0] ** 2, np.abs(CLOUD[:, 2]), CLOUD[:, 3:]])
BY_DENSITY = np.argsort(-np.sum(CLOUD**2, axis=1))
LOG_PROB = -np.sum(CLOUD[BY_DENSITY] ** 2, axis=1)
JUMPS = RNG.normal(size=(4000, 2)) + 5.0 * np.repeat([0, 1, 0, 1], 1000)[:, None]
METROPOLIS = np.repeat(*metropolis(5000, 1.5), axis=0)
ORDERS = [
    ("independent rows", RNG.normal(size=(3000, 2)), {}, ("sequence", 1)),
    ("an autoregression", autoregression(3000, 0.9), {}, ("sequence", 1)),
    ("a slow one", autoregression(3000, 0.999), {}, ("sequence", 1)),
    ("an antithetic one", autoregression(6000, -0.9), {}, ("sequence", 1)),
    ("rare jumps between modes", JUMPS, {}, ("sequence", 1)),
    ("burn-in", RNG.normal(size=(4000, 2)) + 5.0 * np.exp(-np.arange(4000) / 300)[:, None], {}, ("sequence", 1)),
    ("five walkers in turn", in_turn(5, 0.9), {}, ("sequence", 5)),
    ("two walkers in turn", in_turn(2, 0.8), {}, ("sequence", 2)),
    ("64 walkers in turn", in_turn(64, 0.9), {}, ("sequence", 64)),
    ("walkers in turn, stuck", in_turn(5, 0.5, spread=3.0), {}, ("sequence", 5)),
    ("sorted, with log density", CLOUD[BY_DENSITY], {"log_prob": LOG_PROB}, ("independent", 1)),
    ("sorted, without", CLOUD[BY_DENSITY], {}, ("independent", 1)),
    ("a sorted banana", BANANA[BY_DENSITY], {}, ("independent", 1)),
    ("Metropolis", METROPOLIS, {}, ("sequence", 1)),
    ("Metropolis, shuffled", RNG.permutation(METROPOLIS), {}, ("independent", 1)),
    ("importance weights", CLOUD, {"weights": RNG.random(5000)}, ("independent", 1)),
    ("a reweighted autoregression", autoregression(5000, 0.9), {"weights": RNG.random(5000)}, ("sequence", 1)),
    ("as it is said", autoregression(3000, 0.9), {"rows": "independent"}, ("independent", 1)),
    ("few rows", CLOUD[:50], {}, ("sequence", 1)),
]


@pytest.mark.parametrize(("rows", "fields", "expected"), [row[1:] for row in ORDERS], ids=[row[0] for row in ORDERS])
def test_the_order_of_rows_is_recognised(rows, fields, expected):
    chain = Chain(rows, ParameterSpace([f"p{j}" for j in range(rows.shape[1])]), **fields)
    assert (chain.row_order.kind, chain.row_order.period) == expected
    assert chain.rows == expected[0]
    part = chain.take(np.arange(0, chain.n, 7))  # what was seen in all rows stays true of some
    assert part.rows == chain.rows


def test_nothing_is_recognised_where_there_is_nothing():
    """150 sets of independent and of autocorrelated rows of all sizes: none is taken for anything else."""
    for seed in range(150):
        rng = np.random.default_rng(seed)
        n, dim = int(rng.integers(100, 3000)), int(rng.integers(1, 8))
        rho = rng.uniform(0.0, 0.99) * (seed % 2)
        rows = autoregression(n, rho, dim, seed)
        order = Chain(rows, ParameterSpace([f"p{j}" for j in range(dim)])).row_order
        assert (order.kind, order.period) == ("sequence", 1), (seed, order)


@pytest.mark.parametrize("step", [0.3, 1.5])
def test_effective_size_of_counted_rows_is_that_of_the_steps_and_getdists(step):
    """GetDist sums the correlation up to its first value below 0.05, Sokal's window goes farther: 30 %."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from getdist import MCSamples
    rows, counts = metropolis(20_000, step)
    counted = Chain(rows, PLANE, weights=counts)
    steps = Chain(np.repeat(rows, counts, axis=0), PLANE)
    assert counted.weights_kind == "counts"
    assert counted.effective_size == pytest.approx(steps.effective_size, rel=0.1)
    theirs = MCSamples(samples=rows, weights=counts.astype(float), names=["a", "b"], settings={"ignore_rows": 0})
    expected = min(theirs.getEffectiveSamples(j) for j in range(2))
    assert counted.effective_size == pytest.approx(expected, rel=0.3)
    as_importance = counted.replace(weights=counts, weights_kind="importance", rows="independent")
    assert as_importance.effective_size == pytest.approx(counts.sum() ** 2 / np.sum(counts**2))


def test_effective_size_of_an_autoregression_in_counts_is_the_exact_one():
    """(1 - rho) / (1 + rho) of 100,000 steps at rho = 0.98, 990: estimates scatter by a tenth."""
    steps = autoregression(100_000, 0.98, seed=3)
    counts = np.random.default_rng(0).integers(1, 4, len(steps))
    exact = len(steps) * 0.02 / 1.98
    assert Chain(steps, PLANE).effective_size == pytest.approx(exact, rel=0.3)
    assert Chain(steps, PLANE, weights=counts).effective_size == pytest.approx(exact, rel=0.3)
    walkers = in_turn(6, 0.98)
    assert Chain(walkers, PLANE).effective_size == pytest.approx(len(walkers) * 0.02 / 1.98, rel=0.6)


def test_the_error_of_a_mean_is_its_scatter():
    """Over 200 seeds, for rows of each kind; the scatter of 200 values is known to 5 %, errors to some 10 % more."""
    found: dict[str, list[tuple[float, float]]] = {"sequence": [], "weights": [], "copies": [], "reweighted": []}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rows = autoregression(4000, 0.8, 1, seed)
        line = ParameterSpace(["x"])
        tilt = np.exp(0.5 * rows[:, 0])
        drawn = rng.normal(size=(1000, 1))
        chains = {
            "sequence": Chain(rows, line),
            "reweighted": Chain(rows, line, weights=tilt, rows="sequence"),
            "weights": Chain(drawn, line, weights=np.exp(drawn[:, 0])),
            "copies": Chain(rng.permutation(np.repeat(drawn, 5, axis=0)), line, rows="independent"),
        }
        for name, chain in chains.items():
            found[name].append(chain.mean_and_error(chain.samples[:, 0]))
    for name, values in found.items():
        means, errors = np.array(values).T
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(means.std(), rel=0.2), name


def test_rounded_values_are_no_copies():
    rng = np.random.default_rng(0)
    rounded = Chain(np.round(rng.normal(size=(5000, 1)), 2), ParameterSpace(["x"]), rows="independent")
    assert rounded.effective_size == 5000
    both = Chain(np.round(rng.normal(size=(5000, 2)), 1), PLANE, rows="independent")
    assert both.effective_size == 5000
    for digits in (2, 3):  # a column that says what another does
        x = rng.normal(size=5000)
        twice = Chain(np.round(np.column_stack([x, 2 * x]), digits), PLANE, rows="independent")
        assert twice.effective_size == 5000
    copied = Chain(np.repeat(rng.normal(size=(500, 1)), 4, axis=0), ParameterSpace(["x"]), rows="independent")
    assert copied.effective_size == pytest.approx(500)


def neighbours_taught(chain: Chain) -> float:
    """Returns the share of held-out rows one of whose neighbours in time is taught."""
    taught, held = chain.deal(jax.random.key(0), [0.9, 0.1])
    is_taught = np.zeros(chain.n, bool)
    is_taught[taught] = True
    period = chain.row_order.period
    near = [is_taught[np.clip(held + step, 0, chain.n - 1)] for step in (-period, period)]
    return float(np.mean(near[0] | near[1]))


def test_held_out_rows_of_a_sequence_have_no_neighbours_in_training():
    """A tenth held out in 40 blocks at least: two rows of each block, of a hundred or more, have a taught neighbour."""
    rows, counts = metropolis(20_000, 0.3)
    for chain in (Chain(rows, PLANE, weights=counts), Chain(in_turn(5, 0.9), PLANE)):
        assert neighbours_taught(chain) < 0.1
    copies = Chain(RNG.permutation(METROPOLIS), PLANE)
    taught, held = (copies.samples[part] for part in copies.deal(jax.random.key(0), [0.9, 0.1]))
    assert not set(map(tuple, taught)) & set(map(tuple, held))


def test_rows_of_walkers_in_turn_are_thinned_walker_by_walker():
    chain = Chain(in_turn(5, 0.9), PLANE)
    thinned = chain.thin(10)
    assert len(np.unique(thinned.chain_id)) == 5
    first = chain.samples[::5][::10]
    np.testing.assert_array_equal(thinned.samples[thinned.chain_id == 0], first)


def test_what_weights_and_rows_are_is_kept_in_files(tmp_path):
    rows, counts = metropolis(6000, 1.5)
    chains = [
        Chain(rows, PLANE, weights=counts),
        Chain(rows, PLANE, weights=counts, weights_kind="importance", rows="independent"),
        Chain(rows, PLANE, weights=counts + 0.5, rows="sequence"),
        Chain(rows, PLANE, rows="independent"),
    ]
    for j, chain in enumerate(chains):
        path = write_chain(tmp_path / f"{j}.npz", chain)
        for back in (read_chain(path), read_chain(to_arviz(chain))):
            assert (back.weights_kind, back.rows) == (chain.weights_kind, chain.rows)
            assert back.fingerprint() == chain.fingerprint()
            assert back.info["rows"]["kind"] == chain.rows
    assert len({chain.fingerprint() for chain in chains}) == len(chains)


def test_arviz_sees_the_steps_of_counted_rows():
    rows, counts = metropolis(3000, 1.5)
    data = to_arviz(Chain(rows, PLANE, weights=counts))
    np.testing.assert_array_equal(data.posterior["a"].values[0], np.repeat(rows[:, 0], counts))


def test_kinds_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="weights_kind: expected one of 'importance', 'counts'; got 'mcmc'"):
        Chain(CLOUD[:, :2], PLANE, weights=np.ones(5000), weights_kind="mcmc")
    with pytest.raises(ValueError, match="rows: expected one of 'sequence', 'independent'; got 'iid'"):
        Chain(CLOUD[:, :2], PLANE, rows="iid")
    with pytest.raises(ValueError, match="expected whole numbers.*got fractions, 0.5"):
        Chain(CLOUD[:, :2], PLANE, weights=0.5 + np.arange(5000), weights_kind="counts")


def test_equal_weights_are_none_and_scaled_counts_are_counts():
    rows, counts = metropolis(3000, 1.5)
    assert Chain(rows, PLANE, weights=np.full(len(rows), 0.25)).weights is None
    scaled = Chain(rows, PLANE, weights=counts / counts.sum())
    assert scaled.weights_kind == "counts"
    np.testing.assert_allclose(scaled.probabilities, counts / counts.sum())
    assert scaled.effective_size == pytest.approx(Chain(rows, PLANE, weights=counts).effective_size)


@pytest.mark.filterwarnings("ignore:chain. .* takes a single value")
def test_weights_of_any_size_and_rows_of_one_value_are_no_trouble():
    tiny = np.where(np.arange(1000) % 2, 1e-320, 1e200)
    assert Chain(CLOUD[:1000, :2], PLANE, weights=tiny).weights_kind == "importance"
    assert Chain(np.zeros((1000, 2)), PLANE).rows == "sequence"


def test_walkers_in_turn_that_reject_are_no_shuffled_rows():
    """Copies stand as many rows apart as there are walkers, with chain ids or without."""
    walkers = [np.repeat(*metropolis(4000, 0.6, seed), axis=0)[:1500] for seed in range(5)]
    rows = np.stack(walkers, axis=1).reshape(-1, 2)
    by_walker = Chain(np.concatenate(walkers), PLANE, chain_id=np.repeat(np.arange(5), 1500))
    for chain in (Chain(rows, PLANE), Chain(rows, PLANE, chain_id=np.tile(np.arange(5), 1500))):
        assert chain.rows == "sequence"
        assert chain.effective_size == pytest.approx(by_walker.effective_size, rel=0.01)
    short = np.stack([walker[:8] for walker in walkers * 20], axis=1).reshape(-1, 2)  # too short to see a period
    assert Chain(short + 0.0 * RNG.normal(size=short.shape), PLANE).rows == "sequence"


def test_one_slow_parameter_of_a_reweighted_chain_makes_it_a_sequence():
    fast = np.random.default_rng(0).normal(size=(8000, 4))
    rows = np.column_stack([autoregression(8000, 0.99, 1), fast])
    space = ParameterSpace(list("abcde"))
    weights = np.exp(0.3 * rows[:, 0])
    for fields in ({}, {"chain_id": np.repeat(np.arange(4), 2000)}):
        assert Chain(rows, space, weights=weights, **fields).effective_size < 200


def test_what_was_recognised_is_kept_with_its_reason_until_the_rows_are_others():
    chain = Chain(CLOUD[BY_DENSITY], ParameterSpace(list("abcdef")))
    for part in (
        chain.take(np.arange(2000)),
        chain.select(["b", "a"]),
        chain.replace(info={}),
        chain.split(KEY, 0.5)[0],
    ):
        assert part.row_order == chain.row_order
    assert chain.replace(samples=CLOUD).rows == "sequence"
    reweighted = Chain(CLOUD, chain.space).replace(weights=RNG.random(5000))
    assert reweighted.rows == "sequence"  # it was one before, and the weights do not change that
    assert Chain(CLOUD, chain.space, weights=RNG.random(5000)).replace(weights=None).rows == "sequence"


def test_draws_off_the_edges_keep_the_order_that_was_recognised():
    rows = np.abs(CLOUD[BY_DENSITY])
    rows[::50, 0] = 0.0
    chain = Chain(rows, ParameterSpace(list("abcdef"), 0.0), log_prob=LOG_PROB)
    with pytest.warns(UserWarning, match="sit exactly on the bound"):
        moved = off_the_edges(chain.replace(log_prob=None))
    assert moved.rows == chain.rows == "independent"


def test_a_column_that_is_constant_within_chains_is_no_trouble():
    ids = np.repeat([0, 1], 500)
    chain = Chain(np.column_stack([RNG.normal(size=1000), ids]), PLANE, chain_id=ids)
    assert chain.rows == "sequence"
    assert sum(len(part) for part in chain.deal(KEY, [0.5, 0.5])) == 1000


def test_every_part_of_a_split_has_weight():
    late = np.where(np.arange(4000) < 300, RNG.integers(1, 5, 4000), 0)
    chain = Chain(autoregression(4000, 0.9), PLANE, weights=late)
    assert all(chain.weights[rows].any() for rows in chain.deal(KEY, [0.5, 0.5]))
    for seed in range(100):
        few = Chain(RNG.normal(size=(10, 2)), PLANE, rows="independent")
        assert min(part.n for part in few.split(jax.random.key(seed), 0.9)) >= 1


def test_independent_rows_of_a_weighted_sequence_have_its_weights():
    """Mean of exp(z) weights on a normal autoregression is one; 60 seeds, four standard errors of their mean."""
    means = []
    for seed in range(60):
        z = autoregression(4000, 0.9, 1, seed)
        chain = Chain(z, ParameterSpace(["x"]), weights=np.exp(z[:, 0]), rows="sequence")
        means.append(z[independent_rows(jax.random.key(seed), chain, np.empty((4000, 0)), 4000), 0].mean())
    assert abs(np.mean(means) - 1.0) < 4 * np.std(means) / np.sqrt(60)
    heavy = Chain(z, ParameterSpace(["x"]), weights=np.where(np.arange(4000) == 7, 1.0, 1e-9))
    assert len(independent_rows(jax.random.key(0), heavy, np.empty((4000, 0)), 4000)) <= 2
