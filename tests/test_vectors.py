"""Sites whose support is no box, in unconstrained coordinates: against numpyro's potential, SciPy and autodiff."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import potential_energy
from scipy import stats
from scipy.integrate import quad

from numpyro_flowprior import Chain, ModelDensity, from_arviz, sample_emcee, sample_nuts, to_arviz

KEY = jax.random.key(3)
ALPHA = np.array([2.0, 0.7, 4.0])
SCALE = np.array([[2.0, 0.3], [0.3, 1.0]])


def ordered(base):
    return dist.TransformedDistribution(base, dist.transforms.OrderedTransform())


class Growing(dist.TransformedDistribution):
    """exp of an ordered vector; NumPyro takes the support of the two transforms for all positive vectors."""

    support = dist.constraints.positive_ordered_vector

    def __init__(self, size):
        steps = [dist.transforms.OrderedTransform(), dist.transforms.ExpTransform()]
        super().__init__(dist.Normal(0.0, 0.5).expand([size]).to_event(1), steps)


# name of the support, distribution, number of coordinates
SUPPORTS = [
    ("simplex", lambda: dist.Dirichlet(ALPHA), 2),
    ("two simplexes of an event", lambda: dist.Dirichlet(ALPHA).expand([2]).to_event(1), 4),
    ("simplexes with zeros", lambda: dist.Dirichlet(0.03 * jnp.ones(3)), 2),
    ("Cholesky factor of a correlation", lambda: dist.LKJCholesky(3, 1.5), 3),
    ("correlation", lambda: dist.LKJ(3, 1.5), 3),
    ("ordered", lambda: ordered(dist.Normal(0.0, 1.0).expand([3]).to_event(1)), 3),
    ("positive ordered", lambda: Growing(3), 3),
    ("covariance", lambda: dist.InverseWishart(5.0, scale_matrix=SCALE), 3),
    ("precision", lambda: dist.Wishart(5.0, scale_matrix=SCALE), 3),
    ("sum of zero", lambda: dist.ZeroSumNormal(1.0, event_shape=(3,)), 2),
]  # fmt: skip


def around(make):
    """A model with a batch of two such sites, another latent on either side, and data."""

    def model(y):
        before = numpyro.sample("before", dist.Uniform(0.0, 1.0))
        with numpyro.plate("groups", 2):
            value = numpyro.sample("value", make())
        after = numpyro.sample("after", dist.Normal(0.0, 1.0))
        numpyro.deterministic("total", value.sum() + before)
        numpyro.sample("y", dist.Normal(value.sum() + after, 2.0), obs=y)

    return model


@pytest.mark.parametrize(("make", "size"), [row[1:] for row in SUPPORTS], ids=[row[0] for row in SUPPORTS])
def test_the_density_is_numpyros_potential_with_its_jacobian(make, size):
    model = around(make)
    density = ModelDensity(model, 0.4)
    x = density.sample_prior(KEY, 8)
    assert density.unconstrained_sites == ("value",)
    assert [name.split("[")[0] for name in density.names] == ["before", *["value_unconstrained"] * 2 * size, "after"]
    assert np.isinf(density.bounds[1:]).all()
    inner = {"before": np.log(x[:, 0] / (1 - x[:, 0])), "value": x[:, 1:-1].reshape(8, 2, size), "after": x[:, -1]}
    with jax.enable_x64(True):
        to_value = dist.biject_to(make().expand([2]).support)
        inner["value"] = inner["value"].reshape(8, *to_value.inverse_shape(make().expand([2]).shape()))

        @jax.jit
        @jax.vmap
        def expected(values):
            return -potential_energy(model, (0.4,), {}, values), to_value(values["value"])

        log_joint, value = (np.asarray(part) for part in expected(inner))
    slope = np.log(x[:, 0]) + np.log1p(-x[:, 0])  # the interval is in its own coordinates here
    found, total = density.deterministics(x), value.reshape(8, -1).sum(axis=1)
    log_prior, log_likelihood = density.log_prior_and_likelihood(x)
    np.testing.assert_allclose(log_prior + log_likelihood, log_joint - slope, rtol=1e-10, atol=1e-8)
    np.testing.assert_allclose(log_likelihood, stats.norm(total + x[:, -1], 2.0).logpdf(0.4), rtol=1e-9)
    np.testing.assert_allclose(found["value"], value, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found["total"], total + x[:, 0], rtol=1e-9, atol=1e-9)
    again = density.vector(found | density.constrain(x))
    np.testing.assert_allclose(again, np.where(np.abs(x) < 15, x, again), rtol=1e-5, atol=1e-5)  # 1 - 1e-7 of a simplex


def simplex():
    numpyro.sample("w", dist.Dirichlet(ALPHA))
    numpyro.factor("flat", 0.0)


def test_the_jacobian_is_that_of_autodiff():
    """SciPy's density on the simplex, and the determinant of its first two weights by the coordinates."""
    density = ModelDensity(simplex)
    x = density.sample_prior(KEY, 8)
    w = density.constrain(x)["w"]
    with jax.enable_x64(True):
        jacobian = jax.vmap(jax.jacobian(lambda point: dist.biject_to(dist.constraints.simplex)(point)[:-1]))(x)
    expected = stats.dirichlet(ALPHA).logpdf(w.T) + np.linalg.slogdet(np.asarray(jacobian))[1]
    np.testing.assert_allclose(density.log_prior(x), expected, rtol=1e-10)


