"""Figures of what is derived from the runs: residuals, IsoFLOP profiles, compute multipliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE
from matplotlib.ticker import FuncFormatter, NullFormatter

from analysis.fitting.compare import Multiplier
from analysis.plotting.style import (
    INK,
    PANEL_GAP,
    SIZE,
    STYLE,
    budget_ticks,
    compute_ticks,
    error_bars,
    legend_above,
    log_axes,
    markers,
    nice_ticks,
    power_of_ten,
)
from analysis.plotting.variants import Style
from analysis.profiles.analysis import IsoFLOP, Optimum
from analysis.report.family_fits import FamilyFit

FAR = 30.0  # chosen: how far beyond the multipliers their intervals are drawn


def residuals(
    fits: Mapping[str, FamilyFit], styles: Mapping[str, Style], budgets: Sequence[float]
) -> Figure:
    """How far each run lies from its curve, in per cent; `budgets`: of all runs."""
    fitted = [(each, each.fit) for each in fits.values() if each.fit is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 2.6), layout="constrained")
        panels = figure.subplots(1, len(fitted), squeeze=False, sharey=True)[0]
        for axes, (curve, fit) in zip(panels, fitted, strict=True):
            points, percent_off = fit.points, 100 * np.expm1(-fit.residual)
            axes.axhline(0, color=INK, lw=0.8)
            markers(axes, points.compute, percent_off, style=styles[curve.variant], kind=curve.kind)
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            ticks = budget_ticks(budgets, low, high, least=PANEL_GAP)
            compute_ticks(axes, ticks or nice_ticks(low, high, [1]))
            axes.set_title(curve.label, fontsize=11, loc="left")
            axes.set_xlabel("training FLOPs")
        panels[0].set_ylabel("off the curve, %")
    return figure


def isoflop_profiles(
    tables: Mapping[str, pd.DataFrame],
    analyses: Mapping[str, IsoFLOP],
    kinds: Mapping[str, str],
    *,
    styles: Mapping[str, Style],
) -> Figure:
    """Loss against size at every budget, with the fitted parabolas and their minima."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 3.4), layout="constrained")
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        for axes, (variant, rows) in zip(panels, tables.items(), strict=True):
            style, budgets = styles[variant], sorted(rows["budget"].unique())
            for rank, (budget, optimum) in enumerate(
                zip(budgets, analyses[variant].optima, strict=True)
            ):
                group = rows[rows["budget"] == budget]
                strength = 0.35 + 0.65 * (rank + 1) / len(budgets)
                markers(axes, group["parameters"], group["loss"], style=style, kind=kinds[variant])
                x, y = parabola(group, optimum)
                axes.plot(x, y, color=style.colour, alpha=strength, lw=1.4)
                axes.annotate(power_of_ten(budget), (x[-1], y[-1]), (7, 0), color=INK, fontsize=8,
                              textcoords="offset points", va="center")  # fmt: skip
                if optimum.trouble is None:
                    axes.plot(optimum.parameters, optimum.loss, "*", color=INK, ms=12, zorder=4)
            axes.margins(x=0.12)  # the budgets' names stand right of the parabolas
            label = "NLL, nats per token" if axes is panels[0] else ""
            log_axes(axes, "core parameters", label)
            axes.set_title(style.label, fontsize=11, loc="left")
    return figure


