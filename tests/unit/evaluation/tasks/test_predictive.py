"""Predictive scores as a task: its prompts, its summary, and what it says of what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cola.data import TextTokenizer
from cola.errors import SpecError
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.evaluation.predictive_scores import brier_of_draws
from cola.evaluation.tasks.catalog import HeldOut, make_tasks
from cola.evaluation.tasks.predictive import PredictiveTask, PromptTexts
from cola.evaluation.tasks.task import TaskResult
from cola.families.interface.family import Family
from cola.seeding import Stream
from cola.spec import GenerationSpec, PredictiveSpec
from cola.study import EvaluationSpec
from tests.sizes import FAMILIES

STEPS = GenerationSpec(steps=2, temperature=0.0, guidance_scale=3.0)


def task_of(
    rows: np.ndarray,
    prompts: int = 6,
    seed: int = 0,
    texts: dict[str, Any] | None = None,
    **asked: Any,
) -> PredictiveTask:
    return PredictiveTask(
        PromptTexts(rows, **(texts or {})),
        8,
        PredictiveSpec.parse({"draws": 4} | asked),
        prompts=prompts,
        generation=STEPS,
        seed=seed,
    )


def result_of(task: PredictiveTask, evaluated: EvaluatedModel) -> TaskResult:
    return task.summary(dict(task.answer(evaluated, task.ids(), 16)))


def test_prompts_are_spread_over_sequences_and_lengths() -> None:
    rows = np.arange(5 * 32).reshape(5, 32)
    assert list(PredictiveSpec(tokens=4).prompt_lengths(32, 8)) == [8, 16, 24]
    task = task_of(rows, prompts=100)
    places = [task.place(item) for item in range(len(task.ids()))]
    assert sorted(task.ids()) == list(range(15))  # as many as there are
    assert len(set(places)) == 15
    assert [sequence for sequence, _ in places[:5]] == [0, 1, 2, 3, 4]
    assert [cut for _, cut in places[:5]] == [8, 16, 24, 8, 16]
    # More prompts leave the first ones as they are.
    assert [task_of(rows, prompts=4).place(item) for item in range(4)] == places[:4]


def test_prompts_that_leave_no_room_are_refused() -> None:
    with pytest.raises(
        SpecError,
        match=r"predictive.tokens=25 behind evaluation.prompt_tokens=8: a sequence has 32 tokens",
    ):
        task_of(np.zeros((2, 32), dtype=np.int64), tokens=25)


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_of_every_family_come_from_the_same_prompts_and_repeat(
    name: str, evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray
) -> None:
    task, evaluated = task_of(held_out), evaluated_models[name]
    assert task.digest == task_of(held_out).digest
    records = dict(task.answer(evaluated, task.ids(), 16))
    assert records == dict(task_of(held_out).answer(evaluated, task.ids()[1:2] + task.ids(), 1))
    found = task.summary(records)
    assert found.items == 6
    assert found.details["kind"] == ("exact" if name == "ar" else "bound")
    assert found.metrics["nll_nats_per_token"] > 0
    assert found.per_item == {item: record["brier"][0] for item, record in records.items()}
    assert found.metrics["brier_1"] == pytest.approx(np.mean(list(found.per_item.values())))
    assert len(found.details["by_place"]["marginal_nll"]) == 4
    assert (found.details["exact"] is None) == (name != "ar")
    assert found.details["generation"]["temperature"] == 1.0
    assert found.details["generation"]["guidance_scale"] == 1.0
    if name != "ar":
        counts = list(found.details["nll_by_draws"].values())
        assert counts == sorted(counts, reverse=True)
        assert counts[-1] == pytest.approx(found.metrics["nll_nats_per_token"])
    if name == "cola":
        places = found.details["by_place"]["nll"]
        assert np.mean(places) == pytest.approx(found.metrics["nll_nats_per_token"], abs=1e-4)
    other = dict(task_of(held_out, seed=1).answer(evaluated, task.ids(), 16))
    assert [record["marginal_nll"] for record in other.values()] != [
        record["marginal_nll"] for record in records.values()
    ]


def test_few_tokens_have_no_brierlm_and_a_short_context_cuts_prompts(
    evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray
) -> None:
    evaluated = evaluated_models["ar"]
    short = EvaluatedModel(
        evaluated.family, evaluated.model, evaluated.tokenizer, 10, evaluated.device
    )
    found = result_of(task_of(held_out, prompts=3, tokens=2), short)
    assert "brierlm" not in found.metrics
    assert found.details["absent"] == {"brierlm": "it needs predictive.tokens of 4 or more"}
    assert set(found.metrics) & {"brier_1", "brier_2", "brier_3"} == {"brier_1", "brier_2"}
    # Prompts of 8, 16 and 24 tokens in a room of 8.
    assert (found.details["prompts_cut"], found.details["tokens_cut"]) == (2, 24)


def test_summary_of_known_records(held_out: np.ndarray) -> None:
    frequency = np.full(320, 1 / 320)
    documents = np.array([7, 7, 8, 8, *range(9, 25)])
    task = task_of(held_out, prompts=4, texts={"documents_N": documents, "frequency_V": frequency})
    truth = np.array([1, 2, 3, 4])
    drawn = np.array([[1, 2, 3, 4], [1, 2, 3, 0], [1, 2, 0, 4], [0, 2, 3, 4]])
    record = {
        "brier": [brier_of_draws(drawn[:, :n], truth[:n]) for n in (1, 2, 3, 4)],
        "brier_by_place": [0.5, 1.0, 0.5, 0.5],
        "draw_right": [0.75, 1.0, 0.75, 0.75],
        "mixture_right": [1, 1, 1, 1],
        "cut_tokens": 0,
        "split_tokens": 0,
    }
    found = task.summary(dict.fromkeys(task.ids(), record))
    assert found.metrics["brier_1"] == pytest.approx(2 * 0.75 - 0.5)
    expected = 100 * np.prod(record["brier"]) ** 0.25
    assert found.metrics["brierlm"] == pytest.approx(expected)
    assert found.metrics["mixture_accuracy"] == 1.0
    assert found.metrics["draw_accuracy"] == pytest.approx(0.8125)
    assert found.metrics["first_token_draw_accuracy"] == 0.75
    assert found.metrics["unigram_brier_1"] == pytest.approx(1 / 320)
    assert found.metrics["unigram_brierlm"] == pytest.approx(100 * 320**-2.5)
    assert found.details["clusters"] == 2
    ends = [8, 16, 24, 32][: len(PredictiveSpec(tokens=4).prompt_lengths(held_out.shape[1], 8))]
    assert found.details["prompt_lengths"] == ends  # of four prompts, whatever ends there are
    assert found.details["absent"] == {}
    assert "nll_nats_per_token" not in found.metrics
    assert found.details["nll_is"] == "the family gives no probabilities of its draws"


def test_a_family_of_another_package_is_scored_by_its_generation(
    evaluated_models: dict[str, EvaluatedModel], held_out: np.ndarray
) -> None:
    import torch

    evaluated, text = evaluated_models["ar"], torch.from_numpy(held_out[:3, :12])
    found = Family.predictive_draws(
        evaluated.family,
        evaluated.model,
        text[:, :8],
        text[:, 8:],
        STEPS.ancestral().model_copy(update={"max_new_tokens": 4}),
        draws=range(1, 4),
        stream=Stream(0, 0, range(3)),
        eos_token_id=None,
    )
    assert found.tokens_BMN.shape == (3, 3, 4)
    assert found.joint_BMN is None
    assert len({tuple(row) for row in found.tokens_BMN[0].tolist()}) > 1


def test_items_are_the_prompts_unless_it_has_a_number_of_its_own(
    held_out: np.ndarray, tokenizer: TextTokenizer
) -> None:
    held = HeldOut(held_out, np.full(len(held_out), 100), tokenizer)

    def count(**values: Any) -> int:
        settings = EvaluationSpec.parse({"tasks": ["predictive"], "prompt_tokens": 8} | values)
        (task,) = make_tasks(settings, held, lambda name: [], seed=0, context=32)
        return len(task.ids())

    assert count(task_items=5) == 5
    assert count(task_items=5, predictive={"prompts": 30}) == 30


def test_the_settings_are_in_a_run_s_key_only_where_the_task_is_asked_for() -> None:
    assert "predictive" not in EvaluationSpec().model_dump()
    assert "predictive" in EvaluationSpec.parse({"tasks": ["predictive"]}).model_dump()
    with pytest.raises(SpecError, match="draws"):
        EvaluationSpec.parse({"predictive": {"draws": 1}})
