"""Learned priors made weaker: tempered (raised to a power), or mixed with a broad prior.

Both are NumPyro distributions over the same named parameters. Models, samplers and `LatentReparam` accept them in place
of a FlowPrior.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from numpyro.distributions import Distribution
from numpyro.util import not_jax_tracer
from scipy.stats import genpareto

from .._util.checks import ArrayLike, positive_int, real_in
from .._util.leaves import as_jax
from .._util.validation import validated
from ..chains.parameters import ParameterSpace
from ..flows.build import build_inner, build_outer
from ..flows.stripes import chosen, joined
from .box import BroadPrior, OverParameters, keep_inside, points_of, points_of_cube
from .flow_prior import FlowPrior
from .moments import MonteCarloMoments
from .resolution import Held, in_full_resolution

_STEPS = (16, 32, 64, 128, 256, 512, 1024)  # allowed numbers of independence Metropolis steps per draw
_BIAS = 2e-3  # largest bias of a draw after these steps, in total variation
_BATCH = 8192  # importance draws per batch
_HEAVIEST = 0.7  # largest Pareto shape of importance weights with a reliable mean (Vehtari et al. 2024)


class _Weakened(MonteCarloMoments, OverParameters):
    """Base of densities derived from a FlowPrior, over the same parameters and on the same support."""

    prior: FlowPrior

    @property
    def space(self) -> ParameterSpace:  # type: ignore[override]
        """The parameters of the prior."""
        return self.prior.space

    @property
    def held(self) -> Held:  # type: ignore[override]
        """The parameters that float32 cannot resolve, as for the prior."""
        return self.prior.held

    def to_latent(self, theta: ArrayLike) -> jax.Array:
        """Returns the coordinates (..., d) of points in the latent space of the prior."""
        return self.prior.to_latent(theta)

    def from_latent(self, omega: ArrayLike) -> jax.Array:
        """Returns the points (..., d), strictly inside the support, for latent coordinates of the prior."""
        return self.prior.from_latent(omega)


class TemperedPrior(_Weakened):
    """The power prior p(theta)^power / Z of a FlowPrior p (Ibrahim and Chen 2000), made by `temper`.

    Args:
        prior: p.
        power: in (0, 1] to weaken the first analysis, above 1 to strengthen it.
        log_normalizer: log Z = log integral of p^power.
        log_normalizer_error: standard error of log Z.
        steps: number of Metropolis steps for each draw.
    """

    pytree_data_fields = ("log_normalizer", "log_normalizer_error", "power", "prior")
    pytree_aux_fields = ("steps",)

    def __init__(
        self,
        prior: FlowPrior,
        power: float,
        log_normalizer: Any,
        log_normalizer_error: Any,
        *,
        steps: int,
        validate_args: bool | None = None,
    ):
        self.prior, self.power, self.steps = prior, power, steps
        self.log_normalizer, self.log_normalizer_error = log_normalizer, log_normalizer_error
        super().__init__(batch_shape=(), event_shape=prior.event_shape, validate_args=validate_args)

    @in_full_resolution(points=False)
    @validated
    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> jax.Array:
        """Returns power log p(theta) - log Z (...,) at points (..., d); -inf outside the support."""
        return self.power * self.prior.log_prob(value) - self.log_normalizer

    @in_full_resolution(points=False)
    def latent_log_prob(self, omega: ArrayLike) -> jax.Array:
        """Returns the normalised log density (...,) of this prior in latent coordinates (..., d)."""
        log_det = self.prior.latent_log_det(omega)
        return self.power * (self.prior.latent_log_prob(omega) - log_det) - self.log_normalizer + log_det

    @in_full_resolution(points=True)
    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Returns draws (*sample_shape, d), independent of each other, strictly inside the support.

        Each draw is the last state of `steps` steps of independence Metropolis. The proposals come from the prior, and
        from the prior with its base widened by a factor of power^(-1/2). `steps` is chosen for a bias of at most about
        0.002 in total variation.
        """
        dtype, shape = jnp.result_type(float), tuple(sample_shape)
        return _tempered_draws(as_jax(self.prior), self.power, key, shape=shape, steps=self.steps, dtype=dtype)

    def __repr__(self) -> str:
        return f"TemperedPrior({self.space!r}, power={self.power})"


