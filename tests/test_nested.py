"""sample_dynesty and sample_nautilus against exact posteriors and evidences, kills, and what they say of their runs."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import chi2, norm
from toys import make_prior

from numpyro_flowprior import (
    ExternalLikelihood,
    FlowConfig,
    ModelDensity,
    ParameterSpace,
    UniformPrior,
    sample_dynesty,
    sample_nautilus,
    to_arviz,
)
from numpyro_flowprior._util.storage import FileFormatError
from numpyro_flowprior.sampling import replay
from numpyro_flowprior.sampling.nested_report import effective_size_of, insertion_probability, plateau_variance
from numpyro_flowprior.sampling.replay import Calls
from numpyro_flowprior.sampling.state_file import StateFile
from numpyro_flowprior.sampling.together import Together
from numpyro_flowprior.sampling.unit_cube import UnitCube

few = pytest.mark.filterwarnings("ignore:sample_(dynesty|nautilus). not converged")  # short runs, on purpose
KEY = jax.random.key(1)
Y = np.array([2.5])
POSTERIOR_MEAN, POSTERIOR_SD = (1.0 / 4 + 2.5) / (1 + 1 / 4), np.sqrt(1 / (1 + 1 / 4))
LOG_EVIDENCE = norm(1.0, np.sqrt(5.0)).logpdf(2.5)
SHORT = {"n_live": 100, "progress": False}
QUICK = {"n_live": 300, "n_effective": 1000, "n_networks": 1, "progress": False}


def conjugate(y, error=1.0):
    """Normal mean with a normal prior; a bounded and a positive parameter that the data leave alone."""
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    numpyro.sample("flat", dist.Uniform(0.0, 2.0))
    numpyro.sample("scale", dist.HalfNormal(200.0))
    numpyro.sample("y", dist.Normal(mu, error), obs=y)


@pytest.fixture(scope="module")
def density():
    return ModelDensity(conjugate, Y)


def assert_exact(chain):
    assert chain.info["converged"]
    assert abs(chain.log_evidence - LOG_EVIDENCE) < 4 * chain.log_evidence_error + 1e-3
    n = np.sqrt(chain.info["effective_size"])
    widths = np.array([POSTERIOR_SD, 2 / np.sqrt(12), 200 * np.sqrt(1 - 2 / np.pi)])
    means = np.array([POSTERIOR_MEAN, 1.0, 200 * np.sqrt(2 / np.pi)])
    assert (np.abs(chain.mean() - means) < 5 * widths / n).all()
    found = np.sqrt(np.diag(chain.covariance()))
    np.testing.assert_allclose(found, widths, rtol=5 / n)


def test_dynesty_finds_the_exact_posterior_and_evidence(density):
    chain = sample_dynesty(KEY, density, progress=False)
    assert_exact(chain)
    assert chain.info["insertion_probability"] > 1e-4
    assert chain.info["calls"] > chain.n
    np.testing.assert_allclose(chain.log_prior + chain.log_likelihood, density.log_posterior(chain.samples), atol=1e-9)
    assert to_arviz(chain, density).posterior["mu"].size > 0


def test_nautilus_finds_the_exact_posterior_and_evidence(density):
    chain = sample_nautilus(KEY, density, **QUICK)
    assert_exact(chain)
    np.testing.assert_allclose(chain.log_prior + chain.log_likelihood, density.log_posterior(chain.samples), atol=1e-9)


def of_learned(prior, y):
    theta = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(theta[0] + jnp.log1p(theta[1]), 0.2), obs=y)


@pytest.mark.parametrize("members", [1, 3])
def test_the_posterior_of_a_learned_prior_is_that_of_importance_weights(members):
    config = FlowConfig(layers=2, hidden=(8,), members=members, background=members > 1)
    prior = make_prior([(0.0, 1.0), (0.0, np.inf)], config, strength=0.1)
    density = ModelDensity(of_learned, prior, 1.2)
    chain = sample_dynesty(KEY, density, progress=False)
    x = density.sample_prior(jax.random.key(7), 200_000)
    weights = np.exp(density.log_likelihood(x))
    log_evidence = np.log(weights.mean())
    assert chain.info["converged"]
    assert abs(chain.log_evidence - log_evidence) < 4 * chain.log_evidence_error
    mean = weights @ x / weights.sum()
    width = np.sqrt(weights @ (x - mean) ** 2 / weights.sum())
    assert (np.abs(chain.mean() - mean) / width < 5 / np.sqrt(chain.info["effective_size"])).all()


@few
def test_the_key_decides_and_nothing_is_written(density, capsys):
    first, again = (sample_dynesty(KEY, density, **SHORT) for _ in range(2))
    np.testing.assert_array_equal(first.samples, again.samples)
    assert first.log_evidence == again.log_evidence
    assert capsys.readouterr() == ("", "")


class Killed(BaseException):
    """What nothing catches."""


@few
@pytest.mark.parametrize(("sampler", "options"), [(sample_dynesty, SHORT), (sample_nautilus, QUICK)])
def test_a_killed_run_goes_on_to_the_same_draws_and_calls_nothing_twice(
    density, sampler, options, tmp_path, monkeypatch
):
    file = tmp_path / "run.checkpoint"
    undisturbed = sampler(KEY, density, **options)
    made, evaluate = [], UnitCube.evaluate

    def dying(self, u):
        if sum(map(len, made)) > 2000 and not killed:
            killed.append(True)
            raise Killed
        made.append(u)
        return evaluate(self, u)

    killed = []
    monkeypatch.setattr(UnitCube, "evaluate", dying)
    monkeypatch.setattr(replay, "_BETWEEN", 0.0)
    monkeypatch.setattr(replay, "_SHARE", 1.0)
    with pytest.raises(Killed):
        sampler(KEY, density, checkpoint=file, **options)
    found = sampler(KEY, density, checkpoint=file, **options)
    np.testing.assert_array_equal(found.samples, undisturbed.samples)
    np.testing.assert_array_equal(found.weights, undisturbed.weights)
    assert found.log_evidence == undisturbed.log_evidence
    assert found.info["calls"] == undisturbed.info["calls"]
    assert found.info["replayed"] > 1000
    repeated = sum(map(len, made)) - found.info["calls"]
    assert repeated <= replay._COMPARED + 128  # what is compared, and the batch that the kill lost
    before = len(made)
    again = sampler(KEY, density, checkpoint=file, **options)
    assert len(made) - before <= 2  # nothing was left to do but to compare
    np.testing.assert_array_equal(again.samples, undisturbed.samples)


@few
def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(density, tmp_path):
    file = tmp_path / "run.checkpoint"
    sample_dynesty(KEY, density, checkpoint=file, **SHORT)
    for name, key, model, options in (
        ("seed", jax.random.key(2), density, SHORT),
        ("n_live", KEY, density, {**SHORT, "n_live": 120}),
        ("observed", KEY, ModelDensity(conjugate, Y + 0.5), SHORT),
        ("options", KEY, density, {**SHORT, "walks": 30}),
    ):
        with pytest.raises(ValueError, match=f"the same '{name}'"):
            sample_dynesty(key, model, checkpoint=file, **options)
    with pytest.raises(ValueError, match="this model and data; its log densities differ"):
        sample_dynesty(KEY, ModelDensity(conjugate, Y, 1.5), checkpoint=file, **SHORT)
    with pytest.raises(ValueError, match="the same 'sampler'"):
        sample_nautilus(KEY, density, checkpoint=file, **QUICK)
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(FileFormatError, match="damaged"):
        sample_dynesty(KEY, density, checkpoint=file, **SHORT)


def test_a_run_that_asks_for_other_points_than_its_file_is_refused(density, tmp_path):
    """Another version of a sampler may: its results would be made of the values of other points."""
    cube = UnitCube(density, KEY)
    file = StateFile(tmp_path / "run.checkpoint", {"sampler": "dynesty"})
    u = np.random.default_rng(0).uniform(size=(40, 3))
    calls = Calls(cube, file, lambda made: None)
    calls(u)
    calls.save()
    again = Calls(cube, file, lambda made: None)
    np.testing.assert_array_equal(again(u[:30]).target, cube.evaluate(u[:30]).target)
    with pytest.raises(ValueError, match="expected a run that asks for the same points; it differs at call 31"):
        again(u[:10])


@few
@pytest.mark.parametrize(("sampler", "options"), [(sample_dynesty, SHORT), (sample_nautilus, QUICK)])
def test_a_time_limit_and_an_interruption_return_what_there_is_and_lose_nothing(
    density, sampler, options, tmp_path, monkeypatch
):
    evaluate, count = UnitCube.evaluate, [0]

    def slow(self, u):
        time.sleep(0.02)
        return evaluate(self, u)

    def interrupted(self, u):
        count[0] += len(u)
        if count[0] > 1500:
            raise KeyboardInterrupt
        return evaluate(self, u)

    undisturbed = sampler(KEY, density, **options)
    file = tmp_path / "run.checkpoint"
    for replaced, limit, words in ((slow, 1.0, "the time limit"), (interrupted, None, "an interruption")):
        monkeypatch.setattr(UnitCube, "evaluate", replaced)
        with pytest.warns(UserWarning, match=f"{sampler.__name__}: stopped by {words}"):
            found = sampler(KEY, density, checkpoint=file, max_seconds=limit, **options)
        assert not found.info["converged"]
        assert found.info["stopped_by"] == words
        assert found.n > 50
    monkeypatch.setattr(UnitCube, "evaluate", evaluate)
    whole = sampler(KEY, density, checkpoint=file, **options)
    assert whole.info["replayed"] >= 1400
    np.testing.assert_array_equal(whole.samples, undisturbed.samples)


def test_a_short_run_says_so(density):
    with pytest.warns(UserWarning, match="sample_dynesty: not converged. Effective size: expected 400 or more"):
        found = sample_dynesty(KEY, density, n_live=20, progress=False)
    assert not found.info["converged"]


@pytest.mark.parametrize("sampler", [sample_dynesty, sample_nautilus])
def test_bad_settings_are_refused(density, sampler):
    name = sampler.__name__
    for options, error in (
        ({"n_live": 2}, ValueError),
        ({"batch": 0}, ValueError),
        ({"max_seconds": -1}, ValueError),
        ({"pool": 3} if sampler is sample_dynesty else {"filepath": "x.h5"}, TypeError),
    ):
        with pytest.raises(error, match=f"{name}: {next(iter(options))}"):
            sampler(KEY, density, **options)
    with pytest.raises(TypeError, match=f"{name}: 'colour' is no setting of it"):
        sampler(KEY, density, colour=1)
    with pytest.raises(FileNotFoundError, match="Make it first"):
        sampler(KEY, density, checkpoint="nowhere/run")


def test_nautilus_refuses_one_parameter():
    with pytest.raises(ValueError, match="expected two parameters or more; got one. Use sample_dynesty"):
        sample_nautilus(KEY, ModelDensity(lambda: numpyro.factor("f", numpyro.sample("x", dist.Normal(0.0, 1.0)))))


def outside(a, b):
    return -0.5 * ((a - 0.3) / 0.1) ** 2


@few
def test_an_external_likelihood_is_called_in_batches_and_nothing_twice(tmp_path):
    external = ExternalLikelihood(outside, ["a", "b"], progress=False)
    prior = UniformPrior(ParameterSpace(["a", "b"], 0.0, 1.0))

    def model():
        external.factor("data", numpyro.sample("theta", prior))

    file = tmp_path / "run.checkpoint"
    density = ModelDensity(model)
    chain = sample_dynesty(KEY, density, checkpoint=file, **SHORT)
    exact = np.log(0.1 * np.sqrt(2 * np.pi) * (norm.cdf(7) - norm.cdf(-3)))
    assert abs(chain.log_evidence - exact) < 4 * chain.log_evidence_error
    called = external.counts.called
    assert called >= chain.info["calls"]
    again = sample_dynesty(KEY, density, checkpoint=file, **SHORT)
    np.testing.assert_array_equal(again.samples, chain.samples)
    assert external.counts.called == called


def test_insertion_ranks_are_silent_for_uniform_points_and_find_biased_ones():
    """Nested sampling of a uniform variable: 200 seeds silent, and every one caught if points are drawn too low."""

    def born(seed, bias):
        rng, n_live = np.random.default_rng(seed), 100
        live, birth = list(rng.uniform(size=n_live)), [0] * n_live
        dead = []
        for k in range(1, 1500):
            worst = int(np.argmin(live))
            floor = live[worst]
            dead.append(birth[worst])
            live[worst], birth[worst] = floor + (1 - floor) * rng.uniform() ** bias, k
        return np.array(dead + [birth[j] for j in np.argsort(live)])

    def probability(seed, bias):
        found = born(seed, bias)
        return insertion_probability(found, np.arange(len(found)), 100)

    fair = [probability(seed, 1.0) for seed in range(200)]
    assert min(fair) > 1e-4
    assert abs(np.mean(np.array(fair) < 0.1) - 0.1) < 0.1
    assert max(probability(seed, 1.4) for seed in range(20)) < 1e-4
    found = born(0, 1.0)
    assert insertion_probability(found, np.arange(len(found)) // 2, 100) is None  # a plateau: ranks have no meaning


def two_modes(seed, mixing, n_live=200, n_deaths=2400):
    """Nested sampling of two equal modes by walks that begin at a live point: parents, births, u, weights.

    Each walk ends in the mode where it began, or with probability `mixing` in either.
    """
    rng = np.random.default_rng(seed)
    height, mode = rng.uniform(size=n_live), rng.uniform(size=n_live) < 0.5
    live, row = np.arange(n_live), n_live
    births, parents, order = [0] * n_live, list(range(n_live)), []
    for k in range(1, n_deaths + 1):
        worst = live[np.argmin(height[live])]
        begin = rng.choice(live[live != worst])
        order.append(worst)
        height = np.append(height, height[worst] + (1 - height[worst]) * rng.uniform())
        mode = np.append(mode, rng.uniform() < 0.5 if rng.uniform() < mixing else mode[begin])
        births.append(k)
        parents.append(begin)
        live[live == worst] = row
        row += 1
    order += live[np.argsort(height[live])].tolist()
    place = np.argsort(order)
    log_volume = -np.arange(len(order)) / n_live
    weights = np.exp(-0.5 * ((log_volume + 6.0) / 1.5) ** 2)
    u = (mode + rng.uniform(size=len(mode)))[:, None] / 2
    return place[parents][order], np.array(births)[order], u[order], weights / weights.sum()


@pytest.mark.parametrize("mixing", [0.0, 0.1, 1.0])
def test_the_effective_size_counts_common_ancestors(mixing):
    """The mean is known to be 1/2. Kish's size is right only if walks forget where they began."""
    z, kish_z, sizes = [], [], []
    for seed in range(60):
        parent, born, u, weights = two_modes(seed, mixing)
        size = effective_size_of(parent, born, u, weights, 200)
        off, deviation = weights @ u[:, 0] - 0.5, np.sqrt(1 / 12)
        z.append(off * np.sqrt(size) / deviation)
        kish_z.append(off / np.sqrt(weights @ weights) / deviation)
        sizes.append(size)
    spread, error = np.sqrt(np.mean(np.square(z))), 1 / np.sqrt(2 * 60)
    assert 0.6 < spread < 1 + 4 * error
    assert (np.sqrt(np.mean(np.square(kish_z))) > 2) == (mixing < 1.0)
    assert (np.median(sizes) > 600) == (mixing == 1.0)


