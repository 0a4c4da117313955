"""Likelihoods that are not JAX: is the density right, is nothing lost or called twice, is every failure explained?"""

import functools
import math
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from scipy.interpolate import CubicSpline
from simulators import counted, normal, normal_of_arrays, troubled, with_gradient

from numpyro_flowprior import (
    Evaluations,
    ExternalError,
    ExternalFailure,
    ExternalLikelihood,
    FileFormatError,
    FlowPriorWarning,
    GPEmulator,
    ModelDensity,
    ParameterSpace,
    UniformPrior,
    check_stage,
    sample_blackjax,
    sample_emcee,
    sample_nuts,
    sample_pocomc,
)
from numpyro_flowprior.likelihoods.fingerprint import function_fingerprint
from numpyro_flowprior.stages.exact import ExactDensity

KEY = jax.random.key(5)
SPAWN = multiprocessing.get_context("spawn")
NAMES = ["a", "b"]
POINTS = np.random.default_rng(0).normal(size=(50, 2))
ROWS = np.stack([np.arange(500.0), np.zeros(500)], axis=1)
TRUE = normal_of_arrays(*ROWS.T)


def model(likelihood, y):
    """One likelihood in JAX, one elsewhere: scaled, and in a plate."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Uniform(-2.0, 3.0))
    with numpyro.handlers.scale(scale=1.5):
        likelihood("one", {"b": b, "a": a, "unused": 7.0})
    with numpyro.plate("events", 3):
        likelihood("many", jnp.stack([a + jnp.arange(3), jnp.full(3, 0.5) * b], axis=-1))
    numpyro.sample("y", dist.Normal(a, 1.0), obs=y)


def in_jax(site, theta):
    """The same factor, written in JAX."""
    a, b = (theta["a"], theta["b"]) if isinstance(theta, dict) else (theta[..., 0], theta[..., 1])
    numpyro.factor(site, normal_of_arrays(a, b))


def density_of(external):
    return ModelDensity(partial(model, external.factor), 0.4)


ORACLE = ModelDensity(partial(model, in_jax), 0.4)


@pytest.mark.parametrize("options", [{}, {"vectorized": True}, {"executor": 2}, {"executor": 2, "vectorized": True}])
def test_every_density_is_that_of_the_model_in_jax(options):
    function = normal_of_arrays if options.get("vectorized") else normal
    with ExternalLikelihood(function, NAMES, **options) as external:
        density = density_of(external)
        x = np.concatenate([POINTS, [[0.0, 5.0], [0.0, -2.1], [np.nan, 0.0]]])
        for name in ("log_prior", "log_likelihood", "log_posterior", "log_prior_and_likelihood"):
            np.testing.assert_allclose(getattr(density, name)(x), getattr(ORACLE, name)(x), atol=1e-12)
        for pointwise in (False, True):
            ours = density.log_likelihood_by_site(x, pointwise=pointwise)
            theirs = ORACLE.log_likelihood_by_site(x, pointwise=pointwise)
            assert ours.keys() == theirs.keys()
            for site in ours:
                np.testing.assert_allclose(ours[site], theirs[site], atol=1e-12)
        inside = int(ORACLE.space.contains(x).sum())
        assert external.counts.called == 4 * inside  # one, and three events; nothing outside, and nothing twice
        assert density.log_likelihood(np.empty((0, 2))).shape == (0,)
        assert density.observed.keys() == ORACLE.observed.keys()


def test_in_traced_code_all_points_come_together_and_gradients_are_those_of_jax():
    sizes = []

    def with_arrays(a, b):
        x, y = a - 0.3, b + 0.2
        sizes.append(len(a))
        return {"log_likelihood": normal_of_arrays(a, b), "gradient": {"a": -4 * x - y / 2, "b": -y - x / 2}}

    external = ExternalLikelihood(with_arrays, NAMES, vectorized=True, gradient=True)
    density = density_of(external)
    with jax.enable_x64(True):
        points = jnp.asarray(np.clip(POINTS, -1.9, 2.9))

        def total(which, x):
            return sum(which.traced_log_densities(x))

        for transform in (lambda f: f, jax.grad, jax.jacfwd):
            ours = jax.jit(jax.vmap(transform(partial(total, density))))(points)
            np.testing.assert_allclose(ours, jax.vmap(transform(partial(total, ORACLE)))(points), atol=1e-10)
    assert set(sizes) == {50, 150}


def test_nothing_is_lost_when_ten_workers_are_killed(tmp_path):
    killing = partial(troubled, folder=tmp_path, kill=tuple(range(7, 500, 50)))
    with ExternalLikelihood(killing, NAMES, executor=2, cache=tmp_path / "calls.sqlite") as external:
        np.testing.assert_array_equal(external.log_likelihood(ROWS), TRUE)
        assert (external.counts.called, external.counts.failed) == (500, 0)
        found = external.evaluations()
    np.testing.assert_array_equal(np.sort(found.theta[:, 0]), ROWS[:, 0])  # each once


def test_a_point_that_always_kills_its_worker_is_named_and_the_rest_is_kept(tmp_path):
    killing = partial(troubled, folder=tmp_path, kill=(7,), always=True)
    with ExternalLikelihood(killing, NAMES, executor=2) as external:
        with pytest.raises(ExternalFailure, match=r"a = 7, b = 0: its worker process died") as error:
            external.log_likelihood(ROWS[:40])
        assert error.value.point == {"a": 7.0, "b": 0.0}
        assert len(external.evaluations()) == 39
        assert len(external.evaluations().failures) == 1


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("bad", "ZeroDivisionError: no cross section here"), ("nan", "the log likelihood is nan"), ("hang", "no answer")],
)
@pytest.mark.parametrize("executor", [None, 2, ThreadPoolExecutor])
def test_failures_are_tried_again_and_then_named(trouble, reason, executor, tmp_path):
    if trouble == "hang" and executor != 2:
        pytest.skip("a call in this process cannot be ended, and a thread would stay")
    executor = executor(2) if executor is ThreadPoolExecutor else executor
    how = {"executor": executor, "timeout": 0.5 if trouble == "hang" else None}
    with ExternalLikelihood(partial(troubled, folder=tmp_path, **{trouble: (3, 11)}), NAMES, **how) as external:
        np.testing.assert_array_equal(external.log_likelihood(ROWS[:20]), TRUE[:20])
        assert external.counts.repeated >= (1 if trouble == "hang" else 2)  # both may hang at the same time
        assert external.counts.called == 20
    always = partial(troubled, folder=tmp_path, always=True, **{trouble: (3, 11)})
    with ExternalLikelihood(always, NAMES, **how) as external:
        with pytest.raises(ExternalFailure, match=f"a = 3, b = 0, and 1 more points of this batch: {reason}"):
            external.log_likelihood(ROWS[:20])
        assert external.counts.called == 18
    with ExternalLikelihood(always, NAMES, on_failure="reject", **how) as external:
        with pytest.warns(FlowPriorWarning, match="2 points failed so far and count as impossible"):
            values = external.log_likelihood(ROWS[:20])
        np.testing.assert_array_equal(values, np.where(np.isin(ROWS[:20, 0], (3, 11)), -np.inf, TRUE[:20]))
        np.testing.assert_array_equal(external.log_likelihood(ROWS[:20]), values)  # not tried again
        assert external.counts.failed == 2


def test_an_executor_that_was_given_is_used_and_not_closed(tmp_path):
    with ThreadPoolExecutor(2) as threads:
        external = ExternalLikelihood(normal, NAMES, executor=threads)
        np.testing.assert_array_equal(external.log_likelihood(POINTS), normal_of_arrays(*POINTS.T))
        external.close()
        assert threads.submit(int).result() == 0
    killing = partial(troubled, folder=tmp_path, kill=(3,))
    with ProcessPoolExecutor(1, SPAWN) as pool:
        external = ExternalLikelihood(killing, NAMES, executor=pool)
        with pytest.raises(ExternalError, match="only its owner can make another"):
            external.log_likelihood(ROWS[:6])
    made = []

    def make():
        made.append(ProcessPoolExecutor(1, SPAWN))
        return made[-1]

    (tmp_path / "3").unlink()
    with ExternalLikelihood(killing, NAMES, executor=make) as external:
        np.testing.assert_array_equal(external.log_likelihood(ROWS[:6]), TRUE[:6])
    assert len(made) == 2


def test_workers_that_cannot_start_are_an_error_and_not_a_loop():
    def make():
        return ProcessPoolExecutor(1, SPAWN, initializer=sys.exit)

    with (
        ExternalLikelihood(normal, NAMES, executor=make) as external,
        pytest.raises(ExternalError, match="without fin"),
    ):
        external.log_likelihood(ROWS[:4])


def test_dask_workers_are_killed_and_hang(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        distributed.Client(cluster) as client,
    ):
        warnings.simplefilter("ignore")  # Dask's own
        trouble = {"kill": (7, 31), "hang": (11,), "bad": (5,)}
        function = partial(troubled, folder=tmp_path, **trouble)
        how = {"executor": client.get_executor(), "retries": 3, "timeout": 3.0}
        with ExternalLikelihood(function, NAMES, **how) as external:
            np.testing.assert_array_equal(external.log_likelihood(ROWS[:60]), TRUE[:60])
            assert len(external.evaluations()) == 60


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"  # ended, and not yet buried


def test_a_run_that_is_killed_calls_nothing_twice(tmp_path):
    """The points of a killed process are in the file; the next one calls the others only."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np\nfrom functools import partial\nfrom simulators import counted\n"
        "from numpyro_flowprior import ExternalLikelihood\n"
        "if __name__ == '__main__':\n"
        "    how = dict(executor=2, cache=sys.argv[2] + '/log.sqlite', version='1')\n"
        "    function = partial(counted, folder=sys.argv[2], seconds=0.05)\n"
        "    x = np.stack([np.arange(60.0), np.zeros(60)], axis=1)\n"
        "    ExternalLikelihood(function, ['a', 'b'], **how).log_likelihood(x)\n"
    )
    (tmp_path / "run.py").write_text(script)
    run = subprocess.Popen([sys.executable, tmp_path / "run.py", Path(__file__).parent, tmp_path])
    while len(list(tmp_path.glob("*_*"))) < 10:
        assert run.poll() is None
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    workers = {int(path.name.split("_")[2]) for path in tmp_path.glob("*_*")}
    end = time.monotonic() + 20.0
    while any(map(is_alive, workers)):  # they end with their parent
        assert time.monotonic() < end
        time.sleep(0.05)
    begun = len(list(tmp_path.glob("*_*")))
    done = len(Evaluations.read(tmp_path / "log.sqlite"))
    assert 0 < done < 60
    function = partial(counted, folder=tmp_path, seconds=0.0)
    with ExternalLikelihood(function, NAMES, cache=tmp_path / "log.sqlite", version="1") as external:
        np.testing.assert_array_equal(external.log_likelihood(ROWS[:60]), TRUE[:60])
        assert external.counts.known == done
    assert len(list(tmp_path.glob("*_*"))) == begun + 60 - done
    assert begun - done <= 4  # those that were running when the process was killed


