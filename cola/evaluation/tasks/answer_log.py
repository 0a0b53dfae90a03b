"""Answers to a task's items as JSON lines, so that an evaluation resumes where it was cut off."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

from cola.evaluation.items import Id
from cola.evaluation.tasks.task import Record
from cola.jsonl import LineWriter, read_lines


class ItemLog(AbstractContextManager["ItemLog"]):
    """Append-only, one writer; `records` holds the answers that are there when it is opened."""

    def __init__(self, path: Path) -> None:
        self.records: dict[Id, Record] = {
            line["id"]: line["record"] for line in read_lines(path) if "record" in line
        }
        self._lines = LineWriter(path)

    def append(self, item: Id, record: Record) -> None:
        """Keep an answer; it is in the page cache when this returns."""
        self.records[item] = record
        # A number of an answer may be infinite, which must read back as it was.
        self._lines.write(json.dumps({"id": item, "record": record}))

    def __exit__(self, *error: object) -> None:
        self._lines.close()
