"""Files that ask a sweep, or one of its runs, to stop."""

from __future__ import annotations

import logging
from pathlib import Path

from orchestration.state.paths import RunFolder
from sweeps.space.storage import storage_errors

log = logging.getLogger(__name__)

SWEEP_STOP = "stop"  # in the sweep's folder: all of its trials are to stop


def is_sweep_stopping(sweep_folder: Path) -> bool:
    """Whether a person asked the whole sweep to stop."""
    return (sweep_folder / SWEEP_STOP).exists()


def request_stop(run_folder: Path, reason: str) -> None:
    """Ask a run's workers to save a checkpoint after their next step and leave.

    Raises:
        StorageError: the file that asks them cannot be written.
    """
    path = RunFolder(run_folder).stop
    log.info("%s: asked to stop: %s", run_folder.name[:12], reason)
    with storage_errors(path, remedy="make room, or end the run's process, which does not stop"):
        run_folder.mkdir(parents=True, exist_ok=True)
        path.write_text(reason, encoding="utf-8")


def stop_reason(run_folder: Path) -> str | None:
    """Why the run was asked to stop; None where it was not, or without a reason."""
    path = RunFolder(run_folder).stop
    return (path.read_text(encoding="utf-8") or None) if path.exists() else None
