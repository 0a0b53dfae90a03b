"""A finished study on a cluster that is described in the working directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cola.data import PreparedData
from cola.study import StudySpec
from tests.finished import finished_study, small_study


@pytest.fixture
def study(tiny_study: dict[str, Any], tmp_path: Path) -> StudySpec:
    """The tiny study of one family, with its output in a folder that the cluster's nodes see."""
    return small_study(tiny_study, tmp_path / "shared" / "outputs")


@pytest.fixture
def shared(
    study: StudySpec, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The shared folder of a Slurm cluster `ours` on which the study has finished."""
    shared = tmp_path / "shared"
    finished_study(study, data)
    job = shared / "cola-jobs" / "tiny"
    job.mkdir(parents=True)
    (job / "tiny.yaml").write_text(study.to_yaml())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    described = {"clusters": {"ours": {"kind": "slurm", "shared": str(shared)}}}
    Path("clusters.yaml").write_text(yaml.safe_dump(described))
    return shared
