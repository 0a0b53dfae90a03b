"""The figures of a report, with their titles, captions and texts in place of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.generation_frontier.figures import NAMES as FRONTIERS
from analysis.generation_frontier.figures import frontier_figures
from analysis.generation_frontier.record import Frontier
from analysis.plotting.embedding import Drawn, embedded
from analysis.plotting.style import power_of_ten
from analysis.report.comparison_plots import isoflop_profiles, multipliers, residuals, task_panels
from analysis.report.comparisons import bounds_compute
from analysis.report.findings import Findings
from analysis.report.plots import loss_against_compute, training_curves
from analysis.report.runs import StudyFrames
from analysis.report.task_results import task_scores
from cola.records import weakest_kind

NAMES = (
    "loss_compute", "bits_per_byte", "residuals", "isoflop", "multipliers", "tasks",
    "training_curves", *FRONTIERS,
)  # fmt: skip
SAME = 1e-3  # relative spread of bits per byte over nats per token that is rounding


def draw_figures(
    frames: StudyFrames, found: Findings, folder: Path, generation: Frontier | None = None
) -> list[dict[str, str]]:
    """All figures as inline SVG with their texts; PNG and SVG files beside the report.

    Files of figures that these runs do not have are removed.
    """
    drawn = drawn_figures(frames, found)
    if generation is not None:
        drawn += frontier_figures(generation, found.styles)
    for name in set(NAMES) - {each.name for each in drawn}:
        for ending in ("png", "svg"):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)
    return embedded(drawn, folder)


def drawn_figures(frames: StudyFrames, found: Findings) -> list[Drawn]:
    """All figures of a study with a finished run, that of the losses first; no file is written."""
    several = (
        losses(frames, found, "nll"),
        losses(frames, found, "bits_per_byte") if bits_are_news(found.final) else None,
        left_over(found),
        profiles(found),
        ratios(found),
        task_figure(frames, found),
        training(frames, found),
    )
    return [each for each in several if each is not None]


def bits_are_news(final: pd.DataFrame) -> bool:
    """Whether bits per byte say other things than nats per token: not on one text with one
    tokenizer."""
    factors = (final["bits_per_byte"] / final["nll"]).dropna()
    return len(factors) > 0 and factors.max() > (1 + SAME) * factors.min()


def losses(frames: StudyFrames, found: Findings, column: str) -> Drawn:
    """Every run's loss against compute, with the fitted curves."""
    final, own = found.final, column == "nll"
    lines = found.lines if own else found.bits
    figure = loss_against_compute(
        final,
        found.fits,
        found.styles,
        column=column,
        label=f"{frames.split} NLL, nats per token" if own else "bits per byte",
        compute=found.compute,
        lines=lines,
    )
    curves = own and any(fit.curve is not None for fit in found.fits.values())
    notes = ["Each marker is a finished run", kinds_note(final, curves=curves)]
    if final["nll_standard_error"].notna().any() and own:
        notes.append("bars: 95% of its score's error, where it is wider than the marker")
    caption = f"{'; '.join(filter(None, notes))}."
    if curves:
        several = final.groupby(["variant", "budget"])["core_parameters"].nunique().max() > 1
        through = " through the best size of every budget" if several else ""
        caption += (
            f" Curves{through} with two bands: dark where the curve may lie, light where a new run "
            "may lie (95%)."
        )
    if lines:
        caption += (
            " Dotted: guesses without a model; what is not below token frequencies is not fitted."
        )
    factors = (final["bits_per_byte"] / final["nll"]).dropna()
    if own and len(factors) and not bits_are_news(final):
        caption += f" 1 nat per token is {factors.iloc[0]:.3f} bits per byte."
    title = "loss against training compute" if own else "loss in bits per byte of text"
    return Drawn(
        "loss_compute" if own else "bits_per_byte",
        f"{frames.split.capitalize()} {title}",
        figure,
        caption,
        f"{frames.split.capitalize()} {title}. {courses(found, column)}",
    )


def kinds_note(final: pd.DataFrame, *, curves: bool) -> str:
    """What open markers are; nothing where all are filled."""
    kinds = set(final["nll_kind"]) - {"exact"}
    if not kinds:
        return ""
    names = {"bound": "upper bounds of the NLL", "estimate": "estimates of the NLL"}
    what = " or ".join(names[kind] for kind in sorted(kinds))
    return f"open{' and dashed' if curves else ''}: {what}, filled: exact"


def courses(found: Findings, column: str) -> str:
    """In words, where each curve begins and ends."""
    texts = []
    for variant, style in found.styles.items():
        mine = found.final[found.final["variant"] == variant]
        means = mine.groupby("budget")[column].min()
        if means.dropna().empty:
            continue
        kind = weakest_kind(mine["nll_kind"])
        note = "" if kind == "exact" else f" ({kind})"
        ends = f"{means.iloc[0]:.2f} at {power_of_ten(means.index[0])} FLOPs"
        if len(means) > 1:
            ends += f" to {means.iloc[-1]:.2f} at {power_of_ten(means.index[-1])} FLOPs"
        texts.append(f"{style.label}{note}: {ends}")
    return f"{'; '.join(texts)}."


