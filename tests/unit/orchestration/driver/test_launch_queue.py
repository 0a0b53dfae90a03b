"""A study in its cluster's queue: what it says while it waits, what it gives up, what it starts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cola.study import StudySpec
from orchestration.cluster.admission_queue import AdmissionQueue
from orchestration.cluster.packing import ClusterState, Node
from orchestration.driver.launch_queue import LaunchQueue
from orchestration.driver.progress import StudyView
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.state.event_log import EventLog, read_events


class Joined:
    """A study on a cluster that can grow."""

    def __init__(self, values: dict[str, Any], folder: Path) -> None:
        self.cpus, self.folder, self.shown = 2.0, folder, io.StringIO()
        self.queue = AdmissionQueue(lambda: ClusterState((self.node(),), ()))
        study = StudySpec.parse(values)
        self.runs: list[PlannedRun] = plan_study(study)
        self.launches = LaunchQueue(
            study,
            self,
            StudyView(Console(file=self.shown, width=300)),
            events=EventLog(folder),
            seconds_of=lambda run: 60.0,
        )

    def node(self) -> Node:
        return Node("a", self.cpus, 0, self.cpus, 0)

    def update(self, *arguments: Any, **named: Any) -> Any:
        return self.queue.update(*arguments, **named)

    def leave(self, owner: str) -> None:
        self.queue.leave(owner)

    def events(self) -> list[tuple[str, str]]:
        return [(line["event"], line["reason"]) for line in read_events(self.folder)]


@pytest.fixture
def sized(tiny_study: dict[str, Any]) -> dict[str, Any]:
    """A small run and one that wants eight workers."""
    tiny_study["families"] = {"ar": {}}
    tiny_study["ladder"] = [
        {"budget": 2e10, "core_parameters": 60_000},
        {"budget": 4e10, "core_parameters": 120_000},
    ]
    tiny_study["resources"] = {"larger": [{"core_parameters": 100_000, "workers": 8}]}
    return tiny_study


def test_a_run_too_large_waits_until_the_cluster_has_grown(
    sized: dict[str, Any], tmp_path: Path
) -> None:
    world = Joined(sized, tmp_path)
    small, large = world.runs
    assert world.launches.admitted(world.runs, []) == {small.spec.run_key: 1}
    assert world.launches.kept([large]) == [large]
    why = "waits for 8 CPUs: the cluster holds 2 in all"
    assert world.events() == [("waiting", why)]
    assert f"{large.name}: {why}" in world.shown.getvalue()
    assert world.launches.admitted([large], [small]) == {}
    assert world.events() == [("waiting", why)]  # reported once
    world.cpus = 16
    assert world.launches.admitted([large], []) == {large.spec.run_key: 8}


def test_it_is_given_up_after_wait_seconds(sized: dict[str, Any], tmp_path: Path) -> None:
    sized["resources"]["wait_seconds"] = 0.0
    world = Joined(sized, tmp_path)
    world.launches.admitted(world.runs, [])
    small, large = world.runs
    assert world.launches.kept([small, large]) == [small]
    event, reason = world.events()[-1]
    assert event == "not started"
    assert reason == (
        "resources.workers=8: waits for 8 CPUs: the cluster holds 2 in all, for "
        "resources.wait_seconds=0 by now; add nodes, or lower what a run needs"
    )


def test_a_busy_cluster_is_waited_for(sized: dict[str, Any], tmp_path: Path) -> None:
    """However short wait_seconds is; waits for the study's own runs are not reported."""
    sized["resources"] = {"workers": 2, "wait_seconds": 0.0}
    world = Joined(sized, tmp_path)
    (first,) = world.launches.admitted(world.runs, [])
    running = [run for run in world.runs if run.spec.run_key == first]
    waiting = [run for run in world.runs if run.spec.run_key != first]
    assert world.launches.admitted(waiting, running) == {}
    assert world.launches.kept(waiting) == waiting
    assert world.events() == []
    world.launches.close()
    assert set(world.launches.admitted(waiting, [])) == {waiting[0].spec.run_key}
