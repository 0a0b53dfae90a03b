"""How an attempt ended: what its outcome on disk becomes in MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cola.records import StopCode, Tag
from cola.study import StudySpec
from orchestration.driver.attempt import closing_tags, read_outcome
from orchestration.planning.plan import plan_study
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder
from orchestration.worker.assignment import RunOutcome


@pytest.mark.parametrize("code", ["collapsed", "diverged", None])
def test_a_stop_code_reaches_mlflow(
    tiny_study: dict[str, Any], tmp_path: Path, code: StopCode | None
) -> None:
    run = plan_study(StudySpec.parse(tiny_study), "0" * 64)[0]
    ledger = Ledger(tmp_path)
    ledger.acquire(run.key)
    outcome = RunOutcome(
        attempt=1, state="diverged", reason="why", stop_code=code, step=3, order_digests={1: "d"}
    )
    RunFolder(ledger.run_folder(run.key)).outcome.write_text(outcome.model_dump_json())
    ledger.close(run.key, "diverged", "why")
    tags = closing_tags(run, ledger)
    assert tags.get(Tag.STOP_CODE) == code
    assert tags[Tag.STATUS_REASON] == "why"


def test_an_outcome_without_a_stop_code_is_read(tmp_path: Path) -> None:
    values = {"attempt": 1, "state": "diverged", "reason": "why", "step": 3, "order_digests": {}}
    RunFolder(tmp_path).outcome.write_text(json.dumps(values))
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert outcome.stop_code is None
