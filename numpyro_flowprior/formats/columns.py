"""Decides which named columns are parameters, which are fields of each draw, and which only number the rows.

csv and parquet files, pandas frames, dictionaries and bilby results are tables of named columns. Only the name declares
what a column is. If a log density, a row number or a weight is read as a parameter, the prior is silently wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .._util.checks import float_array, shorten
from ..chains.convergence import are_counts
from .table import FIELDS, LABELS, Table, flattened, whole_numbers

STAR = "*"  # at the end of the name of a derived quantity
_WEIGHTS = {"weight", "weights", "importanceweight", "importanceweights", "posteriorweight", "posteriorweights"}
_LOG_WEIGHTS = {"logwt", "logw", "logweight", "logweights", "lnw", "lnweight", "lnweights"}
_CHAINS = {"chain", "chainid", "walker", "walkerid"}
_NUMBERS = {"", "draw", "draws", "index", "iter", "iteration", "row", "sample", "step"}
_DENSITY = re.compile(
    r"(log|ln)(p|prob|post|posterior|like|lik|likelihood|prior|l|lkl|pdf)|lp|(minus|m)(log|ln)(post|prior|like|lik|lkl)|"
    r"nll|chi2|potentialenergy"
)
_NEGATIVE = re.compile(r"m.*|nll|chi2|potentialenergy")  # those for minus a log density
_PERIODS = {"logP", "lnP"}  # usually the logarithm of a period, not a log density
_UNNAMED = re.compile(r"Unnamed: \d+|__index_level_\d+__")
_ALONG = re.compile(r".+_dim_\d+")  # xarray's name for an index along a dimension of a variable
_FEWEST = 10  # equal steps; a column with fewer may have them by chance
_UNCLEAR = (
    "the name denotes a log density. If it is the log posterior (prior included), the log prior or the log likelihood, "
    "call it log_prob, log_prior or log_likelihood"
)
_UNCLEAR_SIGN = (
    "the name denotes minus a log density. If it is minus the log posterior (prior included), change its sign and call "
    "it log_prob"
)
_STEADY = "it counts the rows in equal steps"
_REPEATED = "the name denotes a row number, and it holds whole numbers"
_SUM = "log_likelihood + log_prior: log posterior up to a constant, prior included"


def table_of_columns(
    columns: Mapping[str, Any], *, index: Mapping[str, Any] | None = None, parameters: Sequence[str] = (), **parts: Any
) -> Table:
    """Returns the table of named columns, (n,) or (n, ...) each; vectors become `name[0]`, `name[1]`, ...

    log_prob, log_prior, log_likelihood, weight(s), chain_id and family_id are recognised by name. So are, in any
    spelling, weights, logarithms of weights (`logwt`), and the chain and row numbers of other packages (`chain__`,
    `.draw`, `Unnamed: 0`). Internal columns of Stan and PyMC (`lp__`) are left out. Doubtful columns (see Table)
    are those with the name of a log density that does not say which (`logp`, `LogLikelihood`), and counts of the rows.
    A star at the end of a name marks a derived quantity, as in GetDist; it is no part of the name. Derived log
    densities and weights, and derived quantities with the name of another column, are left out.

    Args:
        columns: {name: values}.
        index: {name: (n,)} levels of a frame's index. Weights and chains are recognised by name; others label the rows.
        parameters: names of columns that are parameters, even if they look like something else.
        **parts: further fields of the table.

    Raises:
        ValueError: there are two columns of weights, no parameter, or one row per element of a vector (long format).
    """
    index = index or {}
    columns, derived, unclear = _without_stars(columns, parameters)
    parameters = [*parameters, *derived]
    labels = _labels(index, columns)
    columns = {**columns, **labels}
    own = [name for name in columns if _is_own(name) and name not in parameters]
    known = {name: _numbers(columns[name], name) for name in columns if name in FIELDS}
    others = {name: _numbers(values, name) for name, values in columns.items() if name not in (*FIELDS, *own)}
    fields, why = _fields(known, {name: values for name, values in others.items() if name not in parameters})
    free = {name: values for name, values in others.items() if name not in why and name not in parameters}
    levels = {name: values for name, values in index.items() if np.asarray(values).dtype.kind in "iuf"}
    _require_wide({**free, **levels}, fields.get("chain_id"))
    numbers, doubts = _doubts(free, fields.get("chain_id"))
    why |= numbers | dict.fromkeys(own, "the sampler's own column") | unclear
    why |= {name: "labels of rows" for name in index if name not in labels}
    kept = {name: values for name, values in others.items() if name not in why}
    sampled = kept.keys() - {*derived}
    if not sampled - doubts.keys():  # if there are only counts, they are the parameters
        doubts = {name: doubt for name, doubt in doubts.items() if doubt != _STEADY}
    if not sampled - doubts.keys():
        starred = " A star at the end of a name marks a derived quantity; ask for it by names=." if derived else ""
        written = [f"{name}{STAR}" if name in derived else name for name in columns]
        raise ValueError(f"expected at least one parameter column; got only {shorten(written) or 'nothing'}.{starred}")
    names, samples = flattened(kept)
    doubtful = {column: why for name, why in doubts.items() for column in flattened({name: kept[name]})[0]}
    info: dict[str, Any] = {
        "log_prob": "column 'log_prob', recognised by name" if "log_prob" in fields else "none: no such column"
    }
    info |= parts.pop("info", {})
    if why or info.get("left_out"):
        info["left_out"] = {**why, **info.get("left_out", {})}
    if any(_plain(name) in _WEIGHTS for name in labels) and not are_counts(fields["weights"]):
        parts.setdefault("weights_kind", "importance")  # of a nested sampler (anesthetic); MCMC has counts there
    parts = {"doubtful": doubtful, "derived": derived, **parts, "info": info}
    return with_log_posterior(Table(samples, names, fields, **parts))


def no_parameters(columns: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names of columns (n,) that `table_of_columns` would not read as parameters."""
    taken = [name for name in columns if name in FIELDS or _is_own(name) or _plain(name) in _WEIGHTS | _LOG_WEIGHTS]
    taken += [name for name in columns if name.endswith(STAR)]
    free = {name: values for name, values in columns.items() if name not in taken}
    _, labels = _fields({}, free)
    numbers, doubts = _doubts({name: values for name, values in free.items() if name not in labels}, None)
    return [name for name in columns if name in {*taken, *labels, *numbers, *doubts}]