def test_modes_that_no_walk_goes_between_need_more_live_points():
    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
        numpyro.factor("modes", jnp.logaddexp(-2 * ((x - 8.0) ** 2).sum(), -2 * ((x + 8.0) ** 2).sum()))

    with pytest.warns(UserWarning, match=r"Effective size: expected 400 or more; got .*Raise n_live"):
        found = sample_dynesty(KEY, ModelDensity(model), n_live=400, progress=False)
    assert found.info["effective_size"] < 300 < found.effective_size
    share = found.probabilities @ (found.samples[:, 0] > 0)
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(found.info["effective_size"])


def square(middle, side, inside=None):
    """A normal likelihood inside of a square, zero outside, in the unit square."""

    def model():
        theta = numpyro.sample("theta", UniformPrior(ParameterSpace(["a", "b"], 0.0, 1.0)))
        normal = dist.Normal(middle, 0.2).log_prob(theta).sum() if inside is None else inside
        numpyro.factor("square", jnp.where(jnp.abs(theta - middle).max() < side / 2, normal, -jnp.inf))

    return ModelDensity(model)


def test_a_likelihood_that_is_zero_in_most_of_the_prior():
    exact = 2 * np.log(2 * norm.cdf(0.05 / 0.2) - 1)
    chain = sample_dynesty(KEY, square(0.4, 0.1), n_live=300, sample="unif", bootstrap=0, progress=False)
    assert abs(chain.log_evidence - exact) < 4 * np.hypot(chain.log_evidence_error, np.sqrt(-exact / 300))
    assert (np.abs(chain.samples - 0.4) < 0.05).all()
    nowhere = ModelDensity(lambda: numpyro.factor("f", -jnp.inf * numpyro.sample("x", dist.Uniform(1.0, 2.0))))
    with pytest.raises(ValueError, match="sample_dynesty: the posterior is zero at all of"):
        sample_dynesty(KEY, nowhere, **SHORT)


