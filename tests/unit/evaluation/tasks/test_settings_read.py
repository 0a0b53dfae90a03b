"""Settings that no task reads are refused by name."""

from __future__ import annotations

import pytest

from cola.errors import SpecError
from cola.evaluation.tasks.settings_read import (
    check_read,
    readers_of,
    unread_by_family,
    unread_by_tasks,
)
from cola.study import EvaluationSpec


@pytest.mark.parametrize(
    ("path", "tasks", "message"),
    [
        ("likelihood.ode_steps", ["lambada"], "likelihood, cloze read it"),
        ("generation.steps", ["likelihood"], "the few-shot tasks, cloze, .* read it"),
        ("generation.max_new_tokens", ["cloze", "infilling"], "the few-shot tasks, continuation"),
        ("prompt_tokens", ["mmlu", "cloze"], "continuation, infilling, speed read it"),
        ("gap_tokens", ["speed"], "infilling read it"),
        ("generation.guidance_scale", ["unconditional"], "the few-shot tasks, cloze, .* read it"),
        ("task_selection", ["continuation"], "the few-shot tasks read it"),
        ("samples", ["mmlu"], "no task reads it, so leave it out$"),
    ],
)
def test_a_key_without_effect_is_refused(path: str, tasks: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=rf"--set {path}=3: has no effect on .*{message}"):
        check_read({path: 3}, tasks)


def test_a_key_that_one_task_reads_is_accepted() -> None:
    assert unread_by_tasks(["generation.max_new_tokens", "generation.steps"], ["lambada"]) == []
    both = ["likelihood.ode_steps", "gap_tokens"]
    assert unread_by_tasks(both, ["lambada", "infilling", "cloze"]) == []
    assert unread_by_tasks(both, ["lambada"]) == both
    assert unread_by_tasks(["task_items", "task_folder"], ["likelihood"]) == []


def test_every_key_of_an_evaluation_is_accounted_for() -> None:
    none = {
        "validation_sequences",
        "points",
        "samples",
        "diagnostic_sequences",
        "held_out",
        "context_lengths",
    }
    fields = EvaluationSpec.model_fields.keys()
    assert {name for name in fields if not readers_of(name)} == none


def test_a_family_s_unread_keys_are_named() -> None:
    given = ["generation.steps", "generation.top_k", "likelihood.ode_steps", "prompt_tokens"]
    assert unread_by_family(given, "ar") == ["generation.steps", "likelihood.ode_steps"]
    assert unread_by_family(given, "llada") == ["generation.steps", "likelihood.ode_steps"]
    assert unread_by_family(["generation.tokens_per_pass"], "llada") == []
