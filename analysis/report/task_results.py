"""What the largest models did on tasks: a row a measurement, a column a curve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from analysis.plotting.metric_names import metric_label
from analysis.plotting.page_table import Column, Table, table
from cola.families.registry import IMPORTED, definition_of
from cola.records import of_remainders

# Shown in per cent.
SHARES = (
    "accuracy",
    "first_token_accuracy",
    "first_token_draw_accuracy",
    "mixture_accuracy",
    "draw_accuracy",
    "topic_agreement",
    "text_topic_agreement",
    "topic_chance",
    "valid",
    "accuracy_given_valid",
    "choice_accuracy",
    "f1",
)
STANDARD_ERRORS = {
    "accuracy": "accuracy_standard_error",
    "topic_agreement": "topic_agreement_standard_error",
    "nll_nats_per_token": "nll_standard_error",
    "mauve": "mauve_standard_error",
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


def task_note(families: Iterable[str], tasks: Iterable[str] = ()) -> str:
    """What a reader must know of the measurements, those of the families included."""
    known = [definition_of(name) for name in dict.fromkeys(families) if name != IMPORTED]
    notes = [f"{family.label}: {family.task_note}" for family in known if family.task_note]
    predictive = [PREDICTIVE] if "predictive" in tasks else []
    return " ".join([LIKELIHOODS, *predictive, *notes, OTHERS])


def task_table(evaluations: pd.DataFrame, labels: Mapping[str, str]) -> Table | None:
    """Results of each curve's largest evaluated run, a column a curve of `labels` in their order;
    None if nothing was evaluated."""
    if evaluations.empty:
        return None
    largest = evaluations.groupby("variant")["budget"].transform("max")
    chosen = evaluations[evaluations["budget"] == largest]
    first = chosen.drop_duplicates("variant")
    names = dict(zip(first["variant"], first["name"], strict=True))
    shown = {variant: label for variant, label in labels.items() if variant in names}
    values = {v: _values(chosen[chosen["name"] == names[v]]) for v in shown}
    keys = chosen.drop_duplicates(["task", "metric"])[["task", "metric"]]
    rows = [
        {"task": task, "measurement": metric_label(metric)}
        | {f"of {variant}": _cell(values[variant], task, metric) for variant in shown}
        for task, metric in keys.itertuples(index=False)
        if metric not in BESIDE and not of_remainders(metric)
    ]
    columns = [
        Column("task", "task"),
        Column("measurement", "measurement", words=True),
        *(
            Column(f"of {variant}", f"{label} ({names[variant]})")
            for variant, label in shown.items()
        ),
    ]
    return table(columns, rows)


def task_scores(evaluations: pd.DataFrame) -> pd.DataFrame:
    """task, variant, budget, accuracy, error (standard error) and chance (0 to 1; NaN where not
    recorded) of each run; the task `average` has the mean over the tasks that every run has, where
    they are several."""
    columns = ["task", "variant", "budget", "accuracy", "error", "chance"]
    if evaluations.empty or not (evaluations["metric"] == "accuracy").any():
        return pd.DataFrame(columns=columns)
    wide = evaluations.pivot_table("value", ["task", "variant", "budget", "name"], "metric")
    measured = ["accuracy", "accuracy_standard_error", "chance", "choice_accuracy"]
    wide = wide.reindex(columns=measured).reset_index()
    # Chance is that of choosing an option, which an answer's exact text is not.
    wide["chance"] = wide["chance"].where(wide["choice_accuracy"].isna())
    scores = wide.dropna(subset=["accuracy"]).rename(columns={"accuracy_standard_error": "error"})
    runs = scores[["variant", "budget", "name"]].drop_duplicates()
    common = scores.groupby("task")["name"].transform("size") == len(runs)
    shared = scores[common]
    count = shared["task"].nunique()
    if count > 1:
        by_run = shared.groupby(["variant", "budget", "name"])
        average = by_run[["accuracy", "chance"]].agg(lambda column: column.mean(skipna=False))
        squares = by_run["error"].agg(lambda column: (column**2).sum(skipna=False))
        average = average.assign(error=np.sqrt(squares) / count, task="average").reset_index()
        scores = pd.concat([scores, average], ignore_index=True)
    return scores[columns]


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
