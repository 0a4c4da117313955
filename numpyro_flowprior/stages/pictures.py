"""plot_stages and plot_guards: how posteriors tighten from stage to stage, and whether each prior was reliable."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from .._util.checks import shorten
from ..chains.chain import Chain
from ..plots.canvas import (
    BAND,
    COLOURS,
    GREY,
    VERDICT_COLOURS,
    axes_for,
    few_ticks,
    new_figure,
    readable,
    short_numbers,
    whole_figure,
)
from .analysis import StagedAnalysis
from .findings import CHANCE, FEW_ROWS, LOSS
from .guards import Guards

_INTERVALS = ((0.025, 0.975, 1.4), (0.16, 0.84, 5.0))  # lower, upper, line width
_ACROSS = 4  # panels in a row
_PANEL = (2.7, 0.9, 0.34)  # inches: width; height without stages, and of each stage
_ODD = COLOURS[1]
_PANELS = 4  # of plot_guards


def plot_stages(
    analysis: StagedAnalysis | Mapping[str, Chain],
    *,
    names: Sequence[str] | None = None,
    truth: Mapping[str, float] | None = None,
    axes: Any = None,
) -> Any:
    """Returns a matplotlib Figure of each parameter's posterior in each stage: median, 68 % and 95 % intervals.

    The number at the right is the width of the 68 % interval relative to the first stage that has the parameter.

    Args:
        analysis: what `run_stages` or `load_stages` returned; or {name: chain} in the order of the stages.
        names: parameters to draw; None for all, in the order in which the stages add them.
        truth: {name: value} to mark.
        axes: one matplotlib axis for each parameter; None for a new figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no stage, a name that no stage has, or another number of axes.

    Example:
        >>> import numpy as np
        >>> from numpyro_flowprior import Chain, ParameterSpace, plot_stages
        >>> rows, space = np.random.default_rng(0).normal(size=(1000, 1)), ParameterSpace(["a"])
        >>> figure = plot_stages({"first": Chain(rows, space), "second": Chain(0.5 * rows, space)})
        >>> len(figure.axes)
        1
    """
    chains = analysis.chains if isinstance(analysis, StagedAnalysis) else dict(analysis)
    if not chains:
        raise ValueError("plot_stages: expected at least one stage; got none.")
    known = list(dict.fromkeys(name for chain in chains.values() for name in chain.names))
    names = known if names is None else list(names)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(
            f"plot_stages: names: expected some of {shorten(known, 20)}; got {shorten(unknown) or 'none'}."
        )
    panels = axes_for("plot_stages", axes, len(names), "one for each parameter")
    if panels is None:
        panels = _grid(len(names), len(chains))
    for name, axis in zip(names, panels, strict=True):
        _draw_parameter(axis, name, chains, (truth or {}).get(name))
    return whole_figure(panels[0])


def _grid(count: int, stages: int) -> list[Any]:
    """Returns as many axes of a new figure, in rows of a few."""
    across = min(count, _ACROSS)
    down = -(-count // across)
    width, height, each = _PANEL
    figure = new_figure("plot_stages", width * across + 0.8, down * (height + each * stages), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_visible(False)
    return list(axes[:count])


def _draw_parameter(axis: Any, name: str, chains: Mapping[str, Chain], truth: float | None) -> None:
    first_width, space = None, None
    for j, chain in enumerate(chains.values()):
        if name not in chain.names:
            axis.text(0.02, j, "not a parameter", transform=axis.get_yaxis_transform(), **_SMALL, color=GREY)
            continue
        column = chain.names.index(name)
        space = chain.space if space is None else space
        colour = COLOURS[j % len(COLOURS)]
        levels = [level for low, high, _ in _INTERVALS for level in (low, high)]
        ends = chain.quantile([*levels, 0.5])[:, column]
        for (low, high), (_, _, line) in zip(np.reshape(ends[:-1], (-1, 2)), _INTERVALS, strict=True):
            axis.plot([low, high], [j, j], color=colour, lw=line, solid_capstyle="butt")
        axis.plot(ends[-1], j, "o", color=colour, mfc="white", ms=5, zorder=3)
        width = float(ends[3] - ends[2])
        if first_width and first_width > 0.0:
            axis.text(1.02, j, f"\N{MULTIPLICATION SIGN} {width / first_width:.2f}", **_at_right(axis))
        first_width = width if first_width is None else first_width
    if truth is not None:
        axis.axvline(truth, color="black", lw=0.8, alpha=0.7, zorder=0)
    axis.set_ylim(len(chains) - 0.5, -0.5)
    axis.set_yticks(range(len(chains)), [readable(stage) for stage in chains], fontsize=8)
    axis.tick_params(direction="in", labelsize=8)
    axis.xaxis.set_major_locator(few_ticks(4))
    assert space is not None  # some stage has the parameter
    column = space.names.index(name)
    low, high = axis.get_xlim()
    label = short_numbers(axis.xaxis, low, high, space.labels[column], space.units[column] or "")
    axis.set_xlabel(readable(label), fontsize=9)


_SMALL = {"fontsize": 8, "va": "center"}


def _at_right(axis: Any) -> dict[str, Any]:
    return {"transform": axis.get_yaxis_transform(), "color": "#555555", **_SMALL}


def plot_guards(guards: Guards, *, title: str | None = None, axes: Any = None) -> Any:
    """Returns a matplotlib Figure of the guards of one stage, with its verdict and what was found.

    From the upper left: the KL from the exact posterior to the one under the learned prior, with its limits (orange:
    warning, red: failure); the rows of the previous stage that the posterior rests on, with their limits; the shift of
    each parameter in standard deviations of the previous stage (grey: one), and at the right its pull, the shift
    divided by the scatter that is expected if the data agree; the log evidence of the data next to those of data sets
    that the prior predicts. A panel without its input says "not known".

    Args:
        guards: `analysis.guards[name]`, or what `check_stage` returned.
        title: before the verdict; the stage's name, say.
        axes: four matplotlib axes; None for a new figure.

    Raises:
        TypeError: not the guards of a stage.
        ImportError: matplotlib is not installed.
        ValueError: another number of axes.
    """
    if not isinstance(guards, Guards):
        raise TypeError(
            f"plot_guards: expected the Guards of one stage; got {type(guards).__name__}. Pass analysis.guards[name]."
        )
    numbers = guards.numbers
    shifts = (numbers.get("tension") or {}).get("shift") or {}
    panels = axes_for("plot_guards", axes, _PANELS, "KL, rows, shifts, data")
    if panels is None:
        height = max(2.2, 0.9 + 0.24 * len(shifts))
        figure = new_figure("plot_guards", 9.5, height + 3.4, layout="constrained")
        panels = list(figure.subplots(2, 2, height_ratios=[1.7, height]).ravel())
        figure.suptitle(_headline(guards, title), fontsize=10, color=VERDICT_COLOURS[guards.verdict], x=0.01, ha="left")
    _draw_loss(panels[0], numbers.get("prior_error"))
    _draw_rows(panels[1], numbers.get("rows_rested_on"), numbers.get("rows_rested_on_error"))
    _draw_shifts(panels[2], shifts, (numbers.get("tension") or {}).get("pull") or {})
    _draw_prediction(panels[3], numbers.get("prior_predictive"))
    for axis in panels:
        axis.tick_params(direction="in", labelsize=8)
        axis.title.set_fontsize(10)
    return whole_figure(panels[0])


def _headline(guards: Guards, title: str | None) -> str:
    head = f"{readable(title)}: " if title else ""
    odd = [f for f in guards.findings if f.verdict in ("fail", "warn")]
    lines = [textwrap.shorten(f"{f.verdict}: {f.subject}: {f.text}", 125) for f in odd[:4]]
    return "\n".join([f"{head}{guards.verdict.upper()}", *map(readable, lines)])


def _unknown(axis: Any) -> None:
    axis.set(xticks=[], yticks=[])
    axis.text(0.5, 0.5, "not known", transform=axis.transAxes, ha="center", va="center", color=GREY)


def _draw_loss(axis: Any, error: Mapping[str, Any] | None) -> None:
    axis.set_title("KL due to the learned prior [nats]")
    if error is None or any(error[name] is None or not np.isfinite(error[name]) for name in ("loss", "pareto_k")):
        _unknown(axis)
        return
    loss, reach = float(error["loss"]), 3.0 * float(error["loss_error"] or 0.0)
    fail, warn = LOSS
    axis.errorbar(loss, 0.0, xerr=reach, fmt="o", color=COLOURS[0], capsize=4)
    _limits(axis, warn, fail)
    axis.set_xlim(min(0.0, loss - reach) - 0.005, 1.15 * max(fail, loss + reach))
    axis.set_yticks([])
    axis.set_xlabel(f"three standard errors; Pareto k {float(error['pareto_k']):.2f}", fontsize=8)


def _draw_rows(axis: Any, rows: float | None, error: float | None) -> None:
    axis.set_title("Rows of the previous stage in the posterior")
    if rows is None or not np.isfinite(rows):
        _unknown(axis)
        return
    fail, warn = FEW_ROWS
    rows = max(float(rows), 0.5)
    spread = min(float(error or 0.0) / rows, 3.0)
    ends = [[rows * -np.expm1(-spread)], [rows * np.expm1(spread)]]
    axis.errorbar(rows, 0.0, xerr=ends, fmt="o", color=COLOURS[0], capsize=4)
    axis.set_xscale("log")
    _limits(axis, warn, fail)
    axis.set_xlim(min(0.4, 0.5 * rows), max(1000.0, 2.0 * rows))
    axis.set_yticks([])
    axis.set_xlabel("one standard error", fontsize=8)


def _limits(axis: Any, warn: float, fail: float) -> None:
    for limit, verdict in ((warn, "warn"), (fail, "fail")):
        axis.axvline(limit, color=VERDICT_COLOURS[verdict], lw=1.2)
        axis.text(
            limit,
            0.93,
            f" {verdict}",
            transform=axis.get_xaxis_transform(),
            va="top",
            fontsize=8,
            color=VERDICT_COLOURS[verdict],
        )


def _draw_shifts(axis: Any, shifts: Mapping[str, float], pulls: Mapping[str, float]) -> None:
    axis.set_title("Shifts of the means, and their pulls")
    known = {name: value for name, value in shifts.items() if value is not None and np.isfinite(value)}
    if not known:
        _unknown(axis)
        return
    at = np.arange(len(known))
    axis.axvspan(-1.0, 1.0, color=BAND, lw=0)
    axis.hlines(at, 0.0, list(known.values()), color=COLOURS[0], lw=1.4)
    axis.scatter(list(known.values()), at, s=24, color=COLOURS[0], zorder=3)
    for height, name in zip(at, known, strict=True):
        pull = pulls.get(name)
        if pull is not None and np.isfinite(pull):
            style = {**_at_right(axis), "color": _ODD if abs(pull) > 3.0 else "#555555", "ha": "right"}
            axis.text(0.985, height, f"pull {pull:+.1f}", **style)
    reach = 1.15 * max(1.2, *(abs(value) for value in known.values()))
    axis.set_xlim(-reach, 1.6 * reach)  # with room for the pulls
    axis.set_ylim(len(known) - 0.5, -0.5)
    axis.set_yticks(at, list(map(readable, known)), fontsize=8)
    axis.set_xlabel("standard deviations of the previous stage", fontsize=8)


def _draw_prediction(axis: Any, check: Mapping[str, Any] | None) -> None:
    axis.set_title("Log evidence of the data [nats]")
    values = [] if check is None else [check["observed"], check["mean"], check["std"]]
    if not values or any(value is None or not np.isfinite(value) for value in values) or values[2] <= 0.0:
        _unknown(axis)
        return
    observed, mean, std = map(float, values)
    grid = np.linspace(min(mean - 4 * std, observed - std), max(mean + 4 * std, observed + std), 300)
    axis.fill_between(grid, norm.pdf(grid, mean, std), color=BAND, lw=0, label="predicted by the prior")
    p_value = float(check["p_value"]) if check is not None else 1.0
    axis.axvline(observed, color=_ODD if p_value <= CHANCE else COLOURS[0], lw=2.0, label="observed")
    axis.set_yticks([])
    axis.set_ylim(bottom=0.0)
    axis.xaxis.set_major_locator(few_ticks(4))
    axis.set_xlabel(f"p = {p_value:.2g}", fontsize=8)
    axis.legend(fontsize=8, frameon=False, loc="best")
