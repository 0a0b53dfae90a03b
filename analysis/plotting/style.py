"""One look for all figures: colours, sizes, axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from analysis.plotting.variants import Style

INK, FAINT = "#30343b", "#c9ced6"
MUTED = "#8a929e"  # of marks that stand back
STYLE = {
    "font.family": "sans-serif",
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "cola",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}
SIZE = (7.2, 4.6)
DEVIATES = 1.96  # standard errors of a 95% interval
LEAST_GAP = 0.13  # chosen: of labels along an axis, as a share of it, so that a phone shows them
# Letters that an inch of a legend has room for, and what an entry takes beside its own.
LEGEND_LETTERS, LEGEND_GAP = 12.5, 7
MOST_TICKS = 10  # chosen: labels that an axis has room for
PANEL_GAP = 0.24  # the same of a small panel's axis


def markers(axes: Axes, x: Any, y: Any, *, style: Style, kind: str) -> PathCollection:
    """Runs: filled where the likelihood is exact, open where it is a bound."""
    return axes.scatter(
        x,
        y,
        s=44,
        marker=style.marker,
        facecolors=style.colour if kind == "exact" else "none",
        edgecolors=style.colour,
        linewidths=1.6,
        zorder=3,
    )


def error_bars(axes: Axes, x: Any, y: Any, standard_error: Any, *, colour: str) -> None:
    """95% intervals of measurements, where their standard errors are known."""
    errors = np.asarray(standard_error, float)
    if np.isfinite(errors).any():
        axes.errorbar(
            x, y, yerr=DEVIATES * errors, fmt="none", ecolor=colour, elinewidth=1.2, capsize=2.5
        )


def legend_above(figure: Figure, title: str = "") -> None:
    """One legend of all panels above them, in as many columns as the figure has room for."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    room = LEGEND_LETTERS * figure.get_size_inches()[0]
    columns = max(1, int(room // (max(map(len, entries)) + LEGEND_GAP)))
    figure.legend(
        list(entries.values()),
        list(entries),
        title=title or None,
        loc="outside upper left",
        ncols=columns,
        fontsize=9,
        title_fontsize=9,
        frameon=False,
    )


def log_axes(axes: Axes, x_label: str, y_label: str, *, budgets: Sequence[float] = ()) -> None:
    """Both axes logarithmic, with round numbers on them; the horizontal one with the `budgets`
    where they are round themselves."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    low, high = axes.get_ylim()
    axes.set_yticks(nice_ticks(low, high, [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_xlim()
    steps = [1, 2, 5] if high / low < 300 else [1]
    compute_ticks(axes, budget_ticks(budgets, low, high) or nice_ticks(low, high, steps))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=False, which="minor")


def compute_ticks(axes: Axes, ticks: Sequence[float]) -> None:
    """These amounts of compute, and no others, on the horizontal axis."""
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def budget_ticks(
    budgets: Sequence[float], low: float, high: float, least: float = LEAST_GAP
) -> list[float]:
    """The budgets on a logarithmic axis as far as their labels find room, `least` of the axis
    apart; empty where a label of two digits would not be the budget."""
    inside = sorted({budget for budget in budgets if low <= budget <= high})
    if len(inside) < 2 or any(abs(float(power_of_ten(b)) / b - 1) > 1e-6 for b in inside):
        return []
    kept = [inside[-1]]  # the largest budget is the one that is looked for
    for budget in reversed(inside[:-1]):
        if np.log(kept[-1] / budget) >= least * np.log(high / low):
            kept.append(budget)
    return kept[::-1]


def nice_ticks(low: float, high: float, steps: Sequence[float]) -> list[float]:
    """Round numbers within a logarithmic axis: `steps` times powers of ten, or evenly spaced ones
    where the axis is too short for those."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) >= 3:
        return inside[:: -(-len(inside) // MOST_TICKS)]
    even = MaxNLocator(nbins=5).tick_values(low, high)
    return [float(tick) for tick in even if low <= tick <= high]


def power_of_ten(value: float) -> str:
    """3e11 rather than 300000000000."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
