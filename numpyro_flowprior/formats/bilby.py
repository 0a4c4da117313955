"""Reads bilby results: the JSON file of a Result (also gzipped), and the object itself."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._util.checks import shorten
from .bilby_priors import bounds_of, is_conditional, keyword, notes_on, number_of
from .columns import table_of_columns
from .table import Table

_DENSITIES = ("log_likelihood", "log_prior")
_NONE = "none: the columns log_likelihood and log_prior are not both present"
_NESTED = {"cpnest", "dynamic_dynesty", "dynesty", "nautilus", "nessai", "nestle", "pymultinest", "pypolychord"}
_NESTED |= {"ultranest"}  # bilby resamples the posteriors of these samplers to equal weights


def read_bilby(path: Path) -> Table:
    """Returns the table of a bilby result file: the posterior's search parameters, with bounds from its priors.

    Other columns (fixed and converted parameters) are marked as derived and read only on request. `info["priors"]`
    lists what bounds cannot express about a prior (constraints, periodic parameters, discrete values).
    """
    raw = path.read_bytes()
    try:
        record = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"not readable JSON ({error}). It may be truncated: copy it again.") from error
    posterior = record.get("posterior") if isinstance(record, Mapping) else None
    if not isinstance(posterior, Mapping) or not isinstance(posterior.get("content"), Mapping):
        got = shorten(record, 40) if isinstance(record, Mapping) else type(record).__name__
        raise ValueError(f"expected a bilby result with the frame 'posterior'; the file has {got or 'nothing'}.")
    priors = record.get("priors")
    if isinstance(priors, Mapping) and isinstance(priors.get("content"), Mapping) and "__prior_dict__" in priors:
        priors = priors["content"]
    return _table(posterior["content"], record, priors if isinstance(priors, Mapping) else {})


def read_bilby_result(result: Any) -> Table:
    """Returns the table of a bilby.core.result.Result (see `read_bilby`)."""
    if getattr(result, "posterior", None) is None:
        raise ValueError("expected a bilby Result with a posterior; got one without.")
    columns = {str(name): result.posterior[name].to_numpy() for name in result.posterior.columns}
    record = {
        name: getattr(result, name, None) for name in ("search_parameter_keys", "log_evidence", "log_evidence_err")
    }
    priors = {
        name: {"__name__": type(prior).__name__, "kwargs": _described(prior)}
        for name, prior in (result.priors or {}).items()
    }
    return _table(columns, {**record, "sampler": getattr(result, "sampler", None)}, priors)


def _described(prior: Any) -> dict[str, Any]:
    return {name: getattr(prior, name, None) for name in ("minimum", "maximum", "unit", "latex_label", "boundary")}


def _table(columns: Mapping[str, Any], record: Mapping[str, Any], priors: Mapping[str, Any]) -> Table:
    searched = record.get("search_parameter_keys") or [name for name in columns if name not in _DENSITIES]
    missing = [name for name in searched if name not in columns]
    if missing:
        raise ValueError(
            f"expected columns for all search parameters; {shorten(missing)} missing from {list(columns)}."
        )
    texts = {name for name, values in columns.items() if np.asarray(values).dtype.kind not in "fiu"}
    unread = [name for name in texts if name in searched]
    if unread:
        raise ValueError(f"expected numbers for the search parameters; got other values in {shorten(unread)}.")
    numbers = {name: values for name, values in columns.items() if name not in texts}
    theirs = {"log_evidence": "log_evidence", "log_evidence_error": "log_evidence_err"}
    evidence = {name: number_of(record.get(their_name)) for name, their_name in theirs.items()}
    unusable = [name for name in _DENSITIES if name in numbers and np.isnan(np.asarray(numbers[name], float)).any()]
    left_out = {name: "not a column of numbers" for name in sorted(texts)}
    left_out |= {name: f"NaN in {int(np.isnan(numbers.pop(name)).sum())} rows" for name in unusable}
    known = {name: prior for name, prior in priors.items() if isinstance(prior, Mapping) and name in searched}
    bounds = {name: bounds_of(prior) for name, prior in known.items()}
    beyond = {name: _is_beyond(numbers[name], ends) for name, ends in bounds.items()}
    bounds |= {name: (-np.inf, np.inf) for name, far in beyond.items() if far and is_conditional(known[name])}
    notes = notes_on(priors, beyond)
    return table_of_columns(
        numbers,
        parameters=list(numbers),
        bounds=bounds,
        units={name: keyword(prior, "unit") or "" for name, prior in known.items()},
        labels={name: keyword(prior, "latex_label") or name for name, prior in known.items()},
        derived=tuple(name for name in numbers if name not in searched),
        evidence={ours: number for ours, number in evidence.items() if number is not None and np.isfinite(number)},
        info={
            "source": "bilby",
            "sampler": record.get("sampler"),
            "log_prob": _NONE,
            **({"left_out": left_out} if left_out else {}),
            **({"priors": notes} if notes else {}),
        },
        complaints=tuple(f"{name}: left out, because it is {left_out[name]}." for name in unusable),
        rows="independent" if str(record.get("sampler")).lower() in _NESTED else None,
    )


def _is_beyond(values: Any, bounds: tuple[float, float]) -> bool:
    column = np.asarray(values)
    return bool(np.any((column < bounds[0]) | (column > bounds[1])))
