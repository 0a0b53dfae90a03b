"""Processes with a job's mark are ended, wherever they went; no other is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from orchestration.slurm.marked import (
    MARK,
    end_processes,
    has_files_in,
    has_mark,
    process_ids,
)
from tests.waiting import until

# Leaves its parent and its process group, as Ray's daemons do, and ignores SIGTERM.
DAEMON = """
import os, signal, sys
if os.fork():
    os._exit(0)
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = open(sys.argv[1], "w") if len(sys.argv) > 1 else None
signal.sigtimedwait([], 60)
"""
# A node whose process is killed by force: its guardian alone is left.
GUARDED = """
import os, signal, sys
from pathlib import Path
from orchestration.slurm.marked import guard
guard(sys.argv[1], Path(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""
# A node that ends a daemon without a mark, which it has adopted.
ADOPTING = """
import subprocess, sys
from pathlib import Path
from orchestration.slurm.marked import adopt_orphans, below, end_processes
import os
adopt_orphans()
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
print(len(below(os.getpid())), end_processes("none", Path("/nowhere"), 0), below(os.getpid()))
"""


def daemon(mark: str | None, file: Path | None = None) -> None:
    environment = {**os.environ, **({} if mark is None else {MARK: mark})}
    command = [sys.executable, "-c", DAEMON, *([] if file is None else [str(file)])]
    subprocess.run(command, env=environment, check=True)


def marked(mark: str) -> list[int]:
    return [pid for pid in process_ids() if has_mark(pid, mark)]


def holding(folder: Path) -> list[int]:
    return [pid for pid in process_ids() if has_files_in(pid, folder)]


def test_daemons_of_a_job_are_ended_and_those_of_another_are_not(tmp_path: Path) -> None:
    mine, other = f"mine-{os.getpid()}", f"other-{os.getpid()}"
    (tmp_path / "job").mkdir()
    try:
        daemon(mine)
        daemon(other)
        daemon(None, tmp_path / "job" / "log")  # its title took the place of the mark
        until(
            lambda: bool(marked(mine) and marked(other) and holding(tmp_path / "job")),
            "the daemons",
        )
        assert end_processes(mine, tmp_path / "job") == []
        assert (marked(mine), holding(tmp_path / "job")) == ([], [])
        assert len(marked(other)) == 1
    finally:
        end_processes(other, tmp_path / "job")


def test_a_node_ends_what_it_has_adopted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ADOPTING, DAEMON], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "[]", "[]"]


def test_a_guardian_cleans_up_behind_a_killed_process(tmp_path: Path) -> None:
    mark, folder = f"guarded-{os.getpid()}", tmp_path / "job"
    folder.mkdir()
    daemon(mark)
    until(lambda: len(marked(mark)) == 1, "the daemon")
    subprocess.run([sys.executable, "-c", GUARDED, mark, str(folder)], check=False)
    until(lambda: not folder.exists(), "the guardian")
    assert marked(mark) == []
