"""read_chain: every format, written by its own library or byte for byte as it writes."""

from __future__ import annotations

import gzip
import json
import pickle
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas
import pytest
from toys import INF, make_prior

from numpyro_flowprior import (
    Chain,
    FlowConfig,
    FlowPrior,
    LatentReparam,
    ParameterSpace,
    from_arviz,
    read_chain,
    to_arviz,
)
from numpyro_flowprior.formats.table import columns_of

N = 600
RNG = np.random.default_rng(0)
DRAWS = np.column_stack([RNG.uniform(0.1, 0.9, N), RNG.normal(size=N)])
LOG_LIKELIHOOD, LOG_PRIOR = RNG.normal(size=N), RNG.normal(size=N)
LOG_PROB = LOG_LIKELIHOOD + LOG_PRIOR
COUNTS = RNG.integers(1, 4, N)
CHAINS = np.repeat([0, 1], N // 2)
SPACE = ParameterSpace(["a", "b"], [0.0, -np.inf], [1.0, np.inf])
BOUNDS = SPACE.bounds


def columns() -> dict:
    return {"a": DRAWS[:, 0], "b": DRAWS[:, 1], "log_prob": LOG_PROB, "weights": COUNTS, "chain_id": CHAINS}


def structured() -> np.ndarray:
    return pandas.DataFrame(columns()).to_records(index=False).view(np.ndarray)


def published() -> dict:
    """What analyses with pocoMC publish."""
    return {
        "chain": DRAWS, "weights": COUNTS / COUNTS.sum(), "logl": LOG_LIKELIHOOD, "logp": LOG_PRIOR,
        "logz": np.float64(-3.5), "logz_err": np.float64(0.1),
    }  # fmt: skip


def a_csv(folder):
    pandas.DataFrame(columns()).to_csv(folder / "c.csv", index=False)
    return folder / "c.csv"


def a_parquet(folder):
    pandas.DataFrame(columns(), index=[f"row {j}" for j in range(N)]).to_parquet(folder / "c.parquet")
    return folder / "c.parquet"


def a_pickle(folder):
    (folder / "c.pkl").write_bytes(pickle.dumps(published()))
    return folder / "c.pkl"


def an_npy(folder):
    np.save(folder / "c.npy", DRAWS)
    return folder / "c.npy"


def getdist_files(folder, chains: int = 2):
    rows = np.column_stack([COUNTS, -LOG_PROB, DRAWS, DRAWS[:, 0] ** 2])
    for j, part in enumerate(np.split(rows, chains), start=1):
        np.savetxt(folder / (f"c_{j}.txt" if chains > 1 else "c.txt"), part, fmt="  %.17e")
    (folder / "c.paramnames").write_text("a\t\\alpha\nb\t\\beta #note\na2*\ta^2\n")
    (folder / "c.ranges").write_text("a  0  1\nb  N  N\n z 0.5 0.5\n")
    return folder / "c"


def mcsamples(folder):
    import getdist

    getdist_files(folder)
    return getdist.loadMCSamples(str(folder / "c"), settings={"ignore_rows": 0})


def bilby_record() -> dict:
    prior = "bilby.core.prior.analytical"
    priors = {
        "a": {"__prior__": True, "__module__": prior, "__name__": "Uniform",
              "kwargs": {"minimum": 0, "maximum": 1, "name": "a", "latex_label": "$a$", "unit": "GeV"}},
        "b": {"__prior__": True, "__module__": prior, "__name__": "Gaussian",
              "kwargs": {"mu": 0, "sigma": 1, "name": "b", "latex_label": None, "unit": None}},
        "fixed": {"__prior__": True, "__module__": prior, "__name__": "DeltaFunction", "kwargs": {"peak": 3.0}},
        "__prior_dict__": True, "__module__": "bilby.core.prior.dict", "__name__": "PriorDict",
    }  # fmt: skip
    content = {"a": DRAWS[:, 0], "b": DRAWS[:, 1], "fixed": np.full(N, 3.0)}
    content |= {"log_likelihood": LOG_LIKELIHOOD, "log_prior": LOG_PRIOR}
    return {
        "label": "x", "sampler": "dynesty", "log_evidence": -3.5, "log_evidence_err": 0.1,
        "log_noise_evidence": float("nan"), "priors": priors, "search_parameter_keys": ["a", "b"],
        "posterior": {"__dataframe__": True, "content": {k: v.tolist() for k, v in content.items()}},
    }  # fmt: skip


def a_bilby_json(folder):
    path = folder / "x_result.json"
    path.write_text(json.dumps(bilby_record()))
    return path


def a_gzipped_bilby_json(folder):
    path = folder / "x_result.json.gz"
    path.write_bytes(gzip.compress(json.dumps(bilby_record()).encode()))
    return path


STAN_HEADER = "lp__,accept_stat__,stepsize__,treedepth__,n_leapfrog__,divergent__,energy__,a,b\n"
STAN_TAIL = "# \n#  Elapsed Time: 0.01 seconds (Warm-up)\n#                0.02 seconds (Sampling)\n# \n"


def stan_text(part: np.ndarray, chain: int = 1, warmup: int = 0, divergent: int = 0, saved: str = "true") -> str:
    rows = [f"-7,0.9,0.8,2,3,{int(j < divergent)},8,{a!r},{b!r}\n" for j, (a, b) in enumerate(part.tolist())]
    before = ["-9,1,1,1,1,0,9,0.5,0\n"] * warmup
    settings = f"""# stan_version_major = 2
# method = sample (Default)
#   sample
#     num_samples = {len(part)}
#     num_warmup = {warmup or 1000} (Default)
#     save_warmup = {saved if warmup else "false (Default)"}
#     thin = 1 (Default)
# id = {chain} (Default)
"""
    adapted = "# Adaptation terminated\n# Step size = 0.8\n# Diagonal elements of inverse mass matrix:\n# 1, 1\n"
    return "".join([settings, STAN_HEADER, *before, adapted, *rows, STAN_TAIL])


def stan_files(folder):
    paths = [folder / f"fit_{j}.csv" for j in (1, 2)]
    for j, path in enumerate(paths):
        path.write_text(stan_text(DRAWS[j == CHAINS], j + 1, warmup=20 * j))
    return paths


def inference_data(folder):
    return to_arviz(Chain(DRAWS, SPACE, log_prob=LOG_PROB, chain_id=CHAINS, log_evidence=-3.5, log_evidence_error=0.1))


def a_netcdf(folder):
    inference_data(folder).to_netcdf(folder / "c.nc")
    return folder / "c.nc"


def a_data_tree(folder):
    """What ArviZ 1.x makes of chains."""
    import xarray

    data = inference_data(folder)
    if isinstance(data, xarray.DataTree):
        return data
    return xarray.DataTree.from_dict({name: data[name] for name in data.groups()})


def dynesty_results(folder):
    import dynesty

    values = {
        "samples": DRAWS, "logl": LOG_LIKELIHOOD, "logwt": np.log(COUNTS) - 7.0, "logz": np.linspace(-9, -3.5, N),
        "logzerr": np.linspace(0, 0.1, N), "nlive": 10, "niter": N, "ncall": np.ones(N), "eff": 1.0,
        "samples_id": np.arange(N), "samples_it": np.arange(N), "samples_u": DRAWS, "logvol": np.arange(N) * -0.1,
        "information": np.zeros(N), "blob": None,
    }  # fmt: skip
    return dynesty.results.Results(values)


DERIVED = "not sampled: fixed, or derived from the other parameters and not finite"
YES = {"log_prob": LOG_PROB}
PARTS = {"log_likelihood": LOG_LIKELIHOOD, "log_prior": LOG_PRIOR, **YES}
ALL = {**YES, "weights": COUNTS, "chain_id": CHAINS}
EVIDENCE = {"log_evidence": -3.5, "log_evidence_error": 0.1}
NAMED = {"names": ("a", "b")}
BOUNDED = {**NAMED, "bounds": BOUNDS}
GETDIST = {**ALL, **BOUNDED, "labels": (r"$\alpha$", r"$\beta$")}
FORMATS = [  # source, space, what the chain holds, words of info["log_prob"]
    (lambda folder: DRAWS, None, {"names": ("theta[0]", "theta[1]")}, "not given"),
    (lambda folder: jnp.asarray(DRAWS), SPACE, BOUNDED, "not given"),
    (lambda folder: DRAWS.reshape(2, -1, 2), SPACE, {"chain_id": CHAINS}, "not given"),
    (lambda folder: structured(), None, {**ALL, **NAMED}, "column 'log_prob'"),
    (lambda folder: columns(), None, {**ALL, **NAMED}, "column 'log_prob'"),
    (lambda folder: {"v": DRAWS}, None, {"names": ("v[0]", "v[1]")}, "no such column"),
    (lambda folder: {"samples": DRAWS, "names": ["a", "b"], **ALL}, None, {**ALL, **NAMED}, "as given"),
    (lambda folder: published(), SPACE, {**PARTS, **EVIDENCE, "weights": COUNTS / COUNTS.sum()}, "prior included"),
    (a_pickle, SPACE, {**PARTS, **EVIDENCE, "weights": COUNTS / COUNTS.sum()}, "prior included"),
    (lambda folder: pandas.DataFrame(columns()), None, {**ALL, **NAMED}, "column 'log_prob'"),
    (a_csv, None, {**ALL, **NAMED}, "column 'log_prob'"),
    (a_parquet, None, {**ALL, **NAMED}, "column 'log_prob'"),
    (an_npy, SPACE, BOUNDED, "only samples"),
    (getdist_files, None, GETDIST, "prior included"),
    (lambda folder: getdist_files(folder, 1), None, {**GETDIST, "chain_id": None}, "prior included"),
    (mcsamples, None, GETDIST, "prior included"),
    (stan_files, None, {**NAMED, "chain_id": CHAINS, "log_prob": None}, "unconstrained"),
    (a_bilby_json, None, {**PARTS, **EVIDENCE, **BOUNDED, "units": ("GeV", "")}, "prior included"),
    (a_gzipped_bilby_json, None, {**PARTS, **EVIDENCE, **BOUNDED, "labels": ("$a$", "b")}, "prior included"),
    (inference_data, None, {**YES, **EVIDENCE, **BOUNDED, "chain_id": CHAINS}, None),
    (a_netcdf, None, {**YES, **EVIDENCE, **BOUNDED, "chain_id": CHAINS}, None),
    (a_data_tree, None, {**YES, **EVIDENCE, **BOUNDED, "chain_id": CHAINS}, None),
    (dynesty_results, SPACE, {"log_likelihood": LOG_LIKELIHOOD, **EVIDENCE, "log_prob": None,
                              "weights": np.exp(np.log(COUNTS) - 3.5)}, "likelihood alone"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "space", "expected", "words"), FORMATS)
def test_what_a_source_holds_is_what_the_chain_holds(tmp_path, make, space, expected, words):
    chain = read_chain(make(tmp_path), space)
    np.testing.assert_allclose(chain.samples, DRAWS, rtol=1e-6 if make is FORMATS[1][0] else 1e-15)
    for name, value in expected.items():
        holder = chain.space if name in ("bounds", "units", "labels") else chain
        if value is None or isinstance(value, tuple):
            assert getattr(holder, name) == value
        else:
            np.testing.assert_allclose(getattr(holder, name), value, rtol=1e-12, err_msg=name)
    size = chain.info["convergence"]["effective_size"]  # counts are steps of a sequence, with noise of its own
    assert 0.8 * chain.effective_size <= size <= chain.effective_size
    assert words is None or words in chain.info["log_prob"]


def test_lists_of_numbers_are_arrays():
    held = read_chain(DRAWS.tolist(), SPACE, log_prob=LOG_PROB, chain_id=CHAINS)
    np.testing.assert_array_equal(held.samples, DRAWS)
    np.testing.assert_array_equal(held.chain_id, CHAINS)


def test_derived_columns_are_parameters_only_if_asked_for(tmp_path):
    root = getdist_files(tmp_path)
    chain = read_chain(root)
    assert "a2" not in chain.names
    np.testing.assert_allclose(chain.derived["a2"], chain.samples[:, 0] ** 2)
    asked = read_chain(root, ParameterSpace(["a2"], 0.0, 1.0))
    np.testing.assert_allclose(asked.samples[:, 0], DRAWS[:, 0] ** 2)
    assert asked.log_prob is None
    assert "sampled parameters" in asked.info["left_out"]["log_prob"]
    assert read_chain(a_bilby_json(tmp_path)).info["left_out"] == {"fixed": DERIVED}


def test_getdist_burn_in_is_dropped_from_each_file(tmp_path):
    root = getdist_files(tmp_path)
    np.testing.assert_allclose(
        read_chain(root, burn_in=0.5).samples, np.delete(DRAWS, [*range(150), *range(300, 450)], 0)
    )
    assert read_chain(tmp_path / "c_1.txt", burn_in=100).n == 200
    (tmp_path / "c_10.txt").write_bytes((tmp_path / "c_2.txt").read_bytes())
    np.testing.assert_array_equal(np.bincount(read_chain(root).chain_id), [300, 300, 300])


def test_the_second_column_of_nested_samplers_is_not_the_posterior(tmp_path):
    rows = np.column_stack([COUNTS / COUNTS.sum(), -LOG_PROB, DRAWS, DRAWS[:, 0]])
    getdist_files(tmp_path, 1)
    np.savetxt(tmp_path / "c.txt", rows)
    chain = read_chain(tmp_path / "c.txt")
    assert chain.log_prob is None
    assert "-2 log likelihood" in chain.info["left_out"]["log_prob"]
    np.testing.assert_allclose(read_chain(tmp_path / "c.txt", log_posterior=True).log_prob, LOG_PROB)


COBAYA = "#      weight   minuslogpost      a      b      H0   minuslogprior  minuslogprior__0   chi2  chi2__x\n"


def test_cobaya_tells_no_density_unless_it_is_told_what_was_sampled(tmp_path):
    chi2 = -2.0 * LOG_LIKELIHOOD
    rows = np.column_stack([COUNTS, -LOG_PROB, DRAWS, DRAWS[:, 0], -LOG_PRIOR, -LOG_PRIOR, chi2, chi2])
    for j in (0, 1):
        with (tmp_path / f"c.{j + 1}.txt").open("w") as file:
            file.write(COBAYA)
            np.savetxt(file, rows[j == CHAINS])
    chain = read_chain(tmp_path / "c")
    assert (chain.names, chain.log_prob) == (("a", "b", "H0"), None)
    assert "pass sampled" in chain.info["left_out"]["log_prob"]
    told = read_chain(tmp_path / "c", sampled=["a", "b"])
    assert told.names == ("a", "b")
    np.testing.assert_allclose(told.log_prob, LOG_PROB)
    np.testing.assert_allclose(told.log_likelihood, LOG_LIKELIHOOD, atol=1e-14)
    np.testing.assert_array_equal(told.chain_id, CHAINS)


def test_stan_warmup_is_left_out_and_divergences_are_told(tmp_path):
    path = tmp_path / "fit.csv"
    for saved in ("1", "true"):
        path.write_text(stan_text(DRAWS, warmup=50, saved=saved))
        chain = read_chain(path)
        assert (chain.n, chain.info["left_out"]["warm-up"]) == (N, "the first 50 rows")
    path.write_text(stan_text(DRAWS, warmup=50).replace("# Adaptation terminated\n", ""))  # without adaptation
    assert read_chain(path).n == N
    path.write_text(stan_text(DRAWS, divergent=7).replace(",a,b\n", ",v.1,v.2\n"))
    with pytest.warns(UserWarning, match="7 of 600 transitions diverged") as caught:
        assert read_chain(path).names == ("v[1]", "v[2]")
    assert len(caught) == 1
    path.write_text(stan_text(DRAWS).replace("num_samples = 600", "num_samples = 1000 (Default)"))
    with pytest.warns(UserWarning, match="600 of the 1000 draws"):
        read_chain(path)


def emcee_sampler(backend=None, steps: int = 3000):
    import emcee

    def log_prob(x):
        return np.column_stack([-0.5 * np.sum((x / [1.0, 2.0]) ** 2, axis=1), np.ones(len(x))])

    state = np.random.get_state()
    np.random.seed(0)
    sampler = emcee.EnsembleSampler(12, 2, log_prob, backend=backend, vectorize=True)
    sampler.run_mcmc(10 + np.random.normal(size=(12, 2)), steps)
    np.random.set_state(state)
    return sampler


def test_emcee_burn_in_follows_its_autocorrelation_time_and_all_later_steps_are_kept():
    sampler = emcee_sampler()
    chain = read_chain(sampler, ParameterSpace(["a", "b"]))
    burn_in, thin, tau = (chain.info[name] for name in ("burn_in", "thin", "autocorrelation_time"))
    assert tau == pytest.approx(sampler.get_autocorr_time(discard=300).max(), rel=0.3)  # each walker about its own mean
    assert (burn_in, thin) == (int(np.ceil(5 * tau)), 1)
    expected = np.swapaxes(sampler.get_chain(discard=burn_in), 0, 1)
    np.testing.assert_array_equal(chain.samples, expected.reshape(-1, 2))
    np.testing.assert_array_equal(chain.chain_id, np.repeat(np.arange(12), expected.shape[1]))
    np.testing.assert_allclose(chain.log_prob, -0.5 * np.sum((chain.samples / [1.0, 2.0]) ** 2, axis=1))
    assert chain.info["left_out"].keys() == {"burn-in", "blobs"}
    assert read_chain(sampler, burn_in=0, thin=1).n == 12 * 3000


@pytest.mark.parametrize(("most", "thin"), [(3000, "as many"), (100, "half tau")])
def test_of_a_long_emcee_run_as_many_rows_are_kept_but_two_in_an_autocorrelation_time(monkeypatch, most, thin):
    monkeypatch.setattr("numpyro_flowprior.chains.autocorrelation._MANY_KEPT", most)
    sampler = emcee_sampler()
    chain = read_chain(sampler)
    burn_in, tau = chain.info["burn_in"], chain.info["autocorrelation_time"]
    every = {"as many": -(-12 * (3000 - burn_in) // most), "half tau": int(tau / 2)}[thin]
    assert chain.info["thin"] == every > 1
    assert chain.info["left_out"]["thinning"] == f"one of every {every} steps is kept"
    np.testing.assert_array_equal(chain.samples[:, 0], sampler.get_chain(discard=burn_in)[::every, :, 0].T.ravel())


@pytest.mark.filterwarnings("ignore:.*50 are needed")
def test_emcee_files_are_read_like_the_sampler_that_wrote_them(tmp_path):
    import emcee

    sampler = emcee_sampler(emcee.backends.HDFBackend(tmp_path / "run.h5", name="first"), steps=300)
    steps = np.swapaxes(sampler.get_chain(discard=100)[::20], 0, 1)
    for source, options in ((tmp_path / "run.h5", {"group": "first"}), (sampler.backend, {}), (sampler, {})):
        chain = read_chain(source, burn_in=100, thin=20, **options)
        np.testing.assert_array_equal(chain.samples, steps.reshape(-1, 2))
        np.testing.assert_allclose(chain.log_prob, -0.5 * np.sum((chain.samples / [1.0, 2.0]) ** 2, axis=1))
        assert "prior included" in chain.info["log_prob"]


def test_a_short_emcee_run_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"autocorrelation times of \d+ steps long; 50 are needed") as caught:
        read_chain(emcee_sampler(steps=300))
    assert len(caught) == 1
    assert caught[0].filename == __file__


def numpyro_model():
    a = numpyro.sample("a", dist.Uniform(0.0, 0.1))
    numpyro.sample("v", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.deterministic("twice", 2 * a)


@pytest.fixture(scope="module")
def mcmc():
    kernel = numpyro.infer.NUTS(numpyro_model)
    run = numpyro.infer.MCMC(
        kernel, num_warmup=200, num_samples=500, num_chains=2, chain_method="sequential", progress_bar=False
    )
    run.run(jax.random.key(0))
    return run


def test_numpyro_gives_its_sample_sites(mcmc):
    chain = read_chain(mcmc)
    draws = mcmc.get_samples()
    assert (chain.names, chain.log_prob) == (("a", "v[0]", "v[1]"), None)
    assert chain.space.bounds.tolist() == [[0.0, 0.1], [-np.inf, np.inf], [-np.inf, np.inf]]
    np.testing.assert_array_equal(chain.samples, np.column_stack([draws["a"], draws["v"]]))
    np.testing.assert_array_equal(chain.chain_id, np.repeat([0, 1], 500))
    assert "unconstrained" in chain.info["log_prob"]
    np.testing.assert_allclose(chain.derived["twice"], 2 * chain.samples[:, 0], rtol=1e-6)
    assert read_chain(mcmc, ParameterSpace(["twice"], 0.0, 0.2)).samples.mean() == pytest.approx(0.1, abs=0.01)


def test_a_run_with_an_improper_prior_has_its_bounds():
    def model():
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.positive, (), ()))
        numpyro.sample("y", dist.Normal(jnp.log(x), 0.5), obs=0.0)

    run = numpyro.infer.MCMC(numpyro.infer.NUTS(model), num_warmup=50, num_samples=50, progress_bar=False)
    run.run(jax.random.key(0))
    chain = read_chain(run)
    assert (chain.names, chain.space.bounds.tolist()) == (("x",), [[0.0, np.inf]])


def second_stage(prior):
    theta = numpyro.sample("theta", prior)
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("y", dist.Normal(theta.sum(), scale), obs=1.0)


@pytest.mark.filterwarnings("ignore:MCMC. .*")  # too short a run to be fit for anything else
@pytest.mark.parametrize("latent", [False, True])
def test_numpyro_gives_a_prior_its_names_and_bounds(latent):
    """A second stage's chain is over the first one's parameters, so that there can be a third."""
    prior = make_prior([(0.0, 1.0), (-INF, 2.0)], FlowConfig(layers=0))
    model = numpyro.handlers.reparam(second_stage, config={"theta": LatentReparam()}) if latent else second_stage
    run = numpyro.infer.MCMC(
        numpyro.infer.NUTS(model, max_tree_depth=2), num_warmup=20, num_samples=20, progress_bar=False
    )
    run.run(jax.random.key(0), prior)
    chain = read_chain(run, ParameterSpace(["p1", "scale", "p0"]))
    draws = run.get_samples()
    np.testing.assert_array_equal(chain.samples[:, [2, 0]], draws["theta"])
    chain = read_chain(run)
    assert set(chain.names) == {"p0", "p1", "scale", "shares[0]", "shares[1]", "shares[2]"}
    assert chain.space.select(["p0", "p1"]) == prior.space
    assert chain.space.select(["scale"]).bounds.tolist() == [[0.0, INF]]
    assert ("theta_latent[0]" in chain.derived) == latent


@pytest.mark.filterwarnings("ignore:MCMC. .* transitions diverged")
@pytest.mark.parametrize(("latent", "copies"), [(False, 2), (True, 0), (True, 2)])
def test_arviz_of_a_numpyro_run_has_the_names_of_its_priors(latent, copies):
    prior = make_prior([(0.0, 0.1), (0.0, np.inf)], FlowConfig(layers=1, hidden=(4,), base="normal"))
    space = ParameterSpace(["eta", "zeta"], prior.space.lower, prior.space.upper, units=["", "fm"], labels=["e", "z"])
    prior = FlowPrior(prior.config, space, prior.params)

    def model():
        theta = numpyro.sample("theta", prior.expand([copies]) if copies else prior)
        numpyro.sample("y", dist.Normal(theta.sum(), 1.0), obs=1.0)

    reparametrised = numpyro.handlers.reparam(model, config={"theta": LatentReparam()}) if latent else model
    run = numpyro.infer.MCMC(
        numpyro.infer.NUTS(reparametrised, max_tree_depth=2), num_warmup=20, num_samples=30, progress_bar=False
    )
    with pytest.raises(ValueError, match="Call run first"):
        to_arviz(run)
    run.run(jax.random.PRNGKey(0))
    data = to_arviz(run)
    theta = data.posterior["theta"]
    assert theta.dims == ("chain", "draw", *["theta_dim_0"] * (copies > 0), "theta_parameter")
    zeta = theta.sel(theta_parameter="zeta")
    np.testing.assert_array_equal(zeta.values.reshape(30, -1), run.get_samples()["theta"].reshape(30, -1, 2)[..., 1])
    assert (str(zeta.theta_unit.values), str(zeta.theta_label.values)) == ("fm", "z")
    assert "diverging" in data.sample_stats
    if not copies:
        assert from_arviz(data, space).space == space
        np.testing.assert_array_equal(from_arviz(data, space).samples, read_chain(run, space).samples)


def test_numpyro_draws_that_float32_rounds_onto_a_bound_are_on_it():
    bound = ParameterSpace(["a"], 0.1, 0.3)
    names, draws = columns_of("a", np.array([[0.1, 0.2, 0.3]], np.float32), bound)
    assert names == ("a",)
    assert draws[[0, 2], 0].tolist() == [0.1, 0.3]
    assert bound.contains(draws).all()


def test_a_sampler_of_a_bare_potential_has_no_bounds_to_give():
    kernel = numpyro.infer.NUTS(potential_fn=lambda z: 0.5 * (z["a"] ** 2).sum())
    run = numpyro.infer.MCMC(kernel, num_warmup=50, num_samples=50, progress_bar=False)
    run.run(jax.random.key(0), init_params={"a": jnp.zeros(2)})
    assert (read_chain(run).names, read_chain(run).space.unbounded()) == (("a[0]", "a[1]"), read_chain(run).space)


def test_arviz_of_numpyro_is_read_with_its_vectors(mcmc):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    chain = read_chain(arviz.from_numpyro(mcmc, log_likelihood=False))
    assert chain.names == ("a", "twice", "v[0]", "v[1]")
    assert (chain.log_prob, chain.info["divergences"]) == (None, 0)


def arviz_1(groups: dict):
    """Stands for arviz.from_dict of ArviZ 1.x, which Python 3.11 cannot install: nested groups, a DataTree."""
    import xarray

    def dataset(group: dict):
        return xarray.Dataset({name: (("chain", "draw"), values) for name, values in group.items()})

    return xarray.DataTree.from_dict({name: dataset(group) for name, group in groups.items()})


def test_arviz_1_round_trip(monkeypatch):
    module = types.SimpleNamespace(__version__="1.2.0", from_dict=arviz_1)
    monkeypatch.setattr("numpyro_flowprior.formats.from_arviz.arviz_module", lambda: module)
    test_arviz_round_trip_needs_no_space()


def test_arviz_round_trip_needs_no_space():
    held = Chain(DRAWS, SPACE, log_prob=LOG_PROB, chain_id=CHAINS, info={"seed": 3})
    back = from_arviz(to_arviz(held))
    assert (back.space, back.info) == (held.space, held.info)
    for name in ("samples", "log_prob", "chain_id"):
        np.testing.assert_array_equal(getattr(back, name), getattr(held, name))


@pytest.fixture(scope="module")
def pocomc_sampler():
    pocomc = pytest.importorskip("pocomc")
    from scipy.stats import uniform

    numpy_state = np.random.get_state()
    sampler = pocomc.Sampler(
        prior=pocomc.Prior([uniform(-5, 10), uniform(-5, 10)]),
        likelihood=lambda x: -0.5 * np.sum(x**2, axis=-1),
        vectorize=True, n_effective=256, n_active=128, precondition=False, random_state=0,
    )  # fmt: skip
    sampler.run(n_total=512, n_evidence=0, progress=False)
    np.random.set_state(numpy_state)
    return sampler


def test_pocomc_keeps_weights_parts_and_evidence(pocomc_sampler):
    chain = read_chain(pocomc_sampler, ParameterSpace(["a", "b"], -5.0, 5.0))
    samples, weights, log_likelihood, log_prior = pocomc_sampler.posterior(trim_importance_weights=False)
    np.testing.assert_array_equal(chain.samples, samples)
    np.testing.assert_array_equal(chain.weights, weights)
    np.testing.assert_allclose(chain.log_prob, log_likelihood + log_prior)
    assert np.allclose(chain.log_prior, -2 * np.log(10.0))
    assert chain.log_evidence == pocomc_sampler.evidence()[0]


def test_dynesty_keeps_weights_and_evidence():
    import dynesty

    sampler = dynesty.NestedSampler(
        lambda x: -0.5 * np.sum(x**2), lambda u: 10 * u - 5, 2, nlive=100, rstate=np.random.default_rng(0)
    )
    sampler.run_nested(print_progress=False, dlogz=0.1)
    for source in (sampler, sampler.results):
        chain = read_chain(source, ParameterSpace(["a", "b"], -5.0, 5.0))
        np.testing.assert_allclose(chain.weights, sampler.results.importance_weights())
        assert abs(chain.mean()).max() < 0.3  # 100 live points: one deviation is 0.1
        assert (chain.log_prob, chain.log_evidence) == (None, sampler.results.logz[-1])
        assert chain.log_evidence == pytest.approx(np.log(2 * np.pi / 100), abs=0.8)


def test_dead_rows_are_left_out_and_counted():
    record = published() | {"logl": np.where(np.arange(N) < 3, -np.inf, LOG_LIKELIHOOD)}
    record["weights"] = np.where(np.arange(N) < 3, 0.0, COUNTS)
    chain = read_chain(record, SPACE)
    assert chain.n == N - 3
    assert chain.info["left_out"]["rows"].startswith("3 of 600: weight zero")
    with pytest.raises(ValueError, match="chain.log_prob: expected finite"):
        read_chain(record | {"weights": COUNTS}, SPACE)


def test_files_of_one_kind_are_chains_of_one_analysis(tmp_path):
    paths = [tmp_path / f"c{j}.npy" for j in (0, 1)]
    for j, path in enumerate(paths):
        np.save(path, DRAWS[j == CHAINS])
    chain = read_chain(paths, SPACE)
    np.testing.assert_array_equal(chain.samples, DRAWS)
    np.testing.assert_array_equal(chain.chain_id, CHAINS)
    assert len(chain.info["parts"]) == 2


def test_a_frame_of_anesthetic_keeps_its_weights():
    index = pandas.MultiIndex.from_arrays([np.arange(N), COUNTS], names=[None, "weights"])
    np.testing.assert_array_equal(read_chain(pandas.DataFrame(DRAWS, index, ["a", "b"])).weights, COUNTS)