def test_walks_that_are_too_short_say_so():
    narrow = ModelDensity(conjugate, Y, 0.02)
    with pytest.warns(UserWarning, match=r"Copies: \d+.\d % of the points are copies of others.*Raise `walks`"):
        found = sample_dynesty(KEY, narrow, n_live=200, walks=4, progress=False)
    assert not found.info["converged"]
    assert sample_dynesty(KEY, narrow, n_live=200, progress=False).info["copies"] < 0.01


def test_a_plateau_is_no_fault_and_its_error_is_known():
    step = ModelDensity(lambda: numpyro.factor("f", 5.0 * (numpyro.sample("x", dist.Uniform(0.0, 1.0)) < 0.04)))
    chains = [sample_dynesty(jax.random.key(k), step, n_live=500, progress=False, sample="unif") for k in range(6)]
    assert all(chain.info["insertion_probability"] is None for chain in chains)
    exact = np.log(0.96 + 0.04 * np.exp(5.0))
    off = [(chain.log_evidence - exact) / chain.log_evidence_error for chain in chains]
    assert np.sum(np.square(off)) < chi2(6).ppf(1 - 1e-4)
    assert 0.15 < chains[0].log_evidence_error < 0.35


def test_the_variance_of_a_plateau_is_binomial():
    rng, n, share = np.random.default_rng(3), 400, 0.7
    above = rng.binomial(n, 1 - share, size=20_000)
    simulated = np.log(above / n).var()
    values = np.concatenate([np.zeros(round(share * n)), rng.uniform(1.0, 2.0, 900)])
    weights = np.where(values > 0.0, 1.0, 0.0)
    assert plateau_variance(values, weights, n) + share / n == pytest.approx(simulated, rel=0.05)
    assert plateau_variance(values, 1.0 - weights, n) < 1e-20  # nothing above matters
    assert plateau_variance(rng.uniform(size=900), np.ones(900), n) == 0.0


