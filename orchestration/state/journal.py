"""A run's metrics as JSON lines on disk: the record that MLflow mirrors.

Append-only, one writer (rank 0). A restart repeats the steps since its checkpoint, so a reader
keeps the first line of each (kind, step); numbering what is kept makes mirroring resumable.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("train", "evaluation", "diagnostic", "tasks", "event")


@dataclass(frozen=True)
class Line:
    """One kept line: `number` counts the kept lines from 1."""

    number: int
    kind: str
    step: int
    time: float
    values: dict[str, Any]


class JournalWriter:
    """Appends lines; each is in the page cache when `write` returns.

    What a full disk does not take is kept and written with the next line: training goes on.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._pending = b""
        if self._file.tell() and not _ends_with_newline(path):
            self._pending = b"\n"  # the line before was cut off by a crash

    def write(self, kind: str, step: int, time: float, values: dict[str, Any]) -> None:
        """Append one line. Numbers that are not finite are recorded as strings."""
        record = {"kind": kind, "step": step, "time": time, "values": _finite(values)}
        self._pending += json.dumps(record, allow_nan=False).encode() + b"\n"
        with suppress(OSError):
            self._write_pending()

    def _write_pending(self) -> None:
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending) :]

    def close(self) -> None:
        """Flush to the device and close.

        Raises:
            OSError: where the disk does not take what is left.
        """
        self._write_pending()
        os.fsync(self._file.fileno())
        self._file.close()


class JournalReader:
    """Follows a journal while it grows; `new_lines` yields each kept line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._number = 0
        self._seen: set[tuple[str, int, str]] = set()

    def new_lines(self) -> Iterator[Line]:
        """Lines completed since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        for raw in data[:end].splitlines():
            record = _parse(raw)
            if record is None:
                continue
            # Events of equal step differ (a stop and the start after it); metrics repeat.
            detail = raw.decode() if record["kind"] == "event" else ""
            key = (record["kind"], record["step"], detail)
            if key in self._seen:
                continue
            self._seen.add(key)
            self._number += 1
            yield Line(
                self._number, record["kind"], record["step"], record["time"], record["values"]
            )


def _parse(raw: bytes) -> dict[str, Any] | None:
    """A line that a crash cut off is not JSON: it never counted as written."""
    try:
        record = json.loads(raw)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.get("kind") in KINDS else None


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value if not isinstance(value, float) or math.isfinite(value) else str(value)
        for key, value in values.items()
    }
