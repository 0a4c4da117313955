"""Draws that sit exactly on a declared bound: rounded values, which no density on the open box can hold."""

from __future__ import annotations

import warnings

import numpy as np

from .._util.messages import FlowPriorWarning
from .chain import Chain

_PILED = 0.01  # share of the draws exactly on a bound above which the user is told


def off_the_edges(chain: Chain) -> Chain:
    """Returns the chain with draws that sit exactly on a bound moved inside.

    A value on the bound is a rounded one. Such draws are spread evenly over half the distance to the nearest draw off
    the bound, in the order of the rows. A warning tells when more than one per cent of the draws are concerned: then
    the density may have an atom there, which no flow can hold.
    """
    samples = chain.samples
    for j, name in enumerate(chain.names):
        for bound, sign in ((chain.space.lower[j], 1.0), (chain.space.upper[j], -1.0)):
            on_edge = samples[:, j] == bound
            count = int(on_edge.sum())
            if count in (0, chain.n):
                continue
            samples = samples.copy() if samples is chain.samples else samples
            gap = np.min(sign * (samples[~on_edge, j] - bound))
            samples[on_edge, j] = bound + sign * 0.5 * gap * (np.arange(count) + 0.5) / count
            if count > _PILED * chain.n:
                warnings.warn(
                    f"chain: {count} of {chain.n} draws of {name!r} sit exactly on the bound {bound:g}; they are "
                    "taken for rounded values and spread just inside. If the parameter was clipped there, use the "
                    "unclipped draws.",
                    FlowPriorWarning,
                    stacklevel=3,
                )
    if samples is chain.samples:
        return chain
    samples.setflags(write=False)
    return chain.replace(samples=samples, rows=chain.rows)
