"""run_stages: against joint fits known exactly; folders that survive; stages that stop a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal
from toys import run_stages, weighted_rows

from numpyro_flowprior import (
    FileFormatError,
    FlowConfig,
    FlowPrior,
    Guards,
    ModelDensity,
    ParameterSpace,
    Stage,
    StagedAnalysis,
    StageOptions,
    StageStopped,
    TrainConfig,
    load_stages,
    read_chain,
    sample_emcee,
    write_chain,
)
from numpyro_flowprior.priors.fingerprint import prior_fingerprint
from numpyro_flowprior.sampling import evidence as sampling_evidence
from numpyro_flowprior.sampling.record import INTERRUPTION
from numpyro_flowprior.stages import run as module
from numpyro_flowprior.stages import steps
from numpyro_flowprior.stages.exact import PriorError, exact_posterior, exact_prior, prior_error
from numpyro_flowprior.stages.folder import StageFolder, write_json
from numpyro_flowprior.stages.guards import Finding
from numpyro_flowprior.stages.origin import chain_fingerprint
from numpyro_flowprior.stages.staged_arviz import power_sensitivity

KEY = jax.random.key(3)
SPACE = ParameterSpace(["a", "b"])
WIDTH = 2.0
QUICK = {  # a flow without couplings is the Gaussian of the chain's moments: exact here, and trained at once
    "config": FlowConfig(layers=0, base="normal"),
    "train": TrainConfig(max_steps=1, eval_every=1),
    "progress": False,
}
ROWS = {"x": [1.0, 0.3], "y": [-0.5, 1.0], "z": [0.7, 0.7]}  # what each measurement is of a and b
SIGMA = 0.8


class Flat(dist.Distribution):
    """Two independent normals by name: a first prior whose joint posterior with linear data is known."""

    support = dist.constraints.real_vector
    pytree_aux_fields = ("space",)

    def __init__(self):
        self.space = SPACE
        super().__init__(event_shape=(2,))

    def log_prob(self, value):
        return dist.Normal(0.0, WIDTH).log_prob(value).sum(-1)

    def sample(self, key, sample_shape=()):
        return WIDTH * jax.random.normal(key, (*sample_shape, 2))


def linear(prior, which, value):
    theta = numpyro.sample("theta", prior)
    numpyro.sample(which, dist.Normal(theta @ np.array(ROWS[which]), SIGMA), obs=value)


def weighted(key, density, *, n=40_000, progress=True, converged=True):
    """A sampler whose draws are the prior's, weighted by the likelihood: right for any model."""
    x = density.sample_prior(key, n)
    return weighted_rows(density, x, density.log_prior(x), converged=converged)


DATA = {"x": 0.4, "y": 0.9, "z": 0.2}
STAGES = [Stage(name, linear, (name, value)) for name, value in DATA.items()]


