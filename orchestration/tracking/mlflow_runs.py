"""A study's experiment in MLflow (the only module that writes runs).

Three levels: the study, its training runs, each run's restarts. Every operation is idempotent: runs
are looked up before they are created, under a lock that all drivers of an output folder share, and
a metric that is stored already is not stored again (its key, step, time and value are MLflow's
primary key).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cola.batches import batches
from cola.errors import TrackingError
from cola.files import file_lock
from cola.records import SCHEMA_VERSION, Artifact, Kind, Metric, Tag
from cola.spec.address import Address, remove_quoted_folder
from cola.study import RunSpec
from orchestration.state.journal import KINDS, Line
from orchestration.tracking.mlflow_client import client_of, creation_lock
from orchestration.tracking.pages import runs_link
from orchestration.tracking.provenance import data_set, source_tags
from orchestration.tracking.relocation import adopt_artifacts
from orchestration.tracking.restarts import Restart

# MLflow takes 100 parameters and 1,000 metrics a request, and 6,000 characters a parameter.
PARAMS_PER_BATCH = 100
METRICS_PER_BATCH = 900
PARAM_LENGTH = 6000
DATA_CONTEXT = "mlflow.data.context"  # MLflow's tag of what a data set is used for
MLFLOW_STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "diverged": "FAILED",
    "interrupted": "KILLED",
}


@dataclass
class TrainingRun:
    """A training run in MLflow, and what of its journal it has: of each kind of lines those up to
    a step, in all `sent` lines."""

    run_id: str
    name: str
    sent: int
    status: str
    tags: dict[str, str]
    steps: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Any) -> TrainingRun:
        """The training run that an MLflow run describes."""
        metrics = run.data.metrics
        sent = int(metrics.get(Metric.JOURNAL_LINE, 0))
        marks = {kind: metrics.get(Metric.journal_step(kind)) for kind in KINDS}
        steps = {kind: int(step) for kind, step in marks.items() if step is not None}
        info = run.info
        return cls(info.run_id, info.run_name, sent, info.status, dict(run.data.tags), steps)

    def missing(self, lines: Sequence[Line]) -> list[Line]:
        """Those of the lines that it lacks; events are never sent as metrics.

        Steps decide, not places in the file: a journal that lost its end in a crash is written on
        from an earlier line. A run without steps comes from a release that counted lines.
        """
        if self.sent and not self.steps:
            for line in lines:
                if line.number <= self.sent:
                    self.steps[line.kind] = max(line.step, self.steps.get(line.kind, 0))
        return [
            line
            for line in lines
            if line.kind != "event" and line.step > self.steps.get(line.kind, -1)
        ]


class MlflowRuns:
    """One experiment. All methods raise `client_errors()` where MLflow fails or refuses.

    Opening it raises TrackingError where the experiment was deleted.
    """

    def __init__(self, address: Address, study: str, artifacts: Path) -> None:
        self.study, self.address = study, address
        with creation_lock(address, artifacts):
            adopt_artifacts(address, artifacts.parent)
            self.client: Any = client_of(address)
            self.experiment = self._open_experiment(artifacts)
            remove_quoted_folder(address.uri)

    def _open_experiment(self, artifacts: Path) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self.client.get_experiment_by_name(self.study)
        if experiment is not None:
            self._check_not_deleted(experiment)
            return str(experiment.experiment_id)
        # A server keeps artifacts itself; beside a database they are the output folder's.
        location = None if self.address.is_server else artifacts.as_uri()
        try:
            made = str(self.client.create_experiment(self.study, artifact_location=location))
        except MlflowException:
            experiment = self.client.get_experiment_by_name(self.study)
            if experiment is None:
                raise
            return str(experiment.experiment_id)  # another driver was faster
        self.client.set_experiment_tag(made, Tag.NOTE, runs_link(made))
        return made

    def _check_not_deleted(self, experiment: Any) -> None:
        if experiment.lifecycle_stage == "deleted":
            raise TrackingError(
                f"study {self.study}: its experiment was deleted in MLflow "
                f"(tracking.uri={self.address.shown}); restore it (`mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}`), or give the study another name"
            )

    def study_run(self, folder: Path, tags: dict[str, str]) -> str:
        """MLflow's id of the study's run, set to running, with the `study.yaml` of its folder."""
        with file_lock(folder / "mlflow.lock"):
            runs = self._runs(f"tags.{Tag.KIND} = '{Kind.STUDY}'")
            if runs:
                run_id = str(runs[0].info.run_id)
                self.client.update_run(run_id, status="RUNNING")
                self.tag(run_id, tags)
            else:
                run_id = self._create(Kind.STUDY, self.study, tags)
        self.client.log_artifact(run_id, str(folder / Artifact.STUDY))
        return run_id

    def write_counts(self, study_run: str, states: dict[str, int], time: float) -> None:
        """Record how many of the study's runs are in each state at this time (Unix seconds)."""
        from mlflow.entities import Metric as MlflowMetric

        stamp = int(time * 1000)
        counts = [MlflowMetric(Metric.runs(s), float(n), stamp, 0) for s, n in states.items()]
        self.client.log_batch(study_run, metrics=counts)
        summary = ", ".join(f"{number} {state}" for state, number in states.items() if number)
        self.tag(study_run, {Tag.RUNS: summary})

    def training_run(
        self, spec: RunSpec, name: str, folder: Path, *, tags: dict[str, str]
    ) -> TrainingRun:
        """The run of this specification, created where there is none; its state is not changed."""
        with file_lock(folder / "mlflow.lock"):
            run = self._of_key(spec.run_key)
            if run is None:
                run_id = self._create(Kind.RUN, name, {**tags, Tag.RUN_KEY: spec.run_key})
                self._describe(run_id, spec)
                return TrainingRun(run_id, name, 0, "RUNNING", tags)
        if len(run.data.params) < len(spec.flat()):  # its creation was cut off
            self._describe(run.info.run_id, spec)
        return TrainingRun.of(run)

    def run_id_of(self, run_key: str) -> str | None:
        """MLflow's id of the training run with this key, or None."""
        run = self._of_key(run_key)
        return None if run is None else str(run.info.run_id)

    def add_metrics(
        self, run_id: str, metrics: Mapping[str, float], *, step: int, time: float
    ) -> None:
        """Add metrics to a run in any state; `time` in Unix seconds."""
        from mlflow.entities import Metric as MlflowMetric

        stamp = int(time * 1000)
        values = [MlflowMetric(key, value, stamp, step) for key, value in metrics.items()]
        for batch in batches(values, METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=batch)

    def _of_key(self, run_key: str) -> Any | None:
        """The run with this key; of several, the one with the most journal lines."""
        runs = self._runs(f"tags.{Tag.RUN_KEY} = '{run_key}'")
        return max(runs, key=lambda r: r.data.metrics.get(Metric.JOURNAL_LINE, 0), default=None)

    def _describe(self, run_id: str, spec: RunSpec) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        text = yaml.safe_dump(spec.model_dump(mode="json"))
        self.client.log_text(run_id, text, Artifact.SPEC)
        used = DatasetInput(Dataset(**data_set(spec)), [InputTag(DATA_CONTEXT, "training")])
        self.client.log_inputs(run_id, [used])
        for batch in batches(spec.flat().items(), PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=[_param(*item) for item in batch])

    def reopen(self, run_id: str, tags: dict[str, str]) -> None:
        """Set a run to running again."""
        self.client.update_run(run_id, status="RUNNING")
        self.tag(run_id, tags)

    def send(self, target: TrainingRun, lines: Sequence[Line]) -> None:
        """Store journal lines, and that the run has them, in one transaction."""
        steps = dict(target.steps)
        for line in lines:
            steps[line.kind] = max(line.step, steps.get(line.kind, 0))
        sent = target.sent + len(lines)
        self.client.log_batch(target.run_id, metrics=list(batch_metrics(lines, sent, steps)))
        target.sent, target.steps = sent, steps

    def tag(self, run_id: str, tags: dict[str, str]) -> None:
        """Set tags of a run."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def attach(self, run_id: str, path: Path) -> None:
        """Store a file with a run, if the file exists."""
        if path.exists():
            self.client.log_artifact(run_id, str(path))

    def attach_table(self, run_id: str, values: Mapping[str, Any], name: str) -> None:
        """Store names and values as a CSV file, which MLflow shows as a table."""
        with io.StringIO(newline="") as text:
            csv.writer(text).writerows([("name", "value"), *values.items()])
            self.client.log_text(run_id, text.getvalue(), name)

    def end(self, run_id: str, state: str, time: float | None = None) -> None:
        """End a run; `time` in Unix seconds, by default now."""
        stamp = None if time is None else int(time * 1000)
        self.client.set_terminated(run_id, status=MLFLOW_STATUS[state], end_time=stamp)

    def left_running(self) -> dict[str, TrainingRun]:
        """Training runs that have the status RUNNING in MLflow, by run key."""
        running = self._runs("attributes.status = 'RUNNING'")
        runs = [run for run in running if Tag.RUN_KEY in run.data.tags]
        return {run.data.tags[Tag.RUN_KEY]: TrainingRun.of(run) for run in runs}

    def write_restarts(
        self, run_id: str, name: str, folder: Path, *, restarts: Sequence[Restart]
    ) -> None:
        """Create the restarts of a run that are missing; end those that have ended.

        They are known by when they began: a journal that lost its end counts them anew.
        """
        with file_lock(folder / "mlflow.lock"):
            children = self._runs(f"tags.`{Tag.PARENT}` = '{run_id}'")
            known = {int(run.info.start_time): run.info for run in children}
            number = max((int(run.data.tags[Tag.RESTART]) for run in children), default=0)
            for restart in restarts:
                info = known.pop(int(restart.began * 1000), None)
                if info is None:
                    number += 1
                    child = self._create_restart(run_id, name, restart, number=number)
                else:
                    child = info.run_id
                if restart.state is not None and (info is None or info.status == "RUNNING"):
                    self._end_restart(child, restart)
            for lost in known.values():
                if lost.status == "RUNNING":
                    self.tag(lost.run_id, {Tag.CAUSE: "its end is missing in the journal"})
                    self.end(lost.run_id, "interrupted")

    def _create_restart(self, run_id: str, name: str, restart: Restart, *, number: int) -> str:
        tags = {Tag.PARENT: run_id, Tag.RESTART: str(number)}
        for key, value in ((Tag.ATTEMPT, restart.attempt), (Tag.WORKERS, restart.workers)):
            if value is not None:
                tags[key] = str(value)
        return self._create(Kind.RESTART, f"{name}-start-{number}", tags, time=restart.began)

    def _end_restart(self, child: str, restart: Restart) -> None:
        from mlflow.entities import Metric as MlflowMetric

        stamp = int(restart.ended * 1000)
        values = {
            Metric.FIRST_STEP: restart.first_step,
            Metric.LAST_STEP: restart.last_step,
            Metric.SECONDS: restart.ended - restart.began,
        }
        metrics = [MlflowMetric(key, float(value), stamp, 0) for key, value in values.items()]
        self.client.log_batch(child, metrics=metrics)
        self.tag(child, {Tag.CAUSE: restart.cause})
        self.end(child, str(restart.state), restart.ended)

    def _create(
        self, kind: str, name: str, tags: dict[str, str], *, time: float | None = None
    ) -> str:
        shared = {Tag.KIND: kind, Tag.STUDY: self.study, Tag.SCHEMA_VERSION: SCHEMA_VERSION}
        shared |= source_tags()
        created = self.client.create_run(
            self.experiment,
            start_time=None if time is None else int(time * 1000),
            tags={**shared, **tags},
            run_name=name,
        )
        return str(created.info.run_id)

    def _runs(self, query: str) -> list[Any]:
        runs, token = [], None
        while True:
            page = self.client.search_runs(
                [self.experiment], query, order_by=["attributes.start_time ASC"], page_token=token
            )
            runs += list(page)
            token = page.token
            if not token:
                return runs


def batch_metrics(lines: Sequence[Line], sent: int, steps: Mapping[str, int]) -> Iterator[Any]:
    """MLflow metrics of some journal lines, then what of the journal the run has with them: `sent`
    lines in all, of each kind those up to its step."""
    from mlflow.entities import Metric as MlflowMetric

    for line in lines:
        stamp = int(line.time * 1000)
        for name, value in line.values.items():
            # A number that is not finite is a string in the journal; its run is tagged diverged.
            if isinstance(value, int | float):
                yield MlflowMetric(name, float(value), stamp, line.step)
    # Each is its own step, so MLflow's latest value is the largest one.
    stamp = int(lines[-1].time * 1000)
    yield MlflowMetric(Metric.JOURNAL_LINE, sent, stamp, sent)
    for kind, step in steps.items():
        yield MlflowMetric(Metric.journal_step(kind), step, stamp, step)


def _param(key: str, value: str) -> Any:
    from mlflow.entities import Param

    return Param(key, value[:PARAM_LENGTH])
