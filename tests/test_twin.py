"""The stand-in experiment: shapes, physics, exact likelihood, and the posteriors it was built for."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import chi2, multivariate_normal, qmc

from numpyro_flowprior.examples import twin

SIZES = {"gamma_Pb_integrated": 13, "gamma_Pb_tdiff": 11, "gamma_p_integrated": 45, "gamma_p_tdiff": 17}
SYSTEM_SIZES = {"gamma_p": 62, "gamma_Pb": 24}
LOWER, UPPER = np.array(twin.LOWER), np.array(twin.UPPER)
TRUTH = np.array([twin.TRUTH[name] for name in twin.NAMES])


def theta(**changes):
    return np.array([{**twin.TRUTH, **changes}[name] for name in twin.NAMES])


def box_points():
    corners = np.array(list(itertools.product(*zip(twin.LOWER, twin.UPPER, strict=True))))
    inside = qmc.scale(qmc.Sobol(7, rng=0).random(128), LOWER, UPPER)
    return np.concatenate([corners, inside])


def of_group(values, system, group, *, coherent=None):
    """The observables of one group out of a prediction, optionally only the (in)coherent ones."""
    sizes = [twin.GROUPS[name].size for name in twin.SYSTEMS[system]]
    start = sum(sizes[: twin.SYSTEMS[system].index(group)])
    part = np.asarray(values)[..., start : start + twin.GROUPS[group].size]
    return part if coherent is None else part[..., np.array(twin.GROUPS[group].coherent) == coherent]


def predict64(point, system):
    with jax.enable_x64(True):
        return np.asarray(twin.predict(jnp.asarray(point, jnp.float64), system))


# --- what is measured ---


def test_groups_have_the_sizes_of_the_experiment_in_its_order():
    assert {name: group.size for name, group in twin.GROUPS.items()} == SIZES
    assert tuple(twin.GROUPS) == tuple(SIZES)
    assert twin.GROUPS["gamma_Pb_tdiff"].coherent == (True,) * 6 + (False,) * 5
    assert twin.GROUPS["gamma_p_tdiff"].coherent == (True,) * 8 + (False,) * 9


@pytest.mark.parametrize("group", twin.GROUPS.values(), ids=lambda group: group.name)
def test_group_columns_agree(group):
    assert len(group.coherent) == len(group.relative_error) == group.size
    assert len(group.momentum_transfer) == (group.size if group.name.endswith("tdiff") else 0)
    assert min(group.energy) > 0
    assert all(0.05 <= error <= 0.2 for error in group.relative_error)


def test_space_is_the_prior_box_and_holds_the_truth():
    assert twin.SPACE.names == twin.NAMES
    np.testing.assert_array_equal(twin.SPACE.bounds, np.stack([LOWER, UPPER], axis=1))
    assert set(twin.TRUTH) == set(twin.NAMES)
    assert np.all((LOWER < TRUTH) & (TRUTH < UPPER))


# --- predictions ---


@pytest.mark.parametrize("system", twin.SYSTEMS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_predict_batches(system, shape):
    points = np.broadcast_to(TRUTH, (*shape, 7))
    values = twin.predict(points, system)
    assert values.shape == (*shape, SYSTEM_SIZES[system])
    np.testing.assert_allclose(values, np.broadcast_to(twin.predict(TRUTH, system), values.shape), rtol=1e-6)


@pytest.mark.parametrize("system", twin.SYSTEMS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_predict_and_its_gradient_are_finite_on_the_closed_box(system, dtype):
    with jax.enable_x64(True):
        points = jnp.asarray(box_points(), dtype)
        values = twin.predict(points, system)
        slopes = jax.jit(jax.vmap(jax.jacfwd(lambda point: twin.predict(point, system))))(points)
        assert values.dtype == slopes.dtype == dtype
        assert bool(jnp.isfinite(values).all())
        assert bool(jnp.isfinite(slopes).all())
        assert bool(jnp.any(slopes != 0, axis=(0, 1)).all())  # every parameter matters somewhere


@pytest.mark.parametrize("system", twin.SYSTEMS)
def test_float32_loses_nothing_that_matters(system):
    points = box_points()
    single = twin.predict(jnp.asarray(points, jnp.float32), system)
    # values up to about 17, so float32 resolves 2e-6; the smallest error is 0.05
    np.testing.assert_allclose(single, predict64(points, system), atol=1e-4)


@pytest.mark.parametrize("call", [twin.predict, twin.log_likelihood])
def test_bad_arguments_are_named(call):
    with pytest.raises(ValueError, match="system: expected one of"):
        call(TRUTH, "gamma_Xe")
    with pytest.raises(ValueError, match="theta: expected shape"):
        call(TRUTH[:6], "gamma_p")


# --- physics ---


def coherent_slope(point):
    values = of_group(predict64(point, "gamma_p"), "gamma_p", "gamma_p_tdiff", coherent=True)
    t = twin.GROUPS["gamma_p_tdiff"].momentum_transfer
    return -(values[1] - values[0]) / (t[1] - t[0])


@pytest.mark.parametrize("name", ["B_G", "B_q"])
def test_coherent_slope_of_the_proton_steepens_with_its_size(name):
    slopes = [coherent_slope(theta(**{name: value})) for value in (1.0, 2.0, 3.0)]
    assert np.all(np.diff(slopes) > 0.3)


def test_coherent_slope_of_lead_is_set_by_its_radius():
    values = of_group(predict64(TRUTH, "gamma_Pb"), "gamma_Pb", "gamma_Pb_tdiff", coherent=True)
    t = twin.GROUPS["gamma_Pb_tdiff"].momentum_transfer
    radius = 6.62 / 0.1973  # fm to 1/GeV
    slope = -(values[1] - values[0]) / (t[1] - t[0])
    assert slope == pytest.approx(radius**2 / 5, rel=0.2)  # a uniform sphere; lead has a diffuse edge


@pytest.mark.parametrize("system", twin.SYSTEMS)
def test_incoherent_grows_with_sigma_and_coherent_does_not(system):
    low, high = (predict64(theta(sigma=value), system) for value in (0.5, 1.0))
    group = f"{system}_tdiff"
    assert np.all(of_group(high - low, system, group, coherent=False) > 0)
    np.testing.assert_array_equal(of_group(high - low, system, group, coherent=True), 0.0)


@pytest.mark.parametrize("name", ["m", "Qs_ratio"])
@pytest.mark.parametrize("system", twin.SYSTEMS)
def test_normalisation_falls_with_infrared_mass_and_colour_charge_ratio(name, system):
    low, high = (predict64(theta(**{name: value}), system) for value in (0.2, 1.0))
    assert np.all(of_group(high - low, system, f"{system}_integrated") < -0.1)


def energy_slope(point, system):
    values = of_group(predict64(point, system), system, f"{system}_integrated")
    return np.polyfit(np.log(twin.GROUPS[f"{system}_integrated"].energy), values, 1)[0]


@pytest.mark.parametrize("system", twin.SYSTEMS)
def test_energy_dependence_grows_with_lambda_qcd_and_is_damped_by_m_jimwlk(system):
    assert energy_slope(theta(Lambda_QCD=0.25), system) > energy_slope(theta(Lambda_QCD=0.01), system) + 0.05
    assert energy_slope(theta(m_JIMWLK=1.0), system) < energy_slope(theta(m_JIMWLK=0.1), system) - 0.01


def test_gamma_pb_hardly_feels_the_proton_size():
    change = predict64(theta(B_G=10.0), "gamma_Pb") - predict64(theta(B_G=1.0), "gamma_Pb")
    assert np.all(np.abs(change) < 0.2)
    assert np.any(change != 0)


# --- data ---


@pytest.mark.parametrize("system", twin.SYSTEMS)
def test_pseudo_data_are_one_ordinary_draw_at_the_truth(system):
    data = twin.pseudo_data(system)
    n = SYSTEM_SIZES[system]
    assert data.groups == twin.SYSTEMS[system]
    assert data.y.shape == (n,)
    assert data.y.dtype == np.float64
    errors = np.concatenate([twin.GROUPS[name].relative_error for name in data.groups])
    np.testing.assert_allclose(np.sqrt(np.diag(data.covariance)), errors)
    np.testing.assert_array_equal(data.covariance, data.covariance.T)
    residual = data.y - predict64(TRUTH, system)
    low, high = chi2.ppf([0.025, 0.975], n)
    assert low < residual @ np.linalg.solve(data.covariance, residual) < high


@pytest.mark.parametrize("system", twin.SYSTEMS)
def test_pseudo_data_are_the_same_in_every_precision_and_under_jit(system):
    twin.pseudo_data.cache_clear()
    first = twin.pseudo_data(system)
    twin.pseudo_data.cache_clear()
    with jax.enable_x64(True):
        again = jax.jit(lambda: jnp.asarray(twin.pseudo_data(system).y))()
    np.testing.assert_array_equal(first.y, again)
    assert not first.y.flags.writeable


def test_training_set_is_a_noisy_latin_hypercube():
    data = twin.training_set("gamma_Pb")
    assert data.X.shape == (500, 7)
    assert data.Y.shape == data.Y_error.shape == (500, 24)
    strata = np.floor((data.X - LOWER) / (UPPER - LOWER) * 500).astype(int)
    np.testing.assert_array_equal(np.sort(strata, axis=0), np.tile(np.arange(500)[:, None], (1, 7)))
    pulls = (data.Y - predict64(data.X, "gamma_Pb")) / data.Y_error
    # 12,000 independent unit normals: standard errors 0.009 (mean) and 0.0065 (spread); five of them
    assert abs(pulls.mean()) < 0.05
    assert abs(pulls.std() - 1) < 0.035


def test_training_set_follows_its_seed():
    first, same, other = (twin.training_set("gamma_p", 20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.Y, same.Y)
    assert not np.any(first.X == other.X)
    with pytest.raises(ValueError, match=r"training_set\.n"):
        twin.training_set("gamma_p", 0)


# --- likelihood ---


@pytest.mark.parametrize("system", twin.SYSTEMS)
def test_log_likelihood_against_scipy(system):
    points = box_points()[::20]
    data = twin.pseudo_data(system)
    expected = [multivariate_normal(predict64(x, system), data.covariance).logpdf(data.y) for x in points]
    with jax.enable_x64(True):
        got = twin.log_likelihood(jnp.asarray(points, jnp.float64), system)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_joint_log_likelihood_is_the_sum():
    parts = [twin.log_likelihood(TRUTH, system) for system in twin.SYSTEMS]
    assert float(twin.log_likelihood(TRUTH, "joint")) == pytest.approx(float(sum(parts)))


# --- the features the module exists for ---

CORNER = {"m_JIMWLK": 0.06, "Lambda_QCD": 0.015}
SECOND = {"m_JIMWLK": 0.7, "Lambda_QCD": 0.11}


@functools.cache
def value_and_slope(system):
    return jax.jit(jax.value_and_grad(lambda point: -twin.log_likelihood(point, system)))


def best(system, start, *, fixed=()):
    """The highest log likelihood near `start`, holding the parameters named in `fixed`: value, point."""
    free = np.array([name not in fixed for name in twin.NAMES])
    width = UPPER - LOWER
    objective = value_and_slope(system)

    def negative(unit):
        point = start.copy()
        point[free] = LOWER[free] + width[free] * unit
        value, slope = objective(jnp.asarray(point))
        return float(value), np.asarray(slope, float)[free] * width[free]

    unit = ((start - LOWER) / width)[free]
    result = minimize(negative, unit, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * unit.size)
    point = start.copy()
    point[free] = LOWER[free] + width[free] * result.x
    return -result.fun, point


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("x64")
def test_joint_likelihood_has_two_modes_with_a_barrier():
    column = {name: i for i, name in enumerate(twin.NAMES)}
    corner, at_corner = best("joint", theta(**CORNER))
    second, at_second = best("joint", theta(**SECOND))
    assert at_corner[column["m_JIMWLK"]] < 0.2
    assert at_corner[column["Lambda_QCD"]] < 0.04
    assert 0.5 < at_second[column["m_JIMWLK"]] < 0.9
    assert 0.06 < at_second[column["Lambda_QCD"]] < 0.16
    # any path between the modes crosses m_JIMWLK = 0.35; the best point there, over all else and many starts
    starts = [theta(m_JIMWLK=0.35, Lambda_QCD=value) for value in (0.002, 0.02, 0.05, 0.1)]
    valley = max(best("joint", start, fixed=("m_JIMWLK",))[0] for start in starts)
    assert valley < min(corner, second) - np.log(5)


@pytest.mark.usefixtures("x64")
def test_each_system_prefers_the_other_mode():
    difference = {
        system: best(system, theta(**SECOND), fixed=tuple(SECOND))[0]
        - best(system, theta(**CORNER), fixed=tuple(CORNER))[0]
        for system in twin.SYSTEMS
    }
    assert difference["gamma_Pb"] < -3  # nearly excluded by gamma+Pb alone ...
    assert difference["gamma_p"] > 2  # ... where gamma+p is at home


@pytest.mark.parametrize("system", twin.SYSTEMS)
def test_groups_are_the_parts_of_their_system(system):
    theta = np.array([[0.3, 4.0, 0.15, 0.6, 0.6, 0.7, 0.11], [0.5, 3.0, 0.3, 0.5, 0.4, 0.3, 0.05]])
    groups = twin.SYSTEMS[system]
    with jax.enable_x64(True):
        parts = [np.asarray(twin.log_likelihood(theta, group)) for group in groups]
        np.testing.assert_allclose(sum(parts), twin.log_likelihood(theta, system), rtol=1e-12)
    measured = [twin.pseudo_data(group) for group in groups]
    np.testing.assert_array_equal(np.concatenate([part.y for part in measured]), twin.pseudo_data(system).y)
    assert [part.groups for part in measured] == [(group,) for group in groups]
