"""Fingerprints of the inputs of a stage's files: a file is up to date as long as they are the same."""

from __future__ import annotations

import hashlib

import numpy as np

from ..chains.chain import Chain
from ..priors.flow_prior import FlowPrior

_PER_DRAW = ("log_prob", "log_prior", "log_likelihood", "chain_id")  # not included in `Chain.fingerprint`


def chain_fingerprint(chain: Chain) -> str:
    """Returns the SHA-256 of a chain: names, samples, weights, log densities, chain labels and evidence."""
    digest = hashlib.sha256(chain.fingerprint().encode())
    for name in _PER_DRAW:
        values = getattr(chain, name)
        digest.update(f"{name} {values is not None}".encode())
        if values is not None:
            digest.update(np.asarray(values).tobytes())
    digest.update(repr((chain.log_evidence, chain.log_evidence_error)).encode())
    return digest.hexdigest()


def learnt_from(prior: FlowPrior, chain: Chain) -> bool:
    """Returns whether a prior was trained on these samples and weights, according to its own record."""
    if not set(prior.names) <= set(chain.names):
        return False
    return prior.info.get("chain", {}).get("fingerprint") == chain.select(prior.names).fingerprint()