def test_a_cache_of_another_likelihood_is_refused(tmp_path):
    cache = tmp_path / "log.sqlite"
    shift = 0.25

    def shifted(a, b):
        return normal(a, b) + shift

    with ExternalLikelihood(shifted, NAMES, cache=cache) as external:
        external.log_likelihood(POINTS)
    with ExternalLikelihood(shifted, NAMES, cache=cache) as external:
        external.log_likelihood(POINTS)
        assert (external.counts.called, external.counts.known) == (0, 50)
    shift = 0.5  # a variable of the closure
    for other in (
        lambda: ExternalLikelihood(shifted, NAMES, cache=cache),
        lambda: ExternalLikelihood(normal, NAMES, cache=cache),
        lambda: ExternalLikelihood(shifted, ["b", "a"], cache=cache),
        lambda: ExternalLikelihood(shifted, NAMES, cache=cache, version="2"),
    ):
        with pytest.raises(ValueError, match="expected calls of this likelihood; got those of another"):
            other()
    for name, content in (
        ("text", b"something else entirely, and long enough"),
        ("damaged", b"SQLite format 3\0" + b"x" * 90),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match="expected a cache of calls"):
            ExternalLikelihood(normal, NAMES, cache=tmp_path / name)
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("CREATE TABLE stars (name TEXT)")
    with pytest.raises(FileFormatError, match="got a database with"):
        ExternalLikelihood(normal, NAMES, cache=tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="folder of"):
        ExternalLikelihood(normal, NAMES, cache=tmp_path / "nowhere" / "log.sqlite")
    (tmp_path / "empty").touch()
    with pytest.raises(FileFormatError, match="expected a cache of calls"):
        Evaluations.read(tmp_path / "empty")
    assert (tmp_path / "empty").stat().st_size == 0  # reading writes nothing
    with pytest.raises(FileNotFoundError, match="there is none"):
        Evaluations.read(tmp_path / "nothing")


