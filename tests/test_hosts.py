"""A prior file in bilby, Cobaya, PyMC, PyTorch and Stan: the density of NumpyPrior to 1e-10, its draws, no JAX.

`make hosts` installs them and runs everything here. Tests of a host that is not installed are skipped.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy.special import logsumexp, ndtri
from scipy.stats import ks_2samp, multivariate_normal, norm
from test_numpy_prior import TABLE
from toys import make_prior

from numpyro_flowprior import FlowConfig, FlowPrior, NumpyPrior, ParameterSpace, load_numpy
from numpyro_flowprior.cli import main
from numpyro_flowprior.flows.layout import coupling_masks
from numpyro_flowprior.hosts.export import HOSTS, export_prior
from numpyro_flowprior.hosts.gradient import log_prob_gradient
from numpyro_flowprior.hosts.opened import argument_names, opened
from numpyro_flowprior.hosts.stan import StanMixture, fit_mixture, stan_code

pytestmark = pytest.mark.filterwarnings("ignore")  # the hosts give many, of their own
INF = np.inf
ROOT = Path(__file__).parent.parent
MIXED = [(0.0, 1.0), (2.0, INF), (-INF, 7.0), (-INF, INF)]
PAIR = [(0.0, 1.0), (-1.0, INF)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A file of a prior with every kind of support."""
    config = FlowConfig(layers=2, hidden=(8,), members=2, background=True)
    return make_prior(MIXED, config).save(tmp_path_factory.mktemp("mixed") / "prior.safetensors")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """A file of a prior over two parameters."""
    config = FlowConfig(layers=2, hidden=(8,), base="normal")
    return make_prior(PAIR, config, strength=0.1).save(tmp_path_factory.mktemp("pair") / "prior.safetensors")


Y, ERROR = 0.9, 0.25  # a measurement of a function of the pair


def log_likelihood(theta):
    return norm.logpdf(Y, measured(theta[..., 0], theta[..., 1]), ERROR)


def measured(a, b):
    return a + 0.3 * b


