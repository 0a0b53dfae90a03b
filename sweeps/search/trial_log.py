"""A sweep's memory on disk: one JSON line for every point asked for, excluded or ended.

Append-only with one writer, the sweep's driver. It is all that a killed sweep needs to go on: what
has ended is told to the search algorithm again, what had not ended is done first.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cola.jsonl import LineWriter, read_lines
from cola.records import PointExcluded, SweepFile, TrialFinished, TrialRequested

KINDS: dict[str, type[BaseModel]] = {
    "asked": TrialRequested,
    "ended": TrialFinished,
    "excluded": PointExcluded,
}


class SweepLog:
    """`trials.jsonl` in a sweep's folder; reads what is there when it is opened."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SweepFile.TRIALS
        self.asked: dict[int, TrialRequested] = {}
        self.ended: dict[int, TrialFinished] = {}
        self.excluded: list[PointExcluded] = []
        for line in read_lines(self._path):
            self._take(line)

    def write(self, record: TrialRequested | TrialFinished | PointExcluded) -> None:
        """Append one line, on the device before this returns."""
        with LineWriter(self._path) as lines:
            lines.write(record.model_dump_json(), sync=True)
        self._add(record)

    def open_trials(self, arm: str) -> list[TrialRequested]:
        """PointPlanner of an arm that were asked for and have not ended, in order."""
        return [
            asked
            for number, asked in sorted(self.asked.items())
            if number not in self.ended and asked.arm == arm
        ]

    def ended_of(self, arm: str) -> list[tuple[TrialRequested, TrialFinished]]:
        """Trials of an arm that ended, in order."""
        return [
            (self.asked[number], ended)
            for number, ended in sorted(self.ended.items())
            if self.asked[number].arm == arm
        ]

    def of_identity(self, identity: str) -> TrialRequested | None:
        """The trial that did, or does, the same."""
        return next((a for a in self.asked.values() if a.identity == identity), None)

    def exclusions(self, arm: str) -> Counter[str]:
        """How many points of an arm were excluded, by reason."""
        return Counter(found.reason for found in self.excluded if found.arm == arm)

    def next_number(self) -> int:
        """Of the next trial: they count from 1."""
        return max(self.asked, default=0) + 1

    def _take(self, values: dict[str, Any]) -> None:
        kind = KINDS.get(values.get("event", ""))
        if kind is not None:
            self._add(kind.model_validate(values))

    def _add(self, record: BaseModel) -> None:
        if isinstance(record, TrialRequested):
            self.asked[record.trial] = record
        elif isinstance(record, TrialFinished):
            self.ended[record.trial] = record
        elif isinstance(record, PointExcluded):
            self.excluded.append(record)