def temper(prior: FlowPrior, power: float, *, key: jax.Array | None = None, draws: int = 65_536) -> TemperedPrior:
    """Returns the power prior p^power / Z, in which the first analysis counts `power` times.

    Z is estimated in float64 by importance sampling from the prior and a widened copy of it. `log_normalizer_error` is
    the standard error of log Z. This error shifts log evidences, but not posteriors.

    Args:
        prior: p, a FlowPrior.
        power: > 0.
        key: seeds the importance sampling; None for a fixed seed.
        draws: number of importance draws, >= 1000.

    Raises:
        TypeError: `prior` is not a FlowPrior, or `power` is not a plain number.
        ValueError: power <= 0, or no reliable estimate of Z. On a half line or line, p^power may not be integrable for
            a small power: the tail of a flow towards infinity on a half line is about 1 / x^2. At the bound of an
            interval the density may diverge, and p^power may not be integrable for a large power.
    """
    _require_prior(prior, "temper")
    power = real_in(power, "temper: power", 0.0, np.inf, open_low=True, open_high=True)
    draws = positive_int(draws, "temper: draws", minimum=1000)
    if power == 1.0:
        return TemperedPrior(prior, 1.0, 0.0, 0.0, steps=0)
    with jax.enable_x64(True):
        log_weights = np.asarray(_log_weights(prior, power, jax.random.key(0) if key is None else key, draws))
    weights = np.exp(log_weights - log_weights.max())
    steps = _enough_steps(weights / weights.mean(), power)
    error = weights.std() / np.sqrt(draws) / weights.mean()
    return TemperedPrior(prior, power, float(np.log(weights.mean()) + log_weights.max()), float(error), steps=steps)


def _enough_steps(ratios: np.ndarray, power: float) -> int:
    """Returns how many Metropolis steps a draw needs, from the ratios of target to proposal at proposed points.

    After n steps, the probability that a point with ratio w > 1 was missed is at most (1 - 1/w)^n (Mengersen and
    Tweedie 1996). The mean of this bound over the target is the bias.
    """
    largest = np.sort(ratios)[-int(3 * np.sqrt(len(ratios))) :]
    shape = genpareto.fit(largest[1:] - largest[0], floc=0.0)[0]
    missed = 1.0 - 1.0 / np.maximum(ratios, 1.0)
    enough = [steps for steps in _STEPS if np.mean(ratios * missed**steps) < _BIAS]
    if not enough or shape > _HEAVIEST:
        effective = len(ratios) / np.mean(ratios**2)
        raise ValueError(
            f"temper: power: expected a power for which p^power can be normalised; {power:g} gives an effective sample "
            f"size of {effective:.0f} from {len(ratios)} draws, and weights with a Pareto shape of {shape:.2f}. "
            f"p^{power:g} is not integrable, or too far from the proposals of the flow. Use a power closer to one, or "
            "robustify."
        )
    return enough[0]


