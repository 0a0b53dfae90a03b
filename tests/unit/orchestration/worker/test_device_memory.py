"""The micro-batch that workers start with, and what they write down after a shortage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.driver.attempt import assignment_of
from orchestration.driver.monitor import RunMonitor, report_starts
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.shared_prefixes import PrefixPlan
from orchestration.state.event_log import EventLog, read_events
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalReader, JournalWriter
from orchestration.state.paths import RunFolder
from orchestration.step.micro_batch import Shortage
from orchestration.training.distributed import WorkerRank
from orchestration.worker.assignment import Assignment
from orchestration.worker.device_memory import shortage_recorder, starting_micro_batch

SHORTAGE = Shortage(7, 4, 2, "CUDA out of memory. Tried to allocate 2.00 GiB")


def planned(tiny_study: dict[str, Any], micro: int | None) -> tuple[PlannedRun, Assignment]:
    changes = {"families": {"ar": {}}, "resources": {"micro_batch_sequences": micro}}
    study = StudySpec.parse(tiny_study | changes)
    (run,) = plan_study(study)
    assignment = assignment_of(
        run,
        study,
        Path(study.output),
        data_folder=Path(study.output),
        attempt=1,
        prefixes=PrefixPlan(),
        preemptible=False,
    )
    Path(assignment.run_folder).mkdir(parents=True)
    return run, assignment


@pytest.mark.parametrize(("micro", "begun"), [(None, None), (4, 4), (1, 1)])
def test_workers_that_start_again_begin_with_what_a_shortage_left(
    micro: int | None, begun: int | None, tiny_study: dict[str, Any]
) -> None:
    _, assignment = planned(tiny_study, micro)
    assert assignment.fit_micro_batch == (micro is None)
    folder, worker = Path(assignment.run_folder), WorkerRank()
    assert starting_micro_batch(assignment, worker) == begun
    fence = AttemptFence(folder, 1)
    shortage_recorder(assignment, worker, None, fence=fence)(SHORTAGE)
    assert starting_micro_batch(assignment, worker) == min(2, micro or 2)
    # It is no other sharding's.
    resources = assignment.resources.model_copy(update={"zero_stage": 2})
    other = assignment.model_copy(update={"resources": resources})
    assert starting_micro_batch(other, worker) == micro
    RunFolder(folder).micro_batch.write_text('{"micro_batch_sequences": "many"}')
    assert starting_micro_batch(assignment, worker) == begun


def test_a_shortage_is_an_event_of_the_run_and_of_its_study(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    run, assignment = planned(tiny_study, None)
    folder = Path(assignment.run_folder)
    journal, fence = JournalWriter(RunFolder(folder).journal), AttemptFence(folder, 1)
    shortage_recorder(assignment, WorkerRank(), journal, fence=fence)(SHORTAGE)
    (line,) = JournalReader(RunFolder(folder).journal).new_lines()
    reason = (
        "micro-batches of 4 sequences do not fit the device's memory at step 8 (CUDA out of "
        "memory. Tried to allocate 2.00 GiB); training resumes with 2"
    )
    assert (line.kind, line.step) == ("event", 7)
    assert line.values == {
        "event": "out of memory",
        "attempt": 1,
        "reason": reason,
        "micro_batch_sequences": 2,
    }
    shown: list[str] = []
    report_starts(run, RunMonitor(folder, 1), EventLog(tmp_path), notify=shown.append)
    assert shown == [f"out of memory: {reason}"]
    (event,) = read_events(tmp_path)
    assert (event["event"], event["run"], event["reason"]) == ("out of memory", run.name, reason)


def test_of_several_workers_only_the_size_is_written(tiny_study: dict[str, Any]) -> None:
    """Their controller writes the event, whichever of them was short of memory."""
    _, assignment = planned(tiny_study, None)
    folder, worker = Path(assignment.run_folder), WorkerRank(0, 2)
    journal, fence = JournalWriter(RunFolder(folder).journal), AttemptFence(folder, 1)
    shortage_recorder(assignment, worker, journal, fence=fence)(SHORTAGE)
    assert RunFolder(folder).journal.read_text() == ""
    assert '"workers": 2' in RunFolder(folder).micro_batch.read_text()


def test_an_attempt_that_is_superseded_writes_nothing(tiny_study: dict[str, Any]) -> None:
    _, assignment = planned(tiny_study, None)
    folder = Path(assignment.run_folder)
    RunFolder(folder).ledger.write_text('{"attempts": [{}, {}]}')
    shortage_recorder(assignment, WorkerRank(), None, fence=AttemptFence(folder, 1))(SHORTAGE)
    assert not RunFolder(folder).micro_batch.exists()
