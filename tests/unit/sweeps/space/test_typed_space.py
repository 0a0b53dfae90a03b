"""Sweep files are checked where they are read: every value in its key's form, or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cola.errors import SpecError
from sweeps.driver.plan import plan_sweep
from sweeps.space.catalog import load_sweep
from sweeps.space.domains import Integer, Uniform, contains, values_of
from sweeps.space.points import PointPlanner
from sweeps.space.space import grid
from sweeps.space.spec import SweepSpec

RATE = "training.optimizer.learning_rate"
DECAY = "training.optimizer.weight_decay"
BATCH = "training.batch_sequences"


def planned(tiny_sweep: dict[str, Any], **changes: Any) -> PointPlanner:
    tiny_sweep["study"]["families"] = {"ar": {}}
    return PointPlanner(SweepSpec.parse(tiny_sweep | changes), [])


def refusal(tiny_sweep: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(SpecError) as refused:
        planned(tiny_sweep, **changes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def when(key: str, *values: Any) -> dict[str, Any]:
    return {"key": key, "among": list(values)}


def test_numbers_as_text_are_numbers(tiny_sweep: dict[str, Any]) -> None:
    """YAML reads 1e-3 as text; a condition on it holds all the same."""
    decay = {"kind": "choice", "values": [0, "1e-1"], "when": when(RATE, 0.001)}
    planner = planned(tiny_sweep, space={RATE: ["1e-3", "3e-3", 1.0e-2], DECAY: decay})
    points = list(grid(planner.sweep.space))
    assert points == [
        {RATE: 0.001, DECAY: 0.0}, {RATE: 0.001, DECAY: 0.1}, {RATE: 0.003}, {RATE: 0.01},
    ]  # fmt: skip
    assert len(plan_sweep(planner).arms[0].points) == 4


def test_start_points_are_typed(tiny_sweep: dict[str, Any]) -> None:
    search = {"algorithm": {"kind": "tpe"}, "budget": {"trials": 2}}
    planner = planned(tiny_sweep, space={RATE: ["1e-3", 0.01]}, start=[{RATE: 0.001}], **search)
    assert planner.sweep.start == [{RATE: 0.001}]
    assert planner.parameters("", planner.sweep.start[0]) == {RATE: "0.001"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"space": {RATE: ["1e-3", 0.001]}}, f"space.{RATE}.values: lists 0.001 more than once"),
        ({"space": {RATE: [1e-3, float("inf")]}}, f"space.{RATE}.values.1: must be a finite"),
        ({"space": {RATE: [1e-3, "x"]}}, f"space.{RATE}.values.1: Input should be a valid number"),
        ({"space": {BATCH: {"kind": "integer", "low": 2, "high": 9, "step": 2}},
          "start": [{BATCH: 5}]}, f"start.0.{BATCH}: 5 is outside of the space, which has 2 to 9"),
        ({"space": {BATCH: [4]}, "start": [{RATE: 1e-3}]}, f"start.0: {RATE} is not a key of"),
        ({"space": {BATCH: [4], RATE: [1e-3]}, "start": [{BATCH: 4}]}, f"start.0: has no {RATE}"),
        ({"space": {BATCH: [4]}, "start": [{BATCH: "four"}]}, f"start.0.{BATCH}: Input should"),
        ({"space": {RATE: [1e-3], DECAY: {"values": [0], "when": when(RATE, "2e-3")}}},
         f"space.{DECAY}.when.among.0: 0.002 is no value of {RATE}, which has 0.001"),
        ({"space": {BATCH: {"kind": "uniform", "low": 4, "high": 16}},
          "algorithm": {"kind": "random"}, "budget": {"trials": 2}}, "use kind: integer"),
        ({"arms": {"a": {"space": {BATCH: ["4", 4]}}}, "space": {RATE: [1e-3]}},
         f"arms.a.space.{BATCH}.values: lists 4 more than once"),
    ],
)  # fmt: skip
def test_values_outside_of_their_key_or_space_are_refused(
    tiny_sweep: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    assert reason in refusal(tiny_sweep, **changes)


def test_every_scale_is_checked(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    wide = {"kind": "uniform", "low": 1e-3, "high": 1e-2}
    tiny_sweep["space"] = {RATE: [1e-3]}
    for changed, reason in (([1e-3, "x"], "valid number"), (wide, "finitely many values")):
        tiny_sweep["scales"] = {"laptop": {}, "node": {"space": {RATE: changed}}}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(tiny_sweep))
        with pytest.raises(SpecError, match=rf"{reason}.*at scale node"):
            load_sweep(str(path), "laptop")


def test_a_point_of_two_families_is_excluded(tiny_sweep: dict[str, Any]) -> None:
    planner = planned(tiny_sweep, space={"families": [{"ar": {}}, {"ar": {}, "llada": {}}]})
    (arm,) = plan_sweep(planner).arms
    assert len(arm.points) == 1
    assert "2 entries in families (ar, llada), whose metrics do not compare" in next(
        iter(arm.excluded)
    )


@given(st.integers(-50, 50), st.integers(1, 60), st.integers(1, 9))
def test_a_domain_contains_its_values_alone(low: int, width: int, step: int) -> None:
    whole = Integer(low=low, high=low + width, step=step)
    assert [v for v in range(low - 5, low + width + 6) if contains(whole, v)] == values_of(whole)
    tenths = Uniform(low=low / 10, high=(low + width) / 10, step=step / 10)
    values = values_of(tenths) or []
    assert all(contains(tenths, value) for value in values)
    assert not any(contains(tenths, value + step / 30) for value in values)