def _propose(prior: FlowPrior, power: Any, key: jax.Array, n: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Returns n proposals theta (n, d) and the log ratios (n,) of p^power to the density of the proposals.

    On average half come from the flow, and half from the flow with its base widened by a factor of power^(-1/2). Both
    are drawn, and their densities compared, in whitened coordinates, where no precision is lost near the bounds of the
    support.
    """
    config, space, params = prior.config, prior.space, prior._arrays()
    spreads = jnp.stack([jnp.ones((), dtype), jnp.asarray(power, dtype) ** -0.5])

    def spread_flow(spread: jax.Array) -> Any:
        return build_inner(config, space.dim, params, dtype, spread)

    key_draws, key_choice = jax.random.split(key)
    drawn = jax.vmap(lambda spread, k: spread_flow(spread).sample(seed=k, sample_shape=(n,)))(
        spreads, jax.random.split(key_draws)
    )
    x = jnp.where(jax.random.bernoulli(key_choice, 0.5, (n, 1)), *drawn)
    log_densities = jax.vmap(lambda spread: spread_flow(spread).log_prob(x))(spreads)
    theta, log_det = build_outer(space, params, dtype).forward_and_log_det(x)
    log_proposal = logsumexp(log_densities, axis=0) - jnp.log(2.0) - log_det
    return keep_inside(theta, space), power * (log_densities[0] - log_det) - log_proposal


@jax.jit
def _propose_in_double(prior: FlowPrior, power: Any, key: jax.Array) -> jax.Array:
    return _propose(prior, power, key, _BATCH, jnp.float64)[1]


def _log_weights(prior: FlowPrior, power: float, key: jax.Array, draws: int) -> np.ndarray:
    keys = jax.random.split(key, -(-draws // _BATCH))
    return np.concatenate([np.asarray(_propose_in_double(prior, power, each)) for each in keys])[:draws]


@partial(jax.jit, static_argnames=("shape", "steps", "dtype"))
def _tempered_draws(
    prior: FlowPrior, power: Any, key: jax.Array, *, shape: tuple[int, ...], steps: int, dtype: Any
) -> jax.Array:
    n = int(np.prod(shape))

    def step(state: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        theta, log_weight = state
        key_propose, key_accept = jax.random.split(key)
        proposed, proposed_weight = _propose(prior, power, key_propose, n, dtype)
        accepted = jnp.log(jax.random.uniform(key_accept, (n,), dtype)) < proposed_weight - log_weight
        theta = jnp.where(accepted[:, None], proposed, theta)
        return (theta, jnp.where(accepted, proposed_weight, log_weight)), None

    nowhere = jnp.zeros((n, prior.space.dim), dtype), jnp.full(n, -jnp.inf, dtype)  # any first proposal is accepted
    (theta, _), _ = jax.lax.scan(step, nowhere, jax.random.split(key, 1 + steps))
    return theta.reshape(*shape, prior.space.dim)


class RobustPrior(_Weakened):
    """The mixture (1 - weight) p + weight b of a FlowPrior p and a broad prior b, made by `robustify`.

    Args:
        prior: p.
        broad: b, over the same parameters.
        weight: weight of b, in (0, 1).
    """

    pytree_data_fields = ("broad", "prior", "weight")

    def __init__(self, prior: FlowPrior, broad: Distribution, weight: Any, *, validate_args: bool | None = None):
        self.prior, self.broad, self.weight = prior, broad, weight
        super().__init__(batch_shape=(), event_shape=prior.event_shape, validate_args=validate_args)

    @in_full_resolution(points=False)
    @validated
    def log_prob(self, value: ArrayLike, intermediates: Any = None) -> jax.Array:
        """Returns the normalised log density (...,) at points (..., d); -inf outside the support."""
        learned, broad = self._parts(value)
        return jnp.logaddexp(learned, broad)

    def _parts(self, value: Any) -> tuple[jax.Array, jax.Array]:
        theta = points_of(value, self.space, "RobustPrior: value")
        broad = jnp.where(self.support(theta), self.broad.log_prob(theta), -jnp.inf)
        return jnp.log1p(-self.weight) + self.prior.log_prob(theta), jnp.log(self.weight) + broad

    @in_full_resolution(points=False)
    def latent_log_prob(self, omega: ArrayLike) -> jax.Array:
        """Returns the normalised log density (...,) of this prior in latent coordinates (..., d)."""
        broad = self.broad.log_prob(self.from_latent(omega)) + self.prior.latent_log_det(omega)
        return jnp.logaddexp(jnp.log1p(-self.weight) + self.prior.latent_log_prob(omega), jnp.log(self.weight) + broad)

    @in_full_resolution(points=False)
    def probability_broad(self, value: ArrayLike) -> jax.Array:
        """Returns the probability (...,) that points (..., d) came from the broad part.

        Its mean over the draws of a posterior is the posterior probability that the learned prior does not hold.
        """
        learned, broad = self._parts(value)
        return jax.nn.sigmoid(broad - learned)

    @in_full_resolution(points=True)
    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
        """Returns draws (*sample_shape, d), strictly inside the support."""
        key_choice, key_prior, key_broad = jax.random.split(key, 3)
        broad = jax.random.bernoulli(key_choice, self.weight, (*sample_shape, 1))
        return jnp.where(broad, self.broad.sample(key_broad, sample_shape), self.prior.sample(key_prior, sample_shape))

    @in_full_resolution(points=True)
    def from_unit_cube(self, u: ArrayLike) -> Any:
        """Returns points (..., d), strictly inside the support, for points u (..., d) of the unit cube.

        The first coordinate also chooses between the learned and the broad prior, as between the flows of a mixture
        (`FlowPrior.from_unit_cube`). The broad prior needs a map of its own: `BroadPrior` and `UniformPrior` have one.
        """
        broad = self._broad_with_a_map()
        label, v = chosen(points_of_cube(u, self.space, "RobustPrior: u"), self._weights())
        return jnp.where((label == 0)[..., None], self.prior.from_unit_cube(v), broad.from_unit_cube(v))

    @in_full_resolution(points=True)
    def to_unit_cube(self, theta: ArrayLike) -> Any:
        """Returns points (..., d) of the unit cube that `from_unit_cube` maps to points theta (..., d)."""
        other = self._broad_with_a_map()
        learned, broad = self._parts(theta)
        label = jnp.where(learned >= broad, 0, 1)
        within = jnp.where((label == 0)[..., None], self.prior.to_unit_cube(theta), other.to_unit_cube(theta))
        return joined(label, within, self._weights())

    def _broad_with_a_map(self) -> Any:
        if hasattr(self.broad, "from_unit_cube"):
            return self.broad
        raise NotImplementedError(
            "RobustPrior: expected a broad prior with a map from the unit cube, a BroadPrior or UniformPrior; got "
            f"{type(self.broad).__name__}. Leave `broad` out of robustify, or use sample_dynesty or sample_nautilus."
        )

    def _weights(self) -> jax.Array:
        return jnp.stack([1.0 - jnp.asarray(self.weight, float), jnp.asarray(self.weight, float)])

    def __repr__(self) -> str:
        return f"RobustPrior({self.space!r}, {self.broad!r}, weight={self.weight})"


def robustify(prior: FlowPrior, weight: float, broad: Distribution | None = None) -> RobustPrior:
    """Returns a mixture of the prior with a broad one, so that regions missed by the first analysis keep prior mass.

    The posterior leaves the learned prior where the new data outweigh it, given the odds weight / (1 - weight) and the
    ratio of the two densities (Schmidli et al. 2014, "robust meta-analytic-predictive priors").

    Args:
        prior: the learned prior.
        weight: weight of the broad prior, in (0, 1); 0.05 to 0.2 is usual.
        broad: a distribution over the same vector of parameters, on the same support; None for `broad_of(prior)`.

    Raises:
        TypeError: `prior` is not a FlowPrior, or `broad` is not a NumPyro distribution.
        ValueError: the weight is not in (0, 1), or `broad` has another shape or draws outside the support of the prior.
    """
    _require_prior(prior, "robustify")
    weight = real_in(weight, "robustify: weight", 0.0, 1.0, open_low=True, open_high=True)
    broad = broad_of(prior) if broad is None else broad
    if not isinstance(broad, Distribution):
        raise TypeError(f"robustify: broad: expected a NumPyro distribution; got {type(broad).__name__}.")
    if broad.batch_shape != () or broad.event_shape != prior.event_shape:
        raise ValueError(
            f"robustify: broad: expected event shape {prior.event_shape} and no batch shape; got event shape "
            f"{broad.event_shape} and batch shape {broad.batch_shape}. Use .to_event(1)."
        )
    _require_inside(prior, broad)
    return RobustPrior(prior, broad, weight)


def broad_of(prior: FlowPrior | TemperedPrior | RobustPrior) -> Distribution:
    """Returns a broad density on the support of a learned prior; for a RobustPrior, its broad part.

    It is a `BroadPrior`: flat on intervals, and log-logistic on half lines with the scale of the chain. On lines it is
    a Student t with three degrees of freedom, three times as wide as the chain.
    """
    if isinstance(prior, RobustPrior):
        return prior.broad
    if isinstance(prior, TemperedPrior):
        return broad_of(prior.prior)
    whitening = prior.params["whitening"]
    width = 3.0 * np.sqrt(np.sum(np.asarray(whitening["tril"]) ** 2, axis=1))
    return BroadPrior(prior.space, prior.support_scale, prior.whitened_at, width)


def _require_inside(prior: FlowPrior, broad: Distribution) -> None:
    draws = broad.sample(jax.random.key(0), (1000,))
    if not not_jax_tracer(draws):
        return
    outside = float(1.0 - np.mean(prior.space.contains(draws)))
    if outside > 0:
        raise ValueError(
            f"robustify: broad: expected a distribution on the support of the prior; {100 * outside:.1f} % of its "
            f"draws are outside {prior.space}. Truncate it, or leave `broad` out."
        )


def _require_prior(prior: Any, subject: str) -> None:
    if not isinstance(prior, FlowPrior):
        raise TypeError(f"{subject}: expected a FlowPrior; got {type(prior).__name__}.")
