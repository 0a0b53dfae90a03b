"""Where a private Ray cluster keeps its sockets and logs, and the removal of old ones."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

import psutil

from orchestration.state.scratch import is_unlocked

log = logging.getLogger(__name__)

SOCKET_PATH_BYTES = 107  # `sun_path` of unix(7), less the closing zero
# The longest socket below a session's folder, with the longest process id of Linux.
SOCKET = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
FALLBACK = Path("/tmp")  # noqa: S108
SESSION_LOCK = "cola.lock"  # held by the driver of a session
KEPT_SESSIONS = 1  # of drivers that have ended: their logs say why a run failed


def ray_folder() -> Path:
    """The folder of this user's private clusters: below TMPDIR, or below /tmp where a socket's path
    would be too long."""
    return (FALLBACK if too_long() else Path(tempfile.gettempdir())) / f"ray-{os.getuid()}"


def too_long() -> str | None:
    """Why TMPDIR cannot be used, with the number of characters; None where it can."""
    base = tempfile.gettempdir()
    length = len(os.fsencode(f"{base}/ray-{os.getuid()}/{SOCKET}"))
    if length <= SOCKET_PATH_BYTES:
        return None
    return (
        f"TMPDIR={base}: a socket's path would have {length} of at most {SOCKET_PATH_BYTES} "
        f"characters; Ray uses {FALLBACK}"
    )


def remove_old_sessions(folder: Path, keep: int = KEPT_SESSIONS) -> list[Path]:
    """Remove the sessions of drivers that have ended, except the newest `keep`; returns them.

    A session counts as ended if its driver holds its lock no more, and no process of this machine
    names it. One without a lock is of an older release, or has not started yet: it is left alone.
    """
    ended = [path for path in folder.glob("session_*") if _has_ended(path)]
    # Their names begin with the time of their start.
    old = sorted(ended, key=lambda path: path.name)[: len(ended) - keep]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
        log.info("removed Ray's session %s, whose driver has ended", path)
    return old


def _has_ended(session: Path) -> bool:
    if session.is_symlink() or not session.is_dir() or session.stat().st_uid != os.getuid():
        return False
    return is_unlocked(session / SESSION_LOCK) and not _is_named_by_a_process(session.name)


def _is_named_by_a_process(name: str) -> bool:
    return any(
        name in argument
        for process in psutil.process_iter(["cmdline"])
        for argument in process.info["cmdline"] or ()
    )
