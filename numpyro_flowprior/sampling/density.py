"""ModelDensity: any NumPyro model as NumPy functions of a vector, for samplers that do not use NumPyro.

Everything is in float64, whatever the caller's JAX flag. Sites with a box as support keep the model's own coordinates,
without a Jacobian. All other supports use unconstrained coordinates (models/vector.py). Prior and likelihood are
separate. Points are arrays (n, d). They are evaluated in batches padded to a few sizes, so that a new n does not cause
recompilation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import reparam, seed, substitute, trace
from numpyro.infer.util import compute_log_probs

from .._util.batches import in_batches, padded_batches
from .._util.checks import ArrayLike, FloatArray, float_array, positive_int
from .._util.leaves import copied, forgetting
from .._util.messages import FlowPriorWarning
from ..chains.parameters import ParameterSpace
from ..flows.bounds import interior_bounds
from ..likelihoods.site import ExternalSites, external_sites
from ..models.dimensions import arrays_of_sites, variables_of_latents
from ..models.latent import LatentReparam
from ..models.sites import find_latents, merged_space, observed_sites, trace_model
from ..models.unusual import ConstantSites, ProperSites, is_constant, unwrapped
from ..models.vector import coordinates_of, values_of, vector_of
from .fitness import require_fixed_supports, require_jax, require_numbers_observed

# Samplers map an interval to the real line themselves. In pocoMC's probit, a draw that is one rounding step from a
# bound becomes infinite, and then NaN. Prior draws keep this fraction of the range away from the bounds.
_MARGIN = 1e-13

_LOOKED_AT, _MOST_NAN = 256, 0.1  # prior draws checked before a sampler starts, and the fraction that may be NaN


class ModelDensity:
    """The log density of a NumPyro model as a function of the vector of its latent parameters.

    Latent and observed sites are found in the model's trace. A FlowPrior (or UniformPrior) site contributes its
    parameters under their own names, a scalar site its name, and an array site the names `name[i,j]`.

    A site keeps its own coordinates if its support is a product of intervals, half lines and real lines. Any other
    continuous site (a simplex, an ordered vector, a correlation or Cholesky matrix) enters in the unconstrained
    coordinates of NumPyro's `biject_to(support)`. They are called `name_unconstrained[i]` and cover the real line. The
    prior is normalised in these coordinates: its log density is that of the value
    plus log |det dvalue/dcoordinates|. `constrain` returns the value, `vector` the coordinates. The missing entries of
    a partly observed site (`obs_mask`) are latent parameters, `name_unobserved[i]`.

    Args:
        model: a NumPyro model with continuous latent sites of fixed supports.
        *args: its positional arguments.
        **kwargs: its keyword arguments. Pass data here or in `args`, not through a closure: JAX can use a NumPy array
            in a closure in only one precision at a time, and this class always uses float64.

    Attributes:
        space: names and bounds of all latent parameters, in the order of the vector.
        observed: {site: observed value}.
        arrays: {site: shape and dimensions of its value}, of all sites.
        variables: {variable: the parameters that it holds, shape, dimensions}, in the order of the vector.
        nan_count: number of log densities that were NaN so far (each was returned as -inf).

    Raises:
        ValueError: discrete latent sites, improper priors, supports without a bijection from real coordinates, supports
            that depend on other latent sites, or two priors over one parameter name (each named); NaN among observed
            values.

    Example:
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from numpyro_flowprior import ModelDensity
        >>> def model(y):
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        >>> density = ModelDensity(model, 0.3)
        >>> density
        ModelDensity(mu; observed: y)
        >>> density.log_posterior(np.array([[0.0], [1.0]])).round(3)
        array([-1.883, -2.583])
    """

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        self._model, self._args, self._kwargs = model, copied(args), copied(kwargs)
        with jax.enable_x64(True):
            first = trace_model(ProperSites(ConstantSites(model)), self._args, self._kwargs, jax.random.key(0))
            if any(is_constant(site) for site in first.values()):
                self._model = ConstantSites(model)
            self._latents = find_latents(first)
            again = find_latents(trace_model(self._model, self._args, self._kwargs, jax.random.key(1)))
            self._deterministic = [name for name, site in first.items() if site["type"] == "deterministic"]
            self._external = external_sites(first)
            self._external_shapes = {name: unwrapped(first[name]["fn"]).batch_shape for name in self._external}
            self.observed = {name: np.asarray(first[name]["value"]) for name in observed_sites(first)}
            require_fixed_supports(self._latents, again)
            require_numbers_observed(first, self.observed)
            require_jax(partial(self._log_probs, "both"), sum(latent.space.dim for latent in self._latents))
        self.space: ParameterSpace = merged_space(self._latents)
        self.arrays = arrays_of_sites(first)
        self.variables = variables_of_latents(self._latents, self.arrays)
        self._low, self._high = interior_bounds(self.space, np.dtype(np.float64))
        self._kept: dict[Any, Any] = {}
        self.nan_count = 0

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy in another process needs: everything except the compiled functions."""
        return {**self.__dict__, "_kept": {}}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the vector."""
        return self.space.names

    @property
    def dim(self) -> int:
        """Number of parameters, d."""
        return self.space.dim

    @property
    def bounds(self) -> FloatArray:
        """Lower and upper bounds, (d, 2) in float64."""
        return self.space.bounds

    @property
    def model(self) -> Any:
        """The NumPyro model."""
        return self._model

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The model's positional and keyword arguments."""
        return self._args, self._kwargs

    @property
    def learned_sites(self) -> tuple[str, ...]:
        """Names of the sites that have a latent space (`LatentReparam`): learned priors, in a plate or not."""
        return tuple(latent.site for latent in self._latents if latent.learned)

    @property
    def unconstrained_sites(self) -> tuple[str, ...]:
        """Names of the latent sites that the vector holds in unconstrained coordinates, `name_unconstrained[i]`."""
        return tuple(latent.site for latent in self._latents if latent.transform is not None)

    @property
    def imputed_sites(self) -> tuple[str, ...]:
        """Names of the latent sites that are the missing part of a partly observed site, `name_unobserved`."""
        return tuple(latent.site for latent in self._latents if latent.imputed is not None)

    @property
    def external(self) -> dict[str, Any]:
        """The external likelihoods of the model, {site: ExternalLikelihood}."""
        return dict(self._external)

    @property
    def seconds_per_call(self) -> float:
        """Seconds that the external likelihoods take at one point, on average so far; 0 without any."""
        return sum(external.seconds_per_call for external in self._external.values())

    def in_latent_space(self) -> ModelDensity:
        """Returns the same posterior with its learned priors in latent coordinates, where they are nearly normal.

        The latent coordinates of a site theta are `theta_latent[i]`, on the whole real line. theta itself is one of the
        `deterministics`.
        """
        reparams = {site: LatentReparam() for site in self.learned_sites}
        latent: ModelDensity = self.keep("in_latent_space", lambda: self.reparametrised(reparams))
        return latent

    def reparametrised(self, config: Mapping[str, Any]) -> ModelDensity:
        """Returns the density of the model under `numpyro.handlers.reparam` with a configuration {site: strategy}."""
        model = reparam(self._model, config=dict(config))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the density of the original model has already warned
            return ModelDensity(model, *self._args, **self._kwargs)

    def log_prior(self, x: ArrayLike) -> FloatArray:
        """Returns the normalised log prior (n,) in the vector's coordinates, at points (n, d); -inf outside."""
        return self._evaluate("log_prior", x)

    def log_likelihood(self, x: ArrayLike) -> FloatArray:
        """Returns the log likelihood (n,) at points (n, d), factors included; -inf outside the support."""
        return self._evaluate("log_likelihood", x)

    def log_posterior(self, x: ArrayLike) -> FloatArray:
        """Returns log prior + log likelihood (n,), not normalised, at points (n, d); -inf outside the support."""
        return self._evaluate("log_posterior", x)

    def log_prior_and_likelihood(self, x: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Returns log prior and log likelihood, (n,) each, in one evaluation of the model."""
        both = self._evaluate("both", x)
        return both[:, 0], both[:, 1]

    def log_likelihood_by_site(self, x: ArrayLike, *, pointwise: bool = False) -> dict[str, FloatArray]:
        """Returns the log likelihood of each observed site, {site: (n,)}, at points (n, d).

        With `pointwise`, returns the log likelihood of each observation, {site: (n, *batch_shape)}. Observations are
        independent given the parameters. One draw of a multivariate distribution is one observation. Their sum is the
        log likelihood of the site, except for `numpyro.handlers.scale`, which is left out here and in NumPyro's own
        `log_likelihood`.
        """
        return self._evaluate("pointwise" if pointwise else "by_site", x)

    def deterministics(self, x: ArrayLike) -> dict[str, FloatArray]:
        """Returns the values of the model's deterministic sites, {site: (n, *shape)}, at points (n, d).

        The values of the `unconstrained_sites` are included, because they are functions of the vector too.
        """
        names = (*self.unconstrained_sites, *self._deterministic)
        if not names:
            return {}
        values = self._in_batches("deterministics", self._deterministics, self._moved_inside(self._points(x)))
        return {name: values[name] for name in names}

    def sample_prior(self, key: jax.Array, n: int) -> FloatArray:
        """Returns n draws from the prior, (n, d) in float64, strictly inside the support."""
        n = positive_int(n, "sample_prior: n")
        with jax.enable_x64(True):
            draw = self.keep("sample_prior", lambda: jax.jit(jax.vmap(self._draw)))
            slices = padded_batches(n)
            keys = jax.random.split(key, sum(size for _, _, size in slices))
            parts = [forgetting(partial(draw, keys[start : start + size]))[:kept] for start, kept, size in slices]
            draws = np.concatenate([np.asarray(part) for part in parts])
        width = np.where(np.isfinite(self.bounds).all(axis=1), np.diff(self.bounds, axis=1)[:, 0], 0.0)
        return np.clip(draws, self._low + _MARGIN * width, self._high - _MARGIN * width)

    def require_numbers(self, key: jax.Array) -> None:
        """Raises ValueError, with an example, if the log posterior is NaN at more than a tenth of 256 prior draws.

        A few NaN count as -inf. Many NaN mean that the model is wrong, and ignoring them would change the posterior.
        """
        draws = self.sample_prior(key, _LOOKED_AT)
        values = self._given("both", draws, np.zeros((len(draws), self._n_external)))
        bad = np.flatnonzero(np.isnan(values.sum(axis=1)))
        if len(bad) > _MOST_NAN * len(draws):
            example = ", ".join(f"{name} = {value:.6g}" for name, value in zip(self.names, draws[bad[0]], strict=True))
            raise ValueError(
                f"model: its log density is NaN at {len(bad)} of {len(draws)} draws from the prior, for example at "
                f"{example}. Look for logarithms or roots of negative numbers, 0 / 0, and infinity - infinity."
            )

    def constrain(self, x: ArrayLike) -> dict[str, FloatArray]:
        """Returns the values of the latent sites, {site: (n, *shape)}, at points (n, d)."""
        x = self._points(x)
        values = coordinates_of(self._latents, x)
        if self.unconstrained_sites:  # all other values stay the same, bit for bit
            values |= self._in_batches("constrain", self._unconstrained_values, self._moved_inside(x))
        return values

    def vector(self, values: Mapping[str, Any]) -> FloatArray:
        """Returns the vectors (..., d) for values of the latent sites, {site: (..., *shape)}: inverts `constrain`.

        Values on or beyond a bound because of rounding are moved inside.
        """
        arrays = {latent.site: np.asarray(values[latent.site], dtype=np.float64) for latent in self._latents}
        with jax.enable_x64(True):
            return np.clip(np.asarray(vector_of(self._latents, arrays)), self._low, self._high)

    def traced_log_densities(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns log prior and log likelihood of one point (d,) inside the support, for traced float64 code."""
        both = self._log_probs("both", x)
        return both[0], both[1]

    def site_values(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the values of the latent sites at one point (d,), {site: (*shape)}, for traced float64 code."""
        return values_of(self._latents, x)[0]

    def _points(self, x: Any) -> FloatArray:
        array = float_array(x, "x")
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise ValueError(
                f"x: expected shape (n, {self.dim}) for {', '.join(self.names)}; got {array.shape}. "
                "One point is x[None, :]."
            )
        return array

    def _evaluate(self, which: str, x: Any) -> Any:
        """Returns `_log_probs` at points (n, d), one array or {name: array}; -inf outside the support."""
        x = self._points(x)
        interior = self._is_interior(x)
        inside = np.ones(len(x), bool) if interior else self.space.contains(x)
        moved = x if interior else self._moved_inside(x)
        if self._external and which != "log_prior":
            values = self._given(which, moved, self._external_values(moved, inside))
        else:
            values = self._in_batches(which, partial(self._log_probs, which), moved)
        parts = list(values.values()) if isinstance(values, dict) else [values]
        for part in [] if interior else parts:
            part[~inside] = -np.inf
        parts = [self._without_nan(part) for part in parts]
        return dict(zip(values, parts, strict=True)) if isinstance(values, dict) else parts[0]

    @property
    def _n_external(self) -> int:
        """Number of values that the external sites have at one point."""
        return sum(int(np.prod(shape)) for shape in self._external_shapes.values())

    def _external_values(self, x: FloatArray, inside: np.ndarray) -> FloatArray:
        """Returns the values of the external sites, (n, k), at points (n, d): one map over the executor for each site.

        Points outside the support, or with a prior of zero, are not sent.
        """
        possible = inside & (self._in_batches("log_prior", partial(self._log_probs, "log_prior"), x) > -np.inf)
        inputs = self._in_batches("external", self._external_inputs, x)
        parts = []
        for site, external in self._external.items():
            sent = inputs[site][possible]
            flat, found = sent.reshape(-1, sent.shape[-1]), np.full(sent.shape[:-1], np.nan).ravel()
            numbers = np.isfinite(flat).all(axis=1)  # the others are undefined, as in traced code
            found[numbers] = external.log_likelihood(flat[numbers])
            values = np.zeros(inputs[site].shape[:-1])
            values[possible] = found.reshape(sent.shape[:-1])
            parts.append(values.reshape(len(x), int(np.prod(values.shape[1:]))))
        return np.concatenate(parts, axis=1)

    def _external_inputs(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the inputs of the external sites at one point (traced), {site: (..., m)}."""
        sites = ExternalSites(self._model)
        self._sites_at(self.site_values(x), sites)
        return sites.inputs

    def _given(self, which: str, x: FloatArray, external: FloatArray) -> Any:
        """Returns `_log_probs` at points (n, d) strictly inside the support, from the values (n, k) of the sites."""

        def at_point(row: jax.Array) -> Any:
            values, start = {}, self.dim
            for site, shape in self._external_shapes.items():
                stop = start + int(np.prod(shape))
                values[site] = row[start:stop].reshape(shape)
                start = stop
            return self._log_probs(which, row[: self.dim], ExternalSites(self._model, values))

        return self._in_batches((which, "given"), at_point, np.concatenate([x, external], axis=1))

    def _is_interior(self, x: FloatArray) -> bool:
        """Returns whether all points (n, d) are strictly inside the support. For samplers they usually are."""
        return bool(((x >= self._low) & (x <= self._high)).all())

    def _moved_inside(self, x: FloatArray) -> FloatArray:
        return np.clip(np.where(np.isnan(x), self._low, x), self._low, self._high)

    def _in_batches(self, name: Any, at_point: Any, x: FloatArray) -> Any:
        """Returns the values, a pytree, of a function of one point at points (n, d) strictly inside the support.

        Points may have further columns, the values of external sites.
        """
        filler = np.pad(self._low, (0, x.shape[1] - self.dim))
        with jax.enable_x64(True):
            function = self.keep(name, lambda: jax.jit(jax.vmap(at_point)))
            return in_batches(lambda batch: forgetting(partial(function, batch)), x, filler)

    def _without_nan(self, values: FloatArray) -> FloatArray:
        bad = np.isnan(values)
        if not bad.any():
            return values
        if self.nan_count == 0:
            warnings.warn(
                "ModelDensity: the log density of the model is NaN at some points, which count as -inf. "
                "ModelDensity.nan_count holds their number.",
                FlowPriorWarning,
                stacklevel=4,
            )
        self.nan_count += int(bad.sum())
        return np.where(bad, -np.inf, values)

    def keep(self, name: Any, make: Callable[[], Any]) -> Any:
        """Returns the object kept under a name, such as a compiled function. It is made at the first call."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def _log_probs(self, which: str, x: jax.Array, model: Any = None) -> Any:
        """Returns the log densities of one point (traced). The compiler removes those that are not requested."""
        model = self._model if model is None else model
        values, log_det = values_of(self._latents, x)
        if which == "pointwise":
            sites = self._sites_at(values, model)
            return {name: jnp.asarray(sites[name]["fn"].log_prob(sites[name]["value"])) for name in self.observed}
        terms, _ = compute_log_probs(seed(model, 0), self._args, self._kwargs, values)
        zero = jnp.zeros((), x.dtype)
        log_prior = sum((terms[latent.site] for latent in self._latents), log_det)
        by_site = [terms[name] for name in self.observed]
        log_likelihood = sum(by_site, zero)
        return {
            "log_prior": lambda: log_prior,
            "log_likelihood": lambda: log_likelihood,
            "log_posterior": lambda: log_prior + log_likelihood,
            "both": lambda: jnp.stack([log_prior, log_likelihood]),
            "by_site": lambda: dict(zip(self.observed, by_site, strict=True)),
        }[which]()

    def _sites_at(self, values: dict[str, Any], model: Any = None) -> dict[str, Any]:
        """Returns the trace of the model, or of the model with a handler, at values of the latent sites."""
        model = self._model if model is None else model
        return trace(substitute(seed(model, 0), values)).get_trace(*self._args, **self._kwargs)

    def _deterministics(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the deterministic sites and the constrained values at one point (traced)."""
        values, _ = values_of(self._latents, x)
        sites = self._sites_at(values)
        found = {name: jnp.asarray(sites[name]["value"]) for name in self._deterministic}
        return {**found, **{site: values[site] for site in self.unconstrained_sites}}

    def _unconstrained_values(self, x: jax.Array) -> dict[str, jax.Array]:
        """Returns the values at one point of the sites that enter in unconstrained coordinates (traced)."""
        values, _ = values_of(self._latents, x)
        return {site: values[site] for site in self.unconstrained_sites}

    def _draw(self, key: jax.Array) -> jax.Array:
        sites = trace(seed(self._model, key)).get_trace(*self._args, **self._kwargs)
        return vector_of(self._latents, {latent.site: sites[latent.site]["value"] for latent in self._latents})

    def __repr__(self) -> str:
        return f"ModelDensity({', '.join(self.names)}; observed: {', '.join(self.observed) or 'none'})"
