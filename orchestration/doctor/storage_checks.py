"""Checks of a study's storage: room, locks that exclude, atomic renames, a clock that agrees."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestration.doctor.finding import Finding

# Far below the 90 s after which a lease is stale; a chosen value.
CLOCK_SECONDS = 2.0
SPARE_BYTES = 5e9  # a chosen value
TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1]) as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(3)
"""
HELD = 3


def storage(root: Path) -> Finding:
    """Whether the study's output folder can be written and has room left."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(root).free
    except OSError as error:
        remedy = "choose another output folder, or repair its permissions"
        return Finding("storage", "fail", f"{root}: {error.strerror}", remedy)
    enough = free > SPARE_BYTES
    remedy = "" if enough else "make room: checkpoints are kept there"
    return Finding("storage", "ok" if enough else "warn", f"{root}, {free / 1e9:.0f} GB", remedy)


def locks(root: Path) -> Finding:
    """Whether a lock that one process holds excludes another: leases depend on it.

    A second process tries it because some file systems (NFS) lock by process.
    """
    remedy = "mount it with locks (NFS 4, Lustre with -o flock), or choose another output folder"
    try:
        with tempfile.NamedTemporaryFile(dir=root) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            held = try_lock_elsewhere(file.name)
            fcntl.flock(file, fcntl.LOCK_UN)
            free = try_lock_elsewhere(file.name)
    except OSError as error:
        return Finding("locks", "fail", f"flock: {error.strerror}", remedy)
    if (held, free) == (HELD, 0):
        return Finding("locks", "ok", "a held lock keeps other processes out")
    detail = "two processes hold one lock" if held == 0 else "a released lock stays held"
    return Finding("locks", "fail", detail, remedy)


def try_lock_elsewhere(path: str) -> int:
    """Exit code of a process that tries to take the lock: 0 has it, HELD is excluded."""
    return subprocess.run(  # noqa: S603 (this interpreter, arguments of ours)
        [sys.executable, "-c", TRY_LOCK, path], check=False, stderr=subprocess.DEVNULL
    ).returncode


def renames(root: Path) -> Finding:
    """Whether a rename replaces a file atomically: ledgers and checkpoints depend on it."""
    remedy = "choose an output folder on a POSIX file system (no object store behind a mount)"
    try:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            old, new = Path(folder) / "file", Path(folder) / "new"
            old.write_text("old")
            new.write_text("new")
            with old.open() as reader:
                new.replace(old)
                seen = (reader.read(), old.read_text(), new.exists())
    except OSError as error:
        return Finding("renames", "fail", f"{error.strerror}", remedy)
    if seen == ("old", "new", False):
        return Finding("renames", "ok", "a file is replaced whole")
    return Finding("renames", "fail", "a reader of a replaced file sees a mixture", remedy)


def clock(root: Path) -> Finding:
    """Whether this machine's clock agrees with the storage's: leases compare times."""
    try:
        with tempfile.NamedTemporaryFile(dir=root) as file:
            difference = abs(Path(file.name).stat().st_mtime - time.time())
    except OSError as error:
        return Finding(
            "clock", "warn", f"not compared: {error.strerror}", "repair the storage first"
        )
    near = difference < CLOCK_SECONDS
    remedy = "" if near else "synchronise the clocks (chrony, ntp): leases would look stale"
    return Finding(
        "clock", "ok" if near else "fail", f"{difference:.2f} s off the storage's", remedy
    )
