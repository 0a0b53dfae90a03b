"""What a plan decides of how blocks run, and says of it."""

from __future__ import annotations

from typing import Any

import pytest

from cola.errors import SpecError
from cola.spec.resources import ResourcesSpec
from cola.study import StudySpec
from orchestration.cli.plan_tables import execution_sentences
from orchestration.planning.catalog import load_study
from orchestration.planning.corpus_size import CorpusSize
from orchestration.planning.memory import memory_plan
from orchestration.planning.plan import plan_study
from orchestration.planning.plan_summary import Plan, plan_as_json

LONG = ["resources.accelerator=L40S", "data.sequence_length=6144"]


def paper(*settings: str) -> Plan:
    study = load_study("paper-2b", list(settings))
    return Plan.of(study, plan_study(study), CorpusSize(350_000_000_000, True), rates={})


def test_checkpointing_is_planned_where_nothing_else_fits() -> None:
    plan = paper(*LONG)
    rows = plan_as_json(plan)["runs"]
    assert all(row["activation_checkpointing"] and row["memory"][1]["fits"] for row in rows)
    assert all(run.resources.activation_checkpointing == "always" for run in plan.runs)
    sentences = execution_sentences(plan)
    assert sentences[0].startswith("Blocks are compiled, and AdamW is fused, in all runs")
    assert "Activation checkpointing in all runs: they do not fit the memory" in sentences[1]


def test_what_is_computed_again_takes_time_but_is_no_flops() -> None:
    plain, again = (
        paper(f"resources.activation_checkpointing={mode}") for mode in ("never", "always")
    )
    for before, after in zip(*(plan_as_json(plan)["runs"] for plan in (plain, again)), strict=True):
        assert after["budget"] == before["budget"]
        assert after["seconds"] / before["seconds"] == pytest.approx(4 / 3, rel=0.01)


def test_where_a_run_fits_nothing_is_computed_again() -> None:
    plan = paper()
    assert not any(row["activation_checkpointing"] for row in plan_as_json(plan)["runs"])
    assert len(execution_sentences(plan)) == 1


def test_what_would_fit_with_checkpointing_is_refused_with_that_remedy() -> None:
    with pytest.raises(SpecError, match=r"has 48 GB\. It fits with resources\.activation_check"):
        paper(*LONG, "resources.activation_checkpointing=never")


def test_with_checkpointing_a_micro_batch_keeps_less(tiny_study: dict[str, Any]) -> None:
    (run, *_) = plan_study(StudySpec.parse(tiny_study | {"families": ["ar"]}))
    plain, checkpointed = (
        memory_plan(
            run.spec,
            ResourcesSpec(
                gpus_per_worker=1, activation_checkpointing=mode, micro_batch_sequences=2
            ),
            1,
            device_bytes=80e9,
        )
        for mode in ("auto", "always")
    )
    assert (plain.checkpoints_activations, checkpointed.checkpoints_activations) == (False, True)
    assert checkpointed.activations < plain.activations


@pytest.mark.parametrize(
    ("values", "compiles"),
    [
        ({}, False),
        ({"gpus_per_worker": 1}, True),
        ({"gpus_per_worker": 0.33}, True),
        ({"gpus_per_worker": 1, "compile": False}, False),
        ({"gpus_per_worker": 1, "zero_stage": 3}, False),
        ({"compile": True}, True),
    ],
)
def test_blocks_are_compiled_where_workers_have_gpus(
    values: dict[str, Any], compiles: bool
) -> None:
    assert ResourcesSpec.model_validate(values).compiles is compiles


@pytest.mark.parametrize("value", ["sometimes", "", True, 1])
def test_an_unknown_mode_is_refused(tiny_study: dict[str, Any], value: object) -> None:
    resources = {"activation_checkpointing": value}
    with pytest.raises(SpecError, match=r"resources\.activation_checkpointing"):
        StudySpec.parse(tiny_study | {"resources": resources})
