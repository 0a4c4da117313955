"""Stages whose data share errors: against the joint fit in closed form; what the guard says; what is refused."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal
from toys import run_stages, weighted_rows

from numpyro_flowprior import (
    FlowConfig,
    LatentReparam,
    ModelDensity,
    ParameterSpace,
    Stage,
    TrainConfig,
    UniformPrior,
    check_stage,
    load_stages,
)
from numpyro_flowprior.sampling.broad_start import BroadStart
from numpyro_flowprior.stages import findings as say
from numpyro_flowprior.stages.correlated import StageData, given_earlier_data, related
from numpyro_flowprior.stages.ignored import IgnoredCorrelation, ignored_correlation

KEY = jax.random.key(3)
QUICK = {  # a flow without couplings is the Gaussian of the chain's moments: exact here, and trained at once
    "config": FlowConfig(layers=0, base="normal"),
    "train": TrainConfig(max_steps=1, eval_every=1),
    "progress": False,
}
WIDTH = 2.0
PRIOR = dist.Normal(0.0, WIDTH).expand([2]).to_event(1)
DESIGN = {
    "x": np.array([[1.0, 0.3], [0.8, 0.1], [1.1, -0.2]]),
    "y": np.array([[-0.5, 1.0], [0.3, 1.2]]),
    "z": np.array([[0.7, 0.7]]),
}
SHARED = {"x": np.array([0.5, 0.4, 0.55]), "y": np.array([0.45, 0.6]), "z": np.array([0.5])}
DATA = {"x": np.array([0.9, 0.6, 1.2]), "y": np.array([0.9, 1.4]), "z": np.array([0.5])}
OWN = 0.4
COVARIANCE = {name: OWN**2 * np.eye(len(y)) + np.outer(SHARED[name], SHARED[name]) for name, y in DATA.items()}


def linear(prior, name):
    theta = numpyro.sample("theta", prior)
    numpyro.sample(name, dist.MultivariateNormal(DESIGN[name] @ theta, COVARIANCE[name]), obs=DATA[name])


def cross(earlier, name):
    return np.outer(SHARED[earlier], SHARED[name])


def stages(order, *, correlated=True):
    return [
        Stage(
            name,
            linear,
            (name,),
            correlated_with={earlier: cross(earlier, name) for earlier in order[:number]} if correlated else {},
        )
        for number, name in enumerate(order)
    ]


def exact_joint(order, *, links=None):
    """Mean, covariance and log evidence of all data together; `links`: correlated pairs, None for all."""
    design, y = (np.concatenate([part[name] for name in order]) for part in (DESIGN, DATA))
    noise = block_diag(*(COVARIANCE[name] for name in order))
    names = np.repeat(list(order), [len(DATA[name]) for name in order])
    for a in order:
        for b in order:
            if a != b and (links is None or {a, b} in links):
                noise[np.ix_(names == a, names == b)] = cross(a, b)
    covariance = np.linalg.inv(np.eye(2) / WIDTH**2 + design.T @ np.linalg.solve(noise, design))
    predicted = noise + WIDTH**2 * design @ design.T
    return covariance @ design.T @ np.linalg.solve(noise, y), covariance, multivariate_normal(cov=predicted).logpdf(y)


def weighted(key, density, *, n=20_000, progress=True):
    """A sampler whose draws are the prior's, weighted by the likelihood: right for any model."""
    x = density.sample_prior(key, n)
    return weighted_rows(density, x, density.log_prior(x), converged=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("correlated") / "run"


@pytest.fixture(scope="module")
def whole(folder):
    return run_stages(KEY, stages("xyz"), PRIOR, sampler=weighted, folder=folder, **QUICK)


def assert_joint(analysis, order):
    """Within four standard errors, of three chains that each pass their own sampling error on."""
    mean, covariance, log_evidence = exact_joint(order)
    chain = analysis.posterior
    error = np.sqrt(3 * np.diag(covariance) / chain.effective_size)
    np.testing.assert_array_less(np.abs(chain.mean() - mean), 4 * error)
    spread = 4 * np.sqrt(3 * 2 / chain.effective_size) * covariance.max()
    np.testing.assert_allclose(chain.covariance(), covariance, atol=spread)
    assert analysis.log_evidence == pytest.approx(log_evidence, abs=max(4 * analysis.log_evidence_error, 0.01))
    assert analysis.log_evidence_error < 0.02


def test_three_stages_that_share_errors_give_the_joint_posterior_and_evidence(whole):
    assert_joint(whole, "xyz")
    assert whole.verdict == "pass", whole
    assert [f.verdict for f in whole.guards["y"].findings if "correlation" in f.subject] == ["info"]
    assert whole.guards["y"].numbers["prior_error"]["loss"] < 0.01  # the exact density has the correlation too


def test_the_order_does_not_matter():
    assert_joint(run_stages(KEY, stages("yx"), PRIOR, sampler=weighted, **QUICK), "yx")


def test_a_run_is_read_back_and_another_cross_covariance_is_refused(whole, folder):
    again = load_stages(folder)
    assert again.to_json() == whole.to_json()
    with pytest.raises(ValueError, match="got one with other log densities"):
        run_stages(KEY, stages("xyz", correlated=False), PRIOR, sampler=weighted, folder=folder, **QUICK)


def test_ignoring_the_correlation_is_wrong_by_what_the_guard_says(whole):
    """The guard's numbers against closed forms, and against a run in which the correlation is ignored."""
    found = whole.guards["y"].numbers["ignored_correlation"]
    mean, covariance, log_evidence = exact_joint("xy")
    wrong_mean, wrong_covariance, wrong_evidence = exact_joint("xy", links=[])
    shift = (wrong_mean - mean) / np.sqrt(np.diag(covariance))
    assert np.abs(shift).max() > 0.2  # the planted correlation matters
    error = np.array(list(found["shift_error"].values()))
    np.testing.assert_array_less(np.abs(np.array(list(found["shift"].values())) - shift), 4 * error)
    assert error.max() < 0.03
    width = np.sqrt(np.diag(wrong_covariance) / np.diag(covariance))
    np.testing.assert_allclose(list(found["width"].values()), width, rtol=0.05)
    assert found["log_evidence_change"] == pytest.approx(
        wrong_evidence - log_evidence, abs=4 * found["log_evidence_change_error"] + 0.01
    )
    ignoring = run_stages(KEY, stages("xy", correlated=False), PRIOR, sampler=weighted, **QUICK)
    before = whole.chains["y"]
    moved = (ignoring.posterior.mean() - before.mean()) / np.sqrt(np.diag(before.covariance()))
    np.testing.assert_allclose(list(found["shift"].values()), moved, atol=4 * np.sqrt(2 / before.effective_size) + 0.02)
    (finding,) = (f for f in whole.guards["y"].findings if "correlation" in f.subject)
    largest = max(found["shift"], key=lambda name: abs(found["shift"][name]))
    assert f"largest shift {largest}, {found['shift'][largest]:+.2f}" in finding.text
    assert not [f for f in ignoring.guards["y"].findings if "correlation" in f.subject]
    assert ignoring.guards["y"].numbers["ignored_correlation"] is None


def conditional_density(order, declared, prior=PRIOR, models=None):
    """The density of the last stage, without running any: all stages have the same prior."""
    made = [
        Stage(name, (models or {}).get(name, linear), (name,), correlated_with=declared.get(name, {})) for name in order
    ]
    data = [StageData(stage, ModelDensity(stage.model, prior, *stage.args)) for stage in made]
    given = given_earlier_data(data[-1], data[:-1], made)
    return ModelDensity(given.model, prior, order[-1]), data[-1].density


BOX = UniformPrior(ParameterSpace(["theta[0]", "theta[1]"], -5.0, 5.0))  # has named parameters, as a learned prior


def expected_log_likelihood(order, declared, x):
    """log p(all) - log p(all but the last) at points, in SciPy."""
    values = []
    for theta in x:
        parts = []
        for which in (order, order[:-1]):
            blocks = {(name, name): COVARIANCE[name] for name in which}
            blocks |= {(earlier, name): c for name, crosses in declared.items() for earlier, c in crosses.items()}
            blocks |= {pair[::-1]: c.T for pair, c in blocks.items()}
            zero = {(a, b): np.zeros((len(DATA[a]), len(DATA[b]))) for a in which for b in which}
            noise = np.block([[{**zero, **blocks}[a, b] for b in which] for a in which])
            mean, y = (np.concatenate(each) for each in ([DESIGN[n] @ theta for n in which], [DATA[n] for n in which]))
            parts.append(multivariate_normal(mean, noise).logpdf(y))
        values.append(parts[0] - parts[1])
    return np.array(values)


XY = {"y": {"x": cross("x", "y")}}


@pytest.mark.parametrize(
    "declared",
    [
        {**XY, "z": {"x": cross("x", "z"), "y": cross("y", "z")}},
        {**XY, "z": {"y": 0.5 * cross("y", "z")}},  # given y, z depends on x too
        {"z": {"x": cross("x", "z")}},  # and y is left out
        {"z": {"x": 0.5 * cross("x", "z"), "y": 0.5 * cross("y", "z")}},
    ],
    ids=["all", "a chain", "one", "two that are independent"],
)
def test_the_likelihood_of_a_third_stage_is_the_joint_minus_the_marginal(declared):
    density, _ = conditional_density("xyz", declared, BOX)
    x = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(
        density.log_likelihood(x), expected_log_likelihood("xyz", declared, x), rtol=1e-9, atol=1e-9
    )


def test_the_correlation_is_there_in_every_way_a_sampler_sees_a_stage(whole):
    """In the parameters, in latent coordinates, and through a broad start."""
    prior = whole.priors["x"]
    density, plain = conditional_density("xy", XY, prior)
    x = np.random.default_rng(0).normal(0.5, 0.5, size=(5, 2))
    expected = expected_log_likelihood("xy", XY, x)
    np.testing.assert_allclose(density.log_likelihood(x), expected, rtol=1e-9, atol=1e-9)
    assert np.abs(plain.log_likelihood(x) - expected).max() > 0.1
    latent = density.reparametrised({"theta": LatentReparam()})
    omega = latent.sample_prior(jax.random.key(1), 5)
    theta = latent.deterministics(omega)["theta"]
    np.testing.assert_allclose(latent.log_likelihood(omega), expected_log_likelihood("xy", XY, theta), rtol=1e-6)
    broad = density.reparametrised({"theta": BroadStart()})
    ratio = broad.log_posterior(x) - density.log_posterior(x)
    np.testing.assert_allclose(ratio, 0.0, atol=1e-6)


def plated(prior, name):
    theta = numpyro.sample("theta", prior)
    with numpyro.plate("data", len(DATA[name])):
        numpyro.sample(name, dist.Normal(jnp.asarray(DESIGN[name]) @ theta, 1.0), obs=DATA[name])


def single(prior, name):
    theta = numpyro.sample("theta", prior)
    numpyro.sample(name, dist.Normal((DESIGN[name] @ theta)[0], 1.0), obs=DATA[name][0])


@pytest.mark.parametrize("models", [("x", plated, "y", single), ("y", single, "x", plated)])
def test_normal_data_in_a_plate_and_single_numbers_are_vectors(models):
    first, first_model, second, second_model = models
    n, m = (1 if model is single else len(DATA[name]) for name, model in ((first, first_model), (second, second_model)))
    c = np.full((n, m), 0.3)
    density, _ = conditional_density(
        (first, second), {second: {first: c}}, BOX, {first: first_model, second: second_model}
    )
    x = np.random.default_rng(0).normal(size=(4, 2))
    joint = np.block([[np.eye(n), c], [c.T, np.eye(m)]])
    for theta, found in zip(x, density.log_likelihood(x), strict=True):
        y = np.append(DATA[first][:n], DATA[second][:m])
        mean = np.append((DESIGN[first] @ theta)[:n], (DESIGN[second] @ theta)[:m])
        expected = multivariate_normal(mean, joint).logpdf(y) - multivariate_normal(mean[:n], np.eye(n)).logpdf(y[:n])
        assert found == pytest.approx(expected, abs=1e-9)


def with_scale(prior, name):
    """A stage with a parameter of its own in mean and covariance, which is handed on."""
    theta, size = numpyro.sample("theta", prior), numpyro.sample("size", dist.LogNormal(0.0, 0.2))
    numpyro.sample(name, dist.MultivariateNormal(DESIGN[name] @ theta, size * COVARIANCE[name]), obs=DATA[name])


def test_a_parameter_that_an_earlier_stage_adds_is_known_to_the_later_one():
    """Its covariance then depends on that parameter; the prior of the later stage has it first."""
    names, c = ("size", "theta[0]", "theta[1]"), 0.3 * cross("x", "y")
    prior = UniformPrior(ParameterSpace(list(names), [0.5, -5.0, -5.0], [2.0, 5.0, 5.0]))

    def second(prior, name):
        linear_at(prior.space.as_dict(numpyro.sample("all", prior)), name)

    def linear_at(theta, name):
        mean = DESIGN[name] @ jnp.stack([theta["theta[0]"], theta["theta[1]"]])
        numpyro.sample(name, dist.MultivariateNormal(mean, COVARIANCE[name]), obs=DATA[name])

    made = [Stage("x", with_scale, ("x",)), Stage("y", second, ("y",), correlated_with={"x": c})]
    data = [
        StageData(stage, ModelDensity(stage.model, p, *stage.args))
        for stage, p in zip(made, (PRIOR, prior), strict=True)
    ]
    assert data[0].density.names == ("theta[0]", "theta[1]", "size")
    density = ModelDensity(given_earlier_data(data[1], data[:1], made).model, prior, "y")
    for theta in np.array([[0.7, 0.3, -0.2], [1.6, 1.0, 0.4]]):
        means, own = [DESIGN[name] @ theta[1:] for name in "xy"], theta[0] * COVARIANCE["x"]
        joint = multivariate_normal(np.concatenate(means), np.block([[own, c], [c.T, COVARIANCE["y"]]]))
        expected = joint.logpdf(np.append(DATA["x"], DATA["y"])) - multivariate_normal(means[0], own).logpdf(DATA["x"])
        assert density.log_likelihood(theta[None])[0] == pytest.approx(expected, abs=1e-9)


def test_a_cross_covariance_of_zero_changes_nothing():
    density, plain = conditional_density("xy", {"y": {"x": np.zeros((3, 2))}}, BOX)
    x = density.sample_prior(KEY, 2000)
    chain = weighted_rows(density, x, density.log_prior(x))
    found = ignored_correlation(chain, plain)
    assert found.same
    assert max(map(abs, found.shift.values())) < 1e-12
    assert list(found.width.values()) == pytest.approx([1.0, 1.0])
    (finding,) = say.of_ignored(found)
    assert (finding.verdict, finding.text) == ("info", "no change: the correlation has no effect")
    assert say.of_ignored(None) == ()


def test_a_correlation_that_changes_too_much_is_said_to_matter():
    shift = {"a": 3.0}
    (finding,) = say.of_ignored(IgnoredCorrelation(shift, shift, shift, 2.0, 0.1, 1.3))
    assert finding.verdict == "info"
    assert "too different to be estimated from these draws (Pareto k of the weights 1.30)" in finding.text


def test_check_stage_says_it_for_a_stage_of_your_own(whole, monkeypatch):
    monkeypatch.setattr("numpyro_flowprior.stages.guards.power_sensitivity", lambda chain: None)
    prior = whole.priors["x"]
    density, plain = conditional_density("xy", XY, prior)
    guards = check_stage(KEY, density, prior, whole.chains["y"], whole.chains["x"], uncorrelated=plain)
    assert guards.numbers["ignored_correlation"]["shift"] == whole.guards["y"].numbers["ignored_correlation"]["shift"]
    assert json.loads(json.dumps(guards.to_json(), allow_nan=False)) == guards.to_json()


def test_stages_are_related_through_each_other():
    def stage(name, *others):
        return Stage(name, linear, correlated_with={other: np.zeros((1, 1)) for other in others})

    chain = [stage("a"), stage("b", "a"), stage("c"), stage("d", "b"), stage("e", "a"), stage("f", "c")]
    assert [related(each, chain) for each in chain] == [
        (),
        ("a",),
        (),
        ("a", "b"),
        ("a", "b", "d"),
        ("c",),
    ]


def poisson(prior, name):
    theta = numpyro.sample("theta", prior)
    numpyro.sample(name, dist.Poisson(jnp.exp(theta[0])), obs=3)


def two_sites(prior, name):
    linear(prior, name)
    numpyro.sample("again", dist.Normal(0.0, 1.0), obs=0.1)


def refused_run(first=linear, second=linear, *, c=None, keep=None, named="x"):
    run = [
        Stage("x", first, ("x",), keep=keep),
        Stage("y", second, ("y",), correlated_with={named: cross("x", "y") if c is None else c}),
    ]
    return run_stages(KEY, run, PRIOR, sampler=weighted, sampler_options={"n": 2000}, **QUICK)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"named": "z"}, r"'y': correlated_with: expected names of earlier stages \('x'\); got 'z'. Declare a corr"),
        ({"named": "y"}, r"expected names of earlier stages \('x'\); got 'y'"),
        (
            {"c": np.zeros((2, 3))},
            r"correlated_with\['x'\]: expected one row for each of the 3 values of stage 'x'",
        ),
        ({"c": np.zeros(3)}, r"correlated_with\['x'\]: expected shape \(any, any\); got \(3,\)"),
        ({"c": np.full((3, 2), np.nan)}, r"correlated_with\['x'\]: expected finite numbers"),
        (
            {"keep": ["theta[0]"]},
            r"'x': keep: expected all parameters of stage 'x', because stage 'y' .*'theta\[1\]'",
        ),
        ({"first": poisson}, r"'x': correlated_with: expected models with one observed site, .*got 'x \(Poisson"),
        ({"first": two_sites}, "'x': correlated_with: expected models with one observed site, .*'again "),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sampled(given, words, monkeypatch):
    monkeypatch.setitem(globals(), "weighted_rows", None)  # which the sampler calls
    with pytest.raises(ValueError, match=words):
        refused_run(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"c": np.zeros((3, 4))},
            r"'y': correlated_with: joint_normal: .*'x' \(rows\) with 'y' .* expected shape",
        ),
        (
            {"c": 3.0 * cross("x", "y")},
            "'y': correlated_with: joint_normal: expected a positive definite joint",
        ),
        ({"second": poisson}, "'y': correlated_with: expected models with one observed site"),
        ({"second": two_sites}, "'y': correlated_with: expected models with one observed site"),
    ],
)
def test_what_a_later_stage_cannot_be_is_refused_before_it_is_sampled(given, words):
    with pytest.raises(ValueError, match=words):
        refused_run(**given)


def sometimes_narrow(prior, name):
    theta = numpyro.sample("theta", prior)
    size = jnp.where(theta[0] > 4.0, 0.2, 1.0)  # one prior draw in ten
    numpyro.sample(name, dist.MultivariateNormal(DESIGN[name] @ theta, size * COVARIANCE[name]), obs=DATA[name])


def test_a_joint_covariance_that_is_not_positive_definite_somewhere_is_refused():
    with pytest.raises(ValueError, match=r"positive definite joint covariance with 'x'; it is not at \d+ of 64"):
        conditional_density("xy", XY, BOX, {"y": sometimes_narrow})


def test_correlations_are_a_mapping():
    with pytest.raises(TypeError, match="correlated_with: expected a mapping"):
        Stage("y", linear, correlated_with=np.zeros((3, 2)))
