"""MLflow as a mirror of the runs' journals.

Training never waits for MLflow: workers write JSON lines, and the driver's mirror sends them. What
cannot be sent stays in the journal for the next `cola run`. A batch carries the last step of each
kind of lines and is stored in one transaction, so nothing is sent twice, and nothing is left out
where a crash took the journal's end: what is written again counts by its step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from cola.errors import StorageError, TrackingError
from cola.files import file_lock
from cola.records import Artifact, Kind, Tag
from cola.spec.address import resolve_address
from cola.study import RunSpec
from orchestration.state.journal import JournalReader, Line
from orchestration.state.ledger import Entry, Ledger, State
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
from orchestration.tracking.trackers import TrackedRun, Trackers

log = logging.getLogger(__name__)

DRIVER_DIED = "its driver died"


@dataclass
class MirroredRun:
    """A run that is mirrored, and how far its journal has been sent."""

    target: RunSpec | TrainingRun  # the run in MLflow; its specification until it is known there
    folder: Path
    tags: dict[str, str]
    name: str
    reader: JournalReader
    opened: bool = False
    pending: list[Line] = field(default_factory=list)
    diagnostics: dict[str, object] = field(default_factory=dict)  # of the finished model, by name
    restarts: Restarts = field(default_factory=Restarts)
    restarts_written: int = 0  # starts and ends of workers that MLflow has
    last_time: float | None = None
    closing: str | None = None
    closed: bool = False


@dataclass
class MirroredStudy:
    """The study above the runs: its folder, its ledger, the keys of its planned runs (which may
    grow)."""

    folder: Path
    ledger: Ledger
    keys: Sequence[str]
    dashboard: str | None = None
    run_id: str | None = None
    files: Sequence[Path] = ()  # stored with the study when it ends
    state: str | None = None  # its final state, where it does not follow from its runs

    def states(self) -> dict[str, int]:
        """How many planned runs are in each state, by the ledger."""
        counts: Counter[str] = Counter(self.ledger.known_entry(key).state for key in self.keys)
        return {state: counts[state] for state in (*MLFLOW_STATUS, "new")}

    def outcome(self) -> str:
        """The study's state, from those of its runs now."""
        present = {state for state, number in self.states().items() if number}
        if present <= {"finished"}:
            return "finished"
        return next((s for s in ("running", "failed", "diverged") if s in present), "interrupted")

    def alone(self) -> AbstractContextManager[None]:
        """Within, no other driver writes of the study, so that none writes an older state last."""
        return file_lock(self.folder / "mlflow.lock")


