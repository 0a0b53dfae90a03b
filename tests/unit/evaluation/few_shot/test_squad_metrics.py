"""SQuAD's exact match and F1: values worked out by hand, and the published definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.evaluation.few_shot.definitions import task_named
from cola.evaluation.few_shot.scoring import score_item, score_task
from cola.evaluation.few_shot.squad_metrics import squad_exact_match, squad_f1, squad_words
from cola.evaluation.items import Item

ANSWERS = ["Denver Broncos", "The Denver Broncos", "Broncos of Denver, Colorado"]


def test_words_are_without_case_articles_and_ascii_punctuation() -> None:
    assert squad_words("The  cat's “A” (an) hat-trick, 15–1!") == [
        "cats",
        "“",
        "”",
        "hattrick",
        "15–1",
    ]
    assert squad_words("theatre an-other a") == ["theatre", "another"]


@pytest.mark.parametrize(
    ("given_text", "exact", "f1"),
    [
        (" the denver BRONCOS.", True, 1.0),
        ("Denver", False, 2 / 3),  # precision 1, recall 1/2
        ("Denver Denver", False, 1 / 2),  # a word counts as often as in both: 1 of 2, 1 of 2
        ("Broncos of Denver", False, 6 / 7),  # the third: precision 1, recall 3/4
        ("Broncos Denver", False, 1.0),  # order counts for exact match alone
        ("Carolina", False, 0.0),
        ("the", False, 0.0),
        ("", False, 0.0),
    ],
)
def test_the_nearest_answer_counts(given_text: str, exact: bool, f1: float) -> None:
    assert squad_exact_match(given_text, ANSWERS) is exact
    assert squad_f1(given_text, ANSWERS) == pytest.approx(f1)


WORDS = st.lists(st.sampled_from(["red", "blue", "green", "sea"]), max_size=6)


@given(WORDS, WORDS)
def test_f1_is_the_mean_of_precision_and_recall(ours: list[str], theirs: list[str]) -> None:
    left, shared = list(theirs), 0
    for word in ours:
        if word in left:
            left.remove(word)
            shared += 1
    found = squad_f1(" ".join(ours), [" ".join(theirs)])
    if shared == 0:
        assert found == 0.0
    else:
        precision, recall = shared / len(ours), shared / len(theirs)
        assert found == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_task_reports_f1_beside_exact_match() -> None:
    items = [Item(id=n, prompt="", answer=ANSWERS[0], answers=ANSWERS) for n in range(4)]
    outputs = {0: " The Denver Broncos\nin 2015", 1: " Denver\n", 2: ""}
    found = score_task("squad_f1", items, outputs)
    assert (found.accuracy, found.valid, found.missing) == (25.0, 50.0, 1)
    assert found.f1 == pytest.approx(100 * (1 + 2 / 3) / 4)
    assert found.summary()["f1"] == found.f1
    assert [score.f1 for score in found.per_item] == pytest.approx([1, 2 / 3, 0, 0])


def test_the_released_rule_knows_one_answer_and_no_f1() -> None:
    item = Item(id=1, prompt="", answer=ANSWERS[0], answers=ANSWERS)
    released = score_item(task_named("squad").rule, item, "The Denver Broncos")
    assert (released.correct, released.f1) == (False, None)
    assert score_item(task_named("squad_f1").rule, item, "The Denver Broncos").correct
