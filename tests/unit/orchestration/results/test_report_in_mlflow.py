"""A report that is written where a study ran is with its run in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cola.records import Kind, Tag
from cola.spec.address import resolve_address
from orchestration.results.publish import store_report, summary_of
from orchestration.state.paths import OutputFolder
from orchestration.tracking.mlflow_runs import MlflowRuns
from tests.stores import new_store

REPORT = """# tiny: AR leads

A study.

> AR is better than token frequencies.

- 3 finished runs.

### Loss
![Loss](loss.png)

## Fits
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a study with a report."""
    made = OutputFolder(tmp_path).studies / "tiny"
    (made / "report" / ".cache").mkdir(parents=True)
    (made / "study.yaml").write_text(yaml.safe_dump({"name": "tiny", "tracking": {"uri": None}}))
    for name in ("report.html", "loss.png", ".cache/histories.parquet"):
        (made / "report" / name).write_text(name)
    (made / "report" / "report.md").write_text(REPORT)
    return made


def test_files_and_summary_are_on_the_studys_run(folder: Path, tmp_path: Path) -> None:
    output, notes = OutputFolder(tmp_path), list[str]()
    address = resolve_address(new_store(output.mlflow))
    store = MlflowRuns(address, "tiny", output.artifacts / "tiny")
    store.study_run(folder, {Tag.STATUS: "finished"})
    client: Any = store.client
    link = f"[all runs in a list](#/experiments/{store.experiment}/runs?"
    assert client.get_experiment(store.experiment).tags[Tag.NOTE].startswith(link)
    store_report(folder, notes.append)
    assert notes == []
    (run,) = client.search_runs([store.experiment], f"tags.{Tag.KIND} = '{Kind.STUDY}'")
    stored = {item.path for item in client.list_artifacts(run.info.run_id, "report")}
    assert stored == {"report/report.html", "report/report.md", "report/loss.png"}
    summary = (
        "**tiny: AR leads**\n\nA study.\n\n> AR is better than token frequencies.\n\n"
        "- 3 finished runs."
    )
    assert run.data.tags[Tag.NOTE] == summary
    shown = client.get_experiment(store.experiment).tags[Tag.NOTE]
    assert shown.startswith(link)
    assert shown.endswith(summary)


def test_without_a_store_none_is_made_and_the_reader_is_told(folder: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    store_report(folder, notes.append)
    assert [note.split(":")[0] for note in notes] == ["the report is not stored in MLflow"]
    assert not OutputFolder(tmp_path).mlflow.exists()


def test_what_was_fetched_or_imported_is_left_alone(folder: Path) -> None:
    notes: list[str] = []
    (folder / "fetched.json").write_text("{}")
    store_report(folder, notes.append)
    (folder / "study.yaml").unlink()
    (folder / "fetched.json").unlink()
    store_report(folder, notes.append)
    assert notes == []


def test_a_summary_ends_with_a_whole_line() -> None:
    lines = [f"- {number} {'x' * 100}" for number in range(100)]
    found = summary_of("\n".join(["# title", *lines])).splitlines()
    assert found == ["**title**", *lines[: len(found) - 1]]
    assert 30 < len(found) < 40
