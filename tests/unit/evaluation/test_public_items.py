"""The public release's own items and outputs: the same prompts, and the published scores."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cola.evaluation.few_shot.definitions import DEFINITIONS
from cola.evaluation.few_shot.scoring import score_task
from cola.evaluation.items import Item, read_items
from sweeps.cli import app
from tests.paths import SHARED
from tests.unit.evaluation.made_up import CHOICE_TASKS
from tests.unit.evaluation.taken_apart import FORMS, built_again

BENCHMARKS = SHARED / "benchmarks"
AS_CHOICES = {"hellaswag": (68.7, 23.1), "story_cloze": (78.0, 50.4)}


def release_items(task: str) -> list[Item]:
    return read_items(BENCHMARKS / f"{task}.jsonl", DEFINITIONS[task].needs_choices)


@pytest.mark.parametrize(
    ("task", "accuracy"),
    [("lambada", 50.80), ("mmlu", 19.30), ("hellaswag", 10.70), ("story_cloze", 30.77)],
)
def test_the_released_outputs_score_as_published_by_the_release_s_rule(
    task: str, accuracy: float
) -> None:
    items = BENCHMARKS / f"{task}.jsonl"
    outputs = BENCHMARKS / "released_outputs" / f"{task}.jsonl"
    arguments = ["--task", task, "--items", str(items), "--generations", str(outputs), "--json"]
    strict = json.loads(CliRunner().invoke(app, ["score", *arguments]).stdout)
    assert round(strict["release"]["accuracy"], 2) == accuracy
    arguments += ["--matching", "release"]
    shown = json.loads(CliRunner().invoke(app, ["score", *arguments]).stdout)
    assert round(shown["accuracy"], 2) == accuracy
    # Read as choices, beside the exact texts: how many name an option, and how many of these the
    # true one.
    if task in AS_CHOICES:
        assert (round(strict["valid"], 1), round(strict["accuracy_given_valid"], 1)) == AS_CHOICES[
            task
        ]
        share = strict["valid"] * strict["accuracy_given_valid"] / 100
        assert strict["choice_accuracy"] == pytest.approx(share)
    # Free texts without numbers score the same by both rules.
    assert round(strict["accuracy"], 2) == (18.0 if task == "mmlu" else accuracy)


@pytest.mark.parametrize("form", ["({})", "{}", "The answer is {}.", "{}. because of it"])
@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_every_true_letter_is_right(task: str, form: str) -> None:
    items = release_items(task)
    letters = {i.id: form.format("ABCDE"[(i.choices or []).index(i.answer)]) for i in items}
    assert score_task(task, items, letters).accuracy == 100.0


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_every_true_answer_is_right_but_for_those_of_several_lines(task: str) -> None:
    items = [
        item
        for item in release_items(task)
        if item.answer in (item.choices or [])
        and "\n" not in item.answer  # generations are cut there
    ]
    as_text = score_task(task, items, {item.id: f" {item.answer}\n\nMore" for item in items})
    assert as_text.accuracy == 100.0


@pytest.mark.parametrize("task", FORMS)
def test_every_item_of_the_release_is_built_again_to_the_letter(task: str) -> None:
    items = release_items(task)
    assert len(items) == {"story_cloze": 468, "obqa": 500}.get(task, 1000)
    parts = {"group": None, "stratum": None}  # of the data set: the release's files have none
    found = [built_again(task, item).model_copy(update=parts) for item in items]
    assert found == items


@pytest.mark.parametrize("task", FORMS)
def test_the_items_have_the_prefix_in_common_and_no_more(task: str) -> None:
    prefix, begin, _ = FORMS[task]
    asked = [item.prompt for item in release_items(task)]
    assert all(prompt.startswith(prefix + begin) for prompt in asked)
    assert len({prompt[len(prefix + begin)] for prompt in asked}) > 1


@pytest.mark.parametrize("task", sorted(FORMS.keys() - {"squad"}))
def test_ids_count_from_the_definitions_first_number(task: str) -> None:
    items = release_items(task)
    first = DEFINITIONS[task].first_number
    assert sorted(int(item.id) for item in items) == list(range(first, first + len(items)))
    assert [item.id for item in items[:3]] == [first, first + 8, first + 16]
