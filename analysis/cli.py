"""The commands of analysis: report on a study, fit a scaling law to any table."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from analysis.fitting.bootstrap import Kind, Progress
from analysis.fitting.estimate import ESTIMATORS
from analysis.fitting.laws import LAWS
from analysis.fitting.table import read_table
from analysis.profiles.profile import Method
from analysis.report.report import write_report
from analysis.table_fit.fit import fit_table
from analysis.table_fit.options import check_options, check_together, parse_target
from analysis.table_fit.request import Request
from analysis.table_fit.text import shown
from analysis.tables.columns import Columns
from cola.errors import FitError, SpecError, StorageError
from cola.spec import load_yaml
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
) -> None:
    """Fit the study's scaling curves and write report.html, report.md, figures and tables."""
    name = study
    if study.endswith((".yaml", ".yml")):
        values = load_yaml(Path(study))
        name, output = str(values.get("name")), output or values.get("output")
    root = Path(output or "outputs").expanduser().resolve()
    folder = root / "studies" / name
    if not (folder / "study.yaml").exists():
        raise SpecError(f"study {name}: {root} holds no such study; run it first, or give --output")
    spec = saved_study(folder / "study.yaml")
    uri = tracking_uri or spec["tracking"]["uri"] or sqlite_uri(root / "mlflow.db")
    result = write_report(name, uri, folder / "report", spec=spec, targets=target or [])
    console = Console()
    for fit in result.fits.values():
        console.print(f"{fit.label:9} ({fit.kind}): {fit.formula}", highlight=False)
    for warning in result.warnings:
        console.print(f"note: {warning}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"report: {result.html}", highlight=False, soft_wrap=True)


def saved_study(path: Path) -> dict[str, Any]:
    """The study as it was last run.

    Raises:
        StorageError: the file is damaged.
    """
    problem = "it is not the whole study"
    try:
        spec = load_yaml(path)
        if isinstance(spec.get("tracking"), dict) and "uri" in spec["tracking"]:
            return spec
    except SpecError as error:
        problem = str(error).removeprefix(f"{path}: ")
    raise StorageError(
        f"{path}: is damaged ({problem}); remove it, and `cola run` of the study writes it anew"
    )


@app.command()
def fit(
    context: typer.Context,
    data: Annotated[
        Path, typer.Argument(help="A CSV with a header and one row a run (or evaluation).")
    ],
    *,
    n: Annotated[
        str | None,
        typer.Option(
            "--n",
            help="Column of parameters N, a count: with embeddings as published (Hoffmann), or "
            "without (Kaplan), but one convention for all rows, as exponents depend on it.",
        ),
    ] = None,
    d: Annotated[
        str | None, typer.Option("--d", help="Column of training tokens D (default: C / 6 N).")
    ] = None,
    loss: Annotated[str, typer.Option(help="Column of the loss, nats a token.")] = "loss",
    flops: Annotated[
        str | None, typer.Option(help="Column of training compute C, FLOPs (default: 6 N D).")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column of labels of the families to fit apart.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Column of the budget, FLOPs or labels (default: runs of alike compute)."
        ),
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Column of what is resampled together (a run, a seed).")
    ] = None,
    accuracy: Annotated[
        str | None,
        typer.Option(
            help="Column of task accuracy (0 to 1, empty where there is none): loss -> accuracy by "
            "a sigmoid."
        ),
    ] = None,
    chance: Annotated[float, typer.Option(help="Accuracy of guessing.")] = 0.0,
    law: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(LAWS)}, isoflop, or auto (by rolling origin). Default: chinchilla "
            "where sizes are known, else compute."
        ),
    ] = None,
    minimum: Annotated[
        Method, typer.Option(help="How a profile's minimum is found (law isoflop).")
    ] = "parabola",
    estimator: Annotated[str, typer.Option(help=", ".join(ESTIMATORS))] = "huber",
    drop_largest_losses: Annotated[
        int, typer.Option(min=0, help="Leave out this many rows of largest loss.")
    ] = 0,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Refits for the intervals; 0: no intervals.")
    ] = 1000,
    resample: Annotated[
        Kind | None, typer.Option(help="What a refit draws (default: by the number of runs).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    predict: Annotated[
        list[str] | None,
        typer.Option(help="n=...,d=... or c=... to predict the loss at (repeatable)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fit a scaling law to a table of training runs, with intervals and warnings."""
    law = law or ("chinchilla" if n else "compute")
    check_one_of("--law", law, (*LAWS, "isoflop", "auto"))
    check_one_of("--estimator", estimator, tuple(ESTIMATORS))
    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }
    check_options(law, given)
    columns = Columns(loss, n, d, flops, group, budget, run, accuracy)
    targets = tuple(parse_target(text) for text in predict or [])
    request = Request(
        law,
        estimator,
        bootstrap,
        seed,
        resample,
        targets,
        chance,
        minimum,
        progress=show_progress(),
    )
    check_together(given, request)
    table = read_table(data, columns, drop_largest_losses)
    try:
        result = fit_table(table, request) | {"rows": table.counts.as_json()}
    except FitError as error:
        raise FitError(f"{data}: {error}") from None
    if as_json:
        typer.echo(json.dumps(without_nan(result), indent=1, allow_nan=False))
        return
    show_fit(result, Console(markup=False, emoji=False))  # labels are text as written


def check_one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of those.

    Raises:
        SpecError: with all that are.
    """
    if value not in allowed:
        raise SpecError(f"{option} {value}: must be one of {', '.join(allowed)}")


def without_nan(value: Any) -> Any:
    """Numbers that are not defined become null: JSON has no NaN."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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