def left_over(found: Findings) -> Drawn | None:
    """How far runs lie from their curves."""
    fitted = {fit.label: fit.fit for fit in found.fits.values() if fit.fit is not None}
    if not fitted:
        return None
    furthest = ", ".join(
        f"{label} {100 * float(abs(fit.residual).max()):.1f}%" for label, fit in fitted.items()
    )
    caption = (
        "Relative distance of each run from its curve. Runs that bend away from 0 at both ends "
        "show that the law misses something; scattered ones do not."
    )
    title = "What the curves leave over"
    figure = residuals(found.fits, found.styles, sorted(set(found.final["budget"])))
    return Drawn("residuals", title, figure, caption, f"{title}: at most {furthest}.")


def profiles(found: Findings) -> Drawn | None:
    """Loss against size at equal compute."""
    of = found.profiles
    if not of.tables:
        return None
    figure = isoflop_profiles(of.tables, of.analyses, of.kinds, styles=found.styles)
    minima = [
        f"{of.label(variant)} {optimum.parameters:,.0f} core parameters at "
        f"{power_of_ten(float(budget))} FLOPs"
        for variant, analysis in of.analyses.items()
        for budget, optimum in zip(
            sorted(of.tables[variant]["budget"].unique()), analysis.optima, strict=True
        )
        if optimum.trouble is None
    ]
    stars = "; stars: minima inside the profile" if minima else ""
    kinds = kinds_note(found.final, curves=False)
    caption = f"One parabola in log N a budget (its FLOPs at the end){stars}"
    caption += f"; {kinds}." if kinds else "."
    title = "Loss against size at equal compute"
    words = f"{title}. Minima: {'; '.join(minima) or 'none inside the profiles'}."
    return Drawn("isoflop", title, figure, caption, words)


def ratios(found: Findings) -> Drawn | None:
    """How much less compute one curve needs than another."""
    curves = [(p.one.variant, p.other.variant, p.curve) for p in found.pairs if not p.curve.empty]
    bounds = [
        (p.one.variant, p.other.variant, p.multiplier)
        for p in found.pairs
        if bounds_compute(p.multiplier)
    ]
    if not curves:  # what bounds say by themselves is a sentence
        return None
    caption = (
        "Above 1 the family that is named first needs less compute than the other. Bands: 95%, as "
        "far as they find room. Dotted: losses that one of the two was not measured at, up to a "
        "factor of ten in compute beyond its runs."
    )
    if bounds:
        caption += (
            " Arrowheads: pairs that reach no loss in common, whose multiplier is at least (up) or "
            "at most (down) this."
        )
    title = "How much less compute for the same loss"
    words = " ".join(pair.sentences[0] for pair in found.pairs)
    figure = multipliers(curves, bounds, found.styles)
    return Drawn("multipliers", title, figure, caption, f"{title}. {words}")


def task_figure(frames: StudyFrames, found: Findings) -> Drawn | None:
    """Accuracies against compute, a panel a task."""
    scores = task_scores(frames.evaluations)
    if scores.empty:
        return None
    names = sorted(set(scores["task"]) - {"average"})
    caption = "Finished runs, mean over seeds"
    if scores["error"].notna().any():
        caption += "; bars: 95% over the items"
    if scores["chance"].notna().any():
        caption += "; dotted: chance, what choosing an answer at random gives"
    if "average" in set(scores["task"]):
        caption += f"; the last panel averages {', '.join(names)}, which every run was scored on"
    title = "Task accuracy against training compute"
    top = scores[scores["budget"] == scores.groupby("variant")["budget"].transform("max")]
    means = top.groupby(["task", "variant"], sort=False)["accuracy"].mean()
    words = "; ".join(
        f"{task}, {found.labels[str(variant)]}: {value:.1%}"
        for (task, variant), value in means.items()
    )
    figure = task_panels(scores, found.styles)
    return Drawn(
        "tasks", title, figure, f"{caption}.", f"{title}. At the largest budgets: {words}."
    )


def training(frames: StudyFrames, found: Findings) -> Drawn | None:
    """The training objective of every run."""
    if frames.curves.empty:
        return None
    caption = (
        "Each family's own objective (the panels cannot be compared with each other), smoothed "
        "over five log lines; darker is a larger budget."
    )
    starts = dict(zip(frames.runs["run_id"], frames.runs["stage_steps"], strict=True))
    if any(len(steps) > 1 for steps in starts.values()):
        caption += " Dots: where a stage begins, whose objective is another."
    title = "Training"
    figure = training_curves(frames.curves, found.styles, starts)
    runs = frames.curves["run_id"].nunique()
    return Drawn("training_curves", title, figure, caption,
                 f"{title}: the objectives of {runs} runs against their compute.")  # fmt: skip
