"""What a report's page says: sentences, tables and samples, without the figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from analysis.conditions.matching import matching_statements, tuning_statements
from analysis.conditions.strip import imported_strip, strip
from analysis.generation_frontier.content import frontier_content
from analysis.generation_frontier.record import Frontier
from analysis.held_out_sets.contexts import NOTE as CONTEXTS
from analysis.held_out_sets.contexts import context_sentences, context_table
from analysis.held_out_sets.measured import TextResult, texts_of
from analysis.held_out_sets.page import NOTE, text_sentences, text_table
from analysis.plotting import pictures
from analysis.plotting.remainders import EXPLANATION as REMAINDERS
from analysis.plotting.remainders import remainder_table
from analysis.plotting.structure import EXPLANATION, structure_table
from analysis.plotting.variants import by_curve
from analysis.report.conventions import convention_sentences, convention_table
from analysis.report.family_fits import FamilyFit, falls_with_budget
from analysis.report.findings import Findings
from analysis.report.reference import excess_sentences, headlines, line_table
from analysis.report.runs import StudyFrames
from analysis.report.splits import split_sentence
from analysis.report.tables import (
    choice_rows,
    diagnostic_table,
    fit_table,
    latent_table,
    prediction_table,
    profile_sentences,
    run_table,
)
from analysis.report.task_results import task_note, task_table
from analysis.report.verdict import verdict
from cola.families.registry import IMPORTED, definition_of
from cola.records import SOLVER_DIFFERENCE, SOLVER_TOLERANCE

BEYOND = 2.0  # chosen: a prediction that was not asked for is of twice the largest budget
ENDING = 60  # characters of a prompt's end by which it is known

KIND_NAMES = {
    "exact": "NLL",
    "bound": "bound on the NLL",
    "estimate": "estimate of the NLL",
}


def page(
    study: str,
    frames: StudyFrames,
    found: Findings,
    *,
    spec: dict[str, Any],
    targets: Sequence[float],
    generation: Frontier | None = None,
) -> dict[str, Any]:
    """What the templates show, but for the figures."""
    fits, final, compute = found.fits, found.final, found.compute
    targets = list(targets) or [BEYOND * float(final["budget"].max())]
    imported = is_imported(frames.runs)
    on_texts, largest = results_on_texts(frames), largest_runs(frames, found.labels)
    return {
        "study": study,
        "verdict": verdict(found, frames.points, frames.split),
        "description": spec.get("description", ""),
        "headlines": headlines(final, found.lines, found.labels),
        "strip": imported_strip(frames.runs)
        if imported
        else strip(frames.runs, spec, frames.environment, frames.split),
        "summary": summary(frames, fits, compute),
        "lines": line_table(found.lines, found.bits),
        "matching": matched(frames, spec),
        "fits": fit_table(fits, compute),
        "comparisons": compared(found),
        "predictions": prediction_table(fits, targets, compute),
        "choices": choice_rows(fits),
        "profiles": profile_sentences(found.profiles),
        "conventions": convention_table(found.conventions, found.labels),
        "by_convention": convention_sentences(found.conventions, found.labels),
        "runs": run_table(frames.runs, compute, frames.split),
        "latents": latent_table(frames.runs),
        "structure": structure_table("run", finished_metrics(frames)),
        "structure_note": EXPLANATION,
        "remainders": remainder_table("run", finished_metrics(frames)),
        "remainder_note": REMAINDERS,
        "diagnostics": diagnostic_table(frames.diagnostics),
        "diagnostic_notes": diagnostic_notes(found.variants.values()),
        "tasks": task_table(frames.evaluations, found.labels),
        "texts": text_table(on_texts, found.labels),
        "text_sentences": text_sentences(on_texts, found.labels),
        "text_note": NOTE,
        "contexts": context_table(largest),
        "context_sentences": context_sentences(largest),
        "context_note": CONTEXTS,
        "task_note": task_note(found.variants.values(), set(frames.evaluations.get("task", ()))),
        "generation": frontier_content(generation, list(frames.runs["run_key"])),
        "samples": sample_groups(
            [sample for sample in frames.samples if not pictures.is_picture(sample)], found.labels
        ),
        "drawn": pictures.drawn_images(frames.samples),
        "described": pictures.described_images(frames.samples),
        "accuracy": pictures.accuracy_table(finished_metrics(frames)),
        "accuracy_note": pictures.EXPLANATION,
        "warnings": found.warnings,
        "environment": json.dumps(frames.environment, indent=1),
        "spec": json.dumps(spec, indent=1),
        "labels": found.labels,
        "colours": {variant: style.colour for variant, style in found.styles.items()},
    }


def finished_metrics(frames: StudyFrames) -> list[tuple[str, dict[str, float]]]:
    """Name and last metrics of each finished run."""
    finished = frames.runs[frames.runs["status"] == "finished"]
    return [
        (str(run["name"]), frames.metrics.get(str(run["run_id"]), {}))
        for _, run in finished.iterrows()
    ]


def largest_runs(
    frames: StudyFrames, labels: dict[str, str]
) -> list[tuple[str, str, dict[str, float]]]:
    """Label, kind of the NLL and metrics of each curve's first finished run of most budget."""
    finished = frames.runs[frames.runs["status"] == "finished"]
    firsts = [
        (variant, runs.sort_values("budget", ascending=False, kind="stable").iloc[0])
        for variant, runs in by_curve(finished)
    ]
    return [
        (labels[variant], str(run["nll_kind"]), frames.metrics.get(str(run["run_id"]), {}))
        for variant, run in firsts
    ]


def results_on_texts(frames: StudyFrames) -> dict[str, dict[str, TextResult]]:
    """What each curve's largest runs measured on further held-out texts, by curve and text."""
    of_curve = {
        variant: [frames.results[run] for run in runs["run_id"] if run in frames.results]
        for variant, runs in by_curve(frames.runs)
    }
    return {variant: texts_of(recorded) for variant, recorded in of_curve.items() if recorded}


def sample_groups(
    samples: Sequence[dict[str, Any]], labels: dict[str, str]
) -> list[dict[str, Any]]:
    """Samples by their prompt: what each curve wrote, in the curves' order, and the text itself."""
    order = list(labels)
    groups: dict[str, list[dict[str, Any]]] = {}
    for sample in sorted(samples, key=lambda sample: order.index(sample["variant"])):
        groups.setdefault(str(sample["prompt"]), []).append(sample)
    return [
        {
            "prompt": prompt,
            "ending": " ".join(prompt.split())[-ENDING:],
            "texts": texts,
            "reference": texts[0].get("reference", ""),
        }
        for prompt, texts in groups.items()
    ]


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
    sentences += excess_sentences(frames.runs, {name: fit.label for name, fit in fits.items()})
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


def diagnostic_notes(families: Iterable[str]) -> dict[str, str]:
    """What the families' diagnostics mean, by name."""
    notes: dict[str, str] = {}
    for family in dict.fromkeys(each for each in families if each != IMPORTED):
        notes |= definition_of(family).diagnostics
    return notes
