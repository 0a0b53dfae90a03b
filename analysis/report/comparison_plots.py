"""Figures of what is derived from the runs: residuals, IsoFLOP profiles, compute multipliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE
from matplotlib.ticker import FuncFormatter, NullFormatter

from analysis.fitting.compare import Multiplier
from analysis.plotting.style import FAINT, INK, SIZE, STYLE, log_axes, markers, power_of_ten
from analysis.plotting.variants import Style
from analysis.profiles.analysis import IsoFLOP, Optimum
from analysis.report.family_fits import FamilyFit


def residuals(fits: Mapping[str, FamilyFit], styles: Mapping[str, Style]) -> Figure:
    """How far each run lies from its curve, in per cent."""
    fitted = [(each, each.fit) for each in fits.values() if each.fit is not None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 2.6), layout="constrained")
        panels = figure.subplots(1, len(fitted), squeeze=False, sharey=True)[0]
        for axes, (curve, fit) in zip(panels, fitted, strict=True):
            points, percent_off = fit.points, 100 * np.expm1(-fit.residual)
            axes.axhline(0, color=INK, lw=0.8)
            markers(axes, points.compute, percent_off, style=styles[curve.variant], kind=curve.kind)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
            axes.xaxis.set_minor_formatter(NullFormatter())
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
                axes.annotate(power_of_ten(budget), (x[-1], y[-1]), color=INK, fontsize=8)
                if optimum.trouble is None:
                    axes.plot(optimum.parameters, optimum.loss, "*", color=INK, ms=9, zorder=4)
            log_axes(axes, "core parameters", "NLL" if axes is panels[0] else "")
            axes.set_title(style.label, fontsize=11, loc="left")
    return figure


def task_panels(accuracies: pd.DataFrame, styles: Mapping[str, Style]) -> Figure:
    """Accuracy against compute, a small panel a task, and their average (of the tasks that every
    run has) as the last."""
    wide = accuracies.pivot_table("accuracy", ["variant", "budget", "name"], "task")
    wide = wide.assign(average=wide.dropna(axis=1).mean(axis=1))
    tasks = list(wide.columns)
    rows = -(-len(tasks) // 3)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 2.3 * rows), layout="constrained")
        panels = figure.subplots(rows, 3, squeeze=False, sharex=True).flatten()
        for axes, task in zip(panels, tasks, strict=False):
            for variant, group in wide[task].groupby("variant"):
                style = styles[str(variant)]
                means = group.groupby("budget").mean()
                axes.plot(
                    means.index,
                    100 * means,
                    f"{style.marker}-",
                    color=style.colour,
                    lw=1.4,
                    ms=4,
                    label=style.label,
                )
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(
                task, fontsize=10, loc="left", fontweight="bold" if task == "average" else "normal"
            )
        for axes in panels[len(tasks) :]:
            axes.set_axis_off()
        panels[0].legend(frameon=False, fontsize=8)
        for axes in panels[::3]:
            axes.set_ylabel("accuracy, %")
    return figure


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
            label = f"{styles[other].label} for {styles[one].label}"
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
                label=f"{styles[other].label} for {styles[one].label}: {bound.bound}",
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.invert_xaxis()  # training goes to the right
        axes.set_xlabel("NLL, nats/token")
        axes.set_ylabel("times less compute")
        axes.legend(frameon=False, edgecolor=FAINT)
    return figure
