"""Designs fill the box, or follow a posterior, and are the same for the same key."""

import jax
import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.stats import kstest, qmc

from numpyro_flowprior import Chain, ParameterSpace, design_points

SPACE = ParameterSpace(["a", "b", "c"], [-1.0, 0.0, 10.0], [1.0, 2.0, 40.0])
LOWER, UPPER = SPACE.bounds.T
KEY = jax.random.key(0)


def in_unit_box(points):
    return (points - LOWER) / (UPPER - LOWER)


def test_a_latin_hypercube_whose_points_are_apart():
    points = in_unit_box(design_points(KEY, SPACE, 60))
    cells = np.sort(np.floor(60 * points).astype(int), axis=0)
    np.testing.assert_array_equal(cells, np.repeat(np.arange(60)[:, None], 3, axis=1))
    plain = [pdist(qmc.LatinHypercube(3, rng=seed).random(60)).min() for seed in range(200)]
    assert pdist(points).min() > max(plain)  # better than the best of 200 without exchanges


def test_sobol_is_scipys_and_balanced():
    points = in_unit_box(design_points(KEY, SPACE, 64, method="sobol"))
    for column in points.T:
        np.testing.assert_array_equal(np.bincount(np.floor(64 * column).astype(int)), np.ones(64))
    assert qmc.discrepancy(points) < 0.3 * qmc.discrepancy(np.random.default_rng(0).random((64, 3)))


@pytest.mark.parametrize("method", ["maximin", "sobol"])
def test_the_key_decides(method):
    first, again = (design_points(KEY, SPACE, 20, method=method) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, design_points(jax.random.key(1), SPACE, 20, method=method))
    assert SPACE.contains(first).all()


def posterior(n=2000):
    """A banana near a corner of the box, in two modes."""
    rng = np.random.default_rng(1)
    a = rng.normal(0.6, 0.05, n)
    b = 1.2 + 4 * (a - 0.6) ** 2 + rng.normal(0, 0.02, n)
    c = np.where(rng.random(n) < 0.5, 12.0, 30.0) + rng.normal(0, 0.5, n)
    return Chain(np.stack([a, b, c], axis=-1), SPACE)


def test_points_around_a_posterior_follow_it_and_keep_off_each_other():
    chain = posterior()
    points = design_points(KEY, SPACE, 40, chain=chain)
    assert points.shape == (40, 3)
    assert SPACE.contains(points).all()
    inside = cdist(points / chain.samples.std(0), chain.samples / chain.samples.std(0)).min(axis=1)
    assert np.quantile(inside, 0.9) < 0.5  # of a deviation from the nearest draw
    assert 5 < np.sum(points[:, 2] < 20) < 35  # both modes
    scale = chain.samples.std(0)
    drawn = chain.samples[np.random.default_rng(0).integers(0, 2000, 40)]
    assert pdist(points / scale).min() > 3 * pdist(drawn / scale).min()


def test_points_where_the_model_has_been_run_are_avoided():
    chain = posterior()
    first = design_points(KEY, SPACE, 30, chain=chain)
    scale = chain.samples.std(0)
    alone, knowing = (design_points(jax.random.key(1), SPACE, 30, chain=chain, existing=e) for e in (None, first))
    apart = [cdist(points / scale, first / scale).min() for points in (alone, knowing)]
    assert apart[1] > apart[0]


def test_weights_and_the_order_of_columns_count():
    chain = posterior()
    weights = np.where(chain.samples[:, 2] < 20, 1.0, 0.0)
    chain = Chain(chain.samples, SPACE, weights=weights).select(["c", "a", "b"])
    points = design_points(KEY, SPACE, 30, chain=chain)
    assert (points[:, 2] < 20).all()


def test_a_short_chain_gives_new_points():
    chain = posterior(40)
    points = design_points(KEY, SPACE, 100, chain=chain)
    assert len(np.unique(points, axis=0)) == 100


def test_draws_outside_of_the_space_are_left_out():
    wide = ParameterSpace(["a", "b", "c"], -100.0, 100.0)
    chain = Chain(np.random.default_rng(0).normal([0, 1, 20], 10.0, (2000, 3)), wide)
    assert SPACE.contains(design_points(KEY, SPACE, 50, chain=chain)).all()
    with pytest.raises(ValueError, match="chain: expected draws inside the space's bounds; 0 of 9 are"):
        design_points(KEY, SPACE, 5, chain=Chain(np.full((9, 3), -50.0) - np.arange(9)[:, None], wide))


def test_flat_marginals_of_the_whole_design():
    points = in_unit_box(design_points(KEY, SPACE, 300))
    assert all(kstest(column, "uniform").statistic < 1 / 300 + 1e-9 for column in points.T)


OPEN = ParameterSpace(["a", "b"], [0.0, -np.inf], [1.0, np.inf])
BAD = {
    "space": (dict(space=["a"]), TypeError, "space: expected a ParameterSpace; got list"),
    "n": (dict(n=1), ValueError, "n: expected an integer >= 2"),
    "fraction": (dict(n=2.5), TypeError, "n: expected an integer"),
    "method": (dict(method="grid"), ValueError, "method: expected one of 'maximin', 'sobol'"),
    "no bounds": (dict(space=OPEN), ValueError, "space: expected finite bounds; got infinite ones for 'b'"),
    "chain": (dict(chain=np.ones((5, 3))), TypeError, "chain: expected a Chain; got ndarray"),
    "names": (dict(chain=posterior(50).select(["a", "b"])), ValueError, "'c'"),
    "existing alone": (
        dict(existing=np.ones((2, 3))),
        ValueError,
        "existing: expected a chain as well; got none. Pass chain",
    ),
    "existing": (dict(chain=posterior(50), existing=np.ones((2, 2))), ValueError, r"existing: expected shape \(n, 3\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_by_name(name):
    options, error, message = BAD[name]
    options = {"space": SPACE, "n": 10, **options}
    with pytest.raises(error, match=message):
        design_points(KEY, options.pop("space"), options.pop("n"), **options)
