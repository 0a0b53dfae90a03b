"""Heartbeats: a small file per worker, rewritten every few seconds while it makes steps.

A heartbeat identifies the worker and gives its step and speed; a driver takes a worker for hung
whose file has not changed for too long. The driver's own clock measures that time.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestration.state.paths import RunFolder


class Beat(BaseModel):
    """One worker's last report: `step` steps of the run are done; times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int
    rank: int
    pid: int
    host: str
    node_id: str  # Ray's
    step: int
    time: float  # Unix, by the worker's clock
    seconds_per_step: float | None
    data_wait_fraction: float | None  # of the time of its steps
    memory_gb: float

    @property
    def process(self) -> tuple[str, int]:
        """Identifies the worker's process in the cluster: Ray's node id, process id."""
        return self.node_id, self.pid


def read_beats(run_folder: Path, attempt: int | None = None) -> list[Beat]:
    """Last heartbeats of an attempt's workers (by default of the last one's), by rank."""
    beats = [
        beat
        for path in sorted(RunFolder(run_folder).heartbeats.glob("rank-*.json"))
        if (beat := _read(path)) is not None
    ]
    if attempt is None:
        attempt = max((beat.attempt for beat in beats), default=0)
    return [beat for beat in beats if beat.attempt == attempt]


def forget_beats(run_folder: Path) -> None:
    """Remove the files of earlier attempts."""
    for path in RunFolder(run_folder).heartbeats.glob("rank-*"):
        path.unlink(missing_ok=True)


def _read(path: Path) -> Beat | None:
    try:
        return Beat.model_validate_json(path.read_text())
    except (OSError, ValidationError):
        return None
