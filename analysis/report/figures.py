"""The figures of a report, with their titles and captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis.plotting.style import Drawn, save_figure
from analysis.plotting.variants import Style
from analysis.report.comparison_plots import isoflop_profiles, multipliers, residuals, task_panels
from analysis.report.comparisons import Pair, bounds_compute
from analysis.report.family_fits import FamilyFit
from analysis.report.findings import Findings
from analysis.report.plots import loss_against_compute, training_curves
from analysis.report.runs import StudyFrames
from analysis.report.tables import Profiles

BOUND = "open markers and dashed lines are upper bounds of the NLL, not the NLL itself"


def draw_figures(frames: StudyFrames, found: Findings, folder: Path) -> list[dict[str, str]]:
    """All figures, as inline SVG with their captions; PNG and SVG files beside the report."""
    return [
        {
            "name": name,
            "title": title,
            "svg": save_figure(figure, folder, name),
            "caption": caption,
        }
        for name, title, figure, caption in drawn_figures(frames, found)
    ]


def drawn_figures(frames: StudyFrames, found: Findings) -> list[Drawn]:
    """All figures of a study with a finished run; no file is written."""
    fits, pairs, profiles, styles = found.fits, found.pairs, found.profiles, found.styles
    compute, lines = found.compute, {"nll": found.lines, "bits_per_byte": found.bits}
    final = frames.points[frames.points["is_final"]]

    def losses(column: str, label: str) -> Figure:
        return loss_against_compute(
            final, fits, styles, column=column, label=label, compute=compute, lines=lines[column]
        )

    drawn: list[Drawn] = [
        (
            "loss_compute",
            f"{frames.split.capitalize()} loss against training compute",
            losses("nll", f"{frames.split} NLL, nats/token"),
            f"Each marker is a finished run. Filled: exact; {BOUND}. A curve goes through the best "
            "size of every budget. Dark band: where the curve may lie (90%); light band: where a "
            "new run may lie (90%). Dotted: guesses without a model; runs that are not below token "
            "frequencies (unigram) are not fitted.",
        ),
        *derived_figures(frames, fits, pairs, profiles=profiles, styles=styles),
    ]
    if final["bits_per_byte"].notna().any():  # imported runs have none
        caption = f"Independent of the tokenizer. Filled: exact; {BOUND}."
        figure = losses("bits_per_byte", "bits per byte")
        drawn.append(("bits_per_byte", "Loss in bits per byte of text", figure, caption))
    if not frames.curves.empty:
        caption = (
            "Each family's own objective (the panels cannot be compared with each other); darker "
            "is a larger budget. An objective may change between stages."
        )
        figure = training_curves(frames.curves, styles)
        drawn.append(("training_curves", "Training", figure, caption))
    return drawn


def derived_figures(
    frames: StudyFrames,
    fits: dict[str, FamilyFit],
    pairs: Sequence[Pair],
    *,
    profiles: Profiles,
    styles: Mapping[str, Style],
) -> list[Drawn]:
    """What is derived from the runs, where there is enough to derive it from."""
    drawn: list[Drawn] = []
    if any(fit.fit is not None for fit in fits.values()):
        caption = "Relative distance of each run from its curve."
        drawn.append(("residuals", "What the curves leave over", residuals(fits, styles), caption))
    if profiles.tables:
        figure = isoflop_profiles(profiles.tables, profiles.analyses, profiles.kinds, styles=styles)
        caption = (
            "One parabola in log N a budget (its FLOPs at the end); stars: minima inside the "
            f"profile. Filled: exact; {BOUND}."
        )
        drawn.append(("isoflop", "Loss against size at equal compute", figure, caption))
    curves = [(p.one.variant, p.other.variant, p.curve) for p in pairs if not p.curve.empty]
    bounds = [
        (p.one.variant, p.other.variant, p.multiplier)
        for p in pairs
        if bounds_compute(p.multiplier)
    ]
    if curves or bounds:
        caption = (
            "Above 1 the named family needs less. Bands: 95%. Dotted: losses that one of the two "
            "was not measured at, up to a factor of ten in compute beyond its runs. Arrowheads: "
            "pairs that reach no loss in common, whose multiplier is at least (up) or at most "
            "(down) this."
        )
        title = "How much less compute for the same loss"
        drawn.append(("multipliers", title, multipliers(curves, bounds, styles), caption))
    if not frames.accuracies.empty:
        caption = (
            "Finished runs, mean over seeds; the last panel averages the tasks that every run was "
            "scored on."
        )
        title = "Task accuracy against training compute"
        drawn.append(("tasks", title, task_panels(frames.accuracies, styles), caption))
    return drawn
