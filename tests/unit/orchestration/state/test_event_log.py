"""A full disk loses no event and ends nothing; failures of workers reach the driver once."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from orchestration.state.event_log import Event, EventLog, FailureReader, read_events


def test_what_the_disk_does_not_take_is_written_with_the_next_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, events = tmp_path / "events.jsonl", EventLog(tmp_path)
    path.mkdir()  # as a full disk: nothing can be appended
    events.write(Event.LAUNCHED, "ar-1")
    events.write(Event.HUNG, "ar-1")
    assert f"{path}: an event is not written" in caplog.text
    path.rmdir()
    events.write(Event.FINISHED, "ar-1")
    assert [line["event"] for line in read_events(tmp_path)] == ["launched", "hung", "finished"]


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"0" * 4096):
            pass


def test_a_full_disk_loses_no_event(small_disk: Path) -> None:
    events = EventLog(small_disk)
    events.write(Event.LAUNCHED, "ar-1")
    filler = small_disk / "filler"
    fill(filler)
    for number in range(200):  # more than the last page of the log has room for
        events.write(Event.WAITING, f"ar-{number}", "x" * 100)
    filler.unlink()
    events.write(Event.FINISHED, "ar-1")
    assert len(read_events(small_disk)) == 202


def test_failures_of_workers_are_read_once_and_from_now_on(tmp_path: Path) -> None:
    events = EventLog(tmp_path)
    events.write(Event.WORKERS_FAILED, "ar-1", "an earlier driver's", attempt=1)
    reader = FailureReader(tmp_path)
    assert reader.new_failures() == []
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "workers failed", "torn\n[1]\n')
    events.write(Event.WORKERS_STARTED, "ar-1", step=3)
    events.write(Event.WORKERS_FAILED, "ar-1", "rank 0: OSError", attempt=2)
    events.write(Event.OUT_OF_MEMORY, "ar-1", "the driver's own", attempt=2)
    events.write(Event.OUT_OF_MEMORY, "ar-1", "a group's", attempt=2, ranks=[1])
    assert [event["reason"] for event in reader.new_failures()] == ["rank 0: OSError", "a group's"]
    assert reader.new_failures() == []


def test_values_of_an_event_are_plain_json(tmp_path: Path) -> None:
    EventLog(tmp_path).write(Event.LEASE_TAKEN, "ar-1", "from a driver", attempt=2)
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(line)["attempt"] == 2
