"""plot_corner: all one- and two-dimensional marginals of several chains."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from .._util.checks import FloatArray, shorten
from ..chains.chain import Chain
from ..chains.parameters import ParameterSpace
from .canvas import COLOURS, few_ticks, line_sample, new_figure, readable

# Probability inside 1, 2 and 3 sigma of a two-dimensional normal: 1 - exp(-k^2 / 2)
CONTOUR_MASSES = (0.3935, 0.8647, 0.9889)
_BINS = 75
_MARGIN = 0.08  # of the range of the draws, around parameters without bounds
_DASHES = ("solid", "dashed", "dotted")


def plot_corner(
    chains: Mapping[str, Chain],
    *,
    names: Sequence[str] | None = None,
    full_range: bool = False,
    truth: Mapping[str, float] | None = None,
    title: str | None = None,
    bins: int = _BINS,
) -> Any:
    """Returns a matplotlib Figure of all one- and two-dimensional marginals of several chains.

    Contours enclose the highest-density regions of 39.3, 86.5 and 98.9 % (1, 2 and 3 sigma of a two-dimensional
    normal; solid, dashed, dotted) of smoothed weighted histograms.

    Args:
        chains: {legend: chain}; parameters are matched by name.
        names: which parameters to draw; None for those that all chains share, in the order of the first.
        full_range: axes span the declared bounds (the prior box), where there are any, not the range of the draws.
        truth: {name: value} to mark.
        title: above the figure.
        bins: bins of the histograms along each axis.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no chain, or a name that some chain lacks.
    """
    names = _shared_names(chains, names)
    selected = {legend: chain.select(names) for legend, chain in chains.items()}
    limits = _limits(list(selected.values()), full_range=full_range)
    space = next(iter(selected.values())).space
    size = max(1.55 * len(names), 3.0)
    figure = new_figure("plot_corner", size + 0.6, size + 0.6)
    axes = figure.subplots(len(names), len(names), squeeze=False)
    for row in range(len(names)):
        for column in range(len(names)):
            axis = axes[row, column]
            if column > row:
                axis.set_visible(False)
                continue
            for index, chain in enumerate(selected.values()):
                colour = COLOURS[index % len(COLOURS)]
                _draw_cell(axis, chain, (row, column), limits, colour, bins, filled=index == 0)
            _mark_truth(axis, truth, space.names, row, column)
            _finish_cell(axis, space, limits, row, column)
    _legend(figure, list(selected), title)
    figure.subplots_adjust(left=0.10, right=0.985, bottom=0.10, top=0.985, wspace=0.06, hspace=0.06)
    return figure


def _draw_cell(
    axis: Any, chain: Chain, cell: tuple[int, int], limits: FloatArray, colour: str, bins: int, *, filled: bool
) -> None:
    row, column = cell
    if row == column:
        centres, density = density_1d(chain, column, limits, bins)
        axis.plot(centres, density, color=colour, lw=1.3)
        if filled:
            axis.fill_between(centres, density, color=colour, alpha=0.15, lw=0)
        return
    x, y, density = density_2d(chain, (column, row), limits, bins)
    levels = highest_density_levels(density, CONTOUR_MASSES)
    x, y = (np.array([limits[j, 0], *grid, limits[j, 1]]) for j, grid in ((column, x), (row, y)))
    density = np.pad(density, 1, mode="edge")  # from the outermost bins' centres to the edges of the cell
    if filled:
        for level in levels:
            axis.contourf(x, y, density.T, levels=[level, density.max() * 1.01], colors=[colour], alpha=0.13)
    axis.contour(x, y, density.T, levels=levels[::-1], colors=[colour], linestyles=_DASHES[::-1], linewidths=1.1)


def density_1d(chain: Chain, column: int, limits: FloatArray, bins: int) -> tuple[FloatArray, FloatArray]:
    """Returns bin centres and the smoothed weighted density of one parameter, (bins,) each."""
    low, high = limits[column]
    counts, edges = np.histogram(chain.samples[:, column], bins, range=(low, high), weights=chain.probabilities)
    smooth = gaussian_filter(counts, _smoothing(chain, 5), mode="reflect") / (edges[1] - edges[0])
    return 0.5 * (edges[1:] + edges[:-1]), smooth


def density_2d(
    chain: Chain, columns: tuple[int, int], limits: FloatArray, bins: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns bin centres of both parameters (bins,) and their smoothed weighted joint density (bins, bins)."""
    first, second = (chain.samples[:, j] for j in columns)
    ranges = limits[list(columns)]
    counts, x, y = np.histogram2d(first, second, bins=bins, range=ranges, weights=chain.probabilities)
    smooth = gaussian_filter(counts, _smoothing(chain, 6), mode="reflect")
    return 0.5 * (x[1:] + x[:-1]), 0.5 * (y[1:] + y[:-1]), smooth


