"""sample_emcee: independent proposals between modes, checkpoints that survive a kill, and time limits."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import emcee
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from emcee.backends import HDFBackend
from toys import make_prior, mixture_prior

from numpyro_flowprior import FileFormatError, FlowConfig, ModelDensity, read_chain, sample_emcee, temper
from numpyro_flowprior._util.storage import load_file, save_file
from numpyro_flowprior.sampling import emcee as module

DATA = Path(__file__).parent / "data"
KEY = jax.random.key(2)
MODES = [(0.3, -2.5, 0.5), (0.7, 2.5, 0.5)]


def two_modes():
    """Weights 0.3 and 0.7, a distance of 14 deviations, under a wide prior."""
    x = numpyro.sample("x", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    parts = [jnp.log(w) + dist.Normal(m, s).log_prob(x).sum() for w, m, s in MODES]
    numpyro.factor("modes", jnp.logaddexp(*parts) - dist.Normal(0.0, 3.0).log_prob(x).sum())


@pytest.fixture(scope="module")
def modes():
    return ModelDensity(two_modes)


def share_above(chain):
    """The second mode's weight, and its standard error with the fraction's own autocorrelation, by batch means."""
    above = (chain.samples[:, 0] > 0).astype(float)
    walkers = np.array([above[chain.chain_id == j].mean() for j in np.unique(chain.chain_id)])
    return above.mean(), walkers.std() / np.sqrt(len(walkers))


def flow_over_modes(wrong=False):
    """A density with both modes, of other weights and wider, under the names of the model's coordinates."""
    prior = mixture_prior(2, [(0.5, -2.5, 0.8), (0.5, 2.5, 0.8)])
    names = ["q", "r"] if wrong else ["x[1]", "x[0]"]  # in another order
    space = type(prior.space)(names)
    return type(prior)(prior.config, space, prior.params)


@pytest.mark.parametrize("proposal", ["prior", "flow"])
def test_independent_proposals_give_the_modes_their_weights(modes, proposal):
    density = "prior" if proposal == "prior" else flow_over_modes()
    options = {"n_walkers": 40, "max_steps": 6000, "proposal_share": 0.5, "progress": False}
    chain = sample_emcee(KEY, modes, proposal=density, **options)
    assert chain.info["converged"]
    found, error = share_above(chain)
    assert error < 0.03
    assert found == pytest.approx(0.7, abs=4.5 * error)  # a false alarm in 150,000 seeds
    for weight, mean, deviation in MODES:
        inside = chain.samples[np.sign(chain.samples[:, 0]) == np.sign(mean)]
        assert inside.mean() == pytest.approx(mean, abs=0.05 * deviation / weight)
        assert inside.std() == pytest.approx(deviation, rel=0.05)


@pytest.mark.filterwarnings("ignore:sample_emcee. stopped at max_steps")
def test_stretch_moves_alone_do_not(modes):
    """The trap exists: walkers keep the mode that they started next to, about half of them in each."""
    chain = sample_emcee(KEY, modes, n_walkers=40, max_steps=1500, progress=False)
    assert abs(share_above(chain)[0] - 0.7) > 0.08
    assert not chain.info["converged"]


def test_a_pool_that_would_never_be_asked_is_refused(modes):
    with pytest.raises(TypeError, match="sample_emcee: pool: expected none"):
        sample_emcee(KEY, modes, pool=object())


def test_proposals_of_something_else_are_refused(modes):
    with pytest.raises(
        ValueError, match=r"proposal: expected a density over 'x\[0\]', 'x\[1\]'; got one over 'q', 'r'"
    ):
        sample_emcee(KEY, modes, proposal=flow_over_modes(wrong=True), progress=False)
    with pytest.raises(TypeError, match="proposal: expected 'prior' or a FlowPrior; got 'posterior'"):
        sample_emcee(KEY, modes, proposal="posterior", progress=False)
    with pytest.raises(ValueError, match="proposal_share: expected a number in \\(0, 1\\)"):
        sample_emcee(KEY, modes, proposal="prior", proposal_share=1.0, progress=False)


