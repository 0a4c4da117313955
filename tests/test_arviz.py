"""to_arviz and from_arviz of models: dimensions, pointwise log likelihoods, names there and back."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from toys import make_prior

import numpyro_flowprior.formats.to_arviz as inference_data
from numpyro_flowprior import (
    Chain,
    FlowConfig,
    FlowPrior,
    LatentReparam,
    ModelDensity,
    ParameterSpace,
    UniformPrior,
    from_arviz,
    read_chain,
    to_arviz,
)
from numpyro_flowprior.chains.variables import variables_of
from numpyro_flowprior.stages.staged_arviz import power_sensitivity

az = pytest.importorskip("arviz")
NESTED = int(az.__version__.split(".")[0]) >= 1
KEY = jax.random.key(0)
SMALL = FlowConfig(layers=1, hidden=(4,), base="normal")
LABS, ROWS = 3, 96
X = np.random.default_rng(0).normal(size=ROWS)
Y = np.random.default_rng(1).normal(0.5 * X, 1.0)


def learned() -> FlowPrior:
    prior = make_prior([(0.0, 0.1), (0.0, np.inf)], SMALL)
    space = ParameterSpace(["eta", "zeta"], prior.space.lower, prior.space.upper, units=["", "fm"])
    return FlowPrior(prior.config, space, prior.params)


PRIOR = learned()


def regression(x, y):
    theta = numpyro.sample("theta", PRIOR)
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("rows", len(x)):
        mean = numpyro.deterministic("mean", theta[0] + slope * x)
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def plates(prior=PRIOR, simplex=True):
    theta = numpyro.sample("theta", prior.expand([LABS]))
    with numpyro.plate("labs", LABS, dim=-2):
        shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(4))) if simplex else jnp.zeros(1)
        with numpyro.plate("runs", 5):
            rate = numpyro.sample("rate", dist.Normal(theta[:, None, 1], 1.0))
            numpyro.deterministic("twice", 2.0 * rate)
            numpyro.sample("counts", dist.Normal(rate, 1.0), obs=jnp.zeros((LABS, 5)))
        drift = numpyro.sample("drift", dist.Normal(jnp.zeros(2), 1.0).to_event(1), infer={"event_dims": ["axis"]})
    bare = numpyro.sample("bare", dist.Normal(jnp.zeros((2, 2)), 1.0))
    total = numpyro.sample("total", dist.Normal(0.0, 1.0))
    numpyro.sample("spectrum", dist.MultivariateNormal(jnp.full(4, total), jnp.eye(4)), obs=jnp.ones(4))
    numpyro.factor("wall", -(bare**2).sum() - (drift**2).sum() - (shares**2).sum())


def run(model, *args, draws: int = 40, warmup: int = 30, chains: int = 1, depth: int = 4):
    kernel = numpyro.infer.NUTS(model, max_tree_depth=depth)
    mcmc = numpyro.infer.MCMC(
        kernel, num_warmup=warmup, num_samples=draws, num_chains=chains, progress_bar=False, chain_method="sequential"
    )
    mcmc.run(jax.random.PRNGKey(1), *args)
    return mcmc


@pytest.fixture(scope="module")
def nuts():
    with jax.enable_x64(True):
        return run(regression, X, Y, draws=300, warmup=300, chains=2)


@pytest.fixture(scope="module")
def both(nuts):
    """A run's draws as ArviZ converts it, and as a chain of which only the numbers and the model are known."""
    rows = read_chain(nuts)
    with jax.enable_x64(True):
        theirs = az.from_numpyro(nuts, log_likelihood=True)
    return theirs, rows, to_arviz(rows, ModelDensity(regression, X, Y))


def numbers(loo) -> tuple[float, ...]:
    names = ("elpd_loo", "p_loo", "se") if hasattr(loo, "elpd_loo") else ("elpd", "p", "se")  # ArviZ 0.x and 1.x
    return tuple(float(getattr(loo, name)) for name in names)


