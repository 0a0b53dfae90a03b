"""MLflow as a mirror of the runs' journals.

Training never waits for MLflow: workers write JSON lines, this mirror sends them from the driver.
What could not be sent stays in the journal and is sent by the next `cola run`. A batch carries the
number of its last journal line and is stored in one transaction, so nothing is sent twice.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cola.errors import SpecError
from cola.records import Artifact, Kind, Tag
from cola.spec.address import resolve_address
from cola.study import RunSpec
from orchestration.state.journal import JournalReader, Line
from orchestration.state.ledger import Entry, Ledger, State, lease_is_fresh
from orchestration.state.paths import RunFolder
from orchestration.tracking.mlflow_client import (
    check_answers,
    client_errors,
    failure_reason,
    is_outage,
)
from orchestration.tracking.mlflow_runs import (
    METRICS_PER_BATCH,
    MLFLOW_STATUS,
    MlflowRuns,
    TrainingRun,
)
from orchestration.tracking.restarts import Restarts

DRIVER_DIED = "its driver died"


@dataclass
class MirroredRun:
    """A run's place in MLflow and how far its journal has been sent."""

    spec: RunSpec | None  # None where MLflow has the run already
    folder: Path
    tags: dict[str, str]
    name: str
    reader: JournalReader
    place: TrainingRun | None = None
    opened: bool = False
    pending: list[Line] = field(default_factory=list)
    restarts: Restarts = field(default_factory=Restarts)
    restarts_written: int = 0  # starts and ends of them that MLflow has
    last_time: float | None = None
    closing: str | None = None
    closed: bool = False


@dataclass
class MirroredStudy:
    """The study above the runs: its folder, its ledger, and the keys of its planned runs (more may
    come)."""

    folder: Path
    ledger: Ledger
    keys: Sequence[str]
    dashboard: str | None = None
    run_id: str | None = None
    files: Sequence[Path] = ()  # kept with the study once it ends
    state: str | None = None  # what it ends as, where that is not what its runs say

    def states(self) -> dict[str, int]:
        """How many planned runs are in each state, by the ledger."""
        counts: Counter[str] = Counter(self.ledger.entry(key).state for key in self.keys)
        return {state: counts[state] for state in (*MLFLOW_STATUS, "new")}


