"""The model card of a prior file, as text and as JSON: what the prior is, how it was made, and its quality.

A file may come from anywhere, and its remarks may contain anything. This module assumes nothing about them.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .._util.checks import printable
from ..flows.config import FlowConfig
from ..flows.layout import FIXED, flatten_params
from .prior_file import PriorFile

_WIDTH = 110
HEADLINE = ("title", "citation", "licence")  # metadata that every published file should have
_RECORDS = ("metadata", "chain", "training", "report", "versions")


def card_json(stored: PriorFile) -> dict[str, Any]:
    """Returns the content of a file except the values of its arrays, as a JSON-ready record."""
    facts = {
        "schema": stored.schema,
        "sha256": stored.checksum,
        "config": stored.config.to_json(),
        "space": stored.space.to_json(),
        "arrays": {name: list(array.shape) for name, array in flatten_params(stored.params).items()},
    }
    return {**facts, **stored.info, **facts}  # facts replace remarks of the same name


def card_text(stored: PriorFile) -> str:
    """Returns the model card as text for a terminal, with control characters in remarks escaped."""
    records = {name: stored.info.get(name, {}) for name in _RECORDS}
    sections = {
        "Parameters": _parameters(stored),
        "Architecture": _architecture(stored),
        "Training": _pairs(records["training"]),
        "Quality, on rows not used in training": _quality(records["report"]),
        "Chain": _pairs(records["chain"]),
        "Versions": _pairs(records["versions"]),
        "File": _file(stored),
        "Other remarks": _pairs({k: v for k, v in stored.info.items() if k not in _RECORDS}),
    }
    lines = _heading(records["metadata"], stored.space.dim)
    for title, body in sections.items():
        if body or title != "Other remarks":
            lines += ["", title, *(f"  {line}" for line in body or ["not recorded"])]
    return "\n".join(printable(line) for line in lines)


def _heading(metadata: Mapping[str, Any], dim: int) -> list[str]:
    count = f"prior over {dim} parameter{'s' if dim > 1 else ''}"
    lines = [f"{_words(metadata.get('title', 'Untitled'))}: {count}"]
    for key in (*HEADLINE[1:], *(key for key in metadata if key not in HEADLINE)):
        if key in metadata:
            first, *rest = _words(metadata[key]).splitlines() or [""]
            lines += [f"  {key}: {first}", *(f"    {line}" for line in rest)]
    missing = [key for key in HEADLINE if key not in metadata]
    if missing:
        lines.append(f"  no {', '.join(missing)}: before publishing, save it with metadata={{{missing[0]!r}: ...}}")
    return lines


def _parameters(stored: PriorFile) -> list[str]:
    space = stored.space
    rows = [("name", "lower", "upper", "unit", "label")]
    for name, low, high, unit, label in zip(
        space.names, space.lower, space.upper, space.units, space.labels, strict=True
    ):
        rows.append((name, f"{low:.9g}", f"{high:.9g}", unit or "-", label if label != name else ""))
    widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _architecture(stored: PriorFile) -> list[str]:
    config, several = stored.config, stored.config.members > 1
    trained = {name: part for name, part in stored.params.items() if name not in FIXED}
    numbers = sum(int(np.size(array)) for array in flatten_params(trained).values())
    parts = [
        f"{config.members} flows mixed as densities" if several else "one flow",
        *(["over a Gaussian background"] if config.background else []),
        *([_mixture(stored)] if several or config.background else []),
    ]
    base = "a standard normal" if config.base == "normal" else f"a mixture of {config.components} Gaussians"
    base = f"{base} with full covariances" if config.base == "full_mixture" else base
    taken_out = "mean and covariance" if config.whitening == "full" else "mean and standard deviations"
    bounds = "exactly normalised on the bounds" if config.support else "bounds are ignored: draws may be outside them"
    return [
        "; ".join(parts),
        _couplings(config, stored.space.dim),
        f"base: {base}; whitened by {taken_out}; {bounds}",
        f"{numbers:,} trained parameters",
    ]


def _mixture(stored: PriorFile) -> str:
    *members, background = (float(weight) for weight in stored.params["mixture"]["weights"])
    shares = ", ".join(f"{weight:.3g}" for weight in members)
    return f"weights {shares}" + (f"; background {background:.3g}" if background > 0 else "")


def _couplings(config: FlowConfig, dim: int) -> str:
    if dim == 1 or config.layers == 0:
        return "no couplings"
    if config.conditioner == "roch_shen":
        network = "conditioners of Roch and Shen (2025)"
    else:
        network = f"networks with {' x '.join(map(str, config.hidden)) or 'no'} hidden units"
        network += f", log-scales bounded by {config.max_log_scale:g}, hull {config.hull:g}"
    bins = f" with {config.bins} bins" if config.transformer == "spline" else ""
    return f"{config.layers} pairs of {config.transformer} couplings{bins}, {config.masks} masks; {network}"


def _quality(report: Mapping[str, Any]) -> list[str]:
    if not report:
        return []
    reasons = report.get("reasons")
    comparison, classifier, beyond = (_part(report, name) for name in ("comparison", "classifier", "extrapolation"))
    lines = [
        f"verdict: {_words(report.get('verdict', 'none')).upper()}",
        *(f"  - {_words(reason)}" for reason in (reasons if isinstance(reasons, list) else [])),
        _numbers("held-out rows: {} ({} treated as independent)", report, "rows", "independent_rows"),
        _numbers("held-out log density: {} +- {} nats", report, "log_density", "log_density_error"),
        _numbers("gain over a Gaussian: {} +- {} nats", report, "gain", "gain_error"),
        _numbers("average KL of marginals: {} nats, noise floor {}", comparison, "average_kl", "noise_floor"),
        _numbers("classifier's area under the curve: {} (p = {})", classifier, "auc", "p_value"),
        _numbers("share of the prior beyond the chain: {} ({} expected)", beyond, "share", "expected"),
    ]
    return [line for line in lines if line]


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = record.get(name)
    return part if isinstance(part, Mapping) else {}


def _numbers(template: str, record: Mapping[str, Any], *names: str) -> str:
    """Returns the template filled with numbers of a record, or an empty string if the first number is missing."""
    values = [record.get(name) for name in names]
    shown = [f"{value:.5g}" if isinstance(value, int | float) else "unknown" for value in values]
    return template.format(*shown) if isinstance(values[0], int | float) else ""


def _file(stored: PriorFile) -> list[str]:
    if stored.checksum is None:
        return [f"schema {stored.schema}: no checksum; load the prior and save it again to add one"]
    return [f"schema {stored.schema}; content matches its checksum, SHA-256 {stored.checksum}"]


def _pairs(record: Mapping[str, Any]) -> list[str]:
    return _wrapped(f"{key.replace('_', ' ')} {_words(_rounded(value))}" for key, value in record.items())


def _wrapped(items: Iterable[str]) -> list[str]:
    return textwrap.wrap(", ".join(items), _WIDTH, break_long_words=False, break_on_hyphens=False)


def _rounded(value: Any) -> Any:
    """Returns a remark with its floats rounded to five digits for display. The JSON card has all digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