class Powerlaw:
    """A likelihood that is an object."""

    def __init__(self, index):
        self.index = index

    def __call__(self, a, b):
        return -self.index * a * a


def outer(a, b):
    return helper(a, b) + sum(SCALE * x for x in (a, b))


def helper(a, b):
    return a * b


SCALE, WORDS = 2.0, {"one", "two", "three", "four"}


def test_what_a_function_uses_is_in_its_fingerprint(monkeypatch):
    def default(a, b, c=1.0):
        return a + b + c

    def other_default(a, b, c=2.0):
        return a + b + c

    other_default.__qualname__ = default.__qualname__
    x = np.linspace(0.0, 1.0, 9)
    pairs = [
        (Powerlaw(2.0), Powerlaw(3.0)),
        (partial(default, c=1.0), partial(default, c=1.5)),
        (default, other_default),
        (partial(default, c=CubicSpline(x, x)), partial(default, c=CubicSpline(x, x**2))),
        (partial(default, c=[1.0] * 300 + [2.0]), partial(default, c=[1.0] * 300 + [3.0])),
        (lru_cache(Powerlaw(2.0).__call__), lru_cache(Powerlaw(3.0).__call__)),
    ]
    for one, other in pairs:
        assert function_fingerprint(one) != function_fingerprint(other)
    for one, _ in pairs[:-1]:
        assert function_fingerprint(one) == function_fingerprint(pickle.loads(cloudpickle.dumps(one)))
    before = function_fingerprint(outer)
    monkeypatch.setitem(globals(), "SCALE", 3.0)  # in a generator within the function
    assert function_fingerprint(outer) != before
    monkeypatch.undo()
    assert function_fingerprint(outer) == before
    monkeypatch.setitem(globals(), "helper", lambda a, b: a - b)
    assert function_fingerprint(outer) != before


