"""The fingerprint of a learned prior: equal for equal densities, in every process."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from ..flows.layout import flatten_params
from .flow_prior import FlowPrior


def prior_fingerprint(prior: FlowPrior) -> str:
    """Returns the SHA-256 of the density of a learned prior: configuration, names, bounds and parameters."""
    described = [prior.config.to_json(), prior.names, prior.space.bounds.tolist()]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, values in sorted(flatten_params(prior.params).items()):
        digest.update(name.encode())
        digest.update(np.asarray(values).tobytes())
    return digest.hexdigest()
