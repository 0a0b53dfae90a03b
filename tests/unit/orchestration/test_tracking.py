"""The mirror: everything reaches MLflow once, whatever was interrupted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from cola.records import Metric, Tag
from cola.spec import RunSpec, SpecError, StudySpec
from orchestration.journal import JournalWriter
from orchestration.plan import plan_study
from orchestration.tracking import LINES_PER_BATCH, Mirror, flat_params, open_mirror, redacted


@pytest.fixture
def run(tiny_study: dict[str, Any]) -> RunSpec:
    return plan_study(StudySpec.parse(tiny_study | {"families": ["ar"]}))[0].spec


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for all tests here: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def write(folder: Path, steps: range) -> None:
    journal = JournalWriter(folder / "journal.jsonl")
    for step in steps:
        journal.write("train", step, 1000.0 + step, {Metric.TRAIN_LOSS: 1 / step, "part": step})
    journal.close()


def mirror_once(uri: str, study: str, run: RunSpec, folder: Path, state: str) -> Any:
    mirror = open_mirror(uri, study, folder / "artifacts")
    mirror.start()
    mirror.follow("a-run", run, folder, {Tag.FAMILY: "ar", Tag.STATUS: "running"})
    mirror.close_run(run.run_key, state, {Tag.ATTEMPTS: "1"})
    assert mirror.finish(patience_seconds=60) == []
    return mirror._client


def history(client: Any, study: str, key: str) -> list[tuple[int, float]]:
    experiment = client.get_experiment_by_name(study).experiment_id
    (found,) = client.search_runs([experiment])
    metrics = client.get_metric_history(found.info.run_id, key)
    return sorted((metric.step, metric.value) for metric in metrics)


def test_every_line_once_over_several_drivers(uri: str, run: RunSpec, tmp_path: Path) -> None:
    last = 3 * LINES_PER_BATCH + 7
    write(tmp_path, range(1, last))
    client = mirror_once(uri, "once", run, tmp_path, "interrupted")
    assert len(history(client, "once", Metric.TRAIN_LOSS)) == last - 1
    # The next attempt repeats some steps, goes on, and a third driver finds nothing new.
    write(tmp_path, range(last - 20, last + 30))
    mirror_once(uri, "once", run, tmp_path, "finished")
    client = mirror_once(uri, "once", run, tmp_path, "finished")
    expected = [(step, 1 / step) for step in range(1, last + 30)]
    assert history(client, "once", Metric.TRAIN_LOSS) == expected
    (found,) = client.search_runs([client.get_experiment_by_name("once").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.tags[Tag.RUN_KEY] == run.run_key
    assert found.data.params["training.batch_sequences"] == "8"


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


def test_an_outage_loses_and_doubles_nothing(uri: str, run: RunSpec, tmp_path: Path) -> None:
    write(tmp_path, range(1, 101))
    mirror = Mirror(uri, "outage", tmp_path / "artifacts")
    real = mirror._client
    mirror._client = Failing(real, 2)
    mirror.start()
    mirror.follow("a-run", run, tmp_path, {Tag.STATUS: "running"})
    mirror.close_run(run.run_key, "finished", {})
    assert mirror.finish(patience_seconds=60) == []
    assert history(real, "outage", "part") == [(step, float(step)) for step in range(1, 101)]


def test_what_could_not_be_sent_is_named(uri: str, run: RunSpec, tmp_path: Path) -> None:
    write(tmp_path, range(1, 11))
    mirror = Mirror(uri, "down", tmp_path / "artifacts")
    mirror._client = Failing(mirror._client, 10**9)
    mirror.start()
    mirror.follow("a-run", run, tmp_path, {})
    mirror.close_run(run.run_key, "finished", {})
    assert mirror.finish(patience_seconds=3) == ["a-run"]
    assert mirror.trouble == "server is down"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1:9", "cannot be reached"),
        ("./mlruns", "is not a tracking store"),
        ("sqlite:////proc/nowhere/mlflow.db", "cannot be reached"),
    ],
)
def test_a_store_that_does_not_answer_is_refused(uri: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=expected):
        open_mirror(uri, "any", tmp_path)


def test_credentials_are_not_shown() -> None:
    assert redacted("https://me:secret@host:5000/x") == "https://***@host:5000/x"
    assert redacted("sqlite:////tmp/mlflow.db") == "sqlite:////tmp/mlflow.db"


def test_params_are_flat_and_complete(run: RunSpec) -> None:
    flat = flat_params(run)
    assert flat["model.family"] == "ar"
    assert flat["stages.0.steps"] == str(run.stages[0].steps)
    assert math.isclose(float(flat["budget"]), run.budget)
    assert not any(isinstance(value, dict | list) for value in flat.values())
