"""The commands of analysis: report on a study, fit a scaling law to any table."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from analysis import fit_options as options
from analysis.fitting.bootstrap import Progress
from analysis.fitting.estimate import ESTIMATORS
from analysis.fitting.laws import LAWS
from analysis.fitting.table import Table, read_table
from analysis.metric_report.content import curve_rows, note_rows, prediction_rows
from analysis.metric_report.report import MetricReport, sentences, write_metric_report
from analysis.report.report import write_report
from analysis.table_fit.fit import fit_table
from analysis.table_fit.options import check_options, check_together, parse_target
from analysis.table_fit.request import Request
from analysis.table_fit.text import shown
from analysis.tables.columns import Columns
from analysis.tables.json_numbers import without_nan
from cola.errors import FitError, SpecError
from cola.spec import load_saved_yaml, load_yaml
from cola.spec.address import sqlite_uri

PROGRESS_SECONDS = 5.0  # between two lines on how far the refits are

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def report(
    study: Annotated[str, typer.Argument(help="The study's name (or its YAML file).")],
    output: Annotated[
        str | None, typer.Option(help="Output folder (default: the file's, or outputs).")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow, or a reference to it (default: the study's).")
    ] = None,
    *,
    target: Annotated[
        list[float] | None,
        typer.Option(help="Budget (FLOPs) to predict the loss at (repeatable)."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Fit this metric in place of the validation loss: a name in MLflow, a task (its "
            "accuracy), few-shot or in-domain (all of their tasks and the average); repeatable. "
            "Writes metrics.html."
        ),
    ] = None,
) -> None:
    """Fit the study's scaling curves and write report.html, report.md, figures and tables."""
    check_targets(target or [])
    name = study
    if study.endswith((".yaml", ".yml")):
        values = load_yaml(Path(study))
        name, output = str(values.get("name")), output or values.get("output")
    root = Path(output or "outputs").expanduser().resolve()
    folder = root / "studies" / name
    spec = None
    if (folder / "study.yaml").exists():
        spec = load_saved_yaml(
            folder / "study.yaml",
            "tracking",
            "uri",
            what="study",
            command="`cola run` of the study",
        )
    elif tracking_uri is None:
        raise SpecError(
            f"study {name}: {root} holds no such study; run it first, or give --output, or the "
            "MLflow that has its runs (--tracking-uri)"
        )
    own_uri = None if spec is None else spec["tracking"]["uri"]
    uri = tracking_uri or own_uri or sqlite_uri(root / "mlflow.db")
    if metric:
        page = write_metric_report(
            name, uri, folder / "report", metrics=metric, targets=target or []
        )
        show_metrics(page, Console(markup=False, emoji=False))
        return
    result = write_report(name, uri, folder / "report", spec=spec, targets=target or [])
    console = Console()
    for fit in result.fits.values():
        console.print(f"{fit.label:9} ({fit.kind}): {fit.formula}", highlight=False)
    for warning in result.warnings:
        console.print(f"note: {warning}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"report: {result.html}", highlight=False, soft_wrap=True)


def check_targets(targets: Sequence[float]) -> None:
    """Refuse budgets that are no positive numbers.

    Raises:
        SpecError: with the first of them.
    """
    wrong = next((each for each in targets if not 0 < each < math.inf), None)
    if wrong is not None:
        raise SpecError(f"--target {wrong:g}: must be a positive number of FLOPs")


def show_metrics(page: MetricReport, console: Console) -> None:
    """Curves, comparisons, predictions and notes of a page of metrics."""
    found = page.found["metrics"]
    for row in curve_rows(found):
        console.print(
            f"{row['metric']}, {row['label']}: {row['law']}, {row['parameters']}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for sentence in sentences(page.found):
        console.print(sentence, highlight=False, soft_wrap=True)
    for row in prediction_rows(found):
        console.print(
            f"{row['metric']}, {row['label']}: {row['value']} {row['unit']} at {row['compute']} "
            f"FLOPs (curve {row['curve']}, a new run {row['new_run']})",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for note in note_rows(found, page.found["notes"]):
        console.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"report: {page.html}", highlight=False, soft_wrap=True)


@app.command()
def fit(
    context: typer.Context,
    data: options.Data,
    *,
    n: options.ParameterColumn = None,
    d: options.TokenColumn = None,
    loss: options.LossColumn = "loss",
    flops: options.FLOPsColumn = None,
    group: options.GroupColumn = None,
    budget: options.BudgetColumn = None,
    run: options.RunColumn = None,
    accuracy: options.AccuracyColumn = None,
    chance: options.Chance = 0.0,
    law: options.LawName = None,
    minimum: options.Minimum = "parabola",
    estimator: options.Estimator = "huber",
    drop_largest_losses: options.LargestLosses = 0,
    bootstrap: options.Refits = 1000,
    resample: options.Resample = None,
    seed: options.Seed = 0,
    predict: options.Targets = None,
    as_json: options.AsJSON = False,
) -> None:
    """Fit a scaling law to a table of training runs, with intervals and warnings."""
    law = law or ("chinchilla" if n else "compute")
    check_one_of("--law", law, (*LAWS, "isoflop", "auto"))
    check_one_of("--estimator", estimator, tuple(ESTIMATORS))
    targets = tuple(parse_target(text) for text in predict or [])
    request = Request(law, estimator, bootstrap, seed, resample, targets, chance, minimum,
                      progress=show_progress())  # fmt: skip
    given = given_options(context)
    check_options(law, given)
    check_together(given, request)
    columns = Columns(loss, n, d, flops, group, budget, run, accuracy)
    result = fitted(read_table(data, columns, drop_largest_losses), request, data)
    if as_json:
        typer.echo(json.dumps(without_nan(result), indent=1, allow_nan=False))
    else:
        show_fit(result, Console(markup=False, emoji=False))  # labels are text as written


def given_options(context: typer.Context) -> set[str]:
    """Names of the parameters that were typed."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def fitted(table: Table, request: Request, data: Path) -> dict[str, Any]:
    """What the table gives, and which rows were used.

    Raises:
        FitError: beginning with the file's name.
    """
    try:
        return fit_table(table, request) | {"rows": table.counts.as_json()}
    except FitError as error:
        raise FitError(f"{data}: {error}") from None


def check_one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of those.

    Raises:
        SpecError: with all that are.
    """
    if value not in allowed:
        raise SpecError(f"{option} {value}: must be one of {', '.join(allowed)}")


def show_fit(result: dict[str, Any], console: Console) -> None:
    """Parameters with intervals, what was chosen, compared and predicted, warnings."""
    for item in shown(result):
        console.print(item, highlight=False, soft_wrap=not isinstance(item, RichTable))
    for warning in result["warnings"]:
        console.print(
            f"note: {warning}", style="yellow", highlight=False, soft_wrap=True, markup=False
        )


def show_progress() -> Progress:
    """A line on stderr that counts refits, from some seconds on."""
    started, console = time.monotonic(), Console(stderr=True)
    last = started

    def show(done: int, count: int) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_SECONDS:
            last = time.monotonic()
            console.print(f"{done:,} of {count:,} refits, {last - started:.0f} s", highlight=False)

    return show
