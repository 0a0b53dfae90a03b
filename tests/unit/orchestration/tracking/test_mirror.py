"""The mirror: everything reaches MLflow once, whatever was interrupted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from cola.records import Kind, Metric, Tag
from cola.spec.address import resolve_address
from cola.study import RunSpec, StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.journal import JournalWriter, Line
from orchestration.state.ledger import Ledger
from orchestration.tracking.mirror import (
    METRICS_PER_BATCH,
    Mirror,
    MirroredStudy,
    first_batch,
    open_mirror,
)
from orchestration.tracking.mlflow_runs import MlflowRuns


@pytest.fixture
def run(tiny_study: dict[str, Any]) -> RunSpec:
    return plan_study(StudySpec.parse(tiny_study | {"families": ["ar"]}))[0].spec


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for all tests here: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def write(folder: Path, steps: range, start: dict[str, Any] | None = None, end: str = "") -> None:
    """Journal lines of these steps, at a second each; `start` and `end` are events around them."""
    journal = JournalWriter(folder / "journal.jsonl")
    if start is not None:
        journal.write("event", steps[0] - 1, 1000.0 + steps[0], values={"event": "start", **start})
    for step in steps:
        journal.write(
            "train", step, 1000.0 + step, values={Metric.TRAIN_LOSS: 1 / step, "part": step}
        )
    if end:
        journal.write("event", steps[-1], 1001.0 + steps[-1], values={"event": end})
    journal.close()


def study_of(folder: Path, ledger: Ledger, *keys: str) -> MirroredStudy:
    (folder / "study.yaml").write_text("name: a-study\n")
    return MirroredStudy(folder, ledger, keys, "http://127.0.0.1:8265")


def mirror_once(uri: str, study: str, run: RunSpec, folder: Path, state: Any) -> Any:
    """One driver: take the run, mirror it, close it."""
    mirror, ledger = open_mirror(uri, study, folder / "artifacts"), Ledger(folder)
    ledger.acquire(run.run_key)
    mirror.start(study_of(folder, ledger, run.run_key))
    mirror.follow("a-run", run, folder, tags={Tag.FAMILY: "ar", Tag.STATUS: "running"})
    ledger.close(run.run_key, state)
    mirror.close_run(run.run_key, state, {Tag.ATTEMPTS: "1"})
    assert mirror.finish(patience_seconds=60) == []
    return mirror._mlflow.client


def found(client: Any, study: str, kind: str) -> list[Any]:
    experiment = client.get_experiment_by_name(study).experiment_id
    query, order = f"tags.{Tag.KIND} = '{kind}'", ["attributes.start_time ASC"]
    return list(client.search_runs([experiment], query, order_by=order))


def history(client: Any, study: str, key: str) -> list[tuple[int, float]]:
    (run,) = found(client, study, Kind.RUN)
    metrics = client.get_metric_history(run.info.run_id, key)
    return sorted((metric.step, metric.value) for metric in metrics)


def test_a_batch_takes_whole_lines_that_fit() -> None:
    lines = [Line(n, "train", n, 0.0, {f"m{i}": 0.0 for i in range(29)}) for n in range(1, 101)]
    assert len(first_batch(lines)) == METRICS_PER_BATCH // 30  # with the line's own number
    wide = [Line(1, "train", 1, 0.0, {f"m{i}": 0.0 for i in range(2 * METRICS_PER_BATCH)})]
    assert first_batch(wide + lines) == wide
    assert first_batch([]) == []


@pytest.mark.slow
def test_every_line_once_over_several_drivers(uri: str, run: RunSpec, tmp_path: Path) -> None:
    last = METRICS_PER_BATCH + 7  # more than one batch
    write(tmp_path, range(1, last))
    client = mirror_once(uri, "once", run, tmp_path, "interrupted")
    assert len(history(client, "once", Metric.TRAIN_LOSS)) == last - 1
    # The next attempt repeats some steps, goes on, and a third driver finds nothing new.
    write(tmp_path, range(last - 20, last + 30))
    mirror_once(uri, "once", run, tmp_path, "finished")
    client = mirror_once(uri, "once", run, tmp_path, "finished")
    expected = [(step, 1 / step) for step in range(1, last + 30)]
    assert history(client, "once", Metric.TRAIN_LOSS) == expected
    (seen,) = found(client, "once", Kind.RUN)
    assert seen.info.status == "FINISHED"
    assert seen.data.tags[Tag.RUN_KEY] == run.run_key
    assert seen.data.params["training.batch_sequences"] == "8"


def test_study_above_runs_above_restarts(uri: str, run: RunSpec, tmp_path: Path) -> None:
    write(tmp_path, range(1, 11), {"attempt": 1, "workers": 2, "pid": 1})
    write(tmp_path, range(8, 15), {"attempt": 1, "workers": 1, "pid": 2}, "interrupted")
    mirror_once(uri, "levels", run, tmp_path, "interrupted")
    write(tmp_path, range(15, 21), {"attempt": 2, "workers": 2, "pid": 3}, "finished")
    client = mirror_once(uri, "levels", run, tmp_path, "finished")
    (study,) = found(client, "levels", Kind.STUDY)
    assert study.info.status == "FINISHED"
    assert study.data.metrics[Metric.runs("finished")] == 1.0
    assert study.data.metrics[Metric.runs("interrupted")] == 0.0
    assert study.data.tags[Tag.RUNS] == "1 finished"
    assert study.data.tags[Tag.RAY_DASHBOARD] == "http://127.0.0.1:8265"
    assert [file.path for file in client.list_artifacts(study.info.run_id)] == ["study.yaml"]
    (child,) = found(client, "levels", Kind.RUN)
    assert child.data.tags[Tag.PARENT] == study.info.run_id
    restarts = found(client, "levels", Kind.RESTART)
    assert {r.data.tags[Tag.PARENT] for r in restarts} == {child.info.run_id}
    assert [
        (r.data.tags[Tag.ATTEMPT], r.data.tags[Tag.WORKERS], r.data.tags[Tag.CAUSE], r.info.status)
        for r in restarts
    ] == [
        ("1", "2", "its workers were lost", "FAILED"),
        ("1", "1", "interrupted", "KILLED"),
        ("2", "2", "finished", "FINISHED"),
    ]
    firsts = [r.data.metrics[Metric.FIRST_STEP] for r in restarts]
    assert (firsts, restarts[2].data.metrics[Metric.LAST_STEP]) == ([0, 7, 14], 20)
    assert (restarts[2].info.start_time, restarts[2].info.end_time) == (1015_000, 1021_000)


def test_a_killed_driver_leaves_nothing_running(
    uri: str, run: RunSpec, tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    """A run that MLflow believes to be running, and that no driver plans any more."""
    ledger = Ledger(tmp_path)
    folder = ledger.run_folder(run.run_key)
    write(folder, range(1, 6), {"attempt": 1, "pid": 1})
    runs = MlflowRuns(resolve_address(uri), "zombie", tmp_path / "artifacts")
    place = runs.training_run(run, "a-run", folder, tags={Tag.STATUS: "running"})
    ledger.acquire(run.run_key)
    entry = ledger.entry(run.run_key)
    assert entry.lease is not None
    stale = entry.lease.model_copy(update={"refreshed": 0.0})
    ledger._write(entry.model_copy(update={"lease": stale}))
    other = plan_study(StudySpec.parse(tiny_study | {"families": ["llada"]}))[0].spec
    (tmp_path / "other").mkdir()
    mirror = Mirror(runs)
    mirror.start(study_of(tmp_path, ledger, other.run_key))
    mirror.follow("other", other, tmp_path / "other", tags={Tag.STATUS: "running"})
    mirror.close_run(other.run_key, "finished", {})
    assert mirror.finish(patience_seconds=60) == []
    seen = runs.client.get_run(place.run_id)
    assert (seen.info.status, seen.data.tags[Tag.STATUS]) == ("KILLED", "interrupted")
    assert seen.data.tags[Tag.STATUS_REASON] == "its driver died"
    assert seen.data.metrics[Metric.JOURNAL_LINE] == 6
    (restart,) = found(runs.client, "zombie", Kind.RESTART)
    assert (restart.info.status, restart.data.tags[Tag.CAUSE]) == ("KILLED", "its driver died")


class Failing:
    """Stands before a real client and refuses some batches before they reach it."""

    def __init__(self, client: Any, failures: int) -> None:
        self._client, self.left = client, failures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def log_batch(self, *arguments: Any, **named: Any) -> None:
        if self.left:
            self.left -= 1
            raise ConnectionError("server is down")
        self._client.log_batch(*arguments, **named)


def refusing(uri: str, study: str, failures: int, folder: Path, run: RunSpec) -> tuple[Mirror, Any]:
    runs = MlflowRuns(resolve_address(uri), study, folder / "artifacts")
    real = runs.client
    runs.client = Failing(real, failures)
    mirror = Mirror(runs)
    mirror.start(study_of(folder, Ledger(folder), run.run_key))
    mirror.follow("a-run", run, folder, tags={Tag.STATUS: "running"})
    mirror.close_run(run.run_key, "finished", {})
    return mirror, real


@pytest.mark.slow
def test_an_outage_loses_and_doubles_nothing(uri: str, run: RunSpec, tmp_path: Path) -> None:
    write(tmp_path, range(1, 101), {"attempt": 1})
    mirror, real = refusing(uri, "outage", 2, tmp_path, run)
    assert mirror.finish(patience_seconds=60) == []
    assert history(real, "outage", "part") == [(step, float(step)) for step in range(1, 101)]
    (seen,) = found(real, "outage", Kind.RUN)
    assert seen.data.params == run.flat()
    assert len(found(real, "outage", Kind.RESTART)) == 1


def test_what_could_not_be_sent_is_named(uri: str, run: RunSpec, tmp_path: Path) -> None:
    write(tmp_path, range(1, 11))
    mirror, _ = refusing(uri, "down", 10**9, tmp_path, run)
    assert mirror.finish(patience_seconds=1) == ["a-run"]
    assert mirror.trouble == "server is down"


def test_params_are_flat_and_complete(run: RunSpec) -> None:
    flat = run.flat()
    assert flat["model.family"] == "ar"
    assert flat["stages.0.steps"] == str(run.stages[0].steps)
    assert math.isclose(float(flat["budget"]), run.budget)
    assert not any(isinstance(value, dict | list) for value in flat.values())
