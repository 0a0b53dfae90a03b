"""Few-shot items taken apart into the public records that they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cola.evaluation.few_shot import prompts
from cola.evaluation.few_shot.definitions import DEFINITIONS
from cola.evaluation.items import Item

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


def built_again(task: str, item: Item) -> Item:
    """The item that the task's definition makes of the record behind `item`.

    Raises:
        AssertionError: when the prompt is not of the task's form.
    """
    record = _TAKEN_APART[task](question_of(task, item), item)
    if item.choices is not None:
        record |= _TRUTH[task](item.choices.index(item.answer))
    return DEFINITIONS[task].item(record, int(item.id) if task != "squad" else 0)


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


def _race(question: str, item: Item) -> Fields:
    article, _, asked = question.rpartition(". ")  # any space: the prompt joins the two with one
    if not article:
        article, _, asked = question.partition(" ")
        return {"article": article, "question": asked, "options": item.choices}
    return {"article": article + ".", "question": asked, "options": item.choices}


def _story_cloze(question: str, item: Item) -> Fields:
    words = question.split(" ")
    sentences = [*words[:3], " ".join(words[3:])]  # anything that one space joins
    parts = {f"input_sentence_{place}": text for place, text in enumerate(sentences, start=1)}
    first, second = item.choices or []
    return parts | {"sentence_quiz1": first, "sentence_quiz2": second}


def _squad(question: str, item: Item) -> Fields:
    context, asked = question.split("\nQuestion: ")
    answers = {"text": [item.answer, "other"], "answer_start": [0, 0]}
    return {"id": item.id, "context": context, "question": asked, "answers": answers}


def _siqa(question: str, item: Item) -> Fields:
    lettered = zip(("answerA", "answerB", "answerC"), item.choices or [], strict=True)
    return {"context": "Not shown.", "question": question, **dict(lettered)}


def _obqa(question: str, item: Item) -> Fields:
    return {"question_stem": question, "choices": {"text": item.choices, "label": list("ABCD")}}


_TAKEN_APART: dict[str, Callable[[str, Item], Fields]] = {
    "lambada": lambda question, item: {"text": f"{question} {item.answer}"},
    "mmlu": lambda question, item: {"question": question, "choices": item.choices},
    "siqa": _siqa,
    "squad": _squad,
    "story_cloze": _story_cloze,
    "obqa": _obqa,
    "race": _race,
    "hellaswag": lambda question, item: {"ctx": question, "endings": item.choices},
}
_TRUTH: dict[str, Callable[[int], Fields]] = {
    "mmlu": lambda place: {"answer": place},
    "siqa": lambda place: {"label": str(place + 1)},
    "story_cloze": lambda place: {"answer_right_ending": place + 1},
    "obqa": lambda place: {"answerKey": "ABCD"[place]},
    "race": lambda place: {"answer": "ABCD"[place]},
    "hellaswag": lambda place: {"label": str(place)},
}
