"""What the largest models did on tasks: a row a measurement, a column a curve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from cola.families.registry import IMPORTED, definition_of

# Shown in per cent.
SHARES = (
    "accuracy",
    "first_token_accuracy",
    "first_token_draw_accuracy",
    "mixture_accuracy",
    "draw_accuracy",
    "valid",
    "accuracy_given_valid",
    "choice_accuracy",
    "f1",
)
STANDARD_ERRORS = {
    "accuracy": "accuracy_standard_error",
    "nll_nats_per_token": "nll_standard_error",
    **{
        name: f"{name}_standard_error"
        for name in ("brierlm", *(f"brier_{count}" for count in (1, 2, 3, 4)))
    },
}
BESIDE = (*STANDARD_ERRORS.values(), "chance", "items")  # of other numbers

LIKELIHOODS = "Likelihoods are exact or bounds as the table of runs says."
PREDICTIVE = (
    "Predictive scores are of draws behind the same prompts: of Brier-n and BrierLM the higher are "
    "better, those of token frequencies are beside them, and the NLL is exact for AR, elsewhere a "
    "bound that falls as draws grow."
)
OTHERS = (
    "Generated texts are judged by the reference that their evaluation names. Speeds are those of "
    "the machine at that time."
)


@dataclass(frozen=True)
class TaskTable:
    """`runs` head the columns; each row is a task, a measurement and a cell for each run."""

    runs: list[dict[str, str]]
    rows: list[dict[str, object]]


def task_note(families: Iterable[str], tasks: Iterable[str] = ()) -> str:
    """What a reader must know of the measurements, those of the families included."""
    known = [definition_of(name) for name in dict.fromkeys(families) if name != IMPORTED]
    notes = [f"{family.label}: {family.task_note}" for family in known if family.task_note]
    predictive = [PREDICTIVE] if "predictive" in tasks else []
    return " ".join([LIKELIHOODS, *predictive, *notes, OTHERS])


def task_table(evaluations: pd.DataFrame, variants: Sequence[str]) -> TaskTable | None:
    """Results of each curve's largest evaluated run; None if nothing was evaluated."""
    if evaluations.empty:
        return None
    largest = evaluations.groupby("variant")["budget"].transform("max")
    chosen = evaluations[evaluations["budget"] == largest]
    first = chosen.drop_duplicates("variant")
    names = dict(zip(first["variant"], first["name"], strict=True))
    shown = [variant for variant in variants if variant in names]
    values = {v: _values(chosen[chosen["name"] == names[v]]) for v in shown}
    keys = chosen.drop_duplicates(["task", "metric"])[["task", "metric"]]
    rows: list[dict[str, object]] = [
        {
            "task": task,
            "measurement": metric.replace("_", " "),
            "cells": [_cell(values[variant], task, metric) for variant in shown],
        }
        for task, metric in keys.itertuples(index=False)
        if metric not in BESIDE
    ]
    heads = [{"variant": variant, "name": names[variant]} for variant in shown]
    return TaskTable(heads, rows)


def _values(results: pd.DataFrame) -> pd.Series:
    """Values by task and metric; several runs may bear one name, of which the first counts."""
    first = results.drop_duplicates(["task", "metric"])
    return first.set_index(["task", "metric"])["value"]


def _cell(values: pd.Series, task: str, metric: str) -> str:
    value = values.get((task, metric))
    if value is None or pd.isna(value):
        return "–"
    error = values.get((task, STANDARD_ERRORS.get(metric, "")))
    if metric not in SHARES:
        return f"{value:.4g}" + (f" ± {error:.2g}" if error is not None else "")
    share = f"{100 * value:.1f}%" + (f" ± {100 * error:.1f}" if error is not None else "")
    chance = values.get((task, "chance"))
    # Chance is that of choosing an option, which an answer's exact text is not.
    choice = "accuracy" if pd.isna(values.get((task, "choice_accuracy"))) else "choice_accuracy"
    return f"{share} (chance {100 * chance:.1f}%)" if chance and metric == choice else share
