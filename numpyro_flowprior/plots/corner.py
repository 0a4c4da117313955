"""plot_corner: all one- and two-dimensional marginals of several chains."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .._util.checks import FloatArray, shorten
from ..chains.chain import Chain
from ..chains.parameters import ParameterSpace
from .canvas import (
    COLOURS,
    GREY,
    LINES,
    axes_for,
    few_ticks,
    line_sample,
    new_figure,
    readable,
    short_numbers,
    whole_figure,
)
from .held_out import block_of_rows
from .smooth import Marginal, smooth_joint, smooth_marginal

# Probability inside 1, 2 and 3 sigma of a two-dimensional normal: 1 - exp(-k^2 / 2)
CONTOUR_MASSES = (0.3935, 0.8647, 0.9889)
_MARGIN = 0.08  # of the range of the draws, around parameters without bounds
_MOST_ROWS = 200_000  # that a picture is made of
_CELL, _SIDES = 1.55, (0.85, 0.12, 0.8, 0.12)  # inches: a panel; left, right, below, above all panels
_FONT, _LONG_LABEL, _SMALLEST = 9.0, 18, 5.5  # points; characters that fit beside a panel; points in a legend
_GRID, _FINEST_GRID = 120, 500  # points along an axis
_PRIOR = {"color": GREY, "linestyle": "dotted"}
_PRIOR_DRAWS = 50_000
_PLATEAU = 1.2  # times the next lower level: a contour nearer to it would be on a plateau
_TRUTH = {"color": "black", "lw": 0.8, "alpha": 0.7}


def plot_corner(
    chains: Mapping[str, Chain],
    *,
    names: Sequence[str] | None = None,
    prior: Any = None,
    truth: Mapping[str, float] | None = None,
    full_range: bool = False,
    title: str | None = None,
    axes: Any = None,
) -> Any:
    """Returns a matplotlib Figure of all one- and two-dimensional marginals of several chains.

    Contours enclose the highest-density regions of 39.3, 86.5 and 98.9 % of the draws (1, 2 and 3 sigma of a
    two-dimensional normal). A contour that would cross a plateau is left out, because its course there is chance.
    The density of one parameter is a spline of its logarithm by penalised likelihood (Koenker and Mizera 2006), that of
    a pair a kernel estimate or a normal density in whitened coordinates. Both end at bounds, and are as smooth as
    held-out rows permit. At most 200,000 rows of each chain, evenly spaced, are used.

    Args:
        chains: {legend: chain}; parameters are matched by name. The first is filled.
        names: which parameters to draw; None for those that all chains share, in the order of the first.
        prior: a Chain of draws from the prior, or a prior over named parameters (FlowPrior, UniformPrior), to draw in
            grey; None for none. It may lack parameters.
        truth: {name: value} to mark.
        full_range: axes span the declared bounds (the prior box), where there are any, not the range of the draws.
        title: above the legend.
        axes: (d, d) matplotlib axes to draw in; None for a new figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no chain, a name that some chain lacks, or other than (d, d) axes.
    """
    names = _shared_names(chains, names)
    drawn = [_Drawn(chain.select(names)) for chain in chains.values()]
    limits = _limits([each.chain for each in drawn], full_range=full_range)
    styles = [{"color": COLOURS[j % len(COLOURS)], "linestyle": LINES[j % len(LINES)]} for j in range(len(drawn))]
    background = None if prior is None else _Drawn(_prior_chain(prior, names))
    space, count = drawn[0].chain.space, len(names)
    given = axes_for("plot_corner", axes, count**2, f"{count} x {count}, one for each pair of parameters")
    panels = _panels(count) if given is None else np.array(given, dtype=object).reshape(count, count)
    for row in range(count):
        for column in range(count):
            axis = panels[row, column]
            if column > row:
                axis.set_visible(False)
                continue
            pair = (names[column], names[row])
            for j, (each, style) in enumerate(zip(drawn, styles, strict=True)):
                _draw_cell(axis, each, pair, limits[[column, row]], style, filled=j == 0)
            if background is not None:
                _draw_cell(axis, background, pair, limits[[column, row]], _PRIOR, filled=False)
            _mark_truth(axis, truth, pair)
            _finish_cell(axis, space, limits, row, column)
    panels[0, 0].figure.align_labels()
    legends = dict(zip(chains, styles, strict=True)) | ({} if background is None else {"prior": _PRIOR})
    _legend(panels, legends, title)
    return whole_figure(panels[0, 0])


class _Drawn:
    """A chain, as many of its rows as a picture is made of, and the marginals of its parameters."""

    def __init__(self, chain: Chain):
        counted = np.flatnonzero(chain.probabilities > 0.0)
        rows = counted[:: -(-len(counted) // _MOST_ROWS)]
        self.chain = chain
        samples, weights = chain.samples[rows], chain.probabilities[rows]
        self.weights = weights / weights.sum()
        self.effective_size = min(chain.effective_size, float(len(samples)))
        block = block_of_rows(samples)
        self.marginals: dict[str, Marginal] = {
            name: smooth_marginal(column, self.weights, self.effective_size, tuple(bounds), block)
            for name, column, bounds in zip(chain.names, samples.T, chain.space.bounds, strict=True)
        }


def _draw_cell(
    axis: Any, drawn: _Drawn, pair: tuple[str, str], limits: FloatArray, style: dict[str, str], *, filled: bool
) -> None:
    """Draws the density of one parameter, or of two: {x, y}, inside of limits (2, 2)."""
    if not all(name in drawn.marginals for name in pair):
        return
    first, second = (drawn.marginals[name] for name in pair)
    if pair[0] == pair[1]:
        x, density = first.curve()
        axis.plot(x, density / density.max(), lw=1.4, **style)
        if filled:
            axis.fill_between(x, density / density.max(), color=style["color"], alpha=0.15, lw=0)
        return
    joint = smooth_joint(first, second, drawn.weights, drawn.effective_size)
    fine = int(np.clip(_GRID / np.sqrt(1.0 - min(joint.correlation**2, 1.0 - 1e-9)), _GRID, _FINEST_GRID))
    x, y = (
        np.linspace(max(part.edges[0], low), min(part.edges[-1], high), fine)
        for part, (low, high) in zip((first, second), limits, strict=True)
    )
    density = joint.on_grid(x, y).T
    levels = [level for level in _distinct(joint.levels(CONTOUR_MASSES), joint.draws) if 0.0 < level < density.max()]
    # an edge of the draws that is not the panel's closes the contours
    x, y, density = _closed(x, y, density, limits)
    if filled:
        for level in levels:
            axis.contourf(x, y, density, levels=[level, density.max() * 1.01], colors=[style["color"]], alpha=0.16)
    if levels:
        colour, line = style["color"], style["linestyle"]
        axis.contour(x, y, density, levels=levels[::-1], colors=[colour], linestyles=[line], linewidths=1.1)


def _distinct(levels: list[float], draws: FloatArray) -> list[float]:
    """Returns the levels of contours, without those on a plateau: their course there is chance.

    Args:
        levels: from the highest to the lowest.
        draws: (n,) the density at the draws.
    """
    lowest = float(np.quantile(draws, 0.001))
    below = [*levels[1:], lowest]
    return [level for level, lower in zip(levels, below, strict=True) if level > _PLATEAU * lower]


def _closed(
    x: FloatArray, y: FloatArray, density: FloatArray, limits: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns a grid with zeros around it, just beyond each side at which the grid ends inside of the panel."""
    for axis, (grid, (low, high)) in enumerate(zip((x, y), limits, strict=True)):
        step = 1e-6 * (high - low)
        before, after = int(grid[0] > low + step), int(grid[-1] < high - step)
        grid = np.concatenate([[grid[0] - step] * before, grid, [grid[-1] + step] * after])
        pad = [(0, 0), (0, 0)]
        pad[1 - axis] = (before, after)
        density = np.pad(density, pad)
        x, y = (grid, y) if axis == 0 else (x, grid)
    return x, y, density


