"""How trials went while they trained: curves of those that ended early, lines of a population."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plotting.style import MUTED, SIZE, STYLE
from analysis.plotting.tooltips import attach_tooltips
from analysis.sweep_report.data import ArmFrame, Goal, point_label
from analysis.sweep_report.plots import COLOURS
from cola.records import RATE_CHANGES

RATE = "training.optimizer.learning_rate"


def course_plot(arm: ArmFrame, goal: Goal) -> Figure:
    """The metric against the share of the budget spent, a line a trial."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for _, row in arm.trials.iterrows():
            course = list(row["course"])
            if row["state"] == "finished" and not pd.isna(row.get(goal.name)):
                course.append((1.0, row[goal.name]))
            if not course:
                continue
            ended = row["state"] != "finished"
            x, y = zip(*course, strict=True)
            axes.plot(x, y, "-", color=MUTED if ended else COLOURS[0], lw=1.2)
            last = axes.scatter(x[-1:], y[-1:], s=26, zorder=3, marker="x" if ended else "o",
                                color=COLOURS[1] if ended else COLOURS[0])  # fmt: skip
            attach_tooltips(last, [f"{point_label(arm, row)}: {row['state']}, {y[-1]:.4f}"])
        axes.set_xlim(0, 1.03)
        axes.set_xlabel("share of the budget spent")
        axes.set_ylabel(goal.label)
    return figure


def is_population(arm: ArmFrame) -> bool:
    """Whether the arm's trials are parts of members' runs."""
    return "member" in arm.trials and bool(arm.trials["member"].notna().any())


def descent(arm: ArmFrame, trial: int) -> list[int]:
    """The trials that a member's state went through, the first generation's first."""
    parents = dict(zip(arm.trials["trial"], arm.trials["parent"], strict=True))
    line = [trial]
    while not pd.isna(parents.get(line[0], float("nan"))):
        line.insert(0, int(parents[line[0]]))
    return line


def rates_of(row: pd.Series) -> list[tuple[float, float]]:
    """(Share of the steps, peak rate from there on); factors of the schedule's where the rate is
    not a key of the space."""
    peak = float(row.get(RATE, 1.0))
    return [(0.0, peak), *((change["at"], peak * change["factor"]) for change in row[RATE_CHANGES])]


def population_sentence(arm: ArmFrame, goal: Goal) -> str | None:
    """Where the last members come from, and the rates of the best."""
    name = f"{arm.name}: " if arm.name else ""
    done = arm.finished
    if goal.name not in done or done[goal.name].notna().sum() == 0:
        return None
    best = done.loc[(goal.sign * done[goal.name]).idxmin()]
    members = dict(zip(arm.trials["trial"], arm.trials["member"], strict=True))
    founders = {int(members[descent(arm, trial)[0]]) for trial in done["trial"]}
    rates = rates_of(best)
    changes = ", then ".join(
        f"{rate:.3g} from {share:.0%} of the steps" for share, rate in rates[1:]
    )
    rates_text = f"{rates[0][1]:.3g}{f', then {changes}' if changes else ' throughout'}"
    unit = "peak rate" if RATE in arm.keys else "rate over the schedule's"
    total = int((arm.trials["generation"] == 0).sum())
    return (
        f"{name}the best member's {unit} is {rates_text}; the last {len(done)} members descend "
        f"from {len(founders)} of the first {total}. Members share beginnings, so they are no "
        "independent trials of their rates."
    )


def population_plot(arm: ArmFrame, goal: Goal) -> Figure:
    """The metric at the end of each generation, and the rates of the last members."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], SIZE[1] * 1.5), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        lines = {
            int(row["trial"]): descent(arm, int(row["trial"])) for _, row in arm.finished.iterrows()
        }
        _draw_generations(
            upper, arm, goal, kept={trial for line in lines.values() for trial in line}
        )
        for index, (_, row) in enumerate(arm.finished.iterrows()):
            shares, rates = zip(*rates_of(row), strict=True)
            colour = COLOURS[index % len(COLOURS)]
            lower.step([*shares, 1.0], [*rates, rates[-1]], where="post", color=colour, lw=1.5)
            end = lower.scatter([1.0], [rates[-1]], color=colour, s=26, zorder=3)
            attach_tooltips(end, [f"{point_label(arm, row)}: {row.get(goal.name):.4f}"])
        lower.set_yscale("log")
        lower.set_xlim(0, 1.03)
        lower.set_xlabel("share of the steps")
        lower.set_ylabel("peak learning rate" if RATE in arm.keys else "rate / schedule's")
        upper.set_ylabel(goal.label)
    return figure


def _draw_generations(axes: Axes, arm: ArmFrame, goal: Goal, *, kept: set[int]) -> None:
    """A segment from each trial's parent to it; what led to no last member is faint."""
    if goal.name not in arm.trials:
        return
    rows: dict[int, Any] = {int(row["trial"]): row for _, row in arm.trials.iterrows()}
    for trial, row in rows.items():
        value = row[goal.name]
        if pd.isna(value):
            continue
        colour = COLOURS[0] if trial in kept else MUTED
        parent = rows.get(-1 if pd.isna(row["parent"]) else int(row["parent"]))
        if parent is not None and not pd.isna(parent[goal.name]):
            ends = ([parent["until"], row["until"]], [parent[goal.name], value])
            axes.plot(*ends, "-", color=colour, lw=1.2)
        mark = axes.scatter([row["until"]], [value], color=colour, s=26, zorder=3)
        attach_tooltips(mark, [f"trial {trial}, {point_label(arm, row)}: {value:.4f}"])