def gaussian(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    numpyro.sample("b", dist.Uniform(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


SHORT = {"n_walkers": 8, "max_steps": 350, "progress": False}
short = pytest.mark.filterwarnings("ignore:sample_emcee. stopped")


@short
def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path, monkeypatch):
    """Bit for bit, with independent proposals: the generator's state is in the file."""
    density, options = ModelDensity(gaussian, 0.7), {**SHORT, "proposal": "prior"}
    whole = sample_emcee(KEY, density, **options)
    monkeypatch.setattr(module, "_SAVE_EVERY", 0.0)
    calls, right = [], density.log_prior_and_likelihood

    def failing(x):
        calls.append(len(x))
        if len(calls) > 150:
            raise RuntimeError("the machine went down")
        return right(x)

    path = tmp_path / "run.h5"
    monkeypatch.setattr(density, "log_prior_and_likelihood", failing)
    with pytest.raises(RuntimeError, match="went down"):
        sample_emcee(KEY, density, checkpoint=path, **options)
    monkeypatch.undo()
    again = sample_emcee(KEY, density, checkpoint=path, **options)
    np.testing.assert_array_equal(again.samples, whole.samples)
    np.testing.assert_array_equal(again.log_likelihood, whole.log_likelihood)
    assert again.info["acceptance"] == whole.info["acceptance"]
    longer = sample_emcee(KEY, density, checkpoint=path, **{**options, "max_steps": 400})
    np.testing.assert_array_equal(longer.samples, sample_emcee(KEY, density, **{**options, "max_steps": 400}).samples)


def test_a_finished_run_is_read_not_run_again(tmp_path):
    density, path = ModelDensity(gaussian, 0.7), tmp_path / "run.h5"
    options = {"n_walkers": 16, "max_steps": 4000, "progress": False, "checkpoint": path}
    first = sample_emcee(KEY, density, **options)
    assert first.info["converged"]
    written = path.read_bytes()
    again = sample_emcee(KEY, density, **options)
    np.testing.assert_array_equal(again.samples, first.samples)
    assert again.info["converged"]
    assert path.read_bytes() == written


@pytest.fixture
def quick_rule(monkeypatch):
    """The stopping rule in a tenth of the steps."""
    monkeypatch.setattr(module, "LONG_ENOUGH", 5.0)
    monkeypatch.setattr(module, "_CHECK_EVERY", 20)


@pytest.fixture(scope="module")
def through_the_rule():
    density = ModelDensity(gaussian, 0.7)
    return partial(sample_emcee, KEY, density, n_walkers=8, proposal="prior", progress=False)


@pytest.fixture
def undisturbed(quick_rule, through_the_rule):
    chain = through_the_rule(max_steps=1000)
    assert chain.info["converged"]
    return chain


def assert_same_run(chain, whole):
    np.testing.assert_array_equal(chain.samples, whole.samples)
    np.testing.assert_array_equal(chain.log_prob, whole.log_prob)
    timed = {"seconds", "nan_log_densities"}
    assert {k: v for k, v in chain.info.items() if k not in timed} == {
        k: v for k, v in whole.info.items() if k not in timed
    }


@pytest.mark.parametrize("left", [0, 1, 20, 25])
def test_a_killed_run_stops_where_it_would_have(through_the_rule, undisturbed, monkeypatch, tmp_path, left):
    """Some steps before its end, between two checks, and at one: the file is written before it."""
    save = module._Keeper.save

    def killed(keeper):
        save(keeper)
        if keeper._backend.iteration == undisturbed.info["steps"] - left:
            raise RuntimeError("the machine went down")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_SAVE_EVERY", 0.0)
        patch.setattr(module._Keeper, "save", killed)
        with pytest.raises(RuntimeError, match="went down"):
            through_the_rule(max_steps=1000, checkpoint=tmp_path / "run")
    assert_same_run(through_the_rule(max_steps=1000, checkpoint=tmp_path / "run"), undisturbed)
    with monkeypatch.context() as patch:
        patch.setattr(module._Keeper, "save", None)  # it is done: no step is taken
        assert_same_run(through_the_rule(max_steps=1000, checkpoint=tmp_path / "run"), undisturbed)


@short
def test_a_run_that_was_stopped_by_anything_stops_where_it_would_have(through_the_rule, undisturbed, tmp_path):
    """By max_steps, off a check and where it is long enough, and by the time limit."""
    late = undisturbed.info["steps"] - 10
    for stop in ({"max_steps": 33}, {"max_steps": 51, "max_seconds": 0.0}, {"max_steps": late}):
        chain = through_the_rule(**stop, checkpoint=tmp_path / "run")
        assert chain.info["steps"] <= stop["max_steps"]
    assert chain.info["converged"]
    assert_same_run(through_the_rule(max_steps=1000, checkpoint=tmp_path / "run"), undisturbed)


@short
def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    density, path = ModelDensity(gaussian, 0.7), tmp_path / "run.h5"
    sample_emcee(KEY, density, checkpoint=path, **SHORT)
    for key, model, options, message in (
        (jax.random.key(9), density, {}, "the same 'seed'"),
        (KEY, density, {"n_walkers": 10}, "the same 'n_walkers'"),
        (KEY, ModelDensity(two_modes), {}, "the same 'names'"),
        (KEY, ModelDensity(gaussian, 5.0), {}, "this model and data; its log densities differ"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_emcee(key, model, checkpoint=path, **{**SHORT, **options})
    whole = path.read_bytes()
    for place in (-5, len(whole) // 2):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match="damaged"):
            sample_emcee(KEY, density, checkpoint=path, **SHORT)
    path.write_bytes(whole[:-100])
    with pytest.raises(FileFormatError, match="damaged"):
        sample_emcee(KEY, density, checkpoint=path, **SHORT)


def other_proposals():
    """What a run was begun with, what it is to go on with, and what differs."""
    moves, flow = emcee.moves, flow_over_modes()
    wider = type(flow)(flow.config, flow.space, {**flow.params, "support": {"scale": np.array([1.0, 2.0])}})
    prior, two = {"proposal": "prior"}, {"moves": [(moves.DEMove(), 0.8), (moves.KDEMove(), 0.2)]}
    yield prior, {}, "proposal"
    yield prior, {"proposal": flow}, "proposal"
    yield prior, {"proposal": "prior", "proposal_share": 0.4}, "proposal_share"
    yield {"proposal": flow}, {"proposal": wider}, "proposal"
    yield {"proposal": flow}, {"proposal": temper(flow, 0.5)}, "proposal"
    yield two, {}, "moves"
    yield two, {"moves": moves.DEMove()}, "moves"
    yield two, {"moves": [(moves.DEMove(), 0.7), (moves.KDEMove(), 0.3)]}, "moves"
    yield two, {"moves": [(moves.DEMove(gamma0=1.0), 0.8), (moves.KDEMove(), 0.2)]}, "moves"
    yield {"moves": moves.GaussianMove(1.0)}, {"moves": moves.GaussianMove(1.1)}, "moves"
    yield {"moves": moves.GaussianMove(np.eye(2))}, {"moves": moves.GaussianMove(np.eye(2) + 0.1)}, "moves"


@short
def test_a_checkpoint_of_other_proposals_or_moves_is_refused(modes, tmp_path):
    """They decide where each step goes: a run that went on with others would be neither."""
    for number, (kept, changed, name) in enumerate(other_proposals()):
        run = {**SHORT, "max_steps": 5, "checkpoint": tmp_path / str(number)}
        sample_emcee(KEY, modes, **run, **kept)
        with pytest.raises(ValueError, match=f"expected a run with the same '{name}'.*; got another"):
            sample_emcee(KEY, modes, **run, **changed)


@short
def test_the_same_proposals_and_moves_are_known_however_they_are_given(modes, tmp_path):
    """A prior read back from its file, weights that are the same, a default written out, a move that has run."""
    moves, flow, used = emcee.moves, flow_over_modes(), emcee.moves.DEMove()
    flow.info = {"training": {"seconds": 1.0}}
    read = type(flow).load(flow.save(tmp_path / "flow.safetensors"))
    alike = (
        ({"proposal": flow}, {"proposal": read}),
        ({"moves": [used, moves.KDEMove()]}, {"moves": ((used, 2.0), (moves.KDEMove(), 2.0)), "proposal_share": 0.9}),
        ({}, {"moves": moves.StretchMove()}),
    )
    for number, (kept, same) in enumerate(alike):
        run = {**SHORT, "max_steps": 10, "checkpoint": tmp_path / str(number)}
        sample_emcee(KEY, modes, **run, **kept)
        assert sample_emcee(KEY, modes, **{**run, **same, "max_steps": 20}).info["steps"] == 20


@short
@pytest.mark.parametrize("options", [{"proposal": "prior"}, {}])
def test_a_checkpoint_from_before_proposals_were_kept_goes_on(tmp_path, options):
    path = shutil.copy(DATA / "emcee_run_schema_2.safetensors", tmp_path / "run.safetensors")
    density, old = ModelDensity(gaussian, 0.7), load_file(path, "emcee_run", newest_schema=2)
    chain = sample_emcee(KEY, density, checkpoint=path, **{**SHORT, "max_steps": 20}, **options)
    assert chain.info["steps"] == 20
    np.testing.assert_array_equal(HDFBackend(path, read_only=True).get_chain()[:12], old.arrays["chain"])
    if options:
        with pytest.raises(ValueError, match="the same 'proposal'"):  # from now on it is known
            sample_emcee(KEY, density, checkpoint=path, **SHORT)
    with pytest.raises(ValueError, match="the same 'seed'"):
        sample_emcee(jax.random.key(9), density, checkpoint=DATA / "emcee_run_schema_2.safetensors", **SHORT)


@short
@pytest.mark.parametrize("schema", [3, 4])
def test_a_checkpoint_in_safetensors_goes_on(tmp_path, modes, schema):
    """Of a run that proposes from a flow; schema 3 knew it by a checksum that followed the order of a set."""
    run = {**SHORT, "proposal": flow_over_modes()}
    whole = sample_emcee(KEY, modes, **run)
    sample_emcee(KEY, modes, checkpoint=tmp_path / "new.h5", **{**run, "max_steps": 20})
    path, stored = tmp_path / "old.safetensors", HDFBackend(tmp_path / "new.h5", read_only=True)
    name, keys, position, has_gauss, cached = stored.random_state
    arrays = {"chain": stored.get_chain(), "log_prob": stored.get_log_prob(), "parts": stored.get_blobs()}
    arrays |= {"accepted": stored.accepted, "generator": keys.astype(float), "cached": np.array([cached])}
    with h5py.File(tmp_path / "new.h5") as file:
        about = json.loads(file.attrs["numpyro_flowprior"])["about"]
    about["proposal"] = about["proposal"][::-1]
    generator = {"name": str(name), "position": int(position), "has_gauss": int(has_gauss)}
    save_file(path, "emcee_run", schema, {"about": about, "finished": False, "generator": generator}, arrays)
    if schema == 3:
        again = sample_emcee(KEY, modes, checkpoint=path, **run)
        np.testing.assert_array_equal(again.samples, whole.samples)
    else:
        with pytest.raises(ValueError, match="the same 'proposal'"):
            sample_emcee(KEY, modes, checkpoint=path, **run)


@short
@pytest.mark.filterwarnings("ignore:.*The run is 7 autocorrelation times")
def test_checkpoints_are_emcees_own_files(tmp_path):
    """emcee and read_chain read them, emcee goes on from them, to where we would have come; not the other way round."""
    density, path = ModelDensity(gaussian, 0.7), tmp_path / "run.h5"
    chain = sample_emcee(KEY, density, checkpoint=path, **SHORT)
    theirs = HDFBackend(path)
    assert theirs.iteration == chain.info["steps"] == 350
    for options in ({}, {"space": density.space}):
        read = read_chain(path, **options, burn_in=chain.info["burn_in"])
        assert read.names == density.names
        np.testing.assert_array_equal(read.samples, chain.samples)
    with pytest.raises(ValueError, match=r"expected columns for 'mu', 'c'; 'c' missing from \['mu', 'b'\]"):
        read_chain(path, names=["mu", "c"])
    blobs = np.swapaxes(theirs.get_blobs(discard=chain.info["burn_in"], thin=chain.info["thin"]), 0, 1).reshape(-1, 2)
    np.testing.assert_array_equal(blobs, np.column_stack([chain.log_prior, chain.log_likelihood]))
    longer = sample_emcee(KEY, density, **{**SHORT, "max_steps": 400})

    def log_prob(x):
        parts = np.column_stack(density.log_prior_and_likelihood(x))
        return np.column_stack([parts.sum(axis=1), parts])

    sampler = emcee.EnsembleSampler(8, 2, log_prob, vectorize=True, backend=theirs)
    sampler.run_mcmc(None, 50)
    last = [longer.samples[longer.chain_id == walker][-1] for walker in range(8)]
    np.testing.assert_array_equal(sampler.get_chain()[-1], last)
    with pytest.raises(FileFormatError, match="damaged: its checksum"):  # its steps are no longer ours
        sample_emcee(KEY, density, checkpoint=path, **SHORT)
    with h5py.File(path, "a") as file:
        file.attrs["numpyro_flowprior"] = "{"
    with pytest.raises(ValueError, match="the record of which run it holds is damaged"):
        read_chain(path)
    own = HDFBackend(tmp_path / "own.h5")
    emcee.EnsembleSampler(8, 2, log_prob, vectorize=True, backend=own).run_mcmc(theirs.get_chain()[-1], 10)
    with pytest.raises(FileFormatError, match="does not record which run it holds.*read_chain"):
        sample_emcee(KEY, density, checkpoint=tmp_path / "own.h5", **SHORT)
    with pytest.raises(TypeError, match="backend: expected none. Pass checkpoint="):
        sample_emcee(KEY, density, backend=own, **SHORT)


@short
def test_a_run_in_latent_coordinates_is_not_read_as_parameters(tmp_path):
    prior = make_prior([(0.0, 1.0), (0.0, np.inf)], FlowConfig(layers=1, hidden=(8,)))

    def model():
        theta = numpyro.sample("theta", prior)
        numpyro.sample("y", dist.Normal(theta.sum(), 0.5), obs=0.7)

    density = ModelDensity(model)
    run = {**SHORT, "max_steps": 20, "checkpoint": tmp_path / "run.h5"}
    chain, again = (sample_emcee(KEY, density, coordinates="latent", **run) for _ in range(2))
    np.testing.assert_array_equal(again.samples, chain.samples)
    for space in (None, density.space):
        with pytest.raises(ValueError, match="in latent coordinates.*The same call of sample_emcee"):
            read_chain(tmp_path / "run.h5", space)
    with pytest.raises(ValueError, match="the same 'coordinates'"):
        sample_emcee(KEY, density, **run)


@pytest.mark.parametrize("content", [b"", b"something else altogether"])
def test_what_is_no_run_is_refused_as_a_checkpoint(tmp_path, content):
    path, density = tmp_path / "run.h5", ModelDensity(gaussian, 0.7)
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="got neither.*Remove it to begin again"):
        sample_emcee(KEY, density, checkpoint=path, **SHORT)
    with pytest.raises(IsADirectoryError, match="expected a file, there or to be made; this is a folder"):
        sample_emcee(KEY, density, checkpoint=tmp_path, **SHORT)
    path = path.rename(tmp_path / "run.checkpoint")
    with pytest.raises(ValueError, match="got one of another sampler.*chain.npz, in the same folder"):
        read_chain(path)


KILLED = """
import sys, time
import jax, numpyro, numpyro.distributions as dist
from numpyro_flowprior import ModelDensity, sample_emcee
from numpyro_flowprior.sampling import emcee as module

module._SAVE_EVERY = 0.05

def model(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    numpyro.sample("b", dist.Uniform(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

sample_emcee(jax.random.key(2), ModelDensity(model, 0.7), n_walkers=8, max_steps=10**6, progress=False,
             checkpoint=sys.argv[1], moves=__import__("emcee").moves.GaussianMove(1e-4))
"""


@short
def test_kill_minus_nine_leaves_a_file_to_go_on_from(tmp_path):
    path = tmp_path / "run.h5"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)])
    deadline = time.time() + 120
    while not path.exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    density = ModelDensity(gaussian, 0.7)
    moves = emcee.moves.GaussianMove(1e-4)
    chain = sample_emcee(KEY, density, checkpoint=path, n_walkers=8, max_steps=3000, moves=moves, progress=False)
    assert chain.info["steps"] >= 100
    np.testing.assert_allclose(chain.log_prob, density.log_posterior(chain.samples))


@short
def test_a_time_limit_returns_what_there_is():
    chain = sample_emcee(KEY, ModelDensity(gaussian, 0.7), **{**SHORT, "max_steps": 10**6, "max_seconds": 0.5})
    assert 2 <= chain.info["steps"] < 10**6
    assert not chain.info["converged"]


def test_time_that_ends_in_the_search_for_starts_is_an_error():
    def seldom_possible():
        x = numpyro.sample("x", dist.Uniform(0.0, 1.0))
        numpyro.factor("part", jnp.where(x < 0.2, 0.0, -jnp.inf))

    with pytest.raises(TimeoutError, match=r"time was up after [1-9] of 16 walkers had found a start.*Allow more"):
        sample_emcee(KEY, ModelDensity(seldom_possible), n_walkers=16, max_seconds=0.0, progress=False)


def test_a_flow_prior_of_the_model_is_its_own_proposal():
    prior = make_prior([(0.0, 1.0), (-1.0, 2.0)], FlowConfig(layers=2, hidden=(8,)))

    def model(y):
        theta = numpyro.sample("theta", prior)
        numpyro.sample("y", dist.Normal(theta.sum(), 0.5), obs=y)

    density = ModelDensity(model, 0.4)
    chain = sample_emcee(KEY, density, n_walkers=32, max_steps=3000, proposal=prior, progress=False)
    assert chain.info["converged"]
    draws = density.sample_prior(jax.random.key(3), 100_000)
    weights = np.exp(density.log_likelihood(draws))
    mean = weights @ draws / weights.sum()
    error = chain.samples.std(0) / np.sqrt(chain.effective_size)
    assert (np.abs(chain.mean() - mean) < 5 * error).all()