def _prior_chain(prior: Any, names: Sequence[str]) -> Chain:
    """Returns draws of a prior's parameters that are among some names."""
    if not isinstance(prior, Chain):
        draws = np.asarray(prior.sample(jax.random.key(0), (_PRIOR_DRAWS,)))
        prior = Chain(draws, prior.space)
    shared = [name for name in names if name in prior.names]
    if not shared:
        raise ValueError(
            f"plot_corner: prior: expected some of the parameters {shorten(names)}; got {shorten(prior.names)}. Leave "
            "it out."
        )
    return prior.select(shared)


def _panels(count: int) -> Any:
    """Returns axes (count, count) of a new figure, with room for labels in inches."""
    left, right, below, above = _SIDES
    size = max(_CELL * count, 3.0)
    width, height = size + left + right, size + below + above
    figure = new_figure("plot_corner", width, height)
    sides = {"left": left / width, "right": 1 - right / width, "bottom": below / height, "top": 1 - above / height}
    return figure.subplots(count, count, squeeze=False, gridspec_kw={**sides, "wspace": 0.06, "hspace": 0.06})


def _shared_names(chains: Mapping[str, Chain], names: Sequence[str] | None) -> list[str]:
    if not chains:
        raise ValueError("plot_corner: expected at least one chain; got none.")
    first = next(iter(chains.values()))
    if names is None:
        names = [name for name in first.names if all(name in chain.names for chain in chains.values())]
    if not names:
        raise ValueError("plot_corner: the chains have no parameter in common.")
    for legend, chain in chains.items():
        missing = [name for name in names if name not in chain.names]
        if missing:
            raise ValueError(f"plot_corner: chain {legend!r} lacks {shorten(missing)}; it has {chain.names}.")
    return list(names)


