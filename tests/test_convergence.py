"""R-hat against ArviZ, and what users are told of chains that are not fit for use as they are."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from numpyro_flowprior import Chain, ParameterSpace, read_chain, write_chain
from numpyro_flowprior.chains.checks import check_convergence

SPACE = ParameterSpace(["a", "b"])


def chains(n_chains: int = 4, n: int = 500, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> Chain:
    x = np.random.default_rng(seed).normal(size=(n_chains, n, 2))
    x[0, :, 0] = shift + scale * x[0, :, 0]
    return Chain(x.reshape(-1, 2), SPACE, chain_id=np.repeat(np.arange(n_chains), n))


CASES = [
    {},
    {"shift": 0.5},
    {"scale": 3.0},
    {"n": 101},
    {"n_chains": 2, "n": 10},
    {"n_chains": 7, "n": 33, "shift": 9.0},
]


@pytest.mark.parametrize("case", CASES)
def test_r_hat_is_arvizs(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    held = chains(**case)
    folded = held.samples.reshape(case.get("n_chains", 4), -1, 2)
    expected = [float(arviz.rhat(folded[:, :, j], method="rank")) for j in range(2)]
    np.testing.assert_allclose(held.r_hat, expected, rtol=1e-10)


def test_r_hat_counts_repeated_rows_and_needs_two_chains():
    held = chains()
    counts = np.random.default_rng(1).integers(0, 4, held.n)
    counted = held.replace(weights=counts)
    repeated = held.take(np.repeat(np.arange(held.n), counts))
    np.testing.assert_allclose(counted.r_hat, repeated.r_hat, rtol=1e-12)
    assert held.replace(weights=counts + np.pi).r_hat is None
    assert held.replace(chain_id=None).r_hat is None
    assert held.replace(chain_id=np.zeros(held.n, dtype=int)).r_hat is None


@pytest.mark.filterwarnings("ignore:chain. 'b' takes a single value")
def test_r_hat_of_constant_and_stuck_columns():
    stuck = np.repeat([0.0, 1.0], 50)
    held = Chain(np.column_stack([stuck, np.zeros(100)]), SPACE, chain_id=stuck.astype(int))
    assert held.r_hat[0] == np.inf
    assert np.isnan(held.r_hat[1])


def test_r_hat_of_long_chains_is_of_evenly_spaced_rows(monkeypatch):
    whole = chains(n=5000, shift=1.0)
    exact = whole.r_hat
    monkeypatch.setattr("numpyro_flowprior.chains.convergence._MOST_ROWS", 4000)
    np.testing.assert_allclose(chains(n=5000, shift=1.0).r_hat, exact, rtol=0.03)  # noise of 4,000 draws


def slow(n: int, rho: float) -> np.ndarray:
    rng, x = np.random.default_rng(0), np.zeros((n, 2))
    for t in range(1, n):
        x[t] = rho * x[t - 1] + rng.normal(size=2)
    return x


BAD_CHAINS = [
    (chains(shift=1.0), r"R-hat: got 1\.\d+ for a \(at most 1\.01\).* The chains disagree"),
    (Chain(slow(2000, 0.99), SPACE), r"2000 rows hold \d+ \(autocorrelation time \d+ rows\).*run the analysis longer"),
    (Chain(slow(2000, 0.99), SPACE, weights=np.full(2000, 2.0)), r"2000 rows hold \d+ \(autocorrelation time"),
    (chains().replace(weights=1.0 * (np.arange(2000) < 20) + 1e-9), "few rows have most of the weight"),
]


@pytest.mark.parametrize(("held", "message"), BAD_CHAINS)
def test_users_are_told_once_of_chains_that_are_not_fit(tmp_path, held, message):
    path = write_chain(tmp_path / "c.npz", held)
    with pytest.warns(UserWarning, match=message) as caught:
        read_chain(path)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("weights", [None, np.arange(20_000) % 3 + 1])
def test_no_advice_is_given_to_thin_long_chains(tmp_path, weights):
    """Tails need every row: a chain of 20,000 correlated rows is fit for use as it is."""
    held = Chain(slow(20_000, 0.9), SPACE, weights=weights)
    report, unfit = check_convergence(read_chain(write_chain(tmp_path / "c.npz", held)))
    assert unfit == []
    assert report["autocorrelation_time"] > 10


def test_converged_chains_raise_no_alarm_however_short():
    """300 sets of chains at a false-alarm rate of 1e-3 each: two alarms or more in 4 % of all seeds."""
    alarms = 0
    for seed in range(300):
        held = chains(n=40 + seed % 200, n_chains=2 + seed % 9, seed=seed)
        alarms += any("R-hat" in sentence for sentence in check_convergence(held)[1])
    assert alarms <= 1


def test_a_good_chain_is_read_in_silence_and_reported(tmp_path):
    read = read_chain(write_chain(tmp_path / "c.npz", chains().replace(info={"sampler": "x"})))
    report = read.info["convergence"]
    assert read.info["sampler"] == "x"
    assert report["effective_size"] == read.effective_size > 1500
    assert report["r_hat"]["a"] == read.r_hat[0] < 1.01
