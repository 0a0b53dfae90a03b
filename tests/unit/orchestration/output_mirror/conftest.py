"""A finished study of one run, with an empty mirror beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.data import PreparedData
from cola.study import StudySpec
from orchestration.output_mirror.mirror import OutputMirror, mirror_of
from orchestration.planning.plan import PlannedRun, plan_study
from tests.finished import finished_study, small_study


@pytest.fixture
def study(tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path) -> StudySpec:
    """A finished study whose output has a mirror in another folder, which is empty."""
    found = small_study(tiny_study, tmp_path / "outputs")
    finished_study(found, data)
    return found.model_copy(update={"output_mirror": str(tmp_path / "mirror")})


@pytest.fixture
def mirror(study: StudySpec) -> OutputMirror:
    found = mirror_of(study, check=True)
    assert found is not None
    return found


@pytest.fixture
def run(study: StudySpec) -> PlannedRun:
    (found,) = plan_study(study)
    return found