def test_a_fingerprint_is_the_same_in_every_process_and_never_fails():
    """Sets have another order in each process; locks, cells without content and cycles cannot be described."""
    script = (
        "from test_external import *\n"
        "def late(a, b): return later(a) if WORDS else random.normal()\n"
        "random = np.random.default_rng(3)\n"
        "print(function_fingerprint(late), function_fingerprint(partial(normal, words=WORDS)))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    cycle = {"lower": str.lower, "lock": threading.Lock()}
    cycle["itself"] = cycle

    def early(a, b):
        return late(a, b), cycle

    for function in (early, np.sin, math.sin, np.add, str.lower, jax.jit(normal), functools.wraps(normal)(early), len):
        assert function_fingerprint(function).startswith("source:")

    def late(a, b):
        return early(a, b)

    assert function_fingerprint(early) == function_fingerprint(early)


def test_a_crash_is_the_points_also_if_nothing_else_is_left(tmp_path):
    killing = partial(troubled, folder=tmp_path, kill=(1, 2, 3), always=True)
    with ExternalLikelihood(killing, NAMES, executor=1, on_failure="reject") as external:
        with pytest.warns(FlowPriorWarning, match="failed so far"):
            np.testing.assert_array_equal(external.log_likelihood(ROWS[1:2]), [-np.inf])
        with pytest.warns(FlowPriorWarning, match="failed so far"):
            np.testing.assert_array_equal(external.log_likelihood(ROWS[2:4]), [-np.inf, -np.inf])


def test_hanging_threads_are_an_error_and_not_the_fault_of_those_that_wait(tmp_path):
    calls = []

    def slow(a, b):
        calls.append(a)
        time.sleep(2.0 if a in (0.0, 1.0) else 0.0)
        return normal(a, b)

    with ThreadPoolExecutor(2) as threads:
        external = ExternalLikelihood(slow, NAMES, executor=threads, timeout=0.3, on_failure="reject")
        with pytest.raises(ExternalError, match="all 2 workers of the executor have calls without an answer"):
            external.log_likelihood(ROWS[:10])
        assert external.evaluations().failures == ()


def test_a_function_that_an_executor_cannot_send_is_an_error_and_no_failure_of_points():
    with ProcessPoolExecutor(1, SPAWN) as pool:
        external = ExternalLikelihood(lambda a, b: a, NAMES, executor=pool, on_failure="reject")
        with pytest.raises(ExternalError, match="Can the function be sent"):
            external.log_likelihood(ROWS[:4])
        assert external.evaluations().failures == ()


def test_what_an_earlier_run_left_is_used_as_it_was_meant(tmp_path):
    cache, broken = tmp_path / "log", True

    def fragile(a, b):
        if broken:
            raise OSError("disk full")
        return normal(a, b)

    how = {"cache": cache, "version": "1", "retries": 0}
    with pytest.raises(ExternalFailure), ExternalLikelihood(fragile, NAMES, **how) as external:
        external.log_likelihood(ROWS[:1])
    with ExternalLikelihood(fragile, NAMES, on_failure="reject", **how) as external:
        with pytest.warns(FlowPriorWarning, match="failed so far"):
            external.log_likelihood(ROWS[1:2])
        broken = False
        np.testing.assert_array_equal(external.log_likelihood(ROWS[:2]), [TRUE[0], -np.inf])
    again = ExternalLikelihood(fragile, NAMES, on_failure="reject", **how)
    assert again.seconds_per_call > 0.0  # of the calls in the file
    with pytest.warns(FlowPriorWarning, match="1 points failed in an earlier run"):
        np.testing.assert_array_equal(again.log_likelihood(ROWS[:2]), [TRUE[0], -np.inf])


def test_one_value_in_a_plate_and_inputs_that_are_no_numbers():
    external = ExternalLikelihood(normal, NAMES)

    def plated(factor):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("p", 3):
            factor("x", {"a": a, "b": 1.0})
        factor("z", {"a": jnp.log(a), "b": a})

    ours, theirs = ModelDensity(plated, external.factor), ModelDensity(plated, in_jax)
    x = np.array([[0.5], [-0.5], [2.0]])
    with pytest.warns(FlowPriorWarning, match="NaN at some points"):
        np.testing.assert_allclose(ours.log_posterior(x), theirs.log_posterior(x))


def test_an_emulator_is_fitted_to_the_log(tmp_path):
    with ExternalLikelihood(with_gradient, NAMES, gradient=True, cache=tmp_path / "log") as external:
        external.log_likelihood(np.clip(POINTS, -1.5, 1.5))
    found = Evaluations.read(tmp_path / "log")
    np.testing.assert_allclose(found.derived["sum"], found.theta.sum(axis=1))
    np.testing.assert_allclose(found.gradient[:, 0], -4 * (found.theta[:, 0] - 0.3) - 0.5 * (found.theta[:, 1] + 0.2))
    space = ParameterSpace(["b", "a"], -2.0, 2.0)
    emulator = GPEmulator.fit(found, None, space, progress=False)
    assert emulator.output_names == ("sum", "product")
    x = np.array([[0.4, -0.7]])
    np.testing.assert_allclose(emulator.predict(x).mean[0], [-0.3, -0.28], atol=1e-2)
    by_name = GPEmulator.fit(found, None, space, output_names=["log_likelihood"], progress=False)
    np.testing.assert_allclose(by_name.predict(x).mean[0], [normal(-0.7, 0.4)], atol=5e-2)
    with pytest.raises(ValueError, match="missing: 'c'"):
        GPEmulator.fit(found, None, ParameterSpace(["a", "c"], -2.0, 2.0))
    with pytest.raises(ValueError, match="expected outputs among"):
        GPEmulator.fit(found, None, space, output_names=["difference"])
    with pytest.raises(TypeError, match="got no Y"):
        GPEmulator.fit(found.theta, None, space)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        (sample_pocomc, {"n_effective": 128, "n_active": 64, "n_total": 256, "n_evidence": 64, "flow": "realnvp"}),
        (sample_emcee, {"n_walkers": 16, "max_steps": 200}),
        (sample_blackjax, {"n_particles": 200}),
    ],
)
def test_samplers_return_what_they_return_for_the_model_in_jax(sampler, options):
    calls = []

    def function(a, b):
        calls.append((a, b))
        return normal(a, b)

    external = ExternalLikelihood(function, NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such short runs do not converge
        ours = sampler(KEY, density_of(external), progress=False, **options)
        theirs = sampler(KEY, ORACLE, progress=False, **options)
    np.testing.assert_allclose(ours.samples, theirs.samples, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours.log_likelihood, theirs.log_likelihood, rtol=1e-6, atol=1e-8)
    assert len(calls) == len(set(calls)) == ours.info["external"]["one"]["called"]


def test_nuts_takes_a_gradient_and_refuses_a_function_without(tmp_path):
    options = {"n_samples": 50, "n_warmup": 50, "n_chains": 2, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = sample_nuts(KEY, density_of(ExternalLikelihood(with_gradient, NAMES, gradient=True)), **options)
        theirs = sample_nuts(KEY, ORACLE, **options)
    np.testing.assert_allclose(ours.samples, theirs.samples, rtol=1e-5, atol=1e-6)
    plain = ExternalLikelihood(normal, NAMES)
    with pytest.raises(TypeError, match="sample_nuts: site 'one': the ExternalLikelihood has no gradient"):
        sample_nuts(KEY, density_of(plain), **options)
    mcmc = MCMC(NUTS(partial(model, plain.factor)), num_warmup=5, num_samples=5, progress_bar=False)
    with pytest.raises(TypeError, match="the ExternalLikelihood has no gradient"):
        mcmc.run(KEY, 0.4)


@pytest.mark.parametrize("sampler", [sample_nuts, sample_blackjax, sample_pocomc])
def test_a_failure_in_a_sampler_is_named(sampler):
    def broken(a, b):
        if a > 0.5:
            raise OSError("disk full")
        return with_gradient(a, b)

    density = density_of(ExternalLikelihood(broken, NAMES, gradient=True))
    with pytest.raises(ExternalFailure, match="OSError: disk full"):
        sampler(KEY, density, progress=False)


def test_code_that_is_not_jax_is_refused_with_one_sentence():
    def by_numpy():
        numpyro.factor("f", np.sin(np.asarray(numpyro.sample("x", dist.Normal()))))

    def by_condition():
        numpyro.factor("f", 0.0 if numpyro.sample("x", dist.Normal()) > 0 else -1.0)

    def by_callback(how):
        x = numpyro.sample("x", dist.Normal())
        numpyro.factor("f", jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method=how))

    for wrong in (by_numpy, by_condition):
        with pytest.raises(TypeError, match=r"expected code that JAX can trace.*ExternalLikelihood"):
            ModelDensity(wrong)
    with pytest.raises(TypeError, match=r"pure_callback cannot be mapped .*ExternalLikelihood"):
        ModelDensity(by_callback, None)
    with pytest.warns(FlowPriorWarning, match=r"one point after the other\. An ExternalLikelihood"):
        ModelDensity(by_callback, "sequential")
    density = ModelDensity(by_callback, "broadcast_all")
    with pytest.raises(TypeError, match=r"differentiated here.*ExternalLikelihood"):
        sample_nuts(KEY, density, progress=False)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda a, b: "high", "expected real numbers; got str"),
        (lambda a, b: None, "expected real numbers; got NoneType"),
        (lambda a, b: [1.0, 2.0], r"expected one number; got shape \(2,\)"),
        (lambda a, b: 1j, "expected real numbers"),
        (lambda a, b: np.inf, "the log likelihood is inf"),
        (lambda a, b: {"loglike": 1.0}, "got a dictionary with"),
        (lambda a, b: {"log_likelihood": 1.0}, "as gradient=True promises"),
        (lambda a, b: {"log_likelihood": 1.0, "gradient": [1.0]}, r"gradient: expected shape \(2,\)"),
        (lambda a, b: {"log_likelihood": 1.0, "gradient": {"a": 1.0}}, r"missing: \['b'\]"),
        (lambda a, b: {"log_likelihood": 1.0, "gradient": [1.0, np.nan]}, "the gradient is not finite"),
    ],
)
def test_what_a_function_may_not_return(function, reason):
    gradient = "gradient" in reason or "missing" in reason
    with pytest.raises(ExternalFailure, match=reason):
        ExternalLikelihood(function, NAMES, gradient=gradient, retries=0).log_likelihood([[1.0, 2.0]])


