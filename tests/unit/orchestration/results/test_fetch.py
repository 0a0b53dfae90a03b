"""What is fetched from a cluster is what is there, and opens like a local study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cola.data import PreparedData
from cola.study import StudySpec
from sweeps.cli import app
from tests.finished import finished_study


@pytest.fixture
def cluster(tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared folder of a Slurm cluster to which the tiny study was submitted, and which is
    described in the working directory."""
    shared = tmp_path / "shared"
    study = StudySpec.parse(tiny_study | {"output": str(shared / "outputs"), "families": {"ar": {}}})
    finished_study(study, data)
    job = shared / "cola-jobs" / "tiny"
    job.mkdir(parents=True)
    (job / "tiny.yaml").write_text(study.to_yaml())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    described = {"clusters": {"ours": {"kind": "slurm", "shared": str(shared)}}}
    Path("clusters.yaml").write_text(yaml.safe_dump(described))
    return shared


def cola(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_x(cluster: Path) -> None:
    print(cola("fetch", "tiny", "--cluster", "ours"))
    print(cola("fetch", "tiny", "--cluster", "ours", "--models", "--json"))
    print(cola("status", "outputs/studies/tiny/study.yaml"))
    print(cola("report", "tiny"))
    assert 0