@few
def test_another_model_is_found_out_where_the_first_points_of_both_are_impossible(tmp_path):
    file = tmp_path / "run.checkpoint"
    sample_dynesty(KEY, square(0.3, 0.12), checkpoint=file, **SHORT)
    with pytest.raises(ValueError, match="this model and data; its log densities differ"):
        sample_dynesty(KEY, square(0.7, 0.12), checkpoint=file, **SHORT)


@few
def test_another_external_function_is_found_out(tmp_path):
    def density(peak):
        external = ExternalLikelihood(lambda a, b: -0.5 * ((a - peak) / 0.1) ** 2, ["a", "b"], progress=False)
        prior = UniformPrior(ParameterSpace(["a", "b"], 0.0, 1.0))
        return ModelDensity(lambda: external.factor("data", numpyro.sample("theta", prior)))

    file = tmp_path / "run.checkpoint"
    sample_dynesty(KEY, density(0.3), checkpoint=file, **SHORT)
    with pytest.raises(ValueError, match="the same 'external'"):
        sample_dynesty(KEY, density(0.8), checkpoint=file, **SHORT)


def test_masks_that_depend_on_latent_values_are_taken():
    def masked():
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("b", dist.Normal(0.0, 1.0).mask(a > 100.0))
        numpyro.factor("f", -0.5 * a**2)

    cube = UnitCube(ModelDensity(masked), KEY)
    found = cube.evaluate(np.array([[0.3, 0.9]]))
    assert found.target[0] == pytest.approx(-0.5 * norm.ppf(0.3) ** 2 - norm.logpdf(norm.ppf(0.9)))