class Mirror:
    """Sends the journals of a study's runs to one MLflow experiment, in a thread."""

    def __init__(self, runs: MlflowRuns, trackers: Trackers | None = None) -> None:
        """`trackers` get the same runs, each at its own pace."""
        self._mlflow, self._trackers = runs, trackers or Trackers((), Path())
        self._runs: dict[str, MirroredRun] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self.trouble: str | None = None

    def start(self, study: MirroredStudy) -> None:
        """Begin to mirror; the study's folder holds its `study.yaml`."""
        self._thread = threading.Thread(
            target=self._follow, args=(study,), daemon=True, name="mlflow-mirror"
        )
        self._thread.start()
        self._trackers.start()

    def follow(self, name: str, spec: RunSpec, folder: Path, *, tags: dict[str, str]) -> None:
        """Mirror this run from now on (again, where it was closed before)."""
        reader = JournalReader(RunFolder(folder).journal)
        with self._lock:
            self._runs[spec.run_key] = MirroredRun(spec, folder, tags, name, reader)
        self._trackers.follow(TrackedRun(spec, name, folder, tags))
        self._changed.set()

    def close_run(self, run_key: str, state: str, tags: dict[str, str]) -> None:
        """Send the rest of a run that ended in `state`, then end it in MLflow."""
        with self._lock:
            run = self._runs[run_key]
            run.tags |= {Tag.STATUS: state, **tags}
            run.closing = state
        self._trackers.close_run(run_key, state)
        self._changed.set()

    def follows(self, run_key: str) -> bool:
        """Whether this run is mirrored here."""
        with self._lock:
            return run_key in self._runs

    def leave_run(self, run_key: str) -> None:
        """Stop mirroring a run: the driver that took it over sends and ends it."""
        with self._lock:
            self._runs.pop(run_key, None)
        self._trackers.leave_run(run_key)
        self._changed.set()

    def finish(self, patience_seconds: float) -> list[str]:
        """Send the rest for at most `patience_seconds`; returns names of runs not fully sent.

        Where only the study's own run is left, it is the study's name.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=patience_seconds)
        self._trackers.finish(patience_seconds)
        with self._lock:
            late = [run.name for run in self._runs.values() if run.closing and not run.closed]
        if not late and self._thread is not None and self._thread.is_alive():
            return [self._mlflow.study]
        return late

    def _follow(self, study: MirroredStudy) -> None:
        wait = 1.0
        while True:
            stopping = self._stop.is_set()
            sent_all = self._send_all(study, stopping)
            if stopping and sent_all:
                return
            wait = 1.0 if sent_all else min(30.0, 2 * wait)
            # While stopping, an outage is retried at a short interval until `finish` gives up.
            self._stop.wait(wait) if not stopping else threading.Event().wait(min(wait, 2.0))

    def _send_all(self, study: MirroredStudy, stopping: bool) -> bool:
        """One pass over study and runs; False where MLflow did not take something."""
        refused: Exception | None = None
        failures: tuple[type[Exception], ...] = (*client_errors(), StorageError)
        try:
            parent = self._open_study(study)
            with self._lock:
                runs = [run for run in self._runs.values() if not run.closed]
            for run in runs:
                try:
                    self._send(run, parent)
                except client_errors() as error:
                    if is_outage(error):
                        raise
                    refused = error  # concerns this run alone: the others are sent
            self._count(study, parent)
            if stopping and refused is None:
                self._end_study(study, parent)
        except failures as error:
            refused = error
        self._report(None if refused is None else failure_reason(self._mlflow.address, refused))
        return refused is None

    def _report(self, trouble: str | None) -> None:
        if trouble is not None and self.trouble is None:
            log.warning("MLflow: %s; metrics wait in the journals", trouble)
        elif trouble is None and self.trouble is not None:
            log.info("MLflow takes metrics again")
        self.trouble = trouble

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
        """Mirror runs that are no longer planned, but running in MLflow since their driver died."""
        for key, left in self._mlflow.left_running().items():
            entry, folder = study.ledger.known_entry(key), study.ledger.run_folder(key)
            if key in study.keys or not entry.attempts or study.ledger.is_held(entry):
                continue
            state = state_left(entry)
            tags = {Tag.STATUS: state, Tag.STATUS_REASON: entry.reason or DRIVER_DIED}
            reader = JournalReader(RunFolder(folder).journal)
            run = MirroredRun(left, folder, tags, left.name, reader, closing=state)
            with self._lock:
                self._runs.setdefault(key, run)

    def _count(self, study: MirroredStudy, parent: str) -> None:
        if not self._changed.is_set():
            return
        self._changed.clear()
        try:
            with study.alone():
                self._mlflow.write_counts(parent, study.states(), time.time())
        except client_errors():
            self._changed.set()
            raise

    def _end_study(self, study: MirroredStudy, parent: str) -> None:
        """End the study with its runs' state; a run that another driver runs keeps it running."""
        for path in study.files:
            self._mlflow.attach(parent, path)
        with study.alone():
            state = study.state or study.outcome()
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
            if line.kind == "diagnostic":
                run.diagnostics |= line.values
            run.last_time = max(line.time, run.last_time or 0.0)
        target = run.target
        if isinstance(target, RunSpec):
            target = self._mlflow.training_run(target, run.name, run.folder, tags=tags)
            run.target = target
        run.pending = target.missing(run.pending)
        if closing is not None:
            run.restarts.close(closing, tags.get(Tag.STATUS_REASON, ""))
        if not run.opened:
            tagged = tags.items() <= target.tags.items()
            if closing and tagged and target.status == MLFLOW_STATUS[closing] and not run.pending:
                run.closed = True  # an earlier driver sent all of it
                return
            if not (tagged and target.status == "RUNNING"):
                self._mlflow.reopen(target.run_id, tags)
            run.opened = True
        self._send_lines(run, target)
        if closing is not None:
            self._close(run, target.run_id, closing, tags=tags)

    def _send_lines(self, run: MirroredRun, target: TrainingRun) -> None:
        while run.pending:
            batch = first_batch(run.pending)
            self._mlflow.send(target, batch)
            del run.pending[: len(batch)]
        starts = run.restarts.starts
        changes = len(starts) + sum(start.state is not None for start in starts)
        if changes > run.restarts_written:
            self._mlflow.write_restarts(target.run_id, run.name, run.folder, restarts=starts)
            run.restarts_written = changes

    def _close(self, run: MirroredRun, run_id: str, state: str, *, tags: dict[str, str]) -> None:
        for name in (Artifact.ENVIRONMENT, Artifact.SAMPLES, Artifact.EVALUATION):
            self._mlflow.attach(run_id, run.folder / name)
        if run.diagnostics:
            self._mlflow.attach_table(run_id, run.diagnostics, Artifact.DIAGNOSTICS)
        self._mlflow.tag(run_id, tags)
        self._mlflow.end(run_id, state, run.last_time)
        run.closed = True
        log.info("%s: %s, its journal is in MLflow", run.name, state)


def first_batch(lines: Sequence[Line]) -> list[Line]:
    """The first lines that fit one batch together, at least one."""
    taken, metrics = 0, 0
    for line in lines:
        metrics += len(line.values) + 1
        if taken and metrics > METRICS_PER_BATCH:
            break
        taken += 1
    return list(lines[:taken])


def state_left(entry: Entry) -> State:
    """The state of a run that no driver runs now: one recorded as running was killed."""
    return "interrupted" if entry.state == "running" else entry.state


def open_mirror(
    given: str, study: str, artifacts: Path, trackers: Trackers | None = None
) -> Mirror:
    """The mirror of a study into the store at this address or reference, and into `trackers`.

    `artifacts` is the folder of its artifacts if the store is a database.

    Raises:
        SpecError: for an address that is none of a tracking store.
        TrackingError: when the store cannot be reached now, or refuses.
    """
    address = resolve_address(given)
    check_answers(address, artifacts)
    try:
        return Mirror(MlflowRuns(address, study, artifacts), trackers)
    except client_errors() as error:
        reason = failure_reason(address, error)
        raise TrackingError(
            f"tracking.uri={address.shown}: MLflow cannot be used ({reason}); give another store, "
            "or repair this one"
        ) from None
