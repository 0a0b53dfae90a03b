"""The mirror: everything reaches MLflow once, whatever was interrupted."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from cola.errors import TrackingError
from cola.records import Artifact, Kind, Metric, Tag
from cola.spec.address import resolve_address
from cola.study import RunSpec, StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.journal import JournalReader, JournalWriter, Line
from orchestration.state.ledger import Ledger
from orchestration.tracking.mirror import (
    METRICS_PER_BATCH,
    Mirror,
    MirroredStudy,
    first_batch,
    open_mirror,
)
from orchestration.tracking.mlflow_runs import MlflowRuns, TrainingRun
from orchestration.tracking.provenance import source_tags
from tests.stores import new_store


@pytest.fixture
def run(tiny_study: dict[str, Any]) -> RunSpec:
    return plan_study(StudySpec.parse(tiny_study | {"families": ["ar"]}))[0].spec


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for all tests here."""
    return new_store(tmp_path_factory.mktemp("mlflow") / "mlflow.db")


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


def cut_in_half(journal: Path) -> int:
    """Cut the journal within a line, as a crash of the machine does; the last step that it has."""
    content = journal.read_bytes()
    middle = content.index(b"\n", len(content) // 2) - 10
    journal.write_bytes(content[:middle])
    return max(line.step for line in JournalReader(journal).new_lines())


@pytest.mark.parametrize("resumed_from", [20, 45, 90])
def test_a_journal_that_lost_its_end_loses_and_doubles_nothing(
    resumed_from: int, uri: str, run: RunSpec, tmp_path: Path
) -> None:
    study = f"shrunk-{resumed_from}"
    write(tmp_path, range(1, 101), {"attempt": 1})
    mirror_once(uri, study, run, tmp_path, "interrupted")
    assert 30 < cut_in_half(tmp_path / "journal.jsonl") < 60
    write(tmp_path, range(resumed_from + 1, 131), {"attempt": 2}, end="finished")
    mirror_once(uri, study, run, tmp_path, "finished")
    client = mirror_once(uri, study, run, tmp_path, "finished")
    expected = [(step, 1 / step) for step in range(1, 131)]
    assert history(client, study, Metric.TRAIN_LOSS) == expected
    restarts = found(client, study, Kind.RESTART)
    assert [r.data.tags[Tag.ATTEMPT] for r in restarts] == ["1", "2"]
    assert {r.info.status for r in restarts} == {"KILLED", "FINISHED"}


def test_a_journal_that_lost_a_start_of_its_workers(uri: str, run: RunSpec, tmp_path: Path) -> None:
    write(tmp_path, range(1, 11), {"attempt": 1}, end="interrupted")
    kept = (tmp_path / "journal.jsonl").read_bytes()
    write(tmp_path, range(11, 21), {"attempt": 2}, end="interrupted")
    mirror_once(uri, "lost-start", run, tmp_path, "interrupted")
    (tmp_path / "journal.jsonl").write_bytes(kept)
    write(tmp_path, range(15, 31), {"attempt": 3}, end="finished")
    client = mirror_once(uri, "lost-start", run, tmp_path, "finished")
    steps = [step for step, _ in history(client, "lost-start", Metric.TRAIN_LOSS)]
    assert steps == list(range(1, 31))
    restarts = found(client, "lost-start", Kind.RESTART)
    assert [r.data.tags[Tag.ATTEMPT] for r in restarts] == ["1", "2", "3"]
    assert [r.data.tags[Tag.RESTART] for r in restarts] == ["1", "2", "3"]


def test_kinds_of_lines_are_counted_apart(uri: str, run: RunSpec, tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "journal.jsonl")
    journal.write("train", 10, 1010.0, values={Metric.TRAIN_LOSS: 1.0})
    journal.close()
    mirror_once(uri, "kinds", run, tmp_path, "interrupted")
    journal = JournalWriter(tmp_path / "journal.jsonl")
    journal.write("evaluation", 10, 1011.0, values={Metric.NLL: 2.0})
    journal.write("tasks", 10, 1012.0, values={Metric.accuracy("obqa"): 0.5})
    journal.close()
    client = mirror_once(uri, "kinds", run, tmp_path, "finished")
    assert history(client, "kinds", Metric.NLL) == [(10, 2.0)]
    assert history(client, "kinds", Metric.accuracy("obqa")) == [(10, 0.5)]


def test_a_run_has_its_diagnostics_as_a_table_its_data_and_its_user(
    uri: str, run: RunSpec, tmp_path: Path
) -> None:
    journal = JournalWriter(tmp_path / "journal.jsonl")
    values = {Metric.diagnostic("log_snr"): 3.5, Metric.diagnostic("std"): math.inf}
    journal.write("diagnostic", 10, 1010.0, values=values)
    journal.close()
    client = mirror_once(uri, "described", run, tmp_path, "finished")
    (seen,) = found(client, "described", Kind.RUN)
    path = client.download_artifacts(seen.info.run_id, Artifact.DIAGNOSTICS, str(tmp_path))
    with Path(path).open(newline="") as file:
        rows = list(csv.reader(file))
    expected = [[Metric.diagnostic("log_snr"), "3.5"], [Metric.diagnostic("std"), "inf"]]
    assert rows == [["name", "value"], *expected]
    (used,) = seen.inputs.dataset_inputs
    assert used.dataset.digest == run.data_fingerprint[:36]
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert seen.data.tags.items() >= source_tags().items()


def test_a_run_of_a_release_that_counted_lines() -> None:
    lines = [
        Line(1, "event", 0, 0.0, {"event": "start"}),
        Line(2, "train", 5, 0.0, {"a": 1.0}),
        Line(3, "evaluation", 5, 0.0, {"b": 1.0}),
        Line(4, "train", 10, 0.0, {"a": 1.0}),
        Line(5, "evaluation", 10, 0.0, {"b": 1.0}),
    ]
    counted = TrainingRun("id", "name", 4, "RUNNING", {})
    assert [line.number for line in counted.missing(lines)] == [5]
    assert counted.steps == {"event": 0, "train": 10, "evaluation": 5}
    assert [line.number for line in TrainingRun("id", "name", 0, "RUNNING", {}).missing(lines)] == [
        2, 3, 4, 5
    ]  # fmt: skip


def test_a_run_deleted_in_mlflow_is_sent_again(uri: str, run: RunSpec, tmp_path: Path) -> None:
    write(tmp_path, range(1, 11))
    client = mirror_once(uri, "run-deleted", run, tmp_path, "finished")
    (seen,) = found(client, "run-deleted", Kind.RUN)
    client.delete_run(seen.info.run_id)
    mirror_once(uri, "run-deleted", run, tmp_path, "finished")
    assert len(history(client, "run-deleted", Metric.TRAIN_LOSS)) == 10


def test_an_experiment_deleted_in_mlflow_waits_until_it_is_restored(
    uri: str, run: RunSpec, tmp_path: Path
) -> None:
    write(tmp_path, range(1, 11))
    mirror, ledger = open_mirror(uri, "deleted", tmp_path / "artifacts"), Ledger(tmp_path)
    client = mirror._mlflow.client
    experiment = client.get_experiment_by_name("deleted").experiment_id
    client.delete_experiment(experiment)
    ledger.acquire(run.run_key)
    mirror.start(study_of(tmp_path, ledger, run.run_key))
    mirror.follow("a-run", run, tmp_path, tags={Tag.STATUS: "running"})
    ledger.close(run.run_key, "finished")
    mirror.close_run(run.run_key, "finished", {})
    assert mirror.finish(patience_seconds=2) == ["a-run"]
    assert "was deleted in MLflow; restore it" in str(mirror.trouble)
    with pytest.raises(TrackingError, match="study deleted: its experiment was deleted in MLflow"):
        open_mirror(uri, "deleted", tmp_path / "artifacts")
    client.restore_experiment(experiment)
    mirror_once(uri, "deleted", run, tmp_path, "finished")
    assert len(history(client, "deleted", Metric.TRAIN_LOSS)) == 10


def test_study_above_runs_above_restarts(uri: str, run: RunSpec, tmp_path: Path) -> None:
    write(tmp_path, range(1, 11), {"attempt": 1, "workers": 2, "pid": 1})
    write(tmp_path, range(8, 15), {"attempt": 1, "workers": 1, "pid": 2}, end="interrupted")
    mirror_once(uri, "levels", run, tmp_path, "interrupted")
    write(tmp_path, range(15, 21), {"attempt": 2, "workers": 2, "pid": 3}, end="finished")
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
    assert seen.data.metrics[Metric.JOURNAL_LINE] == 5
    assert seen.data.metrics[Metric.journal_step("train")] == 5
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
