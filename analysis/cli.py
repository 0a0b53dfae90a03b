"""Commands that say what runs say: report on a study, fit any table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table as RichTable

from analysis.fitting.bootstrap import Kind
from analysis.fitting.estimate import ESTIMATORS
from analysis.fitting.isoflop import Method
from analysis.fitting.laws import LAWS
from analysis.fitting.table import Columns, read_table
from analysis.fitting.table_fit import Request, fit_table
from analysis.report.report import write_report
from cola.errors import FitError, SpecError
from cola.spec import load_yaml
from cola.spec.address import sqlite_uri

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
    spec = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    uri = tracking_uri or spec["tracking"]["uri"] or sqlite_uri(root / "mlflow.db")
    result = write_report(name, uri, folder / "report", spec=spec, targets=target or [])
    console = Console()
    for fit in result.fits.values():
        console.print(f"{fit.label:9} ({fit.kind}): {fit.formula}", highlight=False)
    for warning in result.warnings:
        console.print(f"note: {warning}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"report: {result.html}", highlight=False, soft_wrap=True)


@app.command()
def fit(
    data: Annotated[Path, typer.Argument(help="A CSV with one row a run (or evaluation).")],
    n: Annotated[str | None, typer.Option("--n", help="Column of parameters.")] = None,
    d: Annotated[
        str | None, typer.Option("--d", help="Column of tokens (default: C / 6 N).")
    ] = None,
    *,
    loss: Annotated[str, typer.Option(help="Column of the loss, nats.")] = "loss",
    flops: Annotated[
        str | None, typer.Option(help="Column of compute C, FLOPs (default: 6 N D).")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Column of the family to fit apart.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Column of the budget (default: runs of alike compute).")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Column of what is resampled together (a run, a seed).")
    ] = None,
    accuracy: Annotated[
        str | None,
        typer.Option(help="Column of task accuracy (0 to 1): loss -> accuracy by a sigmoid."),
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
    columns = Columns(loss, n, d, flops, group, budget, run, accuracy)
    targets = tuple(parse_target(text) for text in predict or [])
    table = read_table(data, columns, drop_largest_losses)
    try:
        request = Request(law, estimator, bootstrap, seed, resample, targets, chance, minimum)
        result = fit_table(table, request)
    except FitError as error:
        raise FitError(f"{data}: {error}") from None
    if as_json:
        typer.echo(json.dumps(without_nan(result), indent=1, allow_nan=False))
        return
    show_fit(result, Console())


def check_one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of those.

    Raises:
        SpecError: with all that are.
    """
    if value not in allowed:
        raise SpecError(f"{option} {value}: must be one of {', '.join(allowed)}")


def parse_target(text: str) -> dict[str, float]:
    """`n=1e9,d=2e10` -> numbers.

    Raises:
        SpecError: when it is not of that form.
    """
    target: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            target[name.strip()] = float(number)
        except ValueError:
            raise SpecError(f"--predict {text}: write it as n=1e9,d=2e10 or c=1e21") from None
    if not set(target) <= {"n", "d", "c"} or not all(value > 0 for value in target.values()):
        raise SpecError(f"--predict {text}: takes positive n, d and c only")
    return target


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
    """Parameters with intervals, what was compared or predicted, warnings."""
    groups = result.get("groups", {"": result})
    for name, fitted in groups.items():
        table = RichTable(title=f"{name} {fitted['law']}, {fitted['points']} points".strip())
        for column in ("parameter", "estimate", "95% interval"):
            table.add_column(column, justify="left" if column == "parameter" else "right")
        derived = fitted.get("derived", {})
        intervals = {**fitted["intervals"], **fitted.get("derived_intervals", {})}
        for key, value in {**fitted["parameters"], **derived}.items():
            table.add_row(key, f"{value:.6g}", interval_text(intervals.get(key)))
        console.print(table)
        for prediction in fitted.get("predictions", []):
            console.print(f"prediction: {json.dumps(prediction)}", highlight=False, soft_wrap=True)
    if "shared" in result:
        shared = result["shared"]
        exponents = [name for name in shared["parameters"] if "[" not in name]
        shared_exponents = [
            f"{name} {shared['parameters'][name]:.5g} "
            f"({interval_text(shared['intervals'].get(name))})"
            for name in exponents
        ]
        console.print(
            f"exponents in common: {', '.join(shared_exponents)}", highlight=False, soft_wrap=True
        )
    for pair, numbers in result.get("comparison", {}).items():
        console.print(f"{pair}: {json.dumps(without_nan(numbers))}", soft_wrap=True)
    for warning in result["warnings"]:
        console.print(f"note: {warning}", style="yellow", highlight=False, soft_wrap=True)


def interval_text(interval: list[float] | None) -> str:
    """low to high, or a dash."""
    return "–" if not interval else f"{interval[0]:.5g} to {interval[1]:.5g}"
