"""evidence: exact evidences, errors that are those of repetitions, and rows that do not follow their log density."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import log_ndtr, logsumexp, ndtr
from scipy.stats import chi2, multivariate_normal, norm
from toys import autoregression

from numpyro_flowprior import (
    Chain,
    Evidence,
    FlowConfig,
    FlowPriorWarning,
    ModelDensity,
    ParameterSpace,
    TrainConfig,
    evidence,
)
from numpyro_flowprior.sampling.bridge import bridge, overlap
from numpyro_flowprior.sampling.crossed import Crossed
from numpyro_flowprior.sampling.evidence_report import EvidenceCheck
from numpyro_flowprior.sampling.harmonic import Region, harmonic

SMALL = {
    "config": FlowConfig(layers=2, hidden=(16,), components=4),
    "train": TrainConfig(batch_size=256, max_steps=200),
    "progress": False,
}
BRIDGE, HARMONIC = "bridge sampling", "learned harmonic mean"
EXACT = -17.3  # of all densities below, unless they say otherwise
N = 2000


def space(dim, lower=-np.inf, upper=np.inf):
    return ParameterSpace([f"p{j}" for j in range(dim)], np.full(dim, lower), np.full(dim, upper))


def gaussian(x):
    return EXACT + norm.logpdf(x).sum(axis=1)


def gaussian_chain(seed=0, n=N, dim=2, **fields):
    x = np.random.default_rng(seed).normal(size=(n, dim))
    return Chain(x, space(dim), **{"log_prob": gaussian(x), "rows": "independent", **fields})


def banana(x):
    """Of five parameters: the third is normal about half the square of the first."""
    moved = np.column_stack([x[:, :2], (x[:, 2] - 0.5 * x[:, 0] ** 2) / 0.3, x[:, 3:]])
    return gaussian(moved) - np.log(0.3)


def draw_banana(rng):
    z = rng.normal(size=(N, 5))
    z[:, 2] = 0.5 * z[:, 0] ** 2 + 0.3 * z[:, 2]
    return z


def two_modes(x):
    parts = [np.log(share) + norm.logpdf(x[:, 0], at) for share, at in ((0.3, -4.0), (0.7, 4.0))]
    return EXACT + logsumexp(parts, axis=0) + norm.logpdf(x[:, 1])


def draw_two_modes(rng):
    return rng.normal(size=(N, 2)) + np.column_stack([np.where(rng.random(N) < 0.3, -4.0, 4.0), np.zeros(N)])


def edges(x):
    """In a box: an exponential that piles up on the lower edge, and half a normal on the upper one."""
    inside = ((x > 0.0) & (x < 1.0)).all(axis=1)
    first = np.log(5.0) - 5.0 * x[:, 0] - np.log1p(-np.exp(-5.0))
    second = norm.logpdf(x[:, 1], 1.0, 0.3) - np.log(0.3) + np.log(0.3) - np.log(0.5 - ndtr(-1 / 0.3))
    return np.where(inside, EXACT + first + second, -np.inf)


def draw_edges(rng):
    first = -np.log1p(-rng.random(N) * (1.0 - np.exp(-5.0))) / 5.0
    second = np.abs(rng.normal(size=4 * N))
    return np.column_stack([first, 1.0 - 0.3 * second[second < 1 / 0.3][:N]])


TARGETS = {
    "banana": (banana, draw_banana, (-np.inf, np.inf)),
    "two modes": (two_modes, draw_two_modes, (-np.inf, np.inf)),
    "box with mass on its edges": (edges, draw_edges, (0.0, 1.0)),
}


@pytest.mark.parametrize("dim", [2, 10])
def test_the_error_is_that_of_repetitions(dim):
    """12 repetitions. The sum of the squared pulls is outside of its limits in one of 5000 right cases."""
    found = [
        evidence(jax.random.key(seed), gaussian_chain(seed, 1000, dim), gaussian, **SMALL).estimates
        for seed in range(12)
    ]
    for method in (BRIDGE, HARMONIC):
        pulls = np.array([(each[method][0] - EXACT) / each[method][1] for each in found])
        low, high = chi2.ppf([1e-4, 1 - 1e-4], len(pulls))
        assert low < np.sum(pulls**2) < high
        assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls))
        assert max(each[method][1] for each in found) < 0.1


@pytest.mark.parametrize("name", TARGETS)
def test_exact_evidences_are_found_with_and_without_the_density(name):
    density, draw, bounds = TARGETS[name]
    x = draw(np.random.default_rng(1))
    chain = Chain(x, space(x.shape[1], *bounds), log_prob=density(x), rows="independent")
    with_density = evidence(jax.random.key(0), chain, density, **SMALL)
    without = evidence(jax.random.key(0), chain, **SMALL)
    assert (with_density.method, without.method) == (BRIDGE, HARMONIC)
    assert with_density.estimates[HARMONIC] == (without.log_evidence, without.error)
    assert with_density.trusted
    for found in (with_density, without):
        assert found.log_evidence == pytest.approx(EXACT, abs=4 * found.error)
        assert found.error < 0.1
    assert with_density.calls < 2 * N  # the rows have their log density
    assert without.calls == 0


def test_autocorrelated_rows_have_a_larger_error():
    """The autocorrelation time is 19 rows, so that errors of means grow by a factor of 4.4."""
    x = autoregression(4000, 0.9, 2, seed=3)
    slow = evidence(jax.random.key(0), Chain(x, space(2), log_prob=gaussian(x)), gaussian, **SMALL)
    fast = evidence(jax.random.key(0), gaussian_chain(3, 4000), gaussian, **SMALL)
    for method in (BRIDGE, HARMONIC):
        assert slow.estimates[method][1] > 1.5 * fast.estimates[method][1]
        assert slow.estimates[method][0] == pytest.approx(EXACT, abs=4 * slow.estimates[method][1])


def test_a_constant_in_the_log_density_is_a_constant_in_the_log_evidence():
    chain = gaussian_chain()
    found, moved = (
        evidence(jax.random.key(0), each, **SMALL) for each in (chain, chain.replace(log_prob=chain.log_prob + 1e4))
    )
    assert moved.log_evidence - found.log_evidence == pytest.approx(1e4, abs=1e-8)
    assert moved.error == pytest.approx(found.error, rel=1e-6)


def test_weights_count():
    """Draws of a wider Gaussian, weighted to the posterior."""
    x = 1.4 * np.random.default_rng(2).normal(size=(4000, 2))
    weights = np.exp(norm.logpdf(x).sum(axis=1) - norm.logpdf(x, scale=1.4).sum(axis=1))
    chain = Chain(x, space(2), log_prob=gaussian(x), weights=weights)
    found = evidence(jax.random.key(0), chain, gaussian, **SMALL)
    for value, error in found.estimates.values():
        assert value == pytest.approx(EXACT, abs=4 * error)
    unused = np.zeros(100)
    more = Chain(
        np.concatenate([x, x[:100] + 9.0]),
        space(2),
        log_prob=np.append(chain.log_prob, unused),
        weights=np.append(weights, unused),
    )
    assert evidence(jax.random.key(0), more, gaussian, **SMALL).estimates == found.estimates


def test_log_prior_and_likelihood_count_before_log_prob_and_prior_before_both():
    chain = gaussian_chain()
    apart = chain.replace(log_prob=None, log_likelihood=0.5 * chain.log_prob, log_prior=0.5 * chain.log_prob)
    assert evidence(jax.random.key(0), apart, **SMALL).log_evidence == pytest.approx(EXACT, abs=0.2)
    x = chain.samples  # of a posterior with the prior Normal(0, 2)
    prior = dist.Normal(np.zeros(2), 2.0).to_event(1)
    likelihood = gaussian(x) - norm.logpdf(x, scale=2.0).sum(axis=1)
    only = chain.replace(log_prob=None, log_likelihood=likelihood)
    found = evidence(jax.random.key(0), only, prior=prior, **SMALL)
    same = evidence(jax.random.key(0), chain, **SMALL)
    assert found.log_evidence == pytest.approx(same.log_evidence, abs=1e-9)  # float64


def test_a_model_finds_its_parameters_by_name():
    """A conjugate model: two normal parameters with normal priors, one observation of each."""

    def model(y):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        b = numpyro.sample("b", dist.Normal(0.0, 2.0))
        numpyro.sample("y", dist.Normal(np.array([1.0, 0.0]) * a + np.array([0.0, 1.0]) * b, 0.5), obs=y)

    y, rng = np.array([0.7, -1.0]), np.random.default_rng(0)
    variances = np.array([1.0, 4.0])
    width = (1 / variances + 4.0) ** -0.5
    rows = 4.0 * y * width**2 + width * rng.normal(size=(N, 2))
    chain = Chain(rows[:, ::-1], ParameterSpace(["b", "a"]), rows="independent")  # without a log density
    found = evidence(jax.random.key(0), chain, ModelDensity(model, y), draws=1000, **SMALL)
    exact = norm.logpdf(y, scale=np.sqrt(variances + 0.25)).sum()
    assert found.log_evidence == pytest.approx(exact, abs=4 * found.error)
    assert found.trusted
    assert found.calls == N + 1000


def test_an_object_with_a_log_posterior_is_a_density():
    class Density:
        def log_posterior(self, x):
            return gaussian(x)

    found, same = (evidence(jax.random.key(0), gaussian_chain(), each, **SMALL) for each in (Density(), gaussian))
    assert found.estimates == same.estimates


@pytest.mark.parametrize("power", [0.5, 1.3])
def test_rows_that_do_not_follow_their_log_density_are_noticed(power):
    chain = gaussian_chain(n=4000, dim=4)
    wrong = chain.replace(log_prob=power * chain.log_prob)
    with pytest.warns(FlowPriorWarning, match="not to be trusted .*rows follow the density"):
        found = evidence(jax.random.key(0), wrong, **SMALL)
    assert not found.trusted
    with pytest.warns(FlowPriorWarning, match="not to be trusted .*rows follow the density"):
        found = evidence(jax.random.key(0), chain.replace(log_prob=None), lambda x: power * gaussian(x), **SMALL)
    assert not found.checks["rows follow the density"].passed


def test_a_log_prob_that_is_not_the_density_is_noticed_and_not_used():
    chain = gaussian_chain()
    wrong = chain.replace(
        log_prob=chain.log_prob + np.random.default_rng(0).normal(size=N)
    )  # 0.83 at the rows that are compared
    with pytest.warns(FlowPriorWarning, match=r"log_prob of the rows: .* scatters by 0.8"):
        found = evidence(jax.random.key(0), wrong, gaussian, **SMALL)
    assert found.log_evidence == pytest.approx(EXACT, abs=4 * found.error)
    assert [name for name, check in found.checks.items() if not check.passed] == ["log_prob of the rows"]
    rounded = chain.replace(log_prob=(chain.log_prob + 3e3).astype(np.float32))  # with another constant
    found = evidence(jax.random.key(0), rounded, gaussian, **SMALL)
    assert found.trusted
    assert found.log_evidence == pytest.approx(EXACT, abs=4 * found.error + 1e-3)


def test_few_independent_draws_are_not_trusted():
    x = autoregression(2000, 0.98, 2, seed=0)
    with pytest.warns(FlowPriorWarning, match="effective draws: .* at least 100 are needed"):
        found = evidence(jax.random.key(0), Chain(x, space(2), log_prob=gaussian(x)), **SMALL)
    assert not found.trusted
    assert "not to be trusted" in repr(found)


def test_it_reads_well():
    found = evidence(jax.random.key(0), gaussian_chain(), gaussian, **SMALL)
    assert isinstance(found, Evidence)
    lines = str(found).splitlines()
    assert lines[0].startswith("log evidence: -17.")
    assert lines[0].endswith("(bridge sampling)")
    assert lines[1].endswith("(learned harmonic mean)")
    assert all(line.startswith("  pass  ") for line in lines[2:])
    assert {"effective draws", "halves", "agreement of methods", "error"} <= set(found.checks)


def test_bad_input_is_refused():
    chain, key = gaussian_chain(), jax.random.key(0)
    bare = chain.replace(log_prob=None)
    for given, message in (
        ((bare,), "expected a log density of the rows.*got none. Add it with"),
        ((chain.take(slice(100)),), "expected at least 200 rows of positive weight; got 100"),
        ((bare, lambda x: np.where(x[:, 0] > 0, 0.0, -np.inf)), "density: .* above zero at the rows.* undefined at"),
        ((bare, lambda x: np.zeros(3)), r"density: expected shape"),
    ):
        with pytest.raises(ValueError, match=message):
            evidence(key, *given, **SMALL)
    prior = dist.Normal(np.zeros(2), 1.0).to_event(1)
    with pytest.raises(ValueError, match="expected prior or density; got both"):
        evidence(key, chain, gaussian, prior=prior, **SMALL)
    with pytest.raises(ValueError, match="expected log_likelihood, to which"):
        evidence(key, chain, prior=prior, **SMALL)
    with pytest.raises(ValueError, match='train: expected the loss "nll"; got "log_variance"'):
        evidence(key, chain, train=TrainConfig(loss="log_variance"))
    with pytest.raises(TypeError, match="expected a Chain; got ndarray"):
        evidence(key, chain.samples)
    with pytest.raises(TypeError, match="prior: expected a distribution with log_prob; got int"):
        evidence(key, chain.replace(log_likelihood=chain.log_prob), prior=3)
    with pytest.raises(TypeError, match="density: expected a ModelDensity, or a function"):
        evidence(key, chain, 3)


def test_the_bridge_is_the_fixed_point_of_meng_and_wong():
    rng = np.random.default_rng(0)
    posterior, flow = multivariate_normal([0.3, 0.0]), multivariate_normal([0.0, 0.0], 1.5 * np.eye(2))
    rows, draws = posterior.rvs(3000, rng), flow.rvs(1000, rng)
    of_rows, of_draws = (posterior.logpdf(x) + 5.0 - flow.logpdf(x) for x in (rows, draws))
    found = bridge(of_rows, np.full(3000, 1 / 3000), of_draws, 0.75)
    r, one, two = 1.0, np.exp(of_rows), np.exp(of_draws)
    for _ in range(500):
        r = np.mean(two / (0.75 * two + 0.25 * r)) / np.mean(1 / (0.75 * one + 0.25 * r))
    assert found.log_z == pytest.approx(np.log(r), abs=1e-9)
    far = bridge(of_rows + 1e5, np.full(3000, 1 / 3000), np.append(of_draws[1:] + 1e5, -np.inf), 0.75)
    assert far.log_z == pytest.approx(found.log_z + 1e5, abs=0.01)
    assert far.parts.sum() == pytest.approx(0.0, abs=1e-12)
    exact = np.full(5, 5.0)  # of a flow that is the posterior
    perfect = bridge(exact, np.full(5, 0.2), exact, 0.5)
    assert perfect.log_z == pytest.approx(5.0)
    assert np.abs(perfect.rows).max() < 1e-12
    assert overlap(exact, 5.0, 0.5) == pytest.approx(1.0)


def crossed(flow_of, n=400, seed=0):
    """Bridge sampling from two halves of a standard normal posterior, with the flows that `flow_of` halves give."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    chain = Chain(x[:, None], space(1), rows="independent")
    first = np.arange(n) % 2 == 0
    halves = []
    for used in (first, ~first):
        flow = flow_of(x[~used])
        draws = flow.rvs(20_000, random_state=rng)
        log_p_minus_log_q = [norm.logpdf(points) - flow.logpdf(points) for points in (x, draws)]
        halves.append(bridge(log_p_minus_log_q[0], used / used.sum(), log_p_minus_log_q[1], n / 2 / (n / 2 + 20_000)))
    return Crossed(chain, *halves)