def test_psis_loo_is_that_of_arviz(both):
    theirs, _, ours = both
    expected, found = az.loo(theirs, pointwise=True), az.loo(ours, pointwise=True)
    np.testing.assert_allclose(ours.log_likelihood["y"].values, theirs.log_likelihood["y"].values, rtol=1e-9)
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-3)  # the average efficiency is of other variables
    expected, found = (az.loo(data, pointwise=True, reff=0.7) for data in (theirs, ours))
    assert numbers(found) == pytest.approx(numbers(expected), rel=1e-9)
    np.testing.assert_allclose(found.pareto_k.values, expected.pareto_k.values, rtol=1e-6)
    assert found.pareto_k.shape == (ROWS,)


def test_a_chain_and_its_model_keep_what_arviz_keeps_of_the_run(both):
    theirs, rows, ours = both
    for group in ("posterior", "log_likelihood", "observed_data"):
        for name, variable in getattr(theirs, group).data_vars.items():
            if name == "theta":
                continue
            found = getattr(ours, group)[name]
            named = {found.dims[j] if "_dim_" in dim else dim for j, dim in enumerate(variable.dims)}
            assert set(found.dims) == named, name
            np.testing.assert_allclose(found.values, variable.values, rtol=1e-9)
    assert ours.posterior["mean"].dims == ("chain", "draw", "rows")
    assert [name for name in ours.posterior.data_vars if "[" in str(name)] == []
    assert {"eta", "zeta"} <= {*ours.posterior.data_vars}
    assert from_arviz(ours).space == rows.space


def test_dimensions_are_the_plates():
    density = ModelDensity(plates)
    chain = Chain(density.sample_prior(KEY, 20), density.space, chain_id=np.repeat([0, 1], 10))
    data = to_arviz(chain, density)
    shapes = {name: (variable.dims[2:], variable.shape[2:]) for name, variable in data.posterior.data_vars.items()}
    assert shapes == {
        "theta": (("theta_dim_0", "theta_parameter"), (LABS, 2)),
        "shares_unconstrained": (("labs", "shares_dim_1", "shares_unconstrained_dim_2"), (LABS, 1, 3)),
        "rate": (("labs", "runs"), (LABS, 5)),
        "drift": (("labs", "drift_dim_1", "axis"), (LABS, 1, 2)),
        "bare": (("bare_dim_0", "bare_dim_1"), (2, 2)),
        "total": ((), ()),
        "shares": (("labs", "shares_dim_1", "shares_dim_2"), (LABS, 1, 4)),
        "twice": (("labs", "runs"), (LABS, 5)),
    }
    assert data.posterior["theta"].coords["theta_parameter"].values.tolist() == ["eta", "zeta"]
    values = density.constrain(chain.samples)
    for name in ("theta", "rate", "drift", "bare", "total", "shares"):
        kept = data.posterior[name].values
        np.testing.assert_array_equal(kept.reshape(20, *kept.shape[2:]), values[name])
    likelihood = {name: variable.dims[2:] for name, variable in data.log_likelihood.data_vars.items()}
    assert likelihood == {"counts": ("labs", "runs"), "spectrum": (), "wall": ()}
    assert data.observed_data["counts"].dims == ("labs", "runs")


@pytest.mark.parametrize("suffix", ["nc", ""])
def test_names_bounds_and_order_come_back(tmp_path, suffix):
    density = ModelDensity(plates)
    names = density.names[::-1]
    chain = Chain(density.sample_prior(KEY, 20), density.space).select(names)
    data = to_arviz(chain, density)
    if suffix:
        data.to_netcdf(str(tmp_path / "chain.nc"))
    back = read_chain(tmp_path / "chain.nc") if suffix else from_arviz(data)
    assert back.space == chain.space
    assert back.space.upper[names.index("theta[1].eta")] == 0.1
    np.testing.assert_array_equal(back.samples, chain.samples)


def test_weighted_rows_of_vectors_come_back():
    space = ParameterSpace(["v[0]", "b", "v[1]"], [0.0, -1.0, -np.inf], units=["m", "", "m"])
    rows = np.random.default_rng(0).uniform(size=(50, 3))
    chain = Chain(rows, space, weights=np.arange(50.0))
    data = to_arviz(chain)
    assert data.posterior["v"].shape[2:] == (2,)
    back = from_arviz(data)
    assert back.space == space
    np.testing.assert_array_equal(back.samples, rows)
    np.testing.assert_allclose(back.weights, chain.weights)
    part = data.isel(v_dim_0=[1])
    assert {*from_arviz(part).names} == {"b", "v[0]"}  # by position: what is left is no longer what was written


