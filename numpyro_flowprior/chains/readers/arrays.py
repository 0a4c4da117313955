"""Arrays and dictionaries in memory: samples, or one array per parameter, with fields beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..._checks import float_array, shorten
from ..table import EVIDENCE, FIELDS, KINDS, Table, table_of_columns

_NO_LOG_PROB = "none: not given"
_POCOMC = {
    "chain": "samples",
    "logl": "log_likelihood",
    "logp": "log_prior",
    "logz": "log_evidence",
    "logz_err": "log_evidence_error",
}
_SUM = "log_likelihood + log_prior: log posterior up to a constant, prior included"


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
) -> Table:
    """Returns the table of samples (n, d) or (chains, draws, d), or of a structured array with named fields.

    What is given beside the samples has one value per draw: (n,), or (chains, draws); `weights_kind` and `rows` are
    those of a Chain.
    """
    given = (log_prob, log_prior, log_likelihood, weights, chain_id, family_id)
    fields = {name: np.asarray(values) for name, values in zip(FIELDS, given, strict=True) if values is not None}
    if getattr(getattr(samples, "dtype", None), "names", None):
        columns = {name: samples[name] for name in samples.dtype.names}
        return table_of_columns(columns | fields, weights_kind=weights_kind, rows=rows)
    array = float_array(samples, "samples")
    if array.ndim == 3:
        chains, draws, dim = array.shape
        array = array.reshape(-1, dim)
        fields = {name: values.reshape(-1) for name, values in fields.items()}
        fields.setdefault("chain_id", np.repeat(np.arange(chains), draws))
    return Table(
        array,
        fields=fields,
        info={"source": "array", "log_prob": _NO_LOG_PROB if log_prob is None else "as given"},
        weights_kind=weights_kind,
        rows=rows,
    )


def read_dict(record: Mapping[str, Any]) -> Table:
    """Returns the table of a dictionary.

    Either {name: values (n,) or (n, ...)} with log_prob, log_prior, log_likelihood, weight(s), chain_id, family_id as
    they say; or {samples: (n, d), names: (d,), ...} with the same beside; or what analyses with pocoMC publish:
    {chain (n, d), weights, logl, logp, logz, logz_err}, with the log prior in logp.
    """
    if not all(isinstance(name, str) for name in record):
        raise TypeError(f"expected names as keys; got {shorten(name for name in record if not isinstance(name, str))}.")
    published = np.ndim(record.get("chain", 0)) == 2
    if not published and np.ndim(record.get("samples", 0)) != 2:
        return table_of_columns(record, info={"source": "dictionary"})
    if published:
        record = {_POCOMC.get(key, key): value for key, value in record.items()}
    known = ("samples", "names", *FIELDS, *EVIDENCE, *KINDS)
    fields = {name: np.asarray(record[name]) for name in FIELDS if record.get(name) is not None}
    info: dict[str, Any] = {
        "source": "dictionary of pocoMC" if published else "dictionary",
        "log_prob": "as given" if "log_prob" in fields else _NO_LOG_PROB,
    }
    left_out = {name: "not an entry that a chain has" for name in record if name not in known}
    return with_log_posterior(
        Table(
            float_array(record["samples"], "samples"),
            tuple(record["names"]) if "names" in record else None,
            fields,
            evidence={name: record.get(name) for name in EVIDENCE},
            info={**info, "left_out": left_out} if left_out else info,
            weights_kind="importance" if published and "weights" in fields else record.get("weights_kind"),
            rows="independent" if published else record.get("rows"),
        )
    )


def with_log_posterior(table: Table) -> Table:
    """Returns the table with log_prob = log_likelihood + log_prior, where it has both."""
    fields, info = dict(table.fields), dict(table.info)
    if "log_prob" not in fields and {"log_likelihood", "log_prior"} <= fields.keys():
        likelihood, prior = fields["log_likelihood"], fields["log_prior"]
        if likelihood.shape != prior.shape:
            raise ValueError(
                f"log_likelihood and log_prior: expected equal shapes; got {likelihood.shape} and {prior.shape}."
            )
        fields["log_prob"], info["log_prob"] = likelihood + prior, _SUM
    return replace(table, fields=fields, info=info)
