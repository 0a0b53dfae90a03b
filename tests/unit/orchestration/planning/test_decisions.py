"""What happens to each run, and the reason given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.errors import StorageError
from cola.study import StudySpec
from orchestration.checkpoint.manifest import Cursor, seal
from orchestration.planning.decisions import RunDecision, decide, save_plan
from orchestration.planning.plan import plan_study
from orchestration.state.ledger import Ledger


def decisions(values: dict[str, Any], root: Path) -> list[RunDecision]:
    study = StudySpec.parse(values)
    return decide(plan_study(study), Ledger(root), root / "study")


def test_each_state_has_its_action_and_reason(tiny_study: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_study(StudySpec.parse(tiny_study))
    assert [d.action for d in decisions(tiny_study, tmp_path)] == ["start"] * 3
    ledger = Ledger(tmp_path)
    done, cut, busy = (run.spec.run_key for run in plan)
    for key in (done, cut, busy):
        ledger.acquire(key)
    ledger.close(done, "finished")
    model = ledger.run_folder(done) / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    ledger.close(cut, "interrupted", "stopped on request")
    found = decisions(tiny_study, tmp_path)
    assert [d.action for d in found] == ["reuse", "start", "busy"]
    assert "starts over: no checkpoint yet (stopped on request)" in found[1].why
    checkpoint = ledger.run_folder(cut) / "ray" / "attempt-1" / "step-000000005"
    checkpoint.mkdir(parents=True)
    cursor = Cursor(stage=0, step=5, world_size=1, zero_stage=1, elapsed_seconds=1.0)
    seal(checkpoint, cursor, rank=0)
    resumed = decisions(tiny_study, tmp_path)[1]
    assert resumed.action == "resume"
    assert resumed.why == "resumes from its checkpoint (stopped on request)"
    wider = decisions(tiny_study | {"resources": {"workers": 2}}, tmp_path)[1]
    assert wider.action == "resume"
    assert wider.why == (
        "resumes from its checkpoint, resharded from 1 worker at ZeRO 1 to 2 workers at ZeRO 1 "
        "(stopped on request)"
    )
    elastic = {"workers": 2, "min_workers": 1}
    assert "resharded" not in decisions(tiny_study | {"resources": elastic}, tmp_path)[1].why
    other_stage = decisions(tiny_study | {"resources": {"zero_stage": 3}}, tmp_path)[1]
    assert "from 1 worker at ZeRO 1 to 1 worker at ZeRO 3" in other_stage.why


def test_a_changed_setting_is_named_with_both_values(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    save_plan(plan_study(StudySpec.parse(tiny_study)), tmp_path / "study")
    training = tiny_study["training"] | {"optimizer": {"learning_rate": 0.002}}
    (first, *_) = decisions(tiny_study | {"training": training}, tmp_path)
    assert first.why == (
        "run again because training.optimizer.learning_rate changed from 0.001 to 0.002"
    )


def test_a_plan_says_that_the_newest_checkpoint_is_damaged(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    (run, *_) = plan_study(StudySpec.parse(tiny_study))
    ledger = Ledger(tmp_path)
    ledger.acquire(run.key)
    ledger.close(run.key, "interrupted", "stopped on request")
    folders = {}
    for step in (5, 9):
        folders[step] = ledger.run_folder(run.key) / "ray" / "attempt-1" / f"step-{step:09d}"
        folders[step].mkdir(parents=True)
        (folders[step] / "state.bin").write_bytes(bytes(100))
        cursor = Cursor(stage=0, step=step, world_size=1, zero_stage=1, elapsed_seconds=1.0)
        seal(folders[step], cursor, rank=0)
    (folders[9] / "state.bin").write_bytes(bytes(50))
    torn = decisions(tiny_study, tmp_path)[0]
    assert torn.action == "resume"
    assert torn.why == (
        "resumes from its checkpoint of step 5, as the newest one (step 9) is damaged "
        "(stopped on request)"
    )
    (folders[5] / "state.bin").unlink()
    lost = decisions(tiny_study, tmp_path)[0]
    assert lost.action == "start"
    assert lost.why == ("starts over: every checkpoint (step 9, 5) is damaged (stopped on request)")


def test_a_storage_that_cannot_be_read_is_an_error_of_the_storage(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    (run, *_) = plan_study(StudySpec.parse(tiny_study))
    ledger = Ledger(tmp_path)
    ledger.acquire(run.key)
    ledger.close(run.key, "interrupted")
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / run.key).write_text("a file where the checkpoints should be")
    with pytest.raises(StorageError, match=r"checkpoint\.storage=.*cannot be read") as caught:
        decide([run], ledger, tmp_path / "study", storage=str(tmp_path / "storage"))
    assert caught.value.exit_code == 3