class Mirror:
    """Sends journals of a study's runs to one MLflow experiment, from a thread of its own."""

    def __init__(self, runs: MlflowRuns) -> None:
        self._mlflow = runs
        self._study: MirroredStudy | None = None
        self._runs: dict[str, MirroredRun] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="mlflow-mirror")
        self.trouble: str | None = None

    def start(self, study: MirroredStudy) -> None:
        """Begin to follow the journals; the study's folder holds its `study.yaml`."""
        self._study = study
        self._thread.start()

    def follow(self, name: str, spec: RunSpec, folder: Path, tags: dict[str, str]) -> None:
        """Mirror this run from now on (again, where it was closed before)."""
        with self._lock:
            self._runs[spec.run_key] = MirroredRun(
                spec, folder, tags, name, JournalReader(RunFolder(folder).journal)
            )
        self._changed.set()

    def close_run(self, run_key: str, state: str, tags: dict[str, str]) -> None:
        """The run ended in `state`: send what is left of it, then end it in MLflow."""
        with self._lock:
            run = self._runs[run_key]
            run.tags |= {Tag.STATUS: state, **tags}
            run.closing = state
        self._changed.set()

    def leave_run(self, run_key: str) -> None:
        """Leave the run to the mirror of the driver that has it now: send and end nothing more."""
        with self._lock:
            self._runs.pop(run_key, None)
        self._changed.set()

    def finish(self, patience_seconds: float) -> list[str]:
        """Send what is left for at most `patience_seconds`; names of runs not fully sent."""
        self._stop.set()
        self._thread.join(timeout=patience_seconds)
        with self._lock:
            return [run.name for run in self._runs.values() if run.closing and not run.closed]

    def _follow(self) -> None:
        wait = 1.0
        while True:
            stopping = self._stop.is_set()
            sent_all = self._send_all(stopping)
            if stopping and sent_all:
                return
            wait = 1.0 if sent_all else min(30.0, 2 * wait)
            # While stopping, an outage is retried at a short pace until `finish` gives up on us.
            self._stop.wait(wait) if not stopping else threading.Event().wait(min(wait, 2.0))

    def _send_all(self, stopping: bool) -> bool:
        """One pass over study and runs; False where MLflow did not take something."""
        assert self._study is not None
        refused: Exception | None = None
        try:
            parent = self._open_study(self._study)
            with self._lock:
                runs = [run for run in self._runs.values() if not run.closed]
            for run in runs:
                try:
                    self._send(run, parent)
                except client_errors() as error:
                    if is_outage(error):
                        raise
                    refused = error  # of this run alone: the others go on
            self._count(self._study, parent)
            if stopping and refused is None:
                self._end_study(self._study, parent)
        except client_errors() as error:
            refused = error
        self.trouble = None if refused is None else failure_reason(self._mlflow.address, refused)
        return refused is None

    def _open_study(self, study: MirroredStudy) -> str:
        if study.run_id is None:
            tags = {Tag.STATUS: "running"}
            if study.dashboard is not None:
                tags[Tag.RAY_DASHBOARD] = study.dashboard
            run_id = self._mlflow.study_run(study.folder, tags)
            self._take_up_left_runs(study)
            study.run_id = run_id
            self._changed.set()
        return study.run_id

    def _take_up_left_runs(self, study: MirroredStudy) -> None:
        """Runs that are planned no more, and that a killed driver left running in MLflow."""
        for key, place in self._mlflow.left_running().items():
            entry, folder = study.ledger.entry(key), study.ledger.run_folder(key)
            if key in study.keys or not entry.attempts or lease_is_fresh(entry):
                continue
            state = state_left(entry)
            tags = {Tag.STATUS: state, Tag.STATUS_REASON: entry.reason or DRIVER_DIED}
            reader = JournalReader(RunFolder(folder).journal)
            run = MirroredRun(None, folder, tags, place.name, reader, place, closing=state)
            with self._lock:
                self._runs.setdefault(key, run)

    def _count(self, study: MirroredStudy, parent: str) -> None:
        if not self._changed.is_set():
            return
        self._changed.clear()
        try:
            self._mlflow.count(parent, study.states(), time.time())
        except client_errors():
            self._changed.set()
            raise

    def _end_study(self, study: MirroredStudy, parent: str) -> None:
        """Its state is that of its runs; one that another driver still runs keeps it running."""
        there = {state for state, number in study.states().items() if number}
        state = next((s for s in ("running", "failed", "diverged") if s in there), "interrupted")
        if there <= {"finished"}:
            state = "finished"
        state = study.state or state
        for path in study.files:
            self._mlflow.attach(parent, path)
        self._mlflow.tag(parent, {Tag.STATUS: state})
        if state != "running":
            self._mlflow.end(parent, state)

    def _send(self, run: MirroredRun, parent: str) -> None:
        with self._lock:
            closing = run.closing
            tags = run.tags | {Tag.KIND: Kind.RUN, Tag.PARENT: parent}
        for line in run.reader.new_lines():
            run.restarts.read(line)
            run.pending.append(line)
            run.last_time = line.time
        if run.place is None:
            assert run.spec is not None
            run.place = self._mlflow.training_run(run.spec, run.name, run.folder, tags)
        place = run.place
        run.pending = [line for line in run.pending if line.number > place.sent]
        if closing is not None:
            run.restarts.close(closing, tags.get(Tag.STATUS_REASON, ""))
        if not run.opened:
            as_wanted = tags.items() <= place.tags.items()
            if closing and as_wanted and place.status == MLFLOW_STATUS[closing] and not run.pending:
                run.closed = True  # an earlier driver sent all of it
                return
            if not (as_wanted and place.status == "RUNNING"):
                self._mlflow.reopen(place.run_id, tags)
            run.opened = True
        self._send_lines(run, place)
        if closing is not None:
            self._close(run, place, closing, tags)

    def _send_lines(self, run: MirroredRun, place: TrainingRun) -> None:
        while run.pending:
            batch = first_batch(run.pending)
            self._mlflow.send(place.run_id, batch)
            place.sent = batch[-1].number
            del run.pending[: len(batch)]
        found = run.restarts.found
        changes = len(found) + sum(restart.state is not None for restart in found)
        if changes > run.restarts_written:
            self._mlflow.write_restarts(place.run_id, run.name, run.folder, found)
            run.restarts_written = changes

    def _close(
        self, run: MirroredRun, place: TrainingRun, state: str, tags: dict[str, str]
    ) -> None:
        for name in (Artifact.ENVIRONMENT, Artifact.SAMPLES, Artifact.EVALUATION):
            self._mlflow.attach(place.run_id, run.folder / name)
        self._mlflow.tag(place.run_id, tags)
        self._mlflow.end(place.run_id, state, run.last_time)
        run.closed = True


def first_batch(lines: Sequence[Line]) -> list[Line]:
    """As many of the first lines as fit one batch, at least one."""
    taken, metrics = 0, 0
    for line in lines:
        metrics += len(line.values) + 1
        if taken and metrics > METRICS_PER_BATCH:
            break
        taken += 1
    return list(lines[:taken])


def state_left(entry: Entry) -> State:
    """The state of a run that no driver runs now: one that says running was killed."""
    return "interrupted" if entry.state == "running" else entry.state


def open_mirror(given: str, study: str, artifacts: Path) -> Mirror:
    """The mirror of a study into the store at this address or reference.

    `artifacts` is the folder of its artifacts where the store is a database.

    Raises:
        SpecError: when the tracking server or store cannot be reached now.
    """
    address = resolve_address(given)
    check_answers(address)
    try:
        return Mirror(MlflowRuns(address, study, artifacts))
    except client_errors() as error:
        reason = failure_reason(address, error)
        raise SpecError(f"tracking.uri={address.shown}: MLflow cannot be used ({reason})") from None
