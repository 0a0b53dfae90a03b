"""Temporary folders: gone with their process, and removed by others only then."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.state.scratch import Scratch, remove_abandoned, scratch_folder

HOLD = """
import signal
from orchestration.state.scratch import Scratch
scratch = Scratch("checkpoint")
(scratch.path / "shard").write_text("weights")
print(scratch.path.parent, flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    mine = Scratch("resume")
    (tmp_path / "cola-mine-of-a-person").mkdir()  # no lock: not one of these folders
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdout=subprocess.PIPE,
        text=True,
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    assert remove_abandoned() == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (left / "content" / "shard").exists()
    assert remove_abandoned() == [left]
    assert not left.exists()
    assert mine.path.is_dir()
    assert (tmp_path / "cola-mine-of-a-person").is_dir()
    mine.remove()
    mine.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["cola-mine-of-a-person"]


def test_a_folder_lasts_as_long_as_its_block(tmp_path: Path) -> None:
    with scratch_folder("prefix") as folder:
        assert folder.is_dir()
        assert remove_abandoned() == []
    assert list(tmp_path.iterdir()) == []
