"""What weights are and what the order of rows means: recognised where it shows, else said; kept in files."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest
from toys import autoregression, metropolis

from numpyro_flowprior import Chain, ParameterSpace, read_chain, to_arviz, write_chain_npz

PLANE = ParameterSpace(["a", "b"])


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
    (
        "rare jumps between modes",
        RNG.normal(size=(4000, 2)) + 5.0 * np.repeat([0, 1, 0, 1], 1000)[:, None],
        {},
        ("sequence", 1),
    ),
    ("burn-in", RNG.normal(size=(4000, 2)) + 5.0 * np.exp(-np.arange(4000) / 300)[:, None], {}, ("sequence", 1)),
    ("five walkers in turn", in_turn(5, 0.9), {}, ("sequence", 5)),
    ("two walkers in turn", in_turn(2, 0.8), {}, ("sequence", 2)),
    ("64 walkers in turn", in_turn(64, 0.9), {}, ("sequence", 64)),
    ("walkers in turn, stuck", in_turn(5, 0.5, spread=3.0), {}, ("sequence", 5)),
    (
        "sorted, with log density",
        CLOUD[BY_DENSITY],
        {"log_prob": -np.sum(CLOUD[BY_DENSITY] ** 2, axis=1)},
        ("independent", 1),
    ),
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


def test_particles_of_one_ancestor_are_worth_what_their_families_are():
    """100 families of 20 that share a centre: errors of the mean are those of 100 centres, a fifth wider."""
    errors, means = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        ancestor = rng.permutation(np.repeat(np.arange(100), 20))
        rows = rng.normal(size=100)[ancestor] + 0.5 * rng.normal(size=2000)
        chain = Chain(rows[:, None], ParameterSpace(["x"]), chain_id=ancestor, rows="independent")
        assert chain.r_hat is None
        means.append(chain.mean_and_error(rows)[0])
        errors.append(chain.mean_and_error(rows)[1])
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.2)
    assert chain.effective_size == pytest.approx(chain.covariance()[0, 0] / errors[-1] ** 2)
    first, second = chain.split(0.5, jax.random.key(0))
    assert not set(first.chain_id) & set(second.chain_id)
    four = chain.replace(chain_id=ancestor % 4)  # labels of four long chains, whose rows are said to be independent
    assert four.effective_size == 2000


def test_rounded_values_are_no_copies():
    rng = np.random.default_rng(0)
    rounded = Chain(np.round(rng.normal(size=(5000, 1)), 2), ParameterSpace(["x"]), rows="independent")
    assert rounded.effective_size == 5000
    both = Chain(np.round(rng.normal(size=(5000, 2)), 1), PLANE, rows="independent")
    assert both.effective_size == 5000
    copied = Chain(np.repeat(rng.normal(size=(500, 1)), 4, axis=0), ParameterSpace(["x"]), rows="independent")
    assert copied.effective_size == pytest.approx(500)


def neighbours_taught(chain: Chain) -> float:
    """Returns the share of held-out rows one of whose neighbours in time is taught."""
    taught, held = chain.deal([0.9, 0.1], jax.random.key(0))
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
    taught, held = (copies.samples[part] for part in copies.deal([0.9, 0.1], jax.random.key(0)))
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
        path = write_chain_npz(tmp_path / f"{j}.npz", chain)
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
        Chain(CLOUD[:, :2], PLANE, weights=np.full(5000, 0.5), weights_kind="counts")
