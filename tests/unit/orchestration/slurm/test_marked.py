"""Processes with a job's mark are ended, wherever they went; no other is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from orchestration.slurm.marked import MARK, end_marked, marked_processes
from tests.waiting import until

# Leaves its parent and its process group, as Ray's daemons do, and ignores SIGTERM.
DAEMON = """
import os, signal, time
if os.fork():
    os._exit(0)
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(60)
"""
# A node whose process is killed by force: its guardian alone is left.
GUARDED = """
import os, signal, sys
from pathlib import Path
from orchestration.slurm.marked import guard
guard(sys.argv[1], Path(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def daemon(mark: str) -> None:
    subprocess.run([sys.executable, "-c", DAEMON], env={**os.environ, MARK: mark}, check=True)


def test_daemons_of_a_job_are_ended_and_those_of_another_are_not() -> None:
    mine, other = f"mine-{os.getpid()}", f"other-{os.getpid()}"
    try:
        for mark in (mine, other):
            daemon(mark)
            until(lambda mark=mark: len(marked_processes(mark)) == 1, "the daemon")
        assert end_marked(mine) == []
        assert marked_processes(mine) == []
        assert len(marked_processes(other)) == 1
        assert marked_processes(other, spare=marked_processes(other)) == []
    finally:
        end_marked(other)


def test_a_guardian_cleans_up_behind_a_killed_process(tmp_path: Path) -> None:
    mark, folder = f"guarded-{os.getpid()}", tmp_path / "job"
    folder.mkdir()
    daemon(mark)
    until(lambda: len(marked_processes(mark)) == 1, "the daemon")
    subprocess.run([sys.executable, "-c", GUARDED, mark, str(folder)], check=False)
    until(lambda: not marked_processes(mark) and not folder.exists(), "the guardian")
