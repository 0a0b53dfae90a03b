"""Where Ray's sockets and logs are, and which old sessions are removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestration.cluster.temporary_folder import (
    SOCKET_PATH_BYTES,
    ray_folder,
    remove_old_sessions,
    too_long,
)
from orchestration.state.scratch import held_lock

SESSION = "session_2026-11-28_08-29-{:02d}_123456_{}"


def test_the_temporary_folder_is_used_up_to_the_length_of_a_sockets_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = f"ray-{os.getuid()}"
    longest = SOCKET_PATH_BYTES - len(f"/{own}/session_2026-01-01_00-00-00_000000_4194304")
    longest -= len("/sockets/plasma_store")
    for length, used in ((19, True), (24, True), (longest, True), (longest + 1, False)):
        base = "/tmp/" + "x" * (length - 5)
        monkeypatch.setattr("tempfile.tempdir", base)
        assert ray_folder() == Path(base if used else "/tmp") / own
        problem = too_long()
        assert (problem is None) == used
        assert problem is None or f"{SOCKET_PATH_BYTES + 1} of at most 107" in problem


def test_bytes_count_in_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp/" + "ü" * 25)
    assert too_long() is not None


def test_sessions_of_drivers_that_have_ended_are_removed_up_to_the_newest(tmp_path: Path) -> None:
    ended = [tmp_path / SESSION.format(second, 900_000 + second) for second in range(3)]
    living, unlocked = tmp_path / SESSION.format(9, 5), tmp_path / SESSION.format(8, 6)
    for folder in (*ended, living, unlocked):
        folder.mkdir()
    for folder in ended:
        held_lock(folder / "cola.lock").close()
    lock = held_lock(living / "cola.lock")
    (tmp_path / "session_latest").symlink_to(living)
    assert remove_old_sessions(tmp_path) == ended[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [ended[2].name, living.name, unlocked.name, "session_latest"]
    )
    lock.close()
    assert remove_old_sessions(tmp_path) == ended[2:]
