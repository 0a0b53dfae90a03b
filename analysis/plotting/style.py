"""One look for all figures: colours, sizes, axes, files."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from analysis.plotting.tooltips import insert_tooltips
from analysis.plotting.variants import Style

INK, FAINT = "#30343b", "#c9ced6"
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


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write PNG and SVG; returns the SVG for embedding, its ink in the page's colour."""
    with mpl.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = insert_tooltips(buffer.getvalue(), figure)
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    return embeddable(svg, name)


def embeddable(svg: str, name: str) -> str:
    """An inline SVG that scales with the page, follows its colours and keeps its ids to itself."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'id="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    return svg.replace(INK, "currentColor").replace(FAINT, "var(--grid)")


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


def log_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Both axes logarithmic, with round numbers on them."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    low, high = axes.get_ylim()
    axes.set_yticks(nice_ticks(low, high, [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axes.get_xlim()
    steps = [1, 2, 5] if high / low < 300 else [1]
    axes.set_xticks(nice_ticks(low, high, steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    axes.grid(visible=False, which="minor")


def nice_ticks(low: float, high: float, steps: Sequence[float]) -> list[float]:
    """Round numbers within a logarithmic axis: `steps` times powers of ten, or evenly spaced ones
    where the axis is too short for those."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) >= 3:
        return inside
    even = MaxNLocator(nbins=5).tick_values(low, high)
    return [float(tick) for tick in even if low <= tick <= high]


def power_of_ten(value: float) -> str:
    """3e11 rather than 300000000000."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


Drawn = tuple[str, str, Figure, str]  # name, title, figure, caption
