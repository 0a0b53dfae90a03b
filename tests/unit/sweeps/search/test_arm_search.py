"""Which points come next: exclusion, repetition, budgets, and resuming from a log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cola.records import TrialFinished, TrialRequested
from sweeps.search.arm_search import ArmSearch
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec

LOC = "families.cola.objective.stage2.timestep.timestep_loc"
BLOCK = "families.cola.block_size"
NLL = "val/nll_nats_per_token"


def ended(request: TrialRequested, nll: float, flops: float = 1.0) -> TrialFinished:
    return TrialFinished(
        trial=request.trial, state="finished", reason=None, metrics={NLL: nll}, runs=[],
        wall_seconds=1.0, working_seconds=1.0, training_seconds=1.0, flops=flops,
        accelerator_hours=0.1, time=1.0,
    )  # fmt: skip


def finish(search: ArmSearch, log: SweepLog, count: int) -> list[TrialRequested]:
    """Run up to `count` trials; the best loc is 0.7."""
    done = []
    for _ in range(count):
        found = search.next()
        if found is None:
            break
        request, _candidate = found
        record = ended(request, (request.point.get(LOC, 0.0) - 0.7) ** 2)
        log.write(record)
        search.ended(record)
        done.append(request)
    return done


def searching(values: dict[str, Any], folder: Path) -> tuple[ArmSearch, SweepLog]:
    log = SweepLog(folder)
    return ArmSearch("", PointPlanner(SweepSpec.parse(values), []), log), log


def test_a_grid_is_gone_through_once_over_two_drivers(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    """The second driver takes up what the first had request for and not ended, and nothing else."""
    first, log = searching(tiny_sweep, tmp_path)
    assert len(finish(first, log, 2)) == 2
    left_open = first.next()
    assert left_open is not None
    second, log = searching(tiny_sweep, tmp_path)
    done = finish(second, log, 10)
    assert done[0].trial == left_open[0].trial
    assert len(done) == 2
    request = list(log.requests.values())
    assert sorted(a.trial for a in request) == [1, 2, 3, 4]
    assert len({a.identity for a in request}) == 4
    assert len(log.exclusions("")) == 2
    assert second.next() is None
    assert len(SweepLog(tmp_path).excluded) == 4  # each point once


def test_a_log_cut_off_in_a_line_is_read(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    search, log = searching(tiny_sweep, tmp_path)
    finish(search, log, 1)
    path = tmp_path / "trials.jsonl"
    path.write_text(path.read_text() + '{"event":"asked","tri')
    again = SweepLog(tmp_path)
    assert list(again.requests) == [1]
    again.write(log.requests[1])
    assert [json.loads(line)["event"] for line in path.read_text().splitlines() if line[-1] == "}"]
    assert list(SweepLog(tmp_path).outcomes) == [1]


@pytest.mark.parametrize("kind", ["random", "tpe", "gp", "cma-es", "nsga2"])
def test_every_algorithm_resumes_from_a_log(
    tiny_sweep: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    tiny_sweep["space"] = {BLOCK: [8, 24], LOC: {"kind": "uniform", "low": -2, "high": 3}}
    tiny_sweep |= {"algorithm": {"kind": kind, "startup_trials": 3}, "budget": {"trials": 6}}
    first, log = searching(tiny_sweep, tmp_path)
    before = finish(first, log, 3)
    second, log = searching(tiny_sweep, tmp_path)
    after = finish(second, log, 10)
    assert [request.trial for request in before + after] == [1, 2, 3, 4, 5, 6]
    assert second.why_over == "budget.trials=6"
    assert len({request.point[LOC] for request in before + after}) == 6
    assert {request.point[BLOCK] for request in before + after} == {8}


def test_tpe_finds_a_known_optimum(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    tiny_sweep["space"] = {LOC: {"kind": "uniform", "low": -8, "high": 8}}
    tiny_sweep |= {"algorithm": {"kind": "tpe"}, "budget": {"trials": 40}}
    search, log = searching(tiny_sweep, tmp_path)
    done = finish(search, log, 40)
    late = [abs(request.point[LOC] - 0.7) for request in done[-20:]]
    assert sorted(late)[10] < 2.5  # the median of an even draw is 4


def test_an_exhausted_space_ends_the_search(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    tiny_sweep |= {"algorithm": {"kind": "random"}, "budget": {"trials": 50}}
    search, log = searching(tiny_sweep, tmp_path)
    assert len(finish(search, log, 50)) == 4  # 8 points, 4 of them possible
    assert search.repeats > 0
    assert "no new feasible point" in str(search.why_over)


def test_flops_that_run_count_as_spent(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    """A trial is 2e10 FLOPs: two that run leave nothing of 4e10, one that stopped early does."""
    tiny_sweep["space"] = {LOC: {"kind": "uniform", "low": 0, "high": 1}}
    tiny_sweep |= {"algorithm": {"kind": "random"}, "budget": {"flops": 3.5e10}}
    search, log = searching(tiny_sweep, tmp_path)
    first, second = search.next(), search.next()
    assert first is not None
    assert second is not None
    early = ended(first[0], 1.0, flops=1e9)
    log.write(early)
    search.ended(early)
    assert search.next() is not None
    assert search.next() is None
    assert "budget.flops" in str(search.why_over)


def test_start_points_come_first(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    tiny_sweep["space"] = {LOC: {"kind": "uniform", "low": 0, "high": 1}}
    tiny_sweep |= {"algorithm": {"kind": "tpe"}, "budget": {"trials": 2}, "start": [{LOC: 0.25}]}
    search, log = searching(tiny_sweep, tmp_path)
    assert finish(search, log, 2)[0].point == {LOC: 0.25}


@pytest.mark.parametrize("kind", ["gp", "tpe", "grid"])
def test_what_the_study_has_comes_first_and_once(
    kind: str, tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    """Its loc is 1 by default; a second driver does not try it again."""
    domain = [0.0, 1.0, 2.0] if kind == "grid" else {"kind": "uniform", "low": 0, "high": 2}
    tiny_sweep |= {"space": {LOC: domain}, "algorithm": {"kind": kind}, "budget": {"trials": 3},
                   "start_with_study": True}  # fmt: skip
    search, log = searching(tiny_sweep, tmp_path)
    first = finish(search, log, 2)
    assert first[0].point == {LOC: 1.0}
    search, log = searching(tiny_sweep, tmp_path)
    points = [request.point[LOC] for request in [*first, *finish(search, log, 5)]]
    assert len(points) == 3
    assert points.count(1.0) == 1


def test_a_grid_has_no_point_that_is_half_the_study_s(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    """Its block size is 8, which the space does not have."""
    tiny_sweep |= {"space": {LOC: [0.0, 1.0], BLOCK: [16, 32]}, "start_with_study": True}
    search, log = searching(tiny_sweep, tmp_path)
    points = [request.point for request in finish(search, log, 9)]
    assert [(point[LOC], point[BLOCK]) for point in points] == [
        (0.0, 16), (0.0, 32), (1.0, 16), (1.0, 32)
    ]  # fmt: skip
