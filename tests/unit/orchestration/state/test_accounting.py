"""Accelerator hours by the ledger, and the event log."""

from __future__ import annotations

from pathlib import Path

import pytest

from cola.spec.resources import ResourcesSpec
from orchestration.state.accounting import accelerator_hours
from orchestration.state.event_log import EventLog, read_events
from orchestration.state.ledger import Attempt, Entry, Lease

HOUR = 3600.0


def test_hours_count_attempts_of_all_kinds() -> None:
    ended = Attempt(started=0.0, ended=HOUR)
    running = Attempt(started=2 * HOUR)
    lease = Lease(owner="host:1:x", refreshed=2.5 * HOUR)
    entries = [
        Entry(run_key="a", state="finished", attempts=[ended, ended]),
        Entry(run_key="b", state="running", attempts=[ended, running], lease=lease),
        Entry(run_key="c", state="new"),
    ]
    resources = ResourcesSpec(workers=4, gpus_per_worker=1, cpus_per_worker=8)
    same = [(entry, resources) for entry in entries]
    assert accelerator_hours(same, 3 * HOUR) == pytest.approx(4 * (2 + 1 + 1))
    cores = ResourcesSpec(workers=2, cpus_per_worker=3)
    assert accelerator_hours([(entries[0], cores)], 0.0) == pytest.approx(2 * 3 * 2)
    mixed = [(entries[0], cores), (entries[1], resources)]
    assert accelerator_hours(mixed, 3 * HOUR) == pytest.approx(2 * 3 * 2 + 4 * (1 + 1))


def test_events_are_lines_that_say_why(tmp_path: Path) -> None:
    EventLog(tmp_path).write("launched", "ar-1", "attempt 1")
    EventLog(tmp_path).write("failed", "ar-1", "out of memory")
    lines = read_events(tmp_path)
    assert [(line["event"], line["run"], line["reason"]) for line in lines] == [
        ("launched", "ar-1", "attempt 1"),
        ("failed", "ar-1", "out of memory"),
    ]
    assert lines[0]["time"] <= lines[1]["time"]