def test_minus_infinity_is_a_likelihood_of_zero():
    external = ExternalLikelihood(lambda a, b: -np.inf if a < 0 else 1, NAMES)
    np.testing.assert_array_equal(external.log_likelihood([[-1.0, 0.0], [1.0, 0.0]]), [-np.inf, 1.0])
    assert external.counts.failed == 0


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("normal", NAMES), {}, "function: expected a function"),
        ((lambda a: a, NAMES), {}, "expected one that can be called with 'a', 'b' as keywords"),
        ((normal, "a"), {}, "names: expected a sequence of strings"),
        ((normal, NAMES), {"executor": True}, "executor: expected a number of processes"),
        ((normal, NAMES), {"executor": 0}, "executor: expected an integer >= 1"),
        ((normal, NAMES), {"executor": "dask"}, "executor: expected a number of processes"),
        ((normal, NAMES), {"timeout": 1.0}, "timeout: expected an executor with it"),
        ((normal, NAMES), {"executor": 1, "timeout": 0.0}, "timeout: expected a number in"),
        ((normal, NAMES), {"retries": -1}, "retries: expected an integer >= 0"),
        ((normal, NAMES), {"batch": 0}, "batch: expected an integer >= 1"),
        ((normal, NAMES), {"on_failure": "ignore"}, "on_failure: expected one of 'raise', 'reject'"),
        ((normal, NAMES), {"log": "x"}, "unexpected keyword argument 'log'"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, error):
    with pytest.raises((TypeError, ValueError), match=error):
        ExternalLikelihood(*arguments, **options)


