"""An evaluation that is cut off, gone on with, and of folders that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cola.errors import SpecError
from cola.evaluation.items import Id, Item
from cola.evaluation.models.evaluated_model import EvaluatedModel, open_evaluated_model
from cola.evaluation.tasks.answer_log import ItemLog
from cola.evaluation.tasks.continuations import continuations
from cola.evaluation.tasks.evaluate import answer_locally, evaluate_tasks
from cola.evaluation.tasks.task import Record, Task, sample_id
from cola.evaluation.tasks.text_task import TextTask
from cola.evaluation.tasks.token_tasks import ContinuationTask
from cola.spec import GenerationSpec
from tests.sizes import FAMILIES

GREEDY = GenerationSpec(max_new_tokens=8, steps=4, guidance_scale=1.0)


ABOUT = {"family": "ar", "context": 32, "seed": 0}


class CutOffError(Exception):
    """The process ends here."""


def test_what_was_answered_is_not_asked_again(
    evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray, tmp_path: Path
) -> None:
    task = ContinuationTask(held_out[:10], 12, GREEDY, seed=0)
    whole = list(
        evaluate_tasks(
            [task], answer_locally(evaluated_models["ar"], 4), tmp_path / "whole", about=ABOUT
        )
    )
    asked: list[Id] = []

    def cut_off_after(count: int) -> Any:
        def answers(task: Task, ids: Sequence[Id]) -> Iterator[tuple[Id, Record]]:
            for number, found in enumerate(task.answer(evaluated_models["ar"], ids, 1)):
                if number == count:
                    raise CutOffError
                asked.append(found[0])
                yield found

        return answers

    for count in (3, 4):
        with pytest.raises(CutOffError):
            list(evaluate_tasks([task], cut_off_after(count), tmp_path / "parts", about=ABOUT))
    parts = list(evaluate_tasks([task], cut_off_after(99), tmp_path / "parts", about=ABOUT))
    assert sorted(asked, key=int) == list(range(10))
    assert parts == whole
    (kept,) = (tmp_path / "parts").glob("*.json")
    assert json.loads(kept.read_text()) == ABOUT | parts[0].as_json()
    assert list(evaluate_tasks([task], cut_off_after(0), tmp_path / "parts", about=ABOUT)) == whole


def test_other_settings_are_other_answers(held_out: np.ndarray) -> None:
    def digest(**changes: Any) -> str:
        return ContinuationTask(held_out, 12, GREEDY.model_copy(update=changes), seed=0).digest

    assert digest() == digest()
    assert len({digest(), digest(steps=5), digest(temperature=0.5), digest(max_new_tokens=7)}) == 4
    assert ContinuationTask(held_out[:5], 12, GREEDY, seed=0).digest != digest()
    assert ContinuationTask(held_out, 12, GREEDY, seed=1).digest != digest()


@pytest.mark.parametrize("torn", [b'{"id": 2, "rec', b'{"id": 2, "record": {}}', b"\xff\n"])
def test_a_line_that_was_cut_off_is_dropped(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    with ItemLog(path) as log:
        log.append(1, {"nll": 0.5})
        log.append("b", {"nll": 1.5})
    path.write_bytes(path.read_bytes() + torn)
    with ItemLog(path) as log:
        assert log.records == {1: {"nll": 0.5}, "b": {"nll": 1.5}}
        log.append(2, {"nll": 2.5})
    with ItemLog(path) as log:
        assert log.records == {1: {"nll": 0.5}, "b": {"nll": 1.5}, 2: {"nll": 2.5}}


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_beyond_the_context_lose_their_beginning(
    name: str, evaluated_models: dict[str, EvaluatedModel]
) -> None:
    evaluated = evaluated_models[name]
    long, short = list(range(1, 60)), list(range(1, 20))
    prompts: dict[Id, list[int]] = {"long": long, "short": short, "cut": long[-24:], "none": []}
    found = dict(continuations(evaluated, prompts, GREEDY, seed=0, rows=2))
    assert {item: made.cut_tokens for item, made in found.items()} == {
        "long": 59 - (32 - 8),
        "short": 0,
        "cut": 0,
        "none": 0,
    }
    if name == "ar":  # greedy: the same prompt has the same continuation
        assert found["long"].tokens == found["cut"].tokens
    wide = GREEDY.model_copy(update={"max_new_tokens": 32})
    with pytest.raises(SpecError, match="leaves no room"):
        list(continuations(evaluated, prompts, wide, seed=0, rows=2))


def test_empty_generations_are_misses(evaluated_models: dict[str, EvaluatedModel]) -> None:
    items = [Item(id=i, prompt="The lamp", answer="lamp", choices=["a", "b"]) for i in range(3)]
    task = TextTask("lambada", "first_word", items, settings=GREEDY, seed=0)
    records = {
        0: {"generation": "", "cut_tokens": 0},
        1: {"generation": " lamp.", "cut_tokens": 3},
        2: {"generation": "\n\n", "cut_tokens": 0},
    }
    found = task.summary(records)
    assert found.metrics["accuracy"] == pytest.approx(1 / 3)
    assert found.metrics["valid"] == pytest.approx(1 / 3)
    assert found.details["prompts_cut"] == 1
    assert found.details["generation"]["max_new_tokens"] == 8


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plain_folder_is_opened_again(
    name: str, evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray, tmp_path: Path
) -> None:
    evaluated = evaluated_models[name]
    evaluated.family.save(evaluated.model, tmp_path)
    with pytest.raises(SpecError, match="without its tokenizer"):
        open_evaluated_model(tmp_path, None)
    evaluated.tokenizer.save(tmp_path)
    opened = open_evaluated_model(tmp_path, 32)
    assert opened.family.name == name
    task = ContinuationTask(held_out[:3], 12, GREEDY, seed=0)
    assert dict(task.answer(opened, task.ids(), 3)) == dict(task.answer(evaluated, task.ids(), 3))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(SpecError, match="names no eos_token"):
        open_evaluated_model(tmp_path, None)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    for content in (None, "[]", '{"model_type": "gpt2"}'):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(SpecError, match="no model that can be evaluated"):
            open_evaluated_model(tmp_path, None)


def test_draws_are_keyed_by_the_item() -> None:
    assert sample_id(7) == 7
    assert sample_id("56be4db0") == sample_id("56be4db0") != sample_id("56be4db1")
    assert 0 <= sample_id("x") < 2**63