def _without_stars(
    columns: Mapping[str, Any], parameters: Sequence[str]
) -> tuple[dict[str, Any], tuple[str, ...], dict[str, str]]:
    """Returns the columns under names without stars, the names of those that had one, and why some are left out."""
    starred = {name: name.removesuffix(STAR) for name in columns if name.endswith(STAR) and name not in parameters}
    unclear = {
        name: "derived, but with the name of a value per draw or of another column"
        for name, bare in starred.items()
        if not bare or bare in columns or bare in FIELDS or _plain(bare) in _WEIGHTS | _LOG_WEIGHTS
    }
    kept = {starred.get(name, name): values for name, values in columns.items() if name not in unclear}
    return kept, tuple(bare for name, bare in starred.items() if name not in unclear), unclear


def with_log_posterior(table: Table) -> Table:
    """Returns the table with log_prob = log_likelihood + log_prior, if it has both and no log_prob."""
    fields, info = dict(table.fields), dict(table.info)
    if "log_prob" not in fields and {"log_likelihood", "log_prior"} <= fields.keys():
        likelihood, prior = fields["log_likelihood"], fields["log_prior"]
        if likelihood.shape != prior.shape:
            raise ValueError(
                f"log_likelihood and log_prior: expected equal shapes; got {likelihood.shape} and {prior.shape}."
            )
        fields["log_prob"], info["log_prob"] = likelihood + prior, _SUM
    return replace(table, fields=fields, info=info)


