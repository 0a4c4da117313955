"""Reads text chains of GetDist, CosmoMC (with .paramnames and .ranges files) and Cobaya, and GetDist's MCSamples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._util.checks import shorten
from ..chains.convergence import are_counts
from ..chains.order import is_sorted
from .table import Table
from .text import ENCODING, is_number, lines_of, number, read_rows

_LOG_PROB = "minus the column of -log posterior: log posterior up to a constant, prior included"
_AMBIGUOUS = (
    "the weights are not counts: MultiNest and PolyChord write -2 log likelihood where CosmoMC writes -log posterior. "
    "Pass log_posterior=True if it is -log posterior"
)
_EQUAL = (
    "the weights are equal: equal-weight files of PolyChord have -2 log likelihood where CosmoMC has -log posterior. "
    "Pass log_posterior=True if it is -log posterior"
)
_NESTED = (
    "the samples are from a nested sampler: such files have -2 log likelihood where CosmoMC has -log posterior. Pass "
    "log_posterior=True if it is -log posterior"
)
_CONSTANT = (
    "the column is the same in every row, as getdist writes it for chains without a log density. Pass "
    "log_posterior=True if it is -log posterior"
)
_LOG_ZERO = 0.99e30  # CosmoMC writes 1e30 as the -log posterior of a rejected point
_ROUNDED = 1e-3  # precision of numbers in Cobaya files, relative and in nats
_NUMBERED = re.compile(r"(.+)[._](\d+)")
_NOT_PARAMETERS = re.compile(r"minuslogprior(__.*)?|chi2(__.*)?|weight|minuslogpost")


def files_of_root(root: Path) -> list[Path]:
    """Returns root_1.txt, root_2.txt, ... (or root.1.txt, ...) in the order of their numbers, or root.txt."""
    if not root.name:  # the folder "."
        return []
    numbered: dict[int, Path] = {}
    for path in root.parent.glob("*.txt") if root.parent.is_dir() else ():
        match = _NUMBERED.fullmatch(path.stem)
        if match and match[1] == root.name:
            other = numbered.setdefault(int(match[2]), path)
            if other != path:
                names = shorten(sorted([other.name, path.name]))
                raise ValueError(f"expected one file for each chain; got {names}. Pass a list of the files to read.")
    single = root.with_name(f"{root.name}.txt")
    return [numbered[j] for j in sorted(numbered)] or ([single] if single.is_file() else [])


def roots_in(folder: Path) -> list[str]:
    """Returns the names of the roots in a folder: those with .paramnames, numbered chains, or a Cobaya header."""
    texts = sorted(folder.glob("*.txt"))
    numbered = {match[1] for path in texts if (match := _NUMBERED.fullmatch(path.stem))}
    described = {path.stem for path in folder.glob("*.paramnames") if files_of_root(path.with_suffix(""))}
    single = {path.stem for path in texts if not _NUMBERED.fullmatch(path.stem) and _is_cobaya(path)}
    return sorted(numbered | described | single)


def read_getdist(
    path: Path, *, burn_in: float = 0, sampled: Sequence[str] | None = None, log_posterior: bool | None = None
) -> Table:
    """Returns the table of one chain file: weight, -log posterior, then the parameters, in white-space columns.

    Names come from root.paramnames, where a trailing * marks derived parameters (read only on request), or from a first
    line `# weight minuslogpost ...`, as Cobaya writes it. Bounds come from root.ranges.

    Args:
        path: root_1.txt, root.1.txt or root.txt.
        burn_in: number of rows to drop from the start, or the fraction of rows if below one.
        sampled: names of the sampled parameters of a Cobaya chain; all other columns are then derived. The header does
            not say which are sampled, so without this argument every column is read, and no log density. A chain at
            temperature T has draws from posterior^(1 / T). Its weights become importance weights of the posterior, and
            a warning says so.
        log_posterior: whether the second column is -log posterior. None: yes if the weights are counts and not all
            equal, as in CosmoMC. MultiNest and PolyChord write -2 log likelihood there. Their weights are not counts,
            or all one in files of equally weighted rows.
    """
    match = _NUMBERED.fullmatch(path.stem)
    roots = [path.with_name(name) for name in [path.stem, *([match[1]] if match else [])]]
    header = _cobaya_header(path)
    names, labels, derived = _columns(roots, header)
    read = read_rows(path, 2 + len(names), comments="#")
    rows, start = read.values, _start(burn_in, len(read.values))
    info: dict[str, Any] = {"source": "GetDist text" if header is None else "Cobaya text", "log_prob": _LOG_PROB}
    left_out = {"burn-in": f"the first {start} of {len(rows)} rows"} if start else {}
    if left_out or read.cut:
        info["left_out"] = {**left_out, **read.left_out}
    rows, rejected = _without_rejected(rows[start:])
    complaints = read.complaints
    if rejected:
        info["left_out"] = {**info.get("left_out", {}), "rejected points": rejected}
        complaints += (f"Rejected points are left out: {rejected}.",)
    if header is not None:
        bounds, notes = _ranges(roots)
        found = _cobaya(rows, header, info | notes, bounds, sampled)
        return replace(found, complaints=(*complaints, *found.complaints))
    fields = {"weights": rows[:, 0], "log_prob": -rows[:, 1]}
    doubt = _EQUAL if np.ptp(rows[:, 0]) == 0.0 else None if are_counts(rows[:, 0]) else _AMBIGUOUS
    withheld = _withheld(rows[:, 1], doubt, log_posterior)
    if withheld:
        del fields["log_prob"]
        info |= {"log_prob": "none", "left_out": {**info.get("left_out", {}), "log_prob": withheld}}
    bounds, notes = _ranges(roots)
    return Table(
        rows[:, 2:],
        tuple(names),
        fields,
        bounds,
        labels=labels,
        derived=derived,
        info=info | notes,
        complaints=complaints,
        weights_kind=_kind(rows[:, 0]),
        rows="independent" if withheld and is_sorted(rows[:, 1]) else None,
    )


def read_mcsamples(samples: Any, *, log_posterior: bool | None = None) -> Table:
    """Returns the table of a getdist.MCSamples: weights, -loglikes as log posterior, ranges as bounds.

    Args:
        samples: the MCSamples.
        log_posterior: whether loglikes are -log posterior. None: yes if the weights are counts and the sampler is not a
            nested one (see `read_getdist`).
    """
    if not hasattr(samples, "paramNames"):
        raise TypeError(f"expected a getdist.MCSamples; got {type(samples).__name__}.")
    parameters = samples.paramNames.names
    fields: dict[str, Any] = {"weights": None if samples.weights is None else np.asarray(samples.weights)}
    info: dict[str, Any] = {"source": "getdist.MCSamples", "log_prob": "none: no loglikes"}
    drawn = getattr(samples, "sampler", "mcmc") in ("nested", "uncorrelated")
    doubt = _NESTED if drawn else None if are_counts(fields["weights"]) else _AMBIGUOUS
    loglikes = None if samples.loglikes is None else np.asarray(samples.loglikes)
    withheld = None if loglikes is None else _withheld(loglikes, doubt, log_posterior)
    drawn = drawn or (loglikes is not None and withheld is not None and is_sorted(loglikes))
    if withheld:
        info |= {"log_prob": "none", "left_out": {"log_prob": withheld}}
    elif loglikes is not None:
        fields["log_prob"] = np.where(loglikes >= _LOG_ZERO, -np.inf, -loglikes)
        info["log_prob"] = _LOG_PROB
    offsets = getattr(samples, "chain_offsets", None)
    if offsets is not None and len(offsets) > 2 and offsets[-1] == len(samples.samples):
        fields["chain_id"] = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    elif offsets is not None and len(offsets) > 2:  # thinning in getdist keeps the offsets of the original rows
        info["left_out"] = {**info.get("left_out", {}), "chains": f"they end at row {offsets[-1]}, not at the last"}
    limits = {p.name: (samples.ranges.getLower(p.name), samples.ranges.getUpper(p.name)) for p in parameters}
    return Table(
        np.asarray(samples.samples),
        tuple(p.name for p in parameters),
        fields,
        {name: (_or(low, -np.inf), _or(high, np.inf)) for name, (low, high) in limits.items()},
        labels={p.name: f"${p.label}$" for p in parameters if p.label},
        derived=tuple(p.name for p in parameters if p.isDerived),
        info=info,
        weights_kind=None if fields["weights"] is None else "importance" if drawn else _kind(fields["weights"]),
        rows="independent" if drawn else None,
    )


def _withheld(column: np.ndarray, doubt: str | None, log_posterior: bool | None) -> str | None:
    """Returns why the second column (n,) is not used as log density, or None. The user's choice comes first."""
    if log_posterior is None:
        return _CONSTANT if len(column) > 1 and np.ptp(column) == 0.0 else doubt
    return None if log_posterior else "log_posterior=False"


