"""Matplotlib is imported here alone, and without pyplot: figures are returned, nothing global is touched."""

from __future__ import annotations

from typing import Any

from .._util.checks import optional_import

COLOURS = ("#1f4e79", "#c8553d", "#3a7d44", "#7b4b94", "#b8860b", "#444444")
VERDICT_COLOURS = {"pass": "#2f6b39", "warn": "#a86a00", "fail": "#a32a1e"}


def new_figure(caller: str, width: float, height: float, **options: Any) -> Any:
    """Returns an empty figure of a size in inches; ImportError says what to install."""
    return optional_import("matplotlib.figure", "plots", caller).Figure(figsize=(width, height), **options)


def few_ticks(n: int, **options: Any) -> Any:
    """Returns a locator of at most n + 1 round ticks."""
    return optional_import("matplotlib.ticker", "plots", "few_ticks").MaxNLocator(n, **options)


def line_sample(colour: str, **options: Any) -> Any:
    """Returns a line for a legend."""
    return optional_import("matplotlib.lines", "plots", "line_sample").Line2D([], [], color=colour, **options)


def readable(label: str) -> str:
    """Returns a label that matplotlib can draw: as it is, or its dollar signs as such if it is no valid formula."""
    try:
        optional_import("matplotlib.mathtext", "plots", "readable").MathTextParser("path").parse(label)
    except ValueError:
        return label.replace("$", r"\$")
    return label
