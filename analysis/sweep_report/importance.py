"""How much of a metric's variance each key of a space explains: Optuna's fANOVA over the trials."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.sweep_report.data import ArmFrame, Goal, value_label

FEWEST = 8  # trials: a forest over fewer says nothing


def importance(arm: ArmFrame, goal: Goal) -> dict[str, float] | None:
    """Shares by key, which add up to 1; None where the arm has one key or too few trials.

    Keys that are not part of every point are left out.
    """
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if goal.name not in arm.finished or len(arm.keys) < 2:
        return None
    done = arm.finished.dropna(subset=[goal.name])
    keys = [key for key in arm.keys if all(key in present for present in done["present"])]
    columns = {key: encoded(done[key]) for key in keys}
    columns = {key: column for key, column in columns.items() if len(set(column[0])) > 1}
    if len(done) < FEWEST or len(columns) < 2:
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize" if goal.sign > 0 else "maximize")
    for index, value in enumerate(done[goal.name]):
        study.add_trial(
            optuna.trial.create_trial(
                params={key: column[0][index] for key, column in columns.items()},
                distributions={key: column[1] for key, column in columns.items()},
                value=float(value),
            )
        )
    importances = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {str(key): float(share) for key, share in importances.items()}


def encoded(column: pd.Series) -> tuple[list[Any], Any]:
    """A key's values as Optuna takes them: numbers as numbers, all else by name."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if is_number(column):
        numbers = [float(value) for value in column]
        return numbers, FloatDistribution(min(numbers), max(numbers))
    names = [value_label(value) for value in column]
    return names, CategoricalDistribution(sorted(set(names)))


def is_number(column: pd.Series) -> bool:
    """Whether all values of a key are numbers."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and not pd.isna(value)
        for value in column
    )
