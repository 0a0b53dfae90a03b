"""Writes a sweep's page: the answer in sentences, figures, trials, and the data behind them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.plotting.embedding import embedded
from analysis.plotting.page_table import Column, Table, table
from analysis.plotting.remainders import EXPLANATION as REMAINDERS
from analysis.plotting.remainders import remainder_table
from analysis.plotting.structure import EXPLANATION, structure_table
from analysis.plotting.templates import render
from analysis.sweep_report.answers import (
    best_sentence,
    drift_sentence,
    estimate_drift,
    headline,
    tradeoff_sentence,
)
from analysis.sweep_report.courses import is_population, population_sentence
from analysis.sweep_report.data import ArmFrame, Goal, SweepFrames, point_label, read_sweep
from analysis.sweep_report.figures import asks_rate, figures
from analysis.sweep_report.rate_answers import (
    RateAnswer,
    answer_rate,
    growth_sentences,
    rate_json,
    rate_sentences,
)
from analysis.sweep_report.rate_plots import rate_figures
from analysis.tables.json_numbers import json_text
from cola.families.registry import curve_label
from cola.records import SweepFile
from cola.spec import load_saved_yaml
from cola.spec.yaml_text import dump_yaml
from cola.tuning.record import TuningRecord
from cola.tuning.text import TunedCurve, tuning_sentences

log = logging.getLogger(__name__)


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
    drawn = [*(drawing for each in rates for drawing in rate_figures(each)), *figures(frames)]
    content = {
        "sweep": frames.spec["name"],
        "question": frames.spec["question"],
        "description": frames.spec["description"],
        "answers": sentences,
        "verdict": title_of(frames, rates),
        "figures": embedded(drawn, target),
        "effort": [*effort(frames), *tuned_sentences(folder / SweepFile.TUNED)],
        "collapsed": collapsed(frames),
        "trials": trial_table(frames),
        "structure": structure_table("point", measured_points(frames)),
        "structure_note": EXPLANATION,
        "remainders": remainder_table("point", measured_points(frames)),
        "remainder_note": REMAINDERS,
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


def answers(frames: SweepFrames) -> list[str]:
    """What the sweep says to its question, and the best point by every metric."""
    return [text for arm in frames.arms for text in arm_answers(frames, arm)]


def arm_answers(frames: SweepFrames, arm: ArmFrame) -> list[str]:
    """The same of one arm."""
    answer, sentences = frames.spec["answer"], list[str]()
    if answer["kind"] == "drift" and {answer["key"], answer["over"]} <= set(arm.keys):
        for goal in frames.goals:
            drift = estimate_drift(
                arm,
                goal,
                answer["key"],
                over=answer["over"],
                log=answer["log"],
                control=answer.get("control"),  # records of earlier releases have none
            )
            sentence = drift_sentence(drift, answer["key"], answer["over"])
            sentences.append(f"By {goal.words}: {sentence}")
    if answer["kind"] == "tradeoff" and len(frames.goals) > 1:
        sentences.append(tradeoff_sentence(arm, frames.goals))
    if answer["kind"] != "rate":  # budgets do not compare
        sentences += [best_sentence(arm, goal) for goal in frames.goals]
    if is_population(arm):
        sentences += filter(None, [population_sentence(arm, frames.goals[0])])
    return [text if text.startswith(f"{arm.name}: ") else f"{text[0].upper()}{text[1:]}"
            for text in sentences]  # fmt: skip


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
        shared = float(trials["shared_flops"].sum())
        taken = (
            f", {shared:.3g} more taken from first stages that other trials had trained (each is "
            "charged for them in full)"
            if shared
            else ""
        )
        sentences.append(
            f"{name}: {len(trials)} trials ({states}); {trials['flops'].sum():.3g} executed "
            f"training FLOPs{taken}; {beyond:.1f} s of a trial (median) were neither steps nor "
            "validations."
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


def title_of(frames: SweepFrames, rates: list[RateAnswer]) -> str:
    """The page's title: what each arm's first answer says."""
    if rates:
        firsts = [
            (growth_sentences(each.analysis) if each.analysis.best else rate_sentences(each))[:1]
            for each in rates
        ]
    else:
        firsts = [arm_answers(frames, arm)[:1] for arm in frames.arms]
    names = [arm.name for arm in frames.arms]
    return "; ".join(
        headline(text, name) for name, found in zip(names, firsts, strict=True) for text in found
    )


def trial_table(frames: SweepFrames) -> Table | None:
    """The trials of every arm, from the best to the worst."""
    columns = [
        Column("trial", "trial"),
        Column("arm", "arm"),
        Column("point", "point", words=True),
        *(Column(goal.name, goal.label) for goal in frames.goals),
        Column("state", "state"),
        Column("wall", "whole, s"),
        Column("training", "in steps, s"),
        Column("reason", "reason", words=True),
    ]
    return table(columns, [row for arm in frames.arms for row in trial_rows(arm, frames.goals)])


def measured_points(frames: SweepFrames) -> list[tuple[str, dict[str, Any]]]:
    """Name and metrics, means over its seeds, of each finished point."""
    return [
        (f"{f'{arm.name}: ' if arm.name else ''}{point_label(arm, row)}", row.to_dict())
        for arm in frames.arms
        for _, row in arm.finished.iterrows()
    ]


def trial_rows(arm: ArmFrame, goals: list[Goal]) -> list[dict[str, Any]]:
    """The rows of an arm, formatted, the best by the first metric first; of others finished trials
    before those that were not."""
    ranked = goals[0].ranked(arm.trials)
    ranked = ranked.assign(_open=ranked["state"] != "finished").sort_values("_open", kind="stable")
    return [
        {
            "trial": row["trial"],
            "arm": arm.name,
            "point": point_label(arm, row),
            "state": "collapsed" if row["collapsed"] else row["state"],
            "reason": row["reason"],
            **{goal.name: number(row.get(goal.name)) for goal in goals},
            "wall": f"{row['wall_seconds']:.0f}",
            "training": f"{row['training_seconds']:.0f}",
        }
        for _, row in ranked.iterrows()
    ]


def number(value: Any) -> str:
    """Four digits, or a dash."""
    return "–" if value is None or pd.isna(value) else f"{value:.4f}"
