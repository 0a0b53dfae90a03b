"""The processes that a job has started on a node, wherever they went.

Ray's daemons leave their process group and their parent, and without control groups Slurm loses
sight of them. Three things stay: a mark in their environment, which some of them overwrite with a
title; files that they hold open in the job's folder; and, while the node's process lives, that it
is above all of them. Only processes of this user are seen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "COLA_JOB_MARK"
ROUNDS = 50  # processes may be starting others while they are being ended; a chosen value
ROUND_SECONDS = 0.1  # for the kernel to remove them; a chosen value


def process_ids() -> list[int]:
    """Ids of this machine's processes."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def has_mark(pid: int, mark: str) -> bool:
    """Whether a process was started with the mark; not, once it has ended or is another user's."""
    with contextlib.suppress(OSError):
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def has_files_in(pid: int, folder: Path) -> bool:
    """Whether a process holds files of the folder open."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if Path(entry.path).readlink().is_relative_to(folder):
                    return True
    return False


def below(pid: int) -> list[int]:
    """Ids of the living processes below a process."""
    parents: dict[int, int] = {}
    for each in process_ids():
        with contextlib.suppress(OSError, ValueError):
            # The name before it, in brackets, may hold anything.
            state, parent = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[each] = int(parent)
    found = {pid}
    while more := {each for each, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})


def job_processes(mark: str, folder: Path, guardian: int | None = None) -> list[int]:
    """Ids of the processes with the mark, or with files in the folder; not this process.

    A node's process, which has a `guardian`, also counts what is below it but for that.
    """
    found = {each for each in process_ids() if has_mark(each, mark) or has_files_in(each, folder)}
    if guardian is not None:
        found |= set(below(os.getpid()))
    return sorted(found - {os.getpid(), guardian})


def end_processes(mark: str, folder: Path, guardian: int | None = None) -> list[int]:
    """SIGKILL to all of a job's processes until none is left; returns those that are."""
    for _ in range(ROUNDS):
        found = job_processes(mark, folder, guardian)
        if not found:
            return []
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(ROUND_SECONDS)
        reap_children()
    return job_processes(mark, folder, guardian)


def reap_children() -> None:
    """Take the exit codes of orphans that this process has adopted: their entries vanish then."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def guard(mark: str, folder: Path) -> tuple[int, int]:
    """Fork a guardian that cleans up once this process has ended, even by SIGKILL.

    It ends the job's processes and removes the folder. Returns its id, and the descriptor that
    keeps it waiting; the kernel closes it with this process.
    """
    reads, writes = os.pipe()
    if guardian := os.fork():
        os.close(reads)
        return guardian, writes
    try:
        os.setsid()
        os.close(writes)
        for standard in (0, 1, 2):  # it must not hold open what others wait for
            os.dup2(os.open(os.devnull, os.O_RDWR), standard)
        os.read(reads, 1)
        end_processes(mark, folder)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os._exit(0)


def adopt_orphans() -> None:
    """Make this process the parent of orphans below it (Linux; elsewhere nothing is done)."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    set_child_subreaper = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
    ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)
