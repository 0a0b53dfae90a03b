"""What `cola report` does with its options: the page, and what it prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis.metric_report.content import curve_rows, note_rows, prediction_rows
from analysis.metric_report.report import MetricReport, sentences, write_metric_report
from analysis.report.report import write_report
from cola.errors import SpecError
from cola.spec import load_saved_yaml, load_yaml
from cola.spec.address import sqlite_uri


def report_study(
    study: str,
    output: str | None,
    tracking_uri: str | None,
    *,
    targets: Sequence[float],
    metrics: Sequence[str],
) -> None:
    """Write the study's report, or its page of metrics, and print what it says.

    `study`: its name, or its YAML file. `targets`: budgets to predict at, FLOPs.

    Raises:
        SpecError: there is no such study, or no such budget or metric.
    """
    check_targets(targets)
    if tracking_uri is not None and not tracking_uri.strip():
        raise SpecError("--tracking-uri: is empty; give MLflow's address, or leave it out")
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
    if metrics:
        page = write_metric_report(name, uri, folder / "report", metrics=metrics, targets=targets)
        show_metrics(page, Console(markup=False, emoji=False))
        return
    result = write_report(name, uri, folder / "report", spec=spec, targets=targets)
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
