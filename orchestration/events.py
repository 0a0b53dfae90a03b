"""A study's event log: one JSON line for every start, end, stop and refusal, with its cause."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

FILE = "events.jsonl"


class EventLog:
    """Appends to `events.jsonl` in the study's folder; lines of several drivers may alternate."""

    def __init__(self, study_folder: Path) -> None:
        self._path = study_folder / FILE
        self._driver = f"{socket.gethostname()}:{os.getpid()}"

    def write(self, event: str, run: str | None = None, reason: str | None = None) -> None:
        """Record what happened (to a run, by name), and why."""
        line = {
            "time": time.time(),
            "driver": self._driver,
            "event": event,
            "run": run,
            "reason": reason,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
