"""A study's event log: one JSON line for every start, end, fault, retry and refusal, with its
cause."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

FILE = "events.jsonl"


class EventLog:
    """Appends to `events.jsonl` in the study's folder; lines of several processes may alternate."""

    def __init__(self, study_folder: Path) -> None:
        self._path = study_folder / FILE
        self._writer = f"{socket.gethostname()}:{os.getpid()}"

    def write(
        self, event: str, run: str | None = None, reason: str | None = None, **values: Any
    ) -> None:
        """Record what happened (to a run, by name), why, and its numbers."""
        line = {
            "time": time.time(),
            "driver": self._writer,
            "event": event,
            "run": run,
            "reason": reason,
            **values,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_events(study_folder: Path) -> list[dict[str, Any]]:
    """All lines that are whole, in order."""
    path = study_folder / FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]
