"""What a driver makes of its runs' journals and signs of life."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.driver import monitor
from orchestration.driver.monitor import RunMonitor, WorkerStart, report_failures, report_starts
from orchestration.planning.plan import plan_study
from orchestration.state.event_log import EventLog, read_events
from orchestration.state.heartbeat import Beat, read_beats
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import RunFolder


def beat(folder: Path, step: int, rank: int = 0, pid: int = 1, attempt: int = 1) -> Beat:
    written = Beat(
        attempt=attempt, rank=rank, pid=pid, host="here", node_id="n", step=step, time=float(step),
        seconds_per_step=0.1, data_wait_fraction=0.0, memory_gb=1.0,
    )  # fmt: skip
    path = RunFolder(folder).heartbeats / f"rank-{rank:05d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written.model_dump_json())
    return written


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(monitor, "time", made)
    return made


def start(journal: JournalWriter, step: int, attempt: int = 1) -> None:
    values = {"event": "start", "attempt": attempt, "workers": 2, "pid": step}
    journal.write("event", step, time.time(), values=values)


def test_starts_and_what_is_carried_out_twice(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "journal.jsonl")
    watch = RunMonitor(tmp_path, 2)
    start(journal, 0)
    journal.write("train", 40, 0.0, values={"train/loss": 1.0})
    start(journal, 30, attempt=2)
    assert watch.starts() == [WorkerStart(30, False, 10, 2)]
    beat(tmp_path, 57, attempt=2)
    journal.write("train", 50, 0.0, values={"train/loss": 1.0})
    assert watch.starts() == []
    start(journal, 45, attempt=2)
    assert watch.starts() == [WorkerStart(45, True, 12, 2)]


def test_all_workers_silent_are_hung_and_some_are_not(tmp_path: Path, clock: Clock) -> None:
    watch = RunMonitor(tmp_path, 1)
    beat(tmp_path, 0, pid=1)
    beat(tmp_path, 0, rank=1, pid=2)
    assert watch.hung(10) == []
    both = [beat(tmp_path, 5, pid=1), beat(tmp_path, 5, rank=1, pid=2)]
    assert watch.hung(10) == []
    clock.now += 9
    both[1] = beat(tmp_path, 6, rank=1, pid=2)
    assert watch.hung(10) == []
    clock.now += 2  # the first has been silent for 11 s, the second for 2
    assert watch.hung(10) == []
    clock.now += 9
    assert watch.hung(10) == both
    # Their files are still there, and are those of processes that are being replaced.
    watch.forget(both)
    clock.now += 1000
    assert watch.hung(10) == []


def test_a_first_step_may_take_its_time(tmp_path: Path, clock: Clock) -> None:
    watch = RunMonitor(tmp_path, 1)
    first = beat(tmp_path, 7)
    assert watch.hung(1) == []
    clock.now += monitor.START_SECONDS - 1
    assert watch.hung(1) == []
    clock.now += 2
    assert watch.hung(1) == [first]


def test_beats_of_other_attempts_and_torn_files_are_none(tmp_path: Path) -> None:
    mine = beat(tmp_path, 5, attempt=2)
    beat(tmp_path, 9, rank=1, attempt=1)
    (RunFolder(tmp_path).heartbeats / "rank-00002.json").write_text('{"attempt": 2')
    assert read_beats(tmp_path) == read_beats(tmp_path, 2) == [mine]


def test_a_damaged_checkpoint_is_reported_once(tiny_study: dict[str, Any], tmp_path: Path) -> None:
    (run, *_) = plan_study(StudySpec.parse(tiny_study))
    journal = JournalWriter(tmp_path / "journal.jsonl")
    watch, events, lines = RunMonitor(tmp_path, 2, tmp_path), EventLog(tmp_path), list[str]()
    damaged = ["attempt-1/step-000000040"]
    values = {"event": "start", "attempt": 2, "workers": 1, "pid": 1, "damaged": damaged}
    journal.write("event", 30, time.time(), values=values)
    for _ in range(2):
        report_starts(run, watch, events, notify=lines.append)
    expected = f"checkpoint {damaged[0]} is damaged; training resumes from step 30"
    assert lines == [expected]
    found = [event for event in read_events(tmp_path) if event["event"] == "checkpoint damaged"]
    assert [event["reason"] for event in found] == [expected]


def test_failed_workers_of_this_attempt_are_reported_with_their_logs(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    run, other = plan_study(StudySpec.parse(tiny_study))[:2]
    watch, events, lines = RunMonitor(tmp_path, 2, tmp_path), EventLog(tmp_path), list[str]()
    for name, attempt in ((run.name, 1), (other.name, 2), (run.name, 2)):
        events.write("workers failed", name, f"of {attempt}", attempt=attempt, logs="vm:/w-*.err")
    for _ in range(2):
        report_failures(run, watch, notify=lines.append)
    assert lines == ["workers failed: of 2; logs: vm:/w-*.err"]
