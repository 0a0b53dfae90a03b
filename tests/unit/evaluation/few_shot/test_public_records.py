"""One hand-written record of each public schema, and the whole prompt that comes of it."""

from __future__ import annotations

from typing import Any

import pytest

from cola.evaluation.few_shot import prompts
from cola.evaluation.few_shot.definitions import DEFINITIONS

SOCIAL = {
    "context": "Ann lost her keys.",
    "question": "What will Ann do?",
    "answerA": "look",
    "answerB": "sleep",
    "answerC": "sing",
    "label": "1",
}
SQUAD = {
    "id": "5a",
    "title": "Tea",
    "context": "Tea came in 1610.",
    "question": "When did it come?",
    "answers": {"text": ["1610", "in 1610", "1610"], "answer_start": [12, 9, 12]},
}
RECORDS: dict[str, tuple[dict[str, Any], str, str, list[str] | None]] = {
    "lambada": (
        {"text": 'She called,\n\n"Come in," and then "Bob', "domain": None},
        'She called,\n\n"Come in," and then',
        '"Bob',
        None,
    ),
    "mmlu": (
        {"question": " What is 2+2?", "subject": "m", "choices": ["1", "4", "5", "6"], "answer": 1},
        prompts.MMLU + "Question:  What is 2+2?\n(A) 1\n(B) 4\n(C) 5\n(D) 6\nAnswer:",
        "4",
        ["1", "4", "5", "6"],
    ),
    "siqa": (
        SOCIAL,
        prompts.SIQA + "Question: What will Ann do?\n(A) look\n(B) sleep\n(C) sing\nAnswer:",
        "look",
        ["look", "sleep", "sing"],
    ),
    "siqa_context": (
        SOCIAL,
        prompts.SIQA
        + "Question: Ann lost her keys. What will Ann do?\n(A) look\n(B) sleep\n(C) sing\nAnswer:",
        "look",
        ["look", "sleep", "sing"],
    ),
    "squad": (
        SQUAD,
        prompts.SQUAD + "Context: Tea came in 1610.\nQuestion: When did it come?\nAnswer:",
        "1610",
        None,
    ),
    "squad_f1": (
        SQUAD,
        prompts.SQUAD + "Context: Tea came in 1610.\nQuestion: When did it come?\nAnswer:",
        "1610",
        None,
    ),
    "story_cloze": (
        {
            "story_id": "x",
            "input_sentence_1": "One.",
            "input_sentence_2": "Two.",
            "input_sentence_3": "Three.",
            "input_sentence_4": "Four.",
            "sentence_quiz1": "Six.",
            "sentence_quiz2": "Five.",
            "answer_right_ending": 2,
        },
        prompts.STORY_CLOZE + "Story: One. Two. Three. Four.\n(A) Six.\n(B) Five.\nEnd:",
        "Five.",
        ["Six.", "Five."],
    ),
    "obqa": (
        {
            "id": "7-980",
            "question_stem": "Ice is",
            "choices": {"text": ["hot", "cold", "red", "loud"], "label": ["A", "B", "C", "D"]},
            "answerKey": "B",
        },
        prompts.OBQA + "Question: Ice is\n(A) hot\n(B) cold\n(C) red\n(D) loud\nAnswer:",
        "cold",
        ["hot", "cold", "red", "loud"],
    ),
    "race": (
        {
            "example_id": "high1.txt",
            "article": "Tom ran.\nHe won.",
            "question": "Who won?",
            "options": ["Ann", "Bob", "Eve", "Tom"],
            "answer": "D",
        },
        prompts.RACE + "Article: Tom ran.\nHe won. Who won?\n"
        "Options:\n(A) Ann\n(B) Bob\n(C) Eve\n(D) Tom\nAnswer:",
        "Tom",
        ["Ann", "Bob", "Eve", "Tom"],
    ),
    "hellaswag": (
        {
            "ind": 24,
            "activity_label": "Roof shingle removal",
            "source_id": "wikihow~12",
            "ctx_a": "A man sits on a roof.",
            "ctx_b": "he",
            "ctx": "A man sits on a roof. he",
            "endings": ["sings.", "works.", "flies.", "swims."],
            "label": "1",
        },
        prompts.HELLASWAG + "Context: A man sits on a roof. he\n"
        "(A) sings.\n(B) works.\n(C) flies.\n(D) swims.\nAnswer:",
        "works.",
        ["sings.", "works.", "flies.", "swims."],
    ),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_record_in_the_public_schema_gives_this_item(name: str) -> None:
    record, prompt, answer, choices = RECORDS[name]
    item = DEFINITIONS[name].item(record, 7)
    assert (item.prompt, item.answer, item.choices) == (prompt, answer, choices)
    assert item.id == record["id"] if name.startswith("squad") else item.id == 7
    assert item.answers == (["1610", "in 1610", "1610"] if name == "squad_f1" else None)


def test_stories_without_an_order_of_endings_get_a_fixed_and_even_one() -> None:
    build = DEFINITIONS["story_cloze"].item
    records = [
        {"prompt": f"Story {n}. ", "chosen": " Good.", "rejected": "Bad."} for n in range(400)
    ]
    items = [build(record, n) for n, record in enumerate(records)]
    assert {item.answer for item in items} == {"Good."}
    first = sum((item.choices or [])[0] == "Good." for item in items)
    assert 160 < first < 240  # four standard deviations
    assert items[5].prompt.startswith(prompts.STORY_CLOZE + "Story: Story 5.\n(A) ")
    assert items == [build(record, n) for n, record in enumerate(records)]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mmlu", {"answer": -1}),  # as unlabelled splits have it
        ("hellaswag", {"label": ""}),
        ("siqa", {"label": "4"}),
        ("race", {"answer": "E"}),
        ("obqa", {"answerKey": ""}),
        ("lambada", {"text": "word"}),
        ("squad", {"answers": {"text": [], "answer_start": []}}),
        ("mmlu", {"choices": None}),
    ],
)
def test_a_record_without_a_true_answer_is_no_item(name: str, change: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, IndexError)):
        DEFINITIONS[name].item(RECORDS[name][0] | change, 0)