def test_a_stop_prints_nothing(density, monkeypatch, capfd):
    evaluate = UnitCube.evaluate

    def slow(self, u):
        time.sleep(0.02)
        return evaluate(self, u)

    monkeypatch.setattr(UnitCube, "evaluate", slow)
    with pytest.warns(UserWarning, match="stopped by the time limit"):
        sample_dynesty(KEY, density, max_seconds=1.0, **SHORT)
    assert capfd.readouterr() == ("", "")


class TestTogether:
    """A pool of threads whose calls come in batches, in order."""

    def test_batches_are_full_ordered_and_the_same_every_time(self):
        def run():
            batches = []

            def evaluate(points):
                batches.append(points[:, 0].tolist())
                return (2 * points[:, 0]).tolist()

            pool = Together(evaluate, 4)

            def task(start):
                return sum(pool.call(np.array([start + step])) for step in range(3))

            return pool.map(task, [0.0, 100.0, 200.0, 300.0, 400.0]), batches

        values, batches = run()
        assert values == [6.0, 606.0, 1206.0, 1806.0, 2406.0]
        assert batches[0] == [0.0, 100.0, 200.0, 300.0]
        assert batches[3:] == [[400.0], [401.0], [402.0]]
        assert all(run() == (values, batches) for _ in range(20))

    @pytest.mark.parametrize("where", ["task", "likelihood"])
    def test_errors_and_interruptions_reach_the_caller_and_threads_end(self, where):
        import threading

        before = threading.active_count()

        def evaluate(points):
            if where == "likelihood":
                raise KeyboardInterrupt
            return points[:, 0].tolist()

        pool = Together(evaluate, 3)

        def task(number):
            if where == "task" and number == 2.0:
                raise ZeroDivisionError
            return pool.call(np.array([number]))

        with pytest.raises(ZeroDivisionError if where == "task" else KeyboardInterrupt):
            pool.map(task, [0.0, 1.0, 2.0, 3.0])
        assert threading.active_count() == before
        assert where == "likelihood" or pool.map(pool.call, [np.array([1.0])]) == [1.0]

    def test_a_call_of_the_main_thread_is_a_batch_of_one(self):
        assert Together(lambda points: [len(points)], 3).call(np.zeros(2)) == 1


