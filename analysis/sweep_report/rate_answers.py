"""What a rate sweep answers, in sentences and as JSON that has all that they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from analysis.forecasts.register import damaged_lines
from analysis.sweep_report.data import ArmFrame, Goal, point_label
from analysis.sweep_report.generation_rate import (
    Generation,
    compare_generation,
    generation_sentences,
)
from analysis.sweep_report.rate_forecast import (
    Forecast,
    Score,
    forecast_of,
    forecast_sentence,
    scores,
    with_interval,
)
from analysis.sweep_report.rate_profiles import (
    QUANTITIES,
    SILENT_RATE,
    Best,
    RateAnalysis,
    RatePoints,
    analyse,
    estimates_json,
    rate_points,
)
from analysis.sweep_report.rate_rule import RateRule, rule_of
from cola.errors import first_of
from cola.records import SweepFile

MOST_NAMED = 8  # chosen: points in a sentence


@dataclass(frozen=True)
class RateAnswer:
    """All that a rate sweep's arm says. next: the forecast for a budget beyond all that were
    trained, twice (or by the ladder's own step) the largest."""

    arm: ArmFrame
    points: RatePoints
    analysis: RateAnalysis
    scores: list[Score]
    generation: list[Generation]
    next: Forecast | None
    rule: RateRule


def answer_rate(folder: Path, arm: ArmFrame, goals: Sequence[Goal]) -> RateAnswer:
    """Profiles, laws, scored forecasts, and the same profiles by the other metrics."""
    others = list(goals[1:])
    points = rate_points(arm, [goal.name for goal in others])
    analysis = analyse(points)
    found = [compare_generation(analysis, goal) for goal in others]
    budgets = [best.budget for best in analysis.best]
    step = budgets[-1] / budgets[-2] if len(budgets) > 1 else 2.0
    following = forecast_of(analysis, budgets[-1] * step) if budgets else None
    damaged = damaged_lines(folder / SweepFile.FORECASTS)
    if damaged:
        note = f"{damaged} lines of {SweepFile.FORECASTS} are no records and left out"
        points = replace(points, notes=(*points.notes, note))
    scored, rule = scores(folder, arm, analysis), rule_of(arm, analysis)
    return RateAnswer(arm, points, analysis, scored, found, following, rule)


def rate_sentences(answer: RateAnswer) -> list[str]:
    """The answer: minima, growth, forecasts, generation, and what was left out."""
    analysis, name = answer.analysis, f"{answer.arm.name}: " if answer.arm.name else ""
    sentences = [*map(best_rate_sentence, analysis.best)]
    if analysis.best:
        sentences += [*growth_sentences(analysis), answer.rule.sentence()]
    sentences += [score_sentence(score) for score in answer.scores]
    if answer.next is not None:
        sentences.append(
            f"Forecast from all budgets, not registered: {forecast_sentence(answer.next)}."
        )
    sentences += generation_sentences(answer.generation)
    sentences += left_out_sentences(answer)
    sentences += [f"Note: {note}." for note in answer.points.notes]
    return [f"{name}{sentence}" for sentence in sentences]


def best_rate_sentence(best: Best) -> str:
    """Where a budget's bound is lowest, or that the profile does not show it."""
    where = f"At {best.budget:.3g} FLOPs"
    if best.trouble is not None:
        return (
            f"{where} the data do not decide which rate is best: {best.trouble}; {best.widen}. The "
            "budget enters no law."
        )
    rate, distortion, bound = (with_interval(best.values[q], best.intervals[q]) for q in QUANTITIES)
    return (
        f"{where} the bound is lowest, {bound} nats a token, at a rate of {rate} and a distortion "
        f"of {distortion}."
    )


def growth_sentences(analysis: RateAnalysis) -> list[str]:
    """R*(C) and D*(C), or why there are none."""
    good = len(analysis.good)
    if not analysis.laws:
        return [
            f"The data do not decide how the best rate grows with compute: {good} of "
            f"{len(analysis.best)} budgets have a minimum inside their profile, and that takes two."
        ]
    words = {"rate": "best rate R*", "distortion": "distortion D* there"}
    return [
        _growth(analysis, name, text, good) for name, text in words.items() if name in analysis.laws
    ]


def _growth(analysis: RateAnalysis, name: str, words: str, good: int) -> str:
    law = analysis.laws[name]
    low, high = law.interval
    text = (
        f"{law.fit.coefficient:.3g} x (C / {law.fit.scale:.3g})^{law.fit.exponent:.3g}"
        f" nats a token over {good} budgets"
    )
    if not np.isfinite([low, high]).all():
        return (
            f"The data do not decide whether the {words} moves with compute: {text}, of an "
            "uncertainty that is not known (too few points a profile)."
        )
    text += f", exponent {low:.3g} to {high:.3g} (95%)"
    if low > 0 or high < 0:
        return f"The {words} {'grows' if low > 0 else 'falls'} with compute: {text}."
    return f"The data do not decide whether the {words} moves with compute: {text}."


def score_sentence(score: Score) -> str:
    """A registered forecast, and what came of it."""
    when = datetime.fromtimestamp(score.registered or 0, UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = f"Forecast registered {when} for {score.budget:.3g} FLOPs"
    if score.problem is not None or score.forecast is None or score.measured is None:
        return f"{head}: {score.problem}."
    parts = []
    for name in QUANTITIES:
        expected = with_interval(score.forecast.values[name], score.forecast.intervals[name])
        verdict = {True: "inside", False: "outside", None: "not decided"}[score.inside(name)]
        parts.append(f"{name} {expected}, measured {score.measured.values[name]:.3f}: {verdict}")
    return f"{head}: {'; '.join(parts)} (nats a token)."


def left_out_sentences(answer: RateAnswer) -> list[str]:
    """Points that profiles do not have, by name."""
    dead, sentences = answer.points.silent, []
    if len(dead):
        names = [
            f"{row.point} at {row.budget:.3g} FLOPs (rate {row.rate:.3f})"
            for row in dead.itertuples()
        ]
        sentences.append(
            f"Latents that say next to nothing (a rate below {SILENT_RATE} nats a token), in no "
            f"profile: {first_of(names, MOST_NAMED, separator='; ')}."
        )
    unfinished = unfinished_trials(answer.arm)
    if unfinished:
        names = [f"{each['point']} ({each['state']})" for each in unfinished]
        sentences.append(
            f"In no profile are {len(names)} trials that did not finish: "
            f"{first_of(names, MOST_NAMED, separator='; ')}."
        )
    return sentences


def unfinished_trials(arm: ArmFrame) -> list[dict[str, Any]]:
    """Trials that ended without results, as plain values."""
    rows = arm.trials[arm.trials["state"] != "finished"]
    return [
        {
            "trial": int(row["trial"]),
            "point": point_label(arm, row),
            "state": "collapsed" if row["collapsed"] else row["state"],
            "reason": row["reason"],
        }
        for _, row in rows.iterrows()
    ]


def rate_json(answer: RateAnswer, sentences: Sequence[str]) -> dict[str, Any]:
    """The answer as plain values; numbers that are not known are NaN."""
    return {
        "arm": answer.arm.name,
        "budgets": [_best_json(answer, best) for best in answer.analysis.best],
        "silent": answer.points.silent.to_dict("records"),
        "unfinished": unfinished_trials(answer.arm),
        "laws": {
            name: {
                "coefficient": law.fit.coefficient,
                "exponent": law.fit.exponent,
                "scale_flops": law.fit.scale,
                "exponent_interval": law.interval,
            }
            for name, law in answer.analysis.laws.items()
        },
        "forecasts": [_score_json(score) for score in answer.scores],
        "next_forecast": None if answer.next is None else _forecast_json(answer.next),
        "rule": answer.rule.as_settings() if answer.rule.why is None else None,
        "generation": [found.as_json() for found in answer.generation],
        "notes": list(answer.points.notes),
        "sentences": list(sentences),
    }


def _best_json(answer: RateAnswer, best: Best) -> dict[str, Any]:
    runs = answer.analysis.runs
    return {
        "budget": best.budget,
        "rates": best.rates,
        "minimum": estimates_json(best.values, best.intervals) or None,
        "trouble": best.trouble,
        "widen": best.widen,
        "runs": runs[runs["budget"] == best.budget].to_dict("records"),
    }


def _score_json(score: Score) -> dict[str, Any]:
    return {
        "budget": score.budget,
        "registered": score.registered,
        "forecast": None if score.forecast is None else _forecast_json(score.forecast),
        "problem": score.problem,
        "inside": {name: score.inside(name) for name in QUANTITIES},
        "measured": None if score.measured is None else score.measured.values or None,
    }


def _forecast_json(forecast: Forecast) -> dict[str, Any]:
    return {
        "budget": forecast.budget,
        "why_none": forecast.why,
        **estimates_json(forecast.values, forecast.intervals),
    }
