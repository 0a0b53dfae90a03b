"""The processes that a job has started on a node, found by a mark in their environment.

Ray's daemons leave their process group and their parent, and without control groups Slurm loses
sight of them. Their environment stays: a process of this user with the job's mark is the job's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Collection
from pathlib import Path

MARK = "COLA_JOB_MARK"
ROUNDS = 50  # processes may be starting others while they are being ended; a chosen value
ROUND_SECONDS = 0.1  # for the kernel to remove them; a chosen value


def marked_processes(mark: str, spare: Collection[int] = ()) -> list[int]:
    """Ids of this machine's processes that have the mark; those of other users are not seen."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) in spare:
            continue
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def end_marked(mark: str, spare: Collection[int] = ()) -> list[int]:
    """SIGKILL to every process with the mark until none is left; returns those that are."""
    for _ in range(ROUNDS):
        found = marked_processes(mark, spare)
        if not found:
            return []
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        reap_children()
        time.sleep(ROUND_SECONDS)
    return marked_processes(mark, spare)


def reap_children() -> None:
    """Take the exit codes of orphans that this process has adopted: their entries vanish then."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def guard(mark: str, folder: Path) -> int:
    """Fork a guardian that cleans up once this process has ended, even by SIGKILL.

    It ends the processes with the mark and removes the folder. Returns the descriptor that keeps it
    waiting; the kernel closes it with this process.
    """
    reads, writes = os.pipe()
    if os.fork():
        os.close(reads)
        return writes
    try:
        os.setsid()
        os.close(writes)
        for standard in (0, 1, 2):  # it must not hold open what others wait for
            os.dup2(os.open(os.devnull, os.O_RDWR), standard)
        os.read(reads, 1)
        end_marked(mark, spare=(os.getpid(),))
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
