"""Draws exactly on a declared bound: rounded values, where a density on the open box is not defined."""

from __future__ import annotations

import warnings

import numpy as np

from .._util.messages import FlowPriorWarning
from .chain import Chain

_PILED = 0.01  # share of the draws exactly on a bound above which the user is warned


def off_the_edges(chain: Chain) -> Chain:
    """Returns the chain with draws that sit exactly on a bound moved inside.

    Such values are assumed to be rounded. In the order of the rows, they are spread evenly over half the distance to
    the nearest draw off the bound. There is a warning if they are more than one per cent of the draws. The density may
    then have an atom on the bound, which no flow can represent.
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
                    "treated as rounded values and moved just inside. If the parameter was clipped there, use the "
                    "unclipped draws.",
                    FlowPriorWarning,
                    stacklevel=3,
                )
    if samples is chain.samples:
        return chain
    samples.setflags(write=False)
    return chain.replace(samples=samples, rows=chain.rows)
