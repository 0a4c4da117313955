"""Arrays and dictionaries in memory: samples, or one array per parameter, with fields beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .._util.checks import FloatArray, float_array, shorten
from .columns import exponentiated, table_of_columns, with_log_posterior
from .declared import ENTRIES, complaint_of_unused, declarations
from .table import EVIDENCE, FIELDS, KINDS, Table

_NO_LOG_PROB = "none: not given"
_POCOMC = {
    "chain": "samples",
    "logl": "log_likelihood",
    "logp": "log_prior",
    "logz": "log_evidence",
    "logz_err": "log_evidence_error",
}
_OTHERS = {"weight": "weights", "paramnames": "names", "logzerr": "log_evidence_error"}  # dynesty's and UltraNest's
_LOG_WEIGHTS = ("logwt", "logw")
_TURNED = 0.2  # correlation of neighbours along an axis that makes it the steps of a sampler


def read_array(
    samples: Any,
    *,
    log_prob: Any = None,
    log_prior: Any = None,
    log_likelihood: Any = None,
    weights: Any = None,
    chain_id: Any = None,
    family_id: Any = None,
    weights_kind: str | None = None,
    rows: str | None = None,
    parameters: Sequence[str] = (),
) -> Table:
    """Returns the table of samples (n, d) or (chains, draws, d), or of a structured array with named fields.

    What is given beside the samples has one value per draw: (n,), or (chains, draws); `weights_kind` and `rows` are
    those of a Chain.
    """
    given = (log_prob, log_prior, log_likelihood, weights, chain_id, family_id)
    fields = {name: np.asarray(values) for name, values in zip(FIELDS, given, strict=True) if values is not None}
    if getattr(getattr(samples, "dtype", None), "names", None):
        columns = {name: samples[name] for name in samples.dtype.names}
        return table_of_columns(columns | fields, parameters=parameters, weights_kind=weights_kind, rows=rows)
    array = float_array(samples, "samples")
    if array.ndim == 3:
        array, fields = _flattened(array, fields)
    return Table(
        array,
        fields=fields,
        info={"source": "array", "log_prob": _NO_LOG_PROB if log_prob is None else "as given"},
        weights_kind=weights_kind,
        rows=rows,
    )


def read_dict(record: Mapping[str, Any], *, parameters: Sequence[str] = ()) -> Table:
    """Returns the table of a dictionary.

    It is one of these:
    - {name: values (n,) or (n, ...)}, with log_prob, log_prior, log_likelihood, weight(s), chain_id, family_id as they
      say, and bounds, units and labels as dictionaries by name;
    - {samples: (n, d) or (chains, draws, d), names: (d,), ...}, with the same beside, and bounds, units and labels as
      in npz files;
    - what analyses with pocoMC publish, {chain (n, d), weights, logl, logp, logz, logz_err}, the log prior in logp;
    - what nested samplers give, {samples, logl, logz, ...}, with log weights in logwt (dynesty) or logw.
    """
    if not all(isinstance(name, str) for name in record):
        raise TypeError(f"expected names as keys; got {shorten(name for name in record if not isinstance(name, str))}.")
    record = _renamed(record, _OTHERS)
    if np.ndim(record.get("chain", 0)) == 3:
        record = _renamed(record, {"chain": "samples"})
    published = np.ndim(record.get("chain", 0)) == 2
    if not published and np.ndim(record.get("samples", 0)) not in (2, 3):
        declared = {name: record.pop(name) for name in ENTRIES if isinstance(record.get(name), Mapping)}
        table = _require_rows(table_of_columns(record, parameters=parameters, info={"source": "dictionary"}))
        return replace(table, **{**declarations(declared, table.names or ()), "names": table.names})
    nested = next((name for name in _LOG_WEIGHTS if record.get(name) is not None and "weights" not in record), None)
    if published or nested:
        record = _renamed(record, _POCOMC)
    if nested:
        record["weights"] = exponentiated(np.asarray(record.pop(nested), np.float64))
        for name in EVIDENCE:  # dynesty's are of every step: the last one is the run's
            record[name] = np.ravel(record[name])[-1] if record.get(name) is not None else None
    known = ("samples", *ENTRIES, *FIELDS, *EVIDENCE, *KINDS)
    fields = {name: np.asarray(record[name]) for name in FIELDS if record.get(name) is not None}
    info: dict[str, Any] = {
        "source": "dictionary of pocoMC" if published else "dictionary",
        "log_prob": "as given" if "log_prob" in fields else _NO_LOG_PROB,
    }
    left_out = {name: "not an entry that a chain has" for name in record if name not in known}
    samples = float_array(record["samples"], "samples")
    if samples.ndim == 3:
        samples, fields = _flattened(samples, fields)
    weighted = (published or nested) and "weights" in fields
    entries = () if published or nested else [name for name in left_out if np.size(record[name]) > 1]
    return with_log_posterior(
        Table(
            samples,
            fields=fields,
            **declarations(record, samples.shape[-1]),
            evidence={name: record.get(name) for name in EVIDENCE},
            info={**info, "left_out": left_out} if left_out else info,
            complaints=complaint_of_unused(entries, "Entries"),
            weights_kind="importance" if weighted else record.get("weights_kind"),
            rows="independent" if published or nested else record.get("rows"),
        )
    )


def _renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns a record under other names, but for those that it has already."""
    return {names[key] if names.get(key, key) not in record else key: value for key, value in record.items()}


def _flattened(array: FloatArray, fields: dict[str, Any]) -> tuple[FloatArray, dict[str, Any]]:
    """Returns samples (chains, draws, d) and what is beside them as rows, chain after chain."""
    chains, draws, dim = array.shape
    if chains > draws and _neighbours(array, 0) > max(_TURNED, 2.0 * _neighbours(array, 1)):
        raise ValueError(
            f"samples: expected (chains, draws, parameters); got {array.shape}, whose rows are correlated along the "
            "first axis, not the second, as emcee's get_chain() gives (steps, walkers, parameters). Pass the sampler "
            "itself, or samples.swapaxes(0, 1)."
        )
    flat = {name: values.reshape(-1) for name, values in fields.items()}
    return array.reshape(-1, dim), {"chain_id": np.repeat(np.arange(chains), draws), **flat}


def _neighbours(array: FloatArray, axis: int) -> float:
    """Returns the largest correlation of a parameter (chains, draws, d) with its neighbour along an axis."""
    centred = array - array.mean(axis=(0, 1))
    if array.shape[axis] < 2:
        return 0.0
    first, second = (np.take(centred, np.arange(array.shape[axis] - 1) + k, axis=axis) for k in (0, 1))
    scale = np.sqrt((first**2).sum(axis=(0, 1)) * (second**2).sum(axis=(0, 1)))
    return float(np.max((first * second).sum(axis=(0, 1)) / np.where(scale > 0, scale, 1.0)))


def _require_rows(table: Table) -> Table:
    rows, columns = table.samples.shape
    if 1 < rows < columns:
        raise ValueError(
            f"expected more rows than parameters; got {rows} of {columns}. Arrays begin with the rows: flatten draws "
            "grouped by chain, (chains, draws, ...), to (chains * draws, ...), and say which is whose by chain_id."
        )
    return table
