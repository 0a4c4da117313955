"""Chain.from_*: `read_chain` under the name of what is read, so that editors list the sources and their options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .parameters import ParameterSpace

if TYPE_CHECKING:
    from .chain import Chain


class ChainSources:
    """The constructors that Chain inherits. Each says what it takes; the work is in `readers`."""

    @classmethod
    def from_arrays(cls, samples: Any, space: ParameterSpace | None = None, **fields: Any) -> Chain:
        """Returns the chain of samples (n, d) or (chains, draws, d), or of a structured array.

        Args:
            samples: NumPy or JAX array; axes of chains become chain ids.
            space: the parameters and their bounds; None for theta[0], theta[1], ... without bounds.
            **fields: log_prob, log_prior, log_likelihood, weights, chain_id, family_id; one value per draw.
        """
        samples = samples if hasattr(samples, "dtype") else np.asarray(samples)
        return _read(samples, space, "an array", ("numpy", "jax", "jaxlib"), fields)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], space: ParameterSpace | None = None) -> Chain:
        """Returns the chain of {name: values}, of {samples, names, ...}, or of pocoMC's published dictionary."""
        if not isinstance(record, Mapping):
            raise TypeError(f"expected a dictionary; got {type(record).__name__}. See read_chain for other sources.")
        return _read(dict(record), space, "a dictionary", ("builtins",), {})

    @classmethod
    def from_pandas(cls, frame: Any, space: ParameterSpace | None = None) -> Chain:
        """Returns the chain of a pandas.DataFrame: log_prob, weight(s), chain_id, ... as they say, else parameters."""
        return _read(frame, space, "a pandas.DataFrame", ("pandas",), {})

    @classmethod
    def from_emcee(
        cls, sampler: Any, space: ParameterSpace | None = None, *, burn_in: int | None = None, thin: int | None = None
    ) -> Chain:
        """Returns the chain of an emcee sampler or backend, with its log_prob; chain ids are walkers.

        Args:
            sampler: emcee.EnsembleSampler or a backend.
            space: the parameters in the sampler's order, and their bounds.
            burn_in: steps dropped; None for five autocorrelation times, at most half of the run.
            thin: keep every thin-th step; None for all, up to some 200,000 rows; of more as many, neighbours at most
                half an autocorrelation time apart.
        """
        return _read(sampler, space, "an emcee sampler or backend", ("emcee",), {"burn_in": burn_in, "thin": thin})

    @classmethod
    def from_numpyro(cls, mcmc: Any, space: ParameterSpace | None = None) -> Chain:
        """Returns the chain of a numpyro.infer.MCMC that has run; sites with a shape become name[0], name[1], ..."""
        return _read(mcmc, space, "a numpyro.infer.MCMC", ("numpyro",), {})

    @classmethod
    def from_pocomc(cls, sampler: Any, space: ParameterSpace | None = None) -> Chain:
        """Returns the chain of a pocomc.Sampler that has run: all particles, weights, log densities, evidence."""
        return _read(sampler, space, "a pocomc.Sampler", ("pocomc",), {})

    @classmethod
    def from_dynesty(cls, results: Any, space: ParameterSpace | None = None) -> Chain:
        """Returns the chain of dynesty's results: weights, log likelihood (not the posterior's density), evidence."""
        return _read(results, space, "results of dynesty", ("dynesty",), {})

    @classmethod
    def from_bilby(cls, result: Any, space: ParameterSpace | None = None) -> Chain:
        """Returns the chain of a bilby Result: search parameters, bounds of its priors, log densities, evidence."""
        return _read(result, space, "a bilby Result", ("bilby",), {})

    @classmethod
    def from_getdist(cls, samples: Any, space: ParameterSpace | None = None) -> Chain:
        """Returns the chain of a getdist.MCSamples: weights, log posterior, chains, ranges as bounds."""
        return _read(samples, space, "a getdist.MCSamples", ("getdist",), {})

    @classmethod
    def from_arviz(cls, data: Any, space: ParameterSpace | None = None) -> Chain:
        """Returns the chain of an InferenceData's or DataTree's posterior."""
        return _read(data, space, "InferenceData or a DataTree", ("arviz", "arviz_base", "xarray"), {})


def _read(
    source: Any, space: ParameterSpace | None, expected: str, packages: tuple[str, ...], options: Mapping[str, Any]
) -> Chain:
    from .readers import read_object  # readers make chains: they come after this class

    if not {base.__module__.split(".")[0] for base in type(source).__mro__[:-1]} & set(packages):
        raise TypeError(f"expected {expected}; got {type(source).__name__}. See read_chain for other sources.")
    return read_object(source, space, options, stacklevel=4)
