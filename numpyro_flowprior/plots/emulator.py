"""plot_emulator: predictions of an emulator compared with runs of the model, in one figure."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from scipy.stats import binom, norm

from ..emulators.validation import EmulatorValidation
from .canvas import BAND, COLOURS, GREY, VERDICT_COLOURS, axes_for, few_ticks, new_figure, readable, whole_figure

_FOUND = COLOURS[0]
_NAMED = 45  # outputs that there is room to name
_LEVELS = np.linspace(0.02, 0.98, 49)
_WIDEST = 5.0  # standardised residuals shown


def plot_emulator(validation: EmulatorValidation, *, axes: Any = None) -> Any:
    """Returns a matplotlib Figure of `emulator.validate(X, Y)` or `emulator.leave_one_out(Y)`.

    From the upper left: predictions against runs, each output in units of its spread; residuals in units of the
    predicted standard deviation, with the standard normal density; R^2 of each output; the coverage of central
    intervals of all probabilities, for all outputs together (blue) and for each (thin), with the range that chance
    gives for one output (grey, 95 %).

    Args:
        validation: what `emulator.validate` or `emulator.leave_one_out` returned.
        axes: four matplotlib axes, in the order above; None for a new figure with the verdict as its title.

    Raises:
        TypeError: not a validation.
        ImportError: matplotlib is not installed.
        ValueError: another number of axes.
    """
    if not isinstance(validation, EmulatorValidation):
        raise TypeError(
            f"plot_emulator: expected an EmulatorValidation; got {type(validation).__name__}. Pass "
            "emulator.validate(X, Y) or emulator.leave_one_out(Y)."
        )
    m = len(validation.output_names)
    named = m <= _NAMED
    panels = axes_for("plot_emulator", axes, 4, "runs, residuals, R^2, coverage")
    if panels is None:
        figure = new_figure("plot_emulator", 9.5, max(7.0, 2.5 + 0.2 * m if named else 7.0), layout="constrained")
        panels = list(figure.subplots(2, 2).ravel())
        reasons = "".join(f"\n{textwrap.shorten(reason, 115)}" for _, reason in validation.reasons[:3])
        title = f"{validation.verdict.upper()}: {len(validation.residuals)} runs, {m} outputs{reasons}"
        colour = VERDICT_COLOURS[validation.verdict]
        figure.suptitle(title, fontsize=11, color=colour, x=0.01, ha="left", parse_math=False)
    runs, residuals, r2, coverage = panels
    _draw_runs(runs, validation)
    _draw_r2(r2, validation, named)
    _draw_residuals(residuals, validation)
    _draw_coverage(coverage, validation)
    for axis in panels:
        axis.tick_params(direction="in")
        axis.title.set_fontsize(10)
    return whole_figure(panels[0])


def _draw_runs(axis: Any, validation: EmulatorValidation) -> None:
    centre, spread = validation.observed.mean(axis=0), validation.observed.std(axis=0)
    runs, predicted = ((values - centre) / spread for values in (validation.observed, validation.predicted))
    ends = np.array([min(runs.min(), predicted.min()), max(runs.max(), predicted.max())])
    axis.plot(ends, ends, color=GREY, lw=0.8)
    axis.scatter(runs, predicted, s=3, color=_FOUND, alpha=min(1.0, 30 / np.sqrt(runs.size)), lw=0, rasterized=True)
    axis.set(xlabel="run, in units of the output's spread", ylabel="predicted", title="Predictions and runs")


def _draw_r2(axis: Any, validation: EmulatorValidation, named: bool) -> None:
    r2 = validation.r2
    at = np.arange(len(r2))
    axis.scatter(r2, at, s=14 if named else 6, color=_FOUND)
    axis.axvline(1.0, color=GREY, lw=0.8)
    axis.set_ylim(len(r2) - 0.5, -0.5)
    axis.set_yticks(at if named else [], list(map(readable, validation.output_names)) if named else [], fontsize=7)
    axis.set_xlim(min(0.9, float(r2.min()) - 0.02), 1.01)
    axis.xaxis.set_major_locator(few_ticks(4))
    axis.set(xlabel="$R^2$", title="Outputs" if named else f"Outputs, {len(r2)} in their order downwards")


def _draw_residuals(axis: Any, validation: EmulatorValidation) -> None:
    residuals = validation.residuals.ravel()
    edges = np.linspace(-_WIDEST, _WIDEST, 51)
    axis.hist(np.clip(residuals, -_WIDEST, _WIDEST), edges, density=True, color=BAND)
    x = np.linspace(-_WIDEST, _WIDEST, 201)
    axis.plot(x, norm.pdf(x), color=_FOUND)
    beyond = np.mean(np.abs(residuals) > _WIDEST)
    title = f"Residuals: deviation {residuals.std():.2f}, {beyond:.1%} beyond {_WIDEST:g}"
    axis.set(xlabel="(predicted - run) / predicted deviation", ylabel="density", title=title)


def _draw_coverage(axis: Any, validation: EmulatorValidation) -> None:
    n = len(validation.residuals)
    found = np.stack([validation.coverage(float(level)) for level in _LEVELS])
    low, high = (binom.ppf(share, n, _LEVELS) / n for share in (0.025, 0.975))
    axis.fill_between(_LEVELS, low, high, color=BAND, lw=0)
    axis.plot(_LEVELS, found, color=_FOUND, alpha=min(1.0, 4 / found.shape[1]), lw=0.6)
    axis.plot(_LEVELS, found.mean(axis=1), color=_FOUND, lw=1.8)
    axis.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the interval", ylabel="runs inside", title="Coverage")
