"""Optuna's pruners: who is ended, and that a killed driver's verdicts are the next one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.errors import SpecError
from cola.records import TrialRequested
from sweeps.search.arm_search import ArmSearch, union_length
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from tests.unit.sweeps.search.test_arm_search import LOC, ended

PRUNERS = ["optuna-halving", "optuna-hyperband", "optuna-percentile"]


@pytest.fixture
def pruned_sweep(tiny_sweep: dict[str, Any]) -> dict[str, Any]:
    """Sixteen points with eight evaluations each."""
    tiny_sweep["study"]["evaluation"] |= {"points": 8}
    return tiny_sweep | {
        "space": {LOC: {"kind": "uniform", "low": -8, "high": 8}},
        "algorithm": {"kind": "random"},
        "budget": {"trials": 16},
    }


def searching(values: dict[str, Any], folder: Path) -> tuple[ArmSearch, SweepLog]:
    log = SweepLog(folder)
    return ArmSearch("", PointPlanner(SweepSpec.parse(values), []), log), log


def value_at(request: TrialRequested, point: int) -> float:
    """A curve that falls with training, lower the nearer the loc is to 0.7."""
    return abs(float(request.point[LOC]) - 0.7) + 8 / point


def carry_out(search: ArmSearch, log: SweepLog, most: int) -> dict[int, int]:
    """PointPlanner of evaluation that each trial passed."""
    passed = {}
    for _ in range(most):
        found = search.next()
        if found is None:
            break
        request, course, stopped = found[0], [], False
        for point in range(1, 8):
            course.append((point / 8, value_at(request, point)))
            if search.prunes(request.trial, *course[-1]):
                stopped = True
                break
        passed[request.trial] = len(course)
        last = course[-1][1] if stopped else value_at(request, 8)
        record = ended(request, last).model_copy(
            update={"course": course, "state": "stopped" if stopped else "finished"}
        )
        log.write(record)
        search.ended(record)
    return passed


@pytest.mark.parametrize("kind", PRUNERS)
def test_the_hopeless_end_early_and_a_second_driver_judges_alike(
    pruned_sweep: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    pruned_sweep["scheduler"] = {"kind": kind, "grace": 0.25, "reduction": 2}
    pruned_sweep["algorithm"] = {"kind": "random"}
    search, log = searching(pruned_sweep, tmp_path / "whole")
    whole = carry_out(search, log, 100)
    assert len(whole) == 16
    best = min(log.requests.values(), key=lambda request: value_at(request, 8))
    assert whole[best.trial] == 7
    assert 3 <= sum(passed < 7 for passed in whole.values()) <= 15
    assert min(whole.values()) >= 2  # the grace

    first, log = searching(pruned_sweep, tmp_path / "killed")
    before = carry_out(first, log, 9)
    assert before == {trial: whole[trial] for trial in range(1, 10)}
    second, log = searching(pruned_sweep, tmp_path / "killed")
    # It knows the earlier trials' courses: those it draws are judged against them.
    after = carry_out(second, log, 100)
    assert len(after) == 7
    assert any(passed < 7 for passed in after.values())


def test_tpe_is_told_that_a_trial_was_stopped(pruned_sweep: dict[str, Any], tmp_path: Path) -> None:
    """It finds the optimum although most trials never get to their end."""
    pruned_sweep |= {
        "algorithm": {"kind": "tpe"},
        "scheduler": {"kind": "optuna-hyperband"},
        "budget": {"trials": 40},
    }
    search, log = searching(pruned_sweep, tmp_path)
    carry_out(search, log, 100)
    late = sorted(abs(log.requests[trial].point[LOC] - 0.7) for trial in range(21, 41))
    assert late[10] < 2.5  # the median of an even draw is 4


def test_what_pruners_need_is_said(pruned_sweep: dict[str, Any], tmp_path: Path) -> None:
    pruned_sweep["scheduler"] = {"kind": "optuna-halving", "reduction": 2.5}
    with pytest.raises(SpecError, match=r"scheduler: .*needs a whole reduction, not 2\.5"):
        searching(pruned_sweep, tmp_path)
    pruned_sweep |= {"scheduler": {"kind": "optuna-halving"}, "algorithm": {"kind": "grid"}}
    pruned_sweep["space"] = {LOC: [0.0, 1.0]}
    with pytest.raises(SpecError, match=r"with a grid use 'asha'"):
        searching(pruned_sweep, tmp_path)


def test_time_that_trials_share_counts_once() -> None:
    assert union_length([(0, 2), (1, 3), (5, 6), (5, 5.5)]) == 4
    assert union_length([]) == 0
