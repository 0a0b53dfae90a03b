"""Writes the page of any metrics against compute: HTML, Markdown, JSON, a figure, tables."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.metric_report.content import (
    Panel,
    as_json,
    curve_table,
    note_rows,
    pair_table,
    panel,
    prediction_table,
)
from analysis.metric_report.measurements import measured
from analysis.metric_report.mismatch import mismatches
from analysis.metric_report.plots import small_multiples
from analysis.metric_report.quantities import quantities
from analysis.plotting.embedding import Drawn, embedded
from analysis.plotting.templates import render
from analysis.plotting.variants import styles_of, variants_of
from analysis.report.content import BEYOND
from analysis.report.reference import floor_warnings, informative, lines_of
from analysis.report.runs import StudyFrames, read_study
from analysis.tables.json_numbers import json_text
from cola.errors import SpecError
from cola.files import write_atomically

log = logging.getLogger(__name__)

NAME = "metrics"
CAVEATS = (
    "Errors over items are taken as independent between models, though all are asked the same "
    "items: comparisons are surer than their intervals.",
    "Bands of metrics with a ceiling hold the doubt of the curve and of the items, not that the "
    "law bends beyond the runs.",
)


@dataclass(frozen=True)
class MetricReport:
    """What was written, and what was found: the content of the JSON file."""

    html: Path
    found: dict[str, Any]


def write_metric_report(
    study: str,
    tracking_uri: str,
    folder: Path,
    *,
    metrics: Sequence[str],
    targets: Sequence[float] = (),
) -> MetricReport:
    """Read the study's experiment and write its page of metrics; see `metric_report_of`.

    Raises:
        SpecError: nothing is finished, or a metric that no run has or that has no range.
        TrackingError: when MLflow cannot be read.
    """
    frames = read_study(study, tracking_uri, folder / ".cache" / "histories.parquet")
    return metric_report_of(study, frames, folder, metrics, targets=targets)


def metric_report_of(
    study: str,
    frames: StudyFrames,
    folder: Path,
    metrics: Sequence[str],
    *,
    targets: Sequence[float] = (),
) -> MetricReport:
    """Fit the metrics that the study's finished runs recorded, and write their page into `folder`.

    Raises:
        SpecError: nothing is finished, or a metric that no run has or that has no range.
    """
    if frames.points.empty or not frames.points["is_final"].any():
        raise SpecError(
            f"study {study}: no run is finished yet, there is nothing to report; wait for one, or "
            "resume the study with `cola run`"
        )
    panels, notes = fitted_panels(frames, metrics)
    compute = str(frames.runs["compute"].iloc[0])
    final = frames.points[frames.points["is_final"]]
    budgets = list(targets) or [BEYOND * float(final["budget"].max())]
    found: dict[str, Any] = {
        "study": study,
        "compute": compute,
        "metrics": [as_json(each, budgets) for each in panels],
        "mismatches": [each.as_json() for each in mismatches(panels)],
        "notes": [*frames.notes, *notes, *caveats(panels)],
    }
    folder.mkdir(parents=True, exist_ok=True)
    styles = styles_of(variants_of(frames.runs))
    title = "Metrics against compute"
    names = ", ".join(each.found.quantity.title for each in panels)
    figure = small_multiples(panels, styles, compute)
    (drawn,) = embedded([Drawn(NAME, title, figure, caption(panels), f"{title}: {names}.")], folder)
    write_files(panels, found, folder)
    content = {
        "study": study,
        "compute": compute,
        "figure": drawn,
        "curves": curve_table(found["metrics"]),
        "pairs": pair_table(found["metrics"]),
        "sentences": sentences(found),
        "mismatches": mismatch_sentences(found),
        "predictions": prediction_table(found["metrics"], compute),
        "notes": note_rows(found["metrics"], found["notes"]),
        "colours": {variant: style.colour for variant, style in styles.items()},
    }
    for ending in ("html", "md"):
        text = render(f"{NAME}.{ending}.j2", content)
        (folder / f"{NAME}.{ending}").write_text(text, encoding="utf-8")
    log.info("study %s: %d metrics against compute in %s", study, len(panels), folder)
    return MetricReport(folder / f"{NAME}.html", found)


def fitted_panels(frames: StudyFrames, metrics: Sequence[str]) -> tuple[list[Panel], list[str]]:
    """Each metric with its curves, and what to know of the runs.

    Raises:
        SpecError: a metric that no run has or that has no range.
    """
    final = frames.points[frames.points["is_final"]]
    recorded = {key for run in final["run_id"] for key in frames.metrics.get(run, {})}
    wanted, notes = quantities(metrics, recorded)
    lines, compute = lines_of(frames.runs), str(frames.runs["compute"].iloc[0])
    counts = pd.Series(informative(final, lines).to_numpy(), index=final["run_id"])
    panels = [panel(measured(frames, each), counts, compute) for each in wanted]
    if any(each.range is None for each in wanted):
        labels = {v: s.label for v, s in styles_of(variants_of(frames.runs)).items()}
        notes += floor_warnings(final, lines, labels)
    return panels, notes


def caption(panels: Sequence[Panel]) -> str:
    """What the figure shows, of what it has."""
    text = "Finished runs"
    if any(curve.band is not None for each in panels for curve in each.curves.values()):
        text += (
            "; curves go through the best size of every budget. Dark band: where the curve may "
            "lie; light band: where a new run may lie (95%)"
        )
    if any(each.found.rows["error"].notna().any() for each in panels):
        text += "; bars: 95% of a measurement's error"
    chance = any(each.found.chance is not None for each in panels)
    return (
        f"{text}. Dotted: chance, what choosing an answer at random gives."
        if chance
        else f"{text}."
    )


def caveats(panels: Sequence[Panel]) -> tuple[str, ...]:
    """What intervals of metrics with a ceiling rest on."""
    return CAVEATS if any(each.found.quantity.range is not None for each in panels) else ()


def sentences(found: dict[str, Any]) -> list[str]:
    """What is known of each pair, with its metric."""
    return [
        f"{each['title']}: {sentence}"
        for each in found["metrics"]
        for pair in each["comparisons"]
        for sentence in pair["sentences"]
    ]


def mismatch_sentences(found: dict[str, Any]) -> list[str]:
    """Whether likelihood and generation agree on a pair; nothing without a metric of each."""
    return [each["sentence"] for each in found["mismatches"]]


def write_files(panels: Sequence[Panel], found: dict[str, Any], folder: Path) -> None:
    """metrics.json, and the points and curves behind the figure as CSV."""
    write_atomically(folder / f"{NAME}.json", json_text(found) + "\n")
    points = [each.found.rows.assign(metric=each.found.quantity.key) for each in panels]
    pd.concat(points).to_csv(folder / "metric_points.csv", index=False)
    bands = [
        curve.band.assign(metric=each.found.quantity.key, variant=variant)
        for each in panels
        for variant, curve in each.curves.items()
        if curve.band is not None
    ]
    table = pd.concat(bands) if bands else pd.DataFrame()
    table.to_csv(folder / "metric_curves.csv", index=False)