def task_panels(scores: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """Accuracy against compute with 95% of its error over items, a small panel a task, chance
    dotted; the average of the tasks that every run has is the last. `scores`: see
    `task_results.task_scores`."""
    tasks = sorted(set(scores["task"]), key=lambda task: (task == "average", task))
    across = {1: 1, 2: 2, 4: 2}.get(len(tasks), 3)
    rows = -(-len(tasks) // across)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 2.4 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, across, squeeze=False).flatten()
        for place, (axes, task) in enumerate(zip(panels, tasks, strict=False)):
            draw_task(axes, scores[scores["task"] == task], styles)
            weight = "bold" if task == "average" else "normal"
            axes.set_title(task, fontsize=10, loc="left", fontweight=weight)
            axes.set_ylabel("accuracy, %" if place % across == 0 else "")
            axes.set_xlabel("training FLOPs" if place >= len(tasks) - across else "", fontsize=9)
        for axes in panels[len(tasks) :]:
            axes.set_axis_off()
        legend_above(figure)
    return figure


def draw_task(axes: Axes, scores: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    """The curves of one task, from an accuracy of 0 on."""
    for variant, style in styles.items():
        mine = scores[scores["variant"] == variant]
        if mine.empty:
            continue
        by_budget = mine.groupby("budget").agg(
            accuracy=("accuracy", "mean"), error=("error", "max"), seeds=("accuracy", "size")
        )
        x, y = by_budget.index, 100 * by_budget["accuracy"]
        # Seeds are asked the same items: their mean is no surer of them than one is.
        error_bars(axes, x, y, 100 * by_budget["error"], colour=style.colour)
        axes.plot(x, y, f"{style.marker}-", color=style.colour, lw=1.4, ms=4, label=style.label)
    chance = scores["chance"].dropna()
    if len(chance):
        axes.axhline(100 * chance.mean(), color=INK, lw=0.9, ls=":")
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = budget_ticks(sorted(set(scores["budget"])), low, high, least=PANEL_GAP)
    compute_ticks(axes, ticks or nice_ticks(low, high, [1]))
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.0))


def parabola(group: pd.DataFrame, optimum: Optimum) -> tuple[np.ndarray, np.ndarray]:
    """The least-squares parabola in log N over the sizes that the optimum rests on."""
    if np.isfinite(optimum.smallest):
        low, high = 0.999 * optimum.smallest, 1.001 * optimum.largest
        group = group[group["parameters"].between(low, high)]
    log_n = np.log(group["parameters"].to_numpy(float))
    degree = min(2, len(np.unique(log_n)) - 1)
    curve = np.polyfit(log_n - log_n.mean(), group["loss"].to_numpy(float), degree)
    at = np.linspace(log_n.min(), log_n.max(), 80)
    return np.exp(at), np.polyval(curve, at - log_n.mean())


def cut_far_ends(
    axes: Axes,
    curves: Sequence[tuple[str, str, pd.DataFrame]],
    bounds: Sequence[tuple[str, str, Multiplier]],
) -> None:
    """Keep intervals that reach over many powers of ten from flattening what is known."""
    known = np.concatenate([curve["multiplier"].to_numpy(float) for _, _, curve in curves])
    ends = [found.low if found.bound == "at least" else found.high for _, _, found in bounds]
    shown = np.array([1.0, *known, *ends])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, shown.min() / FAR), min(high, shown.max() * FAR))


def multipliers(
    curves: Sequence[tuple[str, str, pd.DataFrame]],
    bounds: Sequence[tuple[str, str, Multiplier]],
    styles: Mapping[str, Style],
) -> Figure:
    """How much less compute one curve needs than another, against the loss; faint where one of
    them was not measured; an arrow from what it is at least, or at most."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 3.2), layout="constrained")
        axes = figure.subplots()
        axes.axhline(1, color=INK, lw=0.8)
        for one, other, curve in curves:
            colour, line = styles[other].colour, styles[one].base
            label = f"{styles[other].label} against {styles[one].label}"
            inside = curve[curve["observed"]]
            axes.plot(curve["value"], curve["multiplier"], ":", color=colour, lw=1)
            axes.plot(
                inside["value"], inside["multiplier"], ls=line, color=colour, lw=1.8, label=label
            )
            axes.fill_between(
                curve["value"], curve["low"], curve["high"], color=colour, alpha=0.15, lw=0
            )
        for one, other, bound in bounds:
            at_least = bound.bound == "at least"
            axes.plot(
                bound.at,
                bound.low if at_least else bound.high,
                marker=CARETUPBASE if at_least else CARETDOWNBASE,
                ms=10,
                ls="",
                color=styles[other].colour,
                label=f"{styles[other].label} against {styles[one].label}: {bound.bound}",
            )
        axes.set_yscale("log")
        cut_far_ends(axes, [*curves], [*bounds])
        low, high = axes.get_ylim()
        axes.set_yticks(nice_ticks(low, high, [1, 2, 5] if high / low < 1000 else [1]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(visible=False, which="minor")
        axes.invert_xaxis()  # training goes to the right
        axes.set_xlabel("NLL, nats per token")
        axes.set_ylabel("times less compute")
        legend_above(figure)
    return figure
