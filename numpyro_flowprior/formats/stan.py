"""Reads CSV files of Stan: one chain each, with comments at the start, in the middle and at the end."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from .._util.checks import shorten
from .table import Table, complaint_of_divergences
from .text import ENCODING, is_number, number, read_rows

_SETTING = re.compile(r"#\s*(\w+)\s*=\s*([^\s(]+)")
_LP = (
    "none: lp__ is the density on Stan's unconstrained scale, Jacobian included; it is the posterior density only if "
    "no parameter has bounds, and the file does not record bounds"
)


@dataclass
class _Layout:
    settings: dict[str, str] = field(default_factory=dict)
    header: list[str] = field(default_factory=list)
    header_line: int = 0
    rows: int = 0
    rows_before_adaptation: int = 0


def is_stan(path: Path) -> bool:
    """Returns whether a csv file begins like a CmdStan file: with a comment by Stan, or with lp__ as first column."""
    with path.open(encoding=ENCODING, errors="replace") as file:
        first = file.readline()
    return bool(re.match(r'#\s*stan_|#.* by Stan|"?lp__', first))


def read_stan(path: Path) -> Table:
    """Returns the table of one Stan CSV file, without warm-up and without the sampler's own columns (`..__`).

    Elements of containers have the names that Stan uses: `theta.1.2` is `theta[1,2]`, counted from one. The file does
    not distinguish parameters from transformed parameters and generated quantities. Use a space to choose.
    """
    layout = _layout(path)
    if not layout.header:
        raise ValueError("expected a header row of names below the comments; got none. Did the run start?")
    method = layout.settings.get("method", "sample")
    if method != "sample":
        raise ValueError(f"expected draws of Stan's sampler; got method = {method}, not posterior samples.")
    read = read_rows(path, len(layout.header), delimiter=",", skip=layout.header_line, comments="#")
    rows = read.values
    warmup = _warmup(layout)
    own = [name for name in layout.header if name.endswith("__")]
    names = [name for name in layout.header if name not in own]
    if not names:
        raise ValueError(f"expected at least one parameter column; got only {shorten(layout.header)}.")
    if warmup >= len(rows):
        raise ValueError(f"expected draws after warm-up; the file's {len(rows)} rows are all warm-up.")
    rows = rows[warmup:]
    left_out = {**{name: "the sampler's own column" for name in own}, **read.left_out}
    if warmup:
        left_out["warm-up"] = f"the first {warmup} rows"
    info: dict[str, Any] = {"source": "Stan CSV", "log_prob": _LP, "left_out": left_out}
    complaints = (*read.complaints, *_complaint_of_length(layout, len(rows)))
    if "divergent__" in own:
        info["divergences"] = int(rows[:, layout.header.index("divergent__")].sum())
        complaints += complaint_of_divergences(info["divergences"], len(rows))
    columns = [layout.header.index(name) for name in names]
    names = list(map(_spelled, names))
    return Table(rows[:, columns], tuple(names), info=info, complaints=complaints, rows="sequence")


def _layout(path: Path) -> _Layout:
    layout = _Layout()
    with path.open(encoding=ENCODING) as file:
        for number, line in enumerate(file, start=1):
            if line.startswith("#"):
                setting = _SETTING.match(line)
                if setting and not layout.rows:
                    layout.settings.setdefault(setting[1], setting[2])
                if "Adaptation terminated" in line:
                    layout.rows_before_adaptation = layout.rows
            elif not line.strip():
                continue
            elif not layout.header:
                layout.header = [name.strip().strip('"') for name in line.split(",")]
                layout.header_line = number
            else:
                layout.rows += 1
    return layout


def _warmup(layout: _Layout) -> int:
    """Returns the number of warm-up rows in the file: those before adaptation ends, or the number in the settings."""
    saved = layout.settings.get("save_warmup", "0") in ("1", "true")
    if layout.rows_before_adaptation or not saved:
        return layout.rows_before_adaptation
    return ceil(_count(layout, "num_warmup", 0) / _count(layout, "thin", 1))


def _count(layout: _Layout, name: str, default: int) -> int:
    """Returns an integer setting, written as 1000 or 1e3."""
    text = layout.settings.get(name, str(default))
    if not is_number(text):
        raise ValueError(f"{name}: expected a number in the file's settings; got {text!r}.")
    return int(number(text))


def _complaint_of_length(layout: _Layout, rows: int) -> tuple[str, ...]:
    expected = ceil(_count(layout, "num_samples", 0) / _count(layout, "thin", 1))
    if rows >= expected:
        return ()
    return (
        f"The file holds {rows} of the {expected} draws in its settings: the run was cut short, or is still running.",
    )


def _spelled(name: str) -> str:
    base, *index = name.split(".")
    return f"{base}[{','.join(index)}]" if index and all(part.isdigit() for part in index) else name