def test_columns_that_are_no_whole_array_stay_scalars():
    assert {*variables_of(["x[0]", "x[2]", "y[0]", "y", "z[0,1]", "z[0]", "Omega[m]"])} == {
        *["x[0]", "x[2]", "y[0]", "y", "z[0,1]", "z[0]", "Omega[m]"]
    }
    found = variables_of(["c", "t[1].b", "t[0].a", "t[0].b", "t[1].a", "m[1,0]", "m[0,0]", "k[0].x[0]", "k[0].x[1]"])
    assert found["t"].names == ("t[0].b", "t[0].a", "t[1].b", "t[1].a")
    assert found["t"].dims == ("t_dim_0", "t_parameter")
    assert (found["m"].names, found["m"].shape) == (("m[0,0]", "m[1,0]"), (2, 1))
    assert found["k"].coords == {"k_parameter": ["x[0]", "x[1]"]}


def one_number_for_many(scale=1.0):
    mean = numpyro.sample("theta", PRIOR)[1]
    with numpyro.plate("eta", 4), numpyro.handlers.scale(scale=scale):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=1.0)
    with numpyro.handlers.mask(mask=jnp.array([True, False])):
        numpyro.sample("masked", dist.Normal(mean, jnp.ones(2)), obs=jnp.ones(2))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_pointwise_values_add_up_and_names_do_not_collide(scale):
    density = ModelDensity(one_number_for_many, scale)
    x = np.array([[0.03, 0.3], [0.07, 1.0]])
    pointwise, by_site = density.log_likelihood_by_site(x, pointwise=True), density.log_likelihood_by_site(x)
    assert {name: values.shape for name, values in pointwise.items()} == {"y": (2, 4), "masked": (2, 2)}
    for name, values in pointwise.items():
        np.testing.assert_allclose((scale if name == "y" else 1.0) * values.sum(axis=1), by_site[name])
    np.testing.assert_allclose(sum(by_site.values()), density.log_likelihood(x))
    np.testing.assert_array_equal(pointwise["masked"][:, 1], 0.0)
    data = to_arviz(Chain(x, density.space), density)
    assert data.log_likelihood["y"].dims == ("chain", "draw", "eta_dim")
    np.testing.assert_array_equal(data.observed_data["y"], np.ones(4))


def test_points_outside_have_no_likelihood():
    density = ModelDensity(regression, X, Y)
    x = density.sample_prior(KEY, 3)
    x[1, 0] = -1.0
    values = density.log_likelihood_by_site(x, pointwise=True)["y"]
    assert values.shape == (3, ROWS)
    assert np.isneginf(values[1]).all()
    assert np.isfinite(values[[0, 2]]).all()


def test_dims_and_coords_of_the_user():
    chain = Chain(np.random.default_rng(0).normal(size=(10, 3)), ParameterSpace(["v[0]", "v[1]", "w"]))
    data = to_arviz(chain, dims={"v": ["energy"]}, coords={"energy": ["low", "high"]})
    np.testing.assert_array_equal(data.posterior["v"].sel(energy="high").values.ravel(), chain.samples[:, 1])
    for dims in ({"v": ["a", "b"]}, {"u": ["a"]}, {"v": "e"}, {"v": ["w"]}, {"v": ["draw"]}):
        with pytest.raises(ValueError, match="dims: expected a list of names for each dimension"):
            to_arviz(chain, dims=dims)
    with pytest.raises(ValueError, match="got 3 for 'v_dim_0'"):
        to_arviz(chain, coords={"v_dim_0": [1, 2, 3]})
    with pytest.raises(ValueError, match="for 'energy'. The dimensions are"):
        to_arviz(chain, coords={"energy": [1, 2]})
    pair = Chain(np.zeros((2, 5)) + np.arange(2)[:, None], ParameterSpace(["v[0]", "v[1]", "u[0]", "u[1]", "u[2]"]))
    with pytest.raises(ValueError, match="expected one size of 'e'; got 2 and 3"):
        to_arviz(pair, dims={"v": ["e"], "u": ["e"]})


