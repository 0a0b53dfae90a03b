"""Results of an evaluation reach MLflow study by study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.inference.tracking import send_results
from orchestration.planning.decisions import save_plan
from orchestration.planning.plan import plan_study
from orchestration.state.paths import StudyFolder, study_folder


@pytest.mark.parametrize("damaged", ["plan.json", "study.yaml"])
def test_a_damaged_study_is_named_and_ends_nothing(
    damaged: str, tiny_study: dict[str, Any]
) -> None:
    study = StudySpec.parse(tiny_study)
    plan, folder = plan_study(study), study_folder(study)
    folder.mkdir(parents=True)
    save_plan(plan, folder)
    StudyFolder(folder).spec.write_text(study.to_yaml())
    (folder / damaged).write_text("{")
    other = folder.parent / "other"  # a study without a plan has no run
    other.mkdir()
    root = Path(study.output)
    outcome = send_results(plan[0].spec, {}, root / "evaluation.json", root=root)
    (reason,) = outcome.values()
    assert list(outcome) == [study.name]
    assert reason is not None
    assert str(folder / damaged) in reason
    assert len(reason.splitlines()) == 1
