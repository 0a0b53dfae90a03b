"""A design never chooses a size that the plan then refuses."""

from __future__ import annotations

from typing import Any

import pytest

from cola.errors import SpecError
from cola.study import StudySpec
from cola.study.chosen_sizes import ladders_of, moved_cautions, moved_sizes
from orchestration.planning.plan import plan_study

FINGERPRINT = "0" * 64


def designed(tiny_study: dict[str, Any], **design: Any) -> StudySpec:
    return StudySpec.parse({**tiny_study, "ladder": [], "design": design})


@pytest.mark.parametrize("budget", [1e10, 3e10, 1e11, 3e11, 1e12])
def test_what_a_design_chooses_is_planned(tiny_study: dict[str, Any], budget: float) -> None:
    study = designed(tiny_study, budgets=[budget, 1e13], sizes=5)
    runs = plan_study(study, FINGERPRINT)
    by_size = [run for run in runs if run.spec.budget == budget]
    sizes = {run.variant: 0 for run in by_size}
    for run in by_size:
        sizes[run.variant] += 1
    assert len(set(sizes.values())) == 1
    assert min(sizes.values()) >= 3
    assert len({run.key for run in runs}) == len({run.name for run in runs}) == len(runs)


def test_sizes_that_can_be_built_are_those_of_the_design(tiny_study: dict[str, Any]) -> None:
    study = designed(tiny_study, budgets=[1e12, 1e13], sizes=5)
    rungs = [list(ladder.values()) for ladder in ladders_of(study).values()]
    assert rungs == [study.rungs_of(variant) for variant in study.families]
    assert (moved_sizes(study), moved_cautions(study)) == ([], [])


def test_what_was_moved_or_left_out_is_said(tiny_study: dict[str, Any]) -> None:
    study = designed(tiny_study, budgets=[1e10], sizes=5)
    moved = moved_sizes(study)
    asked = [rung.target for rung in study.rungs_of("ar")]
    assert [size for size, _ in moved] == asked[: len(moved)]  # the smallest are in gaps
    assert moved[0][1] is None
    taken = [size for _, size in moved if size is not None]
    assert taken
    assert all(size > wanted for wanted, size in moved if size is not None)
    (sentence,) = moved_cautions(study)
    assert f"{taken[0]:,} in its place" in sentence
    assert "(left out)" in sentence


def test_a_budget_without_a_profile_is_refused_by_its_number(tiny_study: dict[str, Any]) -> None:
    study = designed(tiny_study, budgets=[1e8], sizes=5)
    with pytest.raises(SpecError, match=r"design\.budgets: at 1e\+08 FLOPs 0 of the sizes .* use"):
        plan_study(study, FINGERPRINT)


def test_what_a_person_asks_for_is_refused_and_not_moved(tiny_study: dict[str, Any]) -> None:
    grid = {"kind": "grid", "budgets": [1e12], "core_parameters": [7200]}
    with pytest.raises(SpecError, match="7200 cannot be met by"):
        plan_study(designed(tiny_study, **grid), FINGERPRINT)