@pytest.mark.filterwarnings("ignore")  # jaxns' own
def test_nested_sampler_of_numpyro_takes_a_learned_prior():
    nested_sampling = pytest.importorskip("numpyro.contrib.nested_sampling")
    jax.config.update("jax_enable_x64", False)  # jaxns enables it for the whole process when it is imported
    config = FlowConfig(layers=1, hidden=(8,), components=2)
    prior = make_prior([(0.0, 1.0), (0.0, np.inf)], config, strength=0.1)
    with jax.enable_x64(True):
        sampler = nested_sampling.NestedSampler(of_learned, constructor_kwargs={"max_samples": 20_000})
        sampler.run(KEY, prior, 1.2)
        found = np.asarray(sampler.get_samples(jax.random.key(2), 1000)["theta"])
        log_evidence, error = float(sampler._results.log_Z_mean), float(sampler._results.log_Z_uncert)
    density = ModelDensity(of_learned, prior, 1.2)
    x = density.sample_prior(jax.random.key(7), 100_000)
    weights = np.exp(density.log_likelihood(x))
    assert abs(log_evidence - np.log(weights.mean())) < 4 * error
    mean = weights @ x / weights.sum()
    width = np.sqrt(weights @ (x - mean) ** 2 / weights.sum())
    assert (np.abs(found.mean(axis=0) - mean) / width < 0.25).all()  # some 400 of the draws are independent
