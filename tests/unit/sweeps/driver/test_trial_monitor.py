"""A sweep's driver looks after the runs of its own trials: hung workers are ended and told of."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestration.driver import monitor as look_after
from orchestration.state.event_log import EventLog, read_events
from orchestration.state.heartbeat import Beat
from orchestration.state.ledger import LEASE_STALE_SECONDS, Ledger
from orchestration.state.paths import RunFolder
from sweeps.driver.trial_monitor import TrialMonitor
from sweeps.search.arm_search import ArmSearch
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from sweeps.trials.trial_spec import lease_name


def beat(folder: Path, step: int, attempt: int, pid: int) -> None:
    written = Beat(
        attempt=attempt, rank=0, pid=pid, host="here", node_id="n", step=step, time=0.0,
        seconds_per_step=0.1, data_wait_fraction=0.0, memory_gb=1.0,
    )  # fmt: skip
    path = RunFolder(folder).heartbeats / "rank-00000.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written.model_dump_json())


def test_hung_workers_of_own_trials_are_ended_and_of_no_others(
    tiny_sweep: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[tuple[str, int]] = []

    def end_workers(processes: Iterable[tuple[str, int]]) -> int:
        before = len(ended)
        ended.extend(processes)
        return len(ended) - before

    monkeypatch.setattr(look_after, "end_workers", end_workers)
    tiny_sweep["study"]["resources"] = {"hang_seconds": 1e-6}
    search = ArmSearch("", PointPlanner(SweepSpec.parse(tiny_sweep), []), SweepLog(tmp_path))
    trials = [found for _ in range(3) if (found := search.next()) is not None]
    said: list[str] = []
    monitor = TrialMonitor("mine", lambda: trials, EventLog(tmp_path), notify=said.append)
    root = Path(trials[0][1].study.output)
    # The third is carried out by a driver whose trial has the same number.
    owners = [lease_name("mine", 1), None, lease_name("other", 3)]
    folders = []
    for (_, planned), owner in zip(trials, owners, strict=True):
        ledger, key = Ledger(root, owner), planned.runs[0].key
        ledger.acquire(key)
        assert ledger.owner.startswith(f"{socket.gethostname()}:{os.getpid()}:")
        folders.append(ledger.run_folder(key))
    for step in (0, 5):  # a first step may take long: the second is what counts
        for place, folder in enumerate(folders):
            beat(folder, step, 1, 100 + place)
        monitor.check()
    monitor.check()
    assert ended == [("n", 100)]
    (line,) = said
    assert line.startswith("trial 1: hung: rank 0 (process 100 on here) has made no step for")
    (event,) = read_events(tmp_path)
    assert (event["event"], event["run"]) == ("hung", "trial001-cola-2e+10-seed66")

    # The trial's next process is another attempt: what the first one said last counts no more.
    again = Ledger(root, lease_name("mine", 1))
    again.close(trials[0][1].runs[0].key, "failed")
    again.acquire(trials[0][1].runs[0].key)
    monitor.check()
    assert len(ended) == 1
    for step in (5, 6):
        beat(folders[0], step, 2, 200)
        monitor.check()
    monitor.check()
    assert ended[1:] == [("n", 200)]


def test_a_run_that_another_driver_took_over_is_reported_once(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    search = ArmSearch("", PointPlanner(SweepSpec.parse(tiny_sweep), []), SweepLog(tmp_path))
    found = search.next()
    assert found is not None
    key, root = found[1].runs[0].key, Path(found[1].study.output)
    said: list[str] = []
    monitor = TrialMonitor("mine", lambda: [found], EventLog(tmp_path), notify=said.append)
    Ledger(root, lease_name("mine", 1)).acquire(key)
    monitor.check()
    later = time.time() + LEASE_STALE_SECONDS + 1
    other = Ledger(root, clock=lambda: later)
    other.acquire(key)
    for _ in range(2):
        monitor.check()
    assert said == [f"trial 1: run {key[:12]} was taken over by {other.owner}"]
