"""Trials in a shared cluster's queue: when they start, what they hold, what is said meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cola.records import TrialRequested
from orchestration.cluster import queue_client as queue_place
from orchestration.cluster.admission_queue import AdmissionQueue, QueueReply
from orchestration.cluster.packing import ClusterState, Node, RunAllocation, RunRequest
from orchestration.state.event_log import EventLog, read_events
from orchestration.state.ledger import Ledger
from sweeps.driver.periodic import PeriodicThread
from sweeps.driver.trial_queue import TrialQueue
from sweeps.search.arm_search import ArmSearch
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PlannedPoint, PointPlanner
from sweeps.space.spec import SweepSpec
from tests.waiting import until


class Shared:
    """A cluster of one node with a queue, a sweep on it, and another driver."""

    def __init__(self, values: dict[str, Any], folder: Path, cpus: float) -> None:
        self.cpus, self.folder, self.said = cpus, folder, list[str]()
        self.queue = AdmissionQueue(lambda: ClusterState((self.node(),), ()))
        self.heard: list[str] = []
        sweep = SweepSpec.parse(values)
        planner, log = PointPlanner(sweep, []), SweepLog(folder)
        search = ArmSearch("", planner, log)
        self.asked: list[tuple[TrialRequested, PlannedPoint]] = [
            found for _ in range(2) if (found := search.next()) is not None
        ]
        self.trials = TrialQueue(planner.base, self, EventLog(folder), notify=self.said.append)

    def node(self) -> Node:
        return Node("a", self.cpus, 0, self.cpus, 0)

    def update(
        self, owner: str, now: float, requests: list[RunRequest], *, held: list[RunAllocation]
    ) -> QueueReply:
        self.heard = [holding.request.name for holding in held]
        return self.queue.update(owner, now, requests, held=held)

    def leave(self, owner: str) -> None:
        self.queue.leave(owner)

    def other(self, wants: int, holds: int = 0) -> int:
        """Workers that another driver is granted, which holds so many already."""
        needs = RunRequest("r", "other", "large", "study", wants, 1.0, 0.0, 1.0, 60.0, time.time())
        held = [RunAllocation(needs, holds, time.time() + 60)] if holds else []
        requests = [] if holds else [needs]
        return self.queue.update("other", time.time(), requests, held=held).granted.get("r", 0)

    def may_start(self, place: int) -> bool:
        return self.trials.may_start(*self.asked[place])


@pytest.fixture
def shared(
    tiny_sweep: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Shared]]:
    """Makes one sweep; what is said of a wait is said at once."""
    monkeypatch.setattr(queue_place, "QUIET_SECONDS", 0.0)
    made: list[Shared] = []

    def make(cpus: float = 2, **resources: Any) -> Shared:
        tiny_sweep["study"]["resources"] = resources
        made.append(Shared(tiny_sweep, tmp_path, cpus))
        return made[-1]

    yield make
    for each in made:
        each.trials.close()


def test_a_trial_waits_for_the_others_and_they_for_it(shared: Callable[..., Shared]) -> None:
    """Two CPUs, another driver holds both: a trial of two workers starts once it has left."""
    world = shared(workers=2)
    assert world.other(wants=2) == 2
    world.other(wants=2, holds=2)
    assert not world.may_start(0)
    until(lambda: bool(world.said))
    assert not world.may_start(0)
    assert len(world.said) == 1
    assert "waits for 2 CPUs: 0 are free, study/large holds 2 of them until" in world.said[0]
    (event,) = read_events(world.folder)
    assert (event["event"], event["run"]) == ("waiting", "trial001-cola-2e+10-seed66")
    world.queue.leave("other")
    until(lambda: world.may_start(0))
    until(lambda: world.heard == ["trial001-cola-2e+10-seed66"])
    assert world.other(wants=2) == 0
    assert world.may_start(0)  # its process may die: it goes on with what it has
    assert not world.may_start(1)
    world.trials.release(world.asked[0][0])
    until(lambda: world.may_start(1) or world.other(wants=2) == 2)


def test_a_cluster_that_stays_too_small_ends_the_sweep(shared: Callable[..., Shared]) -> None:
    world = shared(workers=8, wait_seconds=0.0)
    assert not world.may_start(0)
    until(lambda: world.trials.gave_up)
    assert world.said[-1] == (
        "trial001-cola-2e+10-seed66: not started: resources.workers=8: waits for 8 CPUs: the "
        "cluster holds 2 in all, for resources.wait_seconds=0 by now; add nodes, or lower what a "
        "run needs"
    )
    assert [event["event"] for event in read_events(world.folder)] == ["waiting", "not started"]


def test_finished_runs_take_nothing_and_their_measurement_one_worker(
    shared: Callable[..., Shared], tiny_sweep: dict[str, Any]
) -> None:
    tiny_sweep["metrics"] = [{"name": "continuation/token_accuracy", "direction": "maximize"}]
    world = shared(workers=2)
    (_, measured), (_, other) = world.asked
    ledger = Ledger(Path(measured.study.output))
    for run in (*measured.runs, *other.runs):
        ledger.acquire(run.key)
        ledger.close(run.key, "finished")
    assert measured.evaluation is not None
    assert not world.may_start(0)
    until(lambda: world.may_start(0))
    assert world.other(wants=2) == 0
    assert world.other(wants=1) == 1
    known = replace(other, evaluation=None)
    assert world.trials.may_start(world.asked[1][0], known)


def test_a_sweep_that_is_closed_leaves_the_queue(shared: Callable[..., Shared]) -> None:
    world = shared(workers=2)
    until(lambda: world.may_start(0))
    assert world.other(wants=2) == 0
    world.trials.close()
    assert world.other(wants=2) == 2


def test_what_a_steady_call_raises_is_not_lost() -> None:
    def fail() -> None:
        raise ValueError("of the call")

    calls = PeriodicThread(fail, 60.0)
    with pytest.raises(ValueError, match="of the call"):
        until(lambda: calls.check() is not None)
    with pytest.raises(ValueError, match="of the call"):
        calls.close()
