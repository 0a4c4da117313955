"""sample_pocomc: checkpoints that survive a kill, limits, verdicts, angles, impossible regions, its evidence."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import i0, ndtr
from toys import make_prior

from numpyro_flowprior import (
    ConvergenceWarning,
    FileFormatError,
    FlowConfig,
    ModelDensity,
    ParameterSpace,
    UniformPrior,
    sample_pocomc,
)
from numpyro_flowprior._util.storage import load_file, save_file
from numpyro_flowprior.sampling import pocomc as module
from numpyro_flowprior.sampling import preconditioner
from numpyro_flowprior.sampling.particle_file import SCHEMA
from numpyro_flowprior.sampling.particle_report import _reasons
from numpyro_flowprior.sampling.particle_run import Draws, Evidence, watched

DATA = Path(__file__).parent / "data"
KEY = jax.random.key(4)
FAST = {"n_effective": 256, "n_active": 128, "n_total": 1000, "n_evidence": 1000, "progress": False}


def sharp(y):
    """Two normal means, the data 300 times sharper than the prior: several temperatures."""
    a = numpyro.sample("a", dist.Normal(0.0, 3.0))
    b = numpyro.sample("b", dist.Uniform(0.0, 1.0))
    numpyro.sample("y", dist.Normal(jnp.stack([a, a + b]), 0.05), obs=y)


Y = np.array([1.3, 1.8])


@pytest.fixture(scope="module")
def density():
    return ModelDensity(sharp, Y)


@pytest.fixture(scope="module", autouse=True)
def shorter_training():
    """A quarter of the preconditioner's steps, which are most of a run's time: targets here are nearly normal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preconditioner, "_FIRST_STEPS", 400)
        patch.setattr(preconditioner, "_STEPS", 100)
        yield


@pytest.fixture(scope="module")
def finished(density, tmp_path_factory):
    """A run that is done, and the checkpoint that it leaves."""
    path = tmp_path_factory.mktemp("finished") / "run.safetensors"
    return sample_pocomc(KEY, density, checkpoint=path, **FAST), path


@pytest.fixture
def whole(finished):
    return finished[0]


@pytest.fixture
def left(finished, tmp_path):
    """A copy of the checkpoint."""
    return shutil.copy(finished[1], tmp_path / "run.safetensors")


def test_posterior_and_evidence(whole):
    """b = y1 - y0 + noise and a = y0 + noise, far from all bounds, and so the posterior is normal but for a's prior."""
    size = whole.effective_size
    precision = np.array([[2 / 0.05**2 + 1 / 9, 1 / 0.05**2], [1 / 0.05**2, 1 / 0.05**2]])
    covariance = np.linalg.inv(precision)
    mean = covariance @ (np.array([Y.sum(), Y[1]]) / 0.05**2)
    error = np.sqrt(np.diag(covariance) / size)
    assert (np.abs(whole.mean() - mean) < 5 * error).all()
    np.testing.assert_allclose(
        np.sqrt(np.diag(whole.covariance())), np.sqrt(np.diag(covariance)), rtol=5 / np.sqrt(size)
    )
    evidence = dist.Normal(0.0, np.hypot(3.0, 0.05)).log_prob(Y[0])
    assert whole.log_evidence == pytest.approx(float(evidence), abs=5 * whole.log_evidence_error)
    assert whole.log_evidence_error < 0.02
    temperatures = whole.info["temperatures"]
    assert temperatures[0] == 0.0
    assert temperatures[-1] == 1.0
    assert np.all(np.diff(temperatures) >= 0)
    assert whole.info["converged"]
    assert whole.info["tempered_log_evidence"] == pytest.approx(whole.log_evidence, abs=0.5)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="realnvp"),
        pytest.param(
            {"flow": "maf3", "train_frequency": 3, "train_config": {"epochs": 5}}, id="maf3", marks=pytest.mark.slow
        ),
        pytest.param({"precondition": False}, id="no flow"),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_end(density, whole, settings, tmp_path, monkeypatch):
    """Bit for bit: generators, flow, geometry of the moves and particles are in the file."""
    options, path = {**FAST, **settings}, tmp_path / "run.safetensors"
    expected = sample_pocomc(KEY, density, **options) if settings else whole
    calls, right = [], density.log_prior_and_likelihood

    def failing(x):
        calls.append(len(x))
        if len(calls) > 70:
            raise RuntimeError("the machine went down")
        return right(x)

    monkeypatch.setattr(density, "log_prior_and_likelihood", failing)
    with pytest.raises(RuntimeError, match="went down"):
        sample_pocomc(KEY, density, checkpoint=path, **options)
    monkeypatch.undo()
    again = sample_pocomc(KEY, density, checkpoint=path, **options)
    np.testing.assert_array_equal(again.samples, expected.samples)
    np.testing.assert_array_equal(again.weights, expected.weights)
    assert again.log_evidence == expected.log_evidence
    assert again.info["calls"] == expected.info["calls"]
    monkeypatch.setattr(module.Preconditioner, "fit", None)  # the same call, done already: nothing is run
    np.testing.assert_array_equal(sample_pocomc(KEY, density, checkpoint=path, **options).samples, expected.samples)