def test_bad_points_and_inputs_are_refused():
    external = ExternalLikelihood(normal, NAMES)
    with pytest.raises(ValueError, match=r"theta: expected shape \(any, 2\)"):
        external.log_likelihood([1.0, 2.0])
    with pytest.raises(ValueError, match="theta: expected finite numbers"):
        external.log_likelihood([[1.0, np.nan]])
    with pytest.raises(TypeError, match="returns no gradient"):
        external.log_likelihood_and_gradient([[1.0, 2.0]])
    for theta, error in (({"a": 1.0}, "missing: 'b'"), (np.zeros(3), r"expected shape \(\.\.\., 2\)")):
        with pytest.raises(ValueError, match=error), numpyro.handlers.seed(rng_seed=0):
            external.factor("site", theta)


def test_guards_that_would_take_too_long_are_left_out_and_say_so(monkeypatch):
    """A function of 0.1 s stands for one that takes that long: its counts say so."""
    external = ExternalLikelihood(normal, NAMES)
    density = density_of(external)
    assert (external.seconds_per_call, density.seconds_per_call) == (0.0, 0.0)
    assert density.external == {"one": external, "many": external}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chain = sample_emcee(KEY, density, n_walkers=16, max_steps=200, progress=False)
    chain = chain.replace(log_evidence=-1.0, log_evidence_error=0.1)
    slow = 0.1 * external.counts.called
    monkeypatch.setattr(external.counts, "seconds", slow)
    assert external.seconds_per_call == pytest.approx(0.1)
    assert external.record()["seconds"] == pytest.approx(slow)
    before = external.counts.called
    exact = ExactDensity(density.names, ORACLE.log_prior, True, (density,))
    prior = UniformPrior(ParameterSpace(["b"], -2.0, 3.0))
    guards = check_stage(KEY, density, prior, chain, chain.select(["b"]), exact=exact)
    found = {finding.subject: finding.text for finding in guards.findings}
    assert any("would call the external likelihoods too often" in text for text in found.values())
    assert any("calls of the external likelihoods take too long" in text for text in found.values())
    assert guards.numbers["weighted_prior"] is None
    assert external.counts.called == before


def test_a_copy_in_another_process_has_the_function_and_opens_the_log_again(tmp_path):
    external = ExternalLikelihood(normal, NAMES, cache=tmp_path / "log")
    external.log_likelihood(POINTS)
    copy = pickle.loads(pickle.dumps(external))
    np.testing.assert_array_equal(copy.log_likelihood(POINTS), external.log_likelihood(POINTS))
    assert copy.counts.called == 50
    assert repr(copy) == "ExternalLikelihood(normal of a, b; 50 calls)"
