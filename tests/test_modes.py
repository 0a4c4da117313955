"""Shares of modes: the exact ones of mixtures, errors that hold, silence where there is one mode."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from scipy.stats import norm

from numpyro_flowprior import Chain, Comparison, ParameterSpace, compare
from numpyro_flowprior.diagnostics.modes import ModeWeights, mode_weights

INF = np.inf


def chain_of(values: np.ndarray, lower: float = -INF, upper: float = INF, **parts) -> Chain:
    values = values.reshape(len(values), -1)
    return Chain(values, ParameterSpace([f"x{j}" for j in range(values.shape[1])], lower, upper), **parts)


def two_normals(seed: int, n: int, share: float, apart: float = 6.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=n) + np.where(rng.random(n) < share, 0.0, apart)


def hopping(seed: int, n: int, share: float, stay: float) -> np.ndarray:
    """A two-state Markov chain whose first state has the given share and whose autocorrelation is stay^t."""
    rng = np.random.default_rng(seed)
    fresh, first = rng.random(n) >= stay, rng.random(n) < share
    latest = np.maximum.accumulate(np.where(fresh, np.arange(n), 0))
    return rng.normal(size=n) + np.where(first[latest], 0.0, 6.0)


def weighted(seed: int, n: int) -> Chain:
    """Draws from the mixture with equal shares, weighted to shares of 0.2 and 0.8."""
    x = two_normals(seed, n, 0.5)
    density = [norm.pdf(x), norm.pdf(x, 6.0)]
    return chain_of(x, weights=(0.2 * density[0] + 0.8 * density[1]) / (density[0] + density[1]))


MIXTURES = {
    "independent": (0.2, lambda seed: chain_of(two_normals(seed, 1000, 0.2))),
    "autocorrelated": (0.2, lambda seed: chain_of(hopping(seed, 8000, 0.2, 0.9))),
    "weighted": (0.2, lambda seed: weighted(seed, 1500)),
    "a small mode": (0.03, lambda seed: chain_of(two_normals(seed, 3000, 0.03))),
}


@pytest.mark.parametrize("case", MIXTURES)
def test_shares_are_those_of_the_mixture_within_errors_that_hold(case):
    """The standard deviation of z over 60 is within 0.3 of 1 (chance: 1 in 1000) and their mean within 4 / sqrt(60)."""
    share, draw = MIXTURES[case]
    exact = share * norm.cdf(3.0) + (1.0 - share) * norm.cdf(-3.0)
    z, pulls = [], []
    for seed in range(0, 120, 2):
        (found,) = mode_weights(draw(seed), draw(seed + 1), {"x0": 3.0})
        z.append((found.a[0] - exact) / found.a_error[0])
        pulls.append(found.pulls[0])
    for values in (z, pulls):
        assert abs(np.mean(values)) < 4.0 / np.sqrt(60)
        assert abs(np.std(values) - 1.0) < 0.3
    (found,) = mode_weights(draw(0), draw(1))
    assert 2.0 < found.cuts[0] < 4.0


def test_three_modes_and_modes_that_only_one_chain_has():
    rng = np.random.default_rng(0)
    low, middle, high = (rng.normal(centre, 0.5, 2000) for centre in (-5.0, 0.0, 5.0))
    three, two = (chain_of(rng.permutation(np.concatenate(parts))) for parts in ((low, middle, high), (middle, high)))
    (found,) = mode_weights(three, two)
    np.testing.assert_allclose(found.cuts, [-2.5, 2.5], atol=0.5)
    np.testing.assert_allclose(found.a, 1 / 3, atol=1e-3)
    np.testing.assert_allclose(found.b, [0.0, 0.5, 0.5], atol=1e-3)
    assert 0.0 < found.b_error[0] < 1e-3
    (apart,) = mode_weights(chain_of(low), chain_of(high))
    assert np.allclose([apart.a, apart.b], [[1.0, 0.0], [0.0, 1.0]])
    assert abs(apart.pulls[0]) > 100


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 1.0), (0.0, INF), (-INF, 1.0), (-INF, INF)])
def test_modes_in_every_kind_of_support(lower, upper):
    rng = np.random.default_rng(0)
    values = rng.permutation(np.concatenate([rng.uniform(0.02, 0.08, 3000), rng.normal(0.7, 0.05, 1000)]))
    (found,) = mode_weights(*(chain_of(values, lower, upper) for _ in "ab"))
    assert 0.08 < found.cuts[0] < 0.55
    assert found.a[0] == pytest.approx(0.75, abs=1e-3)


DIM = 5  # of each chain without modes below
UNIMODAL = {
    "normal": lambda rng, n: chain_of(rng.normal(size=(n, DIM))),
    "uniform": lambda rng, n: chain_of(rng.uniform(size=(n, DIM))),
    "uniform in its box": lambda rng, n: chain_of(rng.uniform(size=(n, DIM)), 0.0, 1.0),
    "piled on an edge": lambda rng, n: chain_of(rng.beta(0.1, 2.0, size=(n, DIM)), 0.0, 1.0),
    "clipped": lambda rng, n: chain_of(rng.normal(0.4, 0.3, size=(n, DIM)).clip(0.0, 1.0), 0.0, 1.0),
    "rounded": lambda rng, n: chain_of(rng.normal(0.4, 0.05, size=(n, DIM)).round(2), 0.0, 1.0),
    "heavy tails": lambda rng, n: chain_of(rng.standard_cauchy(size=(n, DIM))),
    "half line": lambda rng, n: chain_of(rng.gamma(0.7, size=(n, DIM)), 0.0),
    "repeated rows": lambda rng, n: chain_of(np.repeat(rng.uniform(size=(n // 10, DIM)), 10, axis=0)),
    "weighted": lambda rng, n: chain_of(rng.uniform(size=(n, DIM)), weights=rng.lognormal(0.0, 0.5, n)),
}


@pytest.mark.parametrize("n", [300, 3000])
@pytest.mark.parametrize("case", UNIMODAL)
def test_one_mode_is_one_mode(case, n):
    """Ten pairs of five parameters; seeded: at the stated rate, 1 in 100 pairs of 20, an alarm has a chance of 3 %."""
    generators = [np.random.default_rng([seed, n]) for seed in range(10)]
    assert not any(mode_weights(*(UNIMODAL[case](rng, n) for _ in "ab")) for rng in generators)


@pytest.mark.filterwarnings("ignore:chain. 'x0' takes a single value")
@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0], np.zeros(500), np.tile([0.0, 1.0], 500)])
def test_few_or_constant_values_have_no_modes(values):
    for lower, upper in ((-INF, INF), (0.0, 1.0), (0.0, INF)):
        chain = chain_of(np.array(values), lower, upper)
        assert mode_weights(chain, chain) == ()


def test_cuts_by_hand():
    chain = chain_of(np.arange(10.0))
    (found,) = mode_weights(chain, chain, {"x0": [7.5, 1.5]})
    assert found.cuts == (1.5, 7.5)
    assert found.a == pytest.approx((0.2, 0.6, 0.2))
    assert found.ranges("y") == ["y < 1.5", "1.5 < y < 7.5", "y > 7.5"]
    assert mode_weights(chain, chain, {}) == ()
    with pytest.raises(ValueError, match="no parameter named 'y'"):
        mode_weights(chain, chain, {"y": 1.0})
    with pytest.raises(ValueError, match=r"modes\['x0'\]: expected finite"):
        mode_weights(chain, chain, {"x0": np.nan})


def test_a_comparison_tells_modes_and_classifier_and_keeps_them():
    a, b = (chain_of(two_normals(seed, 3000, share)) for seed, share in ((0, 0.2), (1, 0.4)))
    found = compare(a, b)
    assert abs(found.modes[0].pulls[0]) > 5
    assert found.classifier.p_value < 1e-6
    assert "x0 < " in str(found)
    assert f"classifier: area under the curve {found.classifier.auc:.4f}" in str(found)
    back = Comparison.from_json(json.loads(json.dumps(found.to_json())))
    assert str(back) == str(found)
    assert back.modes[0].cuts == found.modes[0].cuts
    assert isinstance(back.modes[0], ModeWeights)


def test_records_without_modes_and_classifier_are_read():
    chain = chain_of(two_normals(0, 500, 0.5))
    record = compare(chain, chain, modes={}, classify=False).to_json()
    assert not {"modes", "classifier"} & set(record)
    back = Comparison.from_json(record)
    assert (back.modes, back.classifier) == ((), None)
    assert "classifier" not in str(back)


def test_the_classifier_sees_what_marginals_do_not_and_nothing_where_nothing_is():
    """Of 40 pairs of one density, as many have p < 0.1 as the binomial distribution has within 0.9999: 0 to 13."""

    def pair(rng: np.random.Generator, correlation: float = 0.0) -> np.ndarray:
        return rng.multivariate_normal([0.0, 0.0], [[1.0, correlation], [correlation, 1.0]], size=500)

    generators = [np.random.default_rng(seed) for seed in range(40)]
    chances = [
        compare(chain_of(pair(rng)), chain_of(pair(rng)), repeats=2, modes={}, key=jax.random.key(j)).classifier.p_value
        for j, rng in enumerate(generators)
    ]
    assert np.sum(np.array(chances) < 0.1) <= 13
    rng = np.random.default_rng(0)
    assert compare(chain_of(pair(rng)), chain_of(pair(rng, 0.6)), modes={}).classifier.p_value < 1e-6


def test_too_few_rows_are_not_classified():
    chain = chain_of(np.random.default_rng(0).normal(size=15))
    assert compare(chain, chain).classifier is None
