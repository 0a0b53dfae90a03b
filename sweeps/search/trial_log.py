"""A sweep's memory on disk: one JSON line for every point that was requested, excluded or ended.

Append-only, with one writer: the sweep's driver. A killed sweep resumes from it alone: outcomes are
given to the search algorithm again, and trials without one run first.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cola.errors import StorageError, one_line
from cola.jsonl import LineReader, LineWriter
from cola.records import PointExcluded, SweepFile, TrialFinished, TrialRequested
from sweeps.space.spec import MetricGoal
from sweeps.space.storage import storage_errors

log = logging.getLogger(__name__)

KINDS: dict[str, type[BaseModel]] = {
    "asked": TrialRequested,
    "ended": TrialFinished,
    "excluded": PointExcluded,
}


class SweepLog:
    """`trials.jsonl` in a sweep's folder, with the records that it holds by trial number."""

    def __init__(self, folder: Path) -> None:
        """Read the log as it is now.

        Raises:
            StorageError: the file cannot be read, or a line of it is not a record of a sweep.
        """
        self._path = folder / SweepFile.TRIALS
        self.requests: dict[int, TrialRequested] = {}
        self.outcomes: dict[int, TrialFinished] = {}
        self.excluded: list[PointExcluded] = []
        self.left_out: dict[int, str] = {}  # why trials are no part of the present search
        reader = LineReader(self._path)
        with storage_errors(self._path):
            lines = [record for _, record in reader.new_lines()]
        self.unreadable = reader.skipped  # lines that are no records
        for line in lines:
            self._parse(line)
        log.debug("%s: %d lines", self._path, len(lines))

    def write(self, record: TrialRequested | TrialFinished | PointExcluded) -> None:
        """Append a record; it is on the device when this returns.

        Raises:
            StorageError: the disk does not take it.
        """
        with storage_errors(self._path), LineWriter(self._path) as lines:
            lines.write(record.model_dump_json(), sync=True)
        self._add(record)

    def open_trials(self, arm: str) -> list[TrialRequested]:
        """Requests of an arm that wait for an outcome, in order."""
        return [
            request
            for number, request in sorted(self.requests.items())
            if number in self._open and request.arm == arm
        ]

    def ended_trials(self, arm: str) -> list[tuple[TrialRequested, TrialFinished]]:
        """Requests of an arm with their outcomes, in order."""
        return [
            (self.requests[number], outcome)
            for number, outcome in sorted(self.outcomes.items())
            if self.requests[number].arm == arm
        ]

    @property
    def open_count(self) -> int:
        """Number of trials that wait for an outcome."""
        return len(self._open)

    @property
    def _open(self) -> set[int]:
        """Trials without an outcome, unless the search has left them out."""
        return self.requests.keys() - self.outcomes.keys() - self.left_out.keys()

    def searched_trials(self, arm: str) -> list[tuple[TrialRequested, TrialFinished]]:
        """Those of `ended_trials` that are part of the present search."""
        return [pair for pair in self.ended_trials(arm) if pair[0].trial not in self.left_out]

    def with_identity(self, identity: str) -> TrialRequested | None:
        """The first trial that does or did the same; None where no trial does."""
        known = self._open | self.outcomes.keys()
        matches = (
            r for number, r in self.requests.items() if number in known and r.identity == identity
        )
        return next(matches, None)

    def exclusions(self, arm: str) -> Counter[str]:
        """Number of an arm's excluded points by reason."""
        return Counter(record.reason for record in self.excluded if record.arm == arm)

    def next_number(self) -> int:
        """Number of the next trial; the first is 1."""
        return max(self.requests, default=0) + 1

    def _parse(self, values: dict[str, Any]) -> None:
        kind = KINDS.get(values.get("event", ""))
        if kind is None:
            self.unreadable += 1
            return
        try:
            self._add(kind.model_validate(values))
        except ValidationError as error:
            raise StorageError(
                f"{self._path}: holds a line that is no record of a sweep ({one_line(error)}); "
                "move the sweep's folder away, or use the release that wrote it"
            ) from None

    def _add(self, record: BaseModel) -> None:
        if isinstance(record, TrialRequested):
            self.requests[record.trial] = record
        elif isinstance(record, TrialFinished):
            self.outcomes[record.trial] = record
        elif isinstance(record, PointExcluded):
            self.excluded.append(record)


def best_trial(
    trial_log: SweepLog, arm: str, goal: MetricGoal
) -> tuple[TrialRequested, TrialFinished] | None:
    """The finished trial of an arm that is best by a metric; None where no trial has it."""
    measured = [
        (request, outcome)
        for request, outcome in trial_log.searched_trials(arm)
        if outcome.state == "finished" and goal.name in outcome.metrics
    ]
    sign = 1 if goal.direction == "minimize" else -1
    return min(measured, key=lambda trial: sign * trial[1].metrics[goal.name], default=None)