def exact_joint(data=DATA):
    """Mean and covariance of the posterior under all data, and its log evidence."""
    design = np.array([ROWS[name] for name in data])
    y = np.array(list(data.values()))
    covariance = np.linalg.inv(np.eye(2) / WIDTH**2 + design.T @ design / SIGMA**2)
    predicted = WIDTH**2 * design @ design.T + SIGMA**2 * np.eye(len(y))
    return covariance @ design.T @ y / SIGMA**2, covariance, multivariate_normal.logpdf(y, cov=predicted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stages") / "run"


@pytest.fixture(scope="module")
def whole(folder):
    return run_stages(KEY, STAGES, Flat(), sampler=weighted, folder=folder, **QUICK)


def test_three_stages_give_the_joint_posterior_and_evidence(whole):
    mean, covariance, log_evidence = exact_joint()
    chain = whole.posterior
    error = np.sqrt(np.diag(covariance) / chain.effective_size)
    carried = 3  # each of three chains passes its own sampling error on, the later ones' priors being learnt from them
    np.testing.assert_array_less(np.abs(chain.mean() - mean), 4 * np.sqrt(carried) * error)
    np.testing.assert_allclose(
        chain.covariance(), covariance, atol=4 * np.sqrt(carried) * covariance.max() * np.sqrt(2 / chain.effective_size)
    )
    assert whole.log_evidence == pytest.approx(log_evidence, abs=0.05)
    assert whole.log_evidence_error < 0.02
    assert whole.verdict == "pass", whole
    assert list(whole.chains) == list(whole.priors) == list(whole.reports) == list(DATA)
    assert list(whole.guards) == ["y", "z"]


def without_evidence(key, density, **options):
    """Draws of equal weight and no evidence, as from NUTS."""
    chain = weighted(key, density, **options)
    kept = chain.resample(key, int(chain.effective_size / 2))
    return kept.replace(log_evidence=None, log_evidence_error=None, rows="independent")


def test_a_sampler_without_evidence_gets_one_if_it_is_asked_for(tmp_path):
    how = {**QUICK, "evidence": True, "sampler": without_evidence, "folder": tmp_path / "run"}
    found = run_stages(KEY, STAGES[:2], Flat(), **how)
    exact = exact_joint({"x": 0.4, "y": 0.9})[2]
    assert abs(found.log_evidence - exact) < 4 * found.log_evidence_error + 0.01
    assert found.log_evidence_error < 0.05
    assert found.chains["y"].info["evidence"]["method"] == "bridge sampling"
    again = run_stages(KEY, STAGES[:2], Flat(), **how)
    assert again.log_evidence == found.log_evidence
    density = ModelDensity(linear, Flat(), "x", 0.4)
    few = without_evidence(KEY, density).take(slice(0, 100))
    few = steps.with_evidence(KEY, few, density, None, StageOptions(), progress=False)
    assert (few.info["evidence"]["trusted"], few.log_evidence) == (False, None)
    assert "expected at least 200 rows" in few.info["evidence"]["why"]


def test_an_interrupted_evidence_is_not_stored(tmp_path, monkeypatch):
    """The chain is; the next call computes the evidence that an uninterrupted run has."""
    how = {**QUICK, "evidence": True, "sampler": without_evidence}
    whole = run_stages(KEY, STAGES[:1], Flat(), **how)
    fit_flow = sampling_evidence.fit_flow

    def interrupted(*args, **options):
        fit = fit_flow(*args, **options)
        return replace(fit, histories=(replace(fit.histories[0], interrupted=True), *fit.histories[1:]))

    with monkeypatch.context() as patch:
        patch.setattr(sampling_evidence, "fit_flow", interrupted)
        with pytest.raises(StageStopped, match="interrupted"):
            run_stages(KEY, STAGES[:1], Flat(), folder=tmp_path / "run", **how)
    again = run_stages(KEY, STAGES[:1], Flat(), folder=tmp_path / "run", **how)
    assert again.log_evidence == whole.log_evidence


def wrong_evidence(key, density, **options):
    """The draws of `weighted`, with a log evidence that is wrong by one and says so, but in the last stage."""
    chain = weighted(key, density, **options)
    (seen,) = density.observed
    chain = chain.replace(info={**chain.info, "seen": seen})
    return chain if seen == "z" else chain.replace(log_evidence=chain.log_evidence + 1.0, log_evidence_error=1.0)


def test_errors_of_earlier_evidences_cancel_where_exact_priors_are_known():
    """Also if the change in a stage between is not known: what it lacks is in the change of the next stage."""
    log_evidence = exact_joint()[2]
    analysis = run_stages(KEY, STAGES, Flat(), sampler=wrong_evidence, **QUICK)
    assert analysis.log_evidence == pytest.approx(log_evidence, abs=4 * analysis.log_evidence_error)
    assert analysis.log_evidence_error < 0.01
    assert "under the learned prior in" not in str(analysis)

    def unreliable(chain, exact):
        found = prior_error(chain, exact)
        return found if chain.info["seen"] == "z" else PriorError(found.loss, found.loss_error, 2.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "prior_error", unreliable)
        between = run_stages(KEY, STAGES, Flat(), sampler=wrong_evidence, override=True, **QUICK)
        until = run_stages(KEY, STAGES[:2], Flat(), sampler=wrong_evidence, override=True, **QUICK)
    assert between["y"].log_evidence_change is None
    assert between.log_evidence == pytest.approx(log_evidence, abs=4 * between.log_evidence_error)
    assert between.log_evidence_error < 0.01
    assert until.log_evidence_error == pytest.approx(np.sqrt(2.0))  # as sampled, as nothing else is known
    assert str(until).endswith("(under the learned prior in 'y')")


def test_a_finished_run_is_read_back_and_nothing_is_run_again(whole, folder, monkeypatch):
    monkeypatch.setattr(steps, "fit_flow", _never)
    monkeypatch.setattr(module, "check_stage", _never)
    again = run_stages(KEY, STAGES, Flat(), sampler=_never, folder=folder, **QUICK)
    for one in (again, load_stages(folder)):
        for name, chain in whole.chains.items():
            np.testing.assert_array_equal(one.chains[name].samples, chain.samples)
            np.testing.assert_array_equal(one.chains[name].weights, chain.weights)
        assert str(one) == str(whole)
        assert one.to_json() == whole.to_json()


def _never(key, density, *, progress=True):
    raise AssertionError("sampled again")


_never.__name__ = "weighted"


def test_a_killed_run_goes_on_from_the_stage_it_was_in(whole, tmp_path):
    calls = []

    def failing(key, density, *, progress=True):
        calls.append(density)
        if len(calls) == 2:
            raise RuntimeError("the machine went down")
        return weighted(key, density)

    failing.__name__ = "weighted"
    with pytest.raises(RuntimeError, match="went down"):
        run_stages(KEY, STAGES, Flat(), sampler=failing, folder=tmp_path, **QUICK)
    assert list(load_stages(tmp_path).chains) == ["x"]
    again = run_stages(KEY, STAGES, Flat(), sampler=failing, folder=tmp_path, **QUICK)
    assert len(calls) == 4
    np.testing.assert_array_equal(again.posterior.samples, whole.posterior.samples)


def test_a_folder_of_another_run_is_refused(whole, folder):
    other_data = [Stage("x", linear, ("x", 3.0)), *STAGES[1:]]
    for key, stages, options, words in (
        (jax.random.key(9), STAGES, {}, "the same 'key'"),
        (KEY, STAGES, {"tail_aware": False}, "the same 'tail_aware'"),
        (KEY, STAGES, {"sampler_options": {"n": 50_000}}, "the same 'sampler_options'"),
        (KEY, STAGES, {"train": TrainConfig(max_steps=2, eval_every=1)}, "the same 'train'"),
        (KEY, other_data, {}, "got one with other log densities"),
        (KEY, STAGES[::-1], {}, "holds the stages 'x', 'y', 'z'"),
    ):
        with pytest.raises(ValueError, match=words):
            run_stages(key, stages, Flat(), sampler=weighted, folder=folder, **{**QUICK, **options})
    (folder / "analysis.json").rename(folder / "kept.json")
    with pytest.raises(FileNotFoundError, match=r"no analysis\.json"):
        load_stages(folder)
    (folder / "analysis.json").write_text('{"schema": 99}')
    with pytest.raises(FileFormatError, match="schema 1"):
        load_stages(folder)
    (folder / "kept.json").rename(folder / "analysis.json")


def test_a_sampler_that_did_not_converge_stops_the_run_unless_overridden(tmp_path):
    run = {"sampler": weighted, "sampler_options": {"converged": False}, "folder": tmp_path, **QUICK}
    with pytest.raises(StageStopped, match="did not converge.*The same call continues from there") as stopped:
        run_stages(KEY, STAGES[:2], Flat(), **run)
    assert list(stopped.value.analysis.chains) == ["x"]
    assert stopped.value.analysis.verdict == "fail"
    analysis = run_stages(KEY, STAGES[:2], Flat(), override=True, **run)
    assert list(analysis.chains) == ["x", "y"]
    assert analysis.verdict == "fail"
    assert "not converged" in str(analysis)


@pytest.mark.filterwarnings(
    "ignore:sample_emcee. stopped", "ignore:.*R-hat", "ignore:.*The run is", "ignore:.*Effective size"
)
def test_a_stage_that_did_not_converge_goes_on_with_more_steps(tmp_path):
    """As the message says; the checkpoint goes on, and a stage that is done is not begun anew for a longer limit."""

    def run(**options):
        given = {"sampler": sample_emcee, "sampler_options": {"n_walkers": 8, **options}, "folder": tmp_path}
        return run_stages(KEY, STAGES[:1], Flat(), **given, **QUICK).posterior

    for max_steps in (50, 100):
        with pytest.raises(StageStopped, match="Run it longer") as stopped:
            run(max_steps=max_steps)
        assert stopped.value.analysis.posterior.info["steps"] == max_steps
    with pytest.raises(ValueError, match="the same 'n_walkers'"):  # the checkpoint's word
        run(max_steps=3000, n_walkers=10)
    done = run(max_steps=5000)
    assert done.info["converged"]
    np.testing.assert_array_equal(read_chain(tmp_path / "01_x" / "run.checkpoint").space.names, done.names)
    np.testing.assert_array_equal(run(max_steps=8000, progress=False).samples, done.samples)
    with pytest.raises(ValueError, match="the same 'sampler_options'"):
        run(max_steps=5000, proposal="prior")


def test_what_a_sampler_names_is_given_to_it(tmp_path):
    got = []

    def told(key, density, *, checkpoint, **options):
        got.append((checkpoint, options))
        return weighted(key, density)

    run_stages(KEY, STAGES[:1], Flat(), sampler=told, folder=tmp_path, **QUICK)
    run_stages(KEY, STAGES[:1], Flat(), sampler=told, **QUICK)
    (in_folder, options), (nowhere, _) = got
    assert (in_folder.name, options, nowhere) == ("run.checkpoint", {}, None)


def test_options_that_are_objects_are_known_again_by_what_they_are(tmp_path):
    def moved(key, density, *, move, **options):
        return weighted(key, density, **options)

    run = {"sampler": moved, "folder": tmp_path, **QUICK}
    move = {"move": SimpleNamespace(size=dist.Normal(0, 2))}
    once = run_stages(KEY, STAGES[:1], Flat(), sampler_options=move, **run)
    again = run_stages(
        KEY, STAGES[:1], Flat(), sampler_options={"move": SimpleNamespace(size=dist.Normal(0, 2))}, **run
    )
    np.testing.assert_array_equal(again.posterior.samples, once.posterior.samples)
    with pytest.raises(ValueError, match="the same 'sampler_options'"):
        run_stages(KEY, STAGES[:1], Flat(), sampler_options={"move": SimpleNamespace(size=dist.Normal(0, 3))}, **run)


def test_other_options_are_another_run_whatever_they_are(tmp_path):
    def told(key, density, *, option, **options):
        return weighted(key, density, **options)

    pairs = [(Path("/planck"), Path("/act")), ({1, 2}, {1, 3}), (range(3), range(4)), (jax.random.key(1), None)]
    for number, (one, other) in enumerate(pairs):
        run = {"sampler": told, "folder": tmp_path / str(number), **QUICK}
        run_stages(KEY, STAGES[:1], Flat(), sampler_options={"option": one}, **run)
        with pytest.raises(ValueError, match="the same 'sampler_options'"):
            run_stages(KEY, STAGES[:1], Flat(), sampler_options={"option": other}, **run)


def test_folders_that_know_options_by_their_text_go_on(tmp_path):
    """As folders were before options were known by what they are."""
    options = {"n": 30_000, "note": "it's", "limit": float("inf"), "scale": np.float64(0.1), "parts": {1: (1, 2.5)}}

    def noted(key, density, *, n, progress, **others):
        return weighted(key, density, n=n)

    run = {"sampler": noted, "folder": tmp_path, **QUICK, "sampler_options": options}
    run_stages(KEY, STAGES[:1], Flat(), **run)
    file = tmp_path / "01_x" / "settings.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "sampler_options": {name: repr(value) for name, value in options.items()}}))
    assert run_stages(KEY, STAGES[:1], Flat(), **run).posterior.n == 30_000


def test_a_sampler_without_a_draw_in_time_stops_the_run_with_the_stages_done():
    def late(key, density, **options):
        if "y" in density.observed:
            raise TimeoutError("late: no draw in 3 seconds.")
        return weighted(key, density)

    with pytest.raises(StageStopped, match="stage 'y': late: no draw in 3 seconds") as stopped:
        run_stages(KEY, STAGES[:2], Flat(), sampler=late, **QUICK)
    assert list(stopped.value.analysis.chains) == ["x"]
    with pytest.raises(StageStopped) as stopped:
        run_stages(KEY, STAGES[1:2], Flat(), sampler=late, **QUICK)
    assert stopped.value.analysis is None


@pytest.fixture(scope="module")
def overridden(tmp_path_factory):
    """Two stages, of which the first, too short, was overridden, in a folder."""
    folder = tmp_path_factory.mktemp("overridden") / "run"
    run_stages(KEY, STAGES[:2], Flat(), sampler=of_size(4000, converged=False), folder=folder, override=True, **QUICK)
    return folder


def of_size(n, *, converged=True):
    """A sampler of the same name and settings, which took longer."""

    def sampler(key, density, *, progress=True):
        return weighted(key, density, n=n, converged=converged or "y" in density.observed)

    sampler.__name__ = "weighted"
    return sampler


def test_all_that_follows_a_chain_that_is_sampled_again_is_made_again(overridden, tmp_path):
    folder = shutil.copytree(overridden, tmp_path / "run")
    short = load_stages(folder)
    with pytest.warns(UserWarning, match=r"02_y: sampled under a prior .* kept as chain\.stale\.npz"):
        again = run_stages(KEY, STAGES[:2], Flat(), sampler=of_size(8000), folder=folder, **QUICK)
    assert again.posterior.n == 8000
    fresh = run_stages(KEY, STAGES[:2], Flat(), sampler=of_size(8000), folder=tmp_path / "fresh", **QUICK)
    assert again.to_json() == load_stages(folder).to_json() == fresh.to_json()
    old = read_chain(folder / "02_y" / "chain.stale.npz")
    np.testing.assert_array_equal(old.samples, short.posterior.samples)


def test_what_belongs_to_another_chain_is_not_shown(overridden, tmp_path):
    folder = shutil.copytree(overridden, tmp_path / "run")
    chain = read_chain(folder / "02_y" / "chain.npz")
    write_chain(folder / "02_y" / "chain.npz", chain.take(np.arange(3000)))
    with pytest.warns(UserWarning, match=r"02_y: prior\.safetensors, guards\.json: made from a chain or prior that"):
        found = load_stages(folder)["y"]
    assert (found.chain.n, found.learned, found.report, found.guards) == (3000, None, None, None)
    with pytest.raises(StageStopped, match="did not converge"):
        run_stages(KEY, STAGES[:2], Flat(), sampler=of_size(5000, converged=False), folder=folder, **QUICK)
    with (
        pytest.warns(UserWarning, match=r"01_x: prior\.safetensors: made from a chain or prior that"),
        pytest.warns(UserWarning, match="02_y and later stages: sampled under a prior"),
    ):
        found = load_stages(folder)
    assert list(found.chains) == ["x"]
    assert found["x"].learned is None


def test_a_checkpoint_begun_under_another_prior_is_put_aside(overridden, tmp_path):
    folder = shutil.copytree(overridden, tmp_path / "run")
    for name in ("run.checkpoint", "run.checkpoint", "run.safetensors"):  # of earlier versions; after runs killed there
        (folder / "02_y" / name).write_bytes(b"begun")
        origins = json.loads((folder / "02_y" / "made_from.json").read_text())
        origins["chain.npz"]["prior"] = "another"
        (folder / "02_y" / "made_from.json").write_text(json.dumps(origins))
        (folder / "02_y" / "chain.npz").unlink(missing_ok=True)
        with pytest.warns(UserWarning, match=r"kept as run\.stale(_2)?\.(checkpoint|safetensors)"):
            run_stages(KEY, STAGES[:2], Flat(), sampler=of_size(4000), folder=folder, override=True, **QUICK)
    assert {path.name for path in (folder / "02_y").glob("*.stale*")} == {
        "run.stale.checkpoint",
        "run.stale_2.checkpoint",
        "run.stale.safetensors",
    }


def test_a_folder_of_an_earlier_version_is_read_and_its_guards_are_made_again(overridden, tmp_path, monkeypatch):
    folder = shutil.copytree(overridden, tmp_path / "run")
    expected = load_stages(folder)
    for record in folder.glob("*/made_from.json"):
        record.unlink()
    assert load_stages(folder).to_json() == expected.to_json()
    write_json(folder / "02_y" / "guards.json", Guards((Finding("old", "warn", "of which chain?"),), {}).to_json())
    assert "of which chain?" in str(load_stages(folder))
    monkeypatch.setattr(steps, "fit_flow", _never)  # flows say themselves what they were trained on
    again = run_stages(KEY, STAGES[:2], Flat(), sampler=_never, folder=folder, override=True, **QUICK)
    assert again.to_json() == load_stages(folder).to_json() == expected.to_json()


@pytest.mark.parametrize("field", ["tail_aware", "psis", "override"])
def test_options_that_are_no_truth_values_are_refused(field):
    with pytest.raises(TypeError, match=f"StageOptions: {field}: expected True or False; got 'no'"):
        StageOptions(**{field: "no"})


def test_a_folder_that_knows_coordinates_by_their_former_name_goes_on(tmp_path):
    files, settings = StageFolder(tmp_path / "x"), {"name": "x", "sampler_options": {"space": "'latent'"}}
    files.begin(settings, override=False)
    files.chain.touch()
    files.begin({"name": "x", "sampler_options": {"coordinates": "'latent'"}}, override=True)
    with pytest.raises(ValueError, match="the same 'sampler_options'"):
        files.begin({"name": "x", "sampler_options": {"coordinates": "'parameters'"}}, override=True)


def test_a_flow_of_the_same_draws_with_other_log_densities_is_trained_again(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(
        steps, "fit_flow", lambda *args, **kwargs: SimpleNamespace(prior=whole.priors["y"], interrupted=False)
    )
    files = StageFolder(tmp_path)
    chain = whole.chains["x"]
    whole.priors["x"].save(files.prior(reweighted=False))
    for part, expected in ((chain, "x"), (chain.replace(log_prob=2.0 * chain.log_prob), "y")):
        origin = {"chain": chain_fingerprint(part)}
        found = steps.learnt(KEY, part, StageOptions(), files, origin, reweighted=False, used=False, progress=False)
        assert prior_fingerprint(found) == prior_fingerprint(whole.priors[expected])


def test_an_interruption_stops_the_run_even_if_overridden_and_its_chain_is_not_taken_for_a_whole_one(tmp_path):
    def interrupted(key, density, *, progress=True):
        return weighted(key, density).replace(info={"converged": False, "stopped_by": INTERRUPTION})

    run = {"folder": tmp_path, "override": True, **QUICK}
    interrupted.__name__ = "weighted"
    with pytest.raises(StageStopped, match="'x': interrupted. This sampler keeps no checkpoint"):
        run_stages(KEY, STAGES, Flat(), sampler=interrupted, **run)
    with pytest.raises(FileNotFoundError, match="'x', has no chain yet"):
        load_stages(tmp_path)
    assert run_stages(KEY, STAGES[:1], Flat(), sampler=weighted, **run)["x"].converged


def test_a_posterior_in_the_priors_tail_is_sampled_through_a_broad_one():
    """The second measurement is five sigma off: few of the learned prior's draws are there."""
    data = {"x": 0.4, "y": 6.0}
    stages = [Stage(name, linear, (name, value)) for name, value in data.items()]
    started = {
        start: run_stages(KEY, stages, Flat(), sampler=weighted, start=start, **QUICK)["y"].chain
        for start in ("auto", "prior")
    }
    assert started["auto"].info["start"] == "broad"
    assert "start" not in started["prior"].info
    mean, covariance, log_evidence = exact_joint(data)
    error = np.sqrt(np.diag(covariance) / started["auto"].effective_size)
    assert (np.abs(started["auto"].mean() - mean) < 8 * error).all()  # the first chain's own error, in its tail
    first = exact_joint({"x": 0.4})[2]
    assert started["auto"].log_evidence == pytest.approx(log_evidence - first, abs=0.2)


def two_modes(prior):
    theta = numpyro.sample("theta", prior)
    apart = jax.numpy.logaddexp(*(-0.5 * ((theta - at) ** 2).sum() / 0.1 for at in (-1.5, 1.5)))
    numpyro.factor("data", apart)


def test_a_failing_prior_stops_the_run_unless_overridden():
    """One Gaussian for two modes: the report fails, and the guards see what it does to the next stage."""
    stages = [Stage("modes", two_modes), Stage("z", linear, ("z", 1.0))]
    with pytest.raises(StageStopped, match="the flow trained on its posterior fails the quality report") as stopped:
        run_stages(KEY, stages, Flat(), sampler=weighted, **QUICK)
    assert stopped.value.analysis["modes"].report.verdict == "fail"
    wrong = run_stages(KEY, stages, Flat(), sampler=weighted, override=True, **QUICK)
    assert wrong["z"].guards.verdict == "fail"
    assert "learned prior compared with the exact prior" in str(wrong)


def test_importance_weights_take_the_prior_error_out():
    """The same wrong prior, corrected: mean and evidence are those of both data sets under the first prior."""
    stages = [Stage("modes", two_modes), Stage("z", linear, ("z", 1.0))]
    options = {"sampler": weighted, "sampler_options": {"n": 200_000}, "override": True, **QUICK}
    right = run_stages(KEY, stages, Flat(), psis=True, **options)
    wrong = run_stages(KEY, stages, Flat(), **options)
    grid = np.linspace(-8.0, 8.0, 401)
    a, b = np.meshgrid(grid, grid, indexing="ij")
    log_prior = -0.5 * (a**2 + b**2) / WIDTH**2 - np.log(2 * np.pi * WIDTH**2)
    modes = np.logaddexp(*(-0.5 * ((a - at) ** 2 + (b - at) ** 2) / 0.1 for at in (-1.5, 1.5)))
    pull = -0.5 * ((1.0 - 0.7 * (a + b)) / SIGMA) ** 2 - 0.5 * np.log(2 * np.pi * SIGMA**2)
    density = np.exp(log_prior + modes + pull)
    cell = (grid[1] - grid[0]) ** 2
    log_evidence, mean = np.log(density.sum() * cell), (density * a).sum() / density.sum()
    record = right.posterior.info["psis"]
    assert record["pareto_k"] < 0.7
    assert right["z"].guards.corrected
    assert right.posterior.mean()[0] == pytest.approx(mean, abs=4 * 1.2 / np.sqrt(record["effective_size"]))
    assert right.log_evidence == pytest.approx(log_evidence, abs=4 * right.log_evidence_error)
    assert abs(wrong.posterior.mean()[0] - mean) > 0.1
    assert right.verdict == "fail"  # the report of stage one: a prior to be published is another matter


def test_a_reweighted_posterior_does_not_outlive_the_call_that_asked_for_it(tmp_path, monkeypatch):
    run = {"sampler": weighted, "folder": tmp_path, **QUICK}
    corrected = run_stages(KEY, STAGES[:2], Flat(), psis=True, **run).posterior
    assert "psis" in corrected.info
    np.testing.assert_array_equal(load_stages(tmp_path).posterior.weights, corrected.weights)
    plain = run_stages(KEY, STAGES[:2], Flat(), **run).posterior
    assert "psis" not in plain.info
    np.testing.assert_array_equal(load_stages(tmp_path).posterior.weights, plain.weights)
    monkeypatch.setattr(steps, "fit_flow", _never)
    monkeypatch.setattr(module, "check_stage", _never)
    again = run_stages(KEY, STAGES[:2], Flat(), psis=True, **run)  # the flows and guards of either call are kept
    np.testing.assert_array_equal(again.posterior.weights, corrected.weights)
    read = load_stages(tmp_path)["y"].guards
    assert str(read) == str(again["y"].guards) != str(run_stages(KEY, STAGES[:2], Flat(), **run)["y"].guards)


def test_a_flow_that_is_not_trained_to_its_end_is_not_stored(tmp_path, monkeypatch):
    """And the run stops with the chain that is there; the next call trains it."""
    fit = steps.fit_flow

    def interrupted(*args, **given):
        done = fit(*args, **given)
        return SimpleNamespace(prior=done.prior, interrupted=True)

    run = {"sampler": weighted, "folder": tmp_path, **QUICK}
    with monkeypatch.context() as patch:
        patch.setattr(steps, "fit_flow", interrupted)
        with pytest.raises(StageStopped, match="stage 'x': interrupted") as stopped:
            run_stages(KEY, STAGES[:2], Flat(), **run)
    assert stopped.value.analysis["x"].learned is None
    assert not StageFolder(tmp_path / "01_x").prior(reweighted=False).exists()
    assert run_stages(KEY, STAGES[:2], Flat(), **run).verdict == "pass"


def test_a_stored_flow_is_refined_unless_the_next_stage_was_sampled_with_it(whole, tmp_path):
    """As after the last stage of a run that then gets another stage, or after a kill between fit and refinement."""
    files, chain = StageFolder(tmp_path), whole.chains["x"]
    origin = {"chain": chain_fingerprint(chain)}
    whole.priors["x"].save(files.prior(reweighted=False))

    def refine(prior):
        assert prior_fingerprint(prior) == prior_fingerprint(whole.priors["x"])
        return whole.priors["y"]

    given = {"reweighted": False, "progress": False, "refine": refine}
    used = steps.learnt(KEY, chain, StageOptions(), files, origin, used=True, **given)
    assert prior_fingerprint(used) == prior_fingerprint(whole.priors["x"])
    steps.learnt(KEY, chain, StageOptions(), files, origin, used=False, **given)
    stored = FlowPrior.load(files.prior(reweighted=False))
    assert prior_fingerprint(stored) == prior_fingerprint(whole.priors["y"])


def test_chains_of_other_samplers_are_completed_and_others_refused():
    density = ModelDensity(linear, Flat(), "x", 0.4)
    chain = weighted(KEY, density, n=100)
    bare = chain.select(["b", "a"]).replace(log_prob=None, log_prior=None, log_likelihood=None)
    found = steps.completed(bare, density)
    assert found.names == chain.names
    np.testing.assert_allclose(found.log_prior, chain.log_prior)
    np.testing.assert_allclose(found.log_prob, chain.log_prob)
    assert steps.completed(chain, density) is chain
    with pytest.raises(ValueError, match="expected a Chain of the parameters 'a', 'b'; got one of 'a'"):
        steps.completed(chain.select(["a"]), density)
    with pytest.raises(TypeError, match="got ndarray"):
        steps.completed(chain.samples, density)


def own_scale(prior, value):
    theta = numpyro.sample("theta", prior)
    shift = numpyro.sample("shift", dist.Normal(0.0, 0.5))
    numpyro.sample("y", dist.Normal(theta @ np.array(ROWS["y"]) + shift, SIGMA), obs=value)


def test_stages_may_add_and_drop_parameters():
    """A shift of its own, dropped again, is as good as more noise."""
    stages = [STAGES[0], Stage("own", own_scale, (DATA["y"],), keep=("b", "a")), Stage("z", linear_of_b, (0.5,))]
    analysis = run_stages(KEY, stages, Flat(), sampler=weighted, **QUICK)
    assert analysis["own"].chain.names == ("a", "b", "shift")
    assert analysis["own"].learned.names == ("b", "a")
    assert analysis.posterior.names == ("b", "a")
    design = np.array([ROWS["x"], ROWS["y"], [0.0, 1.0]])
    noise = np.diag([SIGMA**2, SIGMA**2 + 0.25, SIGMA**2])
    precision = np.eye(2) / WIDTH**2 + design.T @ np.linalg.inv(noise) @ design
    mean = np.linalg.solve(precision, design.T @ np.linalg.solve(noise, [DATA["x"], DATA["y"], 0.5]))
    error = np.sqrt(np.diag(np.linalg.inv(precision)) * 3 / analysis.posterior.effective_size)
    np.testing.assert_array_less(np.abs(analysis.posterior.mean()[::-1] - mean), 4 * error)
    assert "not known" in str(analysis["z"].guards)
    with pytest.raises(ValueError, match="got one that drops some"):
        run_stages(KEY, stages, Flat(), sampler=weighted, psis=True, **QUICK)


def linear_of_b(prior, value):
    theta = prior.space.as_dict(numpyro.sample("theta", prior))
    numpyro.sample("y", dist.Normal(theta["b"], SIGMA), obs=value)


def test_exact_densities_are_the_analytic_ones(whole):
    first = ModelDensity(linear, Flat(), "x", DATA["x"])
    one = exact_posterior(first, whole.chains["x"].replace(log_evidence=exact_joint({"x": 0.4})[2]), None)
    points = np.random.default_rng(0).normal(size=(50, 2))
    mean, covariance, _ = exact_joint({"x": 0.4})
    np.testing.assert_allclose(one.log_density(points), multivariate_normal.logpdf(points, mean, covariance), rtol=1e-9)
    second = ModelDensity(linear, whole.priors["x"], "y", DATA["y"])
    two = exact_prior(second, whole.priors["x"], one)
    np.testing.assert_allclose(two.log_density(points), one.log_density(points), rtol=1e-9)
    assert one.normalised
    assert two.normalised


def test_robust_prior_of_a_stage():
    analysis = run_stages(KEY, STAGES[:2], Flat(), sampler=weighted, robust=0.2, **QUICK)
    mean, covariance, _ = exact_joint({name: DATA[name] for name in ("x", "y")})
    broad_pull = np.abs(analysis.posterior.mean() - mean) / np.sqrt(np.diag(covariance))
    assert (broad_pull < 0.3).all()
    assert analysis["y"].guards.verdict == "pass", analysis
    assert "due to the broad part of the prior" in str(analysis)


def test_one_arviz_object_has_all_stages(whole, tmp_path):
    data = whole.to_arviz()
    assert all(hasattr(data, group) for group in ("posterior", "sample_stats", "posterior_x", "posterior_y"))
    assert float(data.posterior["a"].mean()) == pytest.approx(whole.posterior.mean()[0], abs=0.02)
    assert float(data.posterior_x["a"].mean()) == pytest.approx(whole.chains["x"].mean()[0], abs=0.02)
    data.to_netcdf(tmp_path / "staged.nc")


def test_power_sensitivity_is_arvizs(whole):
    found = power_sensitivity(whole.posterior)
    assert set(found) == {"a", "b"}
    assert all(value["prior"] > 0.05 for value in found.values())  # two of three measurements are in it
    assert power_sensitivity(whole.posterior.replace(log_prior=None)) is None


def forgets_its_prior(prior):
    numpyro.sample("y", dist.Normal(numpyro.sample("c", dist.Normal()), 1.0), obs=0.3)


@pytest.mark.parametrize(
    ("stages", "error", "words"),
    [
        ([], ValueError, "at least one Stage"),
        (["x"], TypeError, "expected Stage"),
        ([STAGES[0], STAGES[0]], ValueError, "'x' occur more than once"),
        ([Stage("x", linear, ("x", 0.4), keep=("c",))], ValueError, "keep: expected names among 'a', 'b'; got 'c'"),
        ([STAGES[0], Stage("own", forgets_its_prior)], ValueError, "samples its first"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, error, words):
    with pytest.raises(error, match=words):
        run_stages(KEY, stages, Flat(), sampler=weighted, **QUICK)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"name": "a/b"}, ValueError),
        ({"name": ".."}, ValueError),
        ({"name": ""}, ValueError),
        ({"model": 3}, TypeError),
        ({"args": [1]}, TypeError),
        ({"kwargs": 1}, TypeError),
    ],
)
def test_a_stage_checks_its_fields(fields, error):
    with pytest.raises(error, match=r"Stage"):
        Stage(**{"name": "x", "model": linear, **fields})


def test_unknown_stage_names_are_refused(whole):
    assert isinstance(whole, StagedAnalysis)
    with pytest.raises(KeyError, match="no stage 'w'; the stages are 'x'"):
        whole["w"]
