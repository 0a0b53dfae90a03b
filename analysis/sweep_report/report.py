"""Writes a sweep's page: the answer in sentences, figures, trials, and the data behind them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.plotting.style import Drawn, save_figure
from analysis.plotting.templates import render
from analysis.sweep_report.answers import (
    best_sentence,
    drift_sentence,
    estimate_drift,
    pareto_front,
    tradeoff_sentence,
)
from analysis.sweep_report.courses import (
    course_plot,
    is_population,
    population_plot,
    population_sentence,
)
from analysis.sweep_report.data import ArmFrame, Goal, SweepFrames, point_label, read_sweep, short
from analysis.sweep_report.importance import importance
from analysis.sweep_report.plots import (
    distinct_labels,
    drift_plot,
    heat_map,
    importance_bars,
    parallel,
    pareto,
    quality_by_cost,
    response,
)
from analysis.sweep_report.rate_answers import (
    RateAnswer,
    answer_rate,
    rate_json,
    rate_sentences,
)
from analysis.sweep_report.rate_plots import rate_figures
from analysis.tables.json_numbers import json_text
from cola.families.registry import curve_label
from cola.rate_points import LADDER
from cola.records import Metric, SweepFile
from cola.spec import load_saved_yaml
from cola.spec.yaml_text import dump_yaml
from cola.tuning.record import TuningRecord
from cola.tuning.text import TunedCurve, tuning_sentences

log = logging.getLogger(__name__)

FEW = 12  # values of a key that make columns of a heat map
CONTINUATIONS = Metric.continuation("")
COST = Metric.continuation("function_evaluations_per_token")


def write_sweep_report(folder: Path) -> Path:
    """The page of the sweep in `folder`: `report/report.html`, with PNG, SVG and CSV beside it.

    Raises:
        SpecError: where there is nothing to report on yet.
    """
    frames = read_sweep(folder)
    target = folder / "report"
    target.mkdir(parents=True, exist_ok=True)
    rates = [answer_rate(folder, arm, frames.goals) for arm in frames.arms if asks_rate(frames)]
    sentences = [*(line for each in rates for line in rate_sentences(each)), *answers(frames)]
    drawn = [*(drawing for each in rates for drawing in rate_drawings(each)), *figures(frames)]
    content = {
        "sweep": frames.spec["name"],
        "question": frames.spec["question"],
        "description": frames.spec["description"],
        "answers": sentences,
        "figures": [
            {"name": name, "title": title, "caption": caption,
             "svg": save_figure(figure, target, name)}
            for name, title, figure, caption in drawn
        ],
        "effort": [*effort(frames), *tuned_sentences(folder / SweepFile.TUNED)],
        "collapsed": collapsed(frames),
        "trials": [row for arm in frames.arms for row in trial_rows(arm, frames.goals)],
        "goals": [goal.label for goal in frames.goals],
        "excluded": [
            {"arm": arm.name, "count": count, "reason": reason}
            for arm in frames.arms
            for reason, count in arm.excluded.most_common()
        ],
        "spec": json.dumps({"sweep": frames.spec, "study": frames.study}, indent=1),
    }  # fmt: skip
    for arm in frames.arms:
        stem = f"-{arm.name}" if arm.name else ""
        arm.trials.to_csv(target / f"trials{stem}.csv", index=False)
        arm.runs.to_csv(target / f"runs{stem}.csv", index=False)
    if rates:
        values = [rate_json(each, rate_sentences(each)) for each in rates]
        text = json_text({"sweep": frames.spec["name"], "arms": values})
        (target / "rate.json").write_text(text, encoding="utf-8")
    for each in rates:
        if each.rule.why is None:
            stem = f"-{each.arm.name}" if each.arm.name else ""
            settings = dump_yaml(each.rule.as_settings())
            (target / f"rule{stem}.yaml").write_text(settings, encoding="utf-8")
    path = target / "report.html"
    path.write_text(render("sweep.html.j2", content), encoding="utf-8")
    log.info("sweep %s: %d figures, page %s", frames.spec["name"], len(drawn), path)
    return path


def asks_rate(frames: SweepFrames) -> bool:
    """Whether the sweep asks for the best rate at every budget."""
    return str(frames.spec["answer"]["kind"]) == "rate"


def rate_drawings(answer: RateAnswer) -> Iterator[Drawn]:
    """The figures of a rate sweep's arm."""
    stem, prefix = (f"-{answer.arm.name}", f"{answer.arm.name}: ") if answer.arm.name else ("", "")
    return rate_figures(answer, stem, prefix)