def _smoothing(chain: Chain, power: int) -> float:
    """Returns the width of the smoothing kernel in bins: 1.5 for 20,000 draws, wider for fewer."""
    return float(np.clip(1.5 * (20_000 / chain.effective_size) ** (1 / power), 1.2, 4.0))


def highest_density_levels(density: FloatArray, masses: Sequence[float]) -> list[float]:
    """Returns the density above which the given masses lie, falling; levels that coincide are set slightly apart."""
    ordered = np.sort(density.ravel())[::-1]
    cumulative = np.cumsum(ordered) / ordered.sum()
    ranks = np.minimum(np.searchsorted(cumulative, masses), len(ordered) - 1)
    levels = ordered[ranks].tolist()
    for j in range(1, len(levels)):
        levels[j] = min(levels[j], levels[j - 1] * (1 - 1e-6))
    return levels


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
    margin = _MARGIN * (high - low)
    bounds = chains[0].space.bounds
    drawn = np.column_stack([np.maximum(low - margin, bounds[:, 0]), np.minimum(high + margin, bounds[:, 1])])
    return np.where(np.isfinite(bounds), bounds, drawn) if full_range else drawn


def _mark_truth(axis: Any, truth: Mapping[str, float] | None, names: tuple[str, ...], row: int, column: int) -> None:
    if truth is None:
        return
    x, y = truth.get(names[column]), truth.get(names[row])
    style = {"color": "black", "lw": 0.7, "alpha": 0.6}
    if x is not None:
        axis.axvline(x, **style)
    if y is not None and row != column:
        axis.axhline(y, **style)


def _finish_cell(axis: Any, space: ParameterSpace, limits: FloatArray, row: int, column: int) -> None:
    axis.set_xlim(*limits[column])
    axis.xaxis.set_major_locator(few_ticks(3, prune="both"))
    axis.tick_params(labelsize=8, direction="in")
    if row == column:
        axis.set_yticks([])
        axis.set_ylim(bottom=0)
    else:
        axis.set_ylim(*limits[row])
        axis.yaxis.set_major_locator(few_ticks(3, prune="both"))
    if row == len(space) - 1:
        axis.set_xlabel(_label(space, column), fontsize=9)
        axis.tick_params(axis="x", rotation=45)
    else:
        axis.set_xticklabels([])
    if column == 0 and row > 0:
        axis.set_ylabel(_label(space, row), fontsize=9)
    elif column > 0:
        axis.set_yticklabels([])


def _label(space: ParameterSpace, column: int) -> str:
    unit = re.sub(r"\^(-?\d+)", r"$^{\1}$", space.units[column] or "")  # GeV^-2 with its exponent raised
    return readable(f"{space.labels[column]} [{unit}]" if unit else space.labels[column])


def _legend(figure: Any, legends: list[str], title: str | None) -> None:
    handles = [line_sample(COLOURS[j % len(COLOURS)], lw=2) for j in range(len(legends))]
    figure.legend(
        handles, list(map(readable, legends)), loc="upper right", bbox_to_anchor=(0.98, 0.98), title=title, fontsize=10
    )