def test_a_prior_on_two_weights_integrates_to_one_and_has_the_moments_of_beta():
    def two():
        numpyro.sample("w", dist.Dirichlet(jnp.array([2.0, 0.5])))
        numpyro.factor("flat", 0.0)

    density = ModelDensity(two)
    assert density.names == ("w_unconstrained[0]",)
    at = np.linspace(-40, 40, 20_001)[:, None]
    mass = np.exp(density.log_prior(at))
    assert np.trapezoid(mass, at[:, 0]) == pytest.approx(1.0, abs=1e-7)
    mean, _ = quad(lambda w: w * stats.beta(2.0, 0.5).pdf(w), 0, 1)
    assert np.trapezoid(mass * density.constrain(at)["w"][:, 0], at[:, 0]) == pytest.approx(mean, abs=1e-6)


def test_prior_draws_have_the_marginals_of_beta():
    density = ModelDensity(simplex)
    w = density.constrain(density.sample_prior(KEY, 5000))["w"]
    for column, alpha in zip(w.T, ALPHA, strict=True):
        assert stats.kstest(column, stats.beta(alpha, ALPHA.sum() - alpha).cdf).pvalue > 1e-4  # one seed in 3000


COUNTS = np.array([3, 0, 9])


def shares(counts):
    w = numpyro.sample("w", dist.Dirichlet(ALPHA))
    numpyro.sample("counts", dist.Multinomial(int(counts.sum()), probs=w), obs=counts)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [(sample_emcee, {"n_walkers": 32, "max_steps": 4000}), (sample_nuts, {"n_samples": 1000, "n_warmup": 500})],
    ids=["emcee", "NUTS"],
)
def test_samplers_find_the_exact_posterior_of_a_dirichlet_prior(sampler, options):
    """Means within 4.5 and widths within 5 standard errors: a false alarm in 40,000 seeds."""
    density = ModelDensity(shares, COUNTS)
    chain = sampler(KEY, density, progress=False, **options)
    assert chain.info["converged"]
    assert chain.names == ("w_unconstrained[0]", "w_unconstrained[1]")
    posterior = ALPHA + COUNTS
    exact = stats.beta(posterior, posterior.sum() - posterior)
    found = density.constrain(chain.samples)["w"]
    error = exact.std() / np.sqrt(chain.effective_size)
    assert (np.abs(found.mean(axis=0) - exact.mean()) < 4.5 * error).all()
    np.testing.assert_allclose(found.std(axis=0), exact.std(), rtol=5 / np.sqrt(chain.effective_size))
    np.testing.assert_allclose(chain.log_prior, density.log_prior(chain.samples))


def test_arviz_has_the_values_beside_the_coordinates():
    density = ModelDensity(shares, COUNTS)
    chain = Chain(density.sample_prior(KEY, 30), density.space)
    data = to_arviz(chain, density)
    assert data.posterior["w"].shape == (1, 30, 3)
    np.testing.assert_allclose(data.posterior["w"].values.sum(axis=-1), 1.0)
    np.testing.assert_array_equal(from_arviz(data).samples, chain.samples)


def test_vectors_of_any_batch_in_float64():
    density = ModelDensity(shares, COUNTS)
    x = density.sample_prior(KEY, 3)
    assert density.constrain(x)["w"].dtype == density.vector(density.constrain(x)).dtype == np.float64
    assert density.constrain(x[:0])["w"].shape == (0, 3)
    assert density.vector({"w": np.full((4, 5, 3), 1 / 3)}).shape == (4, 5, 2)
    np.testing.assert_allclose(density.vector({"w": np.full(3, 1 / 3)}), 0.0, atol=1e-12)
    assert jnp.ones(1).dtype == jnp.float32


def zero_dimensional():
    numpyro.sample("w", dist.Dirichlet(jnp.ones(1)))


def test_what_has_no_coordinates_is_refused():
    with pytest.raises(ValueError, match="'w' has one possible value only"):
        ModelDensity(zero_dimensional)
