"""Rows that descend from common ancestors: what they are worth, and that families stay together."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.stats import kstest
from toys import make_prior

import numpyro_flowprior as fp
from numpyro_flowprior.diagnostics.independent import independent_rows
from numpyro_flowprior.formats.npz import write_npz
from numpyro_flowprior.formats.table import Table, joined, to_chain

PLANE = fp.ParameterSpace(["a", "b"])


def relatives(rng: np.random.Generator, families: int = 400, correlation: float = 0.9) -> fp.Chain:
    """Returns standard normal rows, 1 to 9 a family, of which any two in a family have this correlation."""
    family = np.repeat(np.arange(families), rng.integers(1, 10, families))
    shared, own = rng.normal(size=(families, 2))[family], rng.normal(size=(len(family), 2))
    rows = np.sqrt(correlation) * shared + np.sqrt(1.0 - correlation) * own
    order = rng.permutation(len(family))
    return fp.Chain(rows[order], PLANE, family_id=family[order])


def of_families(samples: np.ndarray, family: np.ndarray) -> float:
    return fp.Chain(samples, PLANE, family_id=family).effective_size


def test_families_of_copies_are_one_draw_each_and_independent_members_count_in_full():
    rng = np.random.default_rng(0)
    family = np.repeat(np.arange(500), 4)
    assert of_families(rng.normal(size=(500, 2))[family], family) == pytest.approx(500, rel=3e-3)
    independent = rng.normal(size=(2000, 2))
    assert of_families(independent, family) == pytest.approx(2000, rel=0.2)  # 500 squares: 6 % each, 3 sigma
    assert of_families(independent, np.arange(2000)) == pytest.approx(2000, rel=1e-3)
    assert of_families(independent, np.zeros(2000, dtype=int)) == 1.0  # one family's spread is unknown


@pytest.mark.filterwarnings("ignore:chain:UserWarning")
def test_a_constant_column_does_not_count():
    samples = np.column_stack([np.arange(10.0), np.ones(10)])
    assert of_families(samples, np.arange(10)) == pytest.approx(10, rel=0.11)


def test_errors_of_means_are_the_scatter_of_means():
    pulls = []
    for seed in range(200):
        mean, error = (chain := relatives(np.random.default_rng(seed))).mean_and_error(chain.samples)
        pulls += (mean / error).tolist()
    assert np.std(pulls) == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(pulls)))
    alone = chain.replace(family_id=None, rows="independent")
    assert alone.mean_and_error(chain.samples)[1][0] < 0.5 * error[0]  # without labels: two times too sure


@pytest.mark.parametrize("largest", [0.02, 0.2, 0.5, 0.9])
def test_errors_hold_for_families_of_any_size(largest):
    """Members that are copies of each other: the variance of the mean is the sum of squared shares."""
    counts = np.append(np.full(60, 5), round(300 * largest / (1 - largest)))
    family = np.repeat(np.arange(len(counts)), counts)
    exact = np.sum((counts / counts.sum()) ** 2)
    found = []
    for seed in range(100):
        rows = np.random.default_rng(seed).normal(size=(len(counts), 2))[family]
        chain = fp.Chain(rows, PLANE, family_id=family)
        found += (chain.mean_and_error(rows)[1] ** 2).tolist()
    assert np.mean(found) == pytest.approx(exact, rel=4 * np.std(found) / np.mean(found) / np.sqrt(len(found)))
    assert chain.effective_size <= 1.5 / exact


def test_one_family_with_all_the_weight_is_one_draw():
    rng = np.random.default_rng(0)
    weights = np.where(np.repeat(np.arange(20), 10) == 3, rng.random(200), 0.0)
    chain = fp.Chain(rng.normal(size=(200, 2)), PLANE, weights=weights, family_id=np.repeat(np.arange(20), 10))
    assert chain.effective_size == 1.0
    assert np.isinf(chain.mean_and_error(chain.samples)[1]).all()


def test_a_few_families_are_known_with_the_error_of_a_few():
    """The factor k / (k - 1): the sum of deviations from the rows' own mean is zero."""
    pulls = []
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        family = np.repeat(np.arange(5), 40)
        chain = fp.Chain(rng.normal(size=(5, 2))[family] + 1e-9 * rng.normal(size=(200, 2)), PLANE, family_id=family)
        mean, error = chain.mean_and_error(chain.samples)
        pulls += (mean / error).tolist()
    assert kstest(pulls, "t", (4,)).pvalue > 1e-3


def test_families_stay_together_when_rows_are_dealt():
    chain = relatives(np.random.default_rng(0))
    first, second = chain.split(jax.random.key(0), 0.8)
    assert not set(first.family_id) & set(second.family_id)
    assert first.n == pytest.approx(0.8 * chain.n, rel=0.1)


def test_rows_for_tests_are_of_different_families():
    p_values = []
    for seed in range(100):
        chain = relatives(np.random.default_rng(seed))
        rows = independent_rows(jax.random.key(seed), chain, chain.samples[:, 0], 4000)
        families, times = np.unique(chain.family_id[rows], return_counts=True)
        assert np.mean(times > 1) < 0.05
        assert len(families) > 150  # of 400, of unlike weight
        p_values.append(kstest(chain.samples[rows, 0], "norm").pvalue)
    assert kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(("shared", "least", "most"), [(0.0, 400, 2100), (0.02, 60, 400), (0.3, 10, 100)])
