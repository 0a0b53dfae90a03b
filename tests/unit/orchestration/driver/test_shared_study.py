"""Several drivers of one study at once: every run once, no driver waits for another's."""

from __future__ import annotations

import io
import itertools
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cola.data import prepare
from cola.errors import SpecError
from cola.study import StudySpec
from orchestration.cluster.admission_queue import QueueReply
from orchestration.cluster.packing import RunRequest
from orchestration.driver import launcher as launching
from orchestration.driver.launcher import Launcher
from orchestration.driver.progress import StudyView
from orchestration.driver.study_runner import TRAINED, StudyResult
from orchestration.planning.decisions import check_rungs, decide, of_rungs
from orchestration.planning.plan import plan_study
from orchestration.state.event_log import read_events
from orchestration.state.ledger import Ledger
from orchestration.state.paths import OutputFolder, RunFolder, output_root, study_folder
from orchestration.tracking.mirror import Mirror
from orchestration.worker.assignment import Assignment, RunOutcome
from tests.factories import exported_model


class OneAtATime:
    """A private cluster that holds one run."""

    def update(
        self, owner: str, now: float, requests: Sequence[RunRequest], *, held: Sequence[Any]
    ) -> QueueReply:
        return QueueReply({} if held else {request.id: 1 for request in requests[:1]}, {})

    def leave(self, owner: str) -> None:
        pass


def trained(assignment: Assignment) -> None:
    """In place of Ray Train: a run that finishes."""
    exported_model(Path(assignment.run_folder))
    outcome = RunOutcome(
        state="finished", attempt=assignment.attempt, reason=None, step=1, order_digests={}
    )
    RunFolder(Path(assignment.run_folder)).outcome.write_text(outcome.model_dump_json())


def together(drivers: int) -> Callable[[Assignment], None]:
    """`trained`, but no driver ends its first run before every one has begun one."""
    first, everyone = itertools.count(), threading.Barrier(drivers)

    def fit_run(assignment: Assignment) -> None:
        if next(first) < drivers:  # each has one run at a time
            everyone.wait(timeout=60)
        trained(assignment)

    return fit_run


@pytest.fixture
def study(tiny_study: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> StudySpec:
    monkeypatch.setattr(launching, "fit_run", trained)
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.01)
    return StudySpec.parse(tiny_study | {"families": {"ar": {}}, "seeds": list(range(6))})


def drive(
    study: StudySpec,
    drivers: int,
    again: Sequence[str] = (),
    rungs: Collection[int] | None = None,
) -> list[Launcher]:
    """So many drivers of the study at once, each to its end; `again`: keys of runs to resume."""
    root, plan = output_root(study), plan_study(study)
    data = prepare(study.data, OutputFolder(root).cache)
    launchers = []
    for _ in range(drivers):
        mirror = Mirror(None)  # type: ignore[arg-type]  # never started: sends nothing
        view = StudyView(Console(file=io.StringIO(), width=300))
        launchers.append(
            Launcher(study, plan, data, ledger=Ledger(root), mirror=mirror, view=view, joined=True)
        )
    threads = [
        threading.Thread(target=run_all, args=(each, study, again, rungs)) for each in launchers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return launchers


def run_all(
    launcher: Launcher, study: StudySpec, again: Sequence[str], rungs: Collection[int] | None
) -> None:
    decided = of_rungs(decide(plan_study(study), launcher.ledger, study_folder(study)), rungs)
    decisions = [
        replace(each, action="resume") if each.run.key in again else each for each in decided
    ]
    for decision in decisions:
        launcher.admit(decision)
    launcher.run([each.run for each in decisions if each.action in TRAINED], OneAtATime())


def test_three_drivers_train_every_run_once(
    study: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "fit_run", together(3))
    launchers = drive(study, 3)
    ledger = Ledger(output_root(study))
    entries = [ledger.entry(run.key) for run in plan_study(study)]
    assert [entry.state for entry in entries] == ["finished"] * 6
    assert [len(entry.attempts) for entry in entries] == [1] * 6
    assert sum(launcher.launched for launcher in launchers) == 6
    assert min(launcher.launched for launcher in launchers) >= 1
    events = Counter(event["event"] for event in read_events(study_folder(study)))
    assert (events["launched"], events["finished"]) == (6, 6)


def test_a_finished_run_whose_model_is_lost_is_trained_again(
    study: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one of the drivers, and the others leave it to that one."""
    drive(study, 1)
    ledger, lost = Ledger(output_root(study)), [run.key for run in plan_study(study)][:2]
    for key in lost:
        shutil.rmtree(RunFolder(ledger.run_folder(key)).model)
    monkeypatch.setattr(launching, "fit_run", together(2))
    assert [launcher.launched for launcher in drive(study, 2, again=lost)] == [1, 1]
    attempts = [len(ledger.entry(run.key).attempts) for run in plan_study(study)]
    assert attempts == [2, 2, 1, 1, 1, 1]


def test_a_driver_leaves_while_another_one_trains_the_last_run(
    study: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one whose run is given back by its driver is trained by the driver that is left."""
    first, *_, last = plan_study(study)
    other = Ledger(output_root(study))
    other.acquire(first.key)
    other.acquire(last.key)

    def given_back(assignment: Assignment) -> None:
        if other.holds(first.key):
            other.close(first.key, "interrupted")
        trained(assignment)

    monkeypatch.setattr(launching, "fit_run", given_back)
    (launcher,) = drive(study, 1)
    assert launcher.launched == 5
    assert other.entry(first.key).state == "finished"
    assert other.entry(last.key).state == "running"


def test_a_driver_of_some_rungs_trains_their_runs_alone(
    study: StudySpec, tiny_study: dict[str, Any]
) -> None:
    """Not even those of another rung whose driver leaves while it is there."""
    ladder = [{"budget": b, "core_parameters": 60_000} for b in (2e10, 3e10, 4e10)]
    study = StudySpec.parse(
        tiny_study | {"families": {"ar": {}}, "ladder": ladder, "seeds": [0, 1]}
    )
    plan = plan_study(study)
    other = Ledger(output_root(study))
    other.acquire(plan[0].key)
    decisions = of_rungs(decide(plan, Ledger(output_root(study)), study_folder(study)), {1, 2})
    assert [each.action for each in decisions] == ["left"] * 2 + ["start"] * 4
    (idle,) = drive(study, 1, rungs=set())
    assert not idle.mirror.follows(plan[0].key)  # its own driver sends MLflow how it ends
    other.close(plan[0].key, "interrupted")
    (launcher,) = drive(study, 1, rungs={1, 2})
    assert launcher.launched == 4
    states = [other.entry(run.key).state for run in plan]
    assert states == ["interrupted", "new", *["finished"] * 4]
    with pytest.raises(SpecError, match=r"^--rungs 0,7: the study has no rung 7; its rungs are"):
        check_rungs({0, 7}, plan)


def test_a_study_is_complete_for_a_driver_when_its_rungs_are() -> None:
    """The report waits for runs that are still to come, and not for those that have failed."""
    states = {"small": "new", "large": "finished"}
    result = StudyResult(states, 1, False, [], of_other_rungs=["small"])
    assert (result.complete, result.left_to_others, result.to_come) == (False, True, ["small"])
    failed = StudyResult({**states, "small": "failed"}, 1, False, [], of_other_rungs=["small"])
    assert (failed.left_to_others, failed.to_come) == (True, [])
    own = StudyResult({**states, "large": "failed"}, 1, False, [], of_other_rungs=["small"])
    assert not own.left_to_others
