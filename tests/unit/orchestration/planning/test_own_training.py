"""Entries of a study with training settings and rules of their own, by stage where asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cola.errors import SpecError
from cola.spec.resources import DivergenceRetry
from cola.spec.training import StageTraining, TrainingSpec
from cola.study import StudySpec
from orchestration.planning.catalog import read_study
from orchestration.planning.corpus_size import CorpusSize
from orchestration.planning.divergence_retry import next_retry
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.plan_summary import Plan, matching_sentences
from orchestration.planning.shared_prefixes import prefix_key
from tests.conftest import write_study

LADDER = [{"budget": budget, "core_parameters": 60_000} for budget in (2.0e9, 8.0e9)]
COLA = {
    "latent_dim": 4,
    "block_size": 8,
    "training": {
        "ema_decay": 0.9,
        "optimizer": {"learning_rate": 8e-3},
        "stages": {"joint": {"learning_rate": 2e-2}},
    },
}


def study_of(tiny_study: dict[str, Any], **families: dict[str, Any]) -> StudySpec:
    return StudySpec.parse(tiny_study | {"ladder": LADDER, "families": families})


def first_runs(study: StudySpec) -> dict[str, PlannedRun]:
    return {run.variant: run for run in plan_study(study, "x" * 64) if run.rung == 0}


def test_an_entry_s_settings_take_the_place_of_the_study_s_key_by_key(
    tiny_study: dict[str, Any],
) -> None:
    study = study_of(tiny_study, ar={"training": {"batch_sequences": 16}}, cola=COLA)
    runs = first_runs(study)
    assert runs["ar"].spec.training.batch_sequences == 16
    assert runs["ar"].spec.training.optimizer == study.training.optimizer
    assert runs["ar"].spec.training.ema_decay is None
    training = runs["cola"].spec.training
    assert training.ema_decay == 0.9
    assert training.batch_sequences == study.training.batch_sequences
    assert training.of_stage("vae").optimizer.learning_rate == 8e-3
    assert training.of_stage("joint").optimizer.learning_rate == 2e-2
    assert training.of_stage("joint").optimizer.betas == study.training.optimizer.betas
    assert training.of_stage("joint").schedule == study.training.schedule


def test_a_study_that_travels_as_text_plans_the_same_runs(tiny_study: dict[str, Any]) -> None:
    """A default that is written out must not count as given when it is read again."""
    rule = {"kind": "power_law", "coefficient": 1e-3, "parameters_exponent": -0.1}
    rules = {"learning_rate": rule}
    study = study_of(
        tiny_study, ar={"training": {"batch_sequences": 16}, "rules": rules}, cola=COLA
    )
    again = StudySpec.parse(yaml.safe_load(study.to_yaml()))
    keys = [run.key for run in plan_study(study, "x" * 64)]
    assert [run.key for run in plan_study(again, "x" * 64)] == keys


def test_an_entry_s_rules_take_the_place_of_the_study_s(tiny_study: dict[str, Any]) -> None:
    def points(low: float, high: float) -> dict[str, Any]:
        values = ((2.0e9, low), (8.0e9, high))
        return {"kind": "tuned", "points": [{"budget": b, "value": v} for b, v in values]}

    own = {"learning_rate": points(1e-3, 2e-3), "stage_learning_rates": {"joint": points(0.1, 0.2)}}
    study = StudySpec.parse(
        tiny_study
        | {
            "ladder": LADDER,
            "families": {"ar": {}, "cola": {"latent_dim": 4, "block_size": 8, "rules": own}},
            "rules": {"learning_rate": points(3e-3, 4e-3)},
        }
    )
    found = {(run.variant, run.rung): run.spec.training for run in plan_study(study, "x" * 64)}
    assert [found["ar", rung].optimizer.learning_rate for rung in (0, 1)] == [3e-3, 4e-3]
    assert [found["cola", rung].optimizer.learning_rate for rung in (0, 1)] == [1e-3, 2e-3]
    rates = [found["cola", rung].of_stage("joint").optimizer.learning_rate for rung in (0, 1)]
    assert rates == [0.1, 0.2]


@pytest.mark.parametrize(
    ("families", "message"),
    [
        (
            {"ar": {"training": {"stages": {"joint": {"learning_rate": 1e-3}}}}},
            "families.ar.training.stages.joint: ar has no such stage; it has train",
        ),
        (
            {"cola": {"rules": {"stage_learning_rates": {"prior": {
                "kind": "power_law", "coefficient": 1e-3, "parameters_exponent": 0.0}}}}},
            "rules.stage_learning_rates.prior: cola has no such stage; it has vae, joint",
        ),
        ({"ar": {"training": {"batch": 3}}}, "families.ar.training.batch"),
        ({"ar": {"training": {"optimizer": {"learning_rate": -1}}}}, "optimizer.learning_rate"),
        (
            {"cola": {"training": {"stages": {"vae": {"schedule": {
                "rate_changes": [{"at": 0.5, "factor": 2}]}}}}}},
            "schedule.rate_changes counts over all of a run's steps",
        ),
    ],
)  # fmt: skip
def test_bad_settings_are_one_line(
    tiny_study: dict[str, Any], families: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as refusal:
        study_of(tiny_study, **families)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_retry_lowers_the_rates_of_all_stages(tiny_study: dict[str, Any]) -> None:
    study = study_of(tiny_study, cola=COLA)
    following = next_retry(first_runs(study)["cola"], DivergenceRetry(times=1, factor=0.5))
    assert following is not None
    training = following.spec.training
    assert training.of_stage("vae").optimizer.learning_rate == pytest.approx(4e-3)
    assert training.of_stage("joint").optimizer.learning_rate == pytest.approx(1e-2)


def test_runs_share_a_first_stage_whatever_the_second_trains_with(
    tiny_study: dict[str, Any],
) -> None:
    run = first_runs(study_of(tiny_study, cola=COLA))["cola"].spec
    vae = run.stages[0].steps

    def with_rate(stage: str) -> str:
        stages = run.training.stages | {stage: StageTraining(learning_rate=0.5)}
        training = run.training.model_copy(update={"stages": stages})
        return prefix_key(run.model_copy(update={"training": training}), vae)

    assert with_rate("joint") == prefix_key(run, vae)
    assert with_rate("vae") != prefix_key(run, vae)


def test_settings_without_stages_are_written_without_them() -> None:
    assert "stages" not in TrainingSpec().model_dump(mode="json")


def test_the_plan_names_entries_with_settings_of_their_own(tiny_study: dict[str, Any]) -> None:
    def sentences(**families: dict[str, Any]) -> str:
        study = study_of(tiny_study, **families)
        plan = Plan.of(study, plan_study(study, "x" * 64), CorpusSize(None, False), rates={})
        return " ".join(matching_sentences(plan))

    assert "data order, optimiser and schedule" in sentences(ar={}, llada={})
    own = sentences(ar={}, cola=COLA)
    assert "data order and optimiser." in own
    assert "With training settings of their own: cola." in own


def test_a_set_rule_that_an_entry_s_own_hides_is_named(
    tiny_study: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And only where it is hidden, and where the setting has changed something."""
    own = {"learning_rate": rule(1e-3), "latent": {"latent_dim": rule(4.0)}}
    cola = {"latent_dim": 4, "block_size": 8, "rules": own}
    study = tiny_study | {"families": {"ar": {}, "cola": cola}, "rules": {"batch_multiple": 4}}
    file = str(write_study(study, tmp_path))
    (tmp_path / "rule.yaml").write_text(
        yaml.safe_dump({
            "rules.learning_rate": rule(2e-3),
            "rules.latent": {"latent_dim": rule(8.0), "patch_size": rule(2.0)},
        })
    )  # fmt: skip
    read_study(file, ["rules.batch_multiple=4", "seeds=[1]"])
    assert caplog.messages == []
    read_study(file, [f"@{tmp_path}/rule.yaml"])
    assert caplog.messages == [
        "--set has no effect: rules.latent.latent_dim on cola, which has its own: set "
        "families.cola.rules.latent.latent_dim; rules.learning_rate on cola, which has its own: "
        "set families.cola.rules.learning_rate"
    ]


def rule(value: float) -> dict[str, Any]:
    return {"kind": "power_law", "coefficient": value}