def test_more_draws_are_added_to_a_finished_run(density, whole, left):
    more = sample_pocomc(KEY, density, checkpoint=left, **{**FAST, "n_total": 1500})
    assert more.effective_size > 1500 > whole.effective_size
    n = whole.info["draws"]
    assert not (more.samples[:n] == whole.samples[:n]).any()  # the flow is another now, and so are its draws
    particles = whole.samples[whole.info["draws"] :]  # behind the draws of the flow, which are others now
    np.testing.assert_array_equal(more.samples[more.info["draws"] :][: len(particles)], particles)


def test_a_finished_run_calls_nothing_again(density, whole, left, monkeypatch):
    looked_at = []
    right = density.log_prior_and_likelihood
    monkeypatch.setattr(density, "log_prior_and_likelihood", lambda x: looked_at.append(len(x)) or right(x))
    again = sample_pocomc(KEY, density, checkpoint=left, **FAST)
    assert not looked_at  # but for the check of the density
    np.testing.assert_array_equal(again.samples, whole.samples)
    np.testing.assert_array_equal(again.weights, whole.weights)
    assert again.info["calls"] == whole.info["calls"]
    more = sample_pocomc(KEY, density, checkpoint=left, **{**FAST, "n_evidence": 1400})
    assert more.info["draws"] == whole.info["draws"] + sum(looked_at) == 1400
    assert more.info["calls"] == whole.info["calls"] + sum(looked_at)
    np.testing.assert_array_equal(more.samples[: whole.info["draws"]], whole.samples[: whole.info["draws"]])


