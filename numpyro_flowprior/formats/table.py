"""Table: everything that a source holds, before columns are chosen. `to_chain` turns it into a Chain.

Readers return tables. `info["left_out"]` records what is left out of the chain, and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._util.checks import require_unique, shorten
from ..chains.chain import Chain
from ..chains.parameters import ParameterSpace, require_space

DENSITIES = ("log_prob", "log_prior", "log_likelihood")
LABELS = ("chain_id", "family_id")  # whole numbers
FIELDS = (*DENSITIES, "weights", *LABELS)
EVIDENCE = ("log_evidence", "log_evidence_error")
KINDS = ("weights_kind", "rows")  # words, not numbers
DEFAULT_NAME = "theta[{}]"  # name of a column if the source has no names
_SAME_TEMPERATURE = 0.01  # relative: temperatures are estimated from columns


@dataclass(frozen=True)
class Table:
    """Rows of draws with everything that their source says about them.

    Args:
        samples: (n, d) draws.
        names: (d,) names of the columns. None if the source has none: they are then those of the space, or theta[j].
        fields: values per draw: log_prob, log_prior, log_likelihood, weights, chain_id, family_id; None if missing.
        bounds: {name: (lower, upper)} of the parameters for which the source has bounds.
        units: {name: unit}.
        labels: {name: label}.
        derived: names of columns that are functions of the others; parameters only on request.
        doubtful: {name: why} of columns that do not look like parameters; read only on request.
        evidence: log_evidence and its error, where known.
        info: where it comes from, which column is the log density, and what was left out (`left_out`: {what: why}).
        complaints: sentences about problems of a run, for a warning to the user.
        walkers: whether the chain ids number the walkers of an ensemble, which depend on each other.
        log_scale: log of the factor that the weights need before they are compared with those of another table.
        weights_kind: "counts" or "importance", if the source says so (see Chain).
        rows: "sequence" or "independent", if the source says so (see Chain).
    """

    samples: Any
    names: tuple[str, ...] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    doubtful: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()
    walkers: bool = False
    log_scale: float = 0.0
    weights_kind: str | None = None
    rows: str | None = None


def flattened(variables: Mapping[str, np.ndarray], leading: int = 1) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the names (d,) and values (n, d) of variables with `leading` axes of draws; `v[i,j]` for tensors."""
    names, columns = [], []
    lengths = {name: values.shape[:leading] for name, values in variables.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"expected columns of equal length; got {shorten(f'{k}: {v}' for k, v in lengths.items())}.")
    for name, values in variables.items():
        shape = values.shape[leading:]
        names += [name + (f"[{','.join(map(str, index))}]" if shape else "") for index in np.ndindex(shape)]
        columns.append(values.reshape(-1, int(np.prod(shape))))
    samples = np.concatenate(columns, axis=1)
    samples.setflags(write=False)  # not shared, so a Chain need not copy it
    return tuple(names), samples


