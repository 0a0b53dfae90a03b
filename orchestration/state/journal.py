"""A run's metrics as JSON lines on disk: the record that MLflow mirrors.

Append-only, one writer (rank 0). A restart repeats the steps since its checkpoint, so a reader
keeps the first line of each (kind, step); numbers of kept lines make mirroring resumable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cola.errors import StorageError, one_line
from cola.jsonl import LineReader, LineWriter
from orchestration.state.fence import AttemptFence

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

    What a full disk does not take is kept and written with the next line: training continues.
    Lines of an attempt that `fence` knows to be superseded are dropped: its successor repeats them.
    """

    def __init__(self, path: Path, fence: AttemptFence | None = None) -> None:
        self._lines, self._fence = LineWriter(path), fence

    def write(self, kind: str, step: int, time: float, *, values: dict[str, Any]) -> None:
        """Append one line. Numbers that are not finite are recorded as strings."""
        if self._fence is not None and self._fence.superseded():
            return
        record = {"kind": kind, "step": step, "time": time, "values": _finite(values)}
        with suppress(OSError):
            self._lines.write(record)

    def close(self) -> None:
        """Put all lines on the device and close the file.

        Raises:
            OSError: where the disk does not take what is left.
        """
        self._lines.close()


class JournalReader:
    """Follows a journal while it grows; `new_lines` yields each kept line once.

    A journal that lost its end in a crash is read again: what was kept of it does not come again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, LineReader(path)
        self._number = self._foreign = 0  # lines that were kept; objects that are no records
        self._seen: set[tuple[str, int, str]] = set()

    @property
    def unreadable(self) -> int:
        """How many lines are no records of a run: cut off by a crash, or damaged."""
        return self._lines.skipped + self._foreign

    def new_lines(self) -> Iterator[Line]:
        """Lines completed since the last call.

        Raises:
            StorageError: the journal cannot be read.
        """
        restarts = self._lines.restarts
        try:
            records = list(self._lines.new_lines())
        except OSError as error:
            raise StorageError(
                f"{self._path}: cannot be read ({error.strerror or one_line(error)}); move it "
                "away, or repair its permissions"
            ) from None
        if self._lines.restarts > restarts:
            self._foreign = 0
        for raw, record in records:
            if not _is_record(record):
                self._foreign += 1
                continue
            # Events of one step differ (a stop, the start after it); metrics of one step repeat.
            detail = raw.decode() if record["kind"] == "event" else ""
            key = (record["kind"], record["step"], detail)
            if key in self._seen:
                continue
            self._seen.add(key)
            self._number += 1
            yield Line(
                self._number, record["kind"], record["step"], record["time"], record["values"]
            )


def _is_record(record: dict[str, Any]) -> bool:
    """Whether it has what every line of a journal has, of the right types."""
    return (
        record.get("kind") in KINDS
        and type(record.get("step")) is int
        and type(record.get("time")) in (int, float)
        and isinstance(record.get("values"), dict)
    )


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value if not isinstance(value, float) or math.isfinite(value) else str(value)
        for key, value in values.items()
    }
