"""Stages that are sampled again under a prior taught where they need it: is the answer right, is nothing done twice?"""

from types import SimpleNamespace

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from toys import run_stages, weighted_rows

from numpyro_flowprior import (
    Chain,
    FlowConfig,
    LiveConfig,
    ModelDensity,
    ParameterSpace,
    Stage,
    StageOptions,
    TrainConfig,
    UniformPrior,
    load_stages,
    write_chain,
)
from numpyro_flowprior.stages import run as module
from numpyro_flowprior.stages import steps, teaching
from numpyro_flowprior.stages.exact import ExactDensity, PriorError, exact_posterior, exact_prior
from numpyro_flowprior.stages.folder import StageFolder

KEY = jax.random.key(2)
SPACE = ParameterSpace(["a", "b"], -4.0, 4.0)
POOR = {  # stopped long before it has learnt the curve
    "config": FlowConfig(layers=4, hidden=(24,), components=4, background=True),
    "train": TrainConfig("log_variance", 5e-3, batch_size=256, max_steps=40, eval_every=20),
    "progress": False,
    "override": True,
}


def curved(prior):
    """Stage one: a narrow curved ridge."""
    a, b = numpyro.sample("theta", prior)
    numpyro.sample("x", dist.Normal(b - 0.7 * a**2, 0.15), obs=0.0)
    numpyro.sample("w", dist.Normal(a, 1.0), obs=0.0)


def far(prior):
    """Stage two: two and a half standard deviations out along the ridge."""
    a, _ = numpyro.sample("theta", prior)
    numpyro.sample("y", dist.Normal(a, 0.15), obs=1.8)


STAGES = [Stage("one", curved), Stage("two", far)]


def weighted(key, density, *, n=40_000, progress=True):
    """A sampler whose draws are weighted: half of them the prior's, half flat. It is right for any model."""
    calls.append(density)
    x = density.sample_prior(key, n)
    flat = np.random.default_rng(5).uniform(-4.0, 4.0, size=(n, 2))
    x = np.concatenate([x, flat])
    log_proposal = np.logaddexp(density.log_prior(x), -np.log(64.0)) - np.log(2.0)
    return weighted_rows(density, x, log_proposal, converged=True)


calls = []


