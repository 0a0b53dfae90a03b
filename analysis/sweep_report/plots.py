"""Figures of a sweep's page: responses, interactions, importance, trade-offs, parallel axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis.plotting.colours import text_on
from analysis.plotting.style import INK, MUTED, SIZE, STYLE, legend_above
from analysis.plotting.tooltips import attach_tooltips
from analysis.sweep_report.answers import Drift, mean_error
from analysis.sweep_report.data import (
    ArmFrame,
    Goal,
    key_words,
    point_label,
    seeds_table,
    value_label,
)
from analysis.sweep_report.importance import is_number
from cola.rate_points import LADDER

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a6d00", "#30343b")
FEW = 8  # values of a key that can each have a line


def distinct_labels(column: pd.Series) -> list[str]:
    """A key's values as labels, numbers in order."""
    values = {value_label(value): value for value in column}
    numeric = is_number(column)
    return sorted(values, key=lambda label: values[label]) if numeric else list(values)


def response(arm: ArmFrame, key: str, goal: Goal) -> Figure:
    """The metric against a key: a line for every value of the other key, seeds as dots."""
    done = arm.finished.dropna(subset=[goal.name])
    others = [
        other for other in arm.keys if other != key and done[other].map(value_label).nunique() > 1
    ]
    alone = [LADDER] if LADDER in others else others  # budgets do not compare: a colour each
    by = alone[0] if len(alone) == 1 and len(distinct_labels(done[alone[0]])) <= FEW else None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        place = positions(axes, done[key], key)
        groups = [("", done)] if by is None else groups_of(done, by)
        for index, (label, group) in enumerate(groups):
            colour = COLOURS[index % len(COLOURS)]
            x = group[key].map(value_label).map(place)
            joined = is_number(done[key]) and (not others or by is not None)
            name = "not set" if label == "–" else label
            draw_response(axes, arm, group, x=x, goal=goal, colour=colour, label=name, lines=joined)
        if by != LADDER:
            ring_best(axes, done, place, key=key, goal=goal)
        if by is not None:
            legend_above(figure, key_words(by))
        axes.set_xlabel(key_words(key))
        axes.set_ylabel(goal.label)
    return figure


def ring_best(
    axes: Axes, done: pd.DataFrame, place: dict[str, float], *, key: str, goal: Goal
) -> None:
    """A ring round the best point's mean."""
    best = goal.ranked(done).iloc[0]
    at = place[value_label(best[key])]
    axes.scatter([at], [best[goal.name]], s=150, facecolors="none", edgecolors=INK, linewidths=1.1)


def groups_of(done: pd.DataFrame, by: str) -> list[tuple[str, pd.DataFrame]]:
    """Trials by the label of a key's value."""
    labels = done[by].map(value_label)
    return [(label, done[labels == label]) for label in distinct_labels(done[by])]


def positions(axes: Axes, column: pd.Series, key: str) -> dict[Any, float]:
    """The x coordinate of each value's label: numbers at their value, others at equal distances."""
    labels = distinct_labels(column)
    if is_number(column):
        numbers = {value_label(v): float(v) for v in column}
        spread = min(numbers.values()) > 0 and max(numbers.values()) / min(numbers.values()) >= 8
        if spread:
            axes.set_xscale("log", base=2 if len(labels) <= FEW else 10)
            if len(labels) <= FEW:
                axes.set_xticks(list(numbers.values()), list(numbers))
        return numbers
    axes.set_xticks(range(len(labels)), ["null" if label == "–" else label for label in labels])
    if sum(map(len, labels)) > 50:
        axes.tick_params(axis="x", labelrotation=20)
    return {label: float(index) for index, label in enumerate(labels)}


def draw_response(
    axes: Axes,
    arm: ArmFrame,
    group: pd.DataFrame,
    *,
    x: pd.Series,
    goal: Goal,
    colour: str,
    label: str,
    lines: bool,
) -> None:
    """Means of points with 95% of the seeds' noise, joined where one key alone changes; every seed
    as a small dot."""
    order = np.argsort(x.to_numpy())
    y = group[goal.name].to_numpy(float)
    if lines:
        axes.plot(x.to_numpy()[order], y[order], "-", color=colour, lw=1.5, label=label or None)
    marks = axes.scatter(x, y, color=colour, s=34, zorder=3, label=None if lines else label or None)
    texts = [f"{point_label(arm, row)}: {row[goal.name]:.4f}" for _, row in group.iterrows()]
    attach_tooltips(marks, texts)
    table = seeds_table(arm, goal)
    error = mean_error(table)
    if error is not None:
        known = group["trial"].isin(table.index).to_numpy()
        axes.errorbar(x[known], y[known], yerr=error, fmt="none", ecolor=colour, elinewidth=1.2,
                      capsize=3)  # fmt: skip
    for trial, at in zip(group["trial"], x, strict=True):
        if trial in table.index and table.shape[1] > 1:
            seeds = table.loc[trial].to_numpy(float)
            axes.scatter([at] * len(seeds), seeds, color=colour, s=14, alpha=0.55, lw=0)


