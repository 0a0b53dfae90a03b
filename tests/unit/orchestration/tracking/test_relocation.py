"""An output folder that was moved or copied has its artifacts beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking._tracking_service import utils

from cola.records import Artifact
from cola.spec.address import resolve_address, sqlite_uri
from orchestration.state.paths import OutputFolder
from orchestration.tracking.mlflow_runs import MlflowRuns
from orchestration.tracking.relocation import local_path
from tests.stores import new_store


def open_output(root: Path, store: Path | None = None, study: str = "a-study") -> MlflowRuns:
    """The study's experiment in the output folder's store, or in another one."""
    utils._artifact_repos_cache.clear()  # by run, as if each folder were one process's
    folder = OutputFolder(root)
    address = resolve_address(sqlite_uri(store or folder.mlflow))
    return MlflowRuns(address, study, folder.artifacts / study)


def attach(runs: MlflowRuns, root: Path, text: str) -> str:
    """Give the study's run a file; the run's id."""
    (root / Artifact.STUDY).write_text("name: a-study\n")
    (root / "note.txt").write_text(text)
    run_id = runs.study_run(root, {})
    runs.attach(run_id, root / "note.txt")
    return run_id


def files(root: Path) -> dict[str, str]:
    """Artifacts below an output folder, by name."""
    return {path.name: path.read_text() for path in root.glob("mlartifacts/**/*.txt")}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder whose path has every character that addresses treat in their own way."""
    root = tmp_path_factory.mktemp("outputs") / "a%20b?q=1#h it's;s ünï\nnl%"
    new_store(OutputFolder(root).mlflow)
    attach(open_output(root), root, "first")
    return root


def test_any_path_works(written: Path) -> None:
    assert files(written) == {"note.txt": "first"}
    assert {path.name for path in written.parent.iterdir()} == {written.name}


@pytest.mark.parametrize("original", ["stays", "is gone"])
def test_a_copy_writes_into_itself(original: str, written: Path, tmp_path: Path) -> None:
    before, copied = tmp_path / "before", tmp_path / "copied #2"
    shutil.copytree(written, before)
    open_output(before)  # names its own place now
    shutil.copytree(before, copied)
    if original == "is gone":
        shutil.rmtree(before)
    runs = open_output(copied)
    run_id = attach(runs, copied, "second")
    assert files(copied) == {"note.txt": "second"}
    client: Any = runs.client
    assert client.get_run(run_id).info.artifact_uri.startswith((copied / "mlartifacts").as_uri())
    assert client.get_experiment(runs.experiment).artifact_location == (
        (copied / "mlartifacts" / "a-study").as_uri()
    )
    assert before.exists() == (original == "stays")
    if original == "stays":
        assert files(before) == {"note.txt": "first"}


def test_artifacts_of_another_folder_by_choice_stay_there(written: Path, tmp_path: Path) -> None:
    shared, other = tmp_path / "shared", tmp_path / "other"
    shutil.copytree(written, shared)
    other.mkdir()
    runs = open_output(other, store=shared / "mlflow.db", study="of-other")
    attach(runs, other, "theirs")
    open_output(shared)
    again = open_output(other, store=shared / "mlflow.db", study="of-other")
    attach(again, other, "theirs again")
    assert files(other) == {"note.txt": "theirs again"}
    assert not (shared / "mlartifacts" / "of-other").exists()


def test_places_of_this_machine() -> None:
    assert local_path("file:///a%20b/c") == Path("/a b/c")
    assert local_path("/a%20b") == Path("/a%20b")
    assert local_path("s3://bucket/a") is None
    assert local_path("mlflow-artifacts:/1") is None
    assert local_path("") is None