def columns_of(name: str, site: np.ndarray, space: ParameterSpace | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the names of a variable's columns and its draws (chains, draws, *shape) as (chains * draws, columns).

    Args:
        name: name of the variable, used for the columns if there is no space.
        site: draws of the variable.
        space: the parameters in its columns, if known.
    """
    names, values = flattened({name: site.astype(np.float64)}, leading=2)
    if space is None:
        return names, values
    if site.dtype.kind != "f":
        return space.names, values
    rounded = site.reshape(values.shape)
    for bound in space.bounds.T:  # in float32 a draw next to the bound 0.1 is 0.10000000149
        values = np.where(rounded == bound.astype(rounded.dtype), bound, values)
    return space.names, values


def declared(spaces: Iterable[ParameterSpace]) -> dict[str, Any]:
    """Returns the bounds, units and labels of a table from the parameters that its source declares."""
    parts: dict[str, Any] = {"bounds": {}, "units": {}, "labels": {}}
    for space in spaces:
        for what, values in (("bounds", space.bounds.tolist()), ("units", space.units), ("labels", space.labels)):
            parts[what] |= dict(zip(space.names, values, strict=True))
    return parts


def whole_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Returns the values as integers; ValueError if one has a fraction or is not finite."""
    bad = ~np.isfinite(values) | (np.round(values) != values)
    if bad.any():
        raise ValueError(f"{name}: expected whole numbers; got {shorten(values[bad])}.")
    return np.asarray(values).astype(np.int64)


def to_chain(table: Table, space: ParameterSpace | None, chosen: Sequence[str] | None = None) -> Chain:
    """Returns the chain of the space's parameters, or of those chosen by name, in that order.

    Without either, it has all parameters that are neither derived nor doubtful. Log densities are kept only if the
    parameters are exactly the sampled ones, because they are not densities of a marginal. Rows of weight zero and log
    density -infinity are left out. Samplers keep such rows, but they contribute to no average.

    Raises:
        ValueError: a parameter is missing (named), a name repeats, or a Chain does not accept the values.
    """
    if space is not None:
        require_space(space)
        if chosen is not None:
            raise ValueError("names: expected none together with a space, which has names. Leave one of them out.")
    table = _without_dead(table)
    if chosen is not None:
        require_unique(chosen, "names: expected unique names")
        table = _named(table, chosen)
    names = _names(table, space)
    if space is None:
        free = [name for name in names if name not in table.derived and name not in table.doubtful]
        space = _space_of(table, free if chosen is None else [*chosen])
    missing = [name for name in space.names if name not in names]
    if missing:
        raise ValueError(
            f"expected columns for {shorten(space.names, 40)}; {shorten(missing, 40)} missing from {list(names)}."
        )
    fields, evidence = dict(table.fields), {k: _scalar(v, k) for k, v in table.evidence.items() if v is not None}
    derived = _derived(table, names, space)
    left_out = {name: _why(name, table) for name in names if name not in space.names and name not in derived}
    left_out |= {k: why for k, why in table.info.get("left_out", {}).items() if k not in space.names}
    if set(space.names) != set(names) - set(table.derived) - table.doubtful.keys():
        for name in DENSITIES:
            if fields.pop(name, None) is not None:
                left_out[name] = "density of the sampled parameters, which are not the requested ones"
    info = {**table.info, "left_out": left_out} if left_out else dict(table.info)
    columns = [names.index(name) for name in space.names]
    samples = table.samples if columns == list(range(len(names))) else table.samples[:, columns]
    parts: dict[str, Any] = {**fields, **evidence, "weights_kind": table.weights_kind, "rows": table.rows}
    return Chain(samples, space, derived=derived, **parts, info=info)


def _derived(table: Table, names: Sequence[str], space: ParameterSpace) -> dict[str, Any]:
    """Returns the derived columns that are no parameters, finite and not constant."""
    columns = {
        name: table.samples[:, names.index(name)] for name in table.derived if name in names and name not in space.names
    }
    return {
        name: values
        for name, values in columns.items()
        if len(values) and np.isfinite(values).all() and np.ptp(np.asarray(values)) > 0
    }


def _without_dead(table: Table) -> Table:
    weights, fields = table.fields.get("weights"), table.fields
    if weights is None or np.shape(weights) != np.shape(table.samples)[:1]:
        return table
    dead = np.zeros(len(weights), bool)
    for name in DENSITIES:
        if fields.get(name) is not None and np.shape(fields[name]) == dead.shape:
            dead |= np.asarray(fields[name]) == -np.inf
    dead &= np.asarray(weights) == 0.0
    unlike = [name for name, values in fields.items() if values is not None and np.shape(values) != dead.shape]
    if not dead.any() or unlike:  # Chain refuses unequal lengths
        return table
    reason = f"{int(dead.sum())} of {len(dead)}: weight zero and log density -infinity"
    return replace(
        table,
        samples=np.asarray(table.samples)[~dead],
        fields={name: None if values is None else np.asarray(values)[~dead] for name, values in fields.items()},
        info={**table.info, "left_out": {**table.info.get("left_out", {}), "rows": reason}},
    )


def _named(table: Table, names: Sequence[str]) -> Table:
    """Returns a table without names under these names; unchanged if they are its default names, theta[j]."""
    shape = np.shape(table.samples)
    if table.names is not None or len(shape) != 2:
        return table
    defaults = tuple(map(DEFAULT_NAME.format, range(shape[1])))
    if set(names) <= set(defaults):
        return table
    if len(names) != shape[1]:
        raise ValueError(
            f"names: expected {shape[1]}, one for each column of a source without names; got {shorten(names, 40)}."
        )
    new = dict(zip(defaults, names, strict=True))
    parts: dict[str, Any] = {
        what: {new[k]: v for k, v in getattr(table, what).items()} for what in ("bounds", "units", "labels")
    }
    return replace(table, names=tuple(names), **parts)


def _names(table: Table, space: ParameterSpace | None) -> tuple[str, ...]:
    shape = np.shape(table.samples)
    if table.names is not None:
        names = table.names
    elif space is not None:
        names = space.names
    else:
        names = tuple(DEFAULT_NAME.format(j) for j in range(shape[1] if len(shape) == 2 else 0))
    if len(shape) != 2 or shape[1] != len(names) or not names:
        advice = "For one parameter, pass samples[:, None]." if len(shape) == 1 else "Pass the matching ParameterSpace."
        raise ValueError(
            f"samples: expected shape (n, {len(names) or 'd'}){f' for names [{shorten(names, 40)}]' if names else ''}; "
            f"got {shape}. {advice}"
        )
    require_unique(names, "expected unique column names")
    return names


def _bounds_of(table: Table, name: str) -> tuple[float, float]:
    """Returns the bounds of a parameter, infinite if the source has none."""
    lower, upper = table.bounds.get(name, (-np.inf, np.inf))
    return float(lower), float(upper)


def _space_of(table: Table, names: list[str]) -> ParameterSpace:
    bounds = np.array([_bounds_of(table, name) for name in names], dtype=np.float64).reshape(-1, 2)
    units = [table.units.get(name, "") for name in names]
    labels = [table.labels.get(name, name) for name in names]
    return ParameterSpace(names, bounds[:, 0], bounds[:, 1], units=units, labels=labels)


def _why(name: str, table: Table) -> str:
    if name in table.derived:
        return "not sampled: fixed, or derived from the other parameters and not finite"
    return table.doubtful.get(name, "not among the requested parameters")


def complaints_of_doubt(table: Table) -> tuple[str, ...]:
    """Returns warnings about columns that are not read because they do not look like parameters."""
    names: dict[str, list[str]] = {}
    for name, why in table.doubtful.items():
        names.setdefault(why, []).append(name)
    return tuple(
        f"{shorten(same, 40)}: left out, because {why}. If it is a parameter, include it in names=[...]."
        for why, same in names.items()
    )


def complaint_of_divergences(count: int, transitions: int) -> tuple[str, ...]:
    """Returns a warning about divergent transitions of Hamiltonian Monte Carlo; empty if there are none."""
    if not count:
        return ()
    return (
        f"{count} of {transitions} transitions diverged: the sampler may have missed a part of the posterior. "
        "Run it with smaller steps (a higher acceptance target), or reparametrise the model.",
    )


def _scalar(value: Any, name: str) -> float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected one number; got dtype {array.dtype}, shape {array.shape}.")
    return float(array.item())


def joined(tables: Sequence[Table]) -> Table:
    """Returns the rows of several tables with the same columns. Each table gets its own chain ids."""
    first = tables[0]
    for j, table in enumerate(tables[1:], start=2):
        if table.names != first.names or np.shape(table.samples)[1:] != np.shape(first.samples)[1:]:
            raise ValueError(f"part {j}: expected the columns of part 1, {first.names}; got {table.names}.")
        present = [{name for name in FIELDS if t.fields.get(name) is not None} for t in (first, table)]
        unlike = (present[0] ^ present[1]) - set(LABELS)
        if unlike:
            raise ValueError(f"part {j}: {shorten(sorted(unlike))} present in only some of the parts.")
        _require_one_analysis(first, table, j)
    related = [table.fields.get("family_id") is not None for table in tables]
    if any(related) and not all(has or table.rows == "independent" for has, table in zip(related, tables, strict=True)):
        raise ValueError(
            "expected parts that all have family_id or rows='independent'; got one without. Rows of a chain depend on "
            "each other through families or in time, not both. Read the parts one by one."
        )
    fields: dict[str, Any] = {
        name: np.concatenate([table.fields[name] for table in tables])
        for name in FIELDS
        if name not in LABELS and first.fields.get(name) is not None
    }
    if "weights" in fields:
        scales, lengths = [table.log_scale for table in tables], [len(table.samples) for table in tables]
        fields["weights"] = fields["weights"] * np.repeat(np.exp(np.subtract(scales, max(scales))), lengths)
    fields["chain_id"] = _renumbered(tables, "chain_id")
    if any(related):
        fields["family_id"] = _renumbered(tables, "family_id")
    info = {**first.info, "parts": [dict(table.info) for table in tables]}
    left_out = dict(info.get("left_out", {}))
    if any(table.evidence for table in tables):
        left_out["log_evidence"] = "each part has its own"
    return Table(
        np.concatenate([table.samples for table in tables]),
        first.names,
        fields,
        first.bounds,
        first.units,
        first.labels,
        first.derived,
        {name: why for table in tables for name, why in table.doubtful.items()},
        info={**info, "left_out": left_out} if left_out else info,
        complaints=tuple(dict.fromkeys(text for table in tables for text in table.complaints)),
        walkers=any(table.walkers for table in tables),
        weights_kind=_common(tables, "weights_kind"),
        rows=_common(tables, "rows"),
    )


def _require_one_analysis(first: Table, table: Table, part: int) -> None:
    """Raises ValueError if a table differs from the first in bounds, derived parameters or temperature."""
    separately = "Chains of one analysis must agree in this. Read other chains one by one."
    for name in first.names or ():
        one, other = ({"bounds": _bounds_of(t, name), "derived": name in t.derived} for t in (first, table))
        unlike = [what for what in one if one[what] != other[what]]
        if unlike:
            what = unlike[0]
            raise ValueError(
                f"part {part}: {name!r}: expected {what} {one[what]} as in part 1; got {other[what]}. {separately}"
            )
    hot, cold = (float(t.info.get("temperature", 1.0)) for t in (first, table))
    if abs(hot - cold) > _SAME_TEMPERATURE * hot:
        raise ValueError(
            f"part {part}: expected temperature {hot:.4g} as in part 1; got {cold:.4g}. Weights of different "
            f"temperatures cannot be compared. {separately}"
        )


def _common(tables: Sequence[Table], field: str) -> str | None:
    """Returns the value of a field if it is the same in all tables, else None."""
    said = {getattr(table, field) for table in tables}
    return said.pop() if len(said) == 1 else None


def _renumbered(tables: Sequence[Table], name: str) -> np.ndarray:
    """Returns labels that no two tables share. A table without labels is one chain, and each row is its own family."""
    ids, start = [], 0
    for table in tables:
        given, n = table.fields.get(name), len(table.samples)
        if given is None:
            given = np.zeros(n, dtype=np.int64) if name == "chain_id" else np.arange(n)
        labels, codes = np.unique(given, return_inverse=True)
        ids.append(codes + start)
        start += len(labels)
    return np.concatenate(ids)
