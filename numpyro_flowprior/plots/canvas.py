"""Matplotlib is imported here alone, and without pyplot: figures are returned, nothing global is touched.

Notebooks show only figures that pyplot made, unless the figure says how, as ours do.
"""

from __future__ import annotations

import re
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np

from .._util.checks import optional_import

COLOURS = ("#1f4e79", "#c8553d", "#3a7d44", "#7b4b94", "#b8860b", "#444444")
GREY, BAND = "#8a8a8a", "#dcdcdc"  # of what chance gives, and of priors
LINES = ("solid", "dashed", "dashdot", "dotted")
_LONG = 300.0  # numbers this many times as large as their range are shown relative to one of them
_SMALLEST, _LARGEST = -3, 4  # exponents of numbers that are shown as they are
VERDICT_COLOURS = {"pass": "#2f6b39", "warn": "#a86a00", "fail": "#a32a1e"}


def new_figure(caller: str, width: float, height: float, **options: Any) -> Any:
    """Returns an empty figure of a size in inches, which notebooks show; ImportError says what to install."""
    optional_import("matplotlib.figure", "plots", caller)
    return _shown_figure()(figsize=(width, height), **options)


@cache
def _shown_figure() -> Any:
    """Returns matplotlib's Figure with a picture of itself for notebooks."""
    figure = optional_import("matplotlib.figure", "plots", "new_figure").Figure

    class Figure(figure):  # type: ignore[misc, valid-type]
        """A matplotlib Figure that notebooks show without pyplot."""

        def _repr_png_(self) -> bytes:
            content = BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    return Figure


def whole_figure(axis: Any) -> Any:
    """Returns the figure that an axis is in, not the part of one."""
    try:
        return axis.get_figure(root=True)
    except TypeError:  # before matplotlib 3.10
        return axis.figure.figure


def few_ticks(n: int, **options: Any) -> Any:
    """Returns a locator of at most n + 1 round ticks."""
    return optional_import("matplotlib.ticker", "plots", "few_ticks").MaxNLocator(n, **options)


def axes_for(caller: str, axes: Any, count: int, what: str) -> list[Any] | None:
    """Returns axes that a caller gave, as a list of a known length; None for none.

    Raises:
        ValueError: another number of axes.
    """
    if axes is None:
        return None
    flat = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(flat) != count:
        raise ValueError(f"{caller}: axes: expected {count} ({what}); got {len(flat)}. Leave it out for a new figure.")
    return flat


def offset_and_exponent(low: float, high: float) -> tuple[float, int]:
    """Returns what is to be taken off numbers between two limits, and the power of ten to divide them by, to be short.

    An epoch of 793.98 days, known to 0.01, is labelled 0.00, 0.01, ... from 793.98 on.
    """
    span, largest = high - low, max(abs(low), abs(high))
    offset = 0.0
    if largest > _LONG * span > 0:
        unit = 10.0 ** np.ceil(np.log10(span))
        offset = float(np.round(0.5 * (low + high) / unit) * unit)
    size = max(abs(low - offset), abs(high - offset))
    exponent = int(np.floor(np.log10(size))) if size > 0 else 0
    return offset, exponent if exponent < _SMALLEST or exponent > _LARGEST else 0


def short_numbers(axis: Any, low: float, high: float, label: str, unit: str = "") -> str:
    """Makes the ticks of an axis (`axes.xaxis`) short numbers. Returns its label, which states what was taken off."""
    offset, exponent = offset_and_exponent(low, high)
    if offset or exponent:
        ticker = optional_import("matplotlib.ticker", "plots", "short_numbers")
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _short((value - offset) / 10.0**exponent)))
    if offset:
        label = f"{label} ${'-' if offset > 0 else '+'}$ {abs(offset):.15g}"
    unit = re.sub(r"\^(-?\d+(?:\.\d+)?)", r"$^{\1}$", unit)  # GeV^-2 with its exponent raised
    unit = " ".join(part for part in (f"$10^{{{exponent}}}$" if exponent else "", unit) if part)
    return f"{label} [{unit}]" if unit else label


def _short(value: float) -> str:
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


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
