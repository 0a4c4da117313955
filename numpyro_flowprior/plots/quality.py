"""plot_quality: a quality report in one figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import kstwobign, norm

from .._util.checks import FloatArray
from ..diagnostics.coverage import DENSITY_TAILS
from ..diagnostics.report import FALSE_ALARMS, QualityReport
from ..priors.flow_prior import FlowPrior
from .canvas import BAND, COLOURS, GREY, VERDICT_COLOURS, axes_for, few_ticks, new_figure, readable, whole_figure

_FOUND, _ODD = COLOURS[:2]
_MOST_REASONS = 4  # that the title has room for
_WIDTH = 12.5  # inches


def plot_quality(report: QualityReport | FlowPrior, *, labels: Sequence[str] | None = None, axes: Any = None) -> Any:
    """Returns a matplotlib Figure of a quality report.

    Grey is what chance gives for a correct prior. Blue was found, and red was found and is beyond chance (two-sided,
    one in a thousand for each panel as a whole). From the upper left: the divergence of each parameter with its noise
    floor; the tails of each parameter; the divergence of each pair above its noise floor; the ranks of held-out rows
    among draws from the prior; the regions of lowest density; the classifier.

    Args:
        report: what `quality_report` returned; or a prior, for the report that its fit or its file holds.
        labels: (d,) names to show; None for the parameters' names (for a prior, its labels).

        axes: six matplotlib axes, in the order above; None for a new figure with the verdict as its title.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the prior holds no report, or one of an earlier version; or another number of axes.
    """
    if isinstance(report, FlowPrior):
        labels = report.space.labels if labels is None else labels
        if "report" not in report.info:
            raise ValueError("plot_quality: the prior holds no report. Make one with quality_report.")
        report = QualityReport.from_json(report.info["report"])
    labels = report.comparison.kl.names if labels is None else labels
    names = list(map(readable, labels))
    panels = axes_for("plot_quality", axes, 6, "divergences, tails, pairs, ranks, densities, classifier")
    if panels is None:
        panels = _panels(report, len(names))
    divergences, tails, pairs, ranks, densities, classifier = panels
    size = float(np.interp(len(names), [10, 30], [9.0, 6.0]))
    _draw_divergences(divergences, report, names, size)
    _draw_tails(tails, report, size)
    _draw_pairs(pairs, report, names, size)
    _draw_ranks(ranks, report, names)
    _draw_densities(densities, report)
    _draw_classifier(classifier, report)
    for axis in panels:
        axis.tick_params(direction="in")
        axis.title.set_fontsize(10)
    return whole_figure(divergences)


def _panels(report: QualityReport, parameters: int) -> list[Any]:
    """Returns the axes of a new figure, with its title and legend."""
    height = max(3.1, 0.8 + 0.2 * parameters)
    figure = new_figure("plot_quality", _WIDTH, height + 4.3, layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[height, 3.1])
    panels = [
        *top.subplots(1, 3, width_ratios=[1.0, 0.8, 1.15]),
        *bottom.subplots(1, 3, width_ratios=[1.15, 0.8, 1.0]),
    ]
    figure.suptitle(_title(report), fontsize=11, color=VERDICT_COLOURS[report.verdict], x=0.01, ha="left")
    legend = "grey: what chance gives for a correct prior; red: beyond chance (one in a thousand for each panel); "
    figure.supxlabel(legend + "a warning needs a large difference as well", fontsize=8, color="#555555")
    return panels


def _title(report: QualityReport) -> str:
    head = (
        f"{report.verdict.upper()}: {report.rows} held-out rows, effective size {report.effective_size:.0f}; gain over "
        f"a Gaussian {report.gain:.3f} $\\pm$ {report.gain_error:.3f} nats"
    )
    shown = [readable(textwrap.shorten(reason, 140)) for reason in report.reasons[:_MOST_REASONS]]
    more = len(report.reasons) - len(shown)
    return "\n".join([head, *shown, *([f"and {more} more"] if more > 0 else [])])


def _rows(axis: Any, count: int) -> np.ndarray:
    """Returns the heights at which parameters stand, the first at the top."""
    axis.set_ylim(count - 0.5, -0.5)
    axis.grid(axis="y", color="#eeeeee", lw=0.6)
    axis.set_axisbelow(True)
    return np.arange(count)


def _draw_divergences(axis: Any, report: QualityReport, names: list[str], size: float) -> None:
    found = report.comparison
    at = _rows(axis, len(names))
    chance = FALSE_ALARMS / len(names)
    low, high = (found.quantiles(share).one_d for share in (1.0 - chance, chance))
    beyond = found.kl.one_d > high
    axis.barh(at, high - low, left=low, height=0.6, color=BAND)
    axis.scatter(found.kl.one_d, at, s=22, c=np.where(beyond, _ODD, _FOUND), zorder=3)
    axis.set_yticks(at, names, fontsize=size)
    axis.set_xlim(0.0, 1.08 * max(found.kl.one_d.max(), high.max()))
    axis.xaxis.set_major_locator(few_ticks(4))
    axis.set_xlabel("KL of the marginal [nats]")
    axis.set_title("Parameters: KL and its noise floor")


def _draw_tails(axis: Any, report: QualityReport, size: float) -> None:
    sides = [[tail for tail in report.tails if tail.side == side] for side in ("lower", "upper")]
    at = _rows(axis, len(sides[0]))
    expected, error = 100 * sides[0][0].expected, 100 * sides[0][0].error
    limit = FALSE_ALARMS / (2 * len(at))
    reach = norm.isf(limit / 2) * error
    axis.axvspan(max(expected - reach, 0.0), expected + reach, color=BAND, lw=0)
    axis.axvline(expected, color=GREY, lw=0.8)
    for side, marker, step in zip(sides, ("<", ">"), (-0.15, 0.15), strict=True):
        odd = [tail.p_value < limit for tail in side]
        colours = np.where(odd, _ODD, _FOUND)
        axis.scatter([100 * tail.found for tail in side], at + step, s=20, marker=marker, c=colours, zorder=3)
    axis.set_yticks(at, [])
    highest = max(100 * tail.found for side in sides for tail in side)
    axis.set_xlim(-0.05 * max(highest, expected + reach), 1.1 * max(highest, expected + reach))
    axis.xaxis.set_major_locator(few_ticks(4))
    axis.set_xlabel(f"share of held-out rows [%], {expected:.0f} % expected")
    axis.set_title("Tails at the lower ($\\blacktriangleleft$), upper ($\\blacktriangleright$) end")


def _draw_pairs(axis: Any, report: QualityReport, names: list[str], size: float) -> None:
    found, count = report.comparison, len(names)
    axis.set_title("Pairs: KL above the noise floor [nats]")
    if count < 2:
        axis.text(0.5, 0.5, "one parameter: no pairs", ha="center", va="center", color=GREY)
        axis.set_axis_off()
        return
    excess = found.kl.two_d - found.floor_mean.two_d
    table = np.full((count, count), np.nan)
    first, second = np.triu_indices(count, k=1)
    table[second, first] = np.maximum(excess, 0.0)
    reach = float(np.mean(found.quantiles(FALSE_ALARMS / len(excess)).two_d - found.floor_mean.two_d))
    image = axis.imshow(table[1:, :-1], cmap="Blues", vmin=0.0, vmax=max(excess.max(), reach), aspect="auto")
    for row, column, beyond in zip(second, first, excess > reach, strict=True):
        if beyond:
            axis.plot(column, row - 1, marker="o", ms=3.5, color=_ODD)
    axis.set_xticks(np.arange(count - 1), names[:-1], rotation=90, fontsize=size)
    axis.set_yticks(np.arange(count - 1), names[1:], fontsize=size)
    axis.spines[["top", "right"]].set_visible(False)
    bar = axis.figure.colorbar(image, ax=axis, pad=0.02)
    bar.locator = few_ticks(4)
    bar.ax.axhline(min(reach, bar.vmax), color=_ODD, lw=1.2)
    bar.ax.tick_params(labelsize=8)


def _draw_ranks(axis: Any, report: QualityReport, names: list[str]) -> None:
    everything = [*report.ranks.values(), report.density_ranks]
    reach = 100 * kstwobign.isf(FALSE_ALARMS / len(everything)) / np.sqrt(report.independent_rows * 0.8)
    axis.axhspan(-reach, reach, color=BAND, lw=0)
    for ranks, name in zip(report.ranks.values(), names, strict=True):
        levels, difference = _cumulative(ranks.counts)
        odd = 100 * ranks.distance > reach
        axis.plot(levels, difference, color=_ODD if odd else GREY, lw=1.0, zorder=3 if odd else 2)
        if odd and ranks is max(report.ranks.values(), key=lambda each: each.distance):
            peak = int(np.argmax(np.abs(difference)))
            axis.annotate(
                name,
                (levels[peak], difference[peak]),
                (0, 3 if difference[peak] > 0 else -3),
                textcoords="offset points",
                fontsize=8,
                color=_ODD,
                ha="left" if levels[peak] < 0.5 else "right",
                va="bottom" if difference[peak] > 0 else "top",
            )
    colour = _ODD if 100 * report.density_ranks.distance > reach else _FOUND
    axis.plot(*_cumulative(report.density_ranks.counts), color=colour, lw=2.0, label="density", zorder=4)
    axis.plot([], [], color=GREY, lw=1.0, label="parameters")
    axis.legend(fontsize=8, frameon=False, loc="best")
    axis.margins(y=0.12)
    axis.set_xlim(0.0, 1.0)
    axis.set_xlabel("rank among the prior's draws")
    axis.set_ylabel("excess of rows below [%]")
    axis.set_title("Ranks of held-out rows, cumulative, less uniform")


def _cumulative(counts: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    levels = np.linspace(0.0, 1.0, len(counts) + 1)
    return levels, 100 * (np.concatenate([[0.0], np.cumsum(counts) / np.sum(counts)]) - levels)


def _draw_densities(axis: Any, report: QualityReport) -> None:
    tails = [tail for tail in report.tails if tail.subject == "density"]
    limit = FALSE_ALARMS / len(DENSITY_TAILS)
    for j, tail in enumerate(tails):
        reach = norm.isf(limit / 2) * tail.error / tail.expected
        axis.bar(j, 2 * reach, bottom=max(1 - reach, 0) if reach > 1 else 1 - reach, width=0.5, color=BAND)
        colour = _ODD if tail.p_value < limit else _FOUND
        axis.errorbar(j, tail.found / tail.expected, tail.error / tail.expected, fmt="o", color=colour, capsize=3)
    axis.axhline(1.0, color=GREY, lw=0.8)
    axis.set_xticks(range(len(tails)), [f"{100 * tail.expected:.1g} %" for tail in tails])
    axis.set_xlim(-0.6, len(tails) - 0.4)
    axis.set_ylim(bottom=0.0)
    axis.set_xlabel("the prior's mass of lowest density")
    axis.set_ylabel("held-out rows there / expected")
    axis.set_title("Tails by density")


def _draw_classifier(axis: Any, report: QualityReport) -> None:
    test, beyond = report.classifier, report.extrapolation
    reach = max(5.0 * test.null_std, 1.15 * abs(test.auc - test.null_mean))
    grid = np.linspace(test.null_mean - reach, test.null_mean + reach, 400)
    axis.fill_between(grid, norm.pdf(grid, test.null_mean, test.null_std), color=BAND, lw=0)
    odd = test.p_value < FALSE_ALARMS
    axis.axvline(test.auc, color=_ODD if odd else _FOUND, lw=2.0)
    axis.set_yticks([])
    axis.set_ylim(bottom=0.0)
    axis.set_xlim(grid[0], grid[-1])
    axis.xaxis.set_major_locator(few_ticks(4))
    axis.set_xlabel(
        f"area under the ROC curve\nprior beyond the chain: {100 * beyond.share:.1f} % "
        f"({100 * beyond.expected:.1f} % expected)"
    )
    axis.set_title(f"Classifier: {test.auc:.3f}, by chance {test.null_mean:.3f} $\\pm$ {test.null_std:.3f}")
