"""Scoring of generations: the release's numbers, each rule, and files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cola.errors import SpecError
from cola.evaluation.few_shot.answers import chosen_option, cut, normalise
from cola.evaluation.few_shot.definitions import task_named
from cola.evaluation.few_shot.scoring import (
    compare_paired,
    score_item,
    score_task,
)
from cola.evaluation.few_shot.sources import load_items
from cola.evaluation.items import Item, read_generations, read_items, write_items
from sweeps.cli import app
from tests.unit.evaluation.made_up import CHOICE_TASKS, GENERATIONS, made_up_items

CHOICES = ["the red house", "a blue boat", "cats", "green"]


@pytest.mark.parametrize("task", GENERATIONS)
def test_generations_score_by_the_releases_rules(task: str, tmp_path: Path) -> None:
    items, right = made_up_items(task), [correct for _, correct in GENERATIONS[task]]
    outputs = {i.id: text for i, (text, _) in zip(items, GENERATIONS[task], strict=True)}
    found = score_task(task, items, outputs, matching="release")
    assert [score.correct for score in found.per_item] == right
    # The command, by way of files.
    write_items(tmp_path / "items.jsonl", items)
    lines = [json.dumps({"id": id, "generation": text}) for id, text in outputs.items()]
    (tmp_path / "outputs.jsonl").write_text("\n".join(lines))
    files = ("--items", str(tmp_path / "items.jsonl"), "--generations")
    command = ["score", "--task", task, *files, str(tmp_path / "outputs.jsonl"), "--json"]
    command += ["--matching", "release"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    shown = json.loads(done.stdout)
    assert (shown["accuracy"], shown["missing"]) == (found.accuracy, 0)
    assert found.accuracy == pytest.approx(100 * sum(right) / len(right))


@pytest.mark.parametrize("task", CHOICE_TASKS)
def test_every_true_answer_is_right(task: str) -> None:
    items = made_up_items(task)
    as_text = score_task(task, items, {item.id: f" {item.answer}\n\nMore" for item in items})
    assert as_text.accuracy == 100.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", 1),
        (" (b).", 1),
        ("[C]", 2),
        ("The final answer is D", 3),
        ("option: A, because of the sea", 0),
        ("It must be (B)", 1),
        ("(A) or rather (C)", 2),
        ("a blue boat", 1),
        ("The correct answer is: A Blue Boat!", 1),
        ("They saw a blue boat on the river and nothing else there", 1),
        ("the red houze", 0),
        ("first (A), but the answer: cats", 2),
        ("E", None),
        ("", None),
        ("something else", None),
    ],
)
def test_the_chosen_option(text: str, expected: int | None) -> None:
    assert chosen_option(text, CHOICES) == expected


def test_two_contained_options_choose_none() -> None:
    assert chosen_option("we saw cats in a blue boat, and a long road behind it", CHOICES) is None


def test_a_generation_is_cut_behind_its_first_line_with_a_word() -> None:
    assert cut("\n \n. \n yes\nno") == "\n \n. \n yes"
    assert cut("yes") == "yes"


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@given(st.text(), st.lists(st.text(), min_size=2, max_size=5))
def test_any_text_has_an_option_or_none(text: str, choices: list[str]) -> None:
    found = chosen_option(text, choices)
    assert found is None or 0 <= found < len(choices)


def test_what_is_missing_or_empty_is_wrong_and_counted() -> None:
    items = [Item(id=n, prompt="", answer="sign") for n in range(4)]
    found = score_task("lambada", items, {0: " Sign of life", 1: "", 2: "signs"})
    assert (found.accuracy, found.valid, found.missing) == (25.0, 50.0, 1)
    assert found.accuracy_given_valid == 50.0
    assert found.chance is None


def test_position_bias_and_chance() -> None:
    items = [Item(id=n, prompt="", answer="xyz"[n], choices=["x", "y", "z"]) for n in range(3)]
    always = score_task("obqa", items, dict.fromkeys(range(3), "(A)"))
    assert always.position_bias == pytest.approx(200 / 3)
    assert always.chance == pytest.approx(100 / 3)
    assert always.accuracy == pytest.approx(100 / 3)


def test_paired_comparison_looks_at_items_that_differ() -> None:
    items = [Item(id=n, prompt="", answer="yes") for n in range(20)]
    first = score_task("lambada", items, dict.fromkeys(range(20), "yes"))
    second = score_task("lambada", items, {n: "yes" if n < 10 else "no" for n in range(20)})
    paired = compare_paired(first, second)
    assert (paired.difference, paired.only_first, paired.only_second) == (50.0, 10, 0)
    assert paired.p_value == pytest.approx(2 / 2**10)
    low, high = paired.difference_interval
    assert 20 < low < 50 < high < 80
    same = compare_paired(first, first)
    assert same.p_value == 1.0
    assert same.difference_interval == pytest.approx((-16.1, 16.1), abs=0.1)


@pytest.mark.parametrize(
    ("task", "answer", "generation", "right"),
    [
        ("squad", "1.5", "15", False),
        ("squad", "1.5", " 1.5.", True),
        ("squad", "-3", "3", False),
        ("squad", "$1,500", "$1500", True),
        ("squad", "2e10", "210", False),
        ("squad", "the 3rd", "The 3rd!", True),
        ("lambada", "1.5", "15 m", False),
        ("lambada", "-3", "-3, he said", True),
        ("lambada", "mother's", "mothers", True),
    ],
)
def test_numbers_of_free_text_keep_their_signs_and_points(
    task: str, answer: str, generation: str, right: bool
) -> None:
    items = [Item(id=1, prompt="", answer=answer)]
    assert (score_task(task, items, {1: generation}).accuracy == 100.0) is right


def test_endings_that_differ_in_punctuation_are_different() -> None:
    choices = ["He left; she stayed.", "He left. She stayed."]
    item = Item(id=1, prompt="", answer=choices[0], choices=choices)
    for text, right, tie in ((choices[0], 1, 0), (choices[1], 0, 0), ("he left she stayed", 0, 1)):
        found = score_task("hellaswag", [item], {1: text})
        assert (found.accuracy, found.ties) == (100.0 * right, tie)


def test_the_share_that_the_release_decides_by_letters_and_substrings_is_shown(
    tmp_path: Path,
) -> None:
    choices = ["a sieve", "6", "cats", "green"]
    items = [Item(id=n, prompt="", answer="cats", choices=choices) for n in range(4)]
    texts = ["The answer is a tool", "I counted 16 of them", "cats", "green cats"]
    found = score_task("obqa", items, dict(enumerate(texts)))
    assert (found.accuracy, found.valid, found.ties) == (25.0, 25.0, 1)
    assert (found.release.letters, found.release.substrings) == (25.0, 25.0)
    assert (found.release.accuracy, found.release.valid) == (25.0, 75.0)
    write_items(tmp_path / "i.jsonl", items)
    lines = [json.dumps({"id": str(n), "generation": text}) for n, text in enumerate(texts)]
    (tmp_path / "g.jsonl").write_text("\n".join([*lines, '{"id": 9, "generation": "x"}']))
    files = ["--items", str(tmp_path / "i.jsonl"), "--generations", str(tmp_path / "g.jsonl")]
    shown = CliRunner().invoke(app, ["score", "--task", "obqa", *files]).stdout
    assert "matching strict" in shown
    assert "by a letter in 25.00% of the items and by a substring in 25.00%" in shown
    assert "1 generations fit several options and choose none" in shown
    assert "1 generations are of no item and are left out" in shown
    as_json = json.loads(
        CliRunner().invoke(app, ["score", "--task", "obqa", *files, "--json"]).stdout
    )
    assert as_json["release"]["letters"] == 25.0
    assert (as_json["ties"], as_json["extra"], as_json["found_by"]) == (1, 1, {"exact": 1})


def test_an_answer_that_is_no_option_is_refused(tmp_path: Path) -> None:
    items = [Item(id=3, prompt="", answer="B", choices=["x", "y"])]
    write_items(tmp_path / "obqa.jsonl", items)
    with pytest.raises(SpecError, match="item 3: answer 'B' is none of its choices"):
        load_items("obqa", tmp_path)


def test_siqa_with_context_scores_as_siqa() -> None:
    item = Item(id=1, prompt="", answer=CHOICES[1], choices=CHOICES)
    for text in ("(B)", " a blue boat\n", "the red houze", "nothing"):
        assert score_item(task_named("siqa_context").rule, item, text) == score_item(
            task_named("siqa").rule, item, text
        )


def test_the_sentences_show_f1_and_the_interval(tmp_path: Path) -> None:
    items = [Item(id=n, prompt="", answer="Rome", answers=["Rome", "in Rome"]) for n in range(2)]
    write_items(tmp_path / "squad_f1.jsonl", items)
    ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"
    ours.write_text('{"id": 0, "generation": "Rome"}\n{"id": 1, "generation": "Rome, Italy"}\n')
    theirs.write_text('{"id": 0, "generation": "Paris"}\n{"id": 1, "generation": "Paris"}\n')
    arguments = ["--task", "squad_f1", "--items", str(tmp_path), "--generations", str(ours)]
    command = ["score", *arguments, "--against", str(theirs)]
    shown = CliRunner().invoke(app, command, catch_exceptions=False).stdout
    assert "accuracy 50.00%" in shown
    assert "F1 83.33%" in shown
    assert "difference +50.00 points [-48.64, +90.55] (95% paired score interval)" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1, "prompt": "a"}', "line 1: answer: field required"),
        ('{"id": 1, "prompt": "a", "answer": "b"}\n{oops', "line 2: not JSON"),
        ('{"id": 1, "prompt": "a", "answer": "b"}\n' * 2, "line 2: id 1 is there twice"),
        ("[1]", "line 1: the line: input should be"),
        ("\n", "holds no line"),
        ('{"id": 1, "prompt": "a", "answer": "b"}', "item 1 needs at least two `choices`"),
    ],
)
def test_files_that_are_wrong_say_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_items(path, needs_choices=True)
    assert message in str(caught.value)


def test_a_missing_file_and_other_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_generations(tmp_path / "none.jsonl")
    with pytest.raises(SpecError, match="no id is one of the items'"):
        score_task("lambada", [Item(id=1, prompt="", answer="a")], {2: "a"})
    with pytest.raises(SpecError, match="unknown; valid: hellaswag, lambada"):
        score_task("arc", [Item(id=1, prompt="", answer="a")], {1: "a"})


@pytest.mark.parametrize("option", ["--items", "--generations", "--against"])
def test_answers_are_not_written_over_what_is_read(option: str, tmp_path: Path) -> None:
    items = made_up_items("mmlu")
    paths = {name: tmp_path / f"{name.strip('-')}.jsonl" for name in ("--items", "--generations")}
    paths["--against"] = tmp_path / "against.jsonl"
    write_items(paths["--items"], items)
    lines = [json.dumps({"id": item.id, "generation": item.answer}) + "\n" for item in items]
    for name in ("--generations", "--against"):
        paths[name].write_text("".join(lines))
    before = paths[option].read_bytes()
    arguments = [part for name, path in paths.items() for part in (name, str(path))]
    asked = ["score", "--task", "mmlu", *arguments, "--per-item", str(paths[option])]
    with pytest.raises(SpecError, match="is a file that is read"):
        CliRunner().invoke(app, asked, catch_exceptions=False, standalone_mode=False)
    assert paths[option].read_bytes() == before


def test_a_cut_takes_no_square_of_the_number_of_lines() -> None:
    assert cut("\n" * 200_000 + "red\nblue") == "\n" * 200_000 + "red"
    assert cut(" \n " * 3) == " \n " * 3
