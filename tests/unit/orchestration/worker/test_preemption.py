"""A notice that a node is taken away: the workers save a checkpoint, record why, and leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.data import prepare
from cola.errors import RunError
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.journal import JournalReader, JournalWriter
from orchestration.training.distributed import WorkerRank
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import LoopSettings, TrainState, train
from orchestration.worker import preemption
from orchestration.worker.preemption import LeaveBeforePreemption, PreemptedError


def test_a_notice_is_answered_with_a_checkpoint_and_an_error_of_the_run(
    tiny_study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder = [{"budget": 1.0e9, "core_parameters": 60_000}]
    study = StudySpec.parse(tiny_study | {"ladder": ladder, "families": {"ar": {}}})
    (run,) = plan_study(study)
    data = prepare(study.data, tmp_path / "cache")
    monkeypatch.setattr(preemption, "POLL_SECONDS", 0.0)
    notices = iter([None, None, "node a is about to be taken away"])
    saved: list[int] = []

    def save(state: TrainState) -> None:
        saved.append(state.step)

    journal = JournalWriter(tmp_path / "journal.jsonl")
    leave = LeaveBeforePreemption(lambda: next(notices), save, journal)
    settings, worker = LoopSettings(0), WorkerRank()
    with pytest.raises(PreemptedError, match="node a is about to be taken away") as caught:
        train(run.spec, data.train, TorchEngine, settings=settings, worker=worker, hooks=[leave])
    assert isinstance(caught.value, RunError)
    assert caught.value.exit_code == 6
    assert saved == [3]
    (line,) = JournalReader(tmp_path / "journal.jsonl").new_lines()
    assert (line.step, line.values["event"]) == (3, "preempted")
