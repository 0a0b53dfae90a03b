"""MLflow as a mirror of the runs' journals (the only module that writes to MLflow).

Training never waits for MLflow: workers write JSON lines, this mirror sends them from the driver.
What could not be sent stays in the journal and is sent by the next `cola run`. A batch carries the
number of its last journal line and is stored in one transaction, so nothing is sent twice.
"""

from __future__ import annotations

import logging
import os
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from cola.records import SCHEMA_VERSION, Artifact, Metric, Tag
from cola.spec import RunSpec, SpecError
from orchestration.journal import JournalReader, Line

LINES_PER_BATCH = 40  # MLflow takes 1,000 metrics a batch; a line holds about 20
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
MLFLOW_STATUS = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "interrupted": "KILLED",
}


@dataclass
class MirroredRun:
    """A run's place in MLflow and how far its journal has been sent."""

    spec: RunSpec
    folder: Path
    tags: dict[str, str]
    name: str
    reader: JournalReader
    run_id: str | None = None
    sent: int = 0
    pending: list[Line] = field(default_factory=list)
    closing: str | None = None
    closed: bool = False


class Mirror:
    """Sends journals of a study's runs to one MLflow experiment, from a thread of its own."""

    def __init__(self, uri: str, study: str, artifacts: Path | None) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient(tracking_uri=uri)
        self._experiment = self._open_experiment(study, artifacts)
        self._runs: dict[str, MirroredRun] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="mlflow-mirror")
        self.trouble: str | None = None

    def _open_experiment(self, study: str, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(study)
        if found is not None:
            return str(found.experiment_id)
        location = artifacts.as_uri() if artifacts is not None else None
        return str(self._client.create_experiment(study, artifact_location=location))

    def start(self) -> None:
        """Begin to follow the journals."""
        self._thread.start()

    def follow(self, name: str, spec: RunSpec, folder: Path, tags: dict[str, str]) -> None:
        """Mirror this run from now on (again, where it was closed before)."""
        with self._lock:
            self._runs[spec.run_key] = MirroredRun(
                spec, folder, tags, name, JournalReader(folder / "journal.jsonl")
            )

    def close_run(self, run_key: str, state: str, tags: dict[str, str]) -> None:
        """The run ended in `state`: send what is left of it, then end it in MLflow."""
        with self._lock:
            run = self._runs[run_key]
            run.tags |= {Tag.STATUS: state, **tags}
            run.closing = state

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
            sent_all = self._send_all()
            if stopping and sent_all:
                return
            wait = 1.0 if sent_all else min(30.0, 2 * wait)
            # While stopping, an outage is retried at a short pace until `finish` gives up on us.
            self._stop.wait(wait) if not stopping else threading.Event().wait(min(wait, 2.0))

    def _send_all(self) -> bool:
        """One pass over all runs; False where MLflow did not take something."""
        from mlflow.exceptions import MlflowException

        with self._lock:
            runs = [run for run in self._runs.values() if not run.closed]
        try:
            for run in runs:
                self._send(run)
        except (MlflowException, OSError) as error:
            self.trouble = " ".join(str(error).split())[:200]
            return False
        self.trouble = None
        return True

    def _send(self, run: MirroredRun) -> None:
        closing = run.closing
        if run.run_id is None:
            run.run_id, run.sent = self._open_run(run)
        run.pending += [line for line in run.reader.new_lines() if line.number > run.sent]
        while run.pending:
            batch = run.pending[:LINES_PER_BATCH]
            self._client.log_batch(run.run_id, metrics=list(batch_metrics(batch)))
            run.sent = batch[-1].number
            del run.pending[: len(batch)]
        if closing is not None:
            self._close(run, closing)

    def _open_run(self, run: MirroredRun) -> tuple[str, int]:
        """Find the run by its key, or create it; how many journal lines MLflow already has."""
        key = run.spec.run_key
        found = self._client.search_runs(
            [self._experiment], f"tags.{Tag.RUN_KEY} = '{key}'", max_results=1
        )
        if found:
            run_id = str(found[0].info.run_id)
            sent = int(found[0].data.metrics.get(Metric.JOURNAL_LINE, 0))
            self._client.update_run(run_id, status="RUNNING")
            self._set_tags(run_id, run.tags)
            return run_id, sent
        tags = {**run.tags, Tag.SCHEMA_VERSION: SCHEMA_VERSION, Tag.RUN_KEY: key}
        created = self._client.create_run(self._experiment, tags=tags, run_name=run.name)
        run_id = str(created.info.run_id)
        for batch in batches(list(flat_params(run.spec).items()), PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=[_param(*item) for item in batch])
        self._client.log_text(
            run_id, yaml.safe_dump(run.spec.model_dump(mode="json")), Artifact.SPEC
        )
        return run_id, 0

    def _set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def _close(self, run: MirroredRun, state: str) -> None:
        for name in (Artifact.ENVIRONMENT, Artifact.SAMPLES):
            path = run.folder / name
            if path.exists():
                self._client.log_artifact(run.run_id, str(path))
        self._set_tags(str(run.run_id), run.tags)
        self._client.set_terminated(run.run_id, status=MLFLOW_STATUS[state])
        run.closed = True


def open_mirror(uri: str, study: str, artifacts: Path | None) -> Mirror:
    """The mirror of a study.

    Raises:
        SpecError: when the tracking server or store cannot be reached now.
    """
    _check_reachable(uri)
    from mlflow.exceptions import MlflowException

    try:
        return Mirror(uri, study, artifacts)
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError(
            f"tracking.uri={redacted(uri)}: MLflow cannot be reached ({reason})"
        ) from None


def _check_reachable(uri: str) -> None:
    """Ask a server whether it lives before MLflow's client, whose retries take minutes."""
    scheme = urllib.parse.urlsplit(uri).scheme
    if scheme in ("http", "https"):
        try:
            with urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=5):  # noqa: S310
                return
        except OSError as error:
            raise SpecError(
                f"tracking.uri={redacted(uri)}: MLflow cannot be reached ({error}); start the "
                "server, or leave tracking.uri out to use a SQLite file"
            ) from None
    if scheme == "file" or not scheme:
        raise SpecError(
            f"tracking.uri={uri}: is not a tracking store; give sqlite:///FILE.db or a server's "
            "http(s) address"
        )


