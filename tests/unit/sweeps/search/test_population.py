"""Populations: which member resumes from which, at which rate, and resuming from a log."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cola.errors import SpecError
from cola.records import RATE_CHANGES, TrialRequested
from orchestration.planning.shared_prefixes import has_prefix
from sweeps.search.population import Member, PopulationSearch, published_prefixes, successors
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.samplers import LEARNING_RATE
from sweeps.space.spec import PopulationSpec, SweepSpec
from tests.unit.sweeps.search.test_arm_search import NLL, ended

BOUNDS = (1e-4, 1e-2)


def members_of(values: list[float | None], dead: set[int]) -> list[Member]:
    return [
        Member(10 + place, {LEARNING_RATE: 1e-4 * 10 ** (2 * place / 9)}, place not in dead, value)
        for place, value in enumerate(values)
    ]


@given(
    values=st.lists(st.floats(0, 9) | st.none(), min_size=2, max_size=10),
    dead=st.sets(st.integers(0, 9)),
    quantile=st.floats(0.05, 0.5),
    perturbation=st.floats(1.01, 4),
    seed=st.integers(0, 5),
)
def test_the_worst_resume_from_the_best(
    values: list[float | None], dead: set[int], quantile: float, perturbation: float, seed: int
) -> None:
    members = members_of(values, dead)
    settings = PopulationSpec(quantile=quantile, perturbation=perturbation)
    found = successors(members, settings, random.Random(seed), at=0.5, bounds=BOUNDS)
    assert found == successors(members, settings, random.Random(seed), at=0.5, bounds=BOUNDS)
    alive = {member.trial: member for member in members if member.alive}
    assert len(found) == (len(members) if alive else 0)
    taken = max(1, math.floor(quantile * len(members)))
    known = sorted(m.badness for m in alive.values() if m.badness is not None)
    for member, successor in zip(members, found, strict=False):
        parent = alive[successor.parent]
        if successor.parent == member.trial and successor.point == member.point:
            continue
        if member.alive:  # it was measured, and is among the worst
            assert member.badness is not None
            assert member.badness >= known[len(known) - min(taken, len(known) // 2)]
        if known and len(known) >= 2:
            assert parent.badness is not None
            assert parent.badness <= known[taken - 1 if taken <= len(known) // 2 else -1]
        (change,) = successor.point[RATE_CHANGES]
        assert change["at"] == 0.5
        rate = parent.point[LEARNING_RATE] * change["factor"]
        assert BOUNDS[0] * (1 - 1e-5) <= rate <= BOUNDS[1] * (1 + 1e-5)
        assert 1 / perturbation * (1 - 1e-5) <= change["factor"] <= perturbation * (1 + 1e-5)
    if len(known) >= 2:
        replaced = sum(s.parent != m.trial for m, s in zip(members, found, strict=True))
        assert replaced >= min(taken, len(known) // 2)


def test_before_the_metric_is_measured_all_members_continue() -> None:
    members = members_of([None, None, None], set())
    found = successors(members, PopulationSpec(), random.Random(0), at=0.25, bounds=BOUNDS)
    assert [s.parent for s in found] == [10, 11, 12]
    assert [s.point for s in found] == [m.point for m in members]


@pytest.fixture
def tiny_population(tiny_sweep: dict[str, Any]) -> dict[str, Any]:
    """Four members of an AR model in three generations."""
    tiny_sweep["study"] |= {"families": {"ar": {}}}
    tiny_sweep["study"]["evaluation"] |= {"points": 3}
    return tiny_sweep | {
        "space": {LEARNING_RATE: {"kind": "loguniform", "low": 1e-4, "high": 1e-2}},
        "algorithm": {"kind": "random"},
        "scheduler": {"kind": "pbt", "population": {"members": 4, "generations": 3}},
    }


def searching(values: dict[str, Any], folder: Path) -> tuple[PopulationSearch, SweepLog]:
    log = SweepLog(folder)
    return PopulationSearch("", PointPlanner(SweepSpec.parse(values), []), log), log


def badness(request: TrialRequested) -> float:
    """The best rate is 1e-3."""
    changes = request.point.get(RATE_CHANGES, [])
    factor = changes[-1]["factor"] if changes else 1.0
    return abs(math.log(request.point[LEARNING_RATE] * factor / 1e-3))


def run_trials(search: PopulationSearch, log: SweepLog, most: int) -> list[TrialRequested]:
    """Up to `most` trials, side by side as far as the search has them."""
    done: list[TrialRequested] = []
    running: list[TrialRequested] = []
    while len(done) < most:
        found = search.next()
        if found is not None:
            running.append(found[0])
            continue
        if not running:
            break
        request = running.pop(0)
        assert request.leg is not None
        state = "paused" if request.leg.until < 1 else "finished"
        record = ended(request, badness(request)).model_copy(update={"state": state})
        log.write(record)
        search.ended(record)
        done.append(request)
    return done


def seen(log: SweepLog) -> list[tuple[Any, ...]]:
    return sorted(
        (a.leg.generation, a.leg.member, a.leg.since, a.leg.until, str(a.point))
        for a in log.requests.values()
        if a.leg
    )


@pytest.mark.parametrize("before", [1, 4, 6, 8])
def test_a_killed_driver_s_population_resumes_as_if_nothing_had_happened(
    tiny_population: dict[str, Any], tmp_path: Path, before: int
) -> None:
    search, whole = searching(tiny_population, tmp_path / "whole")
    assert len(run_trials(search, whole, 100)) == 12
    assert search.why_over == "3 generations are done"
    first, log = searching(tiny_population, tmp_path / "killed")
    run_trials(first, log, before)
    second, log = searching(tiny_population, tmp_path / "killed")
    run_trials(second, log, 100)
    assert sorted(log.outcomes) == list(range(1, 13))
    # Members of the first generation that a driver had not drawn are others after it: the random
    # numbers continue from another place. All that follows is the same.
    if before >= 4:
        assert seen(log) == seen(whole)
    assert {request.leg.until for request in log.requests.values() if request.leg} == {
        1 / 3,
        2 / 3,
        1.0,
    }


def test_a_generation_that_was_asked_for_in_part_is_completed(
    tiny_population: dict[str, Any], tmp_path: Path
) -> None:
    search, whole = searching(tiny_population, tmp_path / "whole")
    run_trials(search, whole, 100)
    lines = (tmp_path / "whole" / "trials.jsonl").read_text().splitlines(keepends=True)
    request = [place for place, line in enumerate(lines) if '"event":"asked"' in line]
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "trials.jsonl").write_text("".join(lines[: request[5] + 1]))
    again, log = searching(tiny_population, tmp_path / "cut")
    run_trials(again, log, 100)
    assert seen(log) == seen(whole)


def test_a_child_begins_as_its_parent_ended(
    tiny_population: dict[str, Any], tmp_path: Path
) -> None:
    search, log = searching(tiny_population, tmp_path)
    planner = PointPlanner(SweepSpec.parse(tiny_population), [])
    for request in run_trials(search, log, 100):
        if request.leg is None or request.leg.parent is None:
            continue
        parent = log.requests[request.leg.parent]
        (published,) = published_prefixes(parent, planner.plan("", parent.point))
        run = planner.plan("", request.point).runs[0].spec
        assert has_prefix(run, published)
        assert published.step == run.step_at(request.leg.since)


def test_a_population_without_a_member_left_is_over(
    tiny_population: dict[str, Any], tmp_path: Path
) -> None:
    search, log = searching(tiny_population, tmp_path)
    while (found := search.next()) is not None:
        record = ended(found[0], 1.0).model_copy(update={"state": "diverged", "metrics": {}})
        log.write(record)
        search.ended(record)
    assert search.why_over == "no member of generation 0 is left"
    assert len(log.requests) == 4


def test_a_population_does_not_continue_without_an_interrupted_member(
    tiny_population: dict[str, Any], tmp_path: Path
) -> None:
    search, log = searching(tiny_population, tmp_path)
    request = [found[0] for found in (search.next() for _ in range(4)) if found is not None]
    search.interrupted(request[0].trial)
    for each in request[1:]:
        record = ended(each, 1.0).model_copy(update={"state": "paused"})
        log.write(record)
        search.ended(record)
    assert search.next() is None
    assert search.why_over == "trial 1 was interrupted"
    again, log = searching(tiny_population, tmp_path)
    taken_up = again.next()
    assert taken_up is not None
    assert taken_up[0].trial == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {"trials": 4}}, r"members whole runs take; leave budget out"),
        ({"metrics": [{"name": "continuation/chrf"}]}, r"is not measured while runs train"),
        ({"metrics": [{"name": NLL}, {"name": "val/x"}]}, r"'pbt' judges by one metric"),
        ({"space": {RATE_CHANGES: [[], [{"at": 0.5, "factor": 2}]]}}, r"is what pbt finds"),
        ({"scheduler": {"kind": "pbt", "population": {"generations": 2}}}, r"points=3 .*multiple"),
    ],
)
def test_what_a_population_cannot_be_is_refused(
    tiny_population: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        searching(tiny_population | change, tmp_path)
