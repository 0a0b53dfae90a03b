"""Figures of the report: one look, families always in the same hue, bounds never drawn as exact.

Exact likelihoods have filled markers and solid lines, bounds and estimates open markers and dashed
lines. Text
and axes are drawn in a marker colour that the report turns into the page's own (light or dark).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plotting.style import (
    INK,
    PANEL_GAP,
    SIZE,
    STYLE,
    budget_ticks,
    compute_ticks,
    error_bars,
    log_axes,
    markers,
    nice_ticks,
)
from analysis.plotting.tooltips import attach_tooltips
from analysis.plotting.variants import Style
from analysis.report.family_fits import FamilyFit
from cola.records import weakest_kind

LINE = 0.06  # of the axis' height, that a line of a label takes


def loss_against_compute(
    points: pd.DataFrame,
    fits: Mapping[str, FamilyFit],
    styles: Mapping[str, Style],
    *,
    column: str,
    label: str,
    compute: str,
    lines: Mapping[str, float],
) -> Figure:
    """Finished runs of every curve with the errors of their scores, fitted curves and bands,
    labelled at the curve's end; budgets are on the axis.

    `lines` are drawn across, dotted, with their names at the left.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        ends: dict[str, float] = {}
        for variant, style in styles.items():
            group = points[points["variant"] == variant]
            if group.empty:
                continue
            fit = fits.get(variant)
            curve = fit.curve if fit is not None and column == "nll" else None
            draw_runs(axes, group, style, column=column, compute=compute)
            ends[variant] = float(group.sort_values("budget")[column].iloc[-1])
            if curve is not None:
                draw_curve(axes, curve, style, kind=weakest_kind(group["nll_kind"]))
                ends[variant] = float(curve["loss"].iloc[-1])
        budgets = sorted(set(points["budget"]))
        log_axes(axes, f"training compute, FLOPs ({compute})", label, budgets=budgets)
        for name, value in lines.items():
            axes.axhline(value, color=INK, lw=0.8, ls=":", alpha=0.7)
            axes.annotate(
                name, (0.005, value), xycoords=("axes fraction", "data"), va="bottom", fontsize=8
            )
        end_labels(axes, points, styles, ends=ends)
    return figure


def draw_runs(axes: Axes, runs: pd.DataFrame, style: Style, *, column: str, compute: str) -> None:
    """A curve's runs, with 95% of their scores' errors."""
    x = runs[f"train_flops_{compute}"]
    if column == "nll":
        error_bars(axes, x, runs[column], runs["nll_standard_error"], colour=style.colour)
    drawn = markers(axes, x, runs[column], style=style, kind=weakest_kind(runs["nll_kind"]))
    attach_tooltips(drawn, describe_runs(runs, column, compute))


def draw_curve(axes: Axes, curve: pd.DataFrame, style: Style, *, kind: str) -> None:
    """A fitted curve with both of its bands."""
    line = {"color": style.colour, "lw": style.width, "ls": style.line(kind)}
    axes.plot(curve["flops"], curve["loss"], **line)
    for low, high, alpha in (("low", "high", 0.2), ("new_low", "new_high", 0.08)):
        axes.fill_between(
            curve["flops"], curve[low], curve[high], color=style.colour, alpha=alpha, lw=0
        )


def training_curves(
    curves: pd.DataFrame, styles: Mapping[str, Style], stage_steps: Mapping[str, Sequence[int]]
) -> Figure:
    """Training loss of each run against its compute, one panel a curve (losses differ in kind).

    `stage_steps`: of each run the steps of its stages, whose beginnings are marked.
    """
    variants = [name for name in styles if name in set(curves["variant"])]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 2.9), layout="constrained")
        panels = figure.subplots(1, len(variants), squeeze=False)[0]
        for axes, variant in zip(panels, variants, strict=True):
            mine = curves[curves["variant"] == variant]
            budgets = sorted(mine["budget"].unique())
            for identity, run in mine.groupby("run_id"):
                rank = budgets.index(run["budget"].iloc[0]) + 1
                look = {"color": styles[variant].colour, "alpha": 0.25 + 0.75 * rank / len(budgets)}
                smooth = run["train_loss"].rolling(5, min_periods=1).mean()
                axes.plot(run["train_flops_executed"], smooth, lw=1.3, **look)
                begins = np.cumsum(stage_steps.get(str(identity), ()))[:-1]
                first = [int((run["step"] > step).argmax()) for step in begins]
                axes.plot(run["train_flops_executed"].iloc[first], smooth.iloc[first], "o", ms=4,
                          **look)  # fmt: skip
            axes.set_title(styles[variant].label, fontsize=11, loc="left")
            first_panel = variant == variants[0]
            log_axes(axes, "executed FLOPs", "training objective" if first_panel else "")
            low, high = axes.get_xlim()
            ticks = budget_ticks(nice_ticks(low, high, [1, 2, 5]), low, high, PANEL_GAP)
            compute_ticks(axes, ticks)
    return figure


def describe_runs(runs: pd.DataFrame, column: str, compute: str) -> list[str]:
    """Tooltip text of each run."""
    return [
        f"{run['name']}: {run[column]:.4f}{kind_note(run['nll_kind'])} at "
        f"{run[f'train_flops_{compute}']:.3g} {compute} FLOPs{size_note(run)}"
        for _, run in runs.iterrows()
    ]


def size_note(run: pd.Series) -> str:
    """Parameters and tokens of a run, as far as they are known: imported runs may lack them."""
    note = f", {run['core_parameters']:,} core parameters" if run["core_parameters"] else ""
    return note if pd.isna(run["tokens"]) else f"{note}, {run['tokens']:,.0f} tokens"


def kind_note(kind: str) -> str:
    """What stands behind an NLL that is not exact."""
    return "" if kind == "exact" else f" ({kind})"


def end_labels(
    axes: Axes, points: pd.DataFrame, styles: Mapping[str, Style], *, ends: Mapping[str, float]
) -> None:
    """Names beside their curves' ends, moved apart where they would overlap."""
    low, high = np.log(axes.get_ylim())
    top = -np.inf
    for variant, value in sorted(ends.items(), key=lambda item: item[1]):
        kind = weakest_kind(points.loc[points["variant"] == variant, "nll_kind"])
        text = styles[variant].label + kind_note(kind).replace(" (", "\n(")
        half = LINE * (1 + text.count("\n")) / 2 * (high - low)
        placed = max(float(np.log(value)), top + half)
        top = placed + half
        axes.annotate(
            text,
            (1.01, np.exp(placed)),
            xycoords=("axes fraction", "data"),
            color=styles[variant].colour,
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )
