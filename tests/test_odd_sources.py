"""Runs and files that are almost what a reader expects."""

from __future__ import annotations

import pickle
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from numpyro_flowprior import Chain, ModelDensity, ParameterSpace, UniformPrior, read_chain, to_arviz

h5py = pytest.importorskip("h5py")

RNG = np.random.default_rng(0)
PRIOR = UniformPrior(ParameterSpace(["a", "b"], -3.0, 3.0))


def model(prior, y=None):
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(theta[0], 1.0), obs=y)


def hdf5(folder: Path, **arrays) -> Path:
    """Writes an HDF5 file with these arrays, a/b being b in the group a."""
    path = folder / "run.h5"
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("__", "/")] = values
    return path


ODD_FILES = [
    ({"mcmc__chain__model_0": RNG.normal(size=(5, 2, 8, 1, 3)), "mcmc__log_like": RNG.normal(size=(5, 2, 8))}, "Eryn"),
    (
        {"mcmc__chain": RNG.normal(size=(50, 2, 8, 3)), "mcmc__log_prob": RNG.normal(size=(50, 2, 8))},
        r"mcmc/chain: expected shape \(steps, walkers, parameters\), for one ensemble; got shape \(50, 2, 8, 3\)",
    ),
    ({"posterior__a": RNG.normal(size=50), "label": "x"}, "If bilby wrote it, read it with"),
    ({"other__chain": np.zeros((5, 4, 2))}, r"the file has 'other' with 'chain'. Pass group=..."),
]


@pytest.mark.parametrize(("arrays", "message"), ODD_FILES)
def test_an_hdf5_file_of_another_kind_is_told_what_to_do(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        read_chain(hdf5(tmp_path, **arrays))


def ensemble() -> tuple[np.ndarray, np.ndarray]:
    chain = RNG.normal(size=(300, 8, 2))
    return chain, -0.5 * (chain**2).sum(axis=-1)


def test_walkers_that_never_moved_are_told(tmp_path):
    chain, log_prob = ensemble()
    chain[:, 3], log_prob[:, 3] = chain[0, 3], log_prob[0, 3]
    with pytest.warns(UserWarning, match=r"1 of 8 walkers \(3\) did not move in \d+ steps"):
        assert len(np.unique(read_chain(hdf5(tmp_path, mcmc__chain=chain, mcmc__log_prob=log_prob)).chain_id)) == 8


def test_walkers_without_a_density_are_left_out_and_told(tmp_path):
    chain, log_prob = ensemble()
    log_prob[:, 3] = -np.inf
    with pytest.warns(UserWarning, match="1 of 8 walkers are left out: their log density is -infinity"):
        read = read_chain(hdf5(tmp_path, mcmc__chain=chain, mcmc__log_prob=log_prob))
    assert set(read.chain_id) == {0, 1, 2, 4, 5, 6, 7}
    np.testing.assert_allclose(read.log_prob, -0.5 * (read.samples**2).sum(axis=1))
    assert "walkers" in read.info["left_out"]
    assert read.info["autocorrelation_time"] < 3.0


def test_walkers_without_a_density_do_not_make_the_burn_in(tmp_path):
    chain, log_prob = ensemble()
    chain[:, 3], log_prob[:, 3] = [500.0, -400.0], -np.inf
    with pytest.warns(UserWarning, match="1 of 8 walkers are left out"):
        read = read_chain(hdf5(tmp_path, mcmc__chain=chain, mcmc__log_prob=log_prob))
    assert read.info["autocorrelation_time"] < 3.0


def test_walkers_that_all_move_are_read_without_a_word(tmp_path):
    chain, log_prob = ensemble()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_chain(hdf5(tmp_path, mcmc__chain=chain, mcmc__log_prob=log_prob))


def test_arviz_variables_without_draws_are_left_out():
    arviz, xarray = pytest.importorskip("arviz"), pytest.importorskip("xarray")
    values = {"a": RNG.normal(size=(4, 200))}
    data = arviz.from_dict(posterior=values) if arviz.__version__ < "1" else arviz.from_dict({"posterior": values})
    data.posterior["constant"] = xarray.DataArray(3.0)
    data.posterior["per_chain"] = ("chain", np.arange(4.0))
    chain = read_chain(data)
    assert chain.names == ("a",)
    assert {"constant", "per_chain"} <= chain.info["left_out"].keys()


def test_stan_settings_may_have_exponents(tmp_path):
    settings = "# stan_version_major = 2\n# num_samples = 4e2\n# num_warmup = 1e2\n# save_warmup = 1\nlp__,a,b\n"
    rows = RNG.normal(size=(500, 3))
    text = "\n".join(",".join(map(repr, row)) for row in rows.tolist())
    (tmp_path / "s.csv").write_text(settings + text + "\n")
    np.testing.assert_array_equal(read_chain(tmp_path / "s.csv").samples, rows[100:, 1:])


def test_names_name_the_columns_of_an_array():
    draws = RNG.normal(size=(500, 3))
    chain = read_chain(draws, names=["c", "a", "b"])
    assert chain.names == ("c", "a", "b")
    np.testing.assert_array_equal(chain.samples, draws)
    assert read_chain(draws, names=["theta[2]", "theta[0]"]).names == ("theta[2]", "theta[0]")
    bounded = read_chain({"samples": draws, "lower": [-9.0, -8.0, -7.0]}, names=["c", "a", "b"])
    np.testing.assert_array_equal(bounded.space.lower, [-9.0, -8.0, -7.0])
    with pytest.raises(ValueError, match="names: expected 3, one for each column of a source without names"):
        read_chain(draws, names=["a", "b"])


@pytest.mark.parametrize("places", [1, 2])
def test_rounded_importance_weights_are_no_counts(places):
    weights = np.round(RNG.exponential(size=2000), places) + 10.0**-places
    assert Chain(RNG.normal(size=(2000, 2)), ParameterSpace(["a", "b"]), weights=weights).weights_kind == "importance"


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5, 1 / 1234.0, None])
def test_counts_in_any_unit_are_counts(scale):
    counts = RNG.geometric(0.4, size=2000).astype(float)
    counts[-1] += 10_000 - counts.sum()  # of which the sum is a power of ten
    weights = counts / counts.sum() if scale is None else scale * counts
    assert Chain(RNG.normal(size=(2000, 2)), ParameterSpace(["a", "b"]), weights=weights).weights_kind == "counts"


def test_r_hat_is_told_with_the_limit_of_its_own_parameter():
    ids = np.repeat(np.arange(4), 100)
    columns = {"a": RNG.normal(size=400) + 0.5 * ids, "slow": np.cumsum(RNG.normal(size=400)), "chain_id": ids}
    with pytest.warns(UserWarning, match=r"R-hat: got 1\.\d+ for a \(at most 1\.0\d\)"):
        read_chain(columns)


@pytest.mark.parametrize("reader", [read_chain, to_arviz])
def test_a_run_that_was_only_warmed_up_has_no_draws(reader):
    mcmc = numpyro.infer.MCMC(numpyro.infer.NUTS(model), num_warmup=20, num_samples=20, progress_bar=False)
    mcmc.warmup(jax.random.key(0), PRIOR, y=0.3)
    with pytest.raises(ValueError, match="expected an MCMC that has run; got one that was only warmed up"):
        reader(mcmc)
    mcmc.run(jax.random.key(1), PRIOR, y=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader(mcmc)


def test_a_density_that_was_used_can_be_sent_to_another_process():
    density = ModelDensity(model, PRIOR, y=0.3)
    x = RNG.uniform(-1.0, 1.0, size=(5, 2))
    expected = density.log_posterior(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(density)).log_posterior(x), expected)


def test_names_with_a_slash_survive_arviz_files(tmp_path):
    draws = RNG.uniform(-1.0, 1.0, size=(50, 2))
    weights = RNG.exponential(size=50)
    chain = Chain(draws, ParameterSpace(["b/a", "c"], -3.0, 3.0, units=["m/s", ""]), weights=weights)
    data = to_arviz(chain)
    assert list(data.posterior.data_vars) == ["b.a", "c"]
    data.to_netcdf(str(tmp_path / "c.nc"))
    again = read_chain(tmp_path / "c.nc")
    assert again.space == chain.space
    np.testing.assert_array_equal(again.samples, draws)
    np.testing.assert_array_equal(again.weights, weights)
    planes = Chain(np.column_stack([draws, draws]), ParameterSpace([f"x/y[{j}]" for j in range(4)], -3.0, 3.0))
    assert to_arviz(planes, dims={"x/y": ["band"]}).posterior["x.y"].dims == ("chain", "draw", "band")
    twice = Chain(draws, ParameterSpace(["b/a", "b.a"], -3.0, 3.0))
    with pytest.raises(ValueError, match=r"got 'b\.a' twice"):
        to_arviz(twice)


def test_progress_without_a_standard_error_is_quiet(monkeypatch, capsys):
    from numpyro_flowprior._util.progress import progress_bar

    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress_bar(range(3), desc="x", unit="row")) == [0, 1, 2]
    monkeypatch.undo()
    assert capsys.readouterr().out == ""
