"""What a worker leaves behind: an attempt that was superseded leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.data import prepare
from cola.study import StudySpec
from orchestration.driver.attempt import assignment_of, read_outcome
from orchestration.planning.plan import plan_study
from orchestration.planning.shared_prefixes import PrefixPlan
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalReader, JournalWriter
from orchestration.state.ledger import LEASE_STALE_SECONDS, Ledger
from orchestration.state.paths import OutputFolder, RunFolder, output_root
from orchestration.training.distributed import WorkerRank
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import LoopSettings, train
from orchestration.worker.finish import finish
from orchestration.worker.heartbeat import Heartbeat, WorkerIdentity


@pytest.mark.parametrize("attempt", [1, 2])
def test_only_the_newest_attempt_exports_and_writes_its_outcome(
    tiny_study: dict[str, Any], attempt: int
) -> None:
    ladder = [{"budget": 1.0e9, "core_parameters": 60_000}]
    study = StudySpec.parse(tiny_study | {"ladder": ladder, "families": {"ar": {}}})
    (run,) = plan_study(study)
    root = output_root(study)
    data = prepare(study.data, OutputFolder(root).cache)
    first = Ledger(root, clock=lambda: 1e6)
    second = Ledger(root, clock=lambda: 1e6 + LEASE_STALE_SECONDS + 1)
    first.acquire(run.key)
    second.acquire(run.key)
    folder = first.run_folder(run.key)
    fence = AttemptFence(folder, attempt)
    state = train(
        run.spec, data.train, TorchEngine, settings=LoopSettings(0), worker=WorkerRank(), hooks=[]
    )
    finish(
        assignment_of(
            run,
            study,
            root,
            data_folder=data.folder,
            attempt=attempt,
            prefixes=PrefixPlan(),
            preemptible=False,
        ),
        state,
        data,
        journal=JournalWriter(RunFolder(folder).journal, fence),
        heartbeat=Heartbeat(folder, WorkerIdentity(attempt, 0, "node"), 0),
        fence=fence,
    )
    lines = list(JournalReader(RunFolder(folder).journal).new_lines())
    found = read_outcome(folder)
    if attempt == 1:
        assert (found, lines, RunFolder(folder).model.exists()) == (None, [], False)
        assert not RunFolder(folder).samples.exists()
    else:
        assert found is not None
        assert (found.attempt, found.state) == (2, "finished")
        assert lines[-1].values == {"event": "finished", "attempt": 2}
        assert (RunFolder(folder).model / "model.safetensors").exists()


def test_a_closed_ledger_does_not_fence_its_last_attempt(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.acquire("k")
    ledger.close("k", "interrupted")
    assert not AttemptFence(ledger.run_folder("k"), 1).superseded(recheck=True)
