"""What `cola report` does with its options: the page, and what it prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from analysis.forecasts.register import damaged_lines
from analysis.generation_frontier.record import read_frontier
from analysis.metric_report.content import curve_rows, note_rows, prediction_rows
from analysis.metric_report.report import (
    MetricReport,
    metric_report_of,
    mismatch_sentences,
    sentences,
)
from analysis.publication.pages import publish
from analysis.report.report import ReportResult, report_of
from analysis.report.runs import StudyFrames
from analysis.report.tables import crossing_row, multiplier_row
from analysis.study_forecasts.scores import registered_scores
from analysis.study_forecasts.text import sentences_of
from analysis.study_source import study_source
from analysis.tables.json_numbers import json_text
from cola.errors import ColaError, SpecError
from cola.records import STUDY_FORECASTS
from cola.terminal import say, waiting


def report_study(
    study: str,
    output: str | None,
    tracking_uri: str | None,
    *,
    targets: Sequence[float],
    metrics: Sequence[str],
    publish_to: Path | None = None,
    as_json: bool = False,
) -> Path:
    """Write the study's report, or its page of metrics, and print what it says; returns the study's
    folder.

    `study`: its name, or its YAML file. `targets`: budgets to predict at, FLOPs. `publish_to`: a
    folder that both pages are published in (see `publish`); without `metrics` the page of metrics
    that is there.

    Raises:
        SpecError: there is no such study, or no such budget or metric, or a folder cannot be.
    """
    check_targets(targets)
    source = study_source(study, output, tracking_uri)
    folder = source.folder / "report"
    console = Console(markup=False, emoji=False)  # labels are text as written
    with waiting(f"reading the runs of {source.name}") as following:
        frames = source.frames()
        if metrics:
            following("fitting metrics")
            page = metric_report_of(source.name, frames, folder, metrics, targets=targets)
        if publish_to is not None or not metrics:
            result = report_of(
                source.name, frames, folder, spec=source.spec, targets=targets,
                forecasts=forecast_section(frames, source.folder),
                generation=read_frontier(source.folder), progress=following,
            )  # fmt: skip
    if as_json:
        found = page.found | {"report": str(page.html)} if metrics else summary(source.name, result)
        typer.echo(json_text(found))
    elif metrics:
        show_metrics(page, console)
    else:
        show_report(result, console)
    if publish_to is not None:
        publish(folder, source.folder, publish_to)
        if not as_json:
            say(console, f"published: {publish_to}")
    return source.folder


def summary(study: str, result: ReportResult) -> dict[str, Any]:
    """What a report says and which files it has, for `--json`."""
    return {
        "study": study,
        "report": str(result.html),
        "files": [str(path) for path in result.files],
        "curves": {
            variant: {
                "label": fit.label,
                "nll_kind": fit.kind,
                "formula": fit.formula,
                "parameters": None if fit.fit is None else dict(fit.fit.parameters),
            }
            for variant, fit in result.fits.items()
        },
        "comparisons": {
            "floor": result.floor.as_json(),
            "sentence": result.floor.sentence if result.pairs else None,
            "pairs": [
                {
                    "one": pair.one.variant,
                    "other": pair.other.variant,
                    "meaning": "compute of one over compute of other for the same loss",
                    "floor": pair.floor,
                    **multiplier_row(pair.multiplier),
                    "at_true_nll": pair.one_sided,
                    **crossing_row(pair.crossing),
                    "sentences": list(pair.sentences),
                }
                for pair in result.pairs
            ],
        },
        "forecasts": list(result.forecasts),
        "notes": list(result.warnings),
    }


def show_report(result: ReportResult, console: Console) -> None:
    """Curves, forecasts and notes of a report, and where it is."""
    for fit in result.fits.values():
        say(console, f"{fit.label:9} ({fit.kind}): {fit.formula}")
    for sentence in result.forecasts:
        say(console, f"forecast: {sentence}")
    for warning in result.warnings:
        say(console, f"note: {warning}", "yellow")
    say(console, f"report: {result.html}")


def forecast_section(frames: StudyFrames, folder: Path) -> list[str]:
    """What the report says of the study's registered forecasts; nothing where there are none."""
    path = folder / STUDY_FORECASTS
    if not path.exists():
        return []
    try:
        return sentences_of(registered_scores(frames, folder), damaged_lines(path))
    except ColaError as error:
        return [f"the registered forecasts cannot be read: {error}"]


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
        say(console, f"{row['metric']}, {row['label']}: {row['law']}, {row['parameters']}")
    for sentence in [*sentences(page.found), *mismatch_sentences(page.found)]:
        say(console, sentence)
    for row in prediction_rows(found):
        say(
            console,
            f"{row['metric']}, {row['label']}: {row['value']} {row['unit']} at {row['compute']} "
            f"FLOPs (curve {row['curve']}, a new run {row['new_run']})",
        )
    for note in note_rows(found, page.found["notes"]):
        say(console, f"note: {note}", "yellow")
    say(console, f"report: {page.html}")