def test_too_many_observations_are_refused_and_one_a_site_is_not(monkeypatch):
    density = ModelDensity(regression, X, Y)
    chain = Chain(density.sample_prior(KEY, 5), density.space)
    monkeypatch.setattr(inference_data, "_MOST_VALUES", 5 * ROWS - 1)
    with pytest.raises(ValueError, match=r"got 5 draws of 96 observations. Keep fewer rows"):
        to_arviz(chain, density)
    whole = to_arviz(chain, density, pointwise=False).log_likelihood["y"]
    np.testing.assert_allclose(whole.values.ravel(), density.log_likelihood(chain.samples))

    many = ModelDensity(plates)
    monkeypatch.setattr(inference_data, "_MOST_VALUES", 5 * (LABS * 5 + 2))
    rows = Chain(many.sample_prior(KEY, 5), many.space)
    assert to_arviz(rows, many).log_likelihood["spectrum"].shape == (1, 5)  # four numbers, one observation


@pytest.mark.filterwarnings("ignore:MCMC")
def test_a_numpyro_run_keeps_its_plates_and_log_likelihoods():
    mcmc = run(plates, UniformPrior(ParameterSpace(["eta", "zeta"], 0.0, 0.1)), False, draws=20)
    ours, theirs = to_arviz(mcmc), az.from_numpyro(mcmc, log_likelihood=True)
    for name, variable in theirs.posterior.data_vars.items():
        np.testing.assert_array_equal(ours.posterior[name].values, variable.values)
    assert ours.posterior["rate"].dims == ("chain", "draw", "labs", "runs")
    assert ours.posterior["drift"].dims == ("chain", "draw", "labs", "drift_dim_1", "axis")
    assert ours.posterior["theta"].dims == ("chain", "draw", "theta_dim_0", "theta_parameter")
    np.testing.assert_array_equal(ours.log_likelihood["counts"].values, theirs.log_likelihood["counts"].values)
    assert ours.log_likelihood["counts"].dims == ("chain", "draw", "labs", "runs")
    assert "log_likelihood" not in to_arviz(mcmc, pointwise=False)
    named = to_arviz(mcmc, coords={"labs": ["CERN", "RIKEN", "BNL"]}).posterior["rate"].sel(labs="BNL")
    np.testing.assert_array_equal(named.values, theirs.posterior["rate"].values[:, :, 2])
    read, back = read_chain(mcmc), from_arviz(ours)
    assert {*back.names} >= {*read.names}  # and the deterministic sites
    np.testing.assert_array_equal(back.select(read.names).samples, read.samples)


def test_of_a_run_in_latent_space_the_coordinates_are_the_parameters():
    def model():
        theta = numpyro.sample("theta", PRIOR.expand([2]))
        numpyro.sample("y", dist.Normal(theta[:, 0], 1.0), obs=jnp.ones(2))

    mcmc = run(numpyro.handlers.reparam(model, config={"theta": LatentReparam()}), depth=2)
    data = to_arviz(mcmc)
    assert data.posterior["theta"].dims[2:] == ("theta_dim_0", "theta_parameter")
    assert data.log_likelihood["y"].shape == (1, 40, 2)


def test_a_run_without_draws_of_a_site_has_no_log_likelihood_and_says_so(nuts, monkeypatch):
    """As of a discrete site that funsor summed out."""
    kept = nuts.get_samples

    def without(group_by_chain=False):
        return {name: draws for name, draws in kept(group_by_chain).items() if name != "slope"}

    monkeypatch.setattr(nuts, "get_samples", without)
    with jax.enable_x64(True), pytest.warns(UserWarning, match="no log likelihood: the run has no draws of 'slope'"):
        data = to_arviz(nuts)
    assert "log_likelihood" not in data


def test_a_run_in_float64_is_converted_outside_of_its_context():
    def model(y):
        t = numpyro.sample("t", dist.Normal(1187008882.43, 0.01))
        with numpyro.plate("n", 8):
            numpyro.sample("y", dist.Normal(t, 1e-3), obs=y)

    with jax.enable_x64(True):
        mcmc = run(model, 1187008882.43 + np.zeros(8))
    data = to_arviz(mcmc)
    assert data.log_likelihood["y"].shape == (1, 40, 8)
    assert data.posterior["t"].dtype == np.float64


