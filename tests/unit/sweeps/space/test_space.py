"""Spaces, their points, and which of them a study can have."""

from __future__ import annotations

from typing import Any

import pytest

from cola.errors import SpecError
from cola.spec import check_path
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from sweeps.driver.plan import describe_plan, plan_sweep
from sweeps.space.points import PointPlanner
from sweeps.space.space import grid
from sweeps.space.spec import SweepSpec

LOC = "families.cola.objective.stage2.timestep.timestep_loc"
BLOCK = "families.cola.block_size"


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as refused:
        PointPlanner(SweepSpec.parse(values), [])
    return str(refused.value)


def test_a_key_with_a_condition_is_part_of_some_points_only(tiny_sweep: dict[str, Any]) -> None:
    timestep = "families.cola.objective.stage2.timestep"
    tiny_sweep["space"] = {
        f"{timestep}.kind": ["logit_normal", "uniform"],
        f"{timestep}.timestep_loc": {
            "kind": "uniform", "low": 0, "high": 1, "step": 0.5,
            "when": {"key": f"{timestep}.kind", "among": ["logit_normal"]},
        },
    }  # fmt: skip
    found = list(grid(SweepSpec.parse(tiny_sweep).space))
    assert [point.get(f"{timestep}.timestep_loc") for point in found] == [0.0, 0.5, 1.0, None]


def test_unknown_keys_are_refused_with_what_is_near(tiny_sweep: dict[str, Any]) -> None:
    tiny_sweep["space"] = {"families.cola.latent_dims": [4]}
    assert "did you mean families.cola.latent_dim?" in refusal(tiny_sweep)
    tiny_sweep["space"] = {LOC: {"kind": "uniform", "low": 2, "high": 1}}
    assert "low=2 must be below high=1" in refusal(tiny_sweep)
    tiny_sweep["space"] = {LOC: {"kind": "uniform", "low": 0, "high": 1}}
    assert "a grid needs finitely many values" in refusal(tiny_sweep)


def test_a_path_goes_through_lists_and_unions() -> None:
    check_path(StudySpec, "ladder.0.budget", "a test")
    check_path(StudySpec, LOC, "a test")
    with pytest.raises(SpecError, match="it holds a value, not keys"):
        check_path(StudySpec, "training.batch_sequences.more", "a test")


def test_what_no_study_can_have_is_counted_with_its_reason(tiny_sweep: dict[str, Any]) -> None:
    """Sequences of 32 tokens hold whole blocks of 8 and 16, not of 24 or 64."""
    plan = plan_sweep(PointPlanner(SweepSpec.parse(tiny_sweep), []))
    (arm,) = plan.arms
    assert {c.point[BLOCK] for c in arm.points} == {8, 16}
    assert sorted(arm.excluded.values()) == [2, 2]
    assert all("must be a multiple of families.cola.patch_size" in r for r in arm.excluded)
    told = "\n".join(describe_plan(plan))
    assert "4 points are possible, 4 trials" in told
    assert "excluded: 2" in told


def test_a_point_is_the_same_run_as_in_a_study(tiny_sweep: dict[str, Any]) -> None:
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    planned = planner.plan("", {BLOCK: 16, LOC: 1.0})
    values = {**tiny_sweep["study"], "name": "other"}
    values["families"]["cola"]["block_size"] = 16
    (run,) = plan_study(StudySpec.parse(values))
    assert [own.key for own in planned.runs] == [run.key]


def test_points_that_only_use_a_model_otherwise_share_its_training(
    tiny_sweep: dict[str, Any],
) -> None:
    steps = "evaluation.generation.steps"
    tiny_sweep["space"] = {steps: [1, 4], BLOCK: [8, 16]}
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    found = [planner.plan("", point) for point in grid(planner.sweep.space)]
    assert len({c.identity for c in found}) == 4
    assert len({run.spec.run_key for c in found for run in c.runs}) == 2
    assert {c.evaluation.generation.steps for c in found if c.evaluation} == {1, 4}
    assert {run.spec.evaluation.generation.steps for c in found for run in c.runs} == {4}


def test_families_are_compared_in_arms_of_their_own(tiny_sweep: dict[str, Any]) -> None:
    tiny_sweep["study"]["families"] = {"ar": {}, "llada": {}}
    tiny_sweep["space"] = {"training.optimizer.learning_rate": [1e-3, 2e-3]}
    assert "make an arm of each" in refusal(tiny_sweep)
    tiny_sweep["arms"] = {name: {"set": {"families": {name: {}}}} for name in ("ar", "llada")}
    plan = plan_sweep(PointPlanner(SweepSpec.parse(tiny_sweep), []))
    assert [{c.runs[0].spec.family for c in arm.points} for arm in plan.arms] == [
        {"ar"}, {"llada"},
    ]  # fmt: skip


def test_a_scale_changes_study_space_and_budget(tiny_sweep: dict[str, Any]) -> None:
    tiny_sweep["scales"] = {
        "laptop": {"space": {BLOCK: [8]}, "set": {"max_epochs": 50}, "seeds": [1, 2]}
    }
    sweep = SweepSpec.parse(tiny_sweep).at("laptop")
    planner = PointPlanner(sweep, [])
    assert planner.base.max_epochs == 50
    (arm,) = plan_sweep(planner).arms
    assert len(arm.points) == 2
    assert [run.spec.seed for run in arm.points[0].runs] == [1, 2]
