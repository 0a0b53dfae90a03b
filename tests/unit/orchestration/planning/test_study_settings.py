"""Settings of a study, each with its effect on the plan or on a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.data import prepare
from cola.errors import SpecError
from cola.evaluation.items import Item, write_items
from cola.families.registry import family_of
from cola.study import EvaluationSpec, StudySpec
from orchestration.driver.attempt import assignment_of
from orchestration.planning.corpus_size import CorpusSize
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.plan_summary import Plan, matching_sentences
from orchestration.planning.shared_prefixes import PrefixPlan
from orchestration.training.task_items import check_items, item_loader
from orchestration.training.train_loop import initial_model
from orchestration.training.validation import diagnostics, evaluation_steps
from orchestration.worker.worker import checkpoint_points


def plan(values: dict[str, Any], **changes: Any) -> list[PlannedRun]:
    return plan_study(StudySpec.parse(values | changes))


def test_a_power_law_grows_with_the_budget_by_its_exponent(tiny_study: dict[str, Any]) -> None:
    ladder = [{"budget": budget, "core_parameters": 60_000} for budget in (1e11, 8e11)]
    rule = {"kind": "power_law", "coefficient": 1e-3, "budget_exponent": -1 / 3}
    runs = plan(tiny_study, ladder=ladder, rules={"learning_rate": rule})
    rates = {run.spec.budget: run.spec.training.optimizer.learning_rate for run in runs}
    assert rates[1e11] == pytest.approx(1e-3 * (1e11 / 1e15) ** (-1 / 3))
    assert rates[1e11] / rates[8e11] == pytest.approx(2.0)


@pytest.mark.parametrize(("multiple", "sequences"), [(1, 27), (8, 24), (10, 30), (100, 100)])
def test_a_batch_by_rule_is_the_nearest_multiple_that_is_not_zero(
    tiny_study: dict[str, Any], multiple: int, sequences: int
) -> None:
    rule = {"kind": "power_law", "coefficient": 27 * 32}  # tokens: 27 sequences of 32
    runs = plan(
        tiny_study,
        ladder=[{"budget": 1e12, "core_parameters": 60_000}],
        rules={"batch_tokens": rule, "batch_multiple": multiple},
    )
    assert {run.spec.training.batch_sequences for run in runs} == {sequences}


def test_the_plan_says_how_settings_were_tuned(tiny_study: dict[str, Any]) -> None:
    sentences, keys = {}, set()
    for tuning in ("none", "equal_trials", "unequal"):
        study = StudySpec.parse(tiny_study | {"matching": {"tuning": tuning}})
        runs = plan_study(study)
        keys |= {run.key for run in runs}
        sentences[tuning] = "\n".join(
            matching_sentences(Plan.of(study, runs, CorpusSize(None, False), rates={}))
        )
    assert all("Tuning: not measured; the author's word" in text for text in sentences.values())
    assert "no family's settings were tuned" in sentences["none"]
    assert "tuned with equally many trials" in sentences["equal_trials"]
    assert "NOT tuned with equal effort" in sentences["unequal"]
    assert len(keys) == len(runs)  # it is a statement: no run is another one for it


@pytest.mark.parametrize("kept", [{}, {"keep_best": True}, {"keep_points": True}])
def test_evaluation_points_are_saved_where_they_may_be_kept(
    tiny_study: dict[str, Any], kept: dict[str, bool], tmp_path: Path
) -> None:
    tiny_study["evaluation"]["points"] = 3
    study = StudySpec.parse(tiny_study | {"checkpoint": kept})
    run = plan_study(study)[0]
    given = assignment_of(
        run,
        study,
        tmp_path,
        data_folder=tmp_path,
        attempt=1,
        prefixes=PrefixPlan(),
        preemptible=False,
    )
    expected = frozenset(evaluation_steps(run.spec)) if kept else frozenset()
    assert len(expected) == (3 if kept else 0)
    assert checkpoint_points(given) == expected


@pytest.fixture(scope="module")
def cola_run(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A planned run of Cola DLM and its data."""
    study = StudySpec.parse(
        {
            "name": "tiny",
            "families": {"cola": {"latent_dim": 4, "block_size": 8}},
            "ladder": [{"budget": 1e10, "core_parameters": 60_000}],
            "data": {
                "corpus": {"source": "files", "paths": [str(corpus_file)]},
                "tokenizer": {"kind": "bpe", "vocab_size": 320},
                "sequence_length": 32,
                "validation_fraction": 0.1,
            },
            "evaluation": {"samples": 0, "prompt_tokens": 8},
        }
    )
    return plan_study(study)[0].spec, prepare(study.data, tmp_path_factory.mktemp("cache"))


def test_diagnostics_are_of_the_first_sequences_and_none_of_fewer_than_two(cola_run: Any) -> None:
    run, data = cola_run
    family = family_of(run.family)
    model = initial_model(family, run)

    def found(count: int) -> dict[str, float]:
        evaluation = run.evaluation.model_copy(update={"diagnostic_sequences": count})
        changed = run.model_copy(update={"evaluation": evaluation})
        return diagnostics(family, model, changed, data=data)

    assert found(0) == found(1) == {}
    few, more = found(4), found(16)
    assert few.keys() == more.keys()
    assert few
    assert few != more


def test_items_of_few_shot_tasks_are_read_from_the_task_folder(tmp_path: Path) -> None:
    items = [Item(id=str(number), prompt=f"{number} and", answer="one") for number in range(3)]
    write_items(tmp_path / "lambada.jsonl", items)
    asked = {"tasks": ["lambada"], "task_folder": str(tmp_path), "task_items": 2}
    first = EvaluationSpec.parse(asked | {"task_selection": "first"})
    assert [item.id for item in item_loader(first, 0)("lambada")] == ["0", "1"]
    drawn = {tuple(i.id for i in item_loader(EvaluationSpec.parse(asked), seed)("lambada"))
             for seed in range(20)}  # fmt: skip
    assert len(drawn) == 3
    check_items(EvaluationSpec(tasks=("lambada",), task_folder=str(tmp_path)))
    with pytest.raises(SpecError, match=r"evaluation.task_folder .*squad.jsonl"):
        check_items(EvaluationSpec(tasks=("squad",), task_folder=str(tmp_path)))
