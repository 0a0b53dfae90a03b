"""Writes a study's report: HTML, Markdown, figures, and the data behind them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.floors.choice import FloorChoice
from analysis.plotting.templates import render
from analysis.report.comparisons import Pair
from analysis.report.conventions import convention_rows, convention_sentences
from analysis.report.family_fits import FamilyFit, falls_with_budget
from analysis.report.figures import draw_figures
from analysis.report.findings import Findings, findings_of
from analysis.report.matching import matching_statements, tuning_statements
from analysis.report.reference import headlines, line_rows
from analysis.report.runs import StudyFrames, read_study
from analysis.report.splits import split_sentence
from analysis.report.tables import (
    choice_rows,
    comparison_table,
    latent_rows,
    multiplier_table,
    number,
    optima_table,
    prediction_rows,
    profile_sentences,
)
from analysis.report.task_results import task_note, task_table
from cola.errors import SpecError
from cola.families.registry import IMPORTED, definition_of
from cola.records import SOLVER_DIFFERENCE, SOLVER_TOLERANCE
from cola.spec.yaml_text import parse_yaml

log = logging.getLogger(__name__)

KIND_NAMES = {
    "exact": "NLL",
    "bound": "bound on the NLL",
    "estimate": "estimate of the NLL",
}


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
    progress: Callable[[str], None] = lambda doing: None,
) -> ReportResult:
    """Write the report of a study's runs into `folder`.

    `spec` is the study's specification, for "how to reproduce" and the description; None takes the
    one that MLflow has. `targets`: budgets to predict the loss at (by default ten times the largest
    one). `forecasts`: sentences on those that were registered. `progress` gets what is done next.

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
    content = page(study, frames, found, spec=known, targets=targets)
    content["forecasts"] = list(forecasts)
    progress("drawing figures")
    content["figures"] = draw_figures(frames, found, folder)
    files = write_tables(frames, found, folder)
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


def page(
    study: str,
    frames: StudyFrames,
    found: Findings,
    *,
    spec: dict[str, Any],
    targets: Sequence[float],
) -> dict[str, Any]:
    """What the templates show, but for the figures."""
    fits, final, variants = found.fits, found.final, found.variants
    targets = list(targets) or [10 * float(final["budget"].max())]
    return {
        "study": study,
        "description": spec.get("description", ""),
        "headlines": headlines(final, found.lines, found.labels),
        "summary": summary(frames, fits, found.compute),
        "lines": line_rows(found.lines, found.bits),
        "matching": matched(frames, spec),
        "fits": list(fits.values()),
        "comparisons": compared(found),
        "predictions": prediction_rows(fits, targets),
        "choices": choice_rows(fits),
        "profiles": profile_sentences(found.profiles),
        "conventions": convention_rows(found.conventions),
        "by_convention": convention_sentences(found.conventions),
        "runs": run_rows(frames.runs, found.compute),
        "latents": latent_rows(frames.runs),
        "diagnostics": diagnostic_rows(frames.diagnostics),
        "diagnostic_notes": diagnostic_notes(variants.values()),
        "tasks": task_table(frames.evaluations, list(variants)),
        "task_note": task_note(variants.values(), set(frames.evaluations.get("task", ()))),
        "samples": frames.samples,
        "warnings": found.warnings,
        "environment": json.dumps(frames.environment, indent=1),
        "spec": json.dumps(spec, indent=1),
        "labels": found.labels,
        "colours": {variant: style.colour for variant, style in found.styles.items()},
        "compute": found.compute,
        "split": frames.split,
    }


def compared(found: Findings) -> list[str]:
    """What comparisons rest on, and what each pair of curves says; nothing of one curve."""
    if not found.pairs:
        return []
    return [found.floor.sentence, *(text for pair in found.pairs for text in pair.sentences)]


def matched(frames: StudyFrames, spec: dict[str, Any]) -> list[str]:
    """What is held equal, and how settings were tuned."""
    if is_imported(frames.runs):
        return [
            "These runs were trained by another project: whether data, its order, compute and "
            "tuning are matched is not known."
        ]
    return [*matching_statements(frames.runs), *tuning_statements(spec, frames.runs)]


def is_imported(runs: pd.DataFrame) -> bool:
    """Whether another project trained the runs."""
    return bool((runs["family"] == IMPORTED).all())


def write_tables(frames: StudyFrames, found: Findings, folder: Path) -> list[Path]:
    """results.csv (one row a run) and the data behind every figure."""
    curves = [
        fit.curve.assign(family=fit.family, variant=variant)
        for variant, fit in found.fits.items()
        if fit.curve is not None
    ]
    tables = {
        "results.csv": frames.runs.drop(columns=["data_order", "training"]),
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
    }
    for name, table in tables.items():
        table.to_csv(folder / name, index=False)
    return [folder / name for name in tables]


