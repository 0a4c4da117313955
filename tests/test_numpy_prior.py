"""NumpyPrior against FlowPrior: the same density to 1e-10, draws of it, and neither JAX nor Distrax needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import chi2, ks_2samp
from toys import PRIOR_IDS, PRIOR_TABLE, make_prior

from numpyro_flowprior import FlowConfig, FlowPrior, NumpyPrior, load_numpy

INF = np.inf
BOX, MIXED = [(0.0, 1.0), (1e-4, 0.28), (-3.0, 5.0)], [(0.0, 1.0), (2.0, INF), (-INF, 7.0), (-INF, INF)]

# what the configuration can say, beyond the table of priors
MORE = [
    ("roch_shen", [(-INF, INF)] * 4, FlowConfig.paper(3)),
    ("wide spline", MIXED, FlowConfig(layers=2, hidden=(8, 8), transformer="spline", bins=12, max_log_scale=2.0)),
    ("spline ensemble", BOX, FlowConfig(layers=2, hidden=(8,), transformer="spline", members=3, background=True)),
    ("background of one", MIXED, FlowConfig(layers=2, hidden=(8,), background=True, base="normal")),
    ("permuted spline", MIXED, FlowConfig(layers=3, hidden=(), transformer="spline", masks="permuted", hull=2.0)),
    ("no couplings", MIXED, FlowConfig(layers=0)),
    ("unbounded, no support", [(-INF, INF)] * 3, FlowConfig(layers=2, hidden=(8,), support=False)),
    ("narrow box far from zero", [(1e6, 1e6 + 1e-3), (-1e-9, 1e-9)], FlowConfig(layers=2, hidden=(8,))),
]
TABLE = [*PRIOR_TABLE, *MORE]
IDS = [*PRIOR_IDS, *(row[0] for row in MORE)]


@pytest.fixture(scope="module", params=TABLE, ids=IDS)
def both(request, tmp_path_factory) -> tuple[FlowPrior, NumpyPrior]:
    prior = make_prior(request.param[1], request.param[2])
    return prior, load_numpy(prior.save(tmp_path_factory.mktemp("prior") / "p.safetensors"))


def draw(prior: FlowPrior, n: int) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.jit(lambda key: prior.sample(key, (n,)))(jax.random.key(2)))


def probe_points(prior: FlowPrior, draws: np.ndarray) -> np.ndarray:
    """Returns draws, and points in the far tails, next to the edges and on them, (m, d) in float64."""
    n = len(draws)
    rng, (low, high) = np.random.default_rng(0), prior.space.bounds.T
    finite_low, finite_high = np.where(np.isfinite(low), low, -1e3), np.where(np.isfinite(high), high, 1e3)
    width = finite_high - finite_low
    spread = rng.uniform(finite_low, finite_high, (n, prior.space.dim))
    mixed = np.where(rng.random(spread.shape) < 0.5, draws, spread)
    points = [draws, spread, mixed]
    for fraction in (1e-3, 1e-6, 1e-9, 1e-12, 0.0):
        near = np.where(rng.random(spread.shape) < 0.5, finite_low + fraction * width, finite_high - fraction * width)
        points += [near[:30], np.where(rng.random(near.shape) < 0.5, draws, near)]
    return np.concatenate(points)


def reference(prior: FlowPrior, theta: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(prior.log_prob(theta))


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.isfinite(expected).mean() > 0.9
    near = np.abs(expected) < 1000.0
    assert near.mean() > 0.1
    np.testing.assert_allclose(found[near], expected[near], rtol=0.0, atol=1e-10)
    np.testing.assert_allclose(found[~near], expected[~near], rtol=1e-13)


def test_density_is_that_of_distrax_to_1e_10(both):
    """Absolutely where |log q| < 1000; further out 1e-13 of it, which is what rounding a coordinate changes there."""
    prior, plain = both
    theta = probe_points(prior, plain.sample(0, 300))
    assert_same(plain.log_prob(theta), reference(prior, theta))


@pytest.mark.parametrize("row", [row for row in TABLE if row[2].transformer == "spline"], ids=lambda row: row[0])
def test_wild_splines_differ_by_no_more_than_rounding_the_point_does(row, tmp_path):
    """Weights of order one make slopes of 1e4 on top of each other: a last digit of theta moves log q by up to nats.

    No evaluation in float64 can be better than that. Here the two differ by a hundredth of it at most; ten times is let
    pass, for two shifts may miss the direction that matters.
    """
    prior = make_prior(row[1], row[2], strength=1.0)
    plain = load_numpy(prior.save(tmp_path / "p.safetensors"))
    theta = probe_points(prior, plain.sample(0, 300))
    found, expected = plain.log_prob(theta), reference(prior, theta)
    moved = [plain.log_prob(np.clip(theta * (1.0 + shift), *prior.space.bounds.T)) for shift in (4e-16, -4e-16)]
    rounding = np.abs(moved - found).max(axis=0)
    assert (np.abs(found - expected) <= 1e-10 + 1e-13 * np.abs(expected) + 10.0 * rounding).all()
    assert np.median(np.abs(found - expected)[np.abs(expected) < 1000.0]) < 1e-11


def test_outside_the_support_there_is_no_density(both):
    prior, plain = both
    theta = np.tile(plain.sample(0, 1), (4, 1))
    theta[0, 0], theta[1, -1] = np.nan, INF
    theta[2, 0] = np.nextafter(prior.space.lower[0], -INF)
    theta[3, -1] = np.nextafter(prior.space.upper[-1], INF)
    outside = [True, True, np.isfinite(prior.space.lower[0]), np.isfinite(prior.space.upper[-1])]
    assert (plain.log_prob(theta)[outside] == -INF).all()


def test_shapes(both):
    _, plain = both
    theta = plain.sample(np.random.default_rng(0), 6).reshape(2, 3, -1)
    log_prob = plain.log_prob(theta)
    assert log_prob.shape == (2, 3)
    assert log_prob.dtype == np.float64
    assert isinstance(plain.log_prob(theta[0, 0]), float)
    assert plain.log_prob(theta[0, 0]) == pytest.approx(log_prob[0, 0], abs=1e-12)
    assert plain.log_prob(theta[:0]).shape == (0, 3)


def test_draws_are_inside_and_follow_the_density(both):
    """Against FlowPrior's draws: every parameter, the log density and a random direction by Kolmogorov-Smirnov.

    With Bonferroni's correction the false-alarm rate is 1e-6 for each prior; and means of log q within 5 standard
    errors (6e-7).
    """
    prior, plain = both
    n = 20_000
    own = plain.sample(1, n)
    low, high = prior.space.bounds.T
    assert own.shape == (n, prior.space.dim)
    assert ((own > low) & (own < high)).all()
    others = draw(prior, n)
    own_log, other_log = plain.log_prob(own), plain.log_prob(others)
    direction = np.random.default_rng(3).normal(size=prior.space.dim) / own.std(axis=0)
    pairs = [(own_log, other_log), (own @ direction, others @ direction), *zip(own.T, others.T, strict=True)]
    assert min(ks_2samp(*pair).pvalue for pair in pairs) > 1e-6 / len(pairs)
    error = np.hypot(own_log.std(), other_log.std()) / np.sqrt(n)
    assert abs(own_log.mean() - other_log.mean()) < 5.0 * error


def test_draws_are_reproducible_and_a_generator_is_advanced(both):
    _, plain = both
    np.testing.assert_array_equal(plain.sample(7, 5), plain.sample(7, 5))
    generator = np.random.default_rng(7)
    first, second = plain.sample(generator, 5), plain.sample(generator, 5)
    np.testing.assert_array_equal(first, plain.sample(7, 5))
    assert (first != second).any()


def test_more_points_than_one_chunk(monkeypatch, tmp_path):
    plain = load_numpy(make_prior(BOX, FlowConfig(layers=1, hidden=(8,))).save(tmp_path / "p.safetensors"))
    theta = plain.sample(0, 50)
    whole = plain.log_prob(theta)
    monkeypatch.setattr("numpyro_flowprior.priors.numpy_prior._CHUNK", 7)
    np.testing.assert_allclose(plain.log_prob(theta), whole, atol=1e-12)
    assert plain.sample(0, 50).shape == (50, 3)


def test_shares_of_the_components_are_their_weights(tmp_path):
    """A background far wider than its member: the share of draws beyond the member, by a chi-square of rate 1e-6."""
    prior = make_prior([(-INF, INF)], FlowConfig(layers=0, base="normal", background=True), strength=0.0)
    prior.params["final"] = {"log_scale": np.full((1, 1), -8.0), "shift": np.zeros((1, 1))}
    prior.params["mixture"] = {"weights": np.array([0.7, 0.3])}
    plain = load_numpy(prior.save(tmp_path / "p.safetensors"))
    n, loc, scale = 20_000, prior.params["whitening"]["loc"], np.diagonal(prior.params["whitening"]["tril"])
    far = np.abs((plain.sample(0, n) - loc) / scale) > 10 * np.exp(-8.0)  # 0.0027 of the background is nearer
    expected = 0.3 * (1.0 - 0.0026764)
    statistic = (far.sum() - n * expected) ** 2 / (n * expected * (1 - expected))
    assert statistic < chi2.isf(1e-6, 1)


def test_metadata_travels(tmp_path):
    prior = make_prior(BOX, FlowConfig(layers=1, hidden=(8,)))
    plain = load_numpy(prior.save(tmp_path / "p.safetensors", metadata={"title": "a test"}))
    assert (plain.config, plain.space, plain.names) == (prior.config, prior.space, prior.names)
    assert plain.info == {**FlowPrior.load(tmp_path / "p.safetensors").info}
    assert plain.info["metadata"] == {"title": "a test"}
    assert "p0 (0, 1)" in repr(plain)


def test_bad_arguments_are_refused(tmp_path):
    plain = load_numpy(make_prior(BOX, FlowConfig(layers=1, hidden=(8,))).save(tmp_path / "p.safetensors"))
    with pytest.raises(ValueError, match=r"last axis of 3 values for p0, p1, p2; got shape \(2,\)"):
        plain.log_prob(np.zeros(2))
    with pytest.raises(TypeError, match="real numbers"):
        plain.log_prob(["a", "b", "c"])
    with pytest.raises(ValueError, match="NumpyPrior.sample: n: expected an integer >= 1"):
        plain.sample(0, 0)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_numpy("nothing.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_forked_workers_evaluate_without_jax(tmp_path):
    prior = make_prior(MIXED, FlowConfig(layers=2, hidden=(8,), members=2))
    theta = probe_points(prior, draw(prior, 300))
    np.save(tmp_path / "theta.npy", theta)
    prior.save(tmp_path / "p.safetensors")
    code = """
import multiprocessing, sys
import numpy as np
from numpyro_flowprior import load_numpy
prior, theta = load_numpy("p.safetensors"), np.load("theta.npy")
with multiprocessing.get_context("fork").Pool(2) as pool:
    np.save("found.npy", np.concatenate(pool.map(prior.log_prob, np.array_split(theta, 4))))
assert not {"jax", "numpyro", "distrax"} & set(sys.modules)
"""
    path = str(Path(__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env={"PYTHONPATH": path}, timeout=120)
    assert_same(np.load(tmp_path / "found.npy"), reference(prior, theta))
