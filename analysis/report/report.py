"""Writes a study's report: HTML, Markdown, figures, and the data behind them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.floors.choice import FloorChoice
from analysis.generation_frontier.record import Frontier, as_table
from analysis.plotting.templates import render
from analysis.report.comparisons import Pair
from analysis.report.content import page
from analysis.report.conventions import convention_rows
from analysis.report.family_fits import FamilyFit
from analysis.report.figures import draw_figures
from analysis.report.findings import Findings, findings_of
from analysis.report.runs import StudyFrames, read_study
from analysis.report.tables import comparison_table, multiplier_table, optima_table
from cola.errors import SpecError
from cola.spec.yaml_text import parse_yaml

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportResult:
    """What was written, and what was found."""

    html: Path
    files: list[Path]
    fits: dict[str, FamilyFit]
    warnings: list[str]
    forecasts: list[str]
    floor: FloorChoice
    pairs: list[Pair]


def write_report(
    study: str,
    tracking_uri: str,
    folder: Path,
    *,
    spec: dict[str, Any] | None,
    targets: Sequence[float] = (),
) -> ReportResult:
    """Read the study's experiment and write its report into `folder`; see `report_of`.

    Raises:
        SpecError: when MLflow has nothing that can be reported on.
        TrackingError: when MLflow cannot be read.
    """
    frames = read_study(study, tracking_uri, folder / ".cache" / "histories.parquet")
    return report_of(study, frames, folder, spec=spec, targets=targets)


def report_of(
    study: str,
    frames: StudyFrames,
    folder: Path,
    *,
    spec: dict[str, Any] | None,
    targets: Sequence[float] = (),
    forecasts: Sequence[str] = (),
    generation: Frontier | None = None,
    progress: Callable[[str], None] = lambda doing: None,
) -> ReportResult:
    """Write the report of a study's runs into `folder`.

    `spec` is the study's specification, for "how to reproduce" and the description; None takes the
    one that MLflow has. `targets`: budgets to predict the loss at (by default twice the largest
    one). `forecasts`: sentences on those that were registered. `generation`: what `cola frontier`
    measured. `progress` gets what is done next.

    Raises:
        SpecError: when no run is finished.
    """
    if frames.points.empty or not frames.points["is_final"].any():
        raise SpecError(
            f"study {study}: no run is finished yet, there is nothing to report; wait "
            "for one, or resume the study with `cola run`"
        )
    folder.mkdir(parents=True, exist_ok=True)
    progress("fitting curves")
    found = findings_of(frames)
    known = recorded_spec(study, frames) if spec is None else spec
    content = page(study, frames, found, spec=known, targets=targets, generation=generation)
    content["forecasts"] = list(forecasts)
    progress("drawing figures")
    content["figures"] = draw_figures(frames, found, folder, generation)
    files = write_tables(frames, found, folder, generation)
    for template in ("report.html", "report.md"):
        path = folder / template
        path.write_text(render(f"{template}.j2", content), encoding="utf-8")
        files.append(path)
    log.info("study %s: report in %s (%d warnings)", study, folder, len(found.warnings))
    return ReportResult(
        folder / "report.html", files, found.fits, found.warnings, list(forecasts), found.floor,
        found.pairs,
    )  # fmt: skip


def recorded_spec(study: str, frames: StudyFrames) -> dict[str, Any]:
    """The specification in the study's own MLflow run; where there is none, its name and why."""
    if not frames.specification:
        absent = "(MLflow has no specification of this study)"
        return {"name": study, "description": absent}
    try:
        return dict(parse_yaml(frames.specification))
    except (yaml.YAMLError, TypeError, ValueError):
        return {"name": study, "description": "(MLflow's study.yaml of this study is damaged)"}


def write_tables(
    frames: StudyFrames, found: Findings, folder: Path, generation: Frontier | None
) -> list[Path]:
    """results.csv (one row a run) and the data behind every figure."""
    curves = [
        fit.curve.assign(family=fit.family, variant=variant)
        for variant, fit in found.fits.items()
        if fit.curve is not None
    ]
    tables: dict[str, pd.DataFrame] = {
        "results.csv": frames.runs.drop(columns=["data_order", "training", "stage_steps"]),
        "evaluations.csv": frames.points,
        "training_curves.csv": frames.curves,
        "diagnostics.csv": frames.diagnostics,
        "task_accuracies.csv": frames.accuracies,
        "task_measurements.csv": frames.evaluations,
        "fitted_curves.csv": pd.concat(curves) if curves else pd.DataFrame(),
        "comparisons.csv": comparison_table(found.pairs),
        "multipliers.csv": multiplier_table(found.pairs),
        "isoflop_optima.csv": optima_table(found.profiles),
        "conventions.csv": pd.DataFrame(convention_rows(found.conventions)),
        "generation_frontier.csv": pd.DataFrame() if generation is None else as_table(generation),
    }
    for name, table in tables.items():
        if table.empty:  # a table of an earlier report is of other runs
            (folder / name).unlink(missing_ok=True)
        else:
            table.to_csv(folder / name, index=False)
    return [folder / name for name, table in tables.items() if not table.empty]