def test_few_large_families_give_as_many_rows_as_they_forget_their_ancestor(shared, least, most):
    """Fifty families of forty rows; `shared` is the part of the variance that the rows of one have in common."""
    counts, p_values = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        family = np.repeat(np.arange(50), 1 + rng.poisson(40 * rng.exponential(size=50)))
        own, common = rng.normal(size=(len(family), 2)), rng.normal(size=(50, 2))[family]
        chain = fp.Chain(np.sqrt(shared) * common + np.sqrt(1 - shared) * own, PLANE, family_id=family)
        rows = independent_rows(jax.random.key(seed), chain, chain.samples[:, 0] ** 2, 4000)
        counts.append(len(rows))
        p_values += [kstest(column[rows], "norm").pvalue for column in chain.samples.T]
    assert least < np.median(counts) < most
    assert kstest(p_values, "uniform").pvalue > 1e-3


def test_equal_densities_are_not_told_apart_and_unlike_ones_are():
    pulls, found = [], []
    for seed in range(40):
        p, q = (relatives(np.random.default_rng([seed, part])) for part in (0, 1))
        pulls.append((c := fp.compare(p, q, classify=False, modes={})).excess / c.excess_error)
        shifted = q.replace(samples=0.5 + q.samples)
        found.append((c := fp.compare(p, shifted, classify=False, modes={})).excess / c.excess_error)
    assert np.mean(np.abs(pulls) < 2) >= 0.85
    assert np.mean(np.array(found) > 3) > 0.9
    p, q = (chain.replace(family_id=None, rows="independent") for chain in (p, q))
    assert fp.compare(p, q, classify=False, modes={}).excess_error < 0.7 * c.excess_error  # without labels: too sure


def test_families_are_kept_in_files_and_by_what_is_made_of_a_chain(tmp_path):
    chain = relatives(np.random.default_rng(0), families=1000)
    for path in (write_npz(tmp_path / "chain.npz", chain), tmp_path / "chain.nc"):
        if path.suffix == ".nc":
            fp.to_arviz(chain).to_netcdf(str(path))
        read = fp.read_chain(path)
        np.testing.assert_array_equal(read.family_id, chain.family_id)
        assert (read.rows, read.effective_size) == ("independent", chain.effective_size)
    assert chain.select(["a"]).take(np.arange(1000)).effective_size < 0.7 * 1000
    assert chain.resample(jax.random.key(0), 500).family_id is not None
    assert chain.fingerprint() != chain.replace(family_id=chain.family_id[::-1]).fingerprint()
    by_name = {"a": chain.samples[:, 0], "family_id": chain.family_id.astype(float)}
    assert fp.read_chain(by_name).family_id.dtype == np.int64


def test_files_of_several_runs_keep_their_families_apart():
    part = Table(np.zeros((4, 2)) + np.arange(4)[:, None], ("a", "b"), {"family_id": np.array([0, 0, 1, 1])})
    alone = Table(np.ones((2, 2)) * np.arange(2)[:, None], ("a", "b"), rows="independent")
    chain = to_chain(joined([part, part, alone]), None)
    assert chain.family_id.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]
    for rows in (None, "sequence"):
        with pytest.raises(
            ValueError, match="expected parts that all have family_id or rows='independent'; got one without"
        ):
            joined([part, replace(alone, rows=rows)])


def test_an_arviz_posterior_that_was_changed_or_cut_is_read_as_it_is():
    data = fp.to_arviz(relatives(np.random.default_rng(0)))
    cut = fp.from_arviz(data.sel(draw=slice(0, 599)))
    assert cut.n == 600
    assert cut.effective_size < 400
    data.posterior["a"] = 1000.0 * data.posterior["a"]
    assert fp.from_arviz(data).samples[:, 0].std() > 500


@pytest.mark.parametrize("families", [1, 2, 8])
def test_no_right_prior_fails_by_a_few_families(families):
    prior = make_prior([(-np.inf, np.inf)] * 2, fp.FlowConfig(base="normal", layers=0))
    verdicts = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        family = np.repeat(np.arange(families), 200 // families)
        rows = np.sqrt(0.99) * rng.normal(size=(families, 2))[family] + 0.1 * rng.normal(size=(len(family), 2))
        theta = np.asarray(prior.from_latent(rows), np.float64)
        chain = fp.Chain(theta, prior.space, family_id=family)
        report = fp.quality_report(jax.random.key(seed), prior, chain)
        assert report.independent_rows <= families
        verdicts.add(report.verdict)
    assert verdicts == {"warn"}


def test_chains_of_too_few_families_are_not_compared():
    chain = relatives(np.random.default_rng(0), families=3)
    with pytest.raises(ValueError, match=r"expected chains of at least 4 families .* got 3 families with an effective"):
        fp.compare(chain, chain)


def test_families_in_time_are_refused():
    with pytest.raises(ValueError, match="chain.family_id: expected none with rows='sequence'"):
        fp.Chain(np.eye(2), PLANE, family_id=[0, 1], rows="sequence")
    with pytest.raises(ValueError, match="chain.family_id: expected 2 integers"):
        fp.Chain(np.eye(2), PLANE, family_id=[0.5, 1.0])