def answers(frames: SweepFrames) -> list[str]:
    """What the sweep says to its question, and the best point by every metric."""
    answer, sentences = frames.spec["answer"], []
    for arm in frames.arms:
        if answer["kind"] == "drift" and {answer["key"], answer["over"]} <= set(arm.keys):
            for goal in frames.goals:
                drift = estimate_drift(
                    arm, goal, answer["key"], over=answer["over"], log=answer["log"]
                )
                sentence = drift_sentence(drift, answer["key"], answer["over"])
                sentences.append(f"By {goal.label}: {sentence}")
        if answer["kind"] == "tradeoff" and len(frames.goals) > 1:
            sentences.append(tradeoff_sentence(arm, frames.goals))
        if answer["kind"] != "rate":  # budgets do not compare
            sentences += [best_sentence(arm, goal) for goal in frames.goals]
        if is_population(arm):
            sentences += filter(None, [population_sentence(arm, frames.goals[0])])
    return [f"{sentence[0].upper()}{sentence[1:]}" for sentence in sentences]


def effort(frames: SweepFrames) -> list[str]:
    """How much went into each arm, and what was not training."""
    sentences = []
    for arm in frames.arms:
        trials = arm.trials
        if trials.empty:
            continue
        states = ", ".join(f"{n} {s}" for s, n in trials["state"].value_counts().items())
        name = f"Arm {arm.name}" if arm.name else "The sweep"
        beyond = (trials["wall_seconds"] - trials["working_seconds"]).median()
        sentences.append(
            f"{name}: {len(trials)} trials ({states}); {trials['flops'].sum():.3g} executed "
            f"training FLOPs, {trials['shared_flops'].sum():.3g} more taken from first stages that "
            f"other trials had trained (each is charged for them in full); {beyond:.1f} s of a "
            "trial (median) were neither steps nor validations."
        )
    if len(frames.arms) > 1:
        budget = {key: value for key, value in frames.spec["budget"].items() if value is not None}
        search_budget = (
            ", ".join(f"{key} {value:g}" for key, value in budget.items()) or "its whole grid"
        )
        algorithm, scheduler = frames.spec["algorithm"]["kind"], frames.spec["scheduler"]["kind"]
        if scheduler == "pbt":
            search_budget = f"a population of {frames.spec['scheduler']['population']['members']}"
        sentences.append(
            f"Effort: every arm has its own {algorithm} search with {search_budget}, "
            f"scheduler {scheduler}, and the same seeds."
        )
    if frames.open_trials:
        sentences.append(f"{frames.open_trials} trials have not ended yet.")
    if frames.left_out:
        sentences.append(
            f"{frames.left_out} earlier trials are left out: the space, edited since, no longer "
            "has their points. Their measurements are in trials.jsonl."
        )
    return sentences


def tuned_sentences(path: Path) -> list[str]:
    """What the sweep's tuned settings are, and what they rest on; nothing where it has none.

    Raises:
        StorageError: the file is damaged.
    """
    if not path.exists():
        return []
    command = "`cola sweep` of the same sweep"
    values = load_saved_yaml(path, "tuning", "families", what="record", command=command)
    record = TuningRecord.parse(values["tuning"], origin=str(path))
    curves = {
        name: TunedCurve(curve_label(name, entry.family), [item.budget for item in entry.budgets])
        for name, entry in record.families.items()
    }
    return tuning_sentences(record, curves, "none")


def collapsed(frames: SweepFrames) -> list[str]:
    """Points whose latent space collapsed, or that diverged otherwise, with the reason."""
    return [
        f"{f'{arm.name}: ' if arm.name else ''}{point_label(arm, row)}: "
        f"{'collapsed' if row['collapsed'] else 'diverged'} ({row['reason']})"
        for arm in frames.arms
        for _, row in arm.trials[arm.trials["state"] == "diverged"].iterrows()
    ]


def trial_rows(arm: ArmFrame, goals: list[Goal]) -> list[dict[str, Any]]:
    """The table of trials, formatted."""
    return [
        {
            "trial": row["trial"],
            "arm": arm.name,
            "point": point_label(arm, row),
            "state": "collapsed" if row["collapsed"] else row["state"],
            "reason": row["reason"],
            "metrics": [number(row.get(goal.name)) for goal in goals],
            "wall": f"{row['wall_seconds']:.0f}",
            "training": f"{row['training_seconds']:.0f}",
        }
        for _, row in arm.trials.iterrows()
    ]


def number(value: Any) -> str:
    """Four digits, or a dash."""
    return "–" if value is None or pd.isna(value) else f"{value:.4f}"


