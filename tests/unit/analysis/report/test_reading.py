"""What was deleted in MLflow's pages is named; a moved store is read with its own artifacts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from analysis.report.report import recorded_spec
from analysis.report.runs import read_study
from analysis.report_command import report_study
from cola.errors import SpecError
from cola.records import Artifact, Kind, Tag
from cola.spec.address import sqlite_uri
from tests.unit.analysis.store import Store


class OutputStore(Store):
    """A store in an output folder, whose artifacts lie beside it."""

    def experiment(self, study: str) -> str:
        found = self.client.get_experiment_by_name(study)
        if found:
            return str(found.experiment_id)
        location = (self.folder / Artifact.FOLDER / study).as_uri()
        return str(self.client.create_experiment(study, artifact_location=location))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> OutputStore:
    return OutputStore(tmp_path_factory.mktemp("outputs"))


def test_a_moved_store_has_its_samples_and_environment(store: OutputStore, tmp_path: Path) -> None:
    store.run("moved", "ar", 0)
    expected = read_study("moved", store.uri)
    assert len(expected.samples) == 1
    copied = tmp_path / "copied %20"
    shutil.copytree(store.folder, copied)
    shutil.rmtree(store.folder / Artifact.FOLDER / "moved")
    found = read_study("moved", sqlite_uri(copied / "mlflow.db"))
    assert (found.samples, found.environment) == (expected.samples, expected.environment)
    # Where they are gone, the rest of the report is not.
    without: Any = read_study("moved", store.uri)
    assert (without.samples, without.environment, len(without.runs)) == ([], {}, 1)


def test_deleted_experiments_and_runs_are_told_from_none(store: OutputStore) -> None:
    store.experiment("empty")
    with pytest.raises(SpecError, match="holds no runs yet; run the study first"):
        read_study("empty", store.uri)
    store.run("runs-deleted", "ar", 0)
    experiment = store.experiment("runs-deleted")
    (run,) = store.client.search_runs([experiment])
    store.client.delete_run(run.info.run_id)
    with pytest.raises(SpecError, match="runs were deleted in MLflow; restore them"):
        read_study("runs-deleted", store.uri)
    store.client.delete_experiment(experiment)
    with pytest.raises(SpecError, match=f"was deleted in MLflow; .*--experiment-id {experiment}"):
        read_study("runs-deleted", store.uri)
    store.client.restore_experiment(experiment)
    store.client.restore_run(run.info.run_id)
    assert len(read_study("runs-deleted", store.uri).runs) == 1


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such file; `cola run` makes it"):
        read_study("any", sqlite_uri(tmp_path / "mlflow.db"))
    assert list(tmp_path.iterdir()) == []


def test_a_report_needs_nothing_but_the_store(
    store: OutputStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.run("elsewhere", "ar", 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"holds no such study; .*\(--tracking-uri\)"):
        report_study("elsewhere", None, None, targets=(), metrics=())
    (tmp_path / "outputs" / "sweeps" / "rates").mkdir(parents=True)
    with pytest.raises(SpecError, match=r"is a sweep of .*; `cola sweep report rates`"):
        report_study("rates", None, None, targets=(), metrics=())
    without = recorded_spec("elsewhere", read_study("elsewhere", store.uri))
    assert "MLflow has no specification" in without["description"]
    study = store.client.create_run(store.experiment("elsewhere"), tags={Tag.KIND: Kind.STUDY})
    text = "name: elsewhere\ndescription: One size.\n"
    store.client.log_text(study.info.run_id, text, Artifact.STUDY)
    report_study("elsewhere", None, store.uri, targets=(), metrics=())
    page = tmp_path / "outputs" / "studies" / "elsewhere" / "report" / "report.html"
    assert "One size." in page.read_text()