def redacted(uri: str) -> str:
    """The address without user name and password."""
    parts = urllib.parse.urlsplit(uri)
    if parts.username is None and parts.password is None:
        return uri
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return urllib.parse.urlunsplit(parts._replace(netloc=f"***@{host}{port}"))


def batch_metrics(lines: Sequence[Line]) -> Iterator[Any]:
    """MLflow metrics of some journal lines; the last one marks how far the journal is sent."""
    from mlflow.entities import Metric as MlflowMetric

    for line in lines:
        stamp = int(line.time * 1000)
        for name, value in line.values.items():
            # A number that is not finite is a string in the journal; its run is tagged diverged.
            if isinstance(value, int | float) and line.kind != "event":
                yield MlflowMetric(name, float(value), stamp, line.step)
    last = lines[-1]
    # Numbered as its own step, so that "latest" is the furthest whatever the step order was.
    yield MlflowMetric(Metric.JOURNAL_LINE, last.number, int(last.time * 1000), last.number)


def flat_params(spec: RunSpec) -> dict[str, str]:
    """The run's specification as dotted keys; lists of settings by index."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                walk(f"{prefix}.{index}", item)
        else:
            flat[prefix] = str(value)[:PARAM_LENGTH]

    walk("", spec.model_dump(mode="json"))
    return flat


def batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive batches of at most `size`."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _param(key: str, value: str) -> Any:
    from mlflow.entities import Param

    return Param(key, value)
