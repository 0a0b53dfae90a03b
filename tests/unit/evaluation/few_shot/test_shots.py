"""k-shot prompts: demonstrations in place of a task's own ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from cola.errors import SpecError
from cola.evaluation.few_shot.definitions import DEFINITIONS
from cola.evaluation.few_shot.prompts import OBQA, RACE_INSTRUCTION, with_options
from cola.evaluation.few_shot.shots import Shots, bare
from cola.evaluation.few_shot.sources import Hub
from cola.evaluation.items import Item, write_items
from cola.evaluation.tasks.catalog import make_tasks
from cola.study import EvaluationSpec
from orchestration.training.task_items import item_loader
from tests.unit.evaluation.made_up import made_up_items

OPTION = "--task-folder"


def question(number: int, stratum: str | None = None, prefix: str = OBQA) -> Item:
    text = with_options(f"Question: What is {number}?", [f"a{number}", "other"])
    choices = [f"a{number}", "other"]
    return Item(
        id=number, prompt=prefix + text, answer=f"a{number}", choices=choices, stratum=stratum
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two items, and four demonstrations of three strata, one of which is asked too."""
    write_items(tmp_path / "obqa.jsonl", [question(1, "x"), question(2, "z")])
    given = [question(3, "x"), question(4, "x", prefix=""), question(5, "y"), question(1, "x")]
    for number, item in enumerate(given, start=100):
        given[number - 100] = item.model_copy(update={"id": number})
    write_items(tmp_path / "obqa.train.jsonl", given)
    return tmp_path


@pytest.mark.parametrize("task", [name for name in DEFINITIONS if DEFINITIONS[name].prefix])
def test_a_prompts_own_demonstrations_are_found(task: str) -> None:
    definition = DEFINITIONS[task]
    assert definition.prefix.startswith(definition.instruction)
    if task in ("squad_f1", "siqa_context"):
        return  # as squad and siqa, of which made-up items are
    for item in made_up_items(task):
        assert item.prompt.startswith(definition.prefix)
        assert "\n\n" not in bare(definition, item)


def test_demonstrations_stand_before_the_item(folder: Path) -> None:
    items = [question(1, "x"), question(2, "z")]
    first, second = Shots(2, 0).prompted("obqa", items, folder, option=OPTION)
    own = with_options("Question: What is 1?", ["a1", "other"])
    *shown, last = first.prompt.split("\n\n")
    assert last == own
    # Of its own stratum, which has two that are not asked; each with its answer behind the cue.
    assert sorted(shown) == [
        with_options(f"Question: What is {n}?", [f"a{n}", "other"]) + f" a{n}" for n in (3, 4)
    ]
    assert second.prompt.count("\n\n") == 2  # of a stratum without demonstrations: of any
    assert Shots(2, 0).prompted("obqa", items, folder, option=OPTION)[0] == first
    (none, _) = Shots(0, 0).prompted("obqa", items, folder / "nowhere", option=OPTION)
    assert none.prompt == own


def test_an_instruction_stays() -> None:
    (item, _) = Shots(0, 0).prompted("race", made_up_items("race"), Path(), option=OPTION)
    assert item.prompt.startswith(f"{RACE_INSTRUCTION}Article: Tove keeps bees.")


def test_what_has_no_demonstrations_is_refused_by_name(folder: Path) -> None:
    items = [question(1)]
    with pytest.raises(SpecError, match=r"obqa: evaluation.shots=4, but --task-folder has 3"):
        Shots(4, 0).prompted("obqa", items, folder, option=OPTION)
    with pytest.raises(SpecError, match=r"hellaswag: .* needs demonstrations in .*train\.jsonl"):
        Shots(1, 0).prompted("hellaswag", items, folder, option=OPTION)
    with pytest.raises(SpecError, match=r"lambada: .* has no training split"):
        Shots(1, 0).prompted("lambada", items, Hub(), option=OPTION)


def test_shots_are_in_the_results_name_and_not_in_keys_of_other_runs(folder: Path) -> None:
    settings = EvaluationSpec.parse({"tasks": ["obqa"], "task_folder": str(folder), "shots": 3})
    (task,) = make_tasks(settings, None, item_loader(settings, 0), seed=0, context=None)
    assert task.name == "obqa-3shot"
    assert "shots" not in EvaluationSpec().model_dump()
    with pytest.raises(SpecError, match="less than or equal to 5"):
        EvaluationSpec.parse({"shots": 6})