def _without_rejected(rows: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Returns the rows that CosmoMC does not mark as rejected, and a note on the others, if any.

    No chain stays at a rejected point.
    """
    rejected = (rows[:, 1] >= _LOG_ZERO) & np.isfinite(rows[:, 1])
    if not rejected.any() or rejected.all():
        return rows, None
    return rows[~rejected], f"{rejected.sum()} of {len(rows)} rows, with a -log posterior of 1e30 (zero density)"


def _kind(weights: np.ndarray) -> str:
    return "counts" if are_counts(weights) else "importance"


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _columns(roots: list[Path], header: list[str] | None) -> tuple[list[str], dict[str, str], tuple[str, ...]]:
    """Returns names, labels and the names of derived parameters."""
    if header is not None:
        return header[2:], {}, ()
    files = [root.with_name(f"{root.name}.paramnames") for root in roots]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise ValueError(
            f"expected names in {shorten(f.name for f in files)}, or a first line '# weight minuslogpost ...'; "
            "found neither. Copy the .paramnames file to the folder of the chain."
        )
    rows = [line.split(None, 1) for line in lines_of(file) if line.strip()]
    names = [row[0].rstrip("*") for row in rows]
    labels = {row[0].rstrip("*"): f"${row[1].split('#')[0].strip().strip('$')}$" for row in rows if len(row) > 1}
    return names, labels, tuple(row[0].rstrip("*") for row in rows if row[0].endswith("*"))


def _ranges(roots: list[Path]) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Returns {name: (lower, upper)} from root.ranges, where N means no bound, and further entries for info."""
    bounds, notes = {}, {}
    file = next((f for f in (root.with_name(f"{root.name}.ranges") for root in roots) if f.is_file()), None)
    for place, line in enumerate(lines_of(file) if file else [], start=1):
        cells = line.split("#")[0].split()
        if not cells:
            continue
        wrong = [cell for cell in cells[1:3] if cell != "N" and not is_number(cell)]
        if len(cells) < 3 or wrong:
            raise ValueError(
                f"{file.name if file else ''}, line {place}: expected 'name lower upper', with N for no bound; "
                f"got {line.strip()!r}."
            )
        lower, upper = (None if cell == "N" else number(cell) for cell in cells[1:3])
        bounds[cells[0]] = (_or(lower, -np.inf), _or(upper, np.inf))
        if len(cells) > 3:
            notes[cells[0]] = " ".join(cells[3:])
    return bounds, {"priors": notes} if notes else {}


def _is_cobaya(path: Path) -> bool:
    """Returns whether a file begins with the header of a Cobaya chain. It need not be a text file."""
    try:
        return _cobaya_header(path) is not None
    except UnicodeDecodeError:
        return False


def _cobaya_header(path: Path) -> list[str] | None:
    with path.open(encoding=ENCODING) as file:
        words = file.readline().split()
    return words[1:] if words[:3] == ["#", "weight", "minuslogpost"] else None


def _cobaya(
    rows: np.ndarray,
    header: list[str],
    info: dict[str, Any],
    bounds: dict[str, tuple[float, float]],
    sampled: Sequence[str] | None,
) -> Table:
    columns = dict(zip(header, rows.T, strict=True))
    weights, log_prob = columns["weight"], -columns["minuslogpost"]
    kinds: dict[str, Any] = {"weights_kind": _kind(weights)}
    complaints: tuple[str, ...] = ()
    temperature = _temperature(columns)
    if temperature is not None and temperature != 1.0:
        log_prob = temperature * log_prob
        gain = (1.0 - 1.0 / temperature) * log_prob
        kinds["log_scale"] = float(gain[weights > 0.0].max())
        weights = weights * np.exp(gain - kinds["log_scale"])
        kinds |= {"weights_kind": "importance", "rows": "sequence"}
        info["temperature"] = temperature
        complaints = (
            f"The chain was sampled at temperature {temperature:.4g}. Importance weights convert its rows to draws "
            "from the posterior.",
        )
    fields = {"weights": weights, "log_prob": log_prob}
    if "minuslogprior" in columns and temperature is not None:
        fields["log_prior"] = -columns["minuslogprior"]
        fields["log_likelihood"] = log_prob - fields["log_prior"]
    names = [name for name in header if not _NOT_PARAMETERS.fullmatch(name)]
    unknown = [name for name in sampled or () if name not in names]
    if unknown:
        raise ValueError(f"sampled: expected some of the columns {names}; got {shorten(unknown)}.")
    left_out = {name: "not a parameter" for name in header[2:] if name not in names}
    if temperature is None:
        complaints = (
            "minuslogpost is not (minuslogprior + chi2 / 2) / temperature, for any temperature. The rows are read as "
            "draws from the posterior, without log prior and log likelihood. Check the meaning of the columns.",
        )
        left_out["log_prior, log_likelihood"] = "minuslogpost is not (minuslogprior + chi2 / 2) / temperature"
    if sampled is None:
        fields = {"weights": fields["weights"]}
        left_out["log_prob"] = "the header does not say which parameters are sampled: pass sampled=[...]"
        info["log_prob"] = "none"
    info["left_out"] = {**info.get("left_out", {}), **left_out}
    derived = () if sampled is None else tuple(name for name in names if name not in sampled)
    samples = rows[:, [header.index(name) for name in names]]
    return Table(samples, tuple(names), fields, bounds, derived=derived, info=info, complaints=complaints, **kinds)


def _temperature(columns: Mapping[str, np.ndarray]) -> float | None:
    """Returns the temperature of a Cobaya chain; None if no temperature explains the columns.

    The column minuslogpost is divided by the temperature; minuslogprior and chi2 are not.
    """
    if not {"minuslogprior", "chi2"} <= columns.keys():
        return 1.0
    stored, whole = columns["minuslogpost"], columns["minuslogprior"] + 0.5 * columns["chi2"]
    if np.allclose(stored, whole, rtol=_ROUNDED, atol=_ROUNDED):
        return 1.0
    stored, whole = stored - stored.mean(), whole - whole.mean()  # a constant does not change the temperature
    ratio = float(stored @ whole / (stored @ stored)) if stored.any() else 1.0
    if ratio <= 0.0 or not np.allclose(ratio * stored, whole, rtol=_ROUNDED, atol=_ROUNDED * max(1.0, ratio)):
        return None
    return ratio if abs(ratio - 1.0) > _ROUNDED else 1.0


def _start(burn_in: float, n: int) -> int:
    if isinstance(burn_in, bool) or not isinstance(burn_in, int | float) or burn_in < 0:
        raise ValueError(f"burn_in: expected a number of rows, or a fraction of them below one; got {burn_in!r}.")
    start = int(burn_in * n) if burn_in < 1 else int(burn_in)
    if start >= n:
        raise ValueError(f"burn_in: expected fewer than the {n} rows of the file; got {burn_in}.")
    return start
