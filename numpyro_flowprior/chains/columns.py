"""Columns of named values: which are parameters, which belong to each draw, and which only number the rows.

csv and parquet files, pandas frames, dictionaries and bilby's results are tables of named columns, and tell by names
alone what a column is. A log density or a row number that is taken for a parameter makes a prior silently wrong; so
does a column of weights that is taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .._checks import float_array, shorten
from .table import FIELDS, LABELS, Table, flattened, whole_numbers

_WEIGHTS = {"weight", "weights", "importanceweight", "importanceweights"}
_LOG_WEIGHTS = {"logwt", "logw", "logweight", "logweights"}
_CHAINS = {"chain", "chainid", "walker"}
_NUMBERS = {"", "draw", "draws", "index", "iter", "iteration", "row", "sample", "step"}
_DENSITY = re.compile(r"(minus)?(log|ln)(p|prob|post|posterior|like|lik|likelihood|prior|l|lbirth)|lp|chi2|nlive")
_PERIODS = {"logP", "lnP"}  # of which these are the logarithm, as a rule
_FEWEST = 10  # steps of one size: a column of fewer may have them by chance
_UNCLEAR = (
    "the name is that of a log density or the like. Call it log_prob (the log posterior, prior included), log_prior or "
    "log_likelihood if it is one of these"
)
_STEADY = "it counts the rows, in steps of one size"
_SUM = "log_likelihood + log_prior: log posterior up to a constant, prior included"


def table_of_columns(columns: Mapping[str, Any], *, parameters: Sequence[str] = (), **parts: Any) -> Table:
    """Returns the table of named columns, (n,) or (n, ...) each; vectors become `name[0]`, `name[1]`, ...

    log_prob, log_prior, log_likelihood, weight(s), chain_id and family_id are what they say. So are, in any spelling,
    weights, logarithms of weights (`logwt`), and the chains and row numbers of other packages (`chain__`, `.draw`,
    `Unnamed: 0`). Stan's and PyMC's own columns (`lp__`) are left out. A column whose name is that of a log density but
    does not say of which (`logp`, `LogLikelihood`), and one that counts the rows, are doubtful (see Table).

    Args:
        columns: {name: values}.
        parameters: names of columns that are parameters, whatever they are called.
        **parts: further fields of the table.
    """
    known = {name: _numbers(values, name) for name, values in columns.items() if name in FIELDS}
    own = [name for name in columns if name.endswith("__") and _plain(name) not in _CHAINS | _NUMBERS]
    others = {name: _numbers(values, name) for name, values in columns.items() if name not in (*FIELDS, *own)}
    fields, why = _fields(known, {name: values for name, values in others.items() if name not in parameters})
    doubts: dict[str, str] = {}
    for name, values in others.items():
        if name in why or name in parameters:
            continue
        if _plain(name) in _NUMBERS and _are_distinct(values, fields.get("chain_id")):
            why[name] = "numbers the rows"
        elif _DENSITY.fullmatch(_plain(name)) and name.replace("_", "") not in _PERIODS:
            doubts[name] = _UNCLEAR
        elif _are_steady(values, fields.get("chain_id")):
            doubts[name] = _STEADY
    why |= dict.fromkeys(own, "the sampler's own column")
    kept = {name: values for name, values in others.items() if name not in why}
    if not kept.keys() - doubts.keys():  # of nothing but counts, the counts are what the table is about
        doubts = {name: why for name, why in doubts.items() if why != _STEADY}
    if not kept.keys() - doubts.keys():
        raise ValueError(f"expected at least one parameter column; got only {shorten(columns) or 'nothing'}.")
    names, samples = flattened(kept)
    doubtful = {name: doubts[base] for name in names if (base := name.split("[")[0]) in doubts}
    info: dict[str, Any] = {
        "log_prob": "column 'log_prob', taken at its name" if "log_prob" in fields else "none: no such column"
    }
    info |= parts.pop("info", {})
    if why or info.get("left_out"):
        info["left_out"] = {**why, **info.get("left_out", {})}
    return with_log_posterior(Table(samples, names, fields, **{"doubtful": doubtful, **parts, "info": info}))


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


def labels_of_rows(levels: Mapping[str, Any], taken: Sequence[str]) -> dict[str, Any]:
    """Returns what a frame's index {name: (n,)} says of its draws, weights and chains; other levels number the rows.

    Args:
        levels: of the index.
        taken: names of columns.
    """
    known = {*map(_plain, taken)}
    return {
        name: np.asarray(values)
        for name, values in levels.items()
        if _plain(name) in _WEIGHTS | _CHAINS and _plain(name) not in known
    }


def _fields(known: dict[str, Any], others: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the fields, and {column: field} of those that are called otherwise."""
    fields = {name: whole_numbers(values, name) if name in LABELS else values for name, values in known.items()}
    taken = {}
    weights = [name for name in others if _plain(name) in _WEIGHTS | _LOG_WEIGHTS]
    given = [*(["weights"] if "weights" in fields else []), *weights]
    if len(given) > 1:
        raise ValueError(f"expected one column of weights; got {shorten(given, 40)}. Remove or rename the others.")
    for name in weights:
        logs = others[name] if _plain(name) in _LOG_WEIGHTS else None
        fields["weights"] = others[name] if logs is None else np.exp(logs - logs.max())
        taken[name] = "read as weights"
    chains = [name for name in others if _plain(name) in _CHAINS and _is_label(others[name])]
    for name in chains[:1] if "chain_id" not in fields else []:
        fields["chain_id"], taken[name] = whole_numbers(others[name], name), "read as chain_id"
    return fields, taken


def _plain(name: str) -> str:
    """Returns a name as it is compared: `.chain`, `chain__` and `Chain` are one; pandas' `Unnamed: 0` is none."""
    return (
        "" if re.fullmatch(r"Unnamed: \d+|__index_level_\d+__", name) else name.strip(" ._#").replace("_", "").lower()
    )


def _is_label(values: np.ndarray) -> bool:
    """Returns whether whole numbers (n,) are shared by rows, as a chain's are."""
    return values.ndim == 1 and _are_whole(values) and 2 * len(np.unique(values)) <= len(values)


def _are_distinct(values: np.ndarray, chain_id: np.ndarray | None) -> bool:
    """Returns whether whole numbers (n,) differ from row to row, within each chain at least."""
    if values.ndim != 1 or not _are_whole(values):
        return False
    pairs = np.stack([np.zeros(len(values)) if chain_id is None else chain_id, values])
    return np.unique(pairs, axis=1).shape[1] == len(values)


def _are_steady(values: np.ndarray, chain_id: np.ndarray | None) -> bool:
    """Returns whether whole numbers (n,) go up or down in steps of one size, within each chain."""
    if values.ndim != 1 or not _are_whole(values[: 2 * _FEWEST]) or not _are_whole(values):
        return False
    labels = np.zeros(len(values)) if chain_id is None else chain_id
    order = np.argsort(labels, kind="stable")
    steps = np.diff(values[order])[np.diff(labels[order]) == 0]
    return len(steps) >= _FEWEST and steps[0] != 0.0 and bool(np.all(steps == steps[0]))


def _are_whole(values: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(values) & (np.round(values) == values)))


def _numbers(values: Any, name: str) -> np.ndarray:
    array = float_array(values, f"column {name!r}")
    if not array.ndim:
        raise ValueError(f"column {name!r}: expected one value per draw; got a single number.")
    return array