def _labels(index: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the levels of a frame's index that hold weights or chains, unless a column has the same name."""
    known = {*map(_plain, columns)}
    return {
        name: np.asarray(values)
        for name, values in index.items()
        if _plain(name) in _WEIGHTS | _CHAINS and _plain(name) not in known
    }


def _fields(known: dict[str, Any], others: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the fields, and {column: why it is not a parameter} of columns that are fields under other names."""
    fields = {name: whole_numbers(values, name) if name in LABELS else values for name, values in known.items()}
    why = {}
    single = {name: values for name, values in others.items() if values.ndim == 1}
    weights = [name for name in single if _plain(name) in _WEIGHTS | _LOG_WEIGHTS]
    given = [*(["weights"] if "weights" in fields else []), *weights]
    if len(given) > 1:
        raise ValueError(f"expected one column of weights; got {shorten(given, 40)}. Remove or rename the others.")
    for name in weights:
        fields["weights"] = exponentiated(single[name]) if _plain(name) in _LOG_WEIGHTS else single[name]
        why[name] = "read as weights"
    chains = [name for name in single if _plain(name) in _CHAINS and _is_label(single[name])]
    if chains and "chain_id" not in fields:
        labels = [whole_numbers(single[name], name) for name in chains]
        fields["chain_id"] = labels[0] if len(labels) == 1 else _ranks(*labels)[1]
    return fields, why | dict.fromkeys(chains, "numbers the chains")


def exponentiated(logs: np.ndarray) -> np.ndarray:
    """Returns weights (n,) from log weights, scaled so that the largest is one."""
    finite = logs[np.isfinite(logs)]
    return np.exp(logs - (finite.max() if finite.size else 0.0))


def _doubts(others: Mapping[str, np.ndarray], chain_id: np.ndarray | None) -> tuple[dict[str, str], dict[str, str]]:
    """Returns {column: why} of columns that number the rows, and of columns that may not be parameters."""
    numbers, doubts = {}, {}
    for name, values in others.items():
        named = _plain(name) in _NUMBERS and values.ndim == 1 and _are_whole(values)
        if named and (_is_only_a_number(name) or _are_distinct(values, chain_id)):
            numbers[name] = "numbers the rows"
        elif named:
            doubts[name] = _REPEATED
        elif _DENSITY.fullmatch(_plain(_base(name))) and name.replace("_", "") not in _PERIODS:
            doubts[name] = _UNCLEAR_SIGN if _NEGATIVE.fullmatch(_plain(_base(name))) else _UNCLEAR
        elif _are_steady(values, chain_id):
            doubts[name] = _STEADY
    return numbers, doubts


def _require_wide(others: Mapping[str, np.ndarray], chain_id: np.ndarray | None) -> None:
    """Raises ValueError if each element of a vector has a row of its own, as in xarray's to_dataframe."""
    along = [name for name in others if _ALONG.fullmatch(name)]
    draws = [name for name, values in others.items() if _plain(name) == "draw" and np.ndim(values) == 1]
    if draws and chain_id is not None and not along:
        counts = _ranks(chain_id, np.asarray(others[draws[0]]))[0]
        along = ["elements of vectors"] if len(counts) and counts[0] > 1 and (counts == counts[0]).all() else []
    if along and draws:
        raise ValueError(
            f"expected one row for each draw; got a row for each element of a vector ({shorten(along)}). Pass the "
            "ArviZ data or xarray's Dataset itself."
        )


def _base(name: str) -> str:
    """Returns a name without its index (`log_lik[1]`) or the suffix that Cobaya adds (`chi2__planck`)."""
    return name.split("[")[0].split("__")[0]


def _plain(name: str) -> str:
    """Returns a name as used in comparisons: the same for `.chain`, `chain__` and `Chain`, empty for `Unnamed: 0`."""
    return "" if _UNNAMED.fullmatch(name) else name.strip(" ._#").replace("_", "").lower()


def _is_only_a_number(name: str) -> bool:
    """Returns whether only row numbers have this name: made up by pandas, R's `.draw`, CmdStan's `draw__`."""
    return not _plain(name) or name.startswith(".") or name.endswith("__")


def _is_own(name: str) -> bool:
    """Returns whether a column is internal to a sampler, such as Stan's `energy__` or PyMC's `x_log__`."""
    return name.endswith("__") and _plain(name) not in _CHAINS | _NUMBERS


def _is_label(values: np.ndarray) -> bool:
    """Returns whether values (n,) are whole numbers that several rows share, as chain numbers are."""
    return _are_whole(values) and 2 * len(np.unique(values)) <= len(values)


def _ranks(*labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how many rows each combination of labels (n,) has, and which combination each row has, (n,)."""
    order = np.lexsort(labels[::-1])
    new = np.any([np.diff(label[order]) != 0 for label in labels], axis=0)
    codes = np.empty(len(order), dtype=np.int64)
    codes[order] = np.concatenate([[0], np.cumsum(new)])
    return np.bincount(codes), codes


def _are_distinct(values: np.ndarray, chain_id: np.ndarray | None) -> bool:
    """Returns whether whole numbers (n,) are all different, at least within each chain."""
    if _are_steady(values, chain_id):
        return True
    return bool(_ranks(*([] if chain_id is None else [chain_id]), values)[0].max() == 1)


def _are_steady(values: np.ndarray, chain_id: np.ndarray | None) -> bool:
    """Returns whether values (n,) are whole numbers that rise or fall in equal steps within each chain."""
    if values.ndim != 1 or not _are_whole(values[: 2 * _FEWEST]) or not _are_whole(values):
        return False
    if chain_id is not None and np.any(np.diff(chain_id) < 0):
        order = np.argsort(chain_id, kind="stable")
        values, chain_id = values[order], chain_id[order]
    steps = np.diff(values)
    if chain_id is not None:
        steps = steps[np.diff(chain_id) == 0]
    return len(steps) >= _FEWEST and steps[0] != 0.0 and bool(np.all(steps == steps[0]))


def _are_whole(values: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(values) & (np.round(values) == values)))


def _numbers(values: Any, name: str) -> np.ndarray:
    array = float_array(values, f"column {name!r}")
    if not array.ndim:
        raise ValueError(f"column {name!r}: expected one value per draw; got a single number.")
    return array