def test_psis_loo_of_a_scaled_site_is_that_of_arviz():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("n", 5), numpyro.handlers.scale(scale=2.0):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    y = np.linspace(-1.0, 1.0, 5)
    with jax.enable_x64(True):
        mcmc = run(model, y, draws=200, warmup=100)
        theirs = az.from_numpyro(mcmc, log_likelihood=True)
    ours = to_arviz(read_chain(mcmc), ModelDensity(model, y))
    assert numbers(az.loo(ours, reff=0.7)) == pytest.approx(numbers(az.loo(theirs, reff=0.7)), rel=1e-9)


@pytest.mark.parametrize("name", ["chain", "draw", "draw[0]"])
def test_names_that_arviz_needs_are_refused(name):
    names = [name, "draw[1]"] if "[" in name else [name, "x"]
    chain = Chain(np.random.default_rng(0).normal(size=(50, 2)), ParameterSpace(names), weights=np.ones(50))
    with pytest.raises(ValueError, match="expected no variables named 'chain', 'draw'"):
        to_arviz(chain)


@pytest.mark.parametrize("suffix", ["nc", ""])
def test_a_parameter_called_row_comes_back_with_its_weights(tmp_path, suffix):
    generator = np.random.default_rng(0)
    chain = Chain(generator.normal(size=(50, 2)), ParameterSpace(["row", "x"]), weights=generator.uniform(size=50))
    data = to_arviz(chain)
    if suffix:
        data.to_netcdf(str(tmp_path / "chain.nc"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = read_chain(tmp_path / "chain.nc") if suffix else from_arviz(data)
    np.testing.assert_array_equal(back.samples, chain.samples)
    np.testing.assert_allclose(back.weights, chain.weights)


def test_two_variables_that_make_one_name_are_refused():
    data = to_arviz(Chain(np.random.default_rng(0).normal(size=(50, 2)), ParameterSpace(["x", "y"])))
    again = (
        az.from_dict({"posterior": {"x": np.ones((1, 5, 1)), "x[0]": np.ones((1, 5))}})
        if NESTED
        else az.from_dict(posterior={"x": np.ones((1, 5, 1)), "x[0]": np.ones((1, 5))})
    )
    assert from_arviz(data).names == ("x", "y")
    with pytest.raises(ValueError, match="x\\[0\\]"):
        from_arviz(again)


def test_sensitivities_are_told_whatever_the_names_are():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(400, 2))
    parts = {"log_prior": -0.5 * rows[:, 0] ** 2, "log_likelihood": -0.5 * rows[:, 1] ** 2}
    expected = power_sensitivity(Chain(rows, ParameterSpace(["a", "b"]), **parts))
    for names in (["draw", "chain"], ["v[0]", "v[1]"]):
        found = power_sensitivity(Chain(rows, ParameterSpace(names), **parts))
        assert [*found.values()] == [*expected.values()]
        assert [*found] == names


def test_a_changed_posterior_is_what_is_read(tmp_path):
    rows = np.random.default_rng(0).normal(size=(200, 1))
    chain = Chain(rows, ParameterSpace(["mu"]), weights=np.random.default_rng(1).uniform(size=200))
    data = to_arviz(chain)
    data.to_netcdf(str(tmp_path / "chain.nc"))
    assert read_chain(tmp_path / "chain.nc").n == 200
    data.posterior["mu"] = data.posterior["mu"] + 100.0
    assert from_arviz(data).mean()[0] == pytest.approx(100.0, abs=0.5)


def test_a_parameter_may_have_the_name_of_a_site():
    prior = FlowPrior(PRIOR.config, ParameterSpace(["eta", "y"], PRIOR.space.lower, PRIOR.space.upper), PRIOR.params)

    def model(y):
        theta = numpyro.sample("theta", prior)
        with numpyro.plate("n", 5):
            numpyro.sample("y", dist.Normal(theta[1], 1.0), obs=y)

    density = ModelDensity(model, np.zeros(5))
    chain = Chain(density.sample_prior(KEY, 20), density.space)
    data = to_arviz(chain, density)
    assert data.log_likelihood["y (site)"].dims == ("chain", "draw", "n")
    np.testing.assert_array_equal(from_arviz(data).samples, chain.samples)
