"""What happens to each run, and the reason given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cola.checksums import write_checksums
from cola.errors import StorageError
from cola.study import StudySpec
from orchestration.checkpoint.manifest import Cursor, seal
from orchestration.driver.status import run_status
from orchestration.planning.decisions import RunDecision, decide, save_plan, saved_plan
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.shared_prefixes import prefix_key
from orchestration.state.ledger import Ledger, State
from orchestration.state.process import ProcessIdentity
from tests.factories import exported_model


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
    exported_model(ledger.run_folder(done))
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


def ended_run(
    values: dict[str, Any], root: Path, state: State, reason: str | None = None
) -> tuple[PlannedRun, Ledger]:
    """The study's first run, which ended in that state, and the ledger that has it."""
    (run, *_) = plan_study(StudySpec.parse(values))
    ledger = Ledger(root)
    ledger.acquire(run.key)
    ledger.close(run.key, state, reason)
    return run, ledger


def with_corpus(values: dict[str, Any], *paths: Path) -> dict[str, Any]:
    corpus = {"source": "files", "paths": [str(path) for path in paths]}
    return values | {"data": values["data"] | {"corpus": corpus}}


def test_a_corpus_elsewhere_is_the_same_run_and_other_content_another(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    before, after = tmp_path / "mount", tmp_path / "renamed"
    before.mkdir()
    (before / "a.txt").write_text("one text of a corpus")
    study = StudySpec.parse(with_corpus(tiny_study, before))
    plan = plan_study(study)
    save_plan(plan, tmp_path / "study")
    before.rename(after)
    moved = plan_study(StudySpec.parse(with_corpus(tiny_study, after)))
    assert [run.key for run in moved] == [run.key for run in plan]
    assert [prefix_key(run.spec, 1) for run in moved] == [prefix_key(r.spec, 1) for r in plan]
    (after / "a.txt").write_text("another text of a corpus")
    (first, *_) = decisions(with_corpus(tiny_study, after), tmp_path)
    assert first.why.startswith(
        "run again because the content of corpus or tokenizer, the order of files, or how this "
        "release packs and splits them changed "
        f"(data_fingerprint from {plan[0].spec.data_fingerprint[:12]} to "
    )
    changed = with_corpus(tiny_study, after)
    changed["data"]["corpus"]["text_field"] = "body"
    (first, *_) = decisions(changed, tmp_path)
    assert first.why == "run again because data.corpus.text_field changed from text to body"


def test_a_plan_says_that_the_newest_checkpoint_is_damaged(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    run, ledger = ended_run(tiny_study, tmp_path, "interrupted", "stopped on request")
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
    run, ledger = ended_run(tiny_study, tmp_path, "interrupted")
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / run.key).write_text("a file where the checkpoints should be")
    with pytest.raises(StorageError, match=r"checkpoint\.storage=.*cannot be read") as caught:
        decide([run], ledger, tmp_path / "study", storage=str(tmp_path / "storage"))
    assert caught.value.exit_code == 3


def test_a_finished_run_without_its_model_is_exported_again_from_a_checkpoint(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    run, ledger = ended_run(tiny_study, tmp_path, "finished")
    (first, *_) = decisions(tiny_study, tmp_path)
    assert first.action == "reuse", "no checkpoint is left: nothing expensive starts unasked"
    assert "its exported model is missing" in first.why
    assert f"remove {tmp_path}/runs/{run.key}/ledger.json" in first.why
    checkpoint = ledger.run_folder(run.key) / "ray" / "attempt-1" / "step-000000005"
    checkpoint.mkdir(parents=True)
    seal(checkpoint, Cursor(stage=0, step=5, world_size=1, zero_stage=1, elapsed_seconds=1.0), 0)
    (first, *_) = decisions(tiny_study, tmp_path)
    assert first.action == "resume"
    assert "its exported model is missing: trained again from its checkpoint of step 5" in first.why
    exported_model(ledger.run_folder(run.key))
    assert decisions(tiny_study, tmp_path)[0].why == "finished already, with the same specification"


def test_a_finished_run_whose_model_is_damaged_is_exported_again_from_a_checkpoint(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    run, ledger = ended_run(tiny_study, tmp_path, "finished")
    model = ledger.run_folder(run.key) / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(bytes(2000))
    write_checksums(model)
    assert decisions(tiny_study, tmp_path)[0].why == "finished already, with the same specification"
    assert run_status(run, ledger, None)["problem"] is None
    (model / "model.safetensors").write_bytes(bytes(1000))
    (first, *_) = decisions(tiny_study, tmp_path)
    damage = "is damaged (model.safetensors has 1,000 bytes, 2,000 were written)"
    assert first.action == "reuse", "no checkpoint is left: nothing expensive starts unasked"
    assert first.why == (
        f"finished already, but its exported model {damage} and no checkpoint is left: remove "
        f"{ledger.run_folder(run.key)}/ledger.json to train it again from its start"
    )
    status = run_status(run, ledger, None)
    assert status["state"] == "finished"
    assert f"{model}: the exported model of this finished run {damage}; `cola run` of" in str(
        status["problem"]
    )
    checkpoint = ledger.run_folder(run.key) / "ray" / "attempt-1" / "step-000000005"
    checkpoint.mkdir(parents=True)
    seal(checkpoint, Cursor(stage=0, step=5, world_size=1, zero_stage=1, elapsed_seconds=1.0), 0)
    (first, *_) = decisions(tiny_study, tmp_path)
    assert (first.action, first.why) == (
        "resume",
        f"is finished, but its exported model {damage}: trained again from its checkpoint of "
        "step 5",
    )


@pytest.mark.parametrize("name", ["ledger.json", "journal.jsonl", "outcome.json", "data.json"])
def test_a_run_with_a_folder_in_place_of_a_file_is_set_aside(
    tiny_study: dict[str, Any], tmp_path: Path, name: str
) -> None:
    run = plan_study(StudySpec.parse(tiny_study))[1]
    path = Ledger(tmp_path).run_folder(run.key) / name
    path.mkdir(parents=True)
    found = decisions(tiny_study, tmp_path)
    assert [d.action for d in found] == ["start", "set aside", "start"]
    assert str(path) in found[1].why
    assert "remove it" in found[1].why
    status = run_status(run, Ledger(tmp_path), None)
    assert (status["state"], status["reason"]) == ("unreadable", found[1].why)


def test_a_damaged_ledger_sets_its_run_alone_aside(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    run = plan_study(StudySpec.parse(tiny_study))[0]
    path = Ledger(tmp_path).run_folder(run.key) / "ledger.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"run_key": "cut')
    found = decisions(tiny_study, tmp_path)
    assert [d.action for d in found] == ["set aside", "start", "start"]
    assert found[0].why.startswith(f"{path}: ")
    assert run_status(run, Ledger(tmp_path), None)["reason"] == found[0].why


DAMAGED_PLANS = ["", "{", "[]", '{"ar/0/0": 3}', '{"ar/0/0": {"name": "x"}}', '{"a": {"name": 1}}']


@pytest.mark.parametrize("text", DAMAGED_PLANS)
def test_a_damaged_plan_keeps_nobody_from_planning(
    tiny_study: dict[str, Any], tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "study" / "plan.json"
    path.parent.mkdir()
    path.write_text(text)
    assert [d.why for d in decisions(tiny_study, tmp_path)] == ["new"] * 3
    assert f"{path}: is no" in caplog.text or f"{path}: a" in caplog.text
    with pytest.raises(StorageError, match="remove it") as caught:
        saved_plan(tmp_path / "study")
    assert str(caught.value).startswith(f"{path}: ")


def test_a_driver_that_cannot_be_seen_is_announced_by_the_age_of_its_lease(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    (run, *_) = plan_study(StudySpec.parse(tiny_study))
    there = ProcessIdentity(clock="there", namespace="there", pid=1, started=1)
    far = Ledger(tmp_path, process=there)
    far.acquire(run.key)
    (first, *_) = decisions(tiny_study, tmp_path)
    assert (first.action, far.owner in first.why) == ("busy", True)
    path = far.run_folder(run.key) / "ledger.json"
    os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    (first, *_) = decisions(tiny_study, tmp_path)
    assert first.action == "start"
    assert f"{far.owner}: whether it is, is watched for 90 s" in first.why
