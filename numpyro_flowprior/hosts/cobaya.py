"""The learned prior in Cobaya, as an external prior or as a likelihood. Cobaya is imported only here.

Cobaya has priors of single parameters, and functions that are added to their log density. So each parameter gets a
simple prior on its support, and the function is the log density of the flow minus that of these priors. The total prior
is then the density of the flow, normalised, and evidences are right.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from .._util.checks import FloatArray, optional_import
from ..priors.numpy_prior import NumpyPrior
from .opened import PriorOrPath, argument_names, opened

_Base: Any = optional_import("cobaya.likelihood", "cobaya", "numpyro_flowprior.hosts.cobaya").Likelihood

_DRAWS = 5_000  # from which starts and widths of proposals are taken
_WIDER = 3.0  # the priors of unbounded parameters, relative to the learned prior


def cobaya_info(prior: PriorOrPath, *, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Returns the blocks `params` and `prior` of Cobaya's input; add other parameters to the first.

        info = {**cobaya_info("prior.safetensors"), "likelihood": {...}, "sampler": {"mcmc": None}}

    Parameters with two bounds have a flat prior on their interval, the others a wide one: half-Cauchy above a bound,
    exponential below, Student t with three degrees of freedom on the line. The function in the block `prior` divides
    these out.

    Args:
        prior: a path, which the blocks then hold as text so that Cobaya can write them, or a NumpyPrior.
        names: (d,) names of the parameters in Cobaya; None for those in the file.

    Raises:
        ValueError: a name cannot be the name of a Python argument.
    """
    loaded = opened(prior, "cobaya_info")
    known = argument_names(loaded, names, "cobaya_info")
    draws = loaded.sample(0, _DRAWS)
    middle, width = np.median(draws, axis=0), draws.std(axis=0)
    low, high = np.quantile(draws, [0.16, 0.84], axis=0)
    spread = np.minimum(width, 0.5 * (high - low))
    declared = _declared(loaded)
    params = {
        name: {
            "prior": declared[j],
            "ref": {"dist": "norm", "loc": float(middle[j]), "scale": float(0.1 * spread[j])},
            "proposal": float(spread[j]),
            "latex": loaded.space.labels[j],
        }
        for j, name in enumerate(known)
    }
    function: Any = log_prior(prior, names=names)
    if not isinstance(prior, NumpyPrior):
        given = "" if names is None else f", names={list(known)!r}"
        function = f"import_module('{__name__}').log_prior({os.fspath(prior)!r}{given})"
    return {"params": params, "prior": {"flow": function}}


def log_prior(prior: PriorOrPath, *, names: Sequence[str] | None = None) -> Callable[..., float]:
    """Returns the external prior for Cobaya's block `prior`, a function with one argument for each parameter.

    Its value is log q(theta) - sum_j log r_j(theta_j), with the log density log q of the flow and the priors r_j that
    `cobaya_info` declares in the block `params`. It is normalised only together with these. In YAML:

        prior:
          flow: "import_module('numpyro_flowprior.hosts.cobaya').log_prior('prior.safetensors')"

    Args:
        prior: a path or a NumpyPrior.
        names: (d,) names of the arguments; None for those in the file.

    Raises:
        ValueError: a name cannot be the name of a Python argument.
    """
    loaded = opened(prior, "log_prior")
    known = argument_names(loaded, names, "log_prior")
    declared = _declared(loaded)
    flat = float(sum(np.log(entry["max"] - entry["min"]) for entry in declared if "min" in entry))
    others = [(name, _frozen(entry)) for name, entry in zip(known, declared, strict=True) if "min" not in entry]

    def flow(**values: float) -> float:
        log_q = float(loaded.log_prob(_point(values, known, "log_prior")))
        if log_q == -np.inf:
            return log_q
        return log_q + flat - float(sum(reference.logpdf(values[name]) for name, reference in others))

    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD  # Cobaya reads the names of the parameters in the signature
    flow.__signature__ = inspect.Signature([inspect.Parameter(name, keyword) for name in known])  # type: ignore[attr-defined]
    return flow


def _declared(prior: NumpyPrior) -> list[dict[str, Any]]:
    """Returns the prior of each parameter for the block `params`; the same in every process."""
    draws = prior.sample(0, _DRAWS)
    middle = np.median(draws, axis=0)
    width = _WIDER * np.median(np.abs(draws - middle), axis=0)
    entries: list[dict[str, Any]] = []
    for j, (lower, upper) in enumerate(prior.space.bounds.tolist()):
        if np.isfinite(lower) and np.isfinite(upper):
            entries.append({"min": lower, "max": upper})
        elif np.isfinite(lower):
            entries.append({"dist": "halfcauchy", "loc": lower, "scale": float(_WIDER * (middle[j] - lower))})
        elif np.isfinite(upper):  # the mirror image of an exponential
            entries.append({"dist": "weibull_max", "c": 1, "loc": upper, "scale": float(_WIDER * (upper - middle[j]))})
        else:
            entries.append({"dist": "t", "df": 3, "loc": float(middle[j]), "scale": float(width[j])})
    return entries


def _frozen(entry: dict[str, Any]) -> Any:
    return getattr(stats, entry["dist"])(**{name: value for name, value in entry.items() if name != "dist"})


def _point(values: dict[str, Any], names: Sequence[str], subject: str) -> FloatArray:
    missing = [name for name in names if name not in values]
    if missing:
        raise TypeError(f"{subject}: expected values of {', '.join(names)}; got none of {', '.join(missing)}.")
    return np.array([values[name] for name in names], dtype=np.float64)


class FlowLikelihood(_Base):
    """The learned log density as a factor of Cobaya's likelihood. Options, in YAML:

        likelihood:
          numpyro_flowprior.hosts.cobaya.FlowLikelihood:
            path: prior.safetensors
            names: [mass, width]      # if those of Cobaya differ from those in the file

    It is for analyses that keep their own priors of these parameters. With flat priors the product is the learned
    density. Their normalisation enters the evidence.

    Raises:
        ValueError: there is no `path`, or a name cannot be the name of a Python argument.
    """

    path: str | None = None
    names: Sequence[str] | None = None

    def initialize(self) -> None:
        """Reads the file; Cobaya calls it once."""
        if not self.path:
            raise ValueError("FlowLikelihood: path: expected the path of a prior file; got none. Add `path: ...`.")
        self._prior = opened(self.path, "FlowLikelihood")
        self._names = argument_names(self._prior, self.names, "FlowLikelihood")

    def get_requirements(self) -> dict[str, None]:
        """Returns the names of the parameters, as Cobaya asks for them."""
        return dict.fromkeys(self._names)

    def logp(self, **params_values: Any) -> float:
        """Returns the normalised log density at the current values; -inf outside the support."""
        values = {name: self.provider.get_param(name) for name in self._names}
        return float(self._prior.log_prob(_point(values, self._names, "FlowLikelihood")))
