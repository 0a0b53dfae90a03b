"""The release's own items, taken apart into public records, are built again to the letter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cola.evaluation.few_shot import prompts
from cola.evaluation.few_shot.definitions import DEFINITIONS
from cola.evaluation.items import Item, read_items
from tests.unit.evaluation.benchmarks import benchmarks

Fields = dict[str, Any]
# Prefix, what begins an item, what ends it.
FORMS = {
    "lambada": ("", "", ""),
    "mmlu": (prompts.MMLU, "Question: ", "\nAnswer:"),
    "siqa": (prompts.SIQA, "Question: ", "\nAnswer:"),
    "squad": (prompts.SQUAD, "Context: ", "\nAnswer:"),
    "story_cloze": (prompts.STORY_CLOZE, "Story: ", "\nEnd:"),
    "obqa": (prompts.OBQA, "Question: ", "\nAnswer:"),
    "race": (prompts.RACE, "Article: ", "\nAnswer:"),
    "hellaswag": (prompts.HELLASWAG, "Context: ", "\nAnswer:"),
}


def release_items(task: str) -> list[Item]:
    return read_items(benchmarks() / f"{task}.jsonl", DEFINITIONS[task].needs_choices)


def question_of(task: str, item: Item) -> str:
    """What the prompt holds between the task's fixed texts, options taken off."""
    prefix, begin, end = FORMS[task]
    options = "".join(
        f"\n({letter}) {choice}" for letter, choice in zip("ABCD", item.choices or [], strict=False)
    )
    tail = ("\nOptions:" if task == "race" else "") + options + end
    assert item.prompt.startswith(prefix + begin)
    assert item.prompt.endswith(tail)
    return item.prompt[len(prefix + begin) : len(item.prompt) - len(tail)]


def race(question: str, item: Item) -> Fields:
    article, _, asked = question.rpartition(". ")  # any space: the prompt joins the two with one
    if not article:
        article, _, asked = question.partition(" ")
        return {"article": article, "question": asked, "options": item.choices}
    return {"article": article + ".", "question": asked, "options": item.choices}


def story_cloze(question: str, item: Item) -> Fields:
    words = question.split(" ")
    sentences = [*words[:3], " ".join(words[3:])]  # anything that one space joins
    parts = {f"input_sentence_{place}": text for place, text in enumerate(sentences, start=1)}
    first, second = item.choices or []
    return parts | {"sentence_quiz1": first, "sentence_quiz2": second}


def squad(question: str, item: Item) -> Fields:
    context, asked = question.split("\nQuestion: ")
    answers = {"text": [item.answer, "other"], "answer_start": [0, 0]}
    return {"id": item.id, "context": context, "question": asked, "answers": answers}


def siqa(question: str, item: Item) -> Fields:
    lettered = zip(("answerA", "answerB", "answerC"), item.choices or [], strict=True)
    return {"context": "Not shown.", "question": question, **dict(lettered)}


def obqa(question: str, item: Item) -> Fields:
    return {"question_stem": question, "choices": {"text": item.choices, "label": list("ABCD")}}


TAKEN_APART: dict[str, Callable[[str, Item], Fields]] = {
    "lambada": lambda question, item: {"text": f"{question} {item.answer}"},
    "mmlu": lambda question, item: {"question": question, "choices": item.choices},
    "siqa": siqa,
    "squad": squad,
    "story_cloze": story_cloze,
    "obqa": obqa,
    "race": race,
    "hellaswag": lambda question, item: {"ctx": question, "endings": item.choices},
}
TRUTH: dict[str, Callable[[int], Fields]] = {
    "mmlu": lambda place: {"answer": place},
    "siqa": lambda place: {"label": str(place + 1)},
    "story_cloze": lambda place: {"answer_right_ending": place + 1},
    "obqa": lambda place: {"answerKey": "ABCD"[place]},
    "race": lambda place: {"answer": "ABCD"[place]},
    "hellaswag": lambda place: {"label": str(place)},
}


@pytest.mark.parametrize("task", FORMS)
def test_every_item_of_the_release_is_built_again_to_the_letter(task: str) -> None:
    items = release_items(task)
    assert len(items) == {"story_cloze": 468, "obqa": 500}.get(task, 1000)
    for item in items:
        record = TAKEN_APART[task](question_of(task, item), item)
        if item.choices is not None:
            record |= TRUTH[task](item.choices.index(item.answer))
        assert DEFINITIONS[task].item(record, int(item.id) if task != "squad" else 0) == item


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
