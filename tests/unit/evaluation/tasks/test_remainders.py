"""Answers by the remainder of a prompt's length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from cola.data import TextTokenizer
from cola.errors import SpecError
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.tasks.catalog import HeldOut, make_tasks
from cola.evaluation.tasks.evaluate import answer_locally
from cola.evaluation.tasks.remainders import by_remainder
from cola.records import of_remainders
from cola.study import EvaluationSpec, StudySpec

SETTINGS: dict[str, Any] = {
    "tasks": ["cloze", "continuation", "predictive"],
    "task_items": 4,
    "prompt_tokens": 8,
    "generation": {"max_new_tokens": 4, "steps": 2},
    "predictive": {"prompts": 4, "draws": 2},
}


def results(
    evaluated: EvaluatedModel, rows_NL: np.ndarray, tokenizer: TextTokenizer, **changes: Any
) -> dict[str, dict[str, float]]:
    held = HeldOut(rows_NL, np.ones(len(rows_NL)), tokenizer)
    settings = EvaluationSpec.parse(SETTINGS | changes)
    tasks = make_tasks(settings, held, lambda task: [], seed=0, context=32)
    answers = answer_locally(evaluated, 8)
    records = {task.name: dict(answers(task, task.ids())) for task in tasks}
    return {task.name: dict(task.summary(records[task.name]).metrics) for task in tasks}


def test_lengths_stand_beside_what_whole_prompts_give(
    evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray, tokenizer: TextTokenizer
) -> None:
    model = evaluated_models["ar"]
    plain = results(model, held_out, tokenizer)
    found = results(model, held_out, tokenizer, prompt_remainders=4)
    for task, metrics in plain.items():
        assert {k: v for k, v in found[task].items() if not of_remainders(k)} == metrics
    # Prompts of continuations have 8, 7, 6 and 5 tokens: each remainder is one of these lengths.
    at = [found["continuation"][f"accuracy_at_remainder_{r}"] for r in range(4)]
    assert at[0] == found["continuation"]["accuracy"]
    for skipped in (1, 2, 3):
        later = results(model, held_out[:, skipped:], tokenizer, prompt_tokens=8 - skipped)
        assert at[4 - skipped] == later["continuation"]["accuracy"]


def test_gains_are_paired_by_item() -> None:
    random = np.random.default_rng(0)
    values_KI = random.random((4, 30)) + np.array([1.0, 0.0, 0.5, 0.0])[:, None]
    turned = np.array([np.roll(np.arange(4), n) for n in range(30)]).T  # whatever order they are in
    shuffled_KI = np.take_along_axis(values_KI, turned, axis=0)
    found = by_remainder("x", shuffled_KI, turned, clusters_I=np.arange(30))
    assert found["x_at_remainder_2"] == pytest.approx(values_KI[2].mean())
    for divisor, divided in ((2, [0, 2]), (4, [0])):
        others = [row for row in range(4) if row not in divided]
        gain_I = values_KI[divided].mean(0) - values_KI[others].mean(0)
        interval = ttest_1samp(gain_I, 0).confidence_interval()
        name = f"x_gain_divisible_by_{divisor}"
        assert found[name] == pytest.approx(gain_I.mean())
        half = found[f"{name}_half_interval"]
        assert half == pytest.approx((interval.high - interval.low) / 2)


def test_lengths_that_no_task_reads_are_refused(tiny_study: dict[str, Any]) -> None:
    own = tiny_study["evaluation"]
    with pytest.raises(SpecError, match="prompt_remainders=4: is for the tasks cloze, "):
        StudySpec.parse(tiny_study | {"evaluation": own | {"prompt_remainders": 4}})
    long = own | {"prompt_remainders": 9, "tasks": ["continuation"]}
    with pytest.raises(SpecError, match="leaves nothing of prompts of"):
        StudySpec.parse(tiny_study | {"evaluation": long})
    assert "prompt_remainders" not in EvaluationSpec().model_dump()