def summary(frames: StudyFrames, fits: dict[str, FamilyFit], compute: str) -> list[str]:
    """Plain sentences, made from the results."""
    final = frames.points[frames.points["is_final"]]
    low, high = final["budget"].min(), final["budget"].max()
    families = ", ".join(fit.label for fit in fits.values())
    sentences = [
        f"{len(final)} finished runs of {families} between {low:.3g} and {high:.3g} {compute} "
        "training FLOPs.",
        "Scores are as the project recorded them."
        if is_imported(frames.runs)
        else split_sentence(frames.runs, frames.split),
    ]
    for variant, fit in fits.items():
        best = final[final["variant"] == variant].groupby("budget")["nll"].min()
        first, last = best.iloc[0], best.iloc[-1]
        kind = KIND_NAMES[fit.kind]
        trend = (
            "falls at every rung"
            if falls_with_budget(frames.points, variant)
            else "does NOT fall at every rung"
        )
        sentences.append(
            f"{fit.label}: the {kind} goes from {first:.3f} to {last:.3f} nats per token over the "
            f"ladder and {trend}."
        )
    return sentences + kind_sentences(fits) + estimate_sentences(frames.runs, fits)


def kind_sentences(fits: dict[str, FamilyFit]) -> list[str]:
    """What a bound beside exact values does not show; none where there is no such pair."""
    bounds, exact = (
        " and ".join(fit.label for fit in fits.values() if fit.kind == kind)
        for kind in ("bound", "exact")
    )
    if not (bounds and exact):
        return []
    return [
        f"The NLL of {bounds} is an upper bound, that of {exact} is exact: a bound above an exact "
        "curve does not show that the model is worse."
    ]


def estimate_sentences(runs: pd.DataFrame, fits: dict[str, FamilyFit]) -> list[str]:
    """Of each curve with runs whose solver did not converge: how many, and by how much."""
    sentences = []
    finished = runs[runs["status"] == "finished"]
    for variant, fit in fits.items():
        mine = finished[finished["variant"] == variant]
        estimates = mine[mine["nll_kind"] == "estimate"]
        if estimates.empty:
            continue
        largest = estimates[SOLVER_DIFFERENCE].astype(float).abs().max()
        by = "which they have no record of" if pd.isna(largest) else f"by up to {largest:.3f}"
        sentences.append(
            f"{fit.label}: the NLL of {len(estimates)} of {len(mine)} runs is an estimate, on "
            "either side of the true one: solutions with N and with 2 N steps differ by more than "
            f"{SOLVER_TOLERANCE:g} nats a latent ({by}). Raise evaluation.likelihood.ode_steps."
        )
    return sentences


def run_rows(runs: pd.DataFrame, compute: str) -> list[dict[str, str]]:
    """The table of runs, formatted."""
    return [
        {
            "run": run["name"],
            "variant": str(run["variant"]),
            "core": number(run["core_parameters"] or None, ",.0f"),
            "total": number(run["total_parameters"] or None, ",.0f"),
            "tokens": number(run["tokens"], ",.0f"),
            "steps": number(run["steps"] or None, ",.0f"),
            "executed": number(run["train_flops_executed"], ".3g"),
            "nominal": number(run["train_flops_nominal"], ".3g"),
            "spent": number(run[f"train_flops_{compute}"] / run["budget"], ".2%"),
            "nll": f"{number(run['nll'], '.4f')} ± {number(run['nll_standard_error'], '.4f')}",
            "validation": number(run["validation_nll"], ".4f"),
            "split": run["split"],
            "kind": run["nll_kind"],
            "bits_per_byte": number(run["bits_per_byte"], ".4f"),
            "seconds": number(run["elapsed_seconds"], ",.0f"),
            "status": run["status"],
        }
        for _, run in runs.iterrows()
    ]


def diagnostic_rows(diagnostics: pd.DataFrame) -> list[dict[str, str]]:
    """The diagnostics of each curve's largest budget, formatted."""
    if diagnostics.empty:
        return []
    largest = diagnostics.groupby("variant")["budget"].transform("max")
    chosen = diagnostics[diagnostics["budget"] == largest]
    return [
        {"run": row["run"], "diagnostic": row["diagnostic"], "value": number(row["value"], ".4g")}
        for _, row in chosen.iterrows()
    ]


def diagnostic_notes(families: Iterable[str]) -> dict[str, str]:
    """What the families' diagnostics mean, by name."""
    notes: dict[str, str] = {}
    for family in dict.fromkeys(each for each in families if each != IMPORTED):
        notes |= definition_of(family).diagnostics
    return notes
