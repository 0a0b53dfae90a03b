"""How an attempt ended: one line that names the cause, and where the workers' logs are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cola.records import StopCode, Tag
from cola.study import StudySpec
from orchestration.driver.attempt import closing_tags, outcome_of, read_outcome
from orchestration.planning.plan import plan_study
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder
from orchestration.trainers.ray_trainer import TrainingError
from orchestration.worker.assignment import RunOutcome


def test_a_failures_message_is_whole(tmp_path: Path) -> None:
    """Long causes are cut where they are read, so that the place of the logs is not cut off."""
    message = "rank 0: " + "x" * 300 + "; logs: one:/tmp/worker-*-100.err"
    assert outcome_of(tmp_path, TrainingError(message), attempt=1) == ("failed", message)


def test_a_foreign_errors_text_is_one_short_line(tmp_path: Path) -> None:
    state, reason = outcome_of(tmp_path, ValueError("a\n" + "b" * 1000), attempt=1)
    assert state == "failed"
    assert reason is not None
    assert reason.startswith("a bbb")
    assert len(reason) < 310


def test_no_outcome_names_the_file_the_remedy_and_the_logs(tmp_path: Path) -> None:
    state, reason = outcome_of(tmp_path, None, attempt=1)
    assert state == "failed"
    assert reason is not None
    assert reason.startswith(f"{RunFolder(tmp_path).outcome}: not written")
    assert "the same command resumes the run" in reason
    assert "; logs: worker-*.err" in reason


@pytest.mark.parametrize(
    ("written", "state"),
    [("finished", "finished"), ("diverged", "diverged"), ("stopped", "interrupted")],
)
def test_the_workers_outcome_decides(written: str, state: str, tmp_path: Path) -> None:
    outcome = RunOutcome(attempt=1, state=written, reason="why", step=3, order_digests={})
    RunFolder(tmp_path).outcome.write_text(outcome.model_dump_json())
    assert outcome_of(tmp_path, None, attempt=1) == (state, "why")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"attempt": "x"}', '{"later": 1}'])
def test_a_damaged_outcome_is_named_and_passes_for_none(tmp_path: Path, content: str) -> None:
    path = RunFolder(tmp_path).outcome
    path.write_text(content)
    assert read_outcome(tmp_path) is None
    state, reason = outcome_of(tmp_path, None, attempt=1)
    assert state == "failed"
    assert reason is not None
    assert reason.startswith(f"{path}: is not an outcome that this version reads (")
    assert "the same command resumes" in reason


def test_another_attempts_outcome_counts_for_nothing(tmp_path: Path) -> None:
    outcome = RunOutcome(attempt=1, state="finished", reason=None, step=3, order_digests={})
    RunFolder(tmp_path).outcome.write_text(outcome.model_dump_json())
    assert outcome_of(tmp_path, None, attempt=1) == ("finished", None)
    state, reason = outcome_of(tmp_path, None, attempt=2)
    assert (state, "is of attempt 1, this one is 2" in str(reason)) == ("failed", True)


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