def _limits(chains: list[Chain], *, full_range: bool) -> FloatArray:
    low = np.min([chain.quantile([0.0005])[0] for chain in chains], axis=0)
    high = np.max([chain.quantile([0.9995])[0] for chain in chains], axis=0)
    margin = np.where(high > low, _MARGIN * (high - low), np.maximum(1e-6 * np.abs(high), 1e-12))
    bounds = chains[0].space.bounds
    drawn = np.column_stack([np.maximum(low - margin, bounds[:, 0]), np.minimum(high + margin, bounds[:, 1])])
    return np.where(np.isfinite(bounds), bounds, drawn) if full_range else drawn


def _mark_truth(axis: Any, truth: Mapping[str, float] | None, pair: tuple[str, str]) -> None:
    x, y = ((truth or {}).get(name) for name in pair)
    if x is not None:
        axis.axvline(x, **_TRUTH)
    if y is not None and pair[0] != pair[1]:
        axis.axhline(y, **_TRUTH)


def _finish_cell(axis: Any, space: ParameterSpace, limits: FloatArray, row: int, column: int) -> None:
    axis.set_xlim(*limits[column])
    axis.xaxis.set_major_locator(few_ticks(3, prune="both"))
    axis.tick_params(labelsize=8, direction="in")
    if row == column:
        axis.set_yticks([])
        axis.set_ylim(0.0, 1.08)
    else:
        axis.set_ylim(*limits[row])
        axis.yaxis.set_major_locator(few_ticks(3, prune="both"))
    if row == len(space) - 1:
        label = _label(axis.xaxis, space, column, limits)
        axis.set_xlabel(label, fontsize=_font(label))
        axis.tick_params(axis="x", rotation=45)
    else:
        axis.tick_params(axis="x", labelbottom=False)
    if column == 0 and row > 0:
        label = _label(axis.yaxis, space, row, limits)
        axis.set_ylabel(label, fontsize=_font(label))
    elif column > 0:
        axis.tick_params(axis="y", labelleft=False)


def _label(axis: Any, space: ParameterSpace, column: int, limits: FloatArray) -> str:
    low, high = map(float, limits[column])
    return readable(short_numbers(axis, low, high, space.labels[column], space.units[column] or ""))


def _font(label: str) -> float:
    """Returns the size at which a label fits beside a panel; LaTeX commands and braces take no room."""
    shown = len(re.sub(r"\\[a-zA-Z]+|[${}^_]", "", label))
    return float(np.clip(_FONT * _LONG_LABEL / max(shown, 1), 6.0, _FONT))


def _legend(panels: Any, styles: Mapping[str, dict[str, str]], title: str | None) -> None:
    """Puts the legend where no panel is: above the diagonal; inside of the only panel, if there is one."""
    handles = [line_sample(style["color"], ls=style["linestyle"], lw=2) for style in styles.values()]
    labels = list(map(readable, styles))
    count = len(panels)
    corner = panels[0, 0].get_position()
    right, top = panels[0, -1].get_position().x1, corner.y1
    if count == 1:
        panels[0, 0].legend(handles, labels, loc="best", title=title, fontsize=8, frameon=False, handlelength=3.0)
        return
    for size in np.arange(8.0 if count == 2 else 10.0, _SMALLEST - 0.5, -0.5):  # the largest that fits beside the panel
        legend = panels[0, 0].figure.legend(
            handles,
            labels,
            loc="upper right",
            bbox_to_anchor=(right, top),
            borderaxespad=0.0,
            title=title,
            fontsize=size,
            title_fontsize=size + 1,
            frameon=False,
            handlelength=3.0 if count > 2 else 2.0,
        )
        reach = legend.get_window_extent().transformed(panels[0, 0].figure.transFigure.inverted())
        if reach.x0 > corner.x1 + 0.01 or size <= _SMALLEST:
            break
        legend.remove()
