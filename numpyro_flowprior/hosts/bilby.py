"""The learned prior as a joint prior of bilby, for any of its samplers. bilby's priors are imported only here.

bilby asks for parameters one by one, and a joint prior collects them. Nested samplers need the map from the unit cube,
`NumpyPrior.from_unit_cube`; the others need the density.
"""

from __future__ import annotations

import os
from typing import Any
from zlib import crc32

import numpy as np

from .._util.checks import FloatArray, optional_import
from ..priors.numpy_prior import load_numpy

_HERE = "numpyro_flowprior.hosts.bilby"
_priors = optional_import("bilby.core.prior", "bilby", _HERE)
_random = optional_import("bilby.core.utils.random", "bilby", _HERE)
_Base: Any = _priors.BaseJointPriorDist
_Parameter: Any = _priors.JointPrior


class FlowPriorDist(_Base):
    """The density in a prior file as a `BaseJointPriorDist`. Several `JointPrior` share one.

    It is made of a path, and not of an object, because bilby writes the arguments of its priors into the result file
    and makes the priors from them again when it reads the file.

    Args:
        path: a prior file, as written by `FlowPrior.save`.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is damaged, of another kind, or newer than this package.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        self._prior = load_numpy(path)
        super().__init__(
            names=list(self._prior.names), bounds=[tuple(row) for row in self._prior.space.bounds.tolist()]
        )
        self.distname = f"flow_{crc32(self.path.encode()):08x}"  # bilby groups parameters by it
        self._slots: dict[str, FloatArray] = {}

    def _rescale(self, samp: FloatArray, **kwargs: Any) -> FloatArray:
        """Returns the points (n, d) for points (n, d) of the unit cube."""
        return self._prior.from_unit_cube(samp)

    def _sample(self, size: int, **kwargs: Any) -> FloatArray:
        """Returns draws (size, d) from bilby's generator."""
        return self._prior.sample(_random.rng, int(size))

    def _ln_prob(self, samp: FloatArray, lnprob: FloatArray, outbounds: Any) -> FloatArray:
        """Returns the normalised log density (n,); -inf outside the support and where bilby found points outside."""
        lnprob[~outbounds] = self._prior.log_prob(samp[~outbounds])
        return lnprob


class FlowParameter(_Parameter):
    """One parameter of a `FlowPriorDist`.

    bilby's own JointPrior returns all values with the last parameter, in the order of the joint prior. bilby assigns
    them in the order of the dictionary, which may be another.
    """

    def rescale(self, val: Any, **kwargs: Any) -> FloatArray:
        """Returns the value (1,) for a coordinate of the unit cube. It is NaN until all parameters have theirs."""
        slots = self.dist._slots
        slots[self.name] = np.full(1, np.nan)
        mine = slots[self.name]
        values = super().rescale(val, **kwargs)
        if len(np.atleast_1d(values)):
            for name, value in zip(self.dist.names, np.atleast_1d(values), strict=True):
                slots[name][0] = value
            slots.clear()
        return mine


def bilby_priors(path: str | os.PathLike[str]) -> Any:
    """Returns a `bilby.core.prior.ConditionalPriorDict` with an entry for each parameter; add entries for others to it.

    The names, bounds, labels and units are those in the file. bilby 2.8 cannot map joint priors in a plain dict or
    PriorDict from the unit cube, so keep to this dictionary (pass it to `run_sampler` itself).

    Args:
        path: a prior file, as written by `FlowPrior.save`.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is damaged, of another kind, or newer than this package.
    """
    dist = FlowPriorDist(path)
    space = dist._prior.space
    rows = zip(space.names, space.labels, space.units, strict=True)
    return _priors.ConditionalPriorDict(
        {name: FlowParameter(dist, name=name, latex_label=label, unit=unit or None) for name, label, unit in rows}
    )