@pytest.mark.parametrize(
    "flow_of",
    [lambda x: norm(x.mean(), x.std()), lambda x: norm(0.5, 1.2)],
    ids=["all the misfit is noise of the training rows", "none is"],
)
def test_the_error_of_both_halves_has_their_correlation(flow_of):
    """300 repetitions: their scatter is known to 4 %. With the first flows, both halves make the same error."""
    found = [crossed(flow_of, seed=seed) for seed in range(300)]
    scatter, stated = np.std([each.log_z for each in found]), np.sqrt(np.mean([each.error**2 for each in found]))
    assert stated == pytest.approx(scatter, rel=0.15)


def test_the_harmonic_mean_of_a_truncated_normal_is_exact():
    """With q equal to the posterior, the only noise is that of the numbers of rows and draws inside."""
    rng = np.random.default_rng(0)
    rows, draws = norm.logpdf(rng.normal(size=(2, 20_000)))
    cut = float(norm.logpdf(1.0))
    found = harmonic(rows + EXACT, rows, np.full(20_000, 1 / 20_000), draws, Region(1.0, cut))
    inside = [np.mean(each > cut) for each in (draws, rows)]
    assert inside[0] == pytest.approx(2 * np.exp(log_ndtr(1.0)) - 1, abs=0.02)
    assert found.log_z == pytest.approx(EXACT + np.log(inside[0] / inside[1]), abs=1e-9)
    variances = [(1 - share) / share / 20_000 for share in inside]
    assert np.sum(found.parts**2) == pytest.approx(variances[1], rel=1e-9)
    assert np.sum(found.draws**2) == pytest.approx(variances[0], rel=1e-9)