def exact():
    """Returns the mean and the log evidence of both stages together, from a grid."""
    grid = np.linspace(-4.0, 4.0, 1601)
    a, b = np.meshgrid(grid, grid, indexing="ij")
    log_p = -np.log(64.0) + sum(
        -0.5 * ((value - at) / sigma) ** 2 - np.log(sigma * np.sqrt(2 * np.pi))
        for value, at, sigma in ((b - 0.7 * a**2, 0.0, 0.15), (a, 0.0, 1.0), (a, 1.8, 0.15))
    )
    p = np.exp(log_p)
    return np.array([(p * a).sum(), (p * b).sum()]) / p.sum(), np.log(p.sum() * (grid[1] - grid[0]) ** 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("taught") / "run"


TAUGHT = {**POOR, "max_passes": 3, "live": LiveConfig(0.97, 100_000)}


@pytest.fixture(scope="module", autouse=True)
def _a_poor_prior():
    """Keeps stage one's flow as poor as it is, so that stage two needs a rehearsal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "refined", lambda learned, *_, **__: learned)
        yield


@pytest.fixture(scope="module")
def taught(folder):
    return run_stages(KEY, STAGES, UniformPrior(SPACE), sampler=weighted, folder=folder, **TAUGHT)


def test_a_poor_flow_is_trained_on_the_exact_density(monkeypatch):
    """Before it is handed on: stage two then needs no rehearsal."""
    monkeypatch.setattr(module, "refined", teaching.refined)
    found = run_stages(KEY, STAGES, UniformPrior(SPACE), sampler=weighted, **TAUGHT)
    assert found["two"].guards.numbers["rehearsals"] == []
    assert found["two"].guards.numbers["prior_error"]["loss"] < 0.03
    assert found.priors["one"].info["live"]["efficiency"] > 0.9


@pytest.fixture(scope="module")
def once():
    return run_stages(KEY, STAGES, UniformPrior(SPACE), sampler=weighted, **POOR)


def test_the_evidence_is_that_of_the_exact_prior(once):
    """Whatever the flow has learnt: under the learned prior it is wrong, with the change that the guards give right."""
    learned = sum(chain.log_evidence for chain in once.chains.values())
    assert abs(learned - exact()[1]) > 0.3
    assert abs(once.log_evidence - exact()[1]) < 4 * once.log_evidence_error < 0.25
    assert "the exact prior changes the log evidence by" in str(once.guards["two"])
    psis = run_stages(KEY, STAGES, UniformPrior(SPACE), sampler=weighted, psis=True, **POOR)
    assert psis.log_evidence == pytest.approx(once.log_evidence, abs=1e-3)
    assert psis.log_evidence == pytest.approx(sum(chain.log_evidence for chain in psis.chains.values()))


def test_only_the_last_pass_of_a_stage_gets_an_evidence(monkeypatch):
    def without(key, density, **options):
        return weighted(key, density, **options).replace(log_evidence=None, log_evidence_error=None)

    found = []
    monkeypatch.setattr(steps, "_evidence_of", lambda key, chain, *_, **__: found.append(chain) or chain)
    made = run_stages(KEY, STAGES, UniformPrior(SPACE), sampler=without, evidence=True, **TAUGHT)
    assert len(made["two"].guards.numbers["rehearsals"]) > 0
    assert found == [one.chain for one in made.stages]


def exact_posterior_of(analysis):
    """Returns the exact posterior of the last stage."""
    learned = analysis.priors["one"]
    first, second = ModelDensity(curved, UniformPrior(SPACE)), ModelDensity(far, learned)
    one = exact_posterior(first, analysis.chains["one"], None)
    return module._exact_posterior(second, analysis["two"], exact_prior(second, learned, one), second.names)


def test_an_exact_posterior_has_the_exact_evidence(once):
    """Also of draws that were not reweighted: its integral is one."""
    grid = np.linspace(-4.0, 4.0, 801)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    total = np.exp(exact_posterior_of(once).log_density(points)).sum() * (grid[1] - grid[0]) ** 2
    assert np.log(total) == pytest.approx(0.0, abs=4 * once.log_evidence_error)


def test_a_taught_prior_gives_the_joint_posterior(taught, once):
    mean, log_evidence = exact()
    sigma = np.sqrt(np.diagonal(taught.posterior.covariance()))
    losses = [analysis["two"].guards.numbers["prior_error"]["loss"] for analysis in (once, taught)]
    assert losses[1] < 0.03 < losses[0]
    learned = sum(chain.log_evidence for chain in once.chains.values())  # under the learned prior
    assert abs(taught.log_evidence - log_evidence) < 0.03 < abs(learned - log_evidence)
    assert (np.abs((taught.posterior.mean() - mean) / sigma) < 0.05).all()
    assert taught["two"].taught is not None
    assert once["two"].taught is None
    assert taught["two"].guards.numbers["rehearsals"]
    assert "sampled 2 times" in str(taught["two"].guards) or "sampled 3 times" in str(taught["two"].guards)


def test_a_finished_run_with_rehearsals_is_read_back_and_nothing_is_done_again(taught, folder, monkeypatch):
    for place in (steps, teaching):
        monkeypatch.setattr(place, "fit_flow", _never)
    monkeypatch.setattr(module, "check_stage", _never)
    before = len(calls)
    again = run_stages(KEY, STAGES, UniformPrior(SPACE), sampler=weighted, folder=folder, **TAUGHT)
    assert len(calls) == before
    for one in (again, load_stages(folder)):
        np.testing.assert_array_equal(one.posterior.samples, taught.posterior.samples)
        assert str(one) == str(taught)
        x = one.posterior.samples[:50]
        np.testing.assert_array_equal(one["two"].taught.log_prob(x), taught["two"].taught.log_prob(x))
    assert (folder / "02_two" / "rehearsal_1.npz").exists()
    assert not list(folder.glob("*/*.checkpoint"))


def test_a_run_killed_between_two_passes_goes_on(taught, tmp_path, monkeypatch):
    """The sampler dies in the second pass of stage two; then the first pass and its teaching are not repeated."""
    begun = len(calls)

    def dies(key, density, *, progress=True):
        if len(calls) - begun == 2:
            raise RuntimeError("the machine went down")
        return weighted(key, density)

    dies.__name__ = "weighted"
    run = {"sampler": dies, "folder": tmp_path, **TAUGHT}
    with pytest.raises(RuntimeError, match="went down"):
        run_stages(KEY, STAGES, UniformPrior(SPACE), **run)
    assert (tmp_path / "02_two" / "rehearsal_1.npz").exists()
    begun = -10
    if len(taught["two"].guards.numbers["rehearsals"]) == 1:
        monkeypatch.setattr(teaching, "fit_flow", _never)
    found = run_stages(KEY, STAGES, UniformPrior(SPACE), **run)
    np.testing.assert_allclose(found.posterior.mean(), taught.posterior.mean(), rtol=1e-5)


def test_rows_keep_their_places_and_get_the_weights_of_the_exact_prior():
    """Rows at which the exact density is zero weigh nothing and are not left out, so that no split changes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 2))
    log_q = -0.5 * (x**2).sum(axis=1)
    chain = Chain(x, ParameterSpace(["a", "b"]), log_prob=log_q, rows="independent")
    same = teaching._as_exact(chain, ExactDensity(("a", "b"), lambda t: 5.0 - 0.5 * (t**2).sum(axis=1), True))
    assert same.weights is None
    np.testing.assert_allclose(same.log_prob, log_q + 5.0)

    def shifted(t):  # narrower, with another mean, and cut
        return np.where(t[:, 1] < 2.0, -0.5 * ((t[:, 0] - 0.3) / 0.9) ** 2 - 0.5 * t[:, 1] ** 2, -np.inf)

    moved = teaching._as_exact(chain, ExactDensity(("a", "b"), shifted, True))
    assert moved.n == chain.n
    cut = x[:, 1] >= 2.0
    assert cut.any()
    assert (moved.weights[cut] == 0.0).all()
    assert np.isfinite(moved.log_prob).all()
    error = 0.9 / np.sqrt(moved.effective_size)
    assert moved.mean()[0] == pytest.approx(0.3, abs=4 * error)
    assert moved.mean()[1] < -0.03
    far = teaching._as_exact(chain, ExactDensity(("a", "b"), lambda t: shifted(t / [4.0, 1.0]), True))  # too wide
    np.testing.assert_allclose(far.weights, np.where(cut, 0.0, far.weights.max()))


