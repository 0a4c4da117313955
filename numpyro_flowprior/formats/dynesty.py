"""Reads the results of dynesty, or a sampler that holds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .table import Table

_LOG_PROB = "none: logl is the log likelihood alone; the prior is implicit in the prior transform"


def read_dynesty(results: Any) -> Table:
    """Returns the table of dynesty results (or of a sampler): weights exp(logwt - logz[-1]), likelihood, evidence."""
    results = getattr(results, "results", results)
    missing = [name for name in ("samples", "logwt", "logz", "logl") if not hasattr(results, name)]
    if missing:
        raise TypeError(
            f"expected dynesty results; got {type(results).__name__} without {', '.join(missing)}. "
            "Pass sampler.results after run_nested."
        )
    log_evidence = np.asarray(results.logz)
    if not log_evidence.size:
        raise ValueError("expected the results of a run; got none. Call run_nested first.")
    error = getattr(results, "logzerr", None)
    return Table(
        np.asarray(results.samples),
        fields={
            "weights": np.exp(np.asarray(results.logwt) - log_evidence[-1]),
            "log_likelihood": np.asarray(results.logl),
        },
        evidence={
            "log_evidence": log_evidence[-1],
            "log_evidence_error": None if error is None else np.asarray(error)[-1],
        },
        info={"source": "dynesty", "log_prob": _LOG_PROB},
        weights_kind="importance",
        rows="independent",
    )
