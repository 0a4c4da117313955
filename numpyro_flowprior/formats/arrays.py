"""Reads arrays and dictionaries in memory: samples or one array per parameter, with optional fields per draw."""

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
_OTHERS = {"weight": "weights", "paramnames": "names", "logzerr": "log_evidence_error"}  # dynesty and UltraNest
_LOG_WEIGHTS = ("logwt", "logw")
_TURNED = 0.2  # correlation of neighbours along an axis above which the axis may be the steps of a sampler


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

    The other arrays have one value per draw, shape (n,) or (chains, draws). `weights_kind` and `rows` are as in Chain.
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

    The dictionary has one of these forms:
    - {name: values (n,) or (n, ...)}. log_prob, log_prior, log_likelihood, weight(s), chain_id and family_id are
      recognised by name. bounds, units and labels are dictionaries by parameter name.
    - {samples: (n, d) or (chains, draws, d), names: (d,), ...}, with the same fields. bounds, units and labels are as
      in npz files.
    - {chain (n, d), weights, logl, logp, logz, logz_err}, which analyses with pocoMC publish. logp is the log prior.
    - {samples, logl, logz, ...}, from nested samplers. The log weights are in logwt (dynesty) or logw.
    """
    if not all(isinstance(name, str) for name in record):
        raise TypeError(f"expected string keys; got {shorten(name for name in record if not isinstance(name, str))}.")
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
        for name in EVIDENCE:  # dynesty has one value per step; the last is that of the run
            record[name] = np.ravel(record[name])[-1] if record.get(name) is not None else None
    known = ("samples", *ENTRIES, *FIELDS, *EVIDENCE, *KINDS)
    fields = {name: np.asarray(record[name]) for name in FIELDS if record.get(name) is not None}
    info: dict[str, Any] = {
        "source": "dictionary of pocoMC" if published else "dictionary",
        "log_prob": "as given" if "log_prob" in fields else _NO_LOG_PROB,
    }
    left_out = {name: "not an entry of a chain" for name in record if name not in known}
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
    """Returns a record with its keys renamed. A key stays if the record already has the new name."""
    return {names[key] if names.get(key, key) not in record else key: value for key, value in record.items()}


def _flattened(array: FloatArray, fields: dict[str, Any]) -> tuple[FloatArray, dict[str, Any]]:
    """Returns samples (chains, draws, d) and their fields as rows, one chain after the other, with chain ids."""
    chains, draws, dim = array.shape
    if chains > draws and _neighbours(array, 0) > max(_TURNED, 2.0 * _neighbours(array, 1)):
        raise ValueError(
            f"samples: expected shape (chains, draws, parameters); got {array.shape}, with values correlated along the "
            "first axis and not along the second. emcee's get_chain() has shape (steps, walkers, parameters). Pass the "
            "sampler itself, or samples.swapaxes(0, 1)."
        )
    flat = {name: values.reshape(-1) for name, values in fields.items()}
    return array.reshape(-1, dim), {"chain_id": np.repeat(np.arange(chains), draws), **flat}


def _neighbours(array: FloatArray, axis: int) -> float:
    """Returns the correlation of neighbours along an axis of (chains, draws, d): the largest over the parameters."""
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
            f"expected more rows than parameters; got {rows} rows of {columns} parameters. The first axis of an array "
            "is that of the rows. If draws are grouped by chain, (chains, draws, ...), flatten them to "
            "(chains * draws, ...), and pass chain_id."
        )
    return table
