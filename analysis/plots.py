"""Figures of the report: one look, families always in the same hue, bounds never drawn as exact.

Exact likelihoods have filled markers and solid lines, bounds open markers and dashed lines. Text
and axes are drawn in a marker colour that the report turns into the page's own (light or dark).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from analysis.fits import FamilyFit
from analysis.tooltips import insert, remember
from analysis.variants import Style

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


def loss_against_compute(
    points: pd.DataFrame,
    fits: Mapping[str, FamilyFit],
    styles: Mapping[str, Style],
    column: str,
    label: str,
    compute: str,
) -> Figure:
    """Finished runs of every curve, their fitted curves and bands, labelled at the curve's end."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        ends: dict[str, float] = {}
        for variant, group in points.groupby("variant"):
            kind = group["nll_kind"].iloc[0]
            style = styles[str(variant)]
            drawn = markers(axes, group[f"train_flops_{compute}"], group[column], style, kind)
            remember(drawn, run_texts(group, column, compute))
            fit = fits.get(str(variant))
            ends[str(variant)] = float(group.sort_values("budget")[column].iloc[-1])
            if fit is not None and fit.curve is not None and column == "nll":
                curve = fit.curve
                line = {"color": style.colour, "lw": style.width, "ls": style.line(kind)}
                axes.plot(curve["flops"], curve["loss"], **line)
                for low, high, alpha in (("low", "high", 0.2), ("new_low", "new_high", 0.08)):
                    axes.fill_between(
                        curve["flops"],
                        curve[low],
                        curve[high],
                        color=style.colour,
                        alpha=alpha,
                        lw=0,
                    )
                ends[str(variant)] = float(curve["loss"].iloc[-1])
        log_axes(axes, f"training compute, FLOPs ({compute})", label)
        end_labels(axes, points, styles, ends)
    return figure


def training_curves(curves: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """Training loss of each run against its tokens, one panel a curve (losses differ in kind)."""
    variants = [name for name in styles if name in set(curves["variant"])]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 2.9), layout="constrained")
        panels = figure.subplots(1, len(variants), squeeze=False)[0]
        for axes, variant in zip(panels, variants, strict=True):
            mine = curves[curves["variant"] == variant]
            budgets = sorted(mine["budget"].unique())
            for _, run in mine.groupby("run_id"):
                rank = budgets.index(run["budget"].iloc[0]) + 1
                alpha = 0.25 + 0.75 * rank / len(budgets)
                smooth = run["train_loss"].rolling(5, min_periods=1).mean()
                axes.plot(run["tokens"], smooth, color=styles[variant].colour, alpha=alpha, lw=1.3)
            axes.set_title(styles[variant].label, fontsize=11, loc="left")
            log_axes(axes, "tokens", "training objective" if variant == variants[0] else "")
    return figure


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Write PNG and SVG; returns the SVG for embedding, its ink in the page's colour."""
    with mpl.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = insert(buffer.getvalue(), figure)
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


def run_texts(runs: pd.DataFrame, column: str, compute: str) -> list[str]:
    """What is said of each run where the mouse rests."""
    return [
        f"{run['name']}: {run[column]:.4f}{' (bound)' if run['nll_kind'] == 'bound' else ''} at "
        f"{run[f'train_flops_{compute}']:.3g} {compute} FLOPs, {run['core_parameters']:,} core "
        f"parameters, {run['tokens']:,.0f} tokens"
        for _, run in runs.iterrows()
    ]


def markers(axes: Axes, x: Any, y: Any, style: Style, kind: str) -> PathCollection:
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


def end_labels(
    axes: Axes, points: pd.DataFrame, styles: Mapping[str, Style], ends: Mapping[str, float]
) -> None:
    """Names beside their curves' ends, moved apart where they would overlap."""
    low, high = np.log(axes.get_ylim())
    gap = 0.065 * (high - low)
    placed = -np.inf
    for variant, value in sorted(ends.items(), key=lambda item: item[1]):
        kind = points.loc[points["variant"] == variant, "nll_kind"].iloc[0]
        placed = max(float(np.log(value)), placed + gap)
        text = styles[variant].label + (" (bound)" if kind == "bound" else "")
        axes.annotate(
            text,
            (1.01, np.exp(placed)),
            xycoords=("axes fraction", "data"),
            color=styles[variant].colour,
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )
