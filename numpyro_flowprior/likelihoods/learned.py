"""LearnedLikelihood: the likelihood that a published posterior contains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro

from .._util.checks import real_in, shorten
from .._util.display import Displayed
from .._util.messages import FlowPriorWarning
from ..chains.parameters import ParameterSpace
from ..priors.box import points_of
from ..priors.named import Divisor, NamedPrior, log_ratio

_DRAWS = 2000  # draws of the posterior at which the prior must not vanish
_OUTSIDE = 0.01  # share of them above which the prior is suspected to be that of another analysis


class LearnedLikelihood(Displayed):
    """The likelihood of an analysis, log q(theta) - log pi(theta), from its posterior q and its prior pi.

    It is the likelihood of the analysis, divided by its evidence: its mean over the prior is one. With `log_evidence`
    it is the likelihood itself. Parameters that the posterior does not have are marginalised over its prior.

        des = LearnedLikelihood(fit_flow(key, chain).prior, UniformPrior(space))

        def model():
            theta = {"H0": numpyro.sample("H0", ...), "omega_m": numpyro.sample("omega_m", ...)}
            des.factor("des", theta)

    It is only known where the posterior has draws. Where the product with other data lies far from them, it is an
    extrapolation of the flow: `combine` checks this.

    Args:
        posterior: the learned posterior, a FlowPrior or any density with a `space`.
        prior: what the analysis assumed about these parameters: a UniformPrior, a FlowPrior that was trained on a chain
            of the prior, a NumPyro distribution in the order of the posterior, or a dictionary {name: distribution}.
        log_evidence: log evidence of the analysis, if known.

    Raises:
        TypeError, ValueError: the prior does not have the posterior's parameters, or is zero at all of its draws.
    """

    def __init__(self, posterior: Any, prior: Any, *, log_evidence: float | None = None):
        space = getattr(posterior, "space", None)
        if not isinstance(space, ParameterSpace) or not hasattr(posterior, "log_prob"):
            raise TypeError(
                "LearnedLikelihood: posterior: expected a FlowPrior or another density of named parameters; got "
                f"{type(posterior).__name__}. Train one with fit_flow(key, chain).prior."
            )
        self.posterior, self.prior = posterior, NamedPrior(prior, space, "LearnedLikelihood: prior")
        self.log_evidence = (
            None if log_evidence is None else real_in(log_evidence, "LearnedLikelihood: log_evidence", -np.inf, np.inf)
        )
        draws = self.posterior.sample(jax.random.key(0), (_DRAWS,))
        self.divisor = Divisor(self.prior, draws)
        self._require_common_support(draws)

    @property
    def space(self) -> ParameterSpace:
        """The parameters, in the order of arrays of points."""
        return self.posterior.space

    def log_likelihood(self, theta: Any) -> jax.Array:
        """Returns the log likelihood (...,) at points (..., d); -inf where posterior or prior are zero.

        Without `log_evidence` it is that of the data divided by their evidence.
        """
        return log_ratio(self.posterior, self.divisor, theta) + (self.log_evidence or 0.0)

    def factor(self, site: str, theta: Any) -> jax.Array:
        """Adds the log likelihood to a NumPyro model, and returns it.

        Args:
            site: name of the site.
            theta: {name: value} with at least the parameters of `space`, each of shape (...,), or points (..., d).
        """
        found = self.log_likelihood(self._points(theta))
        numpyro.factor(site, found)
        return found

    def _points(self, theta: Any) -> jax.Array:
        if not isinstance(theta, Mapping):
            return points_of(theta, self.space, "LearnedLikelihood: theta")
        missing = [name for name in self.space.names if name not in theta]
        if missing:
            raise ValueError(
                f"LearnedLikelihood: theta: expected values for {shorten(self.space.names, 40)}; got none for "
                f"{shorten(missing, 40)}."
            )
        columns = jnp.broadcast_arrays(*(jnp.asarray(theta[name]) for name in self.space.names))
        return points_of(jnp.stack(columns, axis=-1), self.space, "LearnedLikelihood: theta")

    def _require_common_support(self, draws: Any) -> None:
        outside = float(np.mean(~np.isfinite(np.asarray(self.prior.log_prob(draws)))))
        if outside == 1.0:
            raise ValueError(
                "LearnedLikelihood: prior: expected the prior that the analysis assumed; got one that is zero at all "
                f"{_DRAWS} draws of its posterior. Look at names, units and bounds."
            )
        if outside > _OUTSIDE:
            warnings.warn(
                f"LearnedLikelihood: the prior is zero at {100 * outside:.0f} % of the draws of the posterior, and so "
                "is the likelihood there. It may be the prior of another analysis; or it ends at an edge that the "
                "posterior does not declare: declare the bounds, and train again.",
                FlowPriorWarning,
                stacklevel=3,
            )

    def _headline(self) -> str:
        evidence = "divided by the evidence" if self.log_evidence is None else f"log evidence {self.log_evidence:.3f}"
        return f"{self.space.dim} parameters: {shorten(self.space.names)}; {evidence}"

    def __str__(self) -> str:
        return f"LearnedLikelihood({self._headline()})"