@pytest.mark.parametrize("settings", [{}, {"flow": "maf3", "train_frequency": 3, "train_config": {"epochs": 5}}])
def test_a_run_that_was_stopped_between_draws_goes_on_with_others(density, settings, tmp_path, monkeypatch):
    """The number of calls limits that of draws. It must not count those of the draws before the stop."""
    options, path = {**FAST, "n_total": 1000, "n_evidence": 600, **settings}, tmp_path / "run.safetensors"
    monkeypatch.setattr("numpyro_flowprior.sampling.particle_run._BLOCK", 300)
    expected = sample_pocomc(KEY, density, **options)
    assert expected.info["draws"] > 900

    def stop(keeper, run):
        right(keeper, run)
        if len(run.kept.points) > 600:
            raise RuntimeError("the machine went down")

    right = module.Keeper.keep
    with monkeypatch.context() as patch:
        patch.setattr(module.Keeper, "keep", stop)
        with pytest.raises(RuntimeError, match="went down"):
            sample_pocomc(KEY, density, checkpoint=path, **options)
    again = sample_pocomc(KEY, density, checkpoint=path, **options)
    np.testing.assert_array_equal(again.samples, expected.samples)
    np.testing.assert_array_equal(again.weights, expected.weights)
    assert again.info["calls"] == expected.info["calls"]
    content = load_file(path, "particle_run", newest_schema=SCHEMA)
    arrays = {**content.arrays, "draws/log_prior": np.zeros(3)}
    save_file(path, "particle_run", SCHEMA, content.record, arrays)
    with pytest.raises(FileFormatError, match="arrays of draws: expected shapes"):
        sample_pocomc(KEY, density, checkpoint=path, **options)


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(density, left):
    same = {**FAST, "n_active": np.int64(128), "max_seconds": 1e-9}
    assert sample_pocomc(KEY, density, checkpoint=left, **same).info["converged"]  # it is done
    for key, model, options, message in (
        (jax.random.key(9), density, {}, "the same 'seed'"),
        (KEY, density, {"n_active": 64}, "the same 'n_active'"),
        (KEY, density, {"flow": "maf3"}, "the same 'flow'"),
        (KEY, density, {"n_effective": 300}, "the same 'n_effective'"),
        (KEY, density, {"transform": "logit"}, "the same 'options'"),
        (KEY, ModelDensity(sharp, Y + 0.5), {}, "this model and data; its log densities differ"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_pocomc(key, model, checkpoint=left, **{**FAST, **options})
    content = left.read_bytes()
    left.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    with pytest.raises(FileFormatError):
        sample_pocomc(KEY, density, checkpoint=left, **FAST)
    assert b"pickle" not in content


def test_a_checkpoint_is_of_one_flow_whatever_its_weights_are(density, tmp_path):
    """Those are in the file. Two activations have the same tensors, and make two flows."""
    import torch
    import zuko

    def begun(path, flow, **options):
        """A run that is stopped where it begins."""
        return stopped(density, flow=flow, checkpoint=tmp_path / path, max_seconds=1e-9, **options)[0]

    def maf(**settings):
        return zuko.flows.MAF(2, transforms=1, hidden_features=(8,), **settings)

    begun("a", maf(randperm=True), train_config={"epochs": 5, "patience": 3})
    for _ in range(3):  # the order of the parameters is random, and in the file
        again = begun("a", maf(randperm=True), train_config={"patience": 3, "epochs": 5})
    assert again.info["flow"] == "MAF"
    for other in (maf(activation=torch.nn.ELU), zuko.flows.NSF(2, transforms=1, hidden_features=(8,)), "maf3"):
        with pytest.raises(ValueError, match="the same 'flow'"):
            begun("a", other, train_config={"epochs": 5, "patience": 3})
    with pytest.raises(ValueError, match="the same 'options'"):
        begun("a", maf(), train_config={"epochs": 5, "patience": 4})


def test_a_checkpoint_of_schema_2_goes_on(density, tmp_path):
    path = shutil.copy(DATA / "particle_run_schema_2.safetensors", tmp_path / "run.safetensors")
    sizes = {"n_effective": 64, "n_active": 32, "n_total": 100, "n_evidence": 0, "n_prior": 64}
    run = {**FAST, **sizes, "checkpoint": path, "max_seconds": 1e-9}
    with pytest.raises(ValueError, match="the same 'options'"):
        sample_pocomc(KEY, density, **run, resample="mult")
    chain, said = stopped(density, **run, resample="syst")
    assert "stopped by the time limit after 2 iterations" in said
    np.testing.assert_array_equal(chain.samples, read_particles_of(DATA / "particle_run_schema_2.safetensors"))
    assert load_file(path, "particle_run", newest_schema=SCHEMA).record["about"]["options"]["resample"] == "syst"


def test_a_checkpoint_of_schema_3_has_its_draws_made_once(density, tmp_path):
    """With the evidence that it had when it was written."""
    path = shutil.copy(DATA / "particle_run_schema_3.safetensors", tmp_path / "run.safetensors")
    sizes = {"n_effective": 64, "n_active": 32, "n_total": 100, "n_evidence": 128, "n_prior": 64}
    chain = sample_pocomc(KEY, density, **{**FAST, **sizes}, checkpoint=path)
    assert chain.log_evidence == pytest.approx(-2.1106950478922086, abs=1e-5)
    assert chain.info["calls"] == 4736
    assert (
        len(load_file(path, "particle_run", newest_schema=SCHEMA).arrays["draws/points"]) == chain.info["draws"] == 128
    )
    again = sample_pocomc(KEY, density, **{**FAST, **sizes}, checkpoint=path)
    np.testing.assert_array_equal(again.samples, chain.samples)


class Particles:
    """A run of 1000 calls for particles, and a flow of which one draw in ten is effective."""

    n_total, logz, logz_err = 10**6, None, None

    def __init__(self):
        self.particles = self
        self.past, self.calls = {"beta": [0.0, 1.0]}, 1000

    def get(self, name, index):
        return self.past[name][index]

    @property
    def pbar(self):
        return type("Bar", (), {"update_stats": lambda self, stats: None})()


def test_draws_of_earlier_flows_do_not_allow_more_of_them(monkeypatch):
    """At most as many draws as calls for particles, whether a run is made at once or goes on."""
    monkeypatch.setattr("numpyro_flowprior.sampling.particle_run._BLOCK", 300)
    monkeypatch.setattr("numpyro_flowprior.sampling.particle_run.enough_of", lambda n_total: 50.0)

    class Run(watched(Particles)):
        pbar = Particles.pbar

        def _weighted_draws(self, n, block):
            self.calls += n
            log_weights = np.where(np.arange(n) % 10, -np.inf, 0.0)
            return Draws(np.zeros((n, 1)), np.zeros(n), np.zeros(n), log_weights)

    run = Run()
    run._compute_evidence(700)
    assert len(run.draws.points) == 1000
    run._compute_evidence(700)  # the same again
    assert len(run.draws.points) == run.calls_of_draws == 1000
    run.calls += 200
    run.past["beta"].append(1.0)
    run._compute_evidence(700)
    assert len(run.draws.points) == 1200
    assert run.calls_of_draws == 2200


KILLED = """
import sys
import jax, jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
from numpyro_flowprior import ModelDensity, sample_pocomc

def sharp(y):
    a = numpyro.sample("a", dist.Normal(0.0, 3.0))
    b = numpyro.sample("b", dist.Uniform(0.0, 1.0))
    numpyro.sample("y", dist.Normal(jnp.stack([a, a + b]), 0.05), obs=y)

sample_pocomc(jax.random.key(4), ModelDensity(sharp, np.array([1.3, 1.8])), checkpoint=sys.argv[1], progress=False,
              precondition=False, n_effective=256, n_active=128, n_total=10**6)
"""


def read_particles_of(path):
    """The particles (n, d) in a checkpoint."""
    past = load_file(path, "particle_run", newest_schema=SCHEMA).arrays["past/x"]
    return past.reshape(-1, past.shape[-1])


def test_kill_minus_nine_leaves_a_file_to_go_on_from(density, tmp_path):
    """Moves without a flow, which cost least; what of a flow is in the file is seen above."""
    path = tmp_path / "run.safetensors"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)])
    deadline = time.time() + 120
    while not path.exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    written = read_particles_of(path)
    chain = sample_pocomc(KEY, density, checkpoint=path, precondition=False, **FAST)
    np.testing.assert_array_equal(chain.samples[: len(written)], written)
    assert chain.info["converged"]
    undisturbed = sample_pocomc(KEY, density, precondition=False, **FAST)
    both = min(chain.n, undisturbed.n)  # the killed run may have gone beyond n_total
    np.testing.assert_array_equal(chain.samples[:both], undisturbed.samples[:both])
    assert chain.log_evidence == pytest.approx(undisturbed.log_evidence, abs=0.1)
    np.testing.assert_allclose(chain.log_prob, density.log_posterior(chain.samples))