def exact(path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns mean (2,), standard deviation (2,) and log evidence of the posterior, from weighted draws of the prior.

    With 200,000 draws the errors are below 1% of the posterior's width and 0.01 nats.
    """
    draws = load_numpy(path).sample(5, 200_000)
    log_weights = log_likelihood(draws)
    weights = np.exp(log_weights - logsumexp(log_weights))
    mean = weights @ draws
    return mean, np.sqrt(weights @ (draws - mean) ** 2), float(logsumexp(log_weights) - np.log(len(draws)))


def same_draws(found: np.ndarray, path: Path) -> None:
    """By Kolmogorov-Smirnov in each parameter; the false-alarm rate is 1e-6."""
    expected = load_numpy(path).sample(11, 20_000)
    assert found.shape[1:] == expected.shape[1:]
    assert min(ks_2samp(*columns).pvalue for columns in zip(found.T, expected.T, strict=True)) > 1e-6 / found.shape[1]


def points(path: Path, n: int = 50) -> np.ndarray:
    return load_numpy(path).sample(3, n)


# the gradient


QUICK = ("1-D half line", "2-D mixed", "2-D full mixture", "roch_shen", "wide spline", "narrow box far from zero")
ROWS = [pytest.param(row, id=row[0], marks=[] if row[0] in QUICK else [pytest.mark.slow]) for row in TABLE]


@pytest.mark.parametrize("row", ROWS)
def test_gradient_is_that_of_jax(row, tmp_path):
    """Relative to its largest component at a point, and to 1e-10 of the median point: ill-conditioned points differ by
    the rounding of the point."""
    prior = make_prior(row[1], row[2])
    plain = load_numpy(prior.save(tmp_path / "p.safetensors"))
    theta = plain.sample(0, 40)
    with jax.enable_x64(True):
        expected = np.asarray(jax.jit(jax.vmap(jax.grad(prior.log_prob)))(theta))
    found = log_prob_gradient(plain, theta.reshape(2, 20, -1)).reshape(theta.shape)
    error = np.abs(found - expected).max(axis=1) / (1.0 + np.abs(expected).max(axis=1))
    assert error.max() < 1e-8
    assert np.median(error) < 1e-11


def test_gradient_outside_is_zero_and_bad_points_are_refused(mixed):
    plain = load_numpy(mixed)
    theta = points(mixed, 3)
    theta[0, 0], theta[1, 1] = -1.0, np.nan
    found = log_prob_gradient(plain, theta)
    assert (found[:2] == 0).all()
    assert (found[2] != 0).all()
    with pytest.raises(ValueError, match=r"last axis of 4 values for p0, p1, p2, p3; got shape \(3,\)"):
        log_prob_gradient(plain, np.zeros(3))


# what hosts share


def test_priors_and_names_are_checked(mixed):
    plain = load_numpy(mixed)
    assert opened(plain, "x") is plain
    with pytest.raises(TypeError, match="expected the path of a prior file, or a NumpyPrior; got FlowPrior. Save"):
        opened(FlowPrior.load(mixed), "x")
    assert argument_names(plain, None, "x") == plain.names
    with pytest.raises(ValueError, match="x: names: expected 4, one for each of 'p0', 'p1', 'p2', 'p3'; got 1"):
        argument_names(plain, ["a"], "x")
    with pytest.raises(ValueError, match=r"names of Python arguments .* got 'a b', 'lambda'. Pass names="):
        argument_names(plain, ["a b", "lambda", "c", "d"], "x")
    with pytest.raises(ValueError, match="unique"):
        argument_names(plain, ["a", "a", "c", "d"], "x")


USES = {
    "bilby": "from numpyro_flowprior.hosts.bilby import bilby_priors\nbilby_priors(path).sample()",
    "cobaya": "from numpyro_flowprior.hosts.cobaya import log_prior\nlog_prior(path)(p0=0.5, p1=3.0, p2=0.0, p3=0.0)",
    "pymc": "import pymc\nfrom numpyro_flowprior.hosts.pymc import pymc_prior\n"
    "with pymc.Model() as model:\n    pymc_prior('theta', path)\n"
    "model.compile_dlogp()(model.initial_point())",
    "torch": "from numpyro_flowprior.hosts.torch import TorchFlowPrior\n"
    "prior = TorchFlowPrior(path)\nprior.log_prob(prior.sample((3,)).requires_grad_(True)).sum().backward()",
    "sklearn": "from numpyro_flowprior.hosts.stan import stan_code\nstan_code(path, n=200, max_components=1)",
}


@pytest.mark.parametrize("host", USES)
def test_jax_is_not_imported(host, mixed):
    pytest.importorskip(host)
    check = "assert not {'jax', 'distrax', 'numpyro'} & set(sys.modules)"
    code = f"import sys\npath = {str(mixed)!r}\n{USES[host]}\n{check}"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300)


@pytest.mark.parametrize("host", ["bilby", "cobaya", "pymc", "torch"])
def test_without_the_host_the_message_names_the_extra(host):
    code = f"import sys\nsys.modules[{host!r}] = None\nimport numpyro_flowprior.hosts.{host}"
    found = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert found.returncode != 0
    message = f"ImportError: numpyro_flowprior.hosts.{host} needs {host}, which is not installed. "
    assert message + f"Install it with: pip install 'numpyro-flowprior[{host}]'" in found.stderr


# bilby


@pytest.fixture(scope="module")
def bilby():
    bilby = pytest.importorskip("bilby")
    pytest.importorskip("setuptools")  # bilby's runs import pip, and then PyTensor can no longer import setuptools
    bilby.core.utils.logger.setLevel("ERROR")
    return bilby


def test_bilby_has_the_density_and_the_draws(bilby, mixed):
    from numpyro_flowprior.hosts.bilby import bilby_priors

    plain, priors, theta = load_numpy(mixed), bilby_priors(mixed), points(mixed)
    columns = dict(zip(plain.names, theta.T, strict=True))
    np.testing.assert_allclose(priors.ln_prob(columns, axis=0), plain.log_prob(theta), atol=1e-10)
    assert priors.ln_prob(dict(zip(plain.names, theta[0].tolist(), strict=True))) == pytest.approx(
        plain.log_prob(theta[0]), abs=1e-10
    )
    assert priors.ln_prob({"p0": -0.1, "p1": 3.0, "p2": 0.0, "p3": 0.0}) == -INF
    assert (priors["p1"].minimum, priors["p1"].maximum, priors["p0"].latex_label) == (2.0, INF, "p0")
    bilby.core.utils.random.seed(1)
    draws = priors.sample(5_000)
    same_draws(np.stack([draws[name] for name in plain.names], axis=1), mixed)
    with pytest.raises(FileNotFoundError):
        bilby_priors("nothing.safetensors")


def test_bilby_maps_the_unit_cube_in_any_order_of_the_entries(bilby, mixed):
    from numpyro_flowprior.hosts.bilby import bilby_priors

    plain, priors = load_numpy(mixed), bilby_priors(mixed)
    u = np.random.default_rng(0).uniform(size=4)
    expected = plain.from_unit_cube(u[None])[0]
    np.testing.assert_allclose(np.array(priors.rescale(plain.names, u), float), expected)
    turned = bilby.core.prior.ConditionalPriorDict({name: priors[name] for name in plain.names[::-1]})
    turned["x"] = bilby.core.prior.Uniform(0.0, 2.0, "x")
    found = turned.rescale(["p2", "x", "p0", "p1", "p3"], [u[2], 0.5, u[0], u[1], u[3]])
    np.testing.assert_allclose(np.array(found, float), [expected[2], 1.0, expected[0], expected[1], expected[3]])
    corner = priors.rescale(plain.names, np.array([0.0, 1.0, 0.5, 0.5]))  # samplers may ask for a face
    assert np.isfinite(np.array(corner, float)).all()


@pytest.mark.slow
def test_bilby_with_dynesty_gives_the_posterior_and_the_evidence(bilby, pair, tmp_path):
    """Within four standard errors: of the evidence as reported, of the means from a quarter of the rows."""
    from numpyro_flowprior.hosts.bilby import bilby_priors

    class Likelihood(bilby.Likelihood):
        def log_likelihood(self, parameters=None):
            return float(log_likelihood(np.array([parameters["p0"], parameters["p1"]], dtype=float)))

    bilby.core.utils.random.seed(3)
    options = {"nlive": 300, "sample": "unif", "bound": "live", "resume": False, "check_point_plot": False}
    bilby.run_sampler(
        Likelihood(), bilby_priors(pair), sampler="dynesty", outdir=str(tmp_path), label="run", verbose=False, **options
    )
    result = bilby.read_in_result(str(tmp_path / "run_result.json"))
    mean, width, log_evidence = exact(pair)
    rows = result.posterior[["p0", "p1"]].values
    print("bilby", result.log_evidence, result.log_evidence_err, log_evidence, rows.mean(axis=0), mean, len(rows))
    assert abs(result.log_evidence - log_evidence) < 4.0 * result.log_evidence_err
    assert (np.abs(rows.mean(axis=0) - mean) < 4.0 * width / np.sqrt(len(rows) / 4)).all()
    assert list(result.priors) == ["p0", "p1"]


def test_bilby_keeps_the_prior_in_its_own_files(bilby, mixed, tmp_path):
    from numpyro_flowprior.hosts.bilby import bilby_priors

    bilby_priors(mixed).to_json(str(tmp_path), "run")
    priors = bilby.core.prior.PriorDict.from_json(str(tmp_path / "run_prior.json"))
    theta, plain = points(mixed, 1)[0], load_numpy(mixed)
    found = priors.ln_prob(dict(zip(plain.names, theta.tolist(), strict=True)))
    assert found == pytest.approx(plain.log_prob(theta), abs=1e-10)


# Cobaya


@pytest.fixture(scope="module")
def cobaya():
    pytest.importorskip("cobaya")
    from cobaya.model import get_model
    from cobaya.run import run
    from cobaya.yaml import yaml_dump, yaml_load

    return SimpleNamespace(run=run, get_model=get_model, yaml_load=yaml_load, yaml_dump=yaml_dump)


def test_the_total_prior_of_cobaya_is_the_flow(cobaya, mixed):
    from numpyro_flowprior.hosts.cobaya import cobaya_info, log_prior

    plain, theta = load_numpy(mixed), points(mixed)
    for source, names in ((mixed, None), (plain, None), (mixed, ["a", "b", "c", "d"])):
        info = cobaya_info(source, names=names)
        model = cobaya.get_model({**info, "likelihood": {"one": None}, "stop_at_error": True})
        known = plain.names if names is None else names
        assert list(info["params"]) == list(known)
        found = [model.logprior(dict(zip(known, point, strict=True))) for point in theta]
        np.testing.assert_allclose(found, plain.log_prob(theta), atol=1e-10)
    flow = log_prior(plain)
    assert flow(p0=0.5, p1=1.0, p2=0.0, p3=0.0) == -INF
    with pytest.raises(TypeError, match="expected values of p0, p1, p2, p3; got none of p3"):
        flow(p0=0.5, p1=3.0, p2=0.0)


YAML_PRIOR = """
params:
  p0: {prior: {min: 0, max: 1}, ref: 0.5, proposal: 0.1}
  p1: {prior: {min: -1, max: 4}, ref: 1, proposal: 0.4}
likelihood:
  one: null
  numpyro_flowprior.hosts.cobaya.FlowLikelihood: {path: PATH}
sampler: {evaluate: null}
"""


def test_cobaya_has_the_flow_as_a_likelihood(cobaya, pair):
    info = cobaya.yaml_load(YAML_PRIOR.replace("PATH", str(pair)))
    _, sampler = cobaya.run(info)
    row = sampler.products()["sample"].data.iloc[0]
    name = next(column for column in row.index if column.startswith("chi2__") and "Flow" in column)
    expected = load_numpy(pair).log_prob([row["p0"], row["p1"]])
    assert -0.5 * row[name] == pytest.approx(expected, abs=1e-10)


def test_the_likelihood_of_cobaya_needs_a_path_and_takes_names(cobaya, pair):
    from numpyro_flowprior.hosts.cobaya import FlowLikelihood

    with pytest.raises(ValueError, match="FlowLikelihood: path: expected the path of a prior file; got none"):
        FlowLikelihood()
    likelihood = FlowLikelihood({"path": str(pair), "names": ["a", "b"]})
    assert likelihood.get_requirements() == {"a": None, "b": None}


def test_cobaya_samples_from_yaml(cobaya, pair, tmp_path):
    """`cobaya_info` is YAML with a short chain; means within 0.35 widths, five errors of 200 independent draws."""
    from numpyro_flowprior.hosts.cobaya import cobaya_info

    text = cobaya.yaml_dump(cobaya_info(pair))
    text += f"""
likelihood:
  data: "lambda p0, p1: stats.norm.logpdf({Y}, p0 + 0.3 * p1, {ERROR})"
sampler:
  mcmc: {{max_samples: 3000, Rminus1_stop: 0.0001, seed: 1}}
"""
    _, sampler = cobaya.run(cobaya.yaml_load(text))
    chain = sampler.products(skip_samples=0.2)["sample"]
    rows, weights = chain.data[["p0", "p1"]].values, chain.data["weight"].values
    mean, width, _ = exact(pair)
    print("cobaya", np.average(rows, axis=0, weights=weights), mean, width, len(rows))
    assert (np.abs(np.average(rows, axis=0, weights=weights) - mean) < 0.35 * width).all()


# PyMC


@pytest.fixture(scope="module")
def pymc():
    return pytest.importorskip("pymc")


def test_pymc_has_the_density_the_gradient_and_the_draws(pymc, mixed):
    import pytensor.tensor as pt

    from numpyro_flowprior.hosts.pymc import LogDensity, LogDensityGradient, Unconstrained, pymc_prior

    plain = load_numpy(mixed)
    with pymc.Model() as model:
        theta = pymc_prior("theta", mixed)
    (name,) = model.initial_point()
    transform = model.rvs_to_transforms[theta]
    x = np.random.default_rng(0).normal(size=(30, 4))
    at = transform.backward(pt.as_tensor(x)).eval()
    assert isinstance(transform, Unconstrained)
    assert plain.space.contains(at).all()
    density, whole = model.compile_logp(jacobian=False), model.compile_logp()
    np.testing.assert_allclose([density({name: row}) for row in x], plain.log_prob(at), atol=1e-10)
    np.testing.assert_allclose(transform.forward(pt.as_tensor(at)).eval(), x, atol=1e-5)  # PyTensor's erfcinv

    gradient, step = model.compile_dlogp(), 1e-6
    for row in x[:5]:
        differences = [(whole({name: row + e}) - whole({name: row - e})) / (2 * step) for e in step * np.eye(4)]
        np.testing.assert_allclose(gradient({name: row}), differences, rtol=1e-5, atol=1e-5)

    def moved(row, e):
        return (transform.backward(pt.as_tensor(row + e)) - transform.backward(pt.as_tensor(row - e))).eval()

    jacobians = [np.stack([moved(row, e) for e in step * np.eye(4)]) / (2 * step) for row in x[:3]]
    _, log_det = np.linalg.slogdet(jacobians)
    np.testing.assert_allclose(transform.log_jac_det(pt.as_tensor(x[:3])).eval(), log_det, atol=1e-5)

    same_draws(pymc.draw(theta, 2_000, random_seed=1), mixed)
    with model:
        sampled = pymc.sample_prior_predictive(7, random_seed=1).prior["theta"]
    assert sampled.shape == (1, 7, 4)
    assert list(sampled.theta_dim.values) == list(plain.names)
    batch = pt.as_tensor(at.reshape(2, 15, 4))
    assert LogDensity(plain)(batch).eval().shape == (2, 15)
    np.testing.assert_array_equal(LogDensityGradient(plain)(pt.as_tensor(at)).eval(), log_prob_gradient(plain, at))
    with pytest.raises(TypeError, match="expected the path"), pymc.Model():
        pymc_prior("theta", 3)


@pytest.mark.slow
def test_nuts_of_pymc_gives_the_exact_posterior(pymc, pair):
    """Means and widths of two parameters within five Monte Carlo errors of the weighted prior: 1e-6 each."""
    import arviz

    from numpyro_flowprior.hosts.pymc import pymc_prior

    with pymc.Model():
        theta = pymc_prior("theta", pair)
        pymc.Normal("y", measured(theta[0], theta[1]), ERROR, observed=Y)
        trace = pymc.sample(1_000, tune=500, chains=2, cores=1, random_seed=4, progressbar=False)
    mean, width, _ = exact(pair)
    size = arviz.ess(trace)["theta"].values
    found = trace.posterior["theta"].values.reshape(-1, 2)
    diverging = int(trace.sample_stats.diverging.sum())
    print("pymc", found.mean(axis=0), mean, found.std(axis=0), width, size, diverging)
    assert (np.abs(found.mean(axis=0) - mean) < 5.0 * width / np.sqrt(size)).all()
    assert (np.abs(found.std(axis=0) / width - 1.0) < 5.0 / np.sqrt(size)).all()
    assert diverging < 20


# PyTorch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def test_torch_has_the_density_the_gradient_and_the_draws(torch, mixed):
    from numpyro_flowprior.hosts.torch import TorchFlowPrior

    plain, prior = load_numpy(mixed), TorchFlowPrior(mixed, dtype=torch.float64)
    assert (prior.event_shape, prior.batch_shape) == ((4,), ())
    torch.manual_seed(0)
    theta = prior.sample((5, 6))
    torch.manual_seed(0)
    assert (prior.sample((5, 6)) == theta).all()
    assert (prior.sample((5, 6)) != theta).any()
    assert (prior.sample().shape, prior.sample((0,)).shape) == ((4,), (0, 4))
    log_prob = prior.log_prob(theta)
    assert log_prob.shape == (5, 6)
    np.testing.assert_allclose(log_prob.numpy(), plain.log_prob(theta.numpy()), atol=1e-10)
    assert prior.log_prob(theta[0, 0]).shape == ()
    assert prior.support.check(theta).all()
    assert not prior.support.check(torch.tensor([2.0, 3.0, 0.0, 0.0]))
    assert prior.log_prob(torch.tensor([2.0, 3.0, 0.0, 0.0])) == -INF
    variable = theta.clone().requires_grad_(True)
    (2.0 * prior.log_prob(variable)).sum().backward()
    np.testing.assert_allclose(variable.grad.numpy(), 2.0 * log_prob_gradient(plain, theta.numpy()), rtol=1e-12)
    same_draws(prior.sample((5_000,)).numpy(), mixed)
    bijector = torch.distributions.biject_to(prior.support)  # what sbi uses
    np.testing.assert_allclose(bijector(bijector.inv(theta)).numpy(), theta.numpy(), rtol=1e-9)


def test_torch_in_single_precision_stays_inside(torch, tmp_path):
    """A density that touches its bounds, where half the draws in float32 would be rounded to one."""
    from numpyro_flowprior.hosts.torch import TorchFlowPrior

    path = make_prior([(1e6, 1e6 + 0.3)], FlowConfig(layers=0, base="normal")).save(tmp_path / "p.safetensors")
    prior = TorchFlowPrior(path)
    draws = prior.sample((1000,))
    assert draws.dtype == torch.float32
    assert ((draws.double() > 1e6) & (draws.double() < 1e6 + 0.3)).all()
    assert torch.isfinite(prior.log_prob(draws)).all()


def test_torch_refuses(torch, mixed):
    from numpyro_flowprior.hosts.torch import TorchFlowPrior

    prior = TorchFlowPrior(mixed, validate_args=True)
    with pytest.raises(TypeError, match="value: expected a tensor; got ndarray"):
        prior.log_prob(np.zeros(4))
    with pytest.raises(ValueError, match="support"):
        prior.log_prob(torch.tensor([2.0, 3.0, 0.0, 0.0]))
    assert prior.expand(()) is prior
    with pytest.raises(NotImplementedError, match=r"expected an empty batch shape; got \(3,\)"):
        prior.expand((3,))


# Stan


@pytest.fixture(scope="module")
def mixture(mixed) -> StanMixture:
    pytest.importorskip("sklearn")
    return fit_mixture(mixed, n=2_000, max_components=4)


def stan_numbers(code: str, name: str) -> np.ndarray:
    """Returns the array that a Stan program declares under a name, as (...)."""
    (text,) = re.findall(rf"\b{name} = (.*?);", code.split("transformed data")[0], re.DOTALL)
    text = text.replace("'", "").replace("{", "[").replace("}", "]")
    text = text.replace("negative_infinity()", "-1e999").replace("positive_infinity()", "1e999")
    return np.array(ast.literal_eval(text))


def test_the_numbers_in_the_stan_code_are_the_mixture(mixture, mixed):
    """They are read back and evaluated with SciPy, with the supports written out."""
    code = mixture.code()
    lower, upper, scale = (stan_numbers(code, name) for name in ("low", "high", "scale"))
    weights = np.exp(stan_numbers(code, "log_weights"))
    means, trils = stan_numbers(code, "means"), stan_numbers(code, "trils")
    np.testing.assert_array_equal(np.stack([lower, upper], axis=1), MIXED)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    theta = points(mixed)
    width = upper[0] - lower[0]
    a, b, c = (theta[:, 0] - lower[0]) / width, (theta[:, 1] - lower[1]) / scale[1], (upper[2] - theta[:, 2]) / scale[2]
    z = np.stack([ndtri(a), ndtri(b / (1 + b)), -ndtri(c / (1 + c)), theta[:, 3]], axis=1)
    slopes = [np.full(len(a), 1 / width), 1 / (scale[1] * (1 + b) ** 2), 1 / (scale[2] * (1 + c) ** 2)]
    log_det = sum(np.log(slope) - norm.logpdf(z[:, j]) for j, slope in enumerate(slopes))
    density = sum(w * multivariate_normal(m, t @ t.T).pdf(z) for w, m, t in zip(weights, means, trils, strict=True))
    np.testing.assert_allclose(mixture.log_prob(theta), np.log(density) + log_det, atol=1e-7)  # ndtri near one
    assert mixture.log_prob([[2.0, 3.0, 0.0, 0.0]]) == -INF


def test_the_loss_of_the_mixture_is_told(mixture, mixed):
    """Again from other draws: it agrees within five standard errors. An exact mixture loses nothing."""
    plain = load_numpy(mixed)
    draws = plain.sample(17, 20_000)
    ratio = plain.log_prob(draws) - mixture.log_prob(draws)
    error = np.hypot(mixture.loss_error, ratio.std() / np.sqrt(len(ratio)))
    assert abs(mixture.loss - ratio.mean()) < 5.0 * error
    assert f"KL from the flow to them: {mixture.loss:.4f} +- {mixture.loss_error:.4f} nats" in mixture.code()
    assert f"{mixture.loss:.4f} +- {mixture.loss_error:.4f} nats" in str(mixture)


def test_a_gaussian_prior_loses_nothing(tmp_path):
    pytest.importorskip("sklearn")
    path = make_prior([(-INF, INF), (0.0, 1.0)], FlowConfig(layers=0, base="normal")).save(tmp_path / "p.safetensors")
    found = fit_mixture(path, n=5_000)
    assert len(found.weights) == 1
    assert 0.0 <= found.loss < 0.005  # 5 parameters of 5,000 draws: 0.0005 on average
    assert "int K = 1;" in stan_code(path, n=500, max_components=1)


# flowprior export


@pytest.mark.parametrize("host", HOSTS)
def test_export_writes_a_program_and_replaces_none(host, pair, tmp_path, capsys):
    if host == "stan":
        pytest.importorskip("sklearn")
    path = tmp_path / "prior.safetensors"
    path.write_bytes(pair.read_bytes())
    assert main(["export", str(path), "--to", host]) == 0
    output = tmp_path / ("prior.stan" if host == "stan" else f"prior_{host}.py")
    assert f"wrote {output}" in capsys.readouterr().out
    text = output.read_text()
    assert str(tmp_path) not in text
    assert "@" not in text
    if host != "stan":
        compile(text, output.name, "exec")
    assert main(["export", str(path), "--to", host]) == 2
    assert "it exists. Choose another name with -o, or replace it with --force." in capsys.readouterr().err
    output.write_text("old")
    assert main(["export", str(path), "--to", host, "--force"]) == 0
    assert output.read_text() == text


@pytest.mark.parametrize("host", ["bilby", "cobaya", "pymc", "torch"])
def test_exported_programs_run(host, pair, tmp_path, monkeypatch):
    """From another folder than that of the prior, and with names that Cobaya cannot take."""
    pytest.importorskip(host)
    from numpyro_flowprior import ParameterSpace

    prior = FlowPrior.load(pair)
    space = ParameterSpace(["p[0]", "p 'b'"], prior.space.lower, prior.space.upper)
    (tmp_path / "scripts").mkdir()
    FlowPrior(prior.config, space, prior.params).save(tmp_path / "prior.safetensors")
    output = export_prior(tmp_path / "prior.safetensors", host, tmp_path / "scripts" / "use.py")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(output), run_name="__main__")


def test_export_refuses(pair, tmp_path, capsys):
    with pytest.raises(ValueError, match="export: host: expected one of 'bilby', .* got 'jags'"):
        export_prior(pair, "jags")
    with pytest.raises(FileNotFoundError, match="Make it first"):
        export_prior(pair, "torch", tmp_path / "none" / "x.py")
    with pytest.raises(FileExistsError):
        export_prior(pair, "torch", pair, force=True)
    assert main(["export", str(tmp_path / "none.safetensors"), "--to", "torch"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert isinstance(load_numpy(pair), NumpyPrior)  # it is still a prior file


# the guide


def snippets() -> list[tuple[str, str]]:
    """Returns (host, code) of the guide's blocks that need a host: those marked `py`, under the heading of the host."""
    text, found = (ROOT / "docs" / "guides" / "hosts.md").read_text(), []
    for part in text.split("\n## ")[1:]:
        blocks = re.findall(r"^```py\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
        found += [(part.split("\n")[0].lower(), "\n".join(blocks))] if blocks else []
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("heading", "code"), snippets(), ids=[heading for heading, _ in snippets()])
def test_the_guide_runs(heading, code, tmp_path, monkeypatch):
    host = {"pytorch and sbi": "torch", "stan": "sklearn"}.get(heading, heading)
    pytest.importorskip(host)
    monkeypatch.chdir(tmp_path)
    make_prior([(0.0, 1.0), (-1.0, INF)], FlowConfig(layers=1, hidden=(8,), base="normal"), strength=0.1).save(
        tmp_path / "prior.safetensors"
    )
    prior = FlowPrior.load("prior.safetensors")
    from numpyro_flowprior import ParameterSpace

    FlowPrior(prior.config, ParameterSpace(["a", "b"], [0.0, -1.0], [1.0, INF]), prior.params).save("prior.safetensors")
    exec(compile(code, "hosts.md", "exec"), {"__name__": "__main__"})


def test_names_that_python_would_read_as_escapes_are_written_as_they_are(tmp_path):
    prior = make_prior(PAIR, FlowConfig(layers=1, hidden=(4,), base="normal"))
    names = ParameterSpace(["\\xi", 'm"""'], *np.array(PAIR).T)
    file = FlowPrior(prior.config, names, prior.params).save(tmp_path / "prior.safetensors")
    for host in ("bilby", "cobaya", "pymc", "torch"):
        program = export_prior(file, host).read_text()
        assert "\\xi" in ast.get_docstring(ast.parse(program))


def test_torch_warns_of_a_dtype_that_cannot_resolve_a_parameter():
    torch = pytest.importorskip("torch")
    from numpyro_flowprior.hosts.torch import TorchFlowPrior

    epoch = make_prior([(1187008882.3, 1187008882.5), (0.0, 1.0)], FlowConfig(layers=1, hidden=(4,), base="normal"))
    stored = NumpyPrior(epoch.config, epoch.space, coupling_masks(epoch.config, 2), epoch.params)
    with pytest.warns(UserWarning, match="TorchFlowPrior: dtype: expected one that resolves 'p0'"):
        TorchFlowPrior(stored)
    torch.manual_seed(0)
    assert len(np.unique(TorchFlowPrior(stored, dtype=torch.float64).sample((50,))[:, 0])) == 50
