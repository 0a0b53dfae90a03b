"""Which process this is, so that another one can find out whether it lives.

A host's name and a process id are not enough: containers share names, ids are reused, and each PID
namespace counts its own. The kernel's boot, the namespace and the start of the process are.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
START_FIELD = 19  # of /proc/PID/stat after the command's name: field 22 of proc(5)
GONE = ("Z", "X")  # states of a process that has ended


class ProcessIdentity(BaseModel):
    """One process for good.

    Equal `clock`s share one monotonic clock: the kernel's boot and the time namespace. `started` is
    in clock ticks since the boot.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    clock: str
    namespace: str
    pid: int
    started: int

    def shares_clock(self, other: ProcessIdentity) -> bool:
        """Whether both processes read the same monotonic clock."""
        return bool(self.clock) and self.clock == other.clock

    def is_alive(self, seen_from: ProcessIdentity) -> bool | None:
        """Whether it lives; None where `seen_from`, which is this process, cannot see it."""
        same_namespace = self.namespace and self.namespace == seen_from.namespace
        if not (self.shares_clock(seen_from) and same_namespace and _proc_is_ours()):
            return None
        stat = _stat(str(self.pid))
        return stat is not None and stat[0] not in GONE and int(stat[START_FIELD]) == self.started


def this_process() -> ProcessIdentity:
    """The identity of this process; empty parts where the system does not give them."""
    stat, boot = _stat("self"), _text(BOOT_ID)
    return ProcessIdentity(
        clock=f"{boot}/{_link('time')}" if boot else "",
        namespace=_link("pid"),
        pid=os.getpid(),
        started=int(stat[START_FIELD]) if stat else 0,
    )


def _stat(process: str) -> list[str] | None:
    """The fields of a process from its state on; None where there is no such process."""
    text = _text(Path("/proc") / process / "stat")
    # The command's name, in brackets, may hold spaces and brackets.
    return text.rpartition(")")[2].split() if text else None


def _proc_is_ours() -> bool:
    """Whether /proc counts processes as this process does: a namespace may have kept another's."""
    try:
        return str(Path("/proc/self").readlink()) == str(os.getpid())
    except OSError:
        return False


def _link(kind: str) -> str:
    try:
        return str(Path(f"/proc/self/ns/{kind}").readlink())
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