def stopped(density, **options):
    """Returns the chain of a run that is stopped before its end, and its warnings in one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain = sample_pocomc(KEY, density, **{**FAST, **options})
    return chain, " ".join(str(warning.message) for warning in caught)


def test_a_time_limit_and_an_interruption_return_what_there_is_and_say_so(density, monkeypatch):
    chain, said = stopped(density, max_seconds=1e-3)
    assert "stopped by the time limit after 4 iterations, at the inverse temperature 0" in said
    assert "not converged. The particles are at the inverse temperature 0 and not at one" in said
    assert not chain.info["converged"]
    assert chain.info["stopped_by"] == "the time limit"
    assert chain.log_evidence_error is None
    calls, right = [], density.log_prior_and_likelihood

    def interrupted(x):
        calls.append(len(x))
        if len(calls) > 60:
            raise KeyboardInterrupt
        return right(x)

    monkeypatch.setattr(density, "log_prior_and_likelihood", interrupted)
    chain, said = stopped(density)
    assert "stopped by an interruption" in said
    assert chain.info["stopped_by"] == "an interruption"
    assert 0.0 < chain.info["temperatures"][-1] < 1.0
    assert chain.n == 128 * chain.info["iterations"]
    calls[:] = [0] * 100
    with pytest.raises(KeyboardInterrupt):  # before anything but the prior is known
        sample_pocomc(KEY, density, **FAST)


@pytest.mark.filterwarnings("ignore:sample_pocomc. not converged. Evidence")  # k is 0.2 to 1.0, with the seed
def test_an_angle_that_is_cut_where_its_mass_is():
    """A von Mises density around the bounds: two modes, each at an edge. Its evidence is exact."""
    space = ParameterSpace(["phase", "x"], [0.0, -1.0], [2 * np.pi, 1.0])

    def model():
        theta = numpyro.sample("theta", UniformPrior(space))
        numpyro.factor("cut", 8.0 * jnp.cos(theta[0]))

    chain = sample_pocomc(KEY, ModelDensity(model), **FAST)
    assert chain.log_evidence == pytest.approx(float(np.log(i0(8.0))), abs=5 * chain.log_evidence_error)
    above = chain.probabilities @ (chain.samples[:, 0] > np.pi)
    assert above == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(chain.effective_size))


@pytest.mark.filterwarnings("ignore:sample_pocomc. not converged. Effective size")  # of copies; it is right to say so
@pytest.mark.parametrize("precondition", [True, False])
def test_impossible_regions_are_in_the_evidence(precondition):
    """pocoMC replaces prior draws of likelihood zero by others, which alone would make log Z 1.8 too large."""

    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        y = numpyro.sample("y", dist.Normal(0.0, 1.0))
        numpyro.factor("half", jnp.where(x > 1.0, -0.5 * y**2, -jnp.inf))

    chain = sample_pocomc(KEY, ModelDensity(model), precondition=precondition, **FAST)
    exact = np.log(ndtr(-1.0) / np.sqrt(2.0))
    found = chain.info["tempered_log_evidence"]
    assert found == pytest.approx(exact, abs=0.5)  # a share of 0.16 of 512 draws, and the ladder's noise
    if precondition:
        assert chain.log_evidence == pytest.approx(exact, abs=5 * chain.log_evidence_error)
    else:
        assert chain.log_evidence == found
        assert chain.log_evidence_error is None
    assert chain.info["effective_size"] == pytest.approx(chain.effective_size)
    if not precondition:
        assert chain.effective_size < 1 / np.sum(chain.probabilities**2)  # which takes replaced draws for draws
    assert (chain.samples[:, 0] > 1.0).all()

    def nowhere():
        numpyro.factor("none", jnp.where(numpyro.sample("x", dist.Normal(0.0, 1.0)) > 99.0, 0.0, -jnp.inf))

    with pytest.raises(ValueError, match="the likelihood is zero at all 128 draws from the prior"):
        sample_pocomc(KEY, ModelDensity(nowhere), precondition=precondition, **FAST)


def test_verdicts(whole):
    def reasons(log_evidence=whole.log_evidence, error=whole.log_evidence_error, k=0.1, largest=1e-3, **changes):
        run = SimpleNamespace(logz=log_evidence, logz_err=error, found=Evidence(log_evidence, error, k, largest))
        changes = {"lacking": 0.0, **changes}
        return _reasons({**whole.info, "pareto_k": k, **changes}, whole.info, run)

    assert reasons() == []
    for change, words in (
        ({"temperatures": [0.0, 0.3]}, "at the inverse temperature 0.3 and not at one"),
        ({"effective_size": 50.0}, "Effective size: expected 400 or more; got 50"),
        ({"acceptance": 0.001}, "hardly move"),
        ({"k": 0.9, "largest": 0.2}, "Pareto k of its weights is 0.90"),
        ({"lacking": 0.1}, "Particles with 10 % of the weight lie where the flow"),
        ({"tempered_log_evidence": whole.log_evidence - 3.0}, "differs by +3.00 nats from that of the particles"),
    ):
        (reason,) = reasons(**change)
        assert words in reason
    assert "its logarithm is nan" in reasons(np.nan, None)[0]
    assert "error is 0.80 nats" in reasons(error=0.8)[0]
    assert reasons(k=0.9) == []  # all but equal weights


@pytest.mark.parametrize("seed", range(2))
def test_the_shares_of_modes_have_no_common_ancestors(seed):
    """A mode that is found late has few ancestors among the particles; the draws of the flow do not inherit this."""
    share, apart = 0.4, 6.0

    def model():
        x = numpyro.sample("x", dist.Uniform(-10.0, 10.0).expand([5]).to_event(1))
        wide = dist.Normal(-apart / 2, 1.0).log_prob(x).sum()
        narrow = dist.Normal(apart / 2, 0.5).log_prob(x).sum()
        numpyro.factor("modes", jnp.logaddexp(jnp.log(share) + wide, jnp.log1p(-share) + narrow))

    chain = sample_pocomc(jax.random.key(seed), ModelDensity(model), progress=False)
    assert chain.info["posterior"] == "draws of the flow"
    assert chain.effective_size > 4096 * 0.95
    found = chain.probabilities @ (chain.samples.mean(1) < 0.0)
    assert found == pytest.approx(share, abs=3.5 * np.sqrt(share * (1 - share) / chain.effective_size))
    assert chain.log_evidence == pytest.approx(-5 * np.log(20.0), abs=4 * chain.log_evidence_error)
    temperatures = np.array(chain.info["temperatures"])
    assert (chain.weights == 0.0).sum() == 256 * (temperatures < 1.0 - 1e-4).sum()
    density = ModelDensity(model)
    np.testing.assert_allclose(density.log_prior(chain.samples) + density.log_likelihood(chain.samples), chain.log_prob)


def test_a_mode_that_the_flow_lacks_is_noticed(monkeypatch):
    """Its own draws cannot show it: their weights are even. Particles of the other mode can."""
    right, density_of = module.Preconditioner.sample, module.Preconditioner.log_prob

    def model():
        x = numpyro.sample("x", dist.Uniform(-10.0, 10.0).expand([2]).to_event(1))
        numpyro.factor("modes", jnp.logaddexp(*(dist.Normal(at, 0.7).log_prob(x).sum() for at in (-4.0, 4.0))))

    def one_mode(self, n, block=0):
        u, log_q = right(self, 5 * n, block)
        kept = u.mean(1) < 0.0
        return u[kept][:n], log_q[kept][:n] - np.log(kept.mean())

    def log_prob(self, u):
        return np.where(u.mean(1) < 0.0, density_of(self, u) + np.log(2.0), -1e3)

    for name, function in (("sample", one_mode), ("log_prob", log_prob)):
        monkeypatch.setattr(module.Preconditioner, name, function)
    with pytest.warns(ConvergenceWarning, match="% of the weight lie where the flow has far too little density"):
        chain = sample_pocomc(KEY, ModelDensity(model), **FAST)
    assert chain.info["posterior"] == "particles"
    assert chain.info["largest_weight"] < 0.01  # so even are the weights
    assert 0.2 < chain.probabilities @ (chain.samples.mean(1) > 0.0) < 0.8


def test_the_density_of_a_flow_is_that_of_its_draws(whole, density):
    flow = preconditioner.Preconditioner(2, seed=0, rows=64)
    u, log_q = flow.sample(300, 3)
    np.testing.assert_allclose(flow.log_prob(u), log_q, atol=1e-9)
    assert not np.array_equal(flow.sample(300)[0], u)


def test_draws_that_do_not_cover_the_posterior_are_not_used(density, monkeypatch):
    """The flow is far too narrow: its weights have a heavy tail, and the particles are the posterior."""
    right = module.Preconditioner.sample

    def narrow(self, n, block=0):
        u, log_q = right(self, n, block)
        return 0.2 * u, log_q - u.shape[1] * np.log(0.2)

    monkeypatch.setattr(module.Preconditioner, "sample", narrow)
    with pytest.warns(ConvergenceWarning, match="The flow does not cover the posterior"):
        chain = sample_pocomc(KEY, density, **FAST)
    assert chain.info["posterior"] == "particles"
    assert (chain.weights > 0.0).mean() > 0.5
    assert chain.info["draws"] == FAST.get("n_evidence", 4096)  # more of them were not made


def test_particles_may_move_in_latent_space():
    """Stage two under a learned prior: the posterior in either coordinates is that of weighted prior draws."""
    prior = make_prior([(0.0, 1.0), (-1.0, 2.0)], FlowConfig(layers=2, hidden=(8,)))

    def model(y):
        theta = numpyro.sample("theta", prior)
        numpyro.sample("y", dist.Normal(theta.sum(), 0.2), obs=y)

    density = ModelDensity(model, 0.4)
    draws = density.sample_prior(jax.random.key(3), 100_000)
    likelihood = np.exp(density.log_likelihood(draws))
    mean = likelihood @ draws / likelihood.sum()
    for coordinates in ("parameters", "latent"):
        chain = sample_pocomc(KEY, density, coordinates=coordinates, **FAST)
        assert chain.names == density.names
        np.testing.assert_allclose(chain.log_prior, density.log_prior(chain.samples), atol=1e-6)
        error = np.sqrt(np.diag(chain.covariance()) / chain.effective_size)
        assert (np.abs(chain.mean() - mean) < 5 * error).all()
        assert chain.log_evidence == pytest.approx(np.log(likelihood.mean()), abs=5 * chain.log_evidence_error + 0.01)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"flow": "spline"}, ValueError, "flow: expected one of 'realnvp', 'nsf3'"),
        (
            {"train_config": {}},
            ValueError,
            "'train_config': expected none with flow='realnvp': only pocoMC's own flows",
        ),
        (
            {"output_dir": "states"},
            TypeError,
            "output_dir: expected none: pocoMC writes pickles there; use checkpoint=",
        ),
        ({"random_state": 3}, TypeError, "random_state: expected none: the key sets the seed"),
        ({"pool": 4}, TypeError, "pool: expected none: JAX computes the likelihoods"),
        (
            {"periodic": ["b"]},
            TypeError,
            "periodic: expected none: it has no effect, because pocoMC 1.2.6 first maps",
        ),
        ({"checkpoint": "nowhere/run"}, FileNotFoundError, "the folder nowhere does not exist. Make it first"),
        ({"colour": "red"}, TypeError, "'colour' is no setting of it, nor of pocomc.Sampler"),
        ({"precondition": 1}, TypeError, "precondition: expected True or False"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every: expected an integer >= 1"),
        ({"max_seconds": -1}, ValueError, "max_seconds: expected a number in"),
    ],
)
def test_settings_that_do_not_fit_are_refused(density, options, error, words):
    with pytest.raises(error, match=words):
        sample_pocomc(KEY, density, **{**FAST, **options})


@pytest.mark.filterwarnings("ignore:sample_pocomc. not converged. Effective size")  # so few random walks' copies
def test_options_of_pocomc_go_through(density, monkeypatch):
    got, watched = {}, module.watched

    def recorded(sampler):
        def make(**settings):
            got.update(settings)
            return watched(sampler)(**settings)

        return make

    monkeypatch.setattr(module, "watched", recorded)
    options = {"resample": "syst", "sample": "rwm", "train_config": {"epochs": 5}}
    chain = sample_pocomc(KEY, density, **{**FAST, "n_total": 300}, flow="maf3", **options)
    assert {**got, **options, "flow": "maf3"} == got
    assert chain.info["flow"] == "maf3"
    assert 1 / np.sum(chain.probabilities**2) > 300  # as pocoMC counts n_total: copies too


def test_one_parameter():
    def model():
        numpyro.factor("data", dist.Normal(0.3, 0.02).log_prob(numpyro.sample("x", dist.Uniform(0.0, 1.0))))

    chain = sample_pocomc(KEY, ModelDensity(model), **FAST)
    assert chain.log_evidence == pytest.approx(0.0, abs=5 * chain.log_evidence_error)
    assert chain.mean()[0] == pytest.approx(0.3, abs=5 * 0.02 / np.sqrt(chain.effective_size))


def test_an_interruption_between_draws_returns_those_there_are(density, monkeypatch):
    monkeypatch.setattr("numpyro_flowprior.sampling.particle_run._BLOCK", 500)
    right = module.Keeper.keep

    def stop(keeper, run):
        right(keeper, run)
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Keeper, "keep", stop)
    chain, said = stopped(density)
    assert "stopped by" in said
    assert chain.info["draws"] == 500
    assert chain.info["posterior"] == "draws of the flow"
    evidence = float(dist.Normal(0.0, np.hypot(3.0, 0.05)).log_prob(Y[0]))
    assert chain.log_evidence == pytest.approx(evidence, abs=5 * chain.log_evidence_error)


def test_fewer_effective_draws_than_requested_are_told(density, monkeypatch):
    monkeypatch.setattr("numpyro_flowprior.sampling.particle_run._MARGIN", 0.0)  # no more draws than those at first
    with pytest.warns(UserWarning, match=r"expected 1800 effective draws \(n_total\); got [4-8]\d\d from 800 draws"):
        chain = sample_pocomc(KEY, density, **{**FAST, "n_total": 1800, "n_evidence": 800})
    assert chain.info["posterior"] == "draws of the flow"
