"""Heartbeats: training does not depend on them, and only the newest attempt sends them."""

from __future__ import annotations

from pathlib import Path

from orchestration.state.fence import AttemptFence
from orchestration.state.heartbeat import read_beats
from orchestration.state.paths import RunFolder
from orchestration.worker.heartbeat import Heartbeat, WorkerIdentity


def test_a_heartbeat_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path).heartbeats
    folder.write_text("in place of the folder: refused as by a full disk")
    heartbeat = Heartbeat(tmp_path, WorkerIdentity(1, 0, "node"), 3)
    folder.unlink()
    heartbeat._written = 0.0
    heartbeat.keep_alive()
    assert [(beat.attempt, beat.step) for beat in read_beats(tmp_path)] == [(1, 3)]
    assert [path.name for path in folder.iterdir()] == ["rank-00000.json"]


def test_a_superseded_attempt_sends_none(tmp_path: Path) -> None:
    RunFolder(tmp_path).ledger.write_text('{"attempts": [{}, {}]}')
    for attempt in (2, 1):
        fence = AttemptFence(tmp_path, attempt)
        Heartbeat(tmp_path, WorkerIdentity(attempt, 0, "node"), 3, fence=fence)
    assert [beat.attempt for beat in read_beats(tmp_path, 2)] == [2]
