"""plot_comparison: how far apart two chains are, in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from .._util.checks import FloatArray, shorten
from ..diagnostics.comparison import Comparison
from .canvas import BAND, COLOURS, GREY, axes_for, few_ticks, line_sample, new_figure, readable, whole_figure

_FIRST, _SECOND = COLOURS[:2]
_CHANCE = 1e-3  # that a difference of equal shares is red, for the panel as a whole


def plot_comparison(
    comparison: Comparison,
    *,
    labels: Sequence[str] | None = None,
    legends: tuple[str, str] = ("first", "second"),
    title: str | None = None,
    axes: Any = None,
) -> Any:
    """Returns a matplotlib Figure of `compare(a, b)`.

    From the left: the divergence of each parameter's marginal and its noise floor (grey, with the standard deviation of
    its repeats; chance may exceed it several times where cells are empty), the shift of the mean, the ratio of the
    widths. Below, if the chains have modes: the share of each mode in either chain with its standard error, and the
    difference (red if chance exceeds it in at most one of a thousand panels).

    Args:
        comparison: what `compare` found.
        labels: (d,) names to show; None for the parameters' own.
        legends: what the reference a and the chain b are called.
        title: above the figure.
        axes: three matplotlib axes, four if the chains have modes; None for a new figure with a title.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: another number of labels than parameters, or another number of axes.
    """
    shown = _shown(comparison.kl.names, labels)
    modes = [(mode, mode.ranges(shown[mode.parameter], digits=3)) for mode in comparison.modes]
    heights = [max(2.4, 1.3 + 0.24 * len(shown))]
    if modes:
        heights.append(1.2 + 0.26 * sum(len(ranges) for _, ranges in modes))
    panels = axes_for("plot_comparison", axes, 3 + bool(modes), "divergences, shifts, widths" + ", modes" * bool(modes))
    if panels is None:
        figure = new_figure("plot_comparison", 10.0, 0.9 + sum(heights), layout="constrained")
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        panels = [*parts[0].subplots(1, 3, width_ratios=[1.3, 1.0, 1.0]), *(part.subplots() for part in parts[1:])]
        figure.suptitle(_title(comparison, legends, title), fontsize=11, x=0.01, ha="left")
    divergences, shifts, widths = panels[:3]
    _draw_divergences(divergences, comparison, list(shown.values()))
    _draw_points(shifts, comparison.shift, 0.0, r"shift of the mean [$\sigma$ of the reference]", "Shifts")
    _draw_points(widths, comparison.width_ratio, 1.0, "standard deviation / reference's", "Widths")
    if modes:
        _draw_modes(panels[3], modes, legends)
    return whole_figure(panels[0])


def _shown(names: Sequence[str], labels: Sequence[str] | None) -> dict[str, str]:
    """Returns {name: what to show}."""
    labels = names if labels is None else labels
    if len(labels) != len(names):
        raise ValueError(
            f"plot_comparison: labels: expected {len(names)}, one for each of {shorten(names)}; got {len(labels)}."
        )
    return dict(zip(names, map(readable, labels), strict=True))


def _title(comparison: Comparison, legends: tuple[str, str], title: str | None) -> str:
    first, second = map(readable, legends)
    head = readable(title) if title else f"{second}, compared with {first}"
    error = f" $\\pm$ {comparison.excess_error:.1g}" if len(comparison.floor) > 1 else ""
    test = comparison.classifier
    told = f"; classifier {test.auc:.3f}, by chance {test.null_mean:.3f} $\\pm$ {test.null_std:.3f}" if test else ""
    return f"{head}\naverage KL above the noise floor: {comparison.excess:.2g}{error} nats{told}"


def _rows(axis: Any, names: Sequence[str]) -> np.ndarray:
    """Returns the heights at which named rows stand, the first at the top."""
    at = np.arange(len(names))
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_yticks(at, names, fontsize=9)
    axis.grid(axis="y", color="#eeeeee", lw=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(direction="in")
    axis.xaxis.set_major_locator(few_ticks(4))
    return at


def _draw_divergences(axis: Any, comparison: Comparison, names: list[str]) -> None:
    found, floor, std = comparison.kl.one_d, comparison.floor_mean.one_d, comparison.floor_std.one_d
    at = _rows(axis, names)
    axis.barh(at, floor, height=0.6, color=BAND, label="noise floor")
    axis.errorbar(floor, at, xerr=std, fmt="none", ecolor=GREY, capsize=3, lw=1.2)
    axis.scatter(found, at, s=26, color=_FIRST, zorder=3, label="found")
    axis.set_xlim(0.0, 1.08 * max(found.max(), (floor + std).max()) or 1.0)
    axis.set_xlabel("KL of the marginal [nats]")
    axis.set_title("Divergences and noise floor", fontsize=10)
    axis.legend(fontsize=8, loc="best", framealpha=0.9)


def _draw_points(axis: Any, values: FloatArray, centre: float, label: str, title: str) -> None:
    at = _rows(axis, [""] * len(values))
    axis.hlines(at, centre, values, color=_FIRST, lw=1.2)
    axis.scatter(values, at, s=26, color=_FIRST, zorder=3)
    axis.axvline(centre, color=GREY, lw=0.8)
    reach = 1.15 * max(float(np.max(np.abs(values - centre))), 0.05)
    axis.set_xlim(centre - reach, centre + reach)
    axis.set_xlabel(label)
    axis.set_title(title, fontsize=10)


def _draw_modes(axis: Any, modes: Sequence[Any], legends: tuple[str, str]) -> None:
    at = _rows(axis, [where for _, ranges in modes for where in ranges])
    for chain, colour, step in (("a", _FIRST, -0.14), ("b", _SECOND, 0.14)):
        share, error = (
            np.concatenate([getattr(mode, part) for mode, _ in modes]) for part in (chain, f"{chain}_error")
        )
        axis.errorbar(share, at + step, xerr=error, fmt="o", ms=5, color=colour, capsize=3, lw=1.4)
    pulls = np.concatenate([mode.pulls for mode, _ in modes])
    limit = float(norm.isf(0.5 * _CHANCE / len(pulls)))
    for height, pull in zip(at, pulls, strict=True):
        colour = _SECOND if abs(pull) > limit else GREY
        at_right = {"transform": axis.get_yaxis_transform(), "va": "center"}
        axis.text(1.01, height, f"{pull:+.1f}$\\sigma$", color=colour, **at_right)
    axis.set_xlim(0.0, 1.0)
    axis.set_xlabel("share of the draws, with its standard error; right, the difference in standard errors")
    axis.set_title("Modes", fontsize=10)
    samples = [line_sample(colour, marker="o", ms=5, ls="") for colour in (_FIRST, _SECOND)]
    axis.legend(samples, list(map(readable, legends)), fontsize=8, loc="best", framealpha=0.9)
