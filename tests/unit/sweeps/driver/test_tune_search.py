"""What Ray Tune gets: trials that wait, whose process died, that failed by themselves."""

from __future__ import annotations

import io
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cola.records import TrialFinished, TrialRequested
from orchestration.cluster.session import ClusterResources
from orchestration.driver.live_screen import LiveScreen
from orchestration.state.event_log import EventLog, read_events
from orchestration.state.journal import JournalWriter
from orchestration.state.ledger import Ledger
from orchestration.tracking.mirror import open_mirror
from sweeps.driver.context import SweepContext
from sweeps.driver.progress import TrialProgress
from sweeps.driver.tune_search import TuneSearch
from sweeps.search.arm_search import ArmSearch
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PlannedPoint, PointPlanner
from sweeps.space.spec import SweepSpec
from sweeps.trials.trainable import OUTCOME, SPENT, TRIAL_SPEC
from sweeps.trials.trial import TrialSpec
from sweeps.views.live_table import SweepView
from tests.stores import new_store


class Gate:
    """A cluster's queue that the test opens."""

    def __init__(self) -> None:
        self.open, self.gave_up, self.given_back = True, False, list[int]()

    def may_start(self, request: TrialRequested, planned: PlannedPoint) -> bool:
        return self.open

    def release(self, request: TrialRequested) -> None:
        self.given_back.append(request.trial)


class World:
    """A search with all but Ray Tune around it."""

    def __init__(self, values: dict[str, Any], folder: Path) -> None:
        self.folder, self.shown, self.gate = folder, io.StringIO(), Gate()
        self.planner = PointPlanner(SweepSpec.parse(values), [])
        self.log = SweepLog(folder)
        mirror = open_mirror(new_store(folder / "mlflow.db"), "tiny", folder / "artifacts")
        events, screen = EventLog(folder), LiveScreen(Console(file=self.shown, width=500))
        view = SweepView(screen, self.planner.sweep, self.log)
        corpus = SimpleNamespace(folder=folder)
        context = SweepContext(
            sweep=self.planner.sweep,
            base=self.planner.base,
            folder=folder,
            trial_log=self.log,
            events=events,
            progress=TrialProgress(self.planner.sweep, mirror, events, view=view),
            corpora=SimpleNamespace(of=lambda study: corpus),  # type: ignore[arg-type]
            cluster=ClusterResources(cpus=4, gpus=0),
            queue=self.gate,  # type: ignore[arg-type]
            view=view,
            driver="driver",
        )
        self.search = TuneSearch([ArmSearch("", self.planner, self.log)], context)

    @property
    def lines(self) -> list[str]:
        """What was printed, without the time."""
        return [line.partition("] ")[2] for line in self.shown.getvalue().splitlines()]

    def suggest(self, name: str) -> TrialSpec:
        given = self.search.suggest(name)
        assert isinstance(given, dict), given
        return TrialSpec.model_validate_json(given[TRIAL_SPEC])

    def end(self, name: str, trial: int, state: Any = "finished", flops: float = 0.0) -> None:
        ended = TrialFinished(
            trial=trial, state=state, reason=None, metrics={}, runs=[], wall_seconds=0.0,
            working_seconds=0.0, training_seconds=0.0, flops=flops, accelerator_hours=0.0, time=0.0,
        )  # fmt: skip
        self.search.on_trial_complete(name, {OUTCOME: ended.model_dump_json()})

    def events(self) -> list[str]:
        return [event["event"] for event in read_events(self.folder)]


@pytest.fixture
def world(tiny_sweep: dict[str, Any], tmp_path: Path) -> World:
    """Four possible points; a process may die once."""
    tiny_sweep["study"]["resources"] = {"max_failures": 1}
    return World(tiny_sweep, tmp_path)


def test_a_trial_that_waits_is_the_next_one_that_starts(world: World) -> None:
    world.gate.open = False
    assert world.search.suggest("a") is None
    assert world.search.suggest("b") is None
    assert list(world.log.requests) == [1]
    world.gate.open = True
    assert [world.suggest("c").trial, world.suggest("d").trial] == [1, 2]
    world.gate.gave_up = True
    assert world.search.suggest("e") == "FINISHED"
    world.end("c", 1)
    assert world.gate.given_back == [1]


def test_a_dead_process_is_followed_by_another_and_then_the_trial_failed(world: World) -> None:
    first = world.suggest("a")
    assert (first.trial, first.reported_up_to, first.driver) == (1, 0.0, "driver")
    world.gate.open = False
    assert world.search.suggest("b") is None  # trial 2 waits
    world.search.on_trial_result("a", {SPENT: 0.5})
    world.search.on_trial_complete("a", None, error=True)
    assert world.gate.given_back == []
    assert not world.log.outcomes
    world.gate.open = True
    again = world.suggest("c")
    assert (again.trial, again.reported_up_to) == (1, 0.5)  # before the one that waits
    assert world.lines[-2] == "trial 1: the trial's process died; retry 1 of 1"
    assert world.events() == ["launched", "retried", "launched"]
    world.search.on_trial_complete("c", None, error=True)
    assert world.log.outcomes[1].state == "failed"
    assert "process died" in str(world.log.outcomes[1].reason)
    assert world.gate.given_back == [1]
    assert world.suggest("d").trial == 2


def test_a_trial_that_reports_that_it_failed_is_not_retried(world: World) -> None:
    world.suggest("a")
    world.end("a", 1, "failed")
    assert world.log.outcomes[1].state == "failed"
    assert world.suggest("b").trial == 2
    assert world.events() == ["launched", "failed", "launched"]


def test_the_search_is_not_over_while_a_process_can_die(world: World) -> None:
    trials = [world.suggest(str(number)).trial for number in range(4)]
    assert trials == [1, 2, 3, 4]
    assert world.search.suggest("x") is None
    for trial in (1, 2, 3):
        world.end(str(trial - 1), trial)
    world.search.on_trial_complete("3", None, error=True)
    assert world.suggest("4").trial == 4
    world.end("4", 4)
    assert world.search.suggest("y") == "FINISHED"
    assert sorted(world.log.outcomes) == [1, 2, 3, 4]


def test_a_trial_stopped_with_its_sweep_stays_open_and_gives_its_workers_back(
    world: World,
) -> None:
    world.suggest("a")
    world.search.request_stop()
    world.search.on_trial_complete("a", None, error=True)
    assert not world.log.outcomes
    assert world.gate.given_back == [1]
    assert world.search.suggest("b") == "FINISHED"


def test_what_a_dead_process_did_is_charged(world: World) -> None:
    """It trained from a checkpoint at step 20 to step 50; the next one reports its own part."""
    began = time.time()
    order = world.suggest("a")
    (run,) = world.planner.plan("", world.log.requests[1].point).runs
    folder = Ledger(Path(order.study.output)).run_folder(run.key)
    folder.mkdir(parents=True)
    journal = JournalWriter(folder / "journal.jsonl")
    journal.write("train", 30, began - 100, values={})  # of an earlier driver
    for step in (20, 35, 50):
        journal.write("train", step, time.time(), values={})
    world.search.on_trial_complete("a", None, error=True)
    world.suggest("b")
    world.end("b", 1, flops=7.0)
    ended = world.log.outcomes[1]
    spent = partial(run.spec.train_flops_at, convention="executed", charged=False)
    assert ended.flops == pytest.approx(spent(50) - spent(20) + 7)
    assert 0 < ended.accelerator_hours < 0.1
    assert ended.wall_seconds > 0
