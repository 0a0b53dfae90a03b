"""Sweeps that would train and then say nothing are refused when they are read."""

from __future__ import annotations

from typing import Any

import pytest

from cola.errors import SpecError
from sweeps.space.metrics import missing_metric
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec

RATE = "training.optimizer.learning_rate"
BATCH = "training.batch_sequences"
DRIFT = {"kind": "drift", "key": RATE, "over": BATCH}


def problem(sweep: dict[str, Any], overrides: list[str] | None = None, **changes: Any) -> str:
    values = sweep | {"algorithm": {"kind": "grid"}, "space": {RATE: [1e-3, 2e-3]}} | changes
    with pytest.raises(SpecError) as caught:
        PointPlanner(SweepSpec.parse(values), overrides or [])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("val/nll", "did you mean val/nll_nats_per_token?"),
        ("val/nll_nats_per_tokn", "did you mean val/nll_nats_per_token?"),
        ("continuation/accuracy", "there are continuation/first_token_accuracy"),
        ("eval/mmul/accuracy", "write eval/TASK/NAME"),
        ("loss", "names begin with val/"),
        ("eval/lambada/accuracy", "needs the task lambada in evaluation.tasks, which has none"),
        ("eval/cloze/accuracy", "is measured on the test split, which selects nothing; choose"),
        ("test/nll_nats_per_token", "is measured on the test split, which selects nothing; choose"),
    ],
)
def test_metrics_that_no_run_has_are_refused(
    tiny_sweep: dict[str, Any], name: str, remedy: str
) -> None:
    assert remedy in problem(tiny_sweep, metrics=[{"name": name}])


def test_a_metric_of_a_task_that_the_study_has_is_taken(tiny_sweep: dict[str, Any]) -> None:
    values = tiny_sweep | {
        "space": {RATE: [1e-3, 2e-3]},
        "metrics": [{"name": "eval/lambada/accuracy", "direction": "maximize"}],
        "set": {"evaluation.tasks": ["lambada"], "data.sequence_length": 64},
    }
    (goal,) = PointPlanner(SweepSpec.parse(values), []).sweep.metrics
    assert goal.name == "eval/lambada/accuracy"


def test_a_metric_is_named_once(tiny_sweep: dict[str, Any]) -> None:
    twice = [{"name": "val/bits_per_byte"}] * 2
    assert "metrics.1.name: val/bits_per_byte is there twice" in problem(tiny_sweep, metrics=twice)


def test_a_finished_trial_without_the_metric_names_what_it_has() -> None:
    measured = ["val/bits_per_byte", "train/loss"]
    assert missing_metric(["train/loss"], measured) is None
    assert missing_metric(["val/kl", "train/loss"], measured) == (
        "metrics: a finished trial has no val/kl; it has val/bits_per_byte"
    )


def test_a_key_within_another_is_refused(tiny_sweep: dict[str, Any]) -> None:
    space = {RATE: [3e-3, 4e-3], "training.optimizer": [{"learning_rate": 1e-3}]}
    expected = f"space.{RATE}: is a part of training.optimizer"
    assert expected in problem(tiny_sweep, space=space)
    assert expected in problem(tiny_sweep, space=dict(reversed(space.items())))


@pytest.mark.parametrize(
    ("changes", "overrides", "place"),
    [
        ({"set": {RATE: 1e-2}}, [], f"set {RATE}"),
        ({}, [f"{RATE}=0.01"], f"--set {RATE}"),
        ({"arms": {"a": {"set": {RATE: 1e-2}}}}, [], f"arms.a.set {RATE}"),
        (
            {"space": {"training.optimizer": [{}]}, "set": {RATE: 1e-2}},
            [],
            f"set {RATE}",
        ),
    ],
)
def test_settings_that_every_point_replaces_are_refused(
    tiny_sweep: dict[str, Any], changes: dict[str, Any], overrides: list[str], place: str
) -> None:
    found = problem(tiny_sweep, overrides, **changes)
    assert found.startswith(f"{place}: has no effect, as the space has ")


def test_settings_that_some_arm_or_point_reads_are_taken(tiny_sweep: dict[str, Any]) -> None:
    for space, arms in (
        ({"arms": {"a": {"space": {RATE: [1e-3, 2e-3]}}, "b": {"space": {BATCH: [4, 8]}}}}, "ab"),
        (
            {
                "space": {
                    BATCH: [4, 8],
                    RATE: {"values": [1e-3, 2e-3], "when": {"key": BATCH, "among": [4]}},
                }
            },
            [""],
        ),
    ):
        values = tiny_sweep | {"space": {}, "algorithm": {"kind": "grid"}} | space
        planner = PointPlanner(SweepSpec.parse(values), [f"{RATE}=0.01"])
        assert list(planner.arms()) == list(arms)


def test_questions_that_cannot_be_answered_are_refused(tiny_sweep: dict[str, Any]) -> None:
    assert "tradeoff is between two metrics" in problem(tiny_sweep, answer={"kind": "tradeoff"})
    assert f"answer: {BATCH} is no key of the space" in problem(tiny_sweep, answer=DRIFT)
    kinds = {RATE: [1e-3, 2e-3], "training.schedule.kind": ["cosine", "wsd"]}
    drift = DRIFT | {"over": "training.schedule.kind"}
    expected = 'answer.over: training.schedule.kind has the value "cosine"'
    assert expected in problem(tiny_sweep, space=kinds, answer=drift)


def test_a_population_has_as_many_points_as_members(tiny_sweep: dict[str, Any]) -> None:
    scheduler = {"kind": "pbt", "population": {"members": 3, "generations": 2}}
    assert "members=3: the space has 2 points only" in problem(tiny_sweep, scheduler=scheduler)


def test_start_points_are_listed_once(tiny_sweep: dict[str, Any]) -> None:
    start = [{RATE: "1e-3"}, {RATE: 0.001}]
    assert "start: lists" in problem(tiny_sweep, start=start)


def test_names_of_arms_are_parts_of_paths(tiny_sweep: dict[str, Any]) -> None:
    assert "arms" in problem(tiny_sweep, arms={"../x": {}})
