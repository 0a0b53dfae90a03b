"""Answers to a task's items as JSON lines, so that an evaluation can go on where it was cut off."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from cola.evaluation.items import Id
from cola.evaluation.tasks.task import Record


class ItemLog:
    """Append-only, one writer; a line that was cut off is dropped when the file is opened."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records: dict[Id, Record] = {}
        whole = self._read(path)
        self._file = path.open("ab")
        if self._file.tell() > whole:
            self._file.truncate(whole)
            self._file.seek(whole)

    def _read(self, path: Path) -> int:
        """Take in the whole lines; the length of the file up to the last of them."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return 0
        whole = 0
        for line in content.splitlines(keepends=True):
            try:
                found = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                found = None
            if found is None:
                break
            self.records[found["id"]] = found["record"]
            whole += len(line)
        return whole

    def append(self, item: Id, record: Record) -> None:
        """Keep an answer; it is on the way to the disk when this returns."""
        self.records[item] = record
        self._file.write(json.dumps({"id": item, "record": record}).encode() + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()
