"""Small multiples: each quantity against compute, a panel each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.metric_report.content import Panel
from analysis.plotting.style import (
    INK,
    PANEL_GAP,
    SIZE,
    STYLE,
    budget_ticks,
    compute_ticks,
    error_bars,
    legend_above,
    markers,
    nice_ticks,
)
from analysis.plotting.tooltips import attach_tooltips
from analysis.plotting.variants import Style

ACROSS = 3  # panels side by side


def small_multiples(panels: Sequence[Panel], styles: Mapping[str, Style], compute: str) -> Figure:
    """Finished runs, fitted curves with 95% bands, and chance (dotted) of every quantity."""
    across = min(ACROSS, len(panels))
    rows = -(-len(panels) // across)
    height = 2.5 if across > 1 else SIZE[1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], height * rows + 0.4), layout="constrained")
        grid = figure.subplots(rows, across, squeeze=False, sharex=True).flatten()
        for axes, panel in zip(grid, panels, strict=False):
            _draw(axes, panel, styles, compute=compute)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[: len(panels)]:
            axes.tick_params(labelbottom=True)
        for axes in grid[max(0, len(panels) - across) : len(panels)]:
            axes.set_xlabel(f"training FLOPs ({compute})", fontsize=9)
        legend_above(figure)
    return figure


def _draw(axes: Axes, panel: Panel, styles: Mapping[str, Style], *, compute: str) -> None:
    quantity, rows = panel.found.quantity, panel.found.rows
    for variant, curve in panel.curves.items():
        style, mine = styles[variant], rows[rows["variant"] == variant]
        x, y = mine[f"train_flops_{compute}"], quantity.scale * mine["value"]
        error_bars(axes, x, y, quantity.scale * mine["error"], colour=style.colour)
        drawn = markers(axes, x, y, style=style, kind=curve.kind)
        drawn.set_sizes([22])
        drawn.set_label(style.label)
        attach_tooltips(
            drawn,
            [
                f"{name}: {quantity.shown(value)} at {flops:.3g} {compute} FLOPs"
                for name, value, flops in zip(mine["name"], mine["value"], x, strict=True)
            ],
        )
        if curve.band is None:
            continue
        band = curve.band
        line = style.line(curve.kind)
        axes.plot(
            band["flops"], quantity.scale * band["value"], ls=line, color=style.colour, lw=1.4
        )
        for low, high, alpha in (("low", "high", 0.2), ("new_low", "new_high", 0.08)):
            ends = [quantity.scale * band[name] for name in (low, high)]
            axes.fill_between(band["flops"], *ends, color=style.colour, alpha=alpha, lw=0)
    if panel.found.chance is not None:
        axes.axhline(quantity.scale * panel.found.chance, color=INK, lw=0.8, ls=":")
    axes.set_xscale("log")
    if quantity.range is None:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    low, high = axes.get_xlim()
    ticks = budget_ticks(sorted(set(rows["budget"])), low, high, least=PANEL_GAP)
    compute_ticks(axes, ticks or nice_ticks(low, high, [1]))
    weight = "bold" if quantity.parts else "normal"
    unit = f", {quantity.unit}" if quantity.unit else ""
    axes.set_title(f"{quantity.title}{unit}", fontsize=10, loc="left", fontweight=weight)
    axes.margins(x=0.08, y=0.12)
    if quantity.range is not None and np.isfinite(quantity.range.high):
        low, high = axes.get_ylim()
        floor, ceiling = (quantity.scale * e for e in (quantity.range.low, quantity.range.high))
        axes.set_ylim(max(low, floor - 0.02 * (ceiling - floor)), high)