def figures(frames: SweepFrames) -> Iterator[Drawn]:
    """All figures, the answer's first."""
    answer = frames.spec["answer"]
    for arm in frames.arms:
        stem, prefix = (f"-{arm.name}", f"{arm.name}: ") if arm.name else ("", "")
        for index, goal in enumerate(frames.goals):
            if goal.name not in arm.finished or arm.finished[goal.name].notna().sum() < 2:
                continue
            suffix = stem if index == 0 else f"{stem}-{index}"
            if answer["kind"] == "drift" and {answer["key"], answer["over"]} <= set(arm.keys):
                drift = estimate_drift(
                    arm, goal, answer["key"], over=answer["over"], log=answer["log"]
                )
                if drift is not None:
                    yield (
                        f"drift{suffix}",
                        f"{prefix}drift of the best {short(answer['key'])}, by {goal.label}",
                        drift_plot(drift, answer["key"], answer["over"]),
                        "Optimum of a parabola through the best value and its neighbours, with 95% "
                        "of refits under the seeds' noise.",
                    )
            if asks_rate(frames):  # profiles are the interaction of rates and budgets
                yield from responses(arm, goal, suffix, prefix=prefix)
            elif not is_population(arm):  # its last members are no independent points of the space
                yield from goal_figures(arm, goal, suffix, prefix=prefix)
        if not asks_rate(frames):
            yield from arm_figures(frames, arm, stem, prefix=prefix)


def responses(arm: ArmFrame, goal: Goal, suffix: str, *, prefix: str) -> Iterator[Drawn]:
    """A metric by each key but the budgets."""
    for index, key in enumerate(key for key in arm.keys if key != LADDER):
        caption = "Large dots: means over seeds; small dots: single seeds."
        title = f"{prefix}{goal.label} by {short(key)}"
        yield f"response{suffix}-{index}", title, response(arm, key, goal), caption


def goal_figures(arm: ArmFrame, goal: Goal, suffix: str, *, prefix: str) -> Iterator[Drawn]:
    """Of one metric: responses, the interaction, importance."""
    yield from responses(arm, goal, suffix, prefix=prefix)
    done = arm.finished.dropna(subset=[goal.name])
    if len(arm.keys) >= 2 and all(len(distinct_labels(done[key])) <= FEW for key in arm.keys[:2]):
        title = f"{prefix}{goal.label} by {short(arm.keys[0])} and {short(arm.keys[1])}"
        yield f"interaction{suffix}", title, heat_map(arm, goal), "Means over seeds; dark is worse."
    shares = importance(arm, goal)
    if shares is not None:
        caption = "fANOVA: how much of the variance over the trials each key explains by itself."
        title = f"{prefix}importance for {goal.label}"
        yield f"importance{suffix}", title, importance_bars(shares), caption


def arm_figures(frames: SweepFrames, arm: ArmFrame, stem: str, *, prefix: str) -> Iterator[Drawn]:
    """Of all metrics together: the Pareto front, parallel coordinates."""
    goals = frames.goals
    if is_population(arm):
        caption = (
            "Above: every part of a member's run ends in a dot, joined to where it went on from; "
            "faint: given up. Below: the rates of the last members."
        )
        title = f"{prefix}the population"
        yield f"population{stem}", title, population_plot(arm, goals[0]), caption
    elif (arm.trials["state"] == "stopped").any():
        caption = "Crosses: ended early, at a value that does not compare with finished ones."
        title = f"{prefix}{goals[0].label} while trials trained"
        yield f"course{stem}", title, course_plot(arm, goals[0]), caption
    front = pareto_front(arm.finished, goals)
    if len(goals) > 1 and len(arm.finished) > 1 and front:
        title = f"{prefix}{goals[0].label} against {goals[1].label}"
        caption = "Orange: no other point is as good in all metrics and better in one."
        yield f"pareto{stem}", title, pareto(arm, goals, front), caption
    for index, goal in enumerate(goals):
        costs = arm.finished[COST].nunique() if COST in arm.finished else 0
        if goal.name.startswith(CONTINUATIONS) and costs > 1:
            caption = "Both passes of guidance count. Large dots: means over seeds."
            title = f"{prefix}{goal.label} against the cost of generation"
            yield f"cost{stem}-{index}", title, quality_by_cost(arm, goal, COST), caption
    first = goals[0]
    enough = first.name in arm.finished and arm.finished[first.name].notna().sum() >= 3
    if len(arm.keys) >= 2 and enough and not is_population(arm):
        title = f"{prefix}all trials"
        caption = f"A line a trial; blue: the best third by {first.label}."
        yield f"parallel{stem}", title, parallel(arm, first), caption
