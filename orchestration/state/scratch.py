"""Temporary folders on a machine's own disk, and the removal of those whose process is gone.

A process that is killed leaves its folders behind. Each holds a file that is locked as long as its
process lives, in whatever container: one whose lock can be taken is nobody's.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

log = logging.getLogger(__name__)

PREFIX = "cola-"
LOCK, CONTENT = "lock", "content"


class Scratch:
    """A new temporary folder `path`, empty, until `remove` is called or the process ends."""

    def __init__(self, purpose: str) -> None:
        """`purpose` is part of its name.

        Raises:
            OSError: there is no room.
        """
        root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{purpose}-"))
        self._remove = weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        self.path = root / CONTENT
        try:
            self._lock = held_lock(root / LOCK)
            self.path.mkdir()
        except OSError:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the folder; a second call does nothing."""
        self._remove()


@contextlib.contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A temporary folder that is removed at the end of the block.

    Raises:
        OSError: there is no room.
    """
    scratch = Scratch(purpose)
    try:
        yield scratch.path
    finally:
        scratch.remove()


def remove_abandoned(base: Path | None = None) -> list[Path]:
    """Remove this user's temporary folders of processes that are gone; returns them.

    They lie in `base`; None stands for the machine's temporary folder.
    """
    removed = []
    for root in (base or Path(tempfile.gettempdir())).glob(f"{PREFIX}*-*"):
        with contextlib.suppress(OSError):
            if root.stat().st_uid == os.getuid() and is_unlocked(root / LOCK):
                shutil.rmtree(root, ignore_errors=True)
                log.info("removed %s, which a process that is gone left behind", root)
                removed.append(root)
    return removed


def held_lock(path: Path) -> TextIOWrapper:
    """A new file whose lock this process holds until the file is closed, or the process ends.

    It gets its name once it is locked, so that nobody finds it without.

    Raises:
        OSError: there is no room.
    """
    unnamed = path.with_name(f"{path.name}.{os.getpid()}")
    lock = unnamed.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(path)
    return lock


def is_unlocked(lock: Path) -> bool:
    """Whether the file exists and no process holds its lock."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