def test_the_harmonic_mean_of_a_power_is_normalised():
    """The square of a standard normal density is one of half the variance, times a constant."""
    rng = np.random.default_rng(0)
    x, draws = rng.normal(size=20_000), norm.logpdf(rng.normal(size=200_000))
    found = harmonic(norm.logpdf(x) + EXACT, norm.logpdf(x), np.full(len(x), 1 / len(x)), draws, Region(2.0, -np.inf))
    known = np.log(np.mean(norm.pdf(x, scale=np.sqrt(0.5)) / norm.pdf(x)))
    assert found.log_z == pytest.approx(EXACT - known, abs=4 * np.sqrt(np.sum(found.draws**2)))
    assert np.sum(found.draws**2) == pytest.approx((2 / np.sqrt(3) - 1) / 200_000, rel=0.05)


@pytest.mark.parametrize(
    ("first", "rows", "settings", "estimates"),
    [
        ((0.02, True), N, {}, 1),
        ((0.02, False), N, {}, 2),
        ((0.3, True), N, {}, 2),
        ((0.02, False), 250, {}, 1),  # too few rows: other flows would not help
        ((0.02, False), N, {"config": SMALL["config"]}, 1),
    ],
)
@pytest.mark.filterwarnings("ignore:evidence. the estimate is not to be trusted")
def test_flows_of_modest_size_are_replaced_where_they_fail(first, rows, settings, estimates, monkeypatch):
    used = []

    def estimated(key, chain, log_p, called, checks, config, train, **options):
        used.append((config, train))
        error, passed = first if len(used) == 1 else (0.01, True)
        checks = {**checks, "overlap": EvidenceCheck(passed, "")}
        return Evidence(EXACT, error, BRIDGE, checks, {BRIDGE: (EXACT, error)})

    monkeypatch.setattr("numpyro_flowprior.sampling.evidence._estimated", estimated)
    chain = gaussian_chain(n=rows) if rows == N else autoregressive_chain(rows)
    found = evidence(jax.random.key(0), chain, progress=False, **settings)
    assert len(used) == estimates
    assert (used[-1] == (None, None)) == (estimates == 2)
    assert found.error == (0.01 if estimates == 2 else first[0])


def autoregressive_chain(n):
    x = autoregression(n, 0.9)
    return Chain(x, space(2), log_prob=gaussian(x), rows="sequence")
