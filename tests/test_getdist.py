"""Chains as GetDist, CosmoMC, PolyChord, Cobaya and MontePython leave them on disk."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from numpyro_flowprior import read_chain

N = 2000
RNG = np.random.default_rng(5)
DRAWS = RNG.normal(size=(N, 2))
MINUS = 0.5 * (DRAWS**2).sum(axis=1)
COUNTS = RNG.integers(1, 4, N)


def write(folder: Path, root: str, weights=COUNTS, second=MINUS, draws=DRAWS, *, ranges: str = "", marked: str = ""):
    """Writes chains as root.txt, or root_1.txt, ... if weights is a list, with names beside them."""
    folder.mkdir(exist_ok=True)
    rows = np.column_stack([weights, second, draws])
    np.savetxt(folder / f"{root}.txt", rows)
    base = root.rpartition("_")[0] if root[-1].isdigit() else root
    (folder / f"{base}.paramnames").write_text(f"a\t\\alpha\nb{marked}\t\\beta\n")
    if ranges:
        (folder / f"{base}.ranges").write_text(ranges)
    return folder / base


def ar1(rho: float, n: int, rng) -> np.ndarray:
    noise = np.sqrt(1 - rho**2) * rng.normal(size=(n, 2))
    x = np.empty((n, 2))
    x[0] = rng.normal(size=2)
    for j in range(1, n):
        x[j] = rho * x[j - 1] + noise[j]
    return x


@pytest.mark.parametrize("roots", [1, 3])
@pytest.mark.parametrize("reader", ["files", "mcsamples"])
def test_rows_sorted_by_a_column_that_is_withheld_are_independent(tmp_path, roots, reader):
    order = np.argsort(-MINUS)
    for j in range(1, roots + 1):  # PolyChord's equal weights, in the order of their likelihood
        write(tmp_path, f"p_{j}", np.ones(N), 2.0 * MINUS[order], DRAWS[order])
    source = tmp_path / "p"
    if reader == "mcsamples":
        getdist = pytest.importorskip("getdist")
        source = getdist.loadMCSamples(str(source), settings={"ignore_rows": 0})
        source.sampler = "nested"
    chain = read_chain(source)
    assert chain.log_prob is None
    assert chain.rows == "independent"
    assert chain.effective_size > 0.99 * N  # parts of three are the same rows: copies count once


def test_a_chain_in_time_beside_a_column_that_is_withheld_is_a_sequence(tmp_path):
    draws = ar1(0.95, N, RNG)
    with pytest.warns(UserWarning, match="Effective size"):
        chain = read_chain(write(tmp_path, "p", np.ones(N), (draws**2).sum(axis=1), draws))
    assert chain.rows == "sequence"
    assert chain.effective_size < 0.1 * N


@pytest.mark.parametrize("chains", [None, np.repeat([0, 1], N // 2)])
def test_importance_weights_make_rows_independent_with_chain_ids_too(chains):
    order = np.argsort(-MINUS)
    columns = {"a": DRAWS[order, 0], "b": DRAWS[order, 1], "weights": RNG.exponential(size=N)}
    assert read_chain(columns if chains is None else columns | {"chain_id": chains}).rows == "independent"


def test_a_second_column_of_one_value_is_no_log_density(tmp_path):
    root = write(tmp_path, "c", second=np.zeros(N))
    chain = read_chain(root)
    assert chain.log_prob is None
    assert "same in every row" in chain.info["left_out"]["log_prob"]
    assert read_chain(root, log_posterior=True).log_prob is not None


def test_points_that_cosmomc_rejects_are_dead(tmp_path):
    weights, second = COUNTS.copy(), MINUS.copy()
    weights[7], second[7] = 0, 1e30
    with pytest.warns(UserWarning, match="1e30"):
        chain = read_chain(write(tmp_path, "c", weights, second))
    assert chain.n == N - 1
    assert np.isfinite(chain.log_prob).all()
    weights[7] = 1
    with pytest.warns(UserWarning, match="Rejected points are left out: 1 of 2000 rows, with a -log posterior of 1e30"):
        assert read_chain(write(tmp_path, "c", weights, second)).n == N - 1


def test_rejected_points_are_told_of_cobaya_too(tmp_path):
    path = cobaya(tmp_path, "c")
    lines = path.read_text().splitlines()
    cells = lines[5].split()
    path.write_text("\n".join([*lines[:5], " ".join([cells[0], "1e30", *cells[2:]]), *lines[6:]]) + "\n")
    with pytest.warns(UserWarning, match="Rejected points are left out: 1 of 2000 rows"):
        assert read_chain(path, sampled=["a", "b"]).n == N - 1


def test_other_files_in_a_folder_may_hold_anything(tmp_path):
    root = write(tmp_path, "c")
    (tmp_path / "notes.txt").write_bytes(b"\xff\xfe\x00 notes")
    assert read_chain(root.parent).n == N


def test_parts_with_other_bounds_are_refused(tmp_path):
    write(tmp_path, "one", ranges="a -5 5\n")
    write(tmp_path, "two", ranges="a -6 5\n")
    with pytest.raises(ValueError, match=r"part 2: 'a': expected bounds \(-5.0, 5.0\) as in part 1; got \(-6.0, 5.0\)"):
        read_chain([tmp_path / "one.txt", tmp_path / "two.txt"])


def test_parts_with_other_derived_parameters_are_refused(tmp_path):
    write(tmp_path, "one")
    write(tmp_path, "two", marked="*")
    with pytest.raises(ValueError, match="part 2: 'b': expected derived False as in part 1; got True"):
        read_chain([tmp_path / "one.txt", tmp_path / "two.txt"])


def test_a_periodic_parameter_is_told(tmp_path):
    chain = read_chain(write(tmp_path, "c", ranges="a -5 5 periodic\nb N N\n"))
    assert chain.info["priors"] == {"a": "periodic"}
    np.testing.assert_array_equal(chain.space.bounds[0], [-5.0, 5.0])


def cobaya(folder: Path, root: str, temperature: float = 1.0, extra: float = 0.0) -> Path:
    """Writes a Cobaya chain at a temperature, with a part of its -log posterior that no column explains."""
    draws = np.sqrt(temperature) * DRAWS
    whole = 0.5 * (draws**2).sum(axis=1)
    stored = (whole + 0.5 + extra * draws[:, 0] ** 3) / temperature
    rows = np.column_stack([COUNTS, stored, draws, np.full(N, 0.5), 2.0 * whole])
    np.savetxt(folder / f"{root}.1.txt", rows, header="weight minuslogpost a b minuslogprior chi2")
    return folder / f"{root}.1.txt"


def test_a_log_posterior_that_its_parts_do_not_explain_is_told(tmp_path):
    with pytest.warns(UserWarning, match="minuslogpost is not"):
        chain = read_chain(cobaya(tmp_path, "c", extra=0.3), sampled=["a", "b"])
    assert chain.log_likelihood is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_chain(cobaya(tmp_path, "d"), sampled=["a", "b"]).log_likelihood is not None


def test_chains_of_different_temperatures_are_refused(tmp_path):
    files = [cobaya(tmp_path, "c"), cobaya(tmp_path, "d", 2.0)]
    with pytest.raises(ValueError, match="part 2: expected temperature 1 as in part 1; got 2"):
        read_chain(files, sampled=["a", "b"])


def test_thinned_mcsamples_have_lost_their_chains(tmp_path):
    getdist = pytest.importorskip("getdist")
    for j in (1, 2):
        write(tmp_path, f"c_{j}")
    samples = getdist.loadMCSamples(str(tmp_path / "c"), settings={"ignore_rows": 0})
    assert len(np.unique(read_chain(samples).chain_id)) == 2
    samples.thin(5)
    chain = read_chain(samples)
    assert chain.chain_id is None
    assert "chains" in chain.info["left_out"]


@pytest.mark.parametrize("name", ["c.paramnames", "c.ranges"])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_is_named(tmp_path, name, encoding):
    root = write(tmp_path, "c", ranges="a -5 5\n")
    (tmp_path / name).write_text("a -5 5 \u00e4\nb -5 5\n", encoding=encoding)
    with pytest.raises(ValueError, match=f"{name}: expected text in UTF-8"):
        read_chain(root)


def test_a_folder_with_one_root_is_read(tmp_path):
    for j in (1, 2):  # as MontePython calls them
        write(tmp_path / "run", f"2026-01-31_100000__{j}")
    (tmp_path / "run" / "log.param").write_text("x")
    chain = read_chain(tmp_path / "run")
    assert chain.n == 2 * N
    write(tmp_path / "run", "other_1")
    with pytest.raises(ValueError, match="one root; got the roots '2026-01-31_100000_', 'other'"):
        read_chain(tmp_path / "run")
    with pytest.raises(ValueError, match="one root; got none"):
        read_chain(tmp_path)
    (tmp_path / "cobaya").mkdir()
    cobaya(tmp_path / "cobaya", "a").rename(tmp_path / "cobaya" / "single.txt")
    assert read_chain(tmp_path / "cobaya", sampled=["a", "b"]).n == N
    cobaya(tmp_path / "run", "cobaya")
    with pytest.raises(ValueError, match="'2026-01-31_100000_', 'cobaya', 'other'"):
        read_chain(tmp_path / "run")