def quality_by_cost(arm: ArmFrame, goal: Goal, cost: str) -> Figure:
    """The metric against network evaluations a new token, every point named."""
    done = arm.finished.dropna(subset=[goal.name, cost]).sort_values(cost)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        draw_response(
            axes, arm, done, x=done[cost], goal=goal, colour=COLOURS[0], label="", lines=False
        )
        for _, row in done.iterrows():
            at = (row[cost], row[goal.name])
            axes.annotate(point_label(arm, row), at, (4, 4), textcoords="offset points",
                          color=INK, fontsize=7)  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xlabel("network evaluations a new token")
        axes.set_ylabel(goal.label)
    return figure


def heat_map(arm: ArmFrame, goal: Goal) -> Figure:
    """Mean of the metric over the values of the first two keys."""
    one, two = arm.keys[:2]
    done = arm.finished.dropna(subset=[goal.name])
    rows, columns = distinct_labels(done[one]), distinct_labels(done[two])
    table = np.full((len(rows), len(columns)), np.nan)
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            mine = (done[one].map(value_label) == row) & (done[two].map(value_label) == column)
            if mine.any():
                table[r, c] = done.loc[mine, goal.name].mean()
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(SIZE[0], 1.3 + 0.5 * len(rows)), layout="constrained")
        axes = figure.subplots()
        shades = axes.imshow(goal.sign * table, cmap="viridis_r", aspect="auto")
        for (r, c), value in np.ndenumerate(table):
            if not np.isnan(value):
                colour = text_on(to_hex(shades.to_rgba(goal.sign * value)))
                axes.text(c, r, f"{value:.4g}", ha="center", va="center", color=colour, fontsize=9)
        shades.set_gid("shades")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel(key_words(two))
        axes.set_ylabel(key_words(one))
    return figure


def importance_bars(shares: dict[str, float]) -> Figure:
    """Shares of variance by key, the largest on top."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], 1.0 + 0.42 * len(shares)), layout="constrained")
        axes = figure.subplots()
        names = [key_words(key) for key in shares][::-1]
        axes.barh(names, list(shares.values())[::-1], color=COLOURS[0])
        axes.set_xlabel("share of the metric's variance")
        axes.set_xlim(0, 1)
    return figure


def pareto(arm: ArmFrame, goals: Sequence[Goal], front: Sequence[int]) -> Figure:
    """Two metrics against each other, the front joined."""
    one, two = goals[:2]
    done = arm.finished.dropna(subset=[one.name, two.name])
    on = done["trial"].isin(front)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for mine, colour, size in ((done[~on], MUTED, 30), (done[on], COLOURS[1], 44)):
            marks = axes.scatter(mine[one.name], mine[two.name], color=colour, s=size, zorder=3)
            attach_tooltips(marks, [point_label(arm, row) for _, row in mine.iterrows()])
        best = done[on].sort_values(one.name)
        axes.plot(best[one.name], best[two.name], "--", color=COLOURS[1], lw=1.2)
        axes.set_xlabel(one.label)
        axes.set_ylabel(two.label)
    return figure


def parallel(arm: ArmFrame, goal: Goal) -> Figure:
    """Every trial as a line over the keys and the metric, the best third in colour."""
    done = arm.finished.dropna(subset=[goal.name])
    rank = (goal.sign * done[goal.name]).rank(pct=True)
    axes_of = [*arm.keys, goal.name]
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        heights = {name: unit_heights(done[name]) for name in axes_of}
        for index in done.index:
            colour, width = (COLOURS[0], 1.8) if rank[index] <= 1 / 3 else (MUTED, 0.9)
            axes.plot([heights[name][index] for name in axes_of], color=colour, lw=width)
        for place, name in enumerate(axes_of):
            axes.axvline(place, color=INK, lw=0.8)
            low, high = ends(done[name])
            axes.text(place, -0.06, low, ha="center", va="top", fontsize=8, color=INK)
            axes.text(place, 1.04, high, ha="center", va="bottom", fontsize=8, color=INK)
        axes.set_xticks(range(len(axes_of)), [*(key_words(key) for key in arm.keys), goal.words])
        axes.tick_params(axis="x", pad=14)
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_ylim(-0.05, 1.05)
    return figure


def unit_heights(column: pd.Series) -> pd.Series:
    """A column between 0 and 1: numbers by value, all else by order."""
    labels = distinct_labels(column)
    names = column.map(value_label)
    numbers = column.astype(float) if is_number(column) else names.map(labels.index)
    low, high = numbers.min(), numbers.max()
    return (numbers - low) / (high - low) if high > low else numbers * 0 + 0.5


def ends(column: pd.Series) -> tuple[str, str]:
    """Labels of the lowest and the highest value of an axis."""
    labels = distinct_labels(column)
    return ("", labels[0]) if len(labels) == 1 else (labels[0], labels[-1])


def drift_plot(drift: Drift, key: str, over: str) -> Figure:
    """Optima with their intervals, and the fitted line."""
    table = drift.table
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        x, y = table["over"].to_numpy(float), table["optimum"].to_numpy(float)
        below = np.maximum(0, y - table["low"])
        above = np.maximum(0, table["high"] - y)
        axes.errorbar(x, y, [below, above], fmt="o", color=COLOURS[0], capsize=4)
        line = np.log(x) if drift.log else x
        fitted = np.polyval(np.polyfit(line, y, 1), line)
        axes.plot(x, fitted, "--", color=COLOURS[1], lw=1.4)
        if drift.log:
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, [value_label(value) for value in x])
        axes.set_xlabel(key_words(over))
        axes.set_ylabel(f"best {key_words(key)}")
    return figure