def test_a_stage_without_a_draw_of_exact_density_keeps_its_learned_prior():
    rows = Chain(np.random.default_rng(1).normal(size=(50, 2)), SPACE, log_prob=np.zeros(50))
    given = teaching.Taught(KEY, rows, ExactDensity(SPACE.names, lambda x: np.full(len(x), -np.inf), True))
    prior = SimpleNamespace(info={"report": {"loss": 9.0}})
    assert teaching.refined(prior, given, StageOptions(), None, progress=False) is prior


def test_a_rehearsal_that_cannot_teach_or_did_not_converge_is_not_used(tmp_path):
    nothing = PriorError(np.inf, np.inf, np.inf)
    options = StageOptions()
    chain = Chain(np.random.default_rng(0).normal(size=(100, 2)), SPACE)
    assert not teaching.needs_teaching(UniformPrior(SPACE), chain, nothing, options)
    assert teaching.needs_teaching(UniformPrior(SPACE), chain, PriorError(1.0, 0.1, 0.2), options)
    density = ModelDensity(curved, UniformPrior(SPACE))
    files = StageFolder(tmp_path)
    for converged, override, used in ((False, False, False), (False, True, True), (True, False, True)):
        chain = weighted(KEY, density, n=20_000).replace(info={"converged": converged})
        write_chain(files.rehearsal(1), chain)
        files.record(files.rehearsal(1), {"taught": None})
        found = steps.rehearsed(density, files, 1, {"taught": None}, override=override)
        assert (found is not None) == used
    other = ModelDensity(far, UniformPrior(SPACE))
    with pytest.raises(ValueError, match="expected a chain of this model, prior and data"):
        steps.rehearsed(other, files, 1, {"taught": None}, override=False)


def _never(*arguments, **options):
    raise AssertionError("done again")


@pytest.mark.parametrize(("field", "value"), [("max_loss", 0.0), ("max_passes", 0), ("live", "yes"), ("live", 3)])
def test_bad_options_are_refused(field, value):
    with pytest.raises((TypeError, ValueError), match=f"StageOptions: {field}"):
        run_stages(KEY, STAGES, UniformPrior(SPACE), **{field: value})
