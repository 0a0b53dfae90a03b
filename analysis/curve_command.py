"""What `cola fit --law annealing` does with its options: the curves, the fit, what it prints."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import typer
from matplotlib.figure import Figure
from rich.console import Console

from analysis.curve_laws.curves import at_steps
from analysis.curve_laws.groups import CurveRequest, GroupFit, fit_groups
from analysis.curve_laws.predictions import parse_schedule
from analysis.curve_laws.table import CurveSet, read_curve_table
from analysis.fit_command import VERSION, show_fit, show_progress
from analysis.fit_drawing import PALETTE
from analysis.fitting.choices import Estimator
from analysis.plotting.files import check_plot, draw_to
from analysis.plotting.style import SIZE, STYLE, log_axes
from analysis.study_curves import study_curves
from analysis.table_fit.options import check_options, flag, parse_constraints
from analysis.tables.columns import Columns
from analysis.tables.json_numbers import json_text
from cola.errors import FitError, SpecError
from cola.terminal import waiting

DRAWN_STEPS, MOST_DRAWN = 400, 30  # chosen: points of a drawn curve, and curves of a figure
OF_TABLES = {"n", "group", "run", "step", "lr"}  # options that name columns


@dataclass(frozen=True)
class Asked:
    """Options as they were typed."""

    estimator: Estimator
    samples: int
    seed: int
    predict: tuple[str, ...]
    pins: tuple[str, ...]
    bounds: tuple[str, ...]
    plot: Path | None
    level: float


def fit_curve_file(
    data: Path, columns: Columns, asked: Asked, *, given: Set[str], as_json: bool
) -> None:
    """Fit the curves of a table, or of a study, and print the result; `given` names the options
    that were typed.

    Raises:
        SpecError: an option has no effect or lacks another, or the table cannot be read.
        FitError: the curves do not determine the law.
    """
    check_options("annealing", given)
    if asked.estimator == "variable-projection":
        raise SpecError("--estimator variable-projection: law annealing does not take it")
    if asked.plot is not None:
        check_plot(asked.plot)
    schedules = tuple(parse_schedule(text) for text in asked.predict)
    constraints = parse_constraints(asked.pins, asked.bounds)
    with waiting(f"fitting the curves of {data.name}") as following:
        curves = curves_of(data, columns, given)
        request = CurveRequest(
            asked.estimator, asked.samples, asked.seed, schedules, constraints,
            show_progress(following), asked.level,
        )  # fmt: skip
        try:
            result, fits = fit_groups(curves, request)
        except FitError as error:
            raise FitError(f"{data}: {error}") from None
    result = {"version": VERSION, "level": asked.level} | result
    if asked.plot is not None:
        with mpl.rc_context(STYLE):
            result["plot"] = str(draw_to(figure_of(fits), asked.plot))
    if as_json:
        typer.echo(json_text(result))
        return
    console = Console(markup=False, emoji=False)
    typer.echo(f"losses: {result['losses']}")
    show_fit(result, console)
    if "plot" in result:
        typer.echo(f"figure: {result['plot']}")


def curves_of(data: Path, columns: Columns, given: Set[str]) -> CurveSet:
    """The curves of a table, where its columns are named, or of a study.

    Raises:
        SpecError: it is neither, or options lack others.
    """
    named = {"step", "lr"} & given
    if len(named) == 1:
        missing = ({"step", "lr"} - named).pop()
        raise SpecError(
            f"{flag(missing)}: law annealing needs the column of steps (--step) and of the "
            "learning rate (--lr) of a table"
        )
    if named:
        return read_curve_table(data, columns)
    if data.is_file() and data.suffix not in (".yaml", ".yml"):
        raise SpecError(
            f"{data}: law annealing needs the table's columns of steps (--step) and of the "
            "learning rate (--lr), a row a logged step"
        )
    unread = ", ".join(flag(name) for name in sorted(OF_TABLES & given))
    if unread:
        raise SpecError(f"{unread}: names a column, and {data} is a study; leave it out")
    return study_curves(str(data), columns.measured if "loss" in given else None)


def figure_of(fits: list[GroupFit]) -> Figure:
    """Losses of every curve as points, the law as lines, against the step."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    place = 0
    for each in fits:
        found = each.found
        for curve in found.curves[:MOST_DRAWN]:
            colour = PALETTE[place % len(PALETTE)]
            place += 1
            axes.plot(curve.steps, curve.loss, ".", ms=3, color=colour, alpha=0.4)
            ends = curve.warmup + 1, int(curve.steps[-1])
            steps = np.unique(np.geomspace(*ends, DRAWN_STEPS).astype(np.int64))
            points = at_steps(curve, steps, np.ones(len(steps)), scale=found.scale)
            axes.plot(steps, found.fit.loss(points), color=colour, lw=1.4, label=curve.name)
    log_axes(axes, "optimiser step", "loss, nats/token")
    if place <= len(PALETTE):
        axes.legend(frameon=False)
    return figure
